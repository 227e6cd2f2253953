"""deploy/kubernetes: against the schemas of the API, against the program, and at work.

No cluster is at hand. What a pod of it runs is run by podman instead, in the same arrangement, on the bed.
"""

import os
import re
import socket
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from tests.deploy.images import build_pgbouncer, build_watcher
from tests.support import podman
from tests.support.addresses import take_address
from tests.support.bed import Bed
from tests.support.blocks import parse
from tests.support.install_deploy import KUBERNETES_VALIDATE
from tests.support.kubectl import KUBECTL
from tests.support.load import ClientLoad
from tests.support.patroni import Node
from tests.support.pod import Pod, Spec, environment
from tests.support.postgres import APP, APP_PASSWORD
from tests.support.processes import run
from tests.support.repository import REPOSITORY
from tests.support.waiting import wait_for
from watcher.decide.advice import recommended
from watcher.settings import load

KUBERNETES = REPOSITORY / "deploy/kubernetes"
PAGE = REPOSITORY / "docs/kubernetes.md"
KUSTOMIZATIONS = ["base", "example"]
RELEASES = ["1.33", "1.37"]
"""The first in which native sidecars are stable, and the newest that there are schemas of."""
READY_SECONDS = 15.0
"""Less than the 30 s after which /startupz says yes in any case."""


def _built(folder: Path) -> list[Spec]:
    """What `kubectl apply -k` would send."""
    return list(yaml.safe_load_all(run([KUBECTL, "kustomize", folder]).stdout))


@cache
def _objects(name: str) -> list[Spec]:
    return _built(KUBERNETES / name)


def _the(kind: str, objects: list[Spec]) -> Spec:
    (found,) = [each for each in objects if each["kind"] == kind]
    return found


def _pod_spec(name: str) -> Spec:
    spec: Spec = _the("Deployment", _objects(name))["spec"]["template"]["spec"]
    return spec


def _containers(name: str) -> dict[str, Spec]:
    spec = _pod_spec(name)
    return {each["name"]: each for each in [*spec["initContainers"], *spec["containers"]]}


# --- what the API says --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
@pytest.mark.parametrize("release", RELEASES)
def test_every_object_fits_the_schema_of_kubernetes(tmp_path: Path, name: str, release: str) -> None:
    """All but the PodMonitor, whose schema is the Prometheus Operator's."""
    ours = [each for each in _objects(name) if each["apiVersion"] != "monitoring.coreos.com/v1"]
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(ours))
    said = run([KUBERNETES_VALIDATE.folder / "bin/kubernetes-validate", "--strict", "-k", release, file])
    assert said.stdout.count("passed for resource") == len(ours) == 5


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_nothing_asks_for_a_right(name: str) -> None:
    assert not [
        each["kind"] for each in _objects(name) if "Role" in each["kind"] or "Account" in each["kind"]
    ]
    assert _pod_spec(name)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_every_container_is_confined(name: str) -> None:
    """As Kubernetes' own level `restricted` asks for, and with a root that cannot be written."""
    account = _pod_spec(name)["securityContext"]
    assert account["runAsNonRoot"] is True
    assert account["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in _containers(name).values():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]


# --- what refers to what ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_every_selector_finds_the_pods(name: str) -> None:
    objects = _objects(name)
    labels = _the("Deployment", objects)["spec"]["template"]["metadata"]["labels"].items()
    selectors = [_the("Service", objects)["spec"]["selector"]]
    selectors += [_the("NetworkPolicy", objects)["spec"]["podSelector"]["matchLabels"]]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in objects if "Pod" in each["kind"]]
    assert len(selectors) == {"base": 3, "example": 4}[name]
    for selector in selectors:
        assert selector.items() <= labels


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_every_named_port_is_a_container_s(name: str) -> None:
    ports = {port["name"] for each in _containers(name).values() for port in each.get("ports", [])}
    named = set(re.findall(r"\b(?:targetPort|port): ([a-z]\w*)$", yaml.safe_dump_all(_objects(name)), re.M))
    assert named == ports == {"pgbouncer", "watcher"}


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_the_page_tells_how_every_secret_is_made(name: str) -> None:
    wanted = {each["secret"]["secretName"] for each in _pod_spec(name)["volumes"] if "secret" in each}
    made = re.findall(r"create secret generic ([\w-]+)((?: --from-file=\S+)+)", PAGE.read_text())
    assert {secret for secret, _ in made} == wanted
    files = {
        f"{mount['mountPath']}/{file}"
        for secret, flags in made
        for file in re.findall(r"--from-file=([\w.]+)", flags)
        for each in _containers(name).values()
        for mount in each["volumeMounts"]
        if secret == f"pgbouncer-{mount['name']}"
    }
    config = _the("ConfigMap", _objects(name))["data"]
    assert files == set(re.findall(r"/etc/pgbouncer-(?:etcd|users)/\S+", "".join(config.values())))


# --- what the program says ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_the_settings_are_the_program_s_and_meet_the_pod(tmp_path: Path, name: str) -> None:
    config = tmp_path / "watcher.yaml"
    config.write_text(_the("ConfigMap", _objects(name))["data"]["watcher.yaml"])
    containers = _containers(name)
    settings = load({}, config, environment(containers["watcher"], "pgbouncer-5d8f7c9b6d-x2x7k")).settings
    (target,) = settings.targets
    assert target.name == "pgbouncer-5d8f7c9b6d-x2x7k"
    assert target.console is not None
    assert f"{settings.http.listen}" == f"0.0.0.0:{containers['watcher']['ports'][0]['containerPort']}"
    assert containers["pgbouncer"]["command"][-1] == target.file
    shared = [
        {mount["mountPath"] for mount in each["volumeMounts"] if not mount.get("readOnly")}
        for each in (containers["watcher"], containers["pgbouncer"])
    ]
    wanted = {str(Path(target.file).parent), str(Path(str(target.console.socket)).parent)}
    assert shared == [wanted, wanted]


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_pgbouncer_s_settings_are_those_recommended_and_its_block_is_read(name: str) -> None:
    text = _the("ConfigMap", _objects(name))["data"]["pgbouncer.ini"]
    assert [each.name for each in parse(text, "main", "pgbouncer.ini").databases] == ["app"]
    lines = dict(re.findall(r"^;?(\w+) = (.+)$", text, re.MULTILINE))
    assert recommended((1, 25)).items() <= lines.items()
    (target,) = load({}, None, _as_environment(name)).settings.targets
    assert target.console is not None
    assert str(target.console.socket) == f"{lines['unix_socket_dir']}/.s.PGSQL.{lines['listen_port']}"


def _as_environment(name: str) -> dict[str, str]:
    """Enough for settings without a file."""
    return {
        **environment(_containers(name)["watcher"], "pod"),
        "WATCHER_CLUSTER__SCOPE": "main",
        "WATCHER_ETCD__ENDPOINTS": '["127.0.0.1:2379"]',
    }


# --- at work ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images() -> dict[str, str]:
    """By the names that the base has."""
    return {"pgbouncer-watcher": build_watcher(), "pgbouncer": build_pgbouncer()}


@pytest.fixture
def address() -> str:
    """The pod's, for its network is the host's."""
    return take_address()


@pytest.fixture
def pod(bed: Bed, images: dict[str, str], address: str, service_folder: Path) -> Iterator[Pod]:
    """A pod of an overlay of the base that follows the bed."""
    objects = _built(_overlay(service_folder / "overlay", bed, address))
    config = _the("ConfigMap", objects)
    files = {
        config["metadata"]["name"]: config["data"],
        "pgbouncer-users": {"userlist.txt": f'"{APP}" "{APP_PASSWORD}"\n'},
        "pgbouncer-etcd": {},
    }
    folder = service_folder / "volumes"
    with Pod("pod", folder, _the("Deployment", objects), files, images) as pod:
        yield pod


def _overlay(folder: Path, bed: Bed, address: str) -> Path:
    """As a user writes one: the base, and files in the place of its own."""
    folder.mkdir()
    kustomization = {
        "resources": [os.path.relpath(KUBERNETES / "base", folder.resolve())],
        "configMapGenerator": [
            {"name": "pgbouncer", "behavior": "merge", "files": ["pgbouncer.ini", "watcher.yaml"]}
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    ini = (KUBERNETES / "base/pgbouncer.ini").read_text()
    (folder / "pgbouncer.ini").write_text(ini.replace("listen_addr = *", f"listen_addr = {address}"))
    settings: dict[str, Any] = yaml.safe_load((KUBERNETES / "base/watcher.yaml").read_text())
    settings["cluster"]["scope"] = bed.patroni.scope
    settings["etcd"] = {"endpoints": bed.etcd.endpoints}
    settings["http"]["listen"] = settings["http"]["listen"].replace("0.0.0.0", address)  # noqa: S104 - replaced
    (folder / "watcher.yaml").write_text(yaml.safe_dump(settings))
    return folder


def _is_ready(address: str) -> bool:
    """By the probes that the Deployment has."""
    probes: Spec = {name: each.get("readinessProbe") for name, each in _containers("base").items()}
    assert probes["pgbouncer"]["tcpSocket"] == {"port": "pgbouncer"}
    path = probes["watcher"]["httpGet"]["path"]
    try:
        with socket.create_connection((address, 6432), 1):
            return (
                urllib3.request("GET", f"http://{address}:9632{path}", timeout=1, retries=False).status == 200
            )
    except (OSError, urllib3.exceptions.HTTPError):
        return False


def _switch_over(bed: Bed, load: ClientLoad) -> Node:
    bed.patroni.wait_for_replicas()
    old = bed.leader()
    candidate = next(node for node in bed.patroni.nodes if node is not old)
    bed.patroni.switchover(candidate)
    load.wait_for_commit(candidate.host, after=time.monotonic())
    return candidate


@pytest.mark.timeout(900)
def test_a_pod_of_the_base_follows_switchovers_and_no_client_sees_one(
    bed: Bed, pod: Pod, address: str, tmp_path: Path
) -> None:
    """The watcher is killed between the two, as a kubelet that starts it anew would find it."""
    watcher, pgbouncer = pod.containers["watcher"], pod.containers["pgbouncer"]
    wait_for(partial(_is_ready, address), READY_SECONDS, "the pod is ready")
    assert watcher.exec("touch", "/etc/anything", check=False).returncode != 0
    check = watcher.exec("watcher", "check-config", "--config", "/etc/pgbouncer-watcher/watcher.yaml")
    assert "FAULT" not in check.stdout
    assert re.findall(r"^advice +target pod: (\w+)", check.stdout, re.MULTILINE) == ["version"]  # Debian's

    with ClientLoad(tmp_path, address, 6432) as clients:
        first = _switch_over(bed, clients)
        watcher.kill()
        podman.podman("start", watcher.name)
        wait_for(partial(_is_ready, address), READY_SECONDS, "the pod is ready again")
        second = _switch_over(bed, clients)
    report = clients.report()
    assert report.errors == {}
    assert {first.host, second.host} <= {server.split(":")[0] for server in report.servers}

    stop = _containers("base")["pgbouncer"]["lifecycle"]["preStop"]["exec"]["command"]
    pgbouncer.exec(*stop, timeout=30, check=False)
    wait_for(lambda: _state(pgbouncer) == "exited 0", 10, "PgBouncer has ended by itself")


def _state(container: podman.Container) -> str:
    return container.inspect("{{.State.Status}} {{.State.ExitCode}}")
