"""What Patroni writes → model, or `MalformedPayload`. The only place that knows Patroni's formats, and
those of the keys beside them which `watcher barrier`, `watcher pause` and watchers themselves write.

Keys under `/{namespace}/{scope}/` (Patroni dcs/__init__.py) and REST bodies (Patroni api.py), as
written by Patroni 2, 3 and 4: the role was `master` before 4.0 and is `primary` since.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from watcher.decide.endpoint import check_host, parse_conn_url
from watcher.decide.errors import MalformedPayload
from watcher.decide.model import (
    ACTIVE_KEY,
    PAUSE_KEY,
    STOP_KEYS,
    ActiveWatcher,
    Config,
    Endpoint,
    Entry,
    Failover,
    Leader,
    Malformed,
    Member,
    NodeReport,
    Paused,
    Role,
    Status,
    StopRequest,
    SystemId,
    Value,
)

MAX_BYTES = 256 * 1024
"""No key or body of Patroni comes near this; larger ones are refused unread."""

_ROLES = {
    "master": Role.PRIMARY,
    "primary": Role.PRIMARY,
    "standby_leader": Role.STANDBY_LEADER,
    "replica": Role.REPLICA,
}


def read_entry(key: str, value: bytes, create_revision: int, mod_revision: int, place: str) -> Entry | None:
    """One key of etcd as an entry, its value `Malformed` where it cannot be understood.

    `key` is relative to the cluster's prefix. None for keys that mean nothing here (history, sync …).
    """
    reader = _reader_of(key)
    if reader is None:
        return None
    try:
        parsed: Value = reader(value, place)
    except MalformedPayload as error:
        parsed = Malformed(error.place, error.problem, error.hint)
    return Entry(key, parsed, create_revision, mod_revision)


def _reader_of(key: str) -> Callable[[bytes, str], Value] | None:
    if key.startswith("members/"):
        name = key.removeprefix("members/")
        return lambda value, place: read_member(name, value, place)
    if key.startswith(STOP_KEYS):
        member = key.removeprefix(STOP_KEYS)
        return lambda value, place: read_stop_request(member, value, place)
    return _READERS.get(key)


def read_leader(value: bytes, place: str) -> Leader:
    name = _text(value, place)
    if not name or len(name) > 256 or not name.isprintable():
        raise MalformedPayload(place, "is not a member's name", "see who else writes this key")
    return Leader(name)


def read_member(name: str, value: bytes, place: str) -> Member:
    if len(name) > 256 or not name.isprintable():
        raise MalformedPayload(place, "is not of a member's name", "see who else writes this key")
    data = _object(value, place)
    conn, conn_problem = _endpoint_of(data, "conn_url", place)
    proxy, proxy_problem = _endpoint_of(data, "proxy_url", place)
    api_url = data.get("api_url")
    return Member(
        name=name,
        conn=conn,
        proxy=proxy,
        api_url=api_url if isinstance(api_url, str) else None,
        role=_role(data),
        state=_line(_string(data, "state")),
        timeline=_timeline(data),
        problem="; ".join(filter(None, (conn_problem, proxy_problem))),
        position=_position(data, "xlog_location"),
        replayed=_position(data, "replay_lsn"),
        replication=_line(_string(data, "replication_state")),
        noloadbalance=_is_tagged(data, "noloadbalance"),
    )


def _position(data: Mapping[str, Any], field: str) -> int | None:
    """A place in the WAL. `xlog_location` is what a primary wrote, and what a replica received or replayed;
    `replay_lsn`, from Patroni 4.1 on, is what a replica replayed.
    """
    value = data.get(field)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64 else None


def _is_tagged(data: Mapping[str, Any], tag: str) -> bool:
    """As Patroni takes its boolean tags (tags.py): by what Python takes for true."""
    tags = data.get("tags")
    return isinstance(tags, dict) and bool(tags.get(tag))


def read_status(value: bytes, place: str) -> Status:
    """`status`, an object, or `optime/leader`, a number alone."""
    text = _text(value, place).strip()
    position = _position({"optime": int(text)} if _is_number(text) else _object(value, place), "optime")
    if position is None:
        raise MalformedPayload(place, "tells no `optime`", "see who else writes this key")
    return Status(position)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 20


def _endpoint_of(data: Mapping[str, Any], field: str, place: str) -> tuple[Endpoint | None, str]:
    url = data.get(field)
    if url is None:
        return None, ""
    if not isinstance(url, str):
        return None, f"{field} is not a text"
    try:
        return parse_conn_url(url, place), ""
    except MalformedPayload as error:
        return None, f"{field} {error.problem}"


def read_failover(value: bytes, place: str) -> Failover:
    data = _object(value, place) if value.strip() else {}
    return Failover(
        leader=_optional(data, "leader"),
        candidate=_optional(data, "member"),
        scheduled_at=_moment(_optional(data, "scheduled_at")),
    )


def read_config(value: bytes, place: str) -> Config:
    data = _object(value, place)
    return Config(
        pause=data.get("pause") is True,
        standby_cluster=isinstance(data.get("standby_cluster"), dict) and bool(data["standby_cluster"]),
        ttl=_seconds_of(data, "ttl", 30.0),
        loop_wait=_seconds_of(data, "loop_wait", 10.0),
    )


def _seconds_of(data: Mapping[str, Any], field: str, default: float) -> float:
    value = data.get(field)
    return float(value) if isinstance(value, int | float) and 0 < value < 86400 else default


def read_stop_request(member: str, value: bytes, place: str) -> StopRequest:
    data = _object(value, place)
    stop_id = _string(data, "id")
    if not 0 < len(stop_id) <= 64 or not stop_id.isprintable():
        raise MalformedPayload(place, "has no readable `id`", "see who else writes here")
    if _string(data, "member") != member:
        raise MalformedPayload(place, f"is not of member {member[:80]!r}", "see who else writes here")
    return StopRequest(stop_id, member)


def read_paused(value: bytes, place: str) -> Paused:
    """Whoever put the key wants us to keep off; what its value says is for people, and never refused."""
    try:
        data = _object(value, place)
    except MalformedPayload:
        return Paused()
    return Paused(
        by=_line(_string(data, "by")),
        why=_line(_string(data, "why")),
        since=_known(_moment(_string(data, "since"))),
    )


def read_active(value: bytes, place: str) -> ActiveWatcher:
    data = _object(value, place)
    watcher = _string(data, "watcher")
    if not 0 < len(watcher) <= 200 or not watcher.isprintable():
        raise MalformedPayload(place, "has no readable `watcher`", "see who else writes here")
    return ActiveWatcher(watcher, _line(_string(data, "name")))


def _line(text: str) -> str:
    """As much of it as a line of a log or a page holds, without control characters."""
    return "".join(char if char.isprintable() else " " for char in text)[:200].strip()


def _known(moment: float | None) -> float | None:
    return moment if moment is not None and 0 <= moment < _YEAR_9999 else None


_YEAR_9999 = 253_370_764_800.0


def read_system_id(value: bytes, place: str) -> SystemId:
    text = _text(value, place).strip()
    if len(text) > 64:
        raise MalformedPayload(place, "is not a system identifier", "see who else writes this key")
    return SystemId(text)


_READERS: Mapping[str, Callable[[bytes, str], Value]] = {
    "leader": read_leader,
    "failover": read_failover,
    "config": read_config,
    "initialize": read_system_id,
    "status": read_status,
    "optime/leader": read_status,
    PAUSE_KEY: read_paused,
    ACTIVE_KEY: read_active,
}


def read_node_report(body: bytes, api_url: str, scope: str) -> NodeReport:
    """The body of `GET /patroni`. Refused if the node belongs to another scope."""
    data = _object(body, api_url)
    patroni = data.get("patroni")
    if not isinstance(patroni, dict) or not isinstance(patroni.get("scope"), str):
        raise MalformedPayload(api_url, "the body has no patroni.scope", "is this Patroni's REST API?")
    if patroni["scope"] != scope:
        raise MalformedPayload(
            api_url,
            f"belongs to scope {patroni['scope'][:80]!r}, not {scope!r}",
            "correct the node's address in `patroni.nodes`, or `cluster.scope`",
        )
    return NodeReport(
        name=_line(_string(patroni, "name")),
        api_url=api_url,
        role=_role(data),
        state=_line(_string(data, "state")),
        timeline=_timeline(data),
        system_id=_string(data, "database_system_identifier")[:64],
        paused=data.get("pause") is True,
    )


def read_cluster_endpoints(body: bytes, api_url: str) -> dict[str, Endpoint]:
    """Member names → where their PostgreSQL listens, from the body of `GET /cluster`."""
    members = _object(body, api_url).get("members")
    if not isinstance(members, list):
        raise MalformedPayload(api_url, "the body of /cluster has no members", "is this Patroni's REST API?")
    found: dict[str, Endpoint] = {}
    for member in members:
        if isinstance(member, dict) and isinstance(member.get("host"), str):
            port = member.get("port", 5432)
            if isinstance(port, int) and not isinstance(port, bool) and 1 <= port <= 65535:
                found[_string(member, "name")] = Endpoint(check_host(member["host"], api_url), port)
    return found


# --- small readers --------------------------------------------------------------------------------


def _text(value: bytes, place: str) -> str:
    if len(value) > MAX_BYTES:
        raise MalformedPayload(place, f"{len(value)} bytes is too long", "see who else writes here")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise MalformedPayload(place, "is not UTF-8", "see who else writes here") from error


def _object(value: bytes, place: str) -> dict[str, Any]:
    text = _text(value, place)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedPayload(place, f"is not JSON: {error}", "see who else writes here") from error
    if not isinstance(data, dict):
        raise MalformedPayload(
            place, f"is a JSON {type(data).__name__}, not an object", "see who else writes here"
        )
    return data


def _string(data: Mapping[str, Any], field: str) -> str:
    value = data.get(field)
    return value if isinstance(value, str) else ""


def _optional(data: Mapping[str, Any], field: str) -> str | None:
    return _string(data, field) or None


def _moment(text: str | None) -> float | None:
    """An ISO 8601 date with its zone as seconds since the epoch; infinity for what cannot be read as one."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.timestamp() if moment.tzinfo is not None else float("inf")
    except (ValueError, OverflowError):
        return float("inf")


def _role(data: Mapping[str, Any]) -> Role:
    return _ROLES.get(_string(data, "role"), Role.OTHER)


def _timeline(data: Mapping[str, Any]) -> int | None:
    value = data.get("timeline")
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 < value < 2**32 else None
