"""The Dockerfile matches the project and the pipeline."""

import re

import pytest

from scripts.runner import project
from scripts.runner.base_images import pinned
from scripts.runner.process import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def version(text):
    return tuple(int(part) for part in text.split("."))


def test_python_of_the_image_is_in_the_range_of_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)
    image = re.search(r"python:([\d.]+)", pinned(ROOT / "Dockerfile", "PYTHON_IMAGE"))[1]
    bounds = re.findall(r"(>=|<)([\d.]+)", project.python_constraint())
    assert bounds
    for operator, bound in bounds:
        assert version(image) >= version(bound) if operator == ">=" else version(image) < version(bound)


@pytest.mark.parametrize("tool", ["uv", "poetry", "pdm"])
def test_the_image_and_the_sessions_install_with_the_same_tools(tool):
    words = re.search(rf'\b{tool.upper()}="([^"]+)"', DOCKERFILE)[1]
    assert words.split() == project.pins(tool)


def test_the_image_and_the_sessions_look_for_the_same_files_in_the_same_order():
    order = re.findall(r"\[ -f (\S+) \]", DOCKERFILE)
    assert order == [*project.LOCK_FILES, "requirements.txt"]
    copied = re.search(r"^COPY (.*) \./$", DOCKERFILE, re.MULTILINE)[1].split()
    assert {*project.LOCK_FILES, "pyproject.toml"} <= {pattern.removesuffix("*") for pattern in copied}


def test_the_dockerfile_of_an_application_does_not_know_the_pipeline():
    assert not re.search(r"scripts/|docker-compose|REVISION|LABEL|quai", DOCKERFILE)


def test_the_build_context_is_a_list_of_what_is_allowed():
    """COPY . /app copies all of it: no tests, no environment files, no history."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert [rule for rule in rules if rule.startswith("!")] == ["!requirements.txt", "!service"]
    assert "**/.env*" in rules[rules.index("!service") :]
