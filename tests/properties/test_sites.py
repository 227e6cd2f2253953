"""Two sites with an etcd each, and writers that lag behind either: no block is ever led back.

What the writers know is made by the real fold of what each etcd told them, what they wish for by the real
`desired`, and whether they may write by the real fence.
"""

import random
from dataclasses import dataclass, field, replace

from tests.support.blocks import parse, rewrite
from watcher.decide.decision import Policy, ReadyBy, Standby, desired
from watcher.decide.fence import admits, stamp_over
from watcher.decide.model import (
    Actual,
    Change,
    Config,
    Deletion,
    Endpoint,
    Entry,
    Leader,
    Listing,
    Member,
    OtherSite,
    Role,
    Route,
    View,
)
from watcher.decide.view import fold

HERE, THERE = 0, 1
THERE_POLICY = Policy(ready_by=ReadyBy.LEADER_KEY, silence_limit=1e9)
POLICY = replace(THERE_POLICY, standby=Standby.OTHER_SITE, other_site=THERE_POLICY)
EMPTY = ";; [config cluster: begin]\napp = host=10.9.9.9 port=5432 dbname=app\n;; [config cluster: end]\n"
HEARS = (0, 0, 1, 2, 20, None)
"""Of how many changes one hears; None is a listing."""
WALKS, STEPS = 200, 60


@dataclass
class Site:
    """An etcd, as the list of all changes it ever had; a change's revision is its place."""

    number: int
    events: list[tuple[Entry | Deletion, ...]] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    leader: str = ""

    def put(self, key: str, value: Leader | Config | Member) -> None:
        revision = len(self.events) + 1
        known = self.entries.get(key)
        created = known.create_revision if known is not None and key != "leader" else revision
        self.entries[key] = Entry(key, value, created, revision)
        self.events.append((self.entries[key],))

    def crown(self, name: str) -> None:
        address = Endpoint(f"10.{self.number}.0.{name}", 5432)
        self.put(f"members/{name}", Member(name, address, None, None, Role.PRIMARY, "running"))
        self.put("leader", Leader(name))

    @property
    def is_standby(self) -> bool:
        value = self.entries["config"].value
        return isinstance(value, Config) and value.standby_cluster

    def config(self, standby: bool) -> None:
        self.put("config", Config(standby_cluster=standby))


@dataclass
class Knowledge:
    """Of one site by one writer: its view, and how many of the site's changes are in it."""

    view: View
    seen: int = 0


@dataclass
class Writer:
    """One watcher's worker: what it heard of either site, and its last look at the file."""

    sites: tuple[Knowledge, Knowledge]
    text: str = ""
    looked_at: float = 0.0


@dataclass(frozen=True)
class Known:
    """How much the writer of a block knew: of this site, and of the other where that is followed."""

    here: int
    there: int | None


class TwoSites:
    def __init__(self) -> None:
        self.now = 0.0
        self.etcds = (Site(HERE), Site(THERE))
        for site, standby in zip(self.etcds, (False, True), strict=True):
            site.crown("1")
            site.config(standby)
        self.file, self.by = EMPTY, Known(0, None)
        self.own: int | None = None
        self.writers = [Writer((Knowledge(View(0.0)), Knowledge(View(0.0)))) for _ in range(2)]

    def _tick(self) -> float:
        self.now += 1
        return self.now

    def leader_changes(self, site: int, name: str) -> None:
        self.etcds[site].crown(name)

    def primary_moves(self) -> None:
        for site in self.etcds:
            site.config(not site.is_standby)

    def turn(self, writer: int, looks: bool, here: int | None, there: int | None) -> None:
        """One writer hears of so many changes of each site, or lists it, perhaps looks, and goes on."""
        turning = self.writers[writer]
        if looks:
            self._look(turning)
        for site, count in ((HERE, here), (THERE, there)):
            if count is None:
                self._list(turning, site)
            else:
                self._hear(turning, site, count)
        if turning.text:
            self._write(turning)

    def _list(self, writer: Writer, site: int) -> None:
        etcd, knows = self.etcds[site], writer.sites[site]
        at = self._tick()
        listing = Listing(site + 1, len(etcd.events), tuple(etcd.entries.values()), at, at)
        knows.view, knows.seen = fold(knows.view, listing), len(etcd.events)

    def _hear(self, writer: Writer, site: int, count: int) -> None:
        etcd, knows = self.etcds[site], writer.sites[site]
        for events in etcd.events[knows.seen : knows.seen + count]:
            knows.view = fold(knows.view, Change(site + 1, events, self._tick()))
            knows.seen += 1

    def _look(self, writer: Writer) -> None:
        if writer.text != self.file:
            writer.text, writer.looked_at = self.file, self._tick()

    def _write(self, writer: Writer) -> None:
        here, there = writer.sites
        wish = desired(fold(here.view, OtherSite(there.view)), POLICY, self.now)
        block = parse(writer.text, "main", "f")
        actual = Actual(block.databases, block.stamp, writer.looked_at)
        if wish.route is None or admits(actual, wish, wish.route):
            return
        route = Route(wish.route.endpoint, stamp_over(block.stamp, wish.route), wish.route.source)
        if writer.text == self.file:  # compare and rename, one step on the host
            self._written(rewrite(self.file, "main", route, "f"), here, there if wish.at_other_site else None)
            self._look(writer)

    def _written(self, text: str, here: Knowledge, there: Knowledge | None) -> None:
        known = Known(self._chosen(here), None if there is None else self._reign(there))
        own = self._reign(here) if there is None else None
        if text != self.file:
            assert known.here >= self.by.here, "on an older word of which site to follow"
            if known.here == self.by.here and known.there is not None and self.by.there is not None:
                assert known.there >= self.by.there, "to an older leader of the other site"
            if own is not None and self.own is not None and known.here == self.by.here:
                assert own >= self.own, "to an older leader of this site"
        self.file, self.by, self.own = text, known, own

    @staticmethod
    def _chosen(knows: Knowledge) -> int:
        return knows.view.entries["config"].mod_revision

    @staticmethod
    def _reign(knows: Knowledge) -> int:
        return knows.view.entries["leader"].create_revision


def _walk(seed: int) -> None:
    draw, sites = random.Random(seed), TwoSites()  # noqa: S311 - to be repeated
    for _ in range(STEPS):
        match draw.choices(("leader", "primary", "turn"), (1, 2, 10))[0]:
            case "leader":
                sites.leader_changes(draw.randrange(2), draw.choice("12"))
            case "primary":
                sites.primary_moves()
            case _:
                sites.turn(draw.randrange(2), draw.random() < 0.5, draw.choice(HEARS), draw.choice(HEARS))


def test_no_writer_leads_a_block_back_whatever_it_has_not_heard_yet() -> None:
    for seed in range(WALKS):
        try:
            _walk(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
