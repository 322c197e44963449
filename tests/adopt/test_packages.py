"""The dependencies and the Python of a project, and how the image installs them."""

import subprocess

import pytest

from scripts.adopt.generate import generate
from scripts.runner.process import Failure
from tests.adopt.conftest import FLASK


def test_included_requirements(facts_of):
    files = {
        "requirements.txt": "-r requirements/base.txt\n",
        "requirements/base.txt": "# web\nflask==3.1\n-r ../requirements.txt\ngunicorn\n",
    }
    assert facts_of(FLASK | files).framework == "flask"


def test_all_included_files_are_in_the_build(facts_of):
    files = {
        "requirements.txt": "-c constraints.txt\n-r more/base.txt\nflask==3.1\ngunicorn==27.0\n",
        "constraints.txt": "werkzeug==3.1\n",
        "more/base.txt": "tool @ git+https://example.com/tool\n",
    }
    facts = facts_of(FLASK | files)
    text = generate(facts)["Dockerfile"]
    assert "COPY requirements*.txt constraints.txt ./\nCOPY more ./more\n" in text
    assert facts.build_packages == ["git"]


def test_constraints_at_an_address(facts_of):
    lines = FLASK["requirements.txt"] + "-c https://example.com/constraints.txt\n"
    assert facts_of(FLASK | {"requirements.txt": lines}).included_requirements == []


@pytest.mark.parametrize("included", ["../requirements/base.txt", "base.txt"])
def test_a_file_that_the_image_cannot_include_is_refused(facts_of, included):
    with pytest.raises(Failure, match=r"requirements\.txt:1 includes "):
        facts_of(FLASK | {"requirements.txt": f"-r {included}\n"})


def test_packages_of_the_project_are_left_out_of_the_image(facts_of, tmp_path):
    lines = "flask==3.1\n-e .\n./lib\n.\n--editable=./x\n-e packages/foo\n-e git+https://example.com/a.git#egg=Tool\ngunicorn==27.0\n"
    facts = facts_of(FLASK | {"requirements.txt": lines})
    command = next(line for line in generate(facts)["Dockerfile"].splitlines() if line.startswith("find . "))
    (tmp_path / "requirements.txt").write_text(lines)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    left = (tmp_path / "requirements.txt").read_text()
    assert left == "flask==3.1\n-e git+https://example.com/a.git#egg=Tool\ngunicorn==27.0\n"
    assert len([note for note in facts.notes if "not installed in the image" in note]) == 5


@pytest.mark.parametrize(
    ("requirements", "code", "server"),
    [
        ("fastapi[standard]==0.115.0\n", "from fastapi import FastAPI\napp = FastAPI()\n", "uvicorn"),
        ("quart==0.20\n", "from quart import Quart\napp = Quart(__name__)\n", "hypercorn"),
    ],
)
def test_a_server_that_the_framework_brings(facts_of, requirements, code, server):
    facts = facts_of({"requirements.txt": requirements, "app.py": code})
    assert (facts.command[0], facts.server) == (server, "")
    assert not any("not among the dependencies" in note for note in facts.notes)


def test_a_large_lock_file(facts_of):
    packages = ["flask", "gunicorn"]
    lock = "version = 1\n" + "".join(f"[[package]]\nname = '{name}'\nversion = '3'\n" for name in packages)
    pyproject = f"[project]\nname = 'x'\ndependencies = {packages}\n"
    files = {"app.py": FLASK["app.py"], "pyproject.toml": pyproject, "uv.lock": lock + "# x\n" * 300_000}
    assert facts_of(files).dependency_file == "uv.lock"


@pytest.mark.parametrize(
    ("files", "python"),
    [
        ({".python-version": "3.12.4\n"}, "3.12"),
        ({"runtime.txt": "python-3.11.9"}, "3.11"),
        ({".tool-versions": "nodejs 20\npython 3.12.1\n"}, "3.12"),
        ({"Dockerfile": "FROM python:3.12-slim AS base\n"}, "3.12"),
        ({"pyproject.toml": "[project]\nname='x'\nrequires-python='>=3.11,<3.13'\n"}, "3.12"),
        ({"pyproject.toml": "[project]\nname='x'\nrequires-python='>=3.14'\n"}, "3.14"),
        ({"pyproject.toml": "[tool.poetry.dependencies]\npython = '^3.11'\n"}, "3.13"),
        ({"pyproject.toml": "[tool.poetry.dependencies]\npython = '~3.11'\n"}, "3.11"),
        ({"pyproject.toml": "[tool.poetry.dependencies]\npython = '~3'\n"}, "3.13"),
        ({"pyproject.toml": "[tool.poetry.dependencies]\npython = '>=3.10 <3.12'\n"}, "3.11"),
        (
            {"pyproject.toml": "[project]\nname='x'\nrequires-python='>= 3.11'\n", "Dockerfile": "FROM python:3.12\n"},
            "3.12",
        ),
        (
            {"pyproject.toml": "[project]\nname='x'\nrequires-python='>=3.12'\n", "Dockerfile": "FROM python:3.11\n"},
            "3.13",
        ),
        ({}, "3.13"),
    ],
)
def test_python(facts_of, files, python):
    assert facts_of(FLASK | files).python == python
