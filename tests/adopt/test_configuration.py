"""The values that settings get, by their names."""

import pytest

from scripts.adopt.configuration import sort_settings, unknown_settings
from scripts.adopt.generate import generate
from tests.adopt.conftest import DJANGO, FLASK

POSTGRESQL = FLASK | {"requirements.txt": FLASK["requirements.txt"] + "psycopg[binary]==3.3\nredis==6.0\n"}


def reading(*names, default=""):
    """Return code that reads these variables."""
    lines = [f"os.getenv({name!r}, {default!r})" if default else f"os.environ[{name!r}]" for name in names]
    return {"config.py": "import os\n" + "\n".join(lines) + "\n"}


@pytest.mark.parametrize(
    "name",
    [
        "SPOTIFY_CLIENT_SECRET",
        "CLIENT_SECRET",
        "WEBHOOK_SECRET",
        "REDIS_PASSWORD",
        "SQS_QUEUE_URL",
        "MONGO_DB_URL",
        "VECTOR_DB_URL",
    ],
)
def test_the_user_sets_what_belongs_to_another_service(facts_of, name):
    assert unknown_settings(facts_of(POSTGRESQL | reading(name))) == [name]


@pytest.mark.parametrize("name", ["SECRET_KEY", "JWT_SECRET_KEY", "APP_SECRET", "SALT"])
def test_own_secrets_are_generated(facts_of, name):
    assert (name, "change-me") in sort_settings(facts_of(FLASK | reading(name))).secrets


def test_the_algorithm_of_a_secret_is_no_secret(facts_of):
    assert not sort_settings(facts_of(FLASK | reading("JWT_SECRET_ALGORITHM", default="HS256"))).secrets


def test_the_engine_of_django_is_postgresql(facts_of):
    text = generate(facts_of(DJANGO | reading("SQL_ENGINE", default="django.db.backends.sqlite3")))[".env.prod"]
    assert "SQL_ENGINE=django.db.backends.postgresql\n" in text


@pytest.mark.parametrize("default", ["django.contrib.gis.db.backends.postgis", "postgresql"])
def test_another_engine_stays(facts_of, default):
    assert "SQL_ENGINE" not in generate(facts_of(DJANGO | reading("SQL_ENGINE", default=default)))[".env.prod"]


def test_a_database_without_a_setting_is_noted(facts_of):
    notes = facts_of(POSTGRESQL).notes
    assert any("Its address is postgresql://shop:<POSTGRES_PASSWORD>@db:5432/shop" in note for note in notes)


def test_the_port_that_a_configuration_of_gunicorn_reads(facts_of):
    files = FLASK | {"gunicorn.conf.py": "import os\nbind = '0.0.0.0:' + os.environ['PORT']\n"}
    assert "    PORT: ${API_PORT}\n" in generate(facts_of(files))["docker-compose.prod.yml"]
