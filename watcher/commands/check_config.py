"""`watcher check-config`: the settings in force, then everything that they lead to, tried, a line each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from shlex import quote

from watcher import app
from watcher.apply.pooler import Pooler, Rights
from watcher.board import Board
from watcher.commands.exit_code import ExitCode
from watcher.commands.looking import at_each_cluster, at_each_target
from watcher.commands.saying import say
from watcher.commands.unmatched import Unmatched, databases_for_reads, members_with_addresses
from watcher.decide.advice import PROMOTION, advise, of_block
from watcher.decide.decision import address, needed_role
from watcher.decide.errors import AccessDenied, WatcherError
from watcher.decide.model import (
    ACTIVE_KEY,
    OUR_KEYS,
    PAUSE_KEY,
    Actual,
    Database,
    Endpoint,
    Leadership,
    Role,
    Verdict,
    View,
)
from watcher.decide.readiness import wanted
from watcher.decide.view import config, is_empty, leadership
from watcher.expose.lobby import path_of_target
from watcher.fleet import by_namespace
from watcher.observe.etcd import EtcdWatch
from watcher.settings import Hold, Loaded, Settings, redacted


def check_config(loaded: Loaded) -> ExitCode:
    """BAD_SETTINGS on any fault; advice on PgBouncer's own settings is none. Changes nothing anywhere."""
    for line in redacted(loaded):
        say(line)
    for warning in loaded.warnings:
        say(f"warning  {warning}")
    failed: list[str] = []

    def check(settings: Settings) -> ExitCode:
        code = _check(settings)
        if code is not ExitCode.OK:
            failed.append(settings.cluster.name)
        return code

    checked = at_each_cluster(loaded.fleet, check)
    for advice in names_of_several(loaded.fleet):
        say(f"advice   {advice}")
    refused = [
        group for group in by_namespace(loaded.fleet) if len(group) > 1 and not _check_namespace(group)
    ]
    failed += [one.cluster.name for group in refused for one in group if one.cluster.name not in failed]
    if (count := len(loaded.fleet)) > 1:
        but = f"; not {', '.join(failed)}" if failed else ""
        say(f"{count - len(failed)} of {count} clusters passed{but}")
    return ExitCode.BAD_SETTINGS if refused else checked


def names_of_several(clusters: Iterable[Settings]) -> Iterator[str]:
    """A load balancer that asks for a target by its name alone takes it out where there are two."""
    named: dict[str, list[str]] = {}
    for settings in clusters:
        for target in settings.targets:
            named.setdefault(target.name, []).append(path_of_target(settings.cluster.name, target.name))
    for name, paths in named.items():
        if len(paths) > 1:
            yield f"/targets/{name} answers 409, for there are {len(paths)}: ask {' or '.join(paths)}"


def _check_namespace(clusters: Sequence[Settings]) -> bool:
    """One watch serves all of these, so it listens to more than one of them alone would."""
    settings = clusters[0]
    prefix, names = settings.cluster.namespace_prefix, [one.cluster.name for one in clusters]

    def read(endpoint: str) -> str:
        access = app.etcd_access(settings, (endpoint,))
        EtcdWatch(access, prefix, lambda _: None).read_once()
        return f"{prefix} may be read, for {len(clusters)} clusters: {', '.join(names)}"

    outcomes = [_tried(f"etcd {endpoint}", partial(read, endpoint)) for endpoint in settings.etcd.endpoints]
    return all(outcomes)


def _check(settings: Settings) -> ExitCode:
    board = Board(0.0)
    outcomes = [_check_etcd(settings, board, endpoint) for endpoint in settings.etcd.endpoints]
    outcomes += [_check_node(settings, url) for url in dict.fromkeys(app.node_urls(settings, board.view))]
    outcomes += _check_leader(settings, board)
    if board.view.contact_at is not None:
        outcomes += _check_rights_in_etcd(settings)
    if (there := settings.of_other_site()) is not None:
        outcomes += _check_other_site(there)
    ttl = config(board.view).ttl
    for place, hold in _holds(settings):
        if hold.enabled and hold.limit < ttl + PROMOTION:
            say(f"advice   {_hold_is_short(place, hold.limit, ttl)}")
    limits = {target.name: settings.hold_of(target).limit for target in settings.targets}
    leads_to = list(_where_clients_may_go(settings, board.view))
    installed = {one.name for one in settings.targets if one.ssh and one.ssh.agent_command}
    of_targets = at_each_target(
        settings,
        lambda pooler: _check_target(
            pooler, leads_to, ttl, limits[pooler.name], is_installed=pooler.name in installed
        ),
    )
    outcomes += [outcome for target in of_targets for outcome in target.outcomes]
    _warn_of_addresses("cluster.addresses", settings, board.view)
    seen = {target.name: target.actual for target in of_targets if target.actual is not None}
    _warn_of(databases_for_reads(settings.replicas.databases, seen))
    say(f"{sum(outcomes)} of {len(outcomes)} checks passed")
    return ExitCode.OK if all(outcomes) else ExitCode.BAD_SETTINGS


def _check_leader(settings: Settings, board: Board) -> list[bool]:
    """Whether clients can be led to who leads, and whether it says, as `ready_by` has it, that it takes them:
    else they would be held, and then let go.
    """
    view, policy = board.view, settings.policy()
    reign = leadership(view)
    if not isinstance(reign, Leadership) or needed_role(view, policy) is None:
        return []
    found = address(reign.name, view.members.get(reign.name), policy)

    def attempt() -> str:
        if not isinstance(found, Endpoint):
            hint = (
                "mend that before you run or reload it: clients would wait, for `hold.limit`, and then go on"
            )
            raise WatcherError("leader", f"nobody can be led there: {found}", hint)
        if (want := wanted(view, policy)) is not None:
            answer = app.readiness_probe(settings, board).look_once(want)
            if answer.verdict is not Verdict.READY:
                hint = "mend that, or `cluster.ready_by`: at each switch clients would wait for it in vain"
                raise WatcherError("leader", f"does not say that it takes clients: {answer.problem}", hint)
        return f"clients belong at {found}"

    return [_tried(f"leader {reign.name}", attempt)]


def _check_other_site(there: Settings) -> list[bool]:
    board = Board(0.0)
    outcomes = [_check_etcd(there, board, endpoint, "other site's ") for endpoint in there.etcd.endpoints]
    nodes = dict.fromkeys(app.node_urls(there, board.view))
    _warn_of_addresses("cluster.other_site.addresses", there, board.view)
    return outcomes + [_check_node(there, url, "other site's ") for url in nodes]


def _check_rights_in_etcd(settings: Settings) -> list[bool]:
    """To write what the settings ask for. `watcher pause` is not settled by any, so it is advised about."""
    outcomes = [
        _tried(f"etcd rights for {what}", partial(_may_write, settings, key))
        for what, key in _keys_to_write(settings)
    ]
    if all(outcomes):
        try:
            _may_write(settings, PAUSE_KEY)
        except WatcherError as error:
            say(f"advice   `watcher pause` and `resume` would fail: {error.problem}; {error.hint}")
    return outcomes


def _keys_to_write(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each for what it is written, and below the cluster's prefix."""
    if settings.controller.mode == "lease":
        yield "`controller.mode: lease`", ACTIVE_KEY
    if settings.barrier.enabled:
        yield "`barrier.enabled`", f"{OUR_KEYS}targets/"


def _may_write(settings: Settings, key: str) -> str:
    prefix = settings.cluster.prefix
    try:
        app.check_may_write(settings, [prefix + key])
    except AccessDenied as error:
        hint = f"etcdctl role grant-permission --prefix=true ROLE readwrite {quote(prefix + OUR_KEYS)}"
        raise WatcherError(error.place, f"may not write {prefix}{key}: {error.problem}", hint) from error
    return f"may write {prefix}{key}"


def _warn_of_addresses(place: str, settings: Settings, view: View) -> None:
    """Where etcd was heard, and the addresses count."""
    addresses = settings.policy().addresses
    if view.members and addresses:
        _warn_of(members_with_addresses(place, addresses, view.members))


def _warn_of(found: Iterable[Unmatched]) -> None:
    for one in found:
        say(f"warning  {one}")


def _holds(settings: Settings) -> Iterator[tuple[str, Hold]]:
    """Each that counts for a target, by its place."""
    for group in dict.fromkeys(target.group for target in settings.targets):
        if group is None:
            yield "hold", settings.hold
        else:
            yield f"groups.{group}.hold", settings.groups[group].hold


def _hold_is_short(place: str, limit: float, ttl: float) -> str:
    wanted = ttl + PROMOTION
    why = "in a crash clients are let go before Patroni can have a new primary, and meet none"
    return f"{place}.limit is {limit:g}, better {wanted:g} or more: {why} (ttl {ttl:g} s, and the promotion)"


def _tried(subject: str, attempt: Callable[[], str]) -> bool:
    """One line: what was tried, and what came of it."""
    try:
        say(f"ok       {subject}: {attempt()}")
    except WatcherError as error:
        hint = f"\n         HINT: {error.hint}" if error.hint else ""
        say(f"FAULT    {subject}: {_problem(subject, error)}{hint}")
        return False
    return True


def _problem(subject: str, error: WatcherError) -> str:
    """With the error's place where that tells more than the subject does: a file and its line."""
    _, _, place = error.place.partition(" ")
    return f"{place}: {error.problem}" if place and place not in subject else error.problem


def _check_etcd(settings: Settings, board: Board, endpoint: str, whose: str = "") -> bool:
    def attempt() -> str:
        board.post(app.etcd_watch(settings, board.post, endpoints=(endpoint,)).read_once())
        return _leader_in(board.view)

    return _tried(f"{whose}etcd {endpoint}", attempt)


def _leader_in(view: View) -> str:
    reign = leadership(view)
    if isinstance(reign, Leadership):
        return f"{reign.name} leads since revision {reign.create_revision}"
    if reign is not None:
        raise WatcherError(reign.place, reign.problem, reign.hint)
    if not is_empty(view):
        raise WatcherError("etcd", "it answers, but nobody leads", "patronictl list tells more")
    hint = "compare `cluster.scope` and `cluster.namespace` with Patroni's configuration"
    raise WatcherError("etcd", "it answers, but holds no key of this cluster", hint)


def _check_node(settings: Settings, url: str, whose: str = "") -> bool:
    def attempt() -> str:
        node = app.patroni_rest(settings).report(url)
        return f"{node.name} is {node.role}, {node.state}"

    return _tried(f"{whose}Patroni {url}", attempt)


@dataclass(frozen=True, slots=True)
class _Checked:
    """What came of the checks of one target, and what it showed, None where its file cannot be read."""

    name: str
    outcomes: list[bool]
    actual: Actual | None


def _where_clients_may_go(settings: Settings, view: View) -> Iterator[Endpoint]:
    """Each member's own address that is known: who does not lead may lead tomorrow, or serve reads."""
    policy = settings.policy()
    found = (address(name, member, policy) for name, member in view.members.items())
    known = [*policy.addresses.values(), *(one for one in found if isinstance(one, Endpoint))]
    yield from dict.fromkeys(known)


def _check_target(
    pooler: Pooler, leads_to: Sequence[Endpoint], ttl: float, hold_limit: float, *, is_installed: bool
) -> _Checked:
    """Connection and host key, file and marker, console, rights: each only where the one before held."""
    seen: list[Actual] = []

    def file() -> str:
        actual = pooler.read()
        seen.append(actual)
        return f"reached; the block holds {', '.join(map(_line, actual.databases))}"

    def console() -> str:
        actual = pooler.read()
        if actual.console_problem is not None:
            raise actual.console_problem
        if actual.shown is None:
            return "none; a reload will not be confirmed"
        return f"answers and shows {len(actual.shown)} databases"

    outcomes = [_tried(f"target {pooler.name} file", file)]
    if outcomes[0]:
        outcomes += [
            _tried(f"target {pooler.name} console", console),
            _check_rights(pooler, leads_to, is_installed),
        ]
        if outcomes[1]:
            _warn_of_route(pooler.name, seen[-1])
            _advise_target(pooler, ttl, hold_limit)
    return _Checked(pooler.name, outcomes, seen[0] if seen else None)


def _check_rights(pooler: Pooler, leads_to: Sequence[Endpoint], is_installed: bool) -> bool:
    granted: list[Rights] = []

    def rights() -> str:
        granted.append(pooler.check_rights(leads_to))
        return "may replace the file and make PgBouncer reload"

    is_right = _tried(f"target {pooler.name} rights", rights)
    for one in granted:
        _warn_of_agents_line(pooler.name, one, is_installed)
    return is_right


def _warn_of_agents_line(target: str, granted: Rights, is_installed: bool) -> None:
    line = "this key's line of authorized_keys"
    if granted.other_file is not None:
        say(
            f"warning  target {target}: the agent there reads and writes {granted.other_file}, which is not"
            f" `targets.file`: correct that, or `--file` in {line}"
        )
    if is_installed and not granted.is_bounded:
        say(
            f"advice   target {target}: whoever has its key may write any text, and say anything to"
            f" PgBouncer's console: add `--block`, and `--allow` for each member, to {line}"
        )
    elif is_installed and granted.allows_any_address:
        say(
            f"advice   target {target}: whoever has its key may lead clients to any address: add `--allow`"
            f" for each member to {line}"
        )


def _warn_of_route(target: str, actual: Actual) -> None:
    """Where PgBouncer shows another route than its file has: amid a switch, or as it reads another one."""
    shown = {row.name: Endpoint(row.host or "", row.port) for row in actual.shown or ()}
    for database in actual.databases:
        there = shown.get(database.name)
        if actual.shown is not None and database.name != "*" and there != database.endpoint:
            found = "does not show it" if there is None else f"shows {there}"
            say(
                f"warning  target {target}: the block leads {database.name} to {database.endpoint}, and"
                f" PgBouncer {found}: a reload is due, or it reads another file"
            )


def _line(database: Database) -> str:
    return f"{database.name}{' (for reads)' if database.role is Role.REPLICA else ''} → {database.endpoint}"


def _advise_target(pooler: Pooler, ttl: float, hold_limit: float) -> None:
    """What would help in a failover: a line each, and no fault, for a watcher works without it too."""
    subject = f"target {pooler.name}"
    try:
        actual, tuning = pooler.read(), pooler.tuning()
    except WatcherError as error:
        say(f"advice   {subject}: none, its settings cannot be read: {_problem(subject, error)}")
        return
    if tuning is not None:
        for advice in advise(*tuning, of_block(actual), ttl, hold_limit):
            say(f"advice   {subject}: {advice}")
