"""An update from one edition of Quai to the next, with two commits of a clone of Quai."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.adopt.generate import quai_files
from tests.adopt.conftest import FLASK, run_git


@pytest.fixture
def quai(tmp_path: Path) -> Path:
    """Create a repository with the files of Quai, as they are now."""
    folder = tmp_path / "quai"
    for name, source in quai_files(".github", "scripts", "LICENSE").items():
        if source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    run_git(folder.parent, "init", "--quiet", str(folder))
    run_git(folder, "add", "--all")
    run_git(folder, "commit", "--quiet", "--message=first edition")
    return folder


def adopt(quai: Path, *arguments: str) -> str:
    words = [sys.executable, "-m", "scripts.adopt", *arguments]
    environment = os.environ | {"PYTHONPATH": str(quai), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(words, cwd=quai, env=environment, capture_output=True, text=True, check=True).stdout


def test_update_to_the_next_edition(make_project, quai):
    project = make_project(FLASK)
    adopt(quai, str(project), "--yes", "--no-proof")
    compose = project / "docker-compose.prod.yml"
    compose.write_text(compose.read_text().replace('--workers, "2"', '--workers, "8"'))
    run_git(project, "commit", "--quiet", "--all", "--message=more workers")

    template = quai / "scripts/adopt/templates/docker-compose.prod.yml.jinja"
    template.write_text(template.read_text().replace("memory: 512M, pids: 256", "memory: 768M, pids: 256"))
    (quai / "scripts/deploy.sh").write_text("#!/bin/sh\n# second edition\n")
    run_git(quai, "commit", "--quiet", "--all", "--message=second edition")
    output = adopt(quai, str(project), "--update")
    assert "1 files replaced or added, 0 removed" in output
    assert "+        limits: {memory: 768M, pids: 256}" in output
    assert "second edition" in (project / "scripts/deploy.sh").read_text()
    assert "768M" not in compose.read_text()

    run_git(project, "apply", ".git/quai-update.patch")
    assert "768M" in compose.read_text()
    assert '"8"' in compose.read_text()
    run_git(project, "commit", "--quiet", "--all", "--message=applied")
    run_git(project, "switch", "--quiet", "--create", "merged")
    run_git(project, "branch", "--quiet", "--delete", "--force", "feature/quai-update")
    assert "up to date" in adopt(quai, str(project), "--update")
