"""Targets of one cluster that differ: in groups with their own policy, and a canary that goes first.

The leader is a cluster that consists of its keys; both of its addresses lead to the bed's real primary, the
second through a proxy, so that clients are held and released as ever.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hold_stage import reasons, wait_until_held
from tests.e2e.test_stage import Keys, at, file_route, is_led, settings_by_keys, settled, shown_route, stays
from tests.support.bed import Bed, BouncerHost
from tests.support.proxy import Proxy
from tests.support.waiting import wait_for
from tests.support.watcher import Settings, WatcherProcess, ssh_target

LIMIT = 20.0
BRIEF = 1.5
HOLD = {"enabled": True, "limit": 30.0}


@dataclass(frozen=True)
class Scene:
    """A watcher that follows `keys`, whose leader is at `old`; `new` is where the next one will be."""

    keys: Keys
    watcher: WatcherProcess
    first: BouncerHost
    second: BouncerHost
    old: str
    proxy: Proxy

    @property
    def new(self) -> str:
        return self.proxy.endpoint

    def wait_until_led(self, *hosts: BouncerHost) -> None:
        for host in hosts:
            what = f"{host.name} leads to the new leader"
            wait_for(partial(is_led, host, self.new), LIMIT, what, logs=[self.watcher.log])

    def moved(self) -> list[str]:
        """Both targets in the order in which they were led to the new leader; the log may come later."""

        def both() -> list[str]:
            found = [line["target"] for line in self.watcher.lines("switch") if line["route"] == self.new]
            return found if len(found) == 2 else []

        return wait_for(both, LIMIT, "both were led there", logs=[self.watcher.log])


@contextmanager
def scene_of(bed: Bed, folder: Path, second: Settings | None = None, **sections: Any) -> Iterator[Scene]:
    """The second target has the settings `second` as well."""
    keys, old, (one, other) = Keys(bed.etcd), at(bed.leader()), bed.bouncers
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(old))
        keys.join("old", f"postgres://{old}/postgres")
        keys.join("new", f"postgres://{proxy.endpoint}/postgres")
        keys.lead("old")
        targets = [ssh_target(one), ssh_target(other, **(second or {}))]
        settings = settings_by_keys(bed, keys, **{"hold": HOLD, "targets": targets, **sections})
        watcher = stack.enter_context(WatcherProcess(folder, settings))
        settled(watcher, bed, old)
        yield Scene(keys, watcher, one, other, old, proxy)


# --- groups ---------------------------------------------------------------------------------------


def test_a_group_whose_clients_are_not_held_is_led_beside_one_whose_are(bed: Bed, tmp_path: Path) -> None:
    groups = {"free": {"hold": {"enabled": False}}}
    with scene_of(bed, tmp_path, {"group": "free"}, groups=groups) as scene:
        scene.keys.end_reign()
        wait_until_held(scene.watcher, [scene.first], "no_leader")
        stays(lambda: not scene.second.pgbouncer.is_paused(), 0.5, "nobody of the group waits")
        assert scene.first.pgbouncer.is_paused()
        scene.keys.put("leader", "new")
        scene.wait_until_led(scene.first, scene.second)
        assert reasons(scene.watcher, scene.second) == []
        assert scene.watcher.get(f"/targets/{scene.second.name}")[0] == 200


def test_each_group_has_a_limit_of_its_own(bed: Bed, tmp_path: Path) -> None:
    groups = {"brief": {"hold": {"limit": BRIEF, "announced_limit": BRIEF}}}
    with scene_of(bed, tmp_path, {"group": "brief"}, groups=groups) as scene:
        scene.keys.end_reign()
        wait_until_held(scene.watcher, [scene.first, scene.second], "no_leader")
        released = scene.watcher.wait_for_line("release", target=scene.second.name)
        assert released["held_ms"] >= BRIEF * 900
        assert scene.first.pgbouncer.is_paused()
        assert not scene.second.pgbouncer.is_paused()
        scene.keys.put("leader", "new")
        scene.wait_until_led(scene.first, scene.second)
        assert len(reasons(scene.watcher, scene.second)) == 1


def test_a_crash_makes_those_wait_whose_group_waits_for_it(bed: Bed, tmp_path: Path) -> None:
    groups = {"calm": {"hold": {"on_crash": False}}}
    with scene_of(bed, tmp_path, {"group": "calm"}, groups=groups) as scene:
        scene.keys.lead("new")
        scene.wait_until_led(scene.first, scene.second)
        scene.proxy.cut()
        wait_until_held(scene.watcher, [scene.first], "primary_refuses")
        stays(lambda: not scene.second.pgbouncer.is_paused(), 0.5, "nobody of the other group waits")
        scene.proxy.mend()
        wait_for(lambda: not scene.first.pgbouncer.is_paused(), LIMIT, "they go on", logs=[scene.watcher.log])
        assert reasons(scene.watcher, scene.second) == ["no_leader"]


# --- canary ---------------------------------------------------------------------------------------


def canary(host: BouncerHost, **changes: Any) -> Settings:
    return {"targets": [host.name], "limit": 10.0, **changes}


@pytest.mark.parametrize("which", [0, 1])
def test_the_canary_is_led_first_and_then_the_rest(which: int, bed: Bed, tmp_path: Path) -> None:
    host = bed.bouncers[which]
    with scene_of(bed, tmp_path, canary=canary(host)) as scene:
        scene.keys.lead("new")
        scene.wait_until_led(scene.first, scene.second)
        assert scene.moved() == [host.name, bed.bouncers[1 - which].name]


def test_the_rest_waits_held_for_a_canary_that_is_late(bed: Bed, tmp_path: Path) -> None:
    with scene_of(bed, tmp_path, canary=canary(bed.bouncers[0])) as scene:
        scene.first.sshd.freeze()
        scene.keys.lead("new")
        scene.watcher.wait_for_line("wish", reason="canary")
        wait_for(scene.second.pgbouncer.is_paused, LIMIT, "the rest waits")
        stays(scene.second.pgbouncer.is_paused, 0.5, "the rest waits")
        assert file_route(scene.second) == shown_route(scene.second) == scene.old
        scene.first.sshd.thaw()
        scene.wait_until_led(scene.first, scene.second)
        assert scene.moved()[0] == scene.first.name
        wait_for(lambda: not scene.second.pgbouncer.is_paused(), LIMIT, "clients go on")


def test_a_canary_that_is_dead_delays_the_rest_for_its_limit_alone(bed: Bed, tmp_path: Path) -> None:
    with scene_of(bed, tmp_path, canary=canary(bed.bouncers[0], limit=BRIEF)) as scene:
        scene.first.sshd.freeze()
        scene.keys.lead("new")
        scene.wait_until_led(scene.second)
        line = scene.watcher.wait_for_line("switch", target=scene.second.name, route=scene.new)
        assert line["held_ms"] >= BRIEF * 900
        assert file_route(scene.first) == scene.old
        scene.first.sshd.thaw()
        scene.wait_until_led(scene.first)


def test_the_rest_stays_where_it_is_if_that_is_the_policy(bed: Bed, tmp_path: Path) -> None:
    rule = canary(bed.bouncers[0], limit=BRIEF, after_limit="stay")
    with scene_of(bed, tmp_path, canary=rule) as scene:
        scene.first.sshd.freeze()
        scene.keys.lead("new")
        wait_until_held(scene.watcher, [scene.second], "no_leader")
        scene.watcher.wait_for_line("release", target=scene.second.name)
        stays(lambda: shown_route(scene.second) == scene.old, 0.5, "it stays")
        assert not scene.second.pgbouncer.is_paused()
        assert scene.watcher.get(f"/targets/{scene.second.name}")[0] == 503
        scene.first.sshd.thaw()
        scene.wait_until_led(scene.first, scene.second)
        assert scene.moved() == [scene.first.name, scene.second.name]


def test_who_drifts_waits_for_no_canary(bed: Bed, tmp_path: Path) -> None:
    """Nor does a watcher that is started anew, whose canary is dead."""
    rule = canary(bed.bouncers[0], after_limit="stay")
    with scene_of(bed, tmp_path, canary=rule, resync_interval=0.5) as scene:
        scene.first.sshd.freeze()
        scene.second.pgbouncer.point_at("127.0.0.77", 5432)
        wait_for(lambda: is_led(scene.second, scene.old), LIMIT, "put right", logs=[scene.watcher.log])
        scene.first.sshd.thaw()
