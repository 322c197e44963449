"""Each environment file names what is read, no more and no less."""

import re
from dataclasses import fields

import pytest
from conftest import ROOT
from dotenv import dotenv_values

from service.settings import PLACEHOLDER, Settings, SettingsError

SERVICE = {field.name.upper() for field in fields(Settings)}
COMPOSE_ITSELF = {"COMPOSE_PROJECT_NAME", "COMPOSE_FILE"}


def compose_reads():
    text = (ROOT / "docker-compose.prod.yml").read_text().replace("$$", "")
    return set(re.findall(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)", text))


def deploy_reads():
    text = (ROOT / "scripts/server/settings.py").read_text()
    return set(re.findall(r'"([A-Z][A-Z_]+)"', text))


def names(file):
    return dotenv_values(ROOT / file, interpolate=False).keys()


@pytest.mark.parametrize("file", [".env.example", ".env.prod"])
def test_files_of_a_server_name_all_that_is_read_there(file):
    assert names(file) == SERVICE | COMPOSE_ITSELF | compose_reads() | deploy_reads()


def test_the_file_of_development_names_what_the_service_reads():
    assert names(".env.dev") == SERVICE


def test_compose_hands_the_service_each_of_its_settings():
    assert compose_reads() >= SERVICE


@pytest.mark.parametrize("file", [".env.example", ".env.dev", ".env.prod"])
def test_each_line_is_a_comment_or_one_setting(file):
    lines = (ROOT / file).read_text().splitlines()
    settings = [line for line in lines if line and not line.startswith("# ")]
    assert [line.partition("=")[0] for line in settings] == list(names(file))


def test_the_example_explains_each_setting():
    lines = (ROOT / ".env.example").read_text().splitlines()
    settings = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    assert [lines[number] for number in settings if not lines[number - 1].startswith("# ")] == []


def test_the_file_of_development_works_as_it_is(tmp_path):
    (tmp_path / ".env.dev").write_text((ROOT / ".env.dev").read_text())
    assert Settings.read({"APP_ENV": "dev"}, tmp_path).db_conn.startswith("sqlite:")


def test_the_template_of_production_is_refused_until_it_is_filled_in(tmp_path):
    template = (ROOT / ".env.prod").read_text()
    (tmp_path / ".env").write_text(template)
    with pytest.raises(SettingsError, match="still holds the placeholder"):
        Settings.read({}, tmp_path)
    (tmp_path / ".env").write_text(template.replace(PLACEHOLDER, "0123456789abcdef"))
    assert Settings.read({}, tmp_path).app_env == "prod"


def test_no_file_holds_a_secret():
    for file in (".env.example", ".env.prod"):
        values = dotenv_values(ROOT / file, interpolate=False)
        assert all(PLACEHOLDER in values[name] for name in ("API_TOKEN", "POSTGRES_PASSWORD"))
