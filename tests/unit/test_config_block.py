"""Reading and rewriting the marked block, case by case."""

from dataclasses import replace

import pytest

from tests.support.blocks import parse, rewrite
from watcher.decide.config_block import Block, MarkedFile, write_stamp
from watcher.decide.errors import BlockError
from watcher.decide.fence import UNREADABLE
from watcher.decide.model import Database, Endpoint, Role, Route, Stamp

STAMP = Stamp(0xCDF8, "7301", 1042, 3, "node2")
TO = Route(Endpoint("10.0.0.2", 5433), STAMP)
STAMP_LINE = ";; watcher: cluster=cdf8 system=7301 revision=1042 timeline=3 leader=node2\n"


def marked(lines: str, name: str = "") -> str:
    word = f" {name}" if name else ""
    return f";; [config cluster{word}: begin]\n{lines};; [config cluster{word}: end]\n"


def read(text: str) -> Block:
    return parse(text, "demo", "f.ini")


def rewritten(lines: str, route: Route = TO) -> str:
    """The lines of the block behind its stamp."""
    text = rewrite(marked(lines), "demo", route, "f.ini")
    begin, stamp, *rest, end = text.splitlines(keepends=True)
    assert (begin, end) == (";; [config cluster: begin]\n", ";; [config cluster: end]\n")
    assert stamp == f";; watcher: {write_stamp(route.stamp)}\n"
    return "".join(rest)


# --- reading -----------------------------------------------------------------------------------------


def test_a_block_is_its_databases_its_stamp_and_what_else_is_defined() -> None:
    block = marked(f"{STAMP_LINE}a = host=h1 port=6000\n")
    text = f"[databases]\nx = host=h\n{block}y = host=h\n[pgbouncer]\nz = 1\n"
    assert read(text) == Block((Database("a", Endpoint("h1", 6000)),), STAMP, frozenset({"a", "x", "y"}))


def test_the_port_is_5432_where_none_is_given() -> None:
    assert read(marked("a = host=h\n")).databases == (Database("a", Endpoint("h", 5432)),)


def test_without_a_stamp_there_is_none() -> None:
    assert read(marked("a = host=h\n")).stamp is None


@pytest.mark.parametrize(
    "line",
    [
        ";; watcher:",
        ";; watcher: cluster=cdf8",
        ";; watcher: cluster=xyz system=7 revision=1 timeline=1 leader=n",
        ";; watcher: cluster=1 system=7 revision=one timeline=1 leader=n",
        ";; watcher: cluster=1 system=7 revision=1 timeline=x leader=n",
        f";; watcher: cluster=1 system=7 revision={'9' * 5000} timeline=1 leader=n",
        ";; watcher: cluster=1 system=7 revision=1 timeline=1 leader=ü",
        ";; watcher: cluster=1 system=7 revision=١ timeline=1 leader=n",
        ";; watcher: cluster=1 system=7 revision=1 timeline=1 leader=n site=x",
        STAMP_LINE + STAMP_LINE,
    ],
)
def test_a_stamp_that_somebody_edited_counts_as_unreadable(line: str) -> None:
    assert read(marked(f"{line.rstrip()}\na = host=h\n")).stamp == UNREADABLE


@pytest.mark.parametrize(
    "stamp",
    [
        STAMP,
        Stamp(0, "", 0, None, ""),
        Stamp(2**64 - 1, "7" * 64, 2**63 - 1, 2**32 - 1, "n"),
        Stamp(1, "7", 2, 3, "node 2\n;; [config cluster: end]\na = host=evil"),
        Stamp(1, "=%&;", 2, 3, "ü ☃ '\"="),
        Stamp(1, "7", 2, 3, "n", site=99),
    ],
)
def test_a_stamp_is_read_back_as_it_was_written(stamp: Stamp) -> None:
    text = rewrite(marked("a = host=h\n"), "demo", Route(TO.endpoint, stamp), "here")
    assert read(text).stamp == stamp
    assert len(text.splitlines()) == 4


def test_a_stamps_fields_are_quoted_but_for_letters_and_digits() -> None:
    assert (
        write_stamp(Stamp(1, "7/3", 2, 3, "a/b"))
        == "cluster=1 system=7%2F3 revision=2 timeline=3 leader=a%2Fb"
    )


def test_a_name_that_no_utf8_can_carry_does_not_keep_a_stamp_from_being_written() -> None:
    assert write_stamp(Stamp(1, "\ud800", 2, 3, "n\udfff")).endswith("leader=n%3F")


def test_comments_and_empty_lines_are_no_databases() -> None:
    assert len(read(marked("\n \t\n; a = host=h\n# b = host=h\n\v;; c\na = host=h\n")).databases) == 1


@pytest.mark.parametrize(
    "begin",
    [";; [config cluster : begin]", "  ;;[config cluster:begin]  ", "\t;; [config cluster:\tbegin]\r"],
)
def test_blanks_in_a_marker_do_not_matter(begin: str) -> None:
    assert read(f"{begin}\na = host=h\n;; [config cluster: end]").databases


def test_a_named_block_is_found_by_its_name_among_others() -> None:
    text = (
        marked("a = host=h1\n", "other one") + marked("b = host=h2\n", "demo") + marked("c = host=h3\n", "x")
    )
    assert [db.name for db in read(text).databases] == ["b"]
    assert [db.name for db in parse(text, "other one", "f").databases] == ["a"]


def test_a_block_without_a_name_is_every_clusters_while_it_is_alone() -> None:
    assert parse(marked("a = host=h\n"), "whatever", "f").databases


@pytest.mark.parametrize(
    "text",
    [
        "[databases]\n" + marked("a = host=h\n"),
        "[pgbouncer]\nx = 1\n  [databases] \n" + marked("a = host=h\n") + "[users]\n",
        "; [pgbouncer]\n" + marked("a = host=h\n"),
        "\v[databases]\n" + marked("a = host=h\n"),
    ],
)
def test_a_block_stands_in_databases_or_in_an_included_file(text: str) -> None:
    assert read(text).databases


@pytest.mark.parametrize("section", ["pgbouncer", "users", "", " databases", "Databases"])
def test_a_block_in_another_section_is_refused(section: str) -> None:
    with pytest.raises(BlockError, match="stands in section"):
        read(f"[databases]\n[{section}]\n" + marked("a = host=h\n"))


def test_a_database_outside_of_databases_does_not_count_as_a_second_one() -> None:
    assert read("[databases]\n" + marked("a = host=h\n") + "[users]\na = pool_mode=session\n").databases


def test_quotes_within_a_quoted_value_are_read_once() -> None:
    assert read(marked("a = host='it''s'\n")).databases == (Database("a", Endpoint("it's", 5432)),)


def test_a_name_is_read_to_its_last_letter() -> None:
    block = read("X = host=h\n" + marked("'XaX' = host=h\n"))
    assert (block.databases[0].name, block.defined) == ("XaX", frozenset({"X", "XaX"}))


@pytest.mark.parametrize("host", ["h\xa0", "a!b"])
def test_a_host_is_what_pgbouncer_reads_as_such(host: str) -> None:
    """Its blanks are those of C, and no other character ends a value."""
    assert read(marked(f"a = host={host}\n")).databases == (Database("a", Endpoint(host, 5432)),)


def test_the_last_port_that_there_is_can_be_read() -> None:
    assert read(marked("a = host=h port=65535\n")).databases == (Database("a", Endpoint("h", 65535)),)


def test_names_in_quotes_are_read_without_them() -> None:
    assert [db.name for db in read(marked("'my db' = host=h\n'x' = host=h\n")).databases] == ["my db", "x"]


# --- refusals ---------------------------------------------------------------------------------------------

REFUSED = [
    ("", "has no block for cluster 'demo'", "put ;; [config cluster: begin] and ;;"),
    (marked("a = host=h\n", "x"), "only for 'x'", "put ;; [config cluster demo: begin] and ;;"),
    ("; [config cluster: begin]\n" + marked("a = host=h\n", "x"), "only for", "be ;; [config cluster demo:"),
    (marked("a = host=h\n", "x") + marked("b = host=h\n", "y"), "only for 'x', 'y'", "put ;;"),
    ("; [config cluster: begin]\n", "has no block", "line 1 is nearly a marker"),
    ("x\n#;; config  CLUSTER begins\n", "has no block", "line 2 is nearly a marker"),
    (";; [config clusters: begin]\n", "has no block", "line 1 is nearly a marker"),
    (";; [configcluster: end]\n", "has no block", "line 1 is nearly a marker"),
    ("\xa0;; [config cluster: begin]\n", "has no block", "put ;;"),
    (marked("a = host=h\n") * 2, "f.ini:4: a second block", "one block a cluster"),
    (marked("a = host=h\n", "demo") * 2, "f.ini:4: a second block", "one block a cluster"),
    (marked("a = host=h\n") + marked("b = host=h\n", "x"), "without a name beside", "cluster demo: begin"),
    (";; [config cluster: end]\n", "end marker without its begin", "put the begin marker above"),
    (";; [config cluster: begin]\n" * 2, "f.ini:2: a block begins inside the one", "end that one"),
    (";; [config cluster a: begin]\n;; [config cluster b: end]\n", "ends 'b', but line 1", "one name"),
    ("\n;; [config cluster: begin]\na = host=h\n", "f.ini:2: this block is never ended", "below it"),
    (marked(""), "has no database", "at least one line"),
    (marked("; a = host=h\n"), "has no database", "at least one line"),
    (marked("a = host=h\0\n"), "NUL byte", "restore"),
    (marked("a = host=h\na = host=h\n"), "f.ini:2: database 'a' stands in line 3 too", "leave one"),
    (marked("'a' = host=h\na = host=h\n"), "database 'a' stands in line 3 too", "one line a database"),
    ("a = host=h\n" + marked("a = host=h\n"), "f.ini:1: database 'a' stands in line 3 too", "one line"),
    (marked("[users]\n"), "is not a line name = key=value", "only databases and comments"),
    (marked("a\n"), "is not a line name = key=value", "only databases"),
    (marked("pgbouncer = host=h\n"), "PgBouncer's own database", "another name"),
    (marked("a = port=1\n"), "has no host", "give it a host"),
    (marked("a = host=h host=i\n"), "has host twice", "leave one host"),
    (marked("a = host=h port=1 port=1\n"), "has port twice", "leave one port"),
    (marked("a = host=h,i\n"), "list of hosts", "give one host"),
    (marked("a = host=/tmp\n"), "local socket", "give it a host"),
    (marked("a = host=@x\n"), "local socket", "give it a host"),
    (marked("a = host= port=1\n"), "has no host: PgBouncer reads 'port=1'", "give it a host"),
    (marked("a = host=h\tx\n"), "control character", "use blanks"),
    (marked("a = host=h port=0\n"), "has port '0'", "between 1 and 65535"),
    (marked("a = host=h port=65536\n"), "has port '65536'", "between 1 and 65535"),
    (marked(f"a = host=h port={'x' * 21}\n"), f"has port '{'x' * 20}'", "between 1 and 65535"),
    (marked("a = host=h port=x\n"), "has port 'x'", "between 1 and 65535"),
    (marked("a = host=h port=٣\n"), "has port", "between 1 and 65535"),
    (marked("a = host=h dbname='x\n"), "cannot be read from \"dbname='x\"", "correct it"),
    (marked("a = host=h dbname='x'y\n"), "cannot be read from", "correct it"),
    (marked("a = host=h dbname=\n"), "cannot be read from 'dbname='", "correct it"),
    (marked("a = host=h comment\n"), "cannot be read from 'comment'", "correct it"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem", "hint"), REFUSED)
def test_what_cannot_be_used_is_refused_with_place_and_remedy(text: str, problem: str, hint: str) -> None:
    for use in (read, lambda t: rewrite(t, "demo", TO, "f.ini")):
        with pytest.raises(BlockError) as caught:
            use(text)
        assert problem in str(caught.value)
        assert hint in caught.value.hint
        assert caught.value.place.startswith("f.ini")


LINE = "a = host=h\n"
PLACES = [
    (marked(LINE, "demo") + marked(LINE) * 2, "f.ini:7: a second block of the same cluster"),
    (marked(LINE) + marked(LINE, "x"), "f.ini:1: a block without a name beside named ones"),
    (";; [config cluster: begin]\n" * 2, "f.ini:2: a block begins inside the one of line 1"),
    ("\n;; [config cluster a:begin]\n;; [config cluster b:end]", "f.ini:3: ends 'b', but line 2 begins 'a'"),
    ("[a]\n[databases]\n[users]\n" + marked("a = host=h\n"), "f.ini:4: the block stands in section [users]"),
    (marked(""), "f.ini:1: the block has no database"),
    (marked("; b\na\n"), "f.ini:3: is not a line name = key=value …"),
    (marked("a = host=h\n", "\xa0demo"), r"f.ini: has no block for cluster 'demo', only for '\xa0demo'"),
    (marked("a = host=h\x7fx\n"), "f.ini:2: has a blank or a control character in its host"),
    (
        marked(f"a = host=h dbname='{'x' * 60}\n"),
        f"f.ini:2: cannot be read from \"dbname='{'x' * 32}\" on: a broken quote, or no key=value",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "told"), PLACES)
def test_a_refusal_names_the_very_line(text: str, told: str) -> None:
    with pytest.raises(BlockError) as caught:
        read(text)
    assert f"{caught.value.place}: {caught.value.problem}" == told


def test_what_stands_in_another_section_is_to_be_moved() -> None:
    with pytest.raises(BlockError) as caught:
        read("[users]\n" + marked("a = host=h\n"))
    assert caught.value.hint == "move the block into [databases]"


def test_a_file_without_any_block_is_said_to_have_none_and_no_more() -> None:
    with pytest.raises(BlockError) as caught:
        read("")
    assert caught.value.problem == "has no block for cluster 'demo'"


def test_a_broken_line_does_not_tell_its_password() -> None:
    with pytest.raises(BlockError) as caught:
        read(marked("a = host=h dbname='x y password=secret password=secret\n"))
    assert "secret" not in str(caught.value)
    assert "dbname='x y" in caught.value.problem


# --- rewriting ----------------------------------------------------------------------------------------------

LINES = [
    ("a = host=h port=1\n", "a = host=10.0.0.2 port=5433\n"),
    ("a=host=h\n", "a=host=10.0.0.2 port=5433\n"),
    ("a = host=h dbname=x\n", "a = host=10.0.0.2 port=5433 dbname=x\n"),
    ("a = port=1 dbname='host=x' host=h  \n", "a = port=5433 dbname='host=x' host=10.0.0.2  \n"),
    ("a = host='h' port = '1' user=u\n", "a = host='10.0.0.2' port = '5433' user=u\n"),
    ("a = dbname='it''s' host='h'\n", "a = dbname='it''s' host='10.0.0.2' port=5433\n"),
    ("\ta\t=\thost = h\r\n", "\ta\t=\thost = 10.0.0.2 port=5433\r\n"),
    ("# c\n\na = host=h port=1\n;d\n", "# c\n\na = host=10.0.0.2 port=5433\n;d\n"),
    ("* = host=h port=1\nb = host=i port=2\n", "* = host=10.0.0.2 port=5433\nb = host=10.0.0.2 port=5433\n"),
]


@pytest.mark.parametrize(("before", "after"), LINES)
def test_the_values_of_host_and_port_change_and_nothing_else(before: str, after: str) -> None:
    assert rewritten(before) == after
    assert rewritten(after) == after


def test_the_usual_port_is_not_added_where_there_is_none() -> None:
    to = Route(Endpoint("10.0.0.2", 5432), STAMP)
    assert rewritten("a = host=h\n", to) == "a = host=10.0.0.2\n"
    assert rewritten("a = host=h port=6000\n", to) == "a = host=10.0.0.2 port=5432\n"


def test_a_stamp_takes_the_place_of_the_old_one() -> None:
    old = STAMP_LINE.replace("1042", "7")
    text = marked(f"# first\n{old}a = host=h\n{old}b = host=h\n")
    text = rewrite(text, "demo", TO, "f")
    assert text.count(";; watcher:") == 1
    assert text.splitlines()[1:3] == ["# first", STAMP_LINE.rstrip()]
    twice = rewrite(marked(f"{old}a = host=h\n{old}b = host=h\n"), "demo", TO, "f")
    assert twice == marked(f"{STAMP_LINE}a = host=10.0.0.2 port=5433\nb = host=10.0.0.2 port=5433\n")


def test_a_first_stamp_stands_behind_the_begin_with_its_line_end() -> None:
    text = rewrite(marked("a = host=h\n").replace("\n", "\r\n"), "demo", TO, "f")
    assert text.splitlines(keepends=True)[1] == STAMP_LINE.replace("\n", "\r\n")


def test_what_looks_like_a_stamp_before_the_block_is_none_of_it() -> None:
    text = rewrite("\n;; watcher: mine\n" + marked("# 1\n# 2\na = host=h\nb = host=h\n"), "demo", TO, "f")
    assert text.splitlines(keepends=True)[1:4] == [
        ";; watcher: mine\n",
        ";; [config cluster: begin]\n",
        STAMP_LINE,
    ]


def test_what_stands_around_the_block_stays_to_the_last_byte() -> None:
    head, tail = (
        "\udcff [databases]\n\n x = host=h\r\n",
        "\n\n[pgbouncer]\nlisten = *\n;; watcher: mine\nlast",
    )
    text = rewrite(head + marked("a = host=h\n") + tail, "demo", TO, "f")
    assert text.startswith(head + ";; [config cluster: begin]\n")
    assert text.endswith(";; [config cluster: end]\n" + tail)


@pytest.mark.parametrize(
    "host", ["", "a b", "a'", "a\nb = host=c", "a port=1", "a,b", "/tmp", "@a", "[::1]", "ä"]
)
def test_a_host_that_could_break_out_is_never_written(host: str) -> None:
    with pytest.raises(BlockError, match="neither a host name nor an address") as caught:
        rewrite(marked("a = host=h\n"), "demo", Route(Endpoint(host, 5432), STAMP), "f")
    assert caught.value.place == "f"
    assert caught.value.hint


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_there_is_not_is_never_written(port: int) -> None:
    with pytest.raises(BlockError, match=f"no port {port}") as caught:
        rewrite(marked("a = host=h\n"), "demo", Route(Endpoint("h", port), STAMP), "f")
    assert caught.value.place == "f"
    assert caught.value.hint


@pytest.mark.parametrize("port", [1, 65535])
def test_the_first_and_the_last_port_are_written(port: int) -> None:
    assert rewritten("a = host=h\n", Route(Endpoint("h", port), STAMP)) == f"a = host=h port={port}\n"


# --- lines for reads ----------------------------------------------------------------------------------

READS = Endpoint("10.0.0.3,fd00::4", 5433)
TO_BOTH = Route(TO.endpoint, STAMP, readers=READS)
MARK = ";; role=replica\n"


def test_a_line_under_the_mark_is_for_reads_and_may_have_a_list() -> None:
    block = read(marked(f"a = host=h\n{MARK}b = host=h2,h3 port=6000\nc = host=h\n"))
    assert block.databases == (
        Database("a", Endpoint("h", 5432)),
        Database("b", Endpoint("h2,h3", 6000), Role.REPLICA),
        Database("c", Endpoint("h", 5432)),
    )


def test_a_line_that_the_settings_name_is_for_reads() -> None:
    block = parse(marked("a = host=h\nb = host=h2,h3\n"), "demo", "f", ("b", "c"))
    assert [db.role for db in block.databases] == [Role.PRIMARY, Role.REPLICA]


def test_each_line_is_led_where_its_role_leads() -> None:
    lines = f"a = host=h\n{MARK}b = host='h2,h3' port=6000 user=u # x\n"
    wanted = f"a = host=10.0.0.2 port=5433\n{MARK}b = host='10.0.0.3,fd00::4' port=5433 user=u # x\n"
    assert rewritten(lines.replace(" # x", ""), TO_BOTH) == wanted.replace(" # x", "")


def test_without_a_place_for_reads_their_lines_stay_as_they_are() -> None:
    lines = f"{MARK}b = host=h2,,h3   port=6000\n"
    assert rewritten(f"a = host=h\n{lines}") == f"a = host=10.0.0.2 port=5433\n{lines}"


def test_a_line_for_reads_needs_no_line_for_writes() -> None:
    assert rewritten(f"{MARK}b = host=h\n", TO_BOTH) == f"{MARK}b = host=10.0.0.3,fd00::4 port=5433\n"


@pytest.mark.parametrize(
    ("lines", "line", "problem"),
    [
        (";; role=replcia\na = host=h\n", 2, "nearly a mark"),
        (";; role=primary\na = host=h\n", 2, "nearly a mark"),
        (";; role = replica\na = host=h\n", 2, "nearly a mark"),
        ("; role=replica\na = host=h\n", 2, "nearly a mark"),
        ("a = host=h\n# Role: Replica\nb = host=h\n", 3, "nearly a mark"),
        (f"{MARK}\na = host=h\n", 2, "no database in the next line"),
        (f"{MARK};; more\na = host=h\n", 2, "no database in the next line"),
        (f"a = host=h\n{MARK}", 3, "no database in the next line"),
        (f"{MARK}{MARK}a = host=h\n", 2, "no database in the next line"),
        (f"{MARK}* = host=h\n", 3, "marked for replicas"),
        (f"{MARK}a = host=h,/tmp\n", 3, "local socket"),
        ("a = host=h,h2\n", 2, "a list of hosts"),
    ],
)
def test_a_mark_that_could_be_meant_otherwise_is_refused(lines: str, line: int, problem: str) -> None:
    with pytest.raises(BlockError, match=problem) as caught:
        read(marked(lines))
    assert caught.value.place == f"f.ini:{line}"
    assert caught.value.hint


@pytest.mark.parametrize("comment", [MARK, "; role=replica\n", ";; role=replcia\n"])
def test_what_looks_like_a_mark_around_the_block_is_none_of_it(comment: str) -> None:
    block = read(f"{comment}x = host=h\n{comment}{marked(LINE)}{comment}y = host=h\n")
    assert block.databases == (Database("a", Endpoint("h", 5432)),)


@pytest.mark.parametrize("lines", ["; the role of this = a replica\n", "# role\n", ";; roles: replica\n"])
def test_other_comments_are_no_marks(lines: str) -> None:
    assert read(marked(f"{lines}a = host=h\n")).databases[0].role is Role.PRIMARY


@pytest.mark.parametrize("host", ["", "a,", ",a", "a,,b", "a b", "a,b c", "a,b\nx", "a,'", "a,/tmp", "a;b"])
def test_no_host_of_a_list_can_break_out(host: str) -> None:
    with pytest.raises(BlockError, match="is not led there") as caught:
        rewrite(
            marked(f"{MARK}a = host=h\n"), "demo", Route(TO.endpoint, STAMP, readers=Endpoint(host, 1)), "f"
        )
    assert caught.value.place == "f"
    assert caught.value.hint


def test_a_file_that_was_led_still_knows_its_name_and_what_is_for_reads() -> None:
    text = marked("a = host=h\nb = host=h\n", "demo") + marked("c = host=h\n", "x")
    led = MarkedFile(text, "demo", "f", ("b",)).led_to(TO_BOTH)
    assert led.block.databases == (Database("a", TO.endpoint), Database("b", READS, Role.REPLICA))
    assert led.led_to(TO_BOTH).text == led.text
    with pytest.raises(BlockError) as caught:
        led.led_to(Route(Endpoint("a b", 5432), STAMP))
    assert caught.value.place == "f"


def test_a_file_that_is_led_again_is_as_one_that_is_read() -> None:
    text = marked("a = host=h\nb = host=h\n", "demo") + marked("c = host=h\n", "x")
    once = MarkedFile(text, "demo", "f", ("b",)).led_to(TO_BOTH)
    again = once.led_to(Route(Endpoint("h2", 6543), replace(STAMP, revision=STAMP.revision + 1)))
    assert again.text != once.text
    assert again.block == MarkedFile(again.text, "demo", "f", ("b",)).block
    assert (again.block.stamp, set(again.block.defined)) != (once.block.stamp, set())
    assert once.block == MarkedFile(once.text, "demo", "f", ("b",)).block


def test_where_a_name_is_asked_for_markers_without_one_are_none_of_ours() -> None:
    plain = ";; [config cluster: begin]\napp = host=a\n;; [config cluster: end]\n"
    named = plain.replace("cluster:", "cluster demo:")
    with pytest.raises(BlockError) as refused:
        MarkedFile(plain, "demo", "f.ini", named=True)
    assert refused.value.place == "f.ini:1"
    assert refused.value.problem == "a block without a name where `block` names one"
    assert refused.value.hint == "name it: ;; [config cluster demo: begin]"
    route = Route(Endpoint("b", 5432), Stamp(1, "7", 5, 3, "n"))
    led = MarkedFile(named, "demo", "f.ini", named=True).led_to(route)
    assert led.block.databases[0].endpoint.host == "b"
    assert led.led_to(route).text == led.text
