"""Fixtures: an application directory as on a server. No engine is needed."""

import json
from pathlib import Path

import pytest
from server.engine import Container
from server.settings import Settings, read

ROOT = Path(__file__).parents[2]
OLD, NEW, THIRD = "1" * 40, "2" * 40, "3" * 40


@pytest.fixture
def directory(tmp_path) -> Path:
    """The directory of a server: .env copied from .env.prod, a live release OLD, and the log of its deploy."""
    text = (ROOT / ".env.prod").read_text()
    text = text.replace("\nIMAGE_TAG=\n", f"\nIMAGE_TAG={OLD}\n").replace("\nDEPLOY_ID=\n", "\nDEPLOY_ID=100\n")
    (tmp_path / ".env").write_text(text)
    (tmp_path / "releases" / OLD).mkdir(parents=True)
    append(tmp_path, id="100", tag=OLD)
    return tmp_path


@pytest.fixture
def settings(directory) -> Settings:
    return read(directory)


def container(deploy_id: str, tag: str, service: str = "api", state: str = "running") -> Container:
    """Return a container of a release; its id and name are quai-<service>-<deploy id>."""
    name = f"quai-{service}-{deploy_id}"
    return Container(name, name, service, deploy_id, tag, state, "sha256:0", "", "", {})


def append(directory: Path, **entry: str) -> None:
    """Add a line to the log."""
    line = {"id": "0", "tag": OLD, "outcome": "live", "time": "2026-01-02T03:04:05Z", "by": "a person"} | entry
    with (directory / "deploys.log").open("a") as log:
        log.write(json.dumps(line) + "\n")
