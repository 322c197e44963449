"""The sample's settings in the .env files and the compose file."""

import re
from dataclasses import fields

import pytest
from conftest import ROOT
from dotenv import dotenv_values

from service.settings import PLACEHOLDER, Settings, SettingsError

SERVICE = {field.name.upper() for field in fields(Settings)}


def names(file):
    return dotenv_values(ROOT / file, interpolate=False).keys()


def test_the_development_file_names_each_setting_of_the_service():
    assert names(".env.dev") == SERVICE


@pytest.mark.parametrize("file", [".env.example", ".env.prod"])
def test_a_server_file_names_each_setting_of_the_service(file):
    assert names(file) >= SERVICE


def test_compose_passes_each_setting_to_the_service():
    text = (ROOT / "docker-compose.prod.yml").read_text()
    assert set(re.findall(r"\$\{([A-Z_]+)", text)) >= SERVICE


def test_the_development_file_works_as_it_is(tmp_path):
    (tmp_path / ".env.dev").write_text((ROOT / ".env.dev").read_text())
    assert Settings.read({"APP_ENV": "dev"}, tmp_path).db_conn.startswith("sqlite:")


def test_the_production_template_is_refused_until_it_is_filled_in(tmp_path):
    template = (ROOT / ".env.prod").read_text()
    (tmp_path / ".env").write_text(template)
    with pytest.raises(SettingsError, match="still contains the placeholder"):
        Settings.read({}, tmp_path)
    (tmp_path / ".env").write_text(template.replace(PLACEHOLDER, "0123456789abcdef"))
    assert Settings.read({}, tmp_path).app_env == "prod"


@pytest.mark.parametrize("file", [".env.example", ".env.prod"])
def test_the_secrets_are_placeholders_that_the_service_refuses(file):
    values = dotenv_values(ROOT / file, interpolate=False)
    assert all(PLACEHOLDER in values[name] for name in ("API_TOKEN", "POSTGRES_PASSWORD"))
