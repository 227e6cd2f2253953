"""What fails in PgBouncer."""

from tests.chaos.registry import Fails, Lags, Undo, case
from tests.chaos.scene import Scene
from tests.support.pgbouncer import ADMIN_PASSWORD


@case(
    "the other target is switched at once; the struck one leads right when it is back",
    fails=Fails.VICTIMS,
    lags=Lags.VICTIM,
)
def pgbouncer_killed(scene: Scene, undo: Undo) -> None:
    """PgBouncer dies; it is started later."""
    undo.by(scene.victim.pgbouncer.start)
    scene.victim.pgbouncer.kill()


@case(
    "the other target is switched at once; the struck one when PgBouncer goes on",
    fails=Fails.VICTIMS,
    lags=Lags.VICTIM,
)
def pgbouncer_frozen(scene: Scene, undo: Undo) -> None:
    """PgBouncer hangs."""
    undo.by(scene.victim.pgbouncer.thaw)
    scene.victim.pgbouncer.freeze()


@case(
    "the other target is switched at once; the struck one too, by the agent that is there",
    fails=Fails.VICTIMS,
)
def pgbouncer_takes_no_more_clients(scene: Scene, undo: Undo) -> None:
    """PgBouncer has no client connection left to give."""
    pgbouncer = scene.victim.pgbouncer
    (row,) = (row for row in pgbouncer.console("SHOW CONFIG") if row["key"] == "max_client_conn")
    undo.by(lambda: pgbouncer.console(f"SET max_client_conn = {row['value']}"))
    pgbouncer.console("SET max_client_conn = 4")


@case(
    "the other target is switched at once; the struck one once the password is right again",
    fails=Fails.VICTIMS,
    lags=Lags.VICTIM,
)
def console_has_another_password(scene: Scene, undo: Undo) -> None:
    """The administrator's password was changed, and the agent has to log in anew."""
    pgbouncer = scene.victim.pgbouncer
    users = pgbouncer.folder / "userlist.txt"
    before = users.read_text()
    undo.by(pgbouncer.reload)
    undo.by(lambda: users.write_text(before))
    users.write_text(before.replace(f'"{ADMIN_PASSWORD}"', '"another"'))
    pgbouncer.reload()
    scene.victim.sshd.kill_sessions()


@case(
    "both targets are switched at once, and nobody fails but whom the restart threw out", fails=Fails.VICTIMS
)
def pgbouncer_restarted(scene: Scene, undo: Undo) -> None:
    """PgBouncer dies and is there again at once."""
    undo.by(scene.victim.start)
    scene.victim.pgbouncer.kill()
    scene.victim.pgbouncer.start()
