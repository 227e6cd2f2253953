"""A real Alertmanager with the project's example: what is told, and what is not told a second time."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.support.addresses import take_address
from tests.support.processes import Process
from tests.support.waiting import wait_for

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "deploy/prometheus/alertmanager.yaml"
PORT = 9093


class Alertmanager:
    """One that runs; alerts are put in, and it says which of them it keeps to itself."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}:{PORT}"

    def is_ready(self) -> bool:
        try:
            return urllib3.request("GET", f"{self._url}/-/ready", timeout=2, retries=False).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def suppressed(self, alerts: Iterable[dict[str, str]]) -> set[tuple[str, str]]:
        """Alert and target of those that are inhibited once all of these fire."""
        told = [{"labels": labels} for labels in alerts]
        posted = urllib3.request("POST", f"{self._url}/api/v2/alerts", json=told, timeout=5)
        assert posted.status == 200, posted.data
        found = wait_for(lambda: self._all(len(told)), 10, "all alerts are taken up")
        return {
            (alert["labels"]["alertname"], alert["labels"].get("target", ""))
            for alert in found
            if alert["status"]["inhibitedBy"]
        }

    def _all(self, count: int) -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = json.loads(
            urllib3.request("GET", f"{self._url}/api/v2/alerts", timeout=5).data
        )
        is_whole = len(found) == count and all(alert["status"]["state"] != "unprocessed" for alert in found)
        return found if is_whole else None


@pytest.fixture
def alertmanager(tmp_path: Path, installed: None) -> Iterator[Alertmanager]:
    address, log = take_address(), tmp_path / "alertmanager.log"
    options = [
        f"--config.file={EXAMPLE}",
        f"--storage.path={tmp_path / 'data'}",
        f"--web.listen-address={address}:{PORT}",
        "--cluster.listen-address=",
    ]
    process = Process("alertmanager", ["/usr/bin/prometheus-alertmanager", *options], log=log)
    process.start()
    try:
        one = Alertmanager(address)
        wait_for(one.is_ready, 15, "Alertmanager is ready", logs=[log])
        yield one
    finally:
        process.stop()


def alert(name: str, target: str = "", cluster: str = "demo", instance: str = "w1") -> dict[str, str]:
    labels = {"alertname": f"Watcher{name}", "cluster": cluster, "instance": instance, "target": target}
    return {label: value for label, value in labels.items() if value}


def test_what_is_wrong_with_one_pgbouncer_says_nothing_of_another(alertmanager: Alertmanager) -> None:
    firing = [
        alert("TargetOutOfSync", "pgb1"),
        alert("TargetFailing", "pgb1"),
        alert("TargetFailing", "pgb2"),
        alert("TargetCannotHold", "pgb2"),
        alert("TargetsDisagree"),
        alert("TargetsDisagree", cluster="other"),
    ]
    expected = {("WatcherTargetFailing", "pgb1"), ("WatcherTargetsDisagree", "")}
    assert alertmanager.suppressed(firing) == expected


def test_without_a_primary_clients_wait_which_is_told_once_and_that_they_fail_is_told(
    alertmanager: Alertmanager,
) -> None:
    firing = [alert("LeaderUnusable"), alert("HeldTooLong", "pgb1"), alert("HoldGivenUp", "pgb1")]
    assert alertmanager.suppressed(firing) == {("WatcherHeldTooLong", "pgb1")}


def test_a_blind_watcher_says_so_and_another_is_believed(alertmanager: Alertmanager) -> None:
    firing = [
        alert("Blind"),
        alert("EtcdUnheard"),
        alert("TargetOutOfSync", "pgb1"),
        alert("TargetOutOfSync", "pgb2", instance="w2"),
    ]
    expected = {("WatcherEtcdUnheard", ""), ("WatcherTargetOutOfSync", "pgb1")}
    assert alertmanager.suppressed(firing) == expected
