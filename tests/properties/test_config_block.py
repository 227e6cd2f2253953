"""What holds for every block, every route, and every file at all."""

import gc
import re
import time
from contextlib import suppress

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.support.blocks import parse, rewrite
from watcher.decide.config_block import MarkedFile, goal
from watcher.decide.errors import BlockError
from watcher.decide.model import Endpoint, Role, Route, Stamp

BLANKS = st.text(" \t", max_size=3)
SPACES = st.text(" ", max_size=3)
NAMES = st.from_regex(r"\A(?!pgbouncer\Z)[A-Za-z0-9_.-]{1,12}\Z") | st.just("*") | st.just("'my db'")
HOSTS = st.from_regex(r"\A[A-Za-z0-9_.:\[\]%-]{1,20}\Z")
WORDS = st.from_regex(r"\A[A-Za-z0-9;#/\"_.,-][A-Za-z0-9;#/\"'=_.,-]{0,10}\Z")
QUOTED = st.text(st.characters(exclude_characters="'\n\0", codec="utf-8"), min_size=1, max_size=10).map(
    lambda text: "'" + text + "''" + text + "'"
)
COMMENTS = st.text(st.characters(exclude_characters="\n\0", codec="utf-8"), max_size=20).map(
    lambda text: f"; {text.replace('watcher', '').replace('[', '')}"
)
MARK = ";; role=replica"
ENDS = st.sampled_from(["\n", "\r\n", " \t\n", "\v\n"])
ROUTES = st.builds(
    Route,
    st.builds(
        Endpoint,
        st.sampled_from(["10.0.0.2", "db-1.example.org", "fd00::2", "fe80::1%eth0"]),
        st.integers(1, 65535),
    ),
    st.builds(
        Stamp,
        st.integers(0, 2**64 - 1),
        st.text(max_size=64),
        st.integers(0, 2**63 - 1),
        st.none() | st.integers(1, 2**32 - 1),
        st.text(st.characters(codec="utf-8"), max_size=40),
    ),
    readers=st.none()
    | st.builds(
        lambda hosts, port: Endpoint(",".join(hosts), port),
        st.lists(st.sampled_from(["10.0.0.3", "db-2", "fd00::3"]), min_size=1, max_size=3),
        st.integers(1, 65535),
    ),
).filter(lambda route: not any("\ud800" <= c <= "\udfff" for c in route.stamp.system_id))


@st.composite
def values(draw: st.DrawFn) -> str:
    """host, sometimes port, and other parameters, in any order and any quoting."""
    quote = draw(st.sampled_from(["", "'"]))
    pairs = [("host", f"{quote}{draw(HOSTS)}{quote}")]
    if draw(st.booleans()):
        pairs.append(("port", f"{quote}{draw(st.integers(1, 65535))}{quote}"))
    keys = draw(st.lists(st.sampled_from(["dbname", "user", "password", "pool_size"]), unique=True))
    pairs += [(key, draw(WORDS | QUOTED)) for key in keys]
    return " ".join(f"{k}{draw(SPACES)}={draw(SPACES)}{v}" for k, v in draw(st.permutations(pairs)))


@st.composite
def blocks(draw: st.DrawFn) -> str:
    """The lines of one block, with comments between them."""
    lines = []
    for name in draw(st.lists(NAMES, min_size=1, max_size=5, unique=True)):
        lines += draw(st.lists(COMMENTS, max_size=2))
        lines += [MARK] if name != "*" and draw(st.booleans()) else []
        lines.append(f"{draw(BLANKS)}{name}{draw(BLANKS)}={draw(BLANKS)}{draw(values())}")
    return "".join(line + draw(ENDS) for line in lines)


@st.composite
def files(draw: st.DrawFn) -> str:
    """A file with one block, and other things around it."""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    head = "".join(draw(st.lists(COMMENTS, max_size=3).map(lambda lines: [line + "\n" for line in lines])))
    name = draw(st.sampled_from(["", " demo"]))
    begin, close = (f";; [config cluster{name}: {edge}]" for edge in ("begin", "end"))
    tail = draw(st.sampled_from(["", "\n", "[pgbouncer]\nlisten_port = 6432", "; host=1 port=2\n"]))
    return f"[databases]\n{head}{begin}{end}{draw(blocks())}{close}{end}{tail}"


def without_stamp(text: str) -> str:
    return re.sub(r";; watcher:[^\n]*\n", "", text)


PAIR = re.compile(r"\b(host|port|dbname|user|password|pool_size)( *= *)('(?:[^'\n]|'')*'|[^ \t\r\n\v]+)")
"""One after the other: a quote within a value that began without one quotes nothing."""


def masked(text: str) -> str:
    """The text without the values of host and port, and without quoted values, which may look like them."""
    text = PAIR.sub(_without_value, without_stamp(text))
    return re.sub(r" port=\?", "", re.sub(r" +", " ", text))


def _without_value(pair: re.Match[str]) -> str:
    key, equals, value = pair.groups()
    if key in ("host", "port"):
        return f"{key}=?"
    return f"{key}{equals}?" if value.startswith("'") else pair[0]


@settings(max_examples=120, deadline=None)
@given(files(), ROUTES)
def test_after_a_rewrite_every_database_leads_to_the_route(text: str, route: Route) -> None:
    names = [db.name for db in parse(text, "demo", "f").databases]
    block = parse(rewrite(text, "demo", route, "f"), "demo", "f")
    assert [db.name for db in block.databases] == names
    before = parse(text, "demo", "f").databases
    assert [db.role for db in block.databases] == [db.role for db in before]
    for old, new in zip(before, block.databases, strict=True):
        assert new.endpoint == (goal(old, route) or old.endpoint)
    assert block.stamp == route.stamp


@settings(max_examples=80, deadline=None)
@given(files(), ROUTES, ROUTES)
def test_a_second_rewrite_changes_nothing_and_the_last_one_wins(text: str, one: Route, other: Route) -> None:
    assume(one.readers is not None or other.readers is None)  # None leaves what the other one wrote
    once = rewrite(text, "demo", one, "f")
    assert rewrite(once, "demo", one, "f") == once
    there_and_back = rewrite(rewrite(once, "demo", other, "f"), "demo", one, "f")
    assert parse(there_and_back, "demo", "f") == parse(once, "demo", "f")
    assert rewrite(there_and_back, "demo", one, "f") == there_and_back


@settings(max_examples=120, deadline=None)
@given(files(), ROUTES, ROUTES)
def test_what_was_led_is_what_would_be_read_anew(text: str, one: Route, other: Route) -> None:
    led = MarkedFile(text, "demo", "f").led_to(one).led_to(other)
    anew = MarkedFile(led.text, "demo", "f")
    assert led.block == anew.block
    assert led.led_to(one).text == anew.led_to(one).text
    assert led.led_to(one).block == anew.led_to(one).block


@settings(max_examples=120, deadline=None)
@example(
    text="[databases]\n;; [config cluster: begin]\n"
    "a = host='b' dbname=c' port='2'\n;; [config cluster: end]\n",
    route=Route(Endpoint("10.0.0.2", 1), Stamp(0, "", 0, None, "")),
)
@given(files(), ROUTES)
def test_only_host_port_and_the_stamp_change(text: str, route: Route) -> None:
    after = rewrite(text, "demo", route, "f")
    before_lines, after_lines = text.split("\n"), without_stamp(after).split("\n")
    assert len(after_lines) == len(before_lines)
    inside = False
    for old, new in zip(before_lines, after_lines, strict=True):
        inside = inside and "config cluster" not in old
        if inside and old.strip() and old.lstrip()[0] not in ";#":
            assert masked(new) == masked(old)
        else:
            assert new == old
        inside = inside or ": begin]" in old


@settings(max_examples=120, deadline=None)
@given(files(), st.text(max_size=30) | HOSTS, st.integers(-1, 70_000))
def test_no_host_and_no_port_can_break_out(text: str, host: str, port: int) -> None:
    route = Route(Endpoint(host, port), Stamp(1, "7", 2, 3, "n"))
    try:
        after = rewrite(text, "demo", route, "f")
    except BlockError:
        return
    block = parse(after, "demo", "f")
    assert {db.endpoint for db in block.databases if db.role is not Role.REPLICA} <= {Endpoint(host, port)}
    assert len(block.databases) == len(parse(text, "demo", "f").databases)


MARKS = [
    "[databases]",
    ";; [config cluster: begin]",
    ";; [config cluster: end]",
    ";; [config cluster demo: ",
    ";; watcher: cluster=1 system=",
    "%include x",
    "a = host=h",
    ";; role=replica\n",
    "a = host='",
    *("port=", "'", "=", " ", "\n", "\r\n"),
]


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.sampled_from(MARKS) | st.binary(max_size=4).map(lambda b: b.decode("utf-8", "surrogateescape"))
    )
)
@example([])
def test_any_bytes_are_read_or_refused_and_survive(parts: list[str]) -> None:
    text = "".join(parts)
    with suppress(BlockError):
        parse(text, "demo", "f")
        after = rewrite(text, "demo", Route(Endpoint("10.0.0.2", 1), Stamp(1, "7", 2, 3, "n")), "f")
        assert after.encode("utf-8", "surrogateescape")
        assert parse(after, "demo", "f").databases


LONG = 100_000


def evil(length: int) -> dict[str, str]:
    """Lines of about so many characters, each an invitation to go over them again and again."""
    return {
        "blanks in a value": "a = host=h" + " " * length + "x",
        "blanks at the end": "a = host=h dbname=x" + " " * length,
        "blanks before a name": " " * length + "a host=h",
        "a name without end": "a" * length,
        "blanks behind a name": "a" + " \t" * (length // 2) + "x",
        "an open quote": "'" + "a" * length,
        "quotes": "a = host=h dbname=" + "'" * length,
        "an open value of quotes": "a = host=h dbname='" + "''" * (length // 2) + "x",
        "an open value with blanks": "a = host=h dbname='" + "' " * (length // 2),
        "many parameters": "a = host=h " + "p=1 " * (length // 4),
        "many parameters and a broken one": "a = host=h " + "p=1 " * (length // 4) + "x",
        "a parameter without end": "a = host=h " + "p" * length,
        "equals": "a " + "=" * length,
        "blanks in a marker": ";; [config cluster" + " " * length,
        "blanks and a name in a marker": ";; [config cluster" + " x" * (length // 2),
        "blanks before a bracket": ";;" + " " * length + "[config",
        "semicolons": ";" * length,
        "nearly markers": ";" + "config cluster " * (length // 15),
        "nearly nearly markers": ";" + "config " * (length // 7),
        "colons": ";; [config cluster" + ":" * length,
        "a mark of blanks": ";;" + " " * length + "role=replica",
        "nearly marks": ";;" + "role=replica" * (length // 12),
        "a stamp of blanks": ";; watcher:" + " " * length,
        "a stamp of fields": ";; watcher:" + " cluster=1" * (length // 10),
        "a stamp of digits": ";; watcher: cluster=1 system=7 revision=" + "9" * length,
        "a stamp of percents": ";; watcher: cluster=1 system=" + "%41" * (length // 3),
        "a section without end": "[" * length,
        "form feeds": "\f" * length,
        "many lines": "\n".join(f"a{n} = host=h" for n in range(length // 14)),
        "the same line many times": "a = host=h\n" * (length // 11),
        "many comments": ";x\n" * (length // 3),
    }


@pytest.mark.parametrize("name", evil(0))
@pytest.mark.parametrize("inside", [True, False])
def test_no_line_takes_more_than_its_length(name: str, inside: bool) -> None:
    """Sixteen times as much for four times as many would be its square."""
    short, long = (min(_seconds_for(evil(n)[name], inside) for _ in range(3)) for n in (LONG // 4, LONG))
    assert long < 10 * short


def _seconds_for(evil: str, inside: bool) -> float:
    """Of this process, to read and to rewrite."""
    line = f"{evil}\n"
    good = "good = host=h\n"
    text = (
        f";; [config cluster: begin]\n{good}{line};; [config cluster: end]\n"
        if inside
        else f"{line};; [config cluster: begin]\n{good};; [config cluster: end]\n"
    )
    route = Route(Endpoint("10.0.0.2", 1), Stamp(1, "7", 2, 3, "n"))
    gc.disable()  # which looks through all that a run of tests has made
    begun = time.process_time()
    for broken in (text, text.replace("config cluster: end", "config  cluster: end")):
        with suppress(BlockError):
            parse(broken, "demo", "f")
        with suppress(BlockError):
            rewrite(broken, "demo", route, "f")
    took = time.process_time() - begun
    gc.enable()
    return took
