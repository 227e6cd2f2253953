"""The status document, the page and the terminal say the same of each state."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.unit.expose_scene import (
    BLIND,
    EPOCH,
    LEADS,
    LOST,
    NO_LEADER,
    OLD,
    PAUSED,
    PRIMARY,
    ROUTE,
    Clock,
    actual,
    chronicle,
    lost,
    switch,
    view,
    well,
)
from watcher.decide.errors import SourceError
from watcher.decide.model import (
    ACTIVE_KEY,
    ActiveWatcher,
    Actual,
    Config,
    Desired,
    Entry,
    Held,
    Leadership,
    NodeReport,
    Paused,
    Readiness,
    Reason,
    Role,
    Source,
    Verdict,
    View,
)
from watcher.decide.precedence import Standing
from watcher.expose.chronicle import Chronicle
from watcher.expose.page import page_of
from watcher.expose.status import Status, leader_words, schema, status_of

SCHEMA = Path(__file__).parents[2] / "docs/status.schema.json"
HELD = actual(held=Held(("app",), 998.0, 1050.0))
PAUSED_BY_HAND = replace(actual(), shown=tuple(replace(row, paused=True) for row in actual().shown or ()))
RESUMED = actual(held=Held((), 998.0, 1050.0))
UNHOLDABLE = replace(actual(), can_hold=False)


def seen(told: Chronicle, clock: Clock, at: View | None = None) -> Status:
    return status_of("demo", at or view(), told, clock.calendar(), EPOCH + 900.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_all_well_is_said_in_a_sentence_with_the_leader(clock: Clock) -> None:
    told = chronicle(clock, "pgb1", "pgb2")
    well(told, "pgb1")
    well(told, "pgb2")
    status = seen(told, clock)
    assert (status.health, status.words) == ("ok", "Clients reach the primary, pg2.")
    assert [target.words for target in status.targets] == ["leads to 10.0.0.2:5432"] * 2


def test_one_target_that_is_wrong_is_the_worst_of_all(clock: Clock) -> None:
    told = chronicle(clock, "pgb1", "pgb2", "pgb3")
    well(told, "pgb1")
    told.looked("pgb2", LEADS, actual(at=OLD, shown=OLD), None)
    lost(told, "pgb2")
    told.looked("pgb3", NO_LEADER, HELD, None)
    status = seen(told, clock)
    assert (status.health, status.words) == ("wrong", "1 of 3 PgBouncers does not lead to the primary.")
    problem = status.targets[1].problem
    assert problem is not None
    assert (problem.problem, problem.hint) == (LOST.problem, LOST.hint)


def test_a_target_that_was_never_seen_is_not_said_to_lead_elsewhere(clock: Clock) -> None:
    told = chronicle(clock)
    lost(told)
    (target,) = seen(told, clock).targets
    assert (target.health, target.words) == ("failing", "where it leads is not known: no answer within 5 s")


def test_who_waited_when_it_was_last_seen_is_led_as_far_as_is_known(clock: Clock) -> None:
    told = chronicle(clock)
    told.looked("pgb1", LEADS, replace(actual(), held=HELD.held), LOST)
    (target,) = seen(told, clock).targets
    assert (target.health, target.words) == ("waiting", "clients cannot go on: no answer within 5 s")
    lost(told)
    (target,) = seen(told, clock).targets
    assert target.words.startswith("leads to 10.0.0.2:5432 as far as is known")


def test_who_cannot_be_held_now_is_said_to_fail_by_what_failed(clock: Clock) -> None:
    told = chronicle(clock)
    told.looked("pgb1", replace(LEADS, held=True), actual(shown=OLD), LOST)
    (target,) = seen(told, clock).targets
    assert (target.health, target.words) == ("wrong", "does not lead to 10.0.0.2:5432: no answer within 5 s")


def test_who_waits_is_told_with_what_is_waited_for(clock: Clock) -> None:
    told = chronicle(clock)
    told.looked("pgb1", NO_LEADER, HELD, None)
    status = seen(told, clock, view(leader=None))
    assert (status.health, status.words) == ("waiting", "Clients of PgBouncer wait: no leader key.")
    assert status.cluster.leader is None


@pytest.mark.parametrize(
    ("wish", "shown", "health", "words"),
    [
        (LEADS, actual(), "ok", "leads to 10.0.0.2:5432"),
        (LEADS, actual(shown=OLD), "wrong", "does not lead to 10.0.0.2:5432"),
        (LEADS, actual(at=OLD, shown=OLD), "wrong", "does not lead to 10.0.0.2:5432"),
        (LEADS, actual(shown=None), "ok", "leads to 10.0.0.2:5432"),
        (NO_LEADER, HELD, "waiting", "no leader key"),
        (NO_LEADER, actual(), "failing", "its clients do not wait, though they should: no leader key"),
        (NO_LEADER, RESUMED, "failing", "its clients do not wait, though they should: no leader key"),
        (NO_LEADER, UNHOLDABLE, "unknown", "leads where it did: no leader key"),
        (NO_LEADER, PAUSED_BY_HAND, "unknown", "leads where it did: no leader key"),
        (NO_LEADER, replace(actual(), shown=()), "unknown", "leads where it did: no leader key"),
        (PAUSED, actual(shown=OLD), "paused", "left alone"),
        (BLIND, actual(), "unknown", "leads where it did: etcd is silent"),
    ],
)
def test_a_targets_health_follows_from_wish_and_look(
    clock: Clock, wish: Desired, shown: object, health: str, words: str
) -> None:
    told = chronicle(clock)
    told.looked("pgb1", wish, shown, None)  # type: ignore[arg-type]
    (target,) = seen(told, clock).targets
    assert (target.health, target.words) == (health, words)


def test_a_target_that_nobody_has_looked_at_is_not_known(clock: Clock) -> None:
    status = seen(chronicle(clock), clock, View(began_at=999.0))
    assert (status.health, status.targets[0].words) == ("unknown", "not looked at yet")
    assert status.cluster.reason == "starting"


def test_a_target_that_fails_and_whose_route_was_right_says_both(clock: Clock) -> None:
    told = chronicle(clock, "pgb1", "pgb2")
    well(told, "pgb1")
    well(told, "pgb2")
    lost(told, "pgb1")
    status = seen(told, clock)
    assert status.health == "failing"
    assert status.words == (
        "Clients reach the primary as far as is known, but 1 of 2 PgBouncers cannot be looked after."
    )
    words = "leads to 10.0.0.2:5432 as far as is known, but cannot be looked after: no answer within 5 s"
    assert status.targets[0].words == words


def test_a_pause_is_above_all_and_says_who(clock: Clock) -> None:
    told = chronicle(clock)
    told.looked("pgb1", PAUSED, actual(), None)
    status = seen(told, clock, view(paused=Paused("dba@host", "an upgrade", EPOCH)))
    assert status.health == "paused"
    assert status.cluster.paused is not None
    assert (status.cluster.paused.by, status.cluster.paused.why) == ("dba@host", "an upgrade")


NOT_READY = Desired(Reason.LEADER_NOT_READY, "pg2 leads, but is not ready", LEADS.route)
FALLBACK = Desired(Reason.FALLBACK, "etcd is silent", replace(ROUTE, source=Source.HEALTH_CHECK))
NOBODY = (NodeReport("pg2", "http://10.0.0.2:8008", Role.REPLICA, "running"),)


def _without_primary(**config: bool) -> View:
    at = view(leader=None)
    return replace(at, entries={**at.entries, "config": Entry("config", Config(**config), 2, 2)})


def _calls_itself_a_replica(proven_at: float) -> View:
    """Its member key was written at 999.5; it said at `proven_at` that it takes writes."""
    at = view()
    key, member = "members/pg2", replace(at.members["pg2"], role=Role.REPLICA)
    proof = Readiness(Leadership("pg2", 42), Verdict.READY, Role.PRIMARY, 3, proven_at)
    entries = {**at.entries, key: Entry(key, member, 1, 49)}
    return replace(at, entries=entries, seen_at={key: 999.5}, readiness=proof, pulse=proof)


@pytest.mark.parametrize(
    ("wish", "at", "health", "words"),
    [
        (NO_LEADER, _without_primary(), "wrong", "The cluster has no primary that takes clients: "),
        (NO_LEADER, _without_primary(pause=True), "unknown", "Where clients are led is not known yet: "),
        (NOT_READY, view(), "wrong", "The cluster has no primary that takes clients: pg2 leads, but is not"),
        (BLIND, view(), "failing", "Nobody can tell where the primary is, and clients are led where they"),
        (BLIND, view(reports=NOBODY), "wrong", "The cluster has no primary that takes clients: "),
        (BLIND, view(reports=NOBODY, failures={"http://x:8008": "no answer"}), "failing", "Nobody can tell"),
        (FALLBACK, view(), "failing", "Clients reach the primary, pg2, by the health check alone: etcd is"),
        (LEADS, _calls_itself_a_replica(999.0), "failing", "Clients are led to pg2, which holds the leader"),
        (LEADS, _calls_itself_a_replica(999.7), "ok", "Clients reach the primary, pg2."),
    ],
)
def test_the_verdict_is_not_good_news_where_the_cluster_has_none(
    clock: Clock, wish: Desired, at: View, health: str, words: str
) -> None:
    told = chronicle(clock)
    told.looked("pgb1", replace(wish, held=False), actual(), None)
    status = seen(told, clock, at)
    assert (status.health, status.words[: len(words)]) == (health, words)


def test_a_primary_is_one_as_of_when_etcd_was_heard_last(clock: Clock) -> None:
    told = chronicle(clock)
    well(told)
    told.source_state("etcd", False, "etcd1:2379", SourceError("etcd1:2379", "no leader", "bring it back"))
    status = seen(told, clock)
    assert status.health == "failing"
    assert status.words == "Clients are led to pg2, the primary when etcd was last heard, 1.0 s ago."
    assert leader_words(status.cluster, status.now) == "pg2 when etcd was last heard, 1.0 s ago"
    told.source_state("etcd", True, "etcd2:2379", None)
    assert seen(told, clock).health == "ok"


def test_a_worker_that_hangs_does_not_make_old_news_true(clock: Clock) -> None:
    told = chronicle(clock, "pgb1", "pgb2")
    well(told, "pgb1")
    well(told, "pgb2")
    now = replace(LEADS, route=replace(ROUTE, endpoint=OLD))
    status = status_of("demo", view(), told, clock.calendar(), EPOCH, lambda _: now)
    assert (status.health, status.words) == ("wrong", "2 of 2 PgBouncers do not lead to the primary.")


GAVE_UP = replace(LEADS, reason=Reason.PRIMARY_REFUSES, detail="it refuses; released", gave_up=True)


def test_a_hold_that_was_given_up_is_never_good_news(clock: Clock) -> None:
    told = chronicle(clock, "pgb1", "pgb2")
    told.looked("pgb1", GAVE_UP, actual(), None)
    well(told, "pgb2")
    status = seen(told, clock)
    assert status.health == "wrong"
    assert status.words == "A PgBouncer leads to a server that takes no clients: it refuses; released."
    assert status.targets[0].words == "leads to 10.0.0.2:5432, which takes no clients: it refuses; released"
    told.looked("pgb2", GAVE_UP, actual(), None)
    assert seen(told, clock).words == "The cluster has no primary that takes clients: it refuses; released."


def test_a_pgbouncer_that_does_not_answer_is_wrong(clock: Clock) -> None:
    told = chronicle(clock)
    well(told)
    told.looked("pgb1", LEADS, replace(actual(), console_problem=LOST), LOST)
    status = seen(told, clock)
    assert (status.health, status.targets[0].words) == (
        "wrong",
        "PgBouncer does not answer: no answer within 5 s",
    )


@pytest.mark.parametrize(
    ("shown", "health", "words"),
    [
        (actual(), "paused", "The watcher is paused by dba@host: it changes nothing, and holds nobody."),
        (
            actual(at=OLD, shown=OLD),
            "wrong",
            "PgBouncer does not lead to the primary, and the watcher is paused by dba@host.",
        ),
    ],
)
def test_a_pause_hides_no_pgbouncer_that_leads_elsewhere(
    clock: Clock, shown: Actual, health: str, words: str
) -> None:
    told = chronicle(clock)
    well(told)
    told.looked("pgb1", replace(PAUSED, belongs=PRIMARY), shown, None)
    status = seen(told, clock, view(paused=Paused("dba@host", "an upgrade", EPOCH)))
    assert (status.health, status.words) == (health, words)
    assert "paused by dba@host, 16 min 40 s ago: an upgrade" in page_of(status)


ACTIVE = Entry(ACTIVE_KEY, ActiveWatcher("ctl2-7-ab", "ctl2"), 3, 3)


@pytest.mark.parametrize(
    ("stands", "active", "words"),
    [
        (Standing.ACTIVE, "ctl2", "is the active watcher"),
        (Standing.STANDBY, "ctl2", "stands by for ctl2, the active watcher"),
        (Standing.NOBODY, None, "acts, as every other does: no watcher is known to be active"),
    ],
)
def test_where_a_watcher_stands_among_several_is_said_with_the_active_one_s_name(
    clock: Clock, stands: Standing, active: str | None, words: str
) -> None:
    told = chronicle(clock)
    told.source_state("controller", True, "10.0.0.9:2379", None)
    at = replace(view(), entries={**view().entries, ACTIVE_KEY: ACTIVE})
    status = status_of("demo", at, told, clock.calendar(), EPOCH, stands=stands)
    found = status.cluster.controller
    assert found is not None
    assert (found.standing, found.active, found.words) == (stands, active, words)
    assert found.lease is not None
    assert found.lease.connected
    page = page_of(status)
    assert f"<dt>this watcher</dt><dd>{words}</dd>" in page
    assert "<dt>lease</dt><dd>heard at 10.0.0.9:2379" in page


def test_of_watchers_that_act_together_nothing_is_said(clock: Clock) -> None:
    status = seen(chronicle(clock), clock)
    assert status.cluster.controller is None
    assert "<dt>this watcher</dt>" not in page_of(status)


def test_settings_that_were_refused_are_told_of(clock: Clock) -> None:
    status = status_of("demo", view(), chronicle(clock), clock.calendar(), EPOCH, settings_refused_at=EPOCH)
    assert status.settings_refused_at is not None
    assert "The settings on the disk have a fault" in page_of(status)
    assert "have a fault" not in page_of(seen(chronicle(clock), clock))


def test_clients_that_wait_for_a_primary_are_told_of_as_waiting(clock: Clock) -> None:
    told = chronicle(clock, "pgb1", "pgb2")
    told.looked("pgb1", NO_LEADER, actual(), None)
    told.looked("pgb2", NO_LEADER, HELD, None)
    assert seen(told, clock, view(leader=None)).words == "Clients of 1 of 2 PgBouncers wait: no leader key."


def test_members_have_their_lag_behind_the_leader(clock: Clock) -> None:
    members = {member.name: member for member in seen(chronicle(clock), clock).cluster.members}
    assert (members["pg1"].lag_bytes, members["pg2"].lag_bytes) == (100, 0)
    without = seen(chronicle(clock), clock, view(leader=None)).cluster.members
    assert [member.lag_bytes for member in without] == [None, None]


def test_a_member_whose_key_has_gone_was_something_and_has_no_lag(clock: Clock) -> None:
    gone = replace(view(), entries={k: e for k, e in view().entries.items() if k != "members/pg1"})
    status = seen(chronicle(clock), clock, gone)
    members = {member.name: member for member in status.cluster.members}
    assert (members["pg1"].present, members["pg2"].present) == (False, True)
    assert members["pg1"].lag_bytes is None
    assert "<td>pg1 (its key has gone)</td><td>was replica</td>" in page_of(status)


def test_nodes_tell_their_answer_or_why_they_have_none(clock: Clock) -> None:
    report = NodeReport("pg2", "http://10.0.0.2:8008", Role.PRIMARY, "running")
    nodes = seen(
        chronicle(clock), clock, view(reports=(report,), failures={"http://x:8008": "no answer"})
    ).cluster.nodes
    assert [(node.name, node.answer, node.is_primary) for node in nodes] == [
        ("pg2", "primary, running", True),
        ("", "no answer", False),
    ]


def test_one_switch_has_the_parts_of_all_its_targets_and_fallbacks_are_apart(clock: Clock) -> None:
    told = chronicle(clock, "pgb1", "pgb2")
    told.switched(switch("pgb2"))
    told.switched(switch("pgb1", held_since=None))
    told.switched(switch("pgb1", Source.HEALTH_CHECK))
    first, second = seen(told, clock).switches
    assert (first.id, first.source, len(first.targets)) == ("pg2-t3", "health_check", 1)
    assert (second.id, [part.target for part in second.targets]) == ("pg2-42", ["pgb1", "pgb2"])
    one, two = second.targets
    assert one.stages_ms == {"decide": 50.0, "write": 10.0, "ready": 100.0, "release": 40.0}
    assert (one.duration_ms, one.waited_ms, two.waited_ms) == (200.0, None, 700.0)
    assert one.before == (str(OLD),)
    assert one.corrects is None


def test_page_and_document_tell_whom_a_switch_corrects(clock: Clock) -> None:
    told = chronicle(clock)
    told.switched(switch(corrects="a <tool>"))
    status = seen(told, clock)
    assert status.switches[0].targets[0].corrects == "a <tool>"
    assert "led back: a &lt;tool&gt;" in page_of(status)


def test_the_schema_in_the_docs_is_the_programs() -> None:
    assert json.loads(SCHEMA.read_text()) == schema(), "run: make docs"


def test_the_document_survives_its_own_json(clock: Clock) -> None:
    told = everything(clock)
    status = seen(told, clock)
    assert Status.model_validate_json(json.dumps(status.model_dump(mode="json"))) == status


def everything(clock: Clock) -> Chronicle:
    told = chronicle(clock, "pgb1", "pgb2", "pgb3")
    well(told, "pgb1")
    told.looked("pgb2", LEADS, actual(at=OLD, shown=OLD), None)
    lost(told, "pgb2")
    told.looked("pgb3", NO_LEADER, HELD, None)
    told.switched(switch("pgb1"))
    told.source_state("etcd", False, "10.0.0.9:2379", SourceError("etcd", "<no> answer", "see & mend"))
    told.source_state("barrier", True, "10.0.0.9:2379", None)
    return told


# --- the page -----------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Its text, its tags and its links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br", "rect"):
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_page_says_all_that_the_document_does_and_is_well_formed(clock: Clock) -> None:
    page = _Page(page_of(seen(everything(clock), clock)))
    assert page.open == []
    for words in (
        "1 of 3 PgBouncers does not lead to the primary.",
        "no answer within 5 s",
        "is its host up?",
        "Clients wait : no leader key",
        "written for",
        "NOT heard at 10.0.0.9:2379",
        "<no> answer",
        "see & mend",
        "pg2-42",
        "ready 100.0 ms",
        "clients waited 700 ms",
        "100 B",
        str(PRIMARY),
    ):
        assert words in page.text, words


def test_of_a_switch_of_many_targets_the_slowest_are_drawn(clock: Clock) -> None:
    told = chronicle(clock)
    for number in range(20):
        one = switch(f"pgb{number:02}")
        told.switched(replace(one, heard_at=one.heard_at - number))
    text = page_of(seen(told, clock))
    assert re.findall(r"<p><code>pgb(\d\d)", text) == [str(number) for number in range(19, 11, -1)]
    assert "12 more were faster" in text


def test_the_page_asks_for_nothing_from_elsewhere(clock: Clock) -> None:
    text = page_of(seen(everything(clock), clock))
    assert set(_Page(text).links) == {"data:,", "status", "metrics"}
    assert "http://" not in text.replace("http://10.0.0", "")


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", '" onload="x', "</style>", "'&lt;"])
def test_nothing_that_others_say_becomes_markup(clock: Clock, evil: str) -> None:
    told = chronicle(clock, evil)
    lost(told, evil, SourceError(evil, evil, evil))
    told.switched(replace(switch(evil), before=(replace(OLD, host=evil),)))
    bad = view(paused=Paused(evil, evil), failures={evil: evil})
    page = page_of(status_of(evil, bad, told, clock.calendar(), EPOCH))
    assert evil not in page.replace("</style>\n</head>", "") or evil == "'&lt;"
    assert _Page(page).text.count(evil) >= 5
