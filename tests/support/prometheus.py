"""A real Prometheus that scrapes watchers by the project's own scrape.yaml, with its own rules made quick."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import urllib3
import yaml

from tests.support.addresses import take_address
from tests.support.processes import Process
from tests.support.waiting import wait_for

REPOSITORY = Path(__file__).parents[2]
RULES = REPOSITORY / "deploy/prometheus/alerts.yaml"
SCRAPE = REPOSITORY / "deploy/prometheus/scrape.yaml"
PORT = 9090
READY_SECONDS = 20.0


def quick(rules: str, hold: str = "0s") -> str:
    """The rules with every `for` at `hold`, looked at twice a second."""
    return re.sub(r"interval: \S+", "interval: 500ms", re.sub(r"for: \S+", f"for: {hold}", rules))


def _jobs(targets: Mapping[str, Iterable[str]], environments: Mapping[str, str]) -> list[dict[str, Any]]:
    """Those of scrape.yaml, by name with these targets, as often as all else."""
    jobs: list[dict[str, Any]] = yaml.safe_load(SCRAPE.read_text())["scrape_configs"]
    for job in jobs:
        job.pop("scrape_interval", None)
        job["static_configs"] = [
            {"targets": [one], "labels": {"environment": environments.get(one, "")}}
            for one in targets[job["job_name"]]
        ]
    return jobs


class Prometheus(AbstractContextManager["Prometheus"]):
    """Scrapes and evaluates twice a second. `watchers` and `patronis` are host:port, and `environments` has
    the label of those that have one.
    """

    def __init__(
        self,
        folder: Path,
        watchers: Iterable[str],
        patronis: Iterable[str] = (),
        rules: Callable[[str], str] = quick,
        environments: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.address = take_address()
        self.log = folder / "prometheus.log"
        (folder / "alerts.yaml").write_text(rules(RULES.read_text()))
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(folder / "alerts.yaml")],
            "scrape_configs": _jobs({"pgbouncer-watcher": watchers, "patroni": patronis}, environments or {}),
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.process = Process(
            "prometheus",
            [
                "/usr/bin/prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.address}:{PORT}",
                "--enable-feature=exemplar-storage",
                "--log.level=warn",
            ],
            log=self.log,
        )

    def __enter__(self) -> Self:
        self.process.start()
        wait_for(self._is_ready, READY_SECONDS, "Prometheus is ready", logs=[self.log])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()

    def _is_ready(self) -> bool:
        try:
            return self._get("/-/ready").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _get(self, path: str, **fields: str) -> urllib3.BaseHTTPResponse:
        return urllib3.request(
            "GET", f"http://{self.address}:{PORT}{path}", fields=fields, timeout=5, retries=False
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The rows of an instant query: `metric` and `value`."""
        answer = json.loads(self._get("/api/v1/query", query=expression).data)
        assert answer["status"] == "success", answer
        rows: list[dict[str, Any]] = answer["data"]["result"]
        return rows

    def value(self, expression: str) -> float | None:
        """The value of a query that has one row; None where it has none."""
        rows = self.query(expression)
        assert len(rows) < 2, rows
        return float(rows[0]["value"][1]) if rows else None

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        found = json.loads(self._get("/api/v1/alerts").data)["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in found if alert["state"] == "firing"}

    def wait_for_firing(self, *names: str, timeout: float = 20) -> None:
        """Until exactly these alerts fire."""
        wait_for(lambda: self.firing() == set(names), timeout, f"firing: {names}, not {self.firing()}")
