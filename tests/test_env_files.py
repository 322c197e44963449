"""The files that hold settings, as far as the pipeline depends on them."""

import re

import pytest

from scripts.runner.process import ROOT
from scripts.runner.settings import read_env_file

SERVER_FILES = (".env.example", ".env.prod")
COMPOSE_ITSELF = {"COMPOSE_PROJECT_NAME", "COMPOSE_FILE"}
SETTING = r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*"


def compose_reads():
    text = (ROOT / "docker-compose.prod.yml").read_text().replace("$$", "")
    return set(re.findall(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)", text))


def deploy_reads():
    """The settings that the deploy program names: in settings.py as quoted names, in deploy.sh as settings[NAME]."""
    program, script = ROOT / "scripts/server/settings.py", ROOT / "scripts/deploy.sh"
    names = set(re.findall(rf"\bsettings\[({SETTING})\]", script.read_text()))
    if program.exists():
        names |= set(re.findall(rf"""["']({SETTING})["']""", program.read_text()))
    return names


def values(file):
    return read_env_file(ROOT / file)


def lines(file):
    return (ROOT / file).read_text().splitlines()


def is_placeholder(value):
    return "change-me" in value


@pytest.mark.parametrize("file", SERVER_FILES)
def test_a_server_file_names_each_setting_that_compose_and_the_deploy_read(file):
    assert compose_reads() | deploy_reads() | COMPOSE_ITSELF == values(file).keys()


def test_the_deploy_reads_settings():
    assert deploy_reads() > {"IMAGE", "IMAGE_TAG", "KEEP_RELEASES", "WATCH_SECONDS"}


@pytest.mark.parametrize("file", [*SERVER_FILES, ".env.dev"])
def test_each_line_is_a_comment_or_one_setting(file):
    settings = [line for line in lines(file) if line and not line.startswith("# ")]
    assert [line.partition("=")[0] for line in settings] == list(values(file))


def test_the_example_explains_each_setting():
    example = lines(".env.example")
    settings = [number for number, line in enumerate(example) if line and not line.startswith("#")]
    assert [example[number] for number in settings if not example[number - 1].startswith("# ")] == []


@pytest.mark.parametrize("file", SERVER_FILES)
def test_no_file_holds_a_secret(file):
    secrets = {name: value for name, value in values(file).items() if re.search("PASSWORD|SECRET|TOKEN|KEY$", name)}
    assert secrets
    assert {name: value for name, value in secrets.items() if value and not is_placeholder(value)} == {}
