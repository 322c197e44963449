"""What adopt finds in a project, and where the files do not decide."""

import re

import pytest

from scripts.adopt.detect import detect
from scripts.adopt.evidence import Undecided
from scripts.adopt.repository import Repository
from scripts.runner.process import Failure
from tests.adopt.conftest import APPLICATION, DJANGO, FASTAPI, FLASK


def test_flask(facts_of):
    facts = facts_of(FLASK)
    assert (facts.framework, facts.target, facts.python) == ("flask", "app:app", "3.13")
    assert facts.command[:4] == ["gunicorn", "app:app", "--bind", "0.0.0.0:${API_PORT}"]
    assert facts.findings["application"].source == "app.py:3"
    assert facts.findings["framework"].source == "requirements.txt:1"


def test_a_member_of_a_uv_workspace_needs_requirements_of_its_own(make_project):
    root = {"pyproject.toml": "[tool.uv.workspace]\nmembers = ['backend']\n", "uv.lock": "version = 1\n"}
    folder = make_project(root | {"backend/pyproject.toml": "[project]\nname = 'shop'\n", "backend/app.py": ""})
    with pytest.raises(Failure, match="one of the members of the uv workspace"):
        detect(Repository(folder), {})
    with pytest.raises(Failure, match=r"uv export .* --package shop --output-file backend/requirements\.txt"):
        detect(Repository(folder, "backend"), {})


def test_alembic_runs_in_its_folder(facts_of):
    files = FASTAPI | {"src/alembic.ini": "", "main.py": APPLICATION}
    files["requirements.txt"] += "alembic==1.18\nasyncpg==0.31\n"
    facts = facts_of(files)
    assert facts.migrate == ["sh", "-c", "cd src && alembic upgrade head"]
    assert facts.check[2].startswith("cd src && current=$$(alembic current 2>&1)")


def test_a_server_that_another_package_requires(facts_of):
    pyproject = "[project]\nname = 'shop'\ndependencies = ['litestar', 'litestar-granian']\n"
    entry = "[[package]]\nname = '{}'\nversion = '1'\ndependencies = [{}]\n"
    packages = {"litestar": "", "litestar-granian": "{name = 'granian'}", "granian": ""}
    lock = "".join(entry.format(name, needed) for name, needed in packages.items())
    code = "from litestar import Litestar\n\napp = Litestar()\n"
    facts = facts_of({"pyproject.toml": pyproject, "uv.lock": lock, "main.py": code})
    assert facts.command[:4] == ["granian", "--interface", "asgi", "main:app"]


def test_django(facts_of):
    facts = facts_of(DJANGO)
    assert facts.target == "site1.wsgi:application"
    assert facts.migrate == ["python", "manage.py", "migrate", "--noinput"]
    assert facts.check == ["python", "manage.py", "migrate", "--check"]
    assert (facts.database, facts.health_path) == ("postgresql", "/health/")


def test_django_with_an_asgi_server(facts_of):
    assert facts_of(DJANGO | {"requirements.txt": "django\nuvicorn\n"}).target == "site1.asgi:application"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": "text"}, "contains no Python project"),
        ({"app.py": "x = 1"}, "pip freeze >requirements.txt"),
        ({"pyproject.toml": "[project]\nname='x'\n", "app.py": ""}, "uv lock"),
        ({"pyproject.toml": "[tool.poetry]\nname='x'\n", "app.py": ""}, "poetry lock"),
        ({"Pipfile.lock": "{}", "app.py": ""}, "pipenv requirements"),
        ({"requirements/prod.txt": "flask", "app.py": ""}, "-r requirements/prod.txt"),
        ({"uv.lock": "", "poetry.lock": "", "app.py": ""}, "uv.lock and poetry.lock"),
        (FLASK | {"requirements.txt": "flask\n"}, "--set server=gunicorn==27.0.1"),
        (FLASK | {".python-version": "3.8\n"}, "requires Python 3.8"),
        (FLASK | {"pyproject.toml": "[project\n"}, "pyproject.toml is not valid TOML"),
    ],
)
def test_what_cannot_be_deployed_is_refused(facts_of, files, message):
    with pytest.raises(Failure, match=re.escape(message)):
        facts_of(files)


def test_server_of_the_image(facts_of):
    facts = facts_of(FLASK | {"requirements.txt": "flask\n"}, server="gunicorn==23.0.0")
    assert facts.command[0] == "gunicorn"
    assert facts.server == "gunicorn==23.0.0"


@pytest.mark.parametrize(
    ("files", "command"),
    [
        (
            {"Procfile": "web: gunicorn -b :$PORT app:app --reload -w 3"},
            "gunicorn app:app -w 3 --bind 0.0.0.0:${API_PORT} --keep-alive 75",
        ),
        (
            {"Procfile": "web: python manage.py migrate && gunicorn app:app"},
            "gunicorn app:app --bind 0.0.0.0:${API_PORT} --keep-alive 75",
        ),
        (
            {"Procfile": "web: poetry run gunicorn app:app --keep-alive 20"},
            "gunicorn app:app --keep-alive 20 --bind 0.0.0.0:${API_PORT}",
        ),
        ({"Procfile": "web: python app.py"}, "gunicorn app:app --bind 0.0.0.0:${API_PORT} --workers 2 --keep-alive 75"),
        ({"Procfile": "web: flask run"}, "gunicorn app:app --bind 0.0.0.0:${API_PORT} --workers 2 --keep-alive 75"),
        (
            {"Dockerfile": 'FROM python:3.12\nCMD ["gunicorn", "--bind", "0.0.0.0:5000", "app:app"]'},
            "gunicorn app:app --bind 0.0.0.0:${API_PORT} --keep-alive 75",
        ),
        (
            {"Dockerfile": "FROM python:3.12\nCMD exec gunicorn app:app --workers ${WORKERS:-4}"},
            "gunicorn app:app --workers 4 --bind 0.0.0.0:${API_PORT} --keep-alive 75",
        ),
        (
            {"Dockerfile": 'FROM python:3.12\nENTRYPOINT ["gunicorn"]\nCMD ["app:app", "-w", "3"]'},
            "gunicorn app:app -w 3 --bind 0.0.0.0:${API_PORT} --keep-alive 75",
        ),
        (
            {"Dockerfile": 'FROM python:3.12\nENTRYPOINT ["tini", "--"]\nCMD ["gunicorn", "app:app"]'},
            "gunicorn app:app --bind 0.0.0.0:${API_PORT} --keep-alive 75",
        ),
        (
            {"compose.yml": "services:\n  web:\n    command: sh -c 'flask db upgrade && gunicorn app:app'\n"},
            "gunicorn app:app --bind 0.0.0.0:${API_PORT} --keep-alive 75",
        ),
        (
            {
                "Dockerfile": 'FROM python:3.12\nENTRYPOINT ["./start.sh"]',
                "start.sh": "#!/bin/sh\nflask db upgrade\nexec gunicorn \\\n app:app\n",
            },
            "gunicorn app:app --bind 0.0.0.0:${API_PORT} --keep-alive 75",
        ),
    ],
)
def test_command(facts_of, files, command):
    assert " ".join(facts_of(FLASK | files).command) == command


def test_workers_of_a_procfile(facts_of):
    procfile = "web: gunicorn app:app\nworker: celery -A app worker\nbeat: celery -A app beat\nclock: python clock.py\n"
    found = {item.name: item for item in facts_of(FLASK | {"Procfile": procfile}).processes}
    assert found["worker"].words == ("celery", "-A", "app", "worker")
    assert found["beat"].words[-2] == "--schedule"
    assert [item.name for item in found.values() if item.is_single] == ["beat", "clock"]


def test_worker_of_a_compose_file(facts_of):
    text = "services:\n  queue:\n    command: celery -A app worker\n  db:\n    command: postgres -c x=1\n"
    processes = facts_of(FLASK | {"docker-compose.yml": text}).processes
    assert [(item.name, item.source) for item in processes] == [("queue", "docker-compose.yml:2")]


def test_celery_without_a_description(facts_of):
    files = {
        "requirements.txt": FLASK["requirements.txt"] + "celery[redis]==5.6\n",
        "tasks.py": "import os\nfrom celery import Celery\n\nqueue = Celery(broker=os.environ['REDIS_URL'])\n"
        "queue.conf.beat_schedule = {}\n",
    }
    facts = facts_of(FLASK | files)
    assert [" ".join(item.words[:4]) for item in facts.processes] == [
        "celery -A tasks:queue worker",
        "celery -A tasks:queue beat",
    ]
    assert facts.uses_redis


def test_queue_without_a_command_is_noted(facts_of):
    facts = facts_of(FLASK | {"requirements.txt": FLASK["requirements.txt"] + "dramatiq==2\n"})
    assert any("dramatiq is a dependency" in note for note in facts.notes)


def test_sqlite_is_a_question(facts_of):
    settings = "ROOT_URLCONF = 'x'\nENGINE = 'django.db.backends.sqlite3'\n"
    files = DJANGO | {"requirements.txt": "django\ngunicorn\n", "site1/settings.py": settings}
    with pytest.raises(Undecided, match=r"settings\.py:2 uses SQLite"):
        facts_of(files)


@pytest.mark.parametrize(
    "answer",
    [
        {"name": "../x"},
        {"application": "a; rm -rf /"},
        {"health_path": "health"},
        {"database": "mysql"},
        {"python": "3"},
    ],
)
def test_invalid_answers(facts_of, answer):
    with pytest.raises(Failure, match="--set "):
        facts_of(FLASK, **answer)


def test_nothing_is_imported(facts_of):
    facts_of(
        FLASK | {"app.py": FLASK["app.py"] + "raise SystemExit('imported')\n", "setup.py": "raise SystemExit('run')\n"}
    )


def test_a_file_with_a_syntax_error_is_noted(facts_of):
    facts = facts_of(FLASK | {"old.py": "print 'python 2'\n"})
    assert any(note.startswith("old.py is not valid for Python 3.") for note in facts.notes)
