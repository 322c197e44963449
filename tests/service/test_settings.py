import dataclasses
import os

import pytest
from conftest import TOKEN, run

from service.settings import Settings, SettingsError

GOOD = {"APP_ENV": "dev", "API_PORT": "8000", "DB_CONN": "sqlite:///./x.db", "API_TOKEN": TOKEN, "READ_ACCESS": "token"}


def error(environ, directory):
    with pytest.raises(SettingsError) as raised:
        Settings.read(environ, directory)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_all_from_the_environment(tmp_path):
    settings = Settings.read(GOOD, tmp_path)
    assert settings == Settings("dev", 8000, "sqlite:///./x.db", (TOKEN,), "token")


@pytest.mark.parametrize("name", GOOD)
def test_missing_setting_is_named_with_the_file(tmp_path, name):
    environ = {key: value for key, value in GOOD.items() if key != name}
    assert error(environ, tmp_path) == f"{name} is missing: set it in .env (see .env.example)"


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", ["", "  "])
def test_empty_setting_hides_the_files_and_is_refused(tmp_path, name, value):
    (tmp_path / ".env").write_text("".join(f"{key}={value}\n" for key, value in GOOD.items()))
    assert error(GOOD | {name: value}, tmp_path).startswith(f"{name} is empty: set it in the environment")


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
        ("READ_ACCESS", "nobody"),
    ],
)
def test_malformed_setting_names_itself_and_the_file_but_not_its_value(tmp_path, name, value):
    (tmp_path / ".env").write_text(f"{name}={value}\n", encoding="utf-8")
    environ = {key: value for key, value in GOOD.items() if key != name}
    message = error(environ, tmp_path)
    assert message.startswith(f"{name} is malformed: ")
    assert message.endswith("mend it in .env")
    assert "hunter2" not in message


@pytest.mark.parametrize("name", ["DB_CONN", "API_TOKEN"])
def test_placeholder_is_refused_in_production_only(tmp_path, name):
    value = {"DB_CONN": "postgresql://quai:change-me@db/quai", "API_TOKEN": "change-me-to-a-long-token"}[name]
    assert Settings.read(GOOD | {name: value}, tmp_path)
    message = error(GOOD | {name: value, "APP_ENV": "prod"}, tmp_path)
    assert message == f"{name} still holds the placeholder change-me: mend it in the environment"


def test_a_placeholder_among_several_tokens_is_refused_in_production(tmp_path):
    message = error(GOOD | {"API_TOKEN": f"{TOKEN},change-me-to-a-long-token", "APP_ENV": "prod"}, tmp_path)
    assert "placeholder" in message


def test_tokens_with_commas_between_are_several(tmp_path):
    assert Settings.read(GOOD | {"API_TOKEN": f"{TOKEN},another-token-0123"}, tmp_path).api_token == (
        TOKEN,
        "another-token-0123",
    )


def test_environment_before_env_before_env_of_app_env(tmp_path):
    (tmp_path / ".env").write_text("APP_ENV=prod\nAPI_PORT=2\nDB_CONN=sqlite:///./two.db\n")
    (tmp_path / ".env.prod").write_text(
        f"API_PORT=3\nDB_CONN=sqlite:///./three.db\nAPI_TOKEN={TOKEN}\nREAD_ACCESS=public\n"
    )
    (tmp_path / ".env.dev").write_text("API_PORT=4\nAPI_TOKEN=of-the-other-environment\n")
    assert Settings.read({"API_PORT": "1"}, tmp_path) == Settings("prod", 1, "sqlite:///./two.db", (TOKEN,), "public")


def test_app_env_is_not_taken_from_the_file_that_it_chooses(tmp_path):
    (tmp_path / ".env.dev").write_text("APP_ENV=dev\n")
    assert error({}, tmp_path).startswith("APP_ENV is missing")


def test_a_name_without_a_value_counts_as_missing(tmp_path):
    (tmp_path / ".env").write_text("API_TOKEN\n")
    assert error(GOOD | {"API_TOKEN": None}, tmp_path).startswith("API_TOKEN is missing")


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / ".env").write_bytes(b"API_PORT=\xff\xfe\n")
    assert error(GOOD, tmp_path).startswith(".env cannot be read")


def test_a_value_may_use_another(tmp_path):
    (tmp_path / ".env").write_text("PASSWORD=s3cret\nDB_CONN=postgresql://quai:${PASSWORD}@db/quai\n")
    environ = {key: value for key, value in GOOD.items() if key != "DB_CONN"}
    assert Settings.read(environ, tmp_path).db_conn == "postgresql+psycopg://quai:s3cret@db/quai"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_each_scheme_of_postgresql_means_the_same_driver(tmp_path, scheme):
    settings = Settings.read(GOOD | {"DB_CONN": f"{scheme}://quai:p%40ss@db:5432/quai"}, tmp_path)
    assert settings.db_conn == "postgresql+psycopg://quai:p%40ss@db:5432/quai"


def test_reading_leaves_the_environment_alone(tmp_path):
    (tmp_path / ".env").write_text("".join(f"{key}={value}\n" for key, value in GOOD.items()))
    before = dict(os.environ)
    Settings.read({}, tmp_path)
    assert dict(os.environ) == before


def test_settings_are_frozen_and_do_not_show_secrets(tmp_path):
    settings = Settings.read(GOOD | {"DB_CONN": "postgresql://quai:hunter2@db/quai"}, tmp_path)
    assert TOKEN not in repr(settings)
    assert "hunter2" not in repr(settings)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.api_port = 1


@pytest.mark.parametrize("module", ["service", "service.migrate"])
def test_a_bad_setting_is_one_line_and_status_2(tmp_path, environ, module):
    del environ["DB_CONN"]
    done = run(module, environ, tmp_path)
    assert done.returncode == 2
    assert done.stderr == "service: DB_CONN is missing: set it in .env (see .env.example)\n"
