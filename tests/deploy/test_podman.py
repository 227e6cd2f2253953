"""Podman as the other tests here rely on it."""

from pathlib import Path

import pytest

from tests.support.podman import CA_BUNDLE, PREFIX, Container, base_image, build, podman, size
from tests.support.waiting import BedError

pytestmark = pytest.mark.timeout(1500)  # where the base image is made first

IMAGE = f"localhost/{PREFIX}-podman"
DOCKERFILE = """\
ARG BASE
FROM ${BASE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /venv && /venv/bin/pip install --no-deps python-dotenv==1.2.4
FROM ${BASE}
ARG SAYS=nothing
COPY --from=build /venv/lib /lent
RUN echo "${SAYS}" > /said
CMD ["sleep", "infinity"]
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("context")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    return build(folder, folder / "Dockerfile", IMAGE, {"SAYS": "hello"})


def test_an_image_is_built_from_debians_mirror_and_pypi(image: str) -> None:
    assert size(image) > size(base_image())
    with Container("podman", image) as container:
        assert container.exec("cat", "/said").stdout == "hello\n"
        assert container.exec("sh", "-c", "ls -d /lent/*/*/dotenv").stdout
        assert container.inspect("{{.State.Running}}") == "true"


def test_nothing_of_the_machine_is_left_in_an_image(image: str) -> None:
    with Container("podman", image) as container:
        for path in (Path("/etc/pip.conf"), Path("/etc/apt/apt.conf.d/99-lent"), CA_BUNDLE):
            assert container.exec("test", "-s", path, check=False).returncode == 1


def test_a_container_is_gone_after_its_use_and_an_error_says_what_podman_said(image: str) -> None:
    with Container("podman", image) as container, pytest.raises(BedError, match="no-such-program"):
        container.exec("no-such-program")
    assert podman("container", "exists", container.name, check=False).returncode == 1
