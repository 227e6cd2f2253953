"""What an older view of the cluster may not undo."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.blocks import parse, rewrite
from watcher.decide.decision import plan
from watcher.decide.errors import Fenced
from watcher.decide.fence import UNREADABLE, admits, learns, stamp_over, writer_of
from watcher.decide.model import Actual, Desired, Endpoint, Reason, Route, Source, Stamp, Write

OLD = Stamp(cluster_id=0xA, system_id="700", revision=10, timeline=3, leader="old")
NEW = replace(OLD, leader="new")
READ_AT = 100.0


def actual(stamp: Stamp | None) -> Actual:
    return Actual((), stamp, READ_AT)


def verdict(
    stamp: Stamp | None, new: Stamp, *, proven_at: float | None = None, source: Source = Source.ETCD
) -> str:
    route = Route(Endpoint("10.0.0.1", 5432), new, source)
    return admits(actual(stamp), Desired(Reason.LEADER, "", route, proven_at=proven_at), route)


BY_ETCD: list[tuple[str, Stamp | None, Stamp, float | None, bool]] = [
    ("no stamp yet", None, NEW, None, True),
    ("the same reign", OLD, OLD, None, True),
    ("a newer reign", OLD, replace(NEW, revision=11), None, True),
    ("an older reign", OLD, replace(NEW, revision=9), None, False),
    ("an older reign, proven before the look", OLD, replace(NEW, revision=9), 99.0, False),
    ("an older reign, proven in the same instant", OLD, replace(NEW, revision=9), READ_AT, False),
    ("an older reign, proven after the look", OLD, replace(NEW, revision=9), 100.1, True),
    ("another etcd", OLD, replace(NEW, cluster_id=0xB, revision=99), None, False),
    ("another etcd, proven before the look", OLD, replace(NEW, cluster_id=0xB, revision=99), 99.0, False),
    ("another etcd, proven after the look", OLD, replace(NEW, cluster_id=0xB, revision=1), 100.1, True),
    ("over a fallback that knew no etcd", replace(OLD, cluster_id=0, revision=0), NEW, None, False),
    ("over a fallback, proven", replace(OLD, cluster_id=0, revision=0), NEW, 100.1, True),
    ("over a stamp that cannot be read", UNREADABLE, replace(NEW, revision=2**62), None, False),
    ("over a stamp that cannot be read, proven", UNREADABLE, NEW, 100.1, True),
    ("a site chosen since", replace(OLD, site=5), replace(NEW, site=6), None, True),
    ("a site chosen before", replace(OLD, site=5), replace(NEW, revision=11, site=4), None, False),
    ("a site chosen before, proven", replace(OLD, site=5), replace(NEW, revision=11, site=4), 100.1, True),
    (
        "the timeline is etcd's affair",
        replace(OLD, timeline=9),
        replace(NEW, revision=11, timeline=1),
        None,
        True,
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "proven_at", "admitted"), [row[1:] for row in BY_ETCD], ids=[row[0] for row in BY_ETCD]
)
def test_etcds_word_against_the_block(
    old: Stamp | None, new: Stamp, proven_at: float | None, admitted: bool
) -> None:
    assert (verdict(old, new, proven_at=proven_at) == "") is admitted


def test_a_refusal_names_both_reigns() -> None:
    said = verdict(OLD, replace(NEW, revision=9))
    for word in ("'old'", "revision 10", "'new'", "revision 9", "cluster a"):
        assert word in said


def test_a_refusal_names_the_choice_of_site_where_there_is_one() -> None:
    said = verdict(replace(OLD, site=5), replace(NEW, revision=11))
    assert "'old' at revision 10 of etcd cluster a, by this site's word of revision 5; we know" in said
    assert said.endswith("'new' at revision 11 of etcd cluster a")


def test_a_refusal_names_the_health_check() -> None:
    said = verdict(replace(OLD, cluster_id=0, revision=0), NEW)
    assert "for 'old' by the health check" in said


BY_HEALTH_CHECK: list[tuple[str, Stamp | None, Stamp, str]] = [
    ("no stamp yet", None, NEW, ""),
    ("the same leader on the same timeline", OLD, OLD, ""),
    ("the same leader on a newer timeline", OLD, replace(OLD, timeline=4), ""),
    ("the same leader on an older timeline", OLD, replace(OLD, timeline=2), "on timeline 2, the block on 3"),
    ("another leader on the same timeline", OLD, NEW, "is on timeline 3, the block on 3 of 'old'"),
    ("a newer timeline", OLD, replace(NEW, timeline=4), ""),
    ("an older timeline", OLD, replace(NEW, timeline=2), "is on timeline 2, the block on 3"),
    ("no timeline told", OLD, replace(NEW, timeline=None), "does not tell its timeline"),
    ("the block has none, and the same leader", replace(OLD, timeline=None), OLD, ""),
    (
        "the block has none, and another leader",
        replace(OLD, timeline=None),
        NEW,
        "that of 'old' in the block is not",
    ),
    (
        "another PostgreSQL cluster",
        OLD,
        replace(NEW, system_id="701"),
        "has system identifier 701, the block 700",
    ),
    ("its system is not told", OLD, replace(NEW, system_id="", timeline=4), ""),
    ("the block has no system", replace(OLD, system_id=""), replace(NEW, timeline=4), ""),
    ("a stamp that cannot be read", UNREADABLE, NEW, "the stamp of the block cannot be read"),
]


@pytest.mark.parametrize(
    ("old", "new", "problem"), [row[1:] for row in BY_HEALTH_CHECK], ids=[row[0] for row in BY_HEALTH_CHECK]
)
def test_the_health_checks_word_against_the_block(old: Stamp | None, new: Stamp, problem: str) -> None:
    said = verdict(old, new, source=Source.HEALTH_CHECK, proven_at=1e9)
    assert (problem in said) if problem else said == ""


OVER: list[tuple[str, Stamp | None, Stamp, Source, Stamp]] = [
    ("no stamp yet", None, NEW, Source.ETCD, NEW),
    ("etcd says all", OLD, NEW, Source.ETCD, NEW),
    ("a new reign's timeline is taken", OLD, replace(NEW, revision=11, timeline=2), Source.ETCD,
     replace(NEW, revision=11, timeline=2)),
    ("a reign's timeline never falls", OLD, replace(OLD, timeline=2), Source.ETCD, OLD),
    ("a reign's timeline rises", OLD, replace(OLD, timeline=4), Source.ETCD, replace(OLD, timeline=4)),
    ("one that is not told is not another's", OLD, replace(NEW, revision=11, timeline=None), Source.ETCD,
     replace(NEW, revision=11, timeline=None)),
    ("nor the same leader's in another reign", OLD, replace(OLD, revision=11, timeline=None), Source.ETCD,
     replace(OLD, revision=11, timeline=None)),
    ("nor that of another etcd", OLD, replace(OLD, cluster_id=0xB, timeline=2), Source.ETCD,
     replace(OLD, cluster_id=0xB, timeline=2)),
    ("of the same reign it is kept", OLD, replace(OLD, timeline=None), Source.ETCD, OLD),
    ("nobody knows that of the reign", replace(OLD, timeline=None), replace(OLD, timeline=None), Source.ETCD,
     replace(OLD, timeline=None)),
    ("nobody knows a timeline", replace(OLD, timeline=None), replace(NEW, timeline=None), Source.ETCD,
     replace(NEW, timeline=None)),
    ("a system that is not told is kept", OLD, replace(NEW, system_id=""), Source.ETCD, NEW),
    ("another system keeps nothing", OLD, replace(NEW, system_id="701", timeline=None), Source.ETCD,
     replace(NEW, system_id="701", timeline=None)),
    ("the health check keeps no revision of etcd's", OLD, Stamp(0, "700", 0, 4, "new"), Source.HEALTH_CHECK,
     Stamp(0, "700", 0, 4, "new")),
    ("the health check over nothing", None, Stamp(0, "700", 0, 4, "new"), Source.HEALTH_CHECK,
     Stamp(0, "700", 0, 4, "new")),
    ("over what cannot be read nothing is kept", UNREADABLE, replace(NEW, timeline=None), Source.ETCD,
     replace(NEW, timeline=None)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "source", "wanted"), [row[1:] for row in OVER], ids=[row[0] for row in OVER]
)
def test_the_stamp_that_is_written(old: Stamp | None, new: Stamp, source: Source, wanted: Stamp) -> None:
    assert stamp_over(old, Route(Endpoint("h", 1), new, source)) == wanted


# --- two watchers and a history -----------------------------------------------------------------------
#
# An etcd whose leaders change, whose backup may be restored, and watchers that hear of it late, look at
# the file late and write late, in any order. A write is carried out only over the text that was read.


@dataclass(frozen=True)
class Reign:
    cluster_id: int
    revision: int
    began_at: int


@dataclass
class Watcher:
    wish: Desired | None = None
    seen: Actual | None = None
    text: str = ""


class History:
    """Time goes on by one with each event. `truth` is every reign in its order, the present one last."""

    def __init__(self) -> None:
        self.now = 0
        self.truth = [Reign(1, 5, 0)]
        self.text = ";; [config cluster: begin]\na = host=h\n;; [config cluster: end]\n"
        self.watchers = [Watcher(), Watcher()]

    def elect(self) -> None:
        last = self.truth[-1]
        self.truth.append(Reign(last.cluster_id, last.revision + 3, self.now))

    def restore(self, new_cluster: int) -> None:
        """A backup: lower revisions, with a new cluster id or the same."""
        last = self.truth[-1]
        self.truth.append(Reign(last.cluster_id + new_cluster, max(1, last.revision - 7), self.now))

    def hear(self, who: int, back: int) -> None:
        """An event, of a reign that may be over for long; it proves nothing."""
        self._wish(who, self.truth[max(0, len(self.truth) - 1 - back)], None)

    def list_keys(self, who: int) -> None:
        """A linearizable read: it began a moment ago and shows the present reign."""
        self._wish(who, self.truth[-1], self.now - 0.5)

    def _wish(self, who: int, reign: Reign, proven_at: float | None) -> None:
        host = f"{reign.cluster_id}-{reign.revision}-{reign.began_at}"
        route = Route(Endpoint(host, 5432), Stamp(reign.cluster_id, "7", reign.revision, None, host))
        self.watchers[who].wish = Desired(Reason.LEADER, "", route, proven_at=proven_at)

    def follow(self, who: int, back: int) -> None:
        self.hear(who, back)
        self.look_and_write(who)

    def look_and_write(self, who: int) -> None:
        self.look(who)
        self.write(who)

    def look(self, who: int) -> None:
        block = parse(self.text, "c", "here")
        self.watchers[who].text = self.text
        self.watchers[who].seen = Actual(block.databases, block.stamp, float(self.now))

    def write(self, who: int) -> None:
        watcher = self.watchers[who]
        if watcher.wish is None or watcher.seen is None:
            return
        try:
            steps = plan(watcher.seen, watcher.wish)
        except Fenced:
            return
        for step in steps:
            if isinstance(step, Write) and self.text == watcher.text:
                before = self.written()
                self.text = rewrite(self.text, "c", step.route, "here")
                assert self.rank(self.written()) >= self.rank(before), "an older reign came back"

    def written(self) -> tuple[int, int] | None:
        stamp = parse(self.text, "c", "here").stamp
        return None if stamp is None else (stamp.cluster_id, stamp.revision)

    def rank(self, written: tuple[int, int] | None) -> int:
        """The latest place in history of the reign that the block is written for."""
        places = [i for i, r in enumerate(self.truth) if (r.cluster_id, r.revision) == written]
        return places[-1] if places else -1


Event = tuple[str, *tuple[int, ...]]
WHO = st.integers(0, 1)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.just(("elect",)),
    st.tuples(st.just("follow"), WHO, st.just(0)),
    st.tuples(st.just("list_keys"), WHO),
    st.tuples(st.just("look_and_write"), WHO),
    st.tuples(st.sampled_from(["hear", "follow"]), WHO, st.integers(1, 3)),
    st.tuples(st.sampled_from(["look", "write"]), WHO),
    st.just(("restore", 1)),
)


def play(history: History, event: Event) -> None:
    name, *arguments = event
    getattr(history, name)(*arguments)
    history.now += 1


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, min_size=12, max_size=40))
def test_no_order_of_events_brings_an_older_reign_back(
    events: list[Event],
) -> None:
    history = History()
    for event in events:
        play(history, event)


@settings(max_examples=100, deadline=None)
@given(st.lists(EVENTS, max_size=40), st.integers(0, 1), WHO)
def test_a_restored_etcd_is_followed_after_one_fresh_read(
    events: list[Event], new_cluster: int, who: int
) -> None:
    history = History()
    for event in [*events, ("restore", new_cluster), ("look", who), ("list_keys", who), ("write", who)]:
        play(history, event)
    reign = history.truth[-1]
    assert history.written() == (reign.cluster_id, reign.revision)


@pytest.mark.parametrize(
    ("new", "is_learnt"),
    [
        (replace(OLD, timeline=4), True),
        (OLD, True),
        (replace(OLD, revision=11), False),
        (replace(OLD, site=5), False),
    ],
    ids=["its timeline", "nothing new", "another reign", "another choice of site"],
)
def test_a_stamp_learns_of_its_own_reign_alone(new: Stamp, is_learnt: bool) -> None:
    assert learns(OLD, new) is is_learnt
    assert not learns(None, new)


@pytest.mark.parametrize(
    ("found", "who"),
    [
        (None, "its block has no stamp any more, so a tool that writes the file, or a hand"),
        (UNREADABLE, "its stamp cannot be read, so a tool that writes the file, or a hand"),
        (
            replace(OLD, timeline=None),
            "its stamp is of the same leader and revision as ours, so another watcher of this cluster with"
            " other settings; or a hand, or a tool, that left the stamp alone",
        ),
        (
            replace(OLD, cluster_id=0xB, revision=7, leader="x"),
            "its stamp is of 'x' at revision 7 of etcd cluster b, so a watcher of another cluster, or one"
            " that hears another etcd; or a tool that put an older file back",
        ),
        (
            replace(OLD, cluster_id=0, revision=0),
            "its stamp is of 'old' by the health check, so a watcher of another cluster, or one that hears"
            " another etcd; or a tool that put an older file back",
        ),
    ],
    ids=["none", "edited", "ours", "of another cluster", "by the health check"],
)
def test_a_stamp_tells_who_may_have_led_a_block_elsewhere(found: Stamp | None, who: str) -> None:
    assert writer_of(found, OLD) == who
