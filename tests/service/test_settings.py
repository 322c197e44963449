import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import TOKEN, run

from service.settings import Settings, SettingsError

VALID = {
    "APP_ENV": "dev",
    "API_PORT": "8000",
    "DB_CONN": "sqlite:///./x.db",
    "API_TOKEN": TOKEN,
    "READ_ACCESS": "token",
}


def read_error(environ, directory):
    with pytest.raises(SettingsError) as raised:
        Settings.read(environ, directory)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_settings_from_the_environment(tmp_path):
    settings = Settings.read(VALID, tmp_path)
    assert settings == Settings("dev", 8000, "sqlite:///./x.db", (TOKEN,), "token")


@pytest.mark.parametrize("name", VALID)
def test_missing_setting_is_an_error_that_names_the_file(tmp_path, name):
    environ = {key: value for key, value in VALID.items() if key != name}
    assert read_error(environ, tmp_path) == f"{name} is missing: set it in .env (see .env.example)"


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("value", ["", "  "])
def test_empty_setting_is_an_error_even_if_the_file_has_a_value(tmp_path, name, value):
    (tmp_path / ".env").write_text("".join(f"{key}={value}\n" for key, value in VALID.items()))
    assert read_error(VALID | {name: value}, tmp_path).startswith(f"{name} is empty: set it in the environment")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("APP_ENV", "production"),
        ("APP_ENV", "../prod"),
        ("API_PORT", "0"),
        ("API_PORT", "65536"),
        ("API_PORT", "-1"),
        ("API_PORT", "8_000"),
        ("API_PORT", "http"),
        ("API_PORT", "٨٠"),
        ("DB_CONN", "quai.db"),
        ("DB_CONN", "mysql://quai:hunter2@db/quai"),
        ("DB_CONN", "postgresql+asyncpg://quai:hunter2@db/quai"),
        ("DB_CONN", "postgresql://quai:hunter2@db:port/quai"),
        ("DB_CONN", "postgresql://quai:hunter2@db"),
        ("DB_CONN", "sqlite://"),
        ("DB_CONN", "sqlite:///:memory:"),
        ("API_TOKEN", "hunter2"),
        ("API_TOKEN", "hunter2 hunter2 hunter2"),
        ("API_TOKEN", "hunter2-hunter2-é"),
        ("API_TOKEN", "hunter2-hunter2-hunter2,hunter2"),
        ("API_TOKEN", "hunter2-hunter2-hunter2,"),
        ("API_TOKEN", ",hunter2-hunter2-hunter2"),
        ("READ_ACCESS", "private"),
    ],
)
def test_malformed_setting_is_an_error_that_omits_the_value(tmp_path, name, value):
    (tmp_path / ".env").write_text(f"{name}={value}\n", encoding="utf-8")
    environ = {key: value for key, value in VALID.items() if key != name}
    message = read_error(environ, tmp_path)
    assert message.startswith(f"{name} is malformed: expected ")
    assert message.endswith("; fix it in .env")
    assert "hunter2" not in message


@pytest.mark.parametrize("name", ["DB_CONN", "API_TOKEN"])
def test_placeholder_is_an_error_in_production_only(tmp_path, name):
    value = {"DB_CONN": "postgresql://quai:change-me@db/quai", "API_TOKEN": "change-me-to-a-long-token"}[name]
    assert Settings.read(VALID | {name: value}, tmp_path)
    message = read_error(VALID | {name: value, "APP_ENV": "prod"}, tmp_path)
    assert message == f"{name} still contains the placeholder change-me: replace it in the environment"


def test_placeholder_in_one_of_several_tokens_is_an_error_in_production(tmp_path):
    message = read_error(VALID | {"API_TOKEN": f"{TOKEN},change-me-to-a-long-token", "APP_ENV": "prod"}, tmp_path)
    assert "placeholder" in message


def test_commas_separate_tokens(tmp_path):
    assert Settings.read(VALID | {"API_TOKEN": f"{TOKEN},another-token-0123"}, tmp_path).api_token == (
        TOKEN,
        "another-token-0123",
    )


def test_precedence_is_environment_then_env_then_env_of_app_env(tmp_path):
    (tmp_path / ".env").write_text("APP_ENV=prod\nAPI_PORT=2\nDB_CONN=sqlite:///./two.db\n")
    (tmp_path / ".env.prod").write_text(
        f"API_PORT=3\nDB_CONN=sqlite:///./three.db\nAPI_TOKEN={TOKEN}\nREAD_ACCESS=public\n"
    )
    (tmp_path / ".env.dev").write_text("API_PORT=4\nAPI_TOKEN=token-of-development\n")
    assert Settings.read({"API_PORT": "1"}, tmp_path) == Settings("prod", 1, "sqlite:///./two.db", (TOKEN,), "public")


def test_app_env_is_not_read_from_the_file_that_it_selects(tmp_path):
    (tmp_path / ".env.dev").write_text("APP_ENV=dev\n")
    assert read_error({}, tmp_path).startswith("APP_ENV is missing")


def test_name_without_a_value_is_missing(tmp_path):
    (tmp_path / ".env").write_text("API_TOKEN\n")
    assert read_error(VALID | {"API_TOKEN": None}, tmp_path).startswith("API_TOKEN is missing")


def test_undecodable_file_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / ".env").write_bytes(b"API_PORT=\xff\xfe\n")
    assert read_error(VALID, tmp_path).startswith(".env cannot be read")


def test_value_can_reference_another_variable(tmp_path):
    (tmp_path / ".env").write_text("PASSWORD=s3cret\nDB_CONN=postgresql://quai:${PASSWORD}@db/quai\n")
    environ = {key: value for key, value in VALID.items() if key != "DB_CONN"}
    assert Settings.read(environ, tmp_path).db_conn == "postgresql+psycopg://quai:s3cret@db/quai"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_postgresql_scheme_uses_psycopg(tmp_path, scheme):
    settings = Settings.read(VALID | {"DB_CONN": f"{scheme}://quai:p%40ss@db:5432/quai"}, tmp_path)
    assert settings.db_conn == "postgresql+psycopg://quai:p%40ss@db:5432/quai"


def test_reading_does_not_change_the_environment(tmp_path):
    (tmp_path / ".env").write_text("".join(f"{key}={value}\n" for key, value in VALID.items()))
    before = dict(os.environ)
    Settings.read({}, tmp_path)
    assert dict(os.environ) == before


def test_settings_are_frozen_and_repr_omits_secrets(tmp_path):
    settings = Settings.read(VALID | {"DB_CONN": "postgresql://quai:hunter2@db/quai"}, tmp_path)
    assert TOKEN not in repr(settings)
    assert "hunter2" not in repr(settings)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.api_port = 1


def test_invalid_setting_is_one_line_and_status_2(tmp_path, environ):
    del environ["DB_CONN"]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda module: run(module, environ, tmp_path), ["service", "service.migrate"]))
    assert results == [(2, "", "service: DB_CONN is missing: set it in .env (see .env.example)\n")] * 2
