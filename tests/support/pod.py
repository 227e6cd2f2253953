"""A pod without Kubernetes: what a Deployment describes, started with podman as a kubelet would start it.

The same images, commands, environment, account, confinement and volumes, in the same order. Not a kubelet's:
the network is the host's, nothing is probed, and nothing that ends is started anew.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.podman import Container, podman

Spec = dict[str, Any]
Files = Mapping[str, Mapping[str, str]]


class Pod(AbstractContextManager["Pod"]):
    """One pod of `deployment`, its volumes below `folder`.

    `files` are the files of each ConfigMap and Secret, `images` are those of this machine, by the name of the
    Deployment's. After entering it `containers` are those that go on, by name.
    """

    def __init__(
        self, name: str, folder: Path, deployment: Spec, files: Files, images: Mapping[str, str]
    ) -> None:
        self.name = name
        self.containers: dict[str, Container] = {}
        self._folder, self._files, self._images = folder, files, images
        self._spec: Spec = deployment["spec"]["template"]["spec"]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for volume in self._spec["volumes"]:
                self._fill(volume)
            for container in self._spec["initContainers"]:
                if container.get("restartPolicy") == "Always":
                    self._start(container, stack)
                else:
                    podman(
                        "run", "--rm", *self._options(container), *_image_and_words(container, self._images)
                    )
            for container in self._spec["containers"]:
                self._start(container, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self, spec: Spec, stack: ExitStack) -> None:
        image, *words = _image_and_words(spec, self._images)
        name = f"{self.name}-{spec['name']}"
        container = Container(name, image, *words, options=list(self._options(spec)))
        self.containers[spec["name"]] = stack.enter_context(container)

    # --- volumes ----------------------------------------------------------------------------------------

    def _fill(self, volume: Spec) -> None:
        """Make the volume's folder, for the pod's group as `fsGroup` makes it."""
        folder = self._folder / volume["name"]
        folder.mkdir(parents=True)
        for name, text in self._content(volume).items():
            (folder / name).write_text(text)
            os.chown(folder / name, 0, self._account["fsGroup"])
            (folder / name).chmod(0o640)
        os.chown(folder, 0, self._account["fsGroup"])
        folder.chmod(0o2777 if "emptyDir" in volume else 0o755)

    def _content(self, volume: Spec) -> Mapping[str, str]:
        if "emptyDir" in volume:
            return {}
        return self._files[volume.get("configMap", {}).get("name") or volume["secret"]["secretName"]]

    # --- a container's options ----------------------------------------------------------------------------

    @property
    def _account(self) -> Spec:
        account: Spec = self._spec["securityContext"]
        return account

    def _options(self, spec: Spec) -> Iterator[str]:
        confinement = spec["securityContext"]
        yield "--network=host"
        yield f"--user={self._account['runAsUser']}:{self._account['runAsGroup']}"
        if confinement["readOnlyRootFilesystem"]:
            yield from ("--read-only", "--read-only-tmpfs=false")
        if not confinement["allowPrivilegeEscalation"]:
            yield "--security-opt=no-new-privileges"
        yield from (f"--cap-drop={capability}" for capability in confinement["capabilities"]["drop"])
        yield from (f"--env={name}={value}" for name, value in environment(spec, self.name).items())
        for mount in spec["volumeMounts"]:
            ending = ":ro" if mount.get("readOnly") else ""
            yield f"--volume={self._folder / mount['name']}:{mount['mountPath']}{ending}"
        if command := spec.get("command"):
            yield f"--entrypoint={command[0]}"


def environment(spec: Spec, pod: str) -> dict[str, str]:
    """A container's variables in a pod of that name; of fields it knows the pod's name, which is all we use.

    >>> environment({"env": [{"name": "A", "value": "x"}, {"name": "B", "value": "$(A) $(C)"}]}, "pod")
    {'A': 'x', 'B': 'x $(C)'}
    """
    known: dict[str, str] = {}
    for variable in spec.get("env", []):
        if "valueFrom" in variable:
            assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
            known[variable["name"]] = pod
        else:
            known[variable["name"]] = re.sub(
                r"\$\((\w+)\)", lambda match: known.get(match[1], match[0]), variable["value"]
            )
    return known


def _image_and_words(spec: Spec, images: Mapping[str, str]) -> list[str]:
    """What follows podman's options; the entry point is one of these."""
    return [images[spec["image"]], *spec.get("command", [])[1:], *spec.get("args", [])]
