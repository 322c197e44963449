"""The files that hold settings, as far as the pipeline depends on them."""

import re

import pytest

from scripts.runner.process import ROOT
from scripts.runner.settings import read_env_file

SERVER_FILES = (".env.example", ".env.prod")
COMPOSE_ITSELF = {"COMPOSE_PROJECT_NAME", "COMPOSE_FILE"}
SETTING = r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*"


def compose_reads(pattern=r"\$\{?([A-Za-z_][A-Za-z0-9_]*)"):
    text = (ROOT / "docker-compose.prod.yml").read_text().replace("$$", "")
    without_value = re.findall(r'^ +"?([A-Z][A-Z0-9_]*)"?: *(?:null)?,?$', text, re.MULTILINE)  # YAML, or JSON
    return {*re.findall(pattern, text), *without_value}


def compose_requires():
    return compose_reads(r"\$\{([A-Za-z_][A-Za-z0-9_]*):\?")


def deploy_reads():
    """The settings that the deploy program reads: the quoted names in its settings.py."""
    return set(re.findall(rf"""["']({SETTING})["']""", (ROOT / "scripts/server/settings.py").read_text()))


def pinned_images(file):
    """The default image of each variable of a compose file or Dockerfile."""
    return dict(re.findall(r"\b([A-Z]+_IMAGE)(?:=|:-)([\w./:@-]+)", (ROOT / file).read_text()))


def values(file):
    return read_env_file(ROOT / file)


def lines(file):
    return (ROOT / file).read_text().splitlines()


def is_placeholder(value):
    return "change-me" in value


def test_the_example_names_each_setting_that_compose_and_the_deploy_read():
    assert compose_reads() | deploy_reads() | COMPOSE_ITSELF == values(".env.example").keys()


def test_the_template_of_a_server_has_what_production_requires():
    """Other settings have a default: to add one, name it in the compose file and in .env.example."""
    assert compose_requires() > {"API_PORT", "IMAGE"}
    assert compose_requires() <= values(".env.prod").keys() <= values(".env.example").keys()


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


def test_development_and_production_pin_the_same_images():
    production = pinned_images("docker-compose.prod.yml") | pinned_images("Dockerfile")
    assert production
    assert pinned_images("docker-compose.dev.yml") == production


def test_development_without_docker_has_the_caddy_version_of_production():
    dev = re.search(r"\bcaddy-bin==([\d.]+)", (ROOT / "pyproject.toml").read_text())
    assert dev[1] == re.search(r"caddy:([\d.]+)", pinned_images("docker-compose.prod.yml")["FRONT_IMAGE"])[1]


def test_front_of_development_connects_to_the_port_of_the_api():
    """API_PORT is in .env.dev, so both services must read that file."""
    text = (ROOT / "docker-compose.dev.yml").read_text()
    services = dict(re.findall(r"^  (\w+):\n((?:    .*\n|\n)+)", text, re.MULTILINE))
    assert {name for name, content in services.items() if "env_file: [.env.dev]" in content} == {"front", "api"}


def test_dependabot_can_update_the_base_image():
    """Dependabot updates images in FROM lines, not in ARG lines."""
    assert re.search(r"^FROM [\w./-]+:[\w.-]+@sha256:[0-9a-f]{64} AS ", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("file", SERVER_FILES)
def test_no_file_holds_a_secret(file):
    secrets = {name: value for name, value in values(file).items() if re.search("PASSWORD|SECRET|TOKEN|KEY$", name)}
    assert secrets
    assert {name: value for name, value in secrets.items() if value and not is_placeholder(value)} == {}
