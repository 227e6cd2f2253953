"""The composition root: settings → adapters → threads. Nobody else knows them all."""

from __future__ import annotations

import itertools
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import SecretStr

from watcher import settings as s
from watcher.apply.agent_link import Place
from watcher.apply.console import Console, ConsoleAccess
from watcher.apply.greetings import Greetings
from watcher.apply.holding import LOGIN_AS, Ear, Holding, Terms
from watcher.apply.local import LocalPlace
from watcher.apply.pooler import Pooler
from watcher.apply.reporting_place import ReportingPlace
from watcher.apply.ssh import SshAccess, SshPlace
from watcher.board import Board
from watcher.decide.canary import after_canary
from watcher.decide.decision import ConnectVia, desired
from watcher.decide.endpoint import parse_address
from watcher.decide.errors import AccessDenied, SourceError
from watcher.decide.model import (
    Alarm,
    Confirmed,
    Desired,
    Endpoint,
    Handover,
    Leadership,
    OtherSite,
    Sighting,
    View,
)
from watcher.decide.precedence import Standing
from watcher.decide.readiness import wanted
from watcher.decide.view import urgency
from watcher.expose.audience import Listener, everyone
from watcher.expose.calendar import Calendar
from watcher.expose.candidate import Candidate
from watcher.expose.herald import Herald
from watcher.expose.leased import Connect, OnState
from watcher.expose.logs import LogReporter
from watcher.expose.rank import Rank
from watcher.expose.window import Shown, Window
from watcher.lasting import Job, LastingThread
from watcher.mailbox import Mailbox
from watcher.observe.certificates import expiries
from watcher.observe.etcd import EtcdAccess, EtcdState, EtcdWatch
from watcher.observe.etcd_client import EtcdClient
from watcher.observe.health_probe import HealthProbe
from watcher.observe.patroni_rest import PatroniRest, RestLimits
from watcher.observe.postgres import Postgres, SqlLogin
from watcher.observe.readiness import ReadinessProbe
from watcher.observe.trust import Trust
from watcher.pace import Pace, Turn
from watcher.reconciler import Reconciler, Relief
from watcher.rush import Rush

_REREAD_LIMIT = 2.0  # seconds for the read that finds out whether a member of etcd is frozen
_TURN_LIMIT = 120.0  # seconds in which any turn of a worker ends, each of its steps being bounded
_HERALD_LIMIT = 1.5  # seconds for one of its calls: the other members of etcd are to be asked in time


class Watcher:
    """Everything that runs for one cluster, but for the watch on etcd, which a `Fleet` shares among clusters
    and which posts to `board`.

    `window` is the one of the watcher before it of the same cluster, which it goes on with. `source_ails`
    says why etcd is not listened to for it, empty if it is.
    """

    def __init__(self, settings: s.Settings, window: Window | None = None, pace: Pace | None = None) -> None:
        self.settings = settings
        self._pace = pace or Pace(settings.connect_at_once)
        self.source_ails: Callable[[], str] = lambda: ""
        self._stop = threading.Event()
        self._wake_readiness = threading.Event()
        self.board = Board(time.monotonic(), settings.replicas.max_lag, settings.etcd.silence_limit)
        self.window = window or Window(settings.cluster.name, self._names(), self._shown(), Calendar())
        self._reporter = everyone(LogReporter(settings.cluster.name, time.monotonic), self.window.listener)
        self._rank = Rank(
            settings.cluster.prefix, settings.etcd.silence_limit, self._reporter, time.monotonic
        )
        self._shared = _Shared(self._rank, self._pace, Rush(time.monotonic), Greetings(time.monotonic))
        self._herald = herald(settings, self._reporter) if settings.barrier.enabled else None
        there = settings.of_other_site()
        self._other = None if there is None else _OtherSite(there, self._reporter)
        self.board.listen(lambda view, _: self.window.viewed(view))
        self.board.listen(self._rank.viewed)
        self._workers = {target.name: self._hired(target) for target in settings.targets}
        self._leaving: list[_Worker] = []
        self._threads = [LastingThread(job, self._stop, name) for name, job in self._jobs()]

    def start(self, before: Watcher | None = None) -> None:
        """All that is known to the watcher `before` it, which was asked to stop, is known to it; but not what
        that knew of a cluster that is another one now.
        """
        if before is not None and _is_same_cluster(before.settings, self.settings):
            self._know_all_of(before)
        self._show()
        for thread in [*(worker.thread for worker in self._workers.values()), *self._threads]:
            thread.start()

    def _know_all_of(self, before: Watcher) -> None:
        if (
            self._other is not None
            and before._other is not None
            and _is_same_cluster(before._other.there, self._other.there)
        ):
            self._other.board.post(Handover(before._other.board.view, time.monotonic()))
        self.board.post(Handover(before.board.view, time.monotonic()))

    def threads_to_begin(self, anew: s.Settings | None = None) -> int:
        """How many `start` begins, or `go_on_with` where it goes on with these settings."""
        if anew is None:
            return len(self._workers) + len(self._threads)
        return len(anew.targets) - len(self._kept(anew))

    def _kept(self, settings: s.Settings) -> set[str]:
        """Targets that are left alone where these are the settings."""
        return {target.name for target in settings.targets if _serves(self._workers.get(target.name), target)}

    def go_on_with(self, settings: s.Settings) -> None:
        """The settings were read anew, and of this cluster nothing has changed but, perhaps, targets. Those
        that are as they were, and where nothing fails, are left alone, with their connections and holds.
        """
        before, self.settings, kept = self._workers, settings, self._kept(settings)
        self._leaving = [worker for worker in self._leaving if worker.thread.is_alive()]
        hired = {target.name: self._hired(target) for target in settings.targets if target.name not in kept}
        for name in before.keys() - kept:
            self._leaving.append(before[name])
            before[name].ask_to_stop(hired.get(name))
        self._workers = {name: hired.get(name) or before[name] for name in self._names()}
        self._show()
        for worker in hired.values():
            worker.thread.start()

    def _hired(self, target: s.Target) -> _Worker:
        boards = [self.board] if self._other is None else [self.board, self._other.board]
        return _Worker(target, self.settings, boards, self._reporter, self._herald, self._shared)

    def stand(self, candidate: Candidate | None) -> None:
        """Among several watchers, by this candidate from now on; None: all act."""
        self._rank.stand(candidate, self.board.view)

    def _show(self) -> None:
        """This is what is at work from now on."""
        asked = {"barrier": self._herald is not None, "other_site": self._other is not None}
        gone = tuple(source for source, is_asked in asked.items() if not is_asked)
        self.window.show(self._names(), self._shown(), gone)

    def _names(self) -> list[str]:
        return [target.name for target in self.settings.targets]

    def _shown(self) -> Shown:
        files = dict(certificate_files(self.settings))

        def wish(target: str) -> Desired:
            worker = self._workers.get(target)
            view, now = self.board.view, time.monotonic()
            policy = self.settings.policy() if worker is None else worker.policy
            leads = desired(view, policy, now, target, time.time())
            seen = None if worker is None else worker.reconciler.seen
            return after_canary(leads, seen, view, policy, now, target)

        def standing() -> Standing:
            return self._rank.standing(self.board.view)

        return Shown(lambda: self.board.view, self._ailing, lambda: expiries(files), wish, standing)

    def _ailing(self) -> str:
        """Which thread has died, or which worker has not turned for longer than any turn may take."""
        if (ails := self.source_ails()) and not self._stop.is_set():
            return ails
        workers = self._workers.values()
        threads = [*self._threads, *(worker.thread for worker in workers)]
        ailing = list(filter(None, (thread.ails for thread in threads)))
        if ailing and not self._stop.is_set():
            return "; ".join(ailing)
        since = time.monotonic() - self.settings.resync_interval - _TURN_LIMIT
        stuck = [worker.name for worker in workers if worker.reconciler.beat_at < since]
        return f"stuck: {', '.join(stuck)}" if stuck else ""

    def ask_to_stop(self, successor: Watcher | None = None) -> None:
        """Every thread ends at the end of what it is about; nothing new is begun. Holds are handed over to
        the `successor` at the same targets.
        """
        self._stop.set()
        self._wake_readiness.set()
        if self._other is not None:
            self._other.nudge()
        for name, worker in self._workers.items():
            worker.ask_to_stop(None if successor is None else successor._workers.get(name))
        if self._herald is not None:
            self._herald.nudge()

    def busy_at(self, until: float) -> list[str]:
        """Waits for every thread, which was asked to end; the names of those that have not by then."""
        workers = [*self._workers.values(), *self._leaving]
        threads = [*(worker.thread for worker in workers), *self._threads]
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return [thread.name for thread in threads if thread.is_alive()]

    def _jobs(self) -> Iterator[tuple[str, Job]]:
        policy = self.settings.policy()
        self.board.listen(
            lambda view, is_news: self._wake_readiness.set() if is_news and wanted(view, policy) else None
        )
        yield "readiness", readiness_probe(self.settings, self.board, self._wake_readiness).run
        yield "health check", health_probe(self.settings, self.board).run
        if self._other is not None:
            self._other.board.listen(lambda view, _: self.board.post(OtherSite(view)))
            yield from self._other.jobs()
        if self._herald is not None:
            yield "herald", self._herald.run

    def on_etcd(self, state: EtcdState) -> None:
        """Told of the watch that posts to `board`. Whoever runs the watch writes it to the log."""
        tell_of_etcd(self.window.listener, state)


class _OtherSite:
    """What is heard of the cluster at the other site, by the settings `there`; `board` has it. Nobody is led
    by it but through the view of this site's cluster.
    """

    def __init__(self, there: s.Settings, listener: Listener) -> None:
        self.there = there
        self._listener = listener
        self._wake = threading.Event()
        self.board = Board(time.monotonic())

    def jobs(self) -> Iterator[tuple[str, Job]]:
        there, board, policy = self.there, self.board, self.there.policy()
        board.listen(lambda view, is_news: self._wake.set() if is_news and wanted(view, policy) else None)
        yield "other site", etcd_watch(there, board.post, on_state=self._on_state).run
        yield "other site's readiness", readiness_probe(there, board, self._wake).run
        yield "other site's health check", health_probe(there, board).run

    def nudge(self) -> None:
        """So that whoever waits for something to ask notices that it shall end."""
        self._wake.set()

    def _on_state(self, state: EtcdState) -> None:
        self._listener.source_state("other_site", state.connected, state.endpoint, state.problem)


@dataclass(frozen=True, slots=True)
class _Shared:
    """By all workers of a cluster; the pace by those of all clusters."""

    rank: Rank
    pace: Pace
    rush: Rush
    greetings: Greetings


class _Worker:
    """Whoever leads one target by the settings, on a thread of his own, until he is asked to stop."""

    def __init__(
        self,
        target: s.Target,
        settings: s.Settings,
        boards: Sequence[Board],
        reporter: Listener,
        herald: Herald | None,
        shared: _Shared,
    ) -> None:
        """The first of `boards` has the view that it follows; all are told what it sees of a primary."""
        self.name = target.name
        self.mark = s.mark_of(target)
        self.policy = settings.policy(target)
        self._target = target
        self._settings = settings
        self._boards, self._board = boards, boards[0]
        self._reporter = reporter
        self._herald = herald
        self._stop = threading.Event()
        self._stopped_at = float("inf")
        self._mailbox = Mailbox(self._board.view)
        self.reconciler = self._reconciler(shared)
        self.thread = LastingThread(
            self.reconciler.run, self._stop, f"target {target.name}", self._take_back_alarms
        )
        self._board.listen(self._mailbox.put)

    def ask_to_stop(self, successor: _Worker | None = None) -> None:
        """Nothing new is begun. A hold is brought to its end, or handed over, and no barrier need wait for
        this target.
        """
        if successor is not None:
            successor.reconciler.follow(self.reconciler)
            self.reconciler.relief = successor.relieves
        self._stopped_at = time.monotonic()
        self._stop.set()
        self._mailbox.nudge()
        if self._herald is not None:
            self._herald.withdraw(self.name)

    def relieves(self) -> Relief | None:
        """It, once at work at the target; where it was asked to stop, while it holds clients, else who takes
        its own place, or that nobody does.
        """
        relief = self.reconciler.relief
        if not self._stop.is_set():
            return self.reconciler.in_place
        if self.reconciler.is_holding:
            return Relief()
        return replace(self.reconciler.in_place or Relief(), is_last=True) if relief is None else relief()

    def _take_back_alarms(self) -> None:
        self._board.leave(self._mailbox.put)
        for board in self._boards:
            for alarm in (*board.view.alarms.values(), *board.view.refusals.values()):
                is_ours = alarm.target == self.name and alarm.at <= self._stopped_at
                if is_ours and alarm.refuses:  # nobody will say so when it is over
                    board.post(replace(alarm, refuses=False, at=time.monotonic()))

    def _reconciler(self, shared: _Shared) -> Reconciler:
        settings, pace, turn = self._settings, shared.pace, Turn(self._urgency, self._stop.is_set)

        def may_log_in() -> bool:
            return pace.begin(turn)

        return Reconciler(
            pooler(settings, self._target, self._ear(), self._reporter, may_log_in, shared.greetings),
            self._mailbox,
            self.policy,
            self._reporter,
            resync_interval=settings.resync_interval,
            backoff=settings.retry.backoff(),
            clock=time.monotonic,
            random=random.random,
            wall=time.time,
            acknowledge=self._acknowledge,
            last_hold=settings.stop_limit,
            confirm=self._confirm,
            turned=lambda: pace.end(turn),
            standing=shared.rank.standing,
            patience=settings.controller.ttl,
            rush=shared.rush,
        )

    def _urgency(self) -> float:
        """Who has failed goes behind all others: hosts that hang do for ever, and no other would log in."""
        return -1.0 if self.reconciler.is_failing else urgency(self._board.view, time.monotonic())

    def _confirm(self, reign: Leadership) -> None:
        if self.name in self._settings.canary.targets:
            self._board.post(Confirmed(self.name, reign))

    def _acknowledge(self, stop_id: str | None) -> None:
        """To `watcher barrier`, which waits for those targets alone that could be held."""
        if self._herald is None or self._stop.is_set() or not self._settings.can_hold(self._target):
            return
        if stop_id is None:
            self._herald.withdraw(self.name)
        else:
            self._herald.tell(self.name, stop_id)

    def _ear(self) -> Ear:
        """What the agent beside a PgBouncer says unasked: to the board, to the worker, to the log."""

        def alarm(endpoint: Endpoint, refuses: bool, problem: str) -> None:
            told = Alarm(self.name, endpoint, refuses, time.monotonic(), problem)
            for board in () if self._stop.is_set() else self._boards:
                board.post(told)

        def reader(endpoint: Endpoint, refuses: bool, problem: str) -> None:
            told = Alarm(self.name, endpoint, refuses, time.monotonic(), problem, of_reader=True)
            if not self._stop.is_set():
                self._board.post(told)

        return Ear(
            changed=self._mailbox.nudge,
            differs=lambda: self.reconciler.look_again(),  # which is not there yet
            alarm=alarm,
            reader=reader,
            ended=self._hold_ended,
            cut=lambda count, how: self._reporter.cut(self.name, count, how),
            left=lambda databases: self._reporter.left(self.name, databases),
        )

    def _hold_ended(self, why: str, seconds: float) -> None:
        self.reconciler.hold_ended(seconds)
        self._reporter.hold_ended(self.name, why, seconds)


def _is_same_cluster(one: s.Settings, other: s.Settings) -> bool:
    """Its etcd may be another one: what that says counts as soon as it is heard."""
    return one.cluster.prefix == other.cluster.prefix


def _serves(worker: _Worker | None, target: s.Target) -> bool:
    """Whether it goes on with the target as it is now, files that are named included."""
    return worker is not None and worker.mark == s.mark_of(target) and not worker.reconciler.may_mend_anew


def tell_of_etcd(listener: Listener, state: EtcdState) -> None:
    listener.source_state("etcd", state.connected, state.endpoint, state.problem, str(state.reason))


# --- sources ---------------------------------------------------------------------------------------


def etcd_watch(
    settings: s.Settings,
    post: Callable[[Sighting], None],
    endpoints: tuple[str, ...] = (),
    on_state: Callable[[EtcdState], None] = lambda _: None,
) -> EtcdWatch:
    """The watch on the cluster's prefix; `endpoints` instead of all of the settings'."""
    return EtcdWatch(etcd_access(settings, endpoints), settings.cluster.prefix, post, on_state)


def etcd_access(settings: s.Settings, endpoints: tuple[str, ...] = ()) -> EtcdAccess:
    etcd, trust = settings.etcd, _trust(settings.etcd.tls)
    return EtcdAccess(
        endpoints=endpoints or etcd.endpoints,
        ca=trust.ca,
        certificate=trust.certificate,
        key=trust.key,
        username=etcd.username,
        password=_secret(etcd.password),
        timeout=etcd.timeout,
        reread_interval=etcd.reread_interval,
        reread_limit=min(etcd.timeout, _REREAD_LIMIT),
    )


def write_keys(settings: s.Settings, puts: Mapping[str, str], deletes: Iterable[str]) -> None:
    """At the first endpoint of etcd that takes it, all or nothing. SourceError if none does."""
    gone = tuple(deletes)
    _at_one_endpoint(settings, lambda client: client.write(puts, gone, lease=0))


def check_may_write(settings: s.Settings, keys: Iterable[str]) -> None:
    """AccessDenied if etcd does not let us write each of these; SourceError if none of its endpoints says.
    Nothing is written.
    """
    asked = tuple(keys)
    _at_one_endpoint(settings, lambda client: client.check_may_write(asked))


def _at_one_endpoint(settings: s.Settings, do: Callable[[EtcdClient], None]) -> None:
    """At the first that takes it; a refusal tells more than that another one cannot be reached."""
    access = etcd_access(settings)
    problems: list[SourceError] = []
    for endpoint in access.parsed():
        client = EtcdClient(access, endpoint, lambda: True)
        try:
            client.authenticate()
            do(client)
        except SourceError as error:
            problems.append(error)
        else:
            return
        finally:
            client.close()
    raise next((one for one in problems if isinstance(one, AccessDenied)), problems[-1])


def patroni_rest(settings: s.Settings) -> PatroniRest:
    limit = settings.patroni.timeout
    return PatroniRest(
        settings.cluster.scope, _trust(settings.patroni.tls), RestLimits(limit / 2, limit / 2, limit)
    )


def health_probe(settings: s.Settings, board: Board) -> HealthProbe:
    policy, patroni = settings.policy(), settings.patroni

    def needs_conn(name: str) -> bool:
        return policy.connect_via is ConnectVia.CONN_URL and name not in board.view.members

    def needed_in() -> float:
        heard_at = board.view.contact_at
        return 0.0 if heard_at is None else heard_at + settings.health_check_after - time.monotonic()

    return HealthProbe(
        patroni_rest(settings),
        lambda: node_urls(settings, board.view),
        board.post,
        interval=patroni.interval,
        interval_when_needed=patroni.interval_when_silent,
        needed_in=needed_in,
        needs_conn=needs_conn,
        names=lambda: {m.api_url: m.name for m in board.view.members.values() if m.api_url},
        limit=patroni.timeout,
    )


def node_urls(settings: s.Settings, view: View) -> list[str]:
    """Where nodes are asked: the settings' URLs, then those of all members that are remembered."""
    return [*settings.patroni.nodes, *(m.api_url for m in view.members.values() if m.api_url)]


def readiness_probe(
    settings: s.Settings, board: Board, wake: threading.Event | None = None
) -> ReadinessProbe:
    policy, sql = settings.policy(), settings.cluster.sql
    login = sql and SqlLogin(sql.user, _secret(sql.password), sql.database, _trust(sql.tls))
    return ReadinessProbe(
        patroni_rest(settings),
        lambda: wanted(board.view, policy),
        wake or threading.Event(),
        board.post,
        Postgres(login) if login else None,
        lambda: settings.patroni.nodes,
    )


# --- the barrier -----------------------------------------------------------------------------------


def herald(settings: s.Settings, reporter: Listener) -> Herald:
    """What tells `watcher barrier` of our targets and holds; nothing is connected yet."""
    return Herald(
        settings.cluster.prefix,
        _connect(settings, _HERALD_LIMIT),
        lambda connected, place, problem: reporter.source_state("barrier", connected, place, problem),
        ttl=settings.barrier.ttl,
    )


def candidate(settings: s.Settings, on_state: OnState) -> Candidate:
    """What asks etcd to be the active one of several watchers; nothing is connected yet."""
    controller = settings.controller
    connect = _connect(settings, controller.ttl / 2)
    return Candidate(controller.name or socket.gethostname(), connect, on_state, ttl=controller.ttl)


def _connect(settings: s.Settings, limit: float) -> Connect:
    """To the endpoints in turn; no call takes longer than `limit` seconds."""
    access = replace(etcd_access(settings), timeout=min(settings.etcd.timeout, limit))
    turn = itertools.cycle(access.parsed())
    return lambda wanted: EtcdClient(access, next(turn), wanted)


# --- targets ---------------------------------------------------------------------------------------


def pooler(
    settings: s.Settings,
    target: s.Target,
    ear: Ear | None = None,
    listener: Listener | None = None,
    may_log_in: Callable[[], bool] = lambda: True,
    greetings: Greetings | None = None,
) -> Pooler:
    """One PgBouncer as the settings describe it; nothing is connected yet. With an `ear` its clients can be
    held, where the settings let them; a `listener` hears of connections. `may_log_in` is as
    `SshPlace` has it, `greetings` are as `Holding` has them.
    """
    place = _place(target, may_log_in)
    if listener is not None:
        place = ReportingPlace(place, lambda problem: listener.connected(target.name, problem))
    return Pooler(
        place,
        file=target.file,
        block=settings.block_of(target),
        block_is_named=target.block is not None,
        console=_console(target, place) if target.console else None,
        reloads_by_command=target.reload_command is not None,
        step_limit=target.step_timeout,
        look_every=settings.resync_interval,
        replicas=settings.replicas.databases,
        holding=_holding(settings, target, place, ear, greetings)
        if ear and settings.can_hold(target)
        else None,
    )


def _holding(
    settings: s.Settings, target: s.Target, place: Place, ear: Ear, greetings: Greetings | None
) -> Holding:
    hold, sql = settings.hold_of(target), settings.cluster.sql
    terms = Terms(
        on_refusal=hold.limit if hold.on_crash else None,
        close_sessions=hold.old_connections != "leave",
        cut_after=hold.cut_after if hold.old_connections == "cut" else None,
        login_as=sql.user if sql else LOGIN_AS,
    )
    access = _console_access(target)
    return Holding(place, access, terms, target.step_timeout, ear, time.monotonic, greetings)


def _place(target: s.Target, may_log_in: Callable[[], bool]) -> Place:
    options = _agent_options(target)
    if target.ssh is None:
        return LocalPlace(target.name, options)
    ssh = target.ssh
    access = SshAccess(
        host=ssh.host,
        port=ssh.port,
        user=ssh.user,
        known_hosts=Path(ssh.known_hosts),
        key_file=_path(ssh.key_file),
        key_passphrase=_secret(ssh.key_passphrase),
        password=_secret(ssh.password),
        agent_command=ssh.agent_command,
        python=ssh.python,
        connect_timeout=ssh.connect_timeout,
    )
    return SshPlace(target.name, access, options, may_log_in)


def _agent_options(target: s.Target) -> list[str]:
    """The agent's own limit is the shorter one, so that its answer says what took so long."""
    options = ["--file", target.file, "--write", target.write, "--limit", f"{target.step_timeout * 0.8:g}"]
    if target.console is not None:
        options += ["--console", target.console.socket or str(target.console.address)]
    if target.reload_command is not None:
        options += ["--reload-command", target.reload_command]
    return options


def _console(target: s.Target, place: Place) -> Console:
    """Over SSH through the agent, so that no port need be open; locally by the socket or the port itself."""
    dial = (lambda: place.open("console")) if target.via == "ssh" else None
    return Console(target.name, _console_access(target), dial, target.step_timeout)


def _console_access(target: s.Target) -> ConsoleAccess:
    console = target.console
    assert console is not None  # noqa: S101 - the caller looked
    endpoint = parse_address(console.address, target.name) if console.address else None
    return ConsoleAccess(
        user=console.user,
        password=_secret(console.password),
        unix_socket=console.socket,
        host=endpoint.host if endpoint else None,
        port=endpoint.port if endpoint else 0,
        tls=_trust(console.tls).context() if console.tls else None,
    )


# --- small ------------------------------------------------------------------------------------------


def certificate_files(settings: s.Settings) -> Iterator[tuple[str, Path]]:
    """Every certificate that the settings name, by the place of its setting."""
    sections: list[tuple[str, s.Tls | None]] = [
        ("etcd.tls", settings.etcd.tls),
        ("patroni.tls", settings.patroni.tls),
        ("cluster.sql.tls", settings.cluster.sql.tls if settings.cluster.sql else None),
    ]
    if settings.cluster.other_site is not None:
        sections.append(("cluster.other_site.etcd.tls", settings.cluster.other_site.etcd.tls))
    sections += [
        (f"targets.{target.name}.console.tls", target.console.tls)
        for target in settings.targets
        if target.console is not None
    ]
    for place, tls in sections:
        if tls is not None:
            yield f"{place}.ca", Path(tls.ca)
            if tls.certificate is not None:
                yield f"{place}.certificate", Path(tls.certificate)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _secret(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value is not None else None


def _trust(tls: s.Tls | None) -> Trust:
    return Trust(_path(tls.ca), _path(tls.certificate), _path(tls.key)) if tls else Trust()
