"""`watcher status`, `history` and `healthcheck`: what a running watcher says of itself, in a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from urllib.parse import quote

import urllib3
from pydantic import TypeAdapter, ValidationError

from watcher.commands.exit_code import ExitCode
from watcher.commands.saying import say, say_error
from watcher.decide.endpoint import parse_address
from watcher.decide.errors import SettingsError, SourceError
from watcher.decide.model import Endpoint
from watcher.expose.status import (
    Cluster,
    Fleet,
    Health,
    Source,
    Status,
    Switch,
    Target,
    leader_words,
    paused_words,
    refused_words,
)
from watcher.expose.units import ago, clock, of_bytes, printable
from watcher.settings import Settings

_STATUS = "/status"
_LIMIT = 5.0
_MOST_SAID = 200
_COLOURS: dict[Health, str] = {
    "ok": "32",
    "failing": "33",
    "waiting": "33",
    "wrong": "31",
    "paused": "35",
    "unknown": "36",
}
_CODES: dict[Health, ExitCode] = {
    "ok": ExitCode.OK,
    "wrong": ExitCode.FAILED,
    "failing": ExitCode.FAILED,
    "waiting": ExitCode.UNDECIDED,
    "paused": ExitCode.UNDECIDED,
    "unknown": ExitCode.UNDECIDED,
}
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where others listen


def status(where: Endpoint, cluster: str | None, as_json: bool) -> ExitCode:
    """One look, at one cluster of several if it is named; the exit code tells how it is."""
    found = _tell(where, cluster, as_json, _status_lines, but_for_healthy=True)
    return ExitCode.FAILED if found is None else _CODES[found.health]


def history(where: Endpoint, cluster: str | None, as_json: bool) -> ExitCode:
    """The last switches, and what else happened."""
    found = _tell(where, cluster, as_json, _history_lines)
    return ExitCode.FAILED if found is None else ExitCode.OK


def healthcheck(where: Endpoint) -> ExitCode:
    """Whether it works, for what would restart it: `/livez`, in which etcd and targets have no part."""
    try:
        say(_fetch(where, "/livez").strip())
    except SourceError as error:
        say_error(error)
        return ExitCode.FAILED
    return ExitCode.OK


def _tell(
    where: Endpoint,
    cluster: str | None,
    as_json: bool,
    lines: Callable[[Status], Iterator[str]],
    but_for_healthy: bool = False,
) -> Status | Fleet | None:
    path = _STATUS if cluster is None else f"/clusters/{quote(cluster, safe='')}{_STATUS}"
    try:
        text = _fetch(where, path)
        found = _ANY.validate_json(text)
    except SourceError as error:
        say_error(error)
        return None
    except ValidationError:
        say_error(SourceError(_url(where, path), "is no watcher, or one of another version", _HINT))
        return None
    say(text.rstrip("\n") if as_json else "\n".join(_lines_of(_printable(found), lines, but_for_healthy)))
    return found


def _lines_of(
    found: Status | Fleet, lines: Callable[[Status], Iterator[str]], but_for_healthy: bool
) -> Iterator[str]:
    """Of several clusters a line each, and all there is to tell of them, or of those that are not well."""
    if isinstance(found, Status):
        yield from lines(found)
        return
    yield _coloured(found.health, found.words)
    refused = next((one for one in found.clusters if one.settings_refused_at is not None), None)
    if refused is not None and refused.settings_refused_at is not None:
        yield _coloured("failing", refused_words(refused.settings_refused_at, refused.now))
    for each in found.clusters:
        yield f"{each.cluster.name:18} {_coloured(each.health, each.health)}: {each.words}"
    for each in found.clusters:
        if each.health != "ok" or not but_for_healthy:
            yield f"\n--- {each.cluster.name}"
            yield from lines(each)


_ANY: TypeAdapter[Status | Fleet] = TypeAdapter(Status | Fleet)


def _printable(status: Status | Fleet) -> Status | Fleet:
    return type(status).model_validate(_every_text(status.model_dump()))


def _every_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _every_text(inside) for key, inside in value.items()}
    if isinstance(value, tuple | list):
        return tuple(map(_every_text, value))
    return printable(value) if isinstance(value, str) else value


_HINT = "compare `http.listen` with what the running watcher was given"


def listens_at(settings: Settings) -> Endpoint:
    """Where a watcher with these settings serves its pages, seen from its own host. Raises SettingsError."""
    if settings.http.listen is None:
        raise SettingsError("http.listen", "is null, so a running watcher serves no status", "set it")
    listen = parse_address(settings.http.listen, "http.listen")
    return Endpoint(_ANYWHERE.get(listen.host, listen.host), listen.port)


def _url(where: Endpoint, path: str) -> str:
    return f"http://{where}{path}"


def _fetch(where: Endpoint, path: str) -> str:
    url = _url(where, path)
    try:
        answer = urllib3.request("GET", url, timeout=_LIMIT, retries=False)
    except urllib3.exceptions.HTTPError as error:
        raise SourceError(
            url, f"no answer: {error}", "does `watcher run` run, with these settings?"
        ) from error
    said = answer.data.decode("utf-8", "replace")
    if answer.status != 200:
        raise SourceError(url, f"answered {answer.status}: {said.strip()[:_MOST_SAID]}", _HINT)
    return said


# --- in words -----------------------------------------------------------------------------------------


def _status_lines(status: Status) -> Iterator[str]:
    yield _coloured(status.health, status.words)
    if status.settings_refused_at is not None:
        yield _coloured("failing", refused_words(status.settings_refused_at, status.now))
    yield ""
    yield from _cluster_lines(status.cluster, status.now)
    yield ""
    for target in status.targets:
        yield from _target_lines(target, status.now)
    if status.switches:
        yield ""
        yield "last switch:"
        yield from _switch_lines(status.switches[0], status.now)


def _cluster_lines(cluster: Cluster, now: datetime) -> Iterator[str]:
    yield f"cluster {cluster.name}: {leader_words(cluster, now)}; {cluster.detail}"
    if cluster.paused is not None:
        yield f"  {paused_words(cluster.paused, now)}"
    if cluster.controller is not None:
        yield f"  this watcher {cluster.controller.words}"
    for member in cluster.members:
        lag = "" if member.lag_bytes is None else f", lag {of_bytes(member.lag_bytes)}"
        gone = "" if member.present else ", its key has gone"
        role = member.role if member.present else f"was {member.role}"
        what = f"{role:14} {member.state:12} timeline {member.timeline or '?'}"
        yield f"  {member.name:16} {what}{lag}{gone}"
    if cluster.etcd is not None:
        yield from _etcd_lines(cluster, cluster.etcd, now)
    if cluster.other_site is not None:
        yield _heard("other site", cluster.other_site, now)


def _etcd_lines(cluster: Cluster, etcd: Source, now: datetime) -> Iterator[str]:
    yield _heard("etcd", etcd, now)
    if etcd.problem is not None:
        yield f"                   {etcd.problem.problem}. What now: {etcd.problem.hint}"
    if not etcd.connected and cluster.health_check_at is not None:
        yield f"  by the nodes' own word, {ago(now, cluster.health_check_at)} ago:"
        for node in cluster.nodes:
            yield f"  {node.name or node.url:16} {node.answer}"


def _heard(name: str, source: Source, now: datetime) -> str:
    heard = "heard" if source.connected else "NOT heard"
    return f"  {name:16} {heard} at {source.place} for {ago(now, source.since)}"


def _target_lines(target: Target, now: datetime) -> Iterator[str]:
    yield f"{target.name:18} {_coloured(target.health, target.health)}: {target.words}"
    shown = "cannot be asked" if target.pgbouncer is None else ", ".join(target.pgbouncer)
    yield f"                   file {', '.join(target.file) or 'not read'}; PgBouncer {shown}"
    if target.held_since is not None:
        yield f"                   clients wait for {ago(now, target.held_since)}"
    if target.problem is not None:
        problem = target.problem
        said = "" if problem.problem in target.words else f"{problem.place}: {problem.problem}. "
        where = "" if said or problem.place == target.name else f"{problem.place}. "
        yield f"                   {said}{where}What now: {problem.hint}"


def _history_lines(status: Status) -> Iterator[str]:
    if not status.switches:
        yield "no switch since this watcher was started"
    for switch in status.switches:
        yield from _switch_lines(switch, status.now)
    yield ""
    yield "what happened:"
    for one in status.happenings:
        text = f"{clock(one.at)} UTC  {one.about}: {one.text}"
        yield _coloured("wrong", text) if one.bad else text


def _switch_lines(switch: Switch, now: datetime) -> Iterator[str]:
    to = f"{switch.leader} at {switch.endpoint}, by {switch.source}, {switch.id}"
    yield f"{clock(switch.at)} UTC ({ago(now, switch.at)} ago) to {to}"
    for target in switch.targets:
        stages = ", ".join(f"{name} {ms:.1f}" for name, ms in target.stages_ms.items())
        waited = "" if target.waited_ms is None else f", clients waited {target.waited_ms:.0f} ms"
        yield f"  {target.target:16} {target.duration_ms:.1f} ms{waited}: {stages}"
        if target.corrects:
            yield f"  {'':16} led back: {target.corrects}"


def _coloured(health: Health, text: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{_COLOURS[health]}m{text}\033[0m"
