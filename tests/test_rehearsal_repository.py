"""Which repository is rehearsed, and how it is copied."""

import re
import subprocess
import sys

import pytest

from scripts.runner.process import ROOT
from tests.rehearsal.__main__ import main, parse_options
from tests.rehearsal.fakes import FolderServer
from tests.rehearsal.repository import Repository, find_missing_file, read_project
from tests.rehearsal.scenarios import SAMPLE, SCENARIOS, scenarios_for
from tests.rehearsal.server import Server

PIPELINE = ("docker-compose.prod.yml", ".env.prod", ".github/workflows/cd.yml", "scripts/setup-server.sh")


@pytest.fixture
def source(tmp_path):
    """Create a repository with the files that the rehearsal requires."""
    source = tmp_path / "shop"
    for name in PIPELINE:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    (source / ".env.prod").write_text("COMPOSE_PROJECT_NAME=the-shop\n")
    (source / "docker-compose.prod.yml").write_text("services: {api: {}}")
    subprocess.run(["git", "init", "--quiet", source], check=True)
    return source


def test_this_repository_is_the_default(source):
    assert parse_options([]).repository == ROOT
    assert parse_options(["--repository", str(source)]).repository == source
    assert (find_missing_file(ROOT), read_project(ROOT)) == ("", "quai")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".git", "this is not in a Git repository"),
        ("docker-compose.prod.yml", "docker-compose.prod.yml is missing: add the pipeline to the repository first"),
        (".github/workflows/cd.yml", ".github/workflows/cd.yml is missing: add the pipeline"),
        ("", "COMPOSE_PROJECT_NAME is missing in .env.prod"),
    ],
)
def test_incomplete_repository_is_rejected(source, path, message, capsys):
    if path:
        (source / path).rename(source / "renamed")
    else:
        (source / ".env.prod").write_text("IMAGE=shop\n")
    with pytest.raises(SystemExit, match="2"):
        parse_options(["--repository", str(source)])
    assert f"--repository {source}: {message}" in capsys.readouterr().err


def test_invalid_description_ends_the_program_before_it_starts_anything(source, monkeypatch, capsys):
    (source / "rehearsal.toml").write_text("[[requests]]\npath = 1\n[[requests]]\nstatus = 0\npath = '/'")
    monkeypatch.setattr(sys, "argv", ["rehearsal", "--repository", str(source)])
    assert main() == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert [line.split(" ")[0] for line in output.err.splitlines()] == ["rehearsal.toml:2:", "rehearsal.toml:4:"]


@pytest.mark.parametrize("text", ["", "services: [", "services: {web: {}}"])
def test_compose_file_without_an_api_is_rejected(source, text, monkeypatch, capsys):
    (source / "docker-compose.prod.yml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["rehearsal", "--repository", str(source)])
    assert main() == 2
    assert "docker-compose.prod.yml has no service api" in capsys.readouterr().err


def test_files_that_git_does_not_ignore_are_copied(source, tmp_path):
    (source / ".gitignore").write_text("*.log\nnode_modules\n")
    (source / "a b").mkdir()
    (source / "a b/c.py").write_text("new")
    (source / "a.log").touch()
    (source / "link").symlink_to("a b")
    for name in ("service", "server"):
        (source / "tests" / name).mkdir(parents=True)
        (source / "tests" / name / "test_it.py").touch()
    subprocess.run(["git", "-C", source, "add", "--all"], check=True)
    (source / "docker-compose.prod.yml").unlink()  # as in the work tree
    (source / "a b/c.py").write_text("changed")
    repository = Repository(tmp_path / "copies/copy", source, "tests/(?!service/)")
    repository.commit("The service")
    names = repository.git("-c", "core.quotePath=off", "ls-files").splitlines()
    expected = {*PIPELINE, ".gitignore", "a b/c.py", "link", "tests/service/test_it.py"} - {"docker-compose.prod.yml"}
    assert set(names) == expected
    assert (repository.folder / "a b/c.py").read_text() == "changed"
    assert (repository.folder / "link").readlink().name == "a b"
    assert repository.git("status", "--short") == ""


def test_scenarios_of_the_sample_run_for_this_repository_only(source, capsys):
    assert tuple(scenarios_for(sample=True)) == SCENARIOS
    assert set(scenarios_for(sample=False)) == set(SCENARIOS) - set(SAMPLE)
    assert set(SAMPLE) == {one for one in SCENARIOS if one.__module__.startswith("tests.rehearsal.sample.")}
    assert parse_options(["--repository", str(source), "--only", "roll_back"]).only == ["roll_back"]
    assert parse_options(["--only", "idempotent_notes"]).only == ["idempotent_notes"]
    for other in (["--repository", str(source)], ["--apps"]):
        for options, message in (
            (["--only", "idempotent_notes"], "--only: no name contains 'idempotent_notes'"),
            (["--mutants"], "--mutants tests the deploy program with the sample: omit --repository and --apps"),
        ):
            with pytest.raises(SystemExit, match="2"):
                parse_options([*other, *options])
            assert message in capsys.readouterr().err


def test_generic_files_do_not_know_the_sample():
    known = re.compile(r"\bservice/|-m service|\bnotes\b|API_TOKEN|/version|/healthz|\bquai-(api|front|db|proxy)")
    folders = (ROOT / "tests/rehearsal", ROOT / "tests/rehearsal/scenarios")
    files = [path for folder in folders for path in folder.glob("*.py") if path.name not in ("fakes.py", "mutants.py")]
    found = [f"{path.name}: {line}" for path in files for line in path.read_text().splitlines() if known.search(line)]
    assert found == []


def test_image_has_the_name_of_the_project(tmp_path):
    server = Server({}, tmp_path, "the-shop")
    assert server.image == f"localhost:{server.registry_port}/the-shop"
    assert FolderServer(tmp_path).project == "quai"
