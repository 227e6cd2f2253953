"""What goes on over a re-read of the settings, and what begins anew. No thread is started."""

import threading
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from watcher.decide.model import Contact, Listing
from watcher.fleet import Fleet, by_namespace
from watcher.observe.etcd import EtcdWatch
from watcher.observe.health_probe import HealthProbe
from watcher.observe.readiness import ReadinessProbe
from watcher.reconciler import Reconciler
from watcher.settings import Settings, load

CLUSTER = """\
  - cluster: {{scope: {scope}{cluster}}}
    targets: [{{name: one, via: local, file: /{scope}.ini, console: {{socket: /s}}}}]
    {own}
"""


class Place:
    """A settings file, read as often as a test likes."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "watcher.yaml"

    def read(self, *clusters: str, common: str = "") -> tuple[Settings, ...]:
        self._file.write_text(f"etcd: {{endpoints: [a:2379]}}\n{common}\nclusters:\n{''.join(clusters)}")
        return load({}, self._file, {}).fleet


def cluster(scope: str, own: str = "", cluster: str = "") -> str:
    return CLUSTER.format(scope=scope, own=own, cluster=cluster)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(threading.Thread, "start", lambda _: None)
    return Place(tmp_path)


def started(clusters: tuple[Settings, ...], before: Fleet | None = None) -> Fleet:
    fleet = Fleet(clusters, before)
    fleet.start()
    return fleet


def test_clusters_of_one_namespace_in_one_etcd_share_a_watch(place: Place) -> None:
    other_etcd = "etcd: {endpoints: [b:2379]}"
    found = place.read(
        cluster("app"),
        cluster("away", cluster=", namespace: elsewhere"),
        cluster("billing"),
        cluster("far", own=other_etcd),
    )
    names = [[each.cluster.name for each in group] for group in by_namespace(found)]
    assert names == [["app", "billing"], ["away"], ["far"]]


def test_a_cluster_that_has_not_changed_goes_on_and_one_that_has_begins_anew_with_its_history(
    place: Place,
) -> None:
    before = started(place.read(cluster("app"), cluster("billing")))
    after = started(place.read(cluster("app"), cluster("billing", own="resync_interval: 5")), before)
    assert after.watchers["app"] is before.watchers["app"]
    assert after.watchers["billing"] is not before.watchers["billing"]
    assert after.windows == before.windows


def test_whose_targets_alone_have_changed_goes_on_with_these(place: Place) -> None:
    before = started(place.read(cluster("app")))
    (settings,) = place.read(cluster("app").replace("/app.ini", "/other.ini"))
    after = started((settings,), before)
    assert after.watchers["app"] is before.watchers["app"]
    assert after.watchers["app"].settings is settings


def test_who_is_replaced_is_asked_to_end_and_who_goes_on_is_not(place: Place) -> None:
    before = started(place.read(cluster("app"), cluster("billing")))
    kept, replaced = before.watchers["app"], before.watchers["billing"]
    fleet = Fleet(place.read(cluster("app"), cluster("billing", own="resync_interval: 5")), before)
    assert not replaced._stop.is_set()  # until it starts
    fleet.start()
    assert (kept._stop.is_set(), replaced._stop.is_set()) == (False, True)
    relief = replaced._workers["one"].reconciler.relief
    assert relief == fleet.watchers["billing"]._workers["one"].relieves


def test_who_takes_a_watchers_place_knows_what_it_knew_of_the_cluster(place: Place) -> None:
    before = started(place.read(cluster("app")))
    before.watchers["app"].board.post(Listing(7, 1, (), 9.0, 10.0))
    fleet = Fleet(place.read(cluster("app", own="resync_interval: 5")), before)
    before.watchers["app"].board.post(Contact(11.0))
    fleet.start()
    assert fleet.watchers["app"].board.view == before.watchers["app"].board.view


def test_who_takes_a_watchers_place_knows_nothing_of_what_is_another_cluster_now(place: Place) -> None:
    before = started(place.read(cluster("app")))
    before.watchers["app"].board.post(Listing(7, 1, (), 9.0, 10.0))
    after = started(place.read(cluster("app", cluster=", namespace: elsewhere")), before)
    assert after.watchers["app"].board.view.contact_at is None


OTHER_SITE = ", standby: other_site, other_site: {etcd: {endpoints: [far:2379]}}"


def test_who_takes_a_watchers_place_knows_what_it_knew_of_the_other_site(place: Place) -> None:
    before = started(place.read(cluster("app", cluster=OTHER_SITE)))
    old = before.watchers["app"]
    assert old._other is not None
    old._other.board.post(Listing(7, 1, (), 9.0, 10.0))
    after = started(place.read(cluster("app", own="resync_interval: 5", cluster=OTHER_SITE)), before)
    assert after.watchers["app"].board.view.other == old._other.board.view


def test_all_who_wait_to_log_in_do_so_in_one_queue_also_over_a_re_read(place: Place) -> None:
    before = started(place.read(cluster("app"), cluster("billing"), common="connect_at_once: 2"))
    clusters = place.read(
        cluster("app"), cluster("billing", own="resync_interval: 5"), common="connect_at_once: 3"
    )
    fleet = Fleet(clusters, before)
    assert before._pace.at_once == 2
    fleet.start()
    assert fleet.watchers["app"] is before.watchers["app"]
    for watcher in (*before.watchers.values(), *fleet.watchers.values()):
        assert watcher._pace is before._pace
    assert before._pace.at_once == 3


def test_a_fleet_does_not_keep_those_before_it(place: Place) -> None:
    before = started(place.read(cluster("app")))
    assert started(place.read(cluster("app")), before)._before is None


def test_each_cluster_s_watcher_knows_whether_one_of_several_is_active(place: Place) -> None:
    alone = started(place.read(cluster("app")))
    assert [source._candidate for source in alone._sources] == [None]
    shared = started(place.read(cluster("app"), cluster("billing"), common="controller: {mode: lease}"))
    (source,) = shared._sources
    assert source._candidate is not None
    for watcher in shared.watchers.values():
        assert watcher._rank._candidate is source._candidate


JOBS = (EtcdWatch, HealthProbe, ReadinessProbe, Reconciler)


@pytest.mark.parametrize("kind", JOBS)
def test_whatever_breaks_off_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    begun: list[object] = []

    def breaks_off_once(self: object, stop: threading.Event) -> None:
        begun.append(self)
        if begun.count(self) == 1 and isinstance(self, kind):
            raise MemoryError
        stop.wait(60)

    monkeypatch.setattr("watcher.lasting.AGAIN_AFTER", 0.0)
    for each in JOBS:
        monkeypatch.setattr(each, "run", breaks_off_once)
    fleet = started(Place(tmp_path).read(cluster("app")))
    wait_for(lambda: sorted(map(begun.count, set(begun))) == [1, 1, 1, 2], 60, "one begins anew")
    assert [each._ailing() for each in fleet.watchers.values()] == [""]
    assert fleet.stop() == ()


def test_a_watch_on_etcd_that_is_dead_is_told_of_each_of_its_clusters(place: Place) -> None:
    fleet = started(place.read(cluster("app"), cluster("billing")))
    assert [each._ailing() for each in fleet.watchers.values()] == ["", ""]
    fleet._sources[0].threads[0]._ident = 1  # type: ignore[attr-defined] # as if it had been begun
    (told,) = {each._ailing() for each in fleet.watchers.values()}
    assert told == "no longer at work: etcd /service/"


def test_a_fleet_knows_how_many_threads_its_start_begins(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: begun.append(thread.name))
    lease = "controller: {mode: lease}"
    one = Fleet(place.read(cluster("app"), cluster("billing"), common=lease))
    assert one.threads_to_begin() == 2 * 3 + 2  # a watch and a lease
    one.start()
    assert len(begun) == 2 * 3 + 2
    changed = cluster("billing", own="resync_interval: 7")
    other = Fleet(place.read(cluster("app"), changed, common=lease), one)
    assert other.threads_to_begin() == 3 + 2
    other.start()
    assert len(begun) == 2 * 3 + 2 + 3 + 2
