"""The newer PgBouncer of the bed: it serves like Debian's own, knows `KILL_CLIENT`, and is missed aloud."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import newer_pgbouncer
from tests.support.folders import bed_folder
from tests.support.install_steps import InstallError
from tests.support.load import ClientLoad
from tests.support.newer_pgbouncer import PACKAGES, command, is_current, of_suite
from tests.support.pgbouncer import RECOMMENDED, PgBouncer
from tests.support.postgres import Postgres
from tests.support.waiting import BedError, wait_for
from watcher.decide.advice import parse_version


@pytest.fixture(scope="module")
def folder(installed: None) -> Iterator[Path]:
    with bed_folder() as path:
        yield path


@pytest.fixture(scope="module")
def bouncer(folder: Path) -> Iterator[PgBouncer]:
    """In front of a server, with passwords as in earnest."""
    with (
        Postgres(folder / "postgres", auth="scram-sha-256") as server,
        PgBouncer(
            folder / "b",
            server=(server.address, server.port),
            auth_type="scram-sha-256",
            ini_extra=RECOMMENDED,
            version="new",
        ) as bouncer,
    ):
        yield bouncer


def test_it_is_new_enough_and_its_account_gets_a_console_over_the_unix_socket(bouncer: PgBouncer) -> None:
    (row,) = bouncer.console("SHOW VERSION")
    assert (parse_version(row["version"]) or ()) >= (1, 24)
    assert f"Uid:\t{_uid(bouncer)}\t" in Path(f"/proc/{bouncer.pid}/status").read_text()


def _uid(bouncer: PgBouncer) -> int:
    return bouncer.ini.stat().st_uid


def test_clients_are_served_through_it_with_a_password(bouncer: PgBouncer) -> None:
    assert bouncer.sql("SELECT 6 * 7 AS answer") == [{"answer": "42"}]
    with pytest.raises(BedError, match="SASL authentication failed"):
        bouncer.tcp_console("SHOW VERSION", password="wrong")


def test_it_is_paused_reloaded_and_resumed(bouncer: PgBouncer) -> None:
    server = bouncer.route()
    bouncer.console("PAUSE app")
    assert bouncer.is_paused()
    bouncer.point_at("127.0.0.9", 5432)
    assert bouncer.route() == ("127.0.0.9", 5432)
    bouncer.point_at(*server)
    bouncer.console("RESUME app")
    assert not bouncer.is_paused()
    assert bouncer.sql("SELECT 1 AS one") == [{"one": "1"}]


def test_it_kills_one_client_and_no_other(folder: Path, bouncer: PgBouncer) -> None:
    def served() -> set[str]:
        return {row["id"] for row in bouncer.console("SHOW CLIENTS") if row["database"] == "app"}

    with ClientLoad(folder, bouncer.address, bouncer.port):
        before = wait_for(served, 5, "clients are there", logs=[bouncer.log])
        victim = next(iter(before))
        bouncer.console(f"KILL_CLIENT {victim}")
        wait_for(lambda: victim not in served(), 5, "the client is gone", logs=[bouncer.log])


def test_it_dies_with_its_object_and_starts_again(folder: Path) -> None:
    with PgBouncer(folder / "b2", version="new") as bouncer:
        bouncer.freeze()
        with pytest.raises(BedError):
            bouncer.console("SHOW VERSION", timeout=0.5)
        bouncer.thaw()
        bouncer.kill()
        assert not bouncer.is_alive()
        bouncer.start()
        pid = bouncer.pid
    assert not Path(f"/proc/{pid}").exists()


# --- where it is not ------------------------------------------------------------------------------


def test_where_it_is_missing_a_test_fails_with_the_remedy(
    tmp_path: Path, service_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InstallError, match=r"HINT: .*python3 -m tests\.support\.install"):
        command(tmp_path)

    def missing() -> list[str | Path]:
        return command(tmp_path)

    monkeypatch.setattr(newer_pgbouncer, "command", missing)
    with pytest.raises(BedError, match=r"HINT: .*python3 -m tests\.support\.install"):
        PgBouncer(service_folder / "b", version="new")


def test_what_was_not_unpacked_to_the_end_does_not_count(tmp_path: Path) -> None:
    note = tmp_path / "unpacked-packages.txt"
    note.write_text("\n".join(PACKAGES[:-1]))
    assert not is_current(tmp_path)
    note.write_text("\n".join(PACKAGES))
    assert is_current(tmp_path)


# --- sources of apt -------------------------------------------------------------------------------

STANZAS = """\
# the release
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 key

Types: deb
URIs: http://other.example/tools
suites: nodistro
Components: main
"""


def test_stanzas_of_the_release_keep_all_but_their_suites() -> None:
    ours = of_suite("debian.sources", STANZAS, "bookworm")
    kept = STANZAS.split("\n\n")[0]
    assert (
        ours == kept.replace("bookworm bookworm-updates bookworm-backports", "trixie trixie-updates") + "\n\n"
    )


def test_lines_that_are_no_source_of_packages_of_the_release_are_left_out() -> None:
    lines = [
        "# deb http://mirror.example/debian bookworm main",
        "deb-src http://mirror.example/debian bookworm main",
        "deb http://mirror.example/debian bookworm contrib",
        "deb http://pg.example bookworm-pgdg main",
        "deb http://mirror.example/debian-security bookworm-security main # ours",
        "deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] http://mirror.example/debian oldstable main",
    ]
    ours = of_suite("sources.list", "\n".join(lines), "bookworm").splitlines()
    assert ours == [
        "deb http://mirror.example/debian-security trixie-security main # ours",
        "deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] http://mirror.example/debian trixie main",
    ]


@pytest.mark.parametrize("name", ["a.list.save", "b.sources.disabled", "README"])
def test_files_that_apt_does_not_read_are_not_read(name: str) -> None:
    assert of_suite(name, f"deb http://mirror.example/debian bookworm main\n{STANZAS}", "bookworm") == ""


def test_without_a_codename_only_the_names_of_every_debian_count() -> None:
    lines = "deb http://mirror.example/debian  - main\ndeb http://mirror.example/debian stable main\n"
    assert of_suite("a.list", lines, "") == "deb http://mirror.example/debian trixie main\n"
