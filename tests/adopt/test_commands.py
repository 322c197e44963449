"""The commands of servers and workers, as projects write them, for a container."""

import pytest

from scripts.adopt.commands import server_words, worker_words
from scripts.adopt.processes import find_processes
from scripts.adopt.repository import Repository

ADDRESS = "--host 0.0.0.0 --port ${API_PORT} --timeout-keep-alive 75"
BIND = "--bind 0.0.0.0:${API_PORT} --keep-alive 75"


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("exec gunicorn app:app\n# gunicorn app:app --reload\n", f"gunicorn app:app {BIND}"),
        ("if [ -n $X ]; then gunicorn app:app -w 2; else exit 1; fi", f"gunicorn app:app -w 2 {BIND}"),
        ("uv run --env-file .env uvicorn main:app", f"uvicorn main:app {ADDRESS}"),
        ("uv run --package api --no-sync uvicorn main:app", f"uvicorn main:app {ADDRESS}"),
        ("dumb-init uvicorn main:app", f"uvicorn main:app {ADDRESS}"),
        ("/usr/bin/tini -g -- uvicorn main:app", f"uvicorn main:app {ADDRESS}"),
        ("uvicorn main:app --env-file .env", f"uvicorn main:app {ADDRESS}"),
        (
            "newrelic-admin run-program gunicorn app:app --workers 3",
            f"newrelic-admin run-program gunicorn app:app --workers 3 {BIND}",
        ),
        ("A=b ddtrace-run gunicorn app:app", f"env A=b ddtrace-run gunicorn app:app {BIND}"),
        ("gunicorn app:app -w $WORKERS --threads 4", f"gunicorn app:app --threads 4 {BIND}"),
        ("gunicorn -c gunicorn.conf.py", f"gunicorn -c gunicorn.conf.py {BIND}"),
        ('exec gunicorn -k "$WORKER_CLASS" -c "$GUNICORN_CONF" "$APP_MODULE"', None),
        ("gunicorn --preload $APP", None),
        ("gunicorn --access-logfile - $APP", None),
        ("gunicorn --workers=4 $APP", None),
        ('exec gunicorn main:app -k gthread "$@"', f"gunicorn main:app -k gthread {BIND}"),
        ("tini -- python -m gunicorn app:app", f"gunicorn app:app {BIND}"),
        ("if true; then A=1 exec gunicorn app:app; fi", f"env A=1 gunicorn app:app {BIND}"),
        ("bin/start-nginx gunicorn app:app", f"gunicorn app:app {BIND}"),
        ("nohup uvicorn main:app &", f"uvicorn main:app {ADDRESS}"),
        ("pip install gunicorn", None),
        ("python manage.py runserver", None),
    ],
)
def test_server(text, command):
    words = server_words(text)
    assert (words and " ".join(words)) == command


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("poetry run celery -A app worker", ["celery", "-A", "app", "worker"]),
        ("poetry run celery -A app worker -c ${N:-2}", ["sh", "-c", "celery -A app worker -c $${N:-2}"]),
        (
            "python serve.py --port ${API_PORT} --name $NAME",
            ["sh", "-c", "python serve.py --port ${API_PORT} --name $$NAME"],
        ),
        ("rq worker --url redis://u:p#1@h # jobs", ["rq", "worker", "--url", "redis://u:p#1@h"]),
        ("celery 'worker", None),
    ],
)
def test_worker(text, words):
    assert worker_words(text) == words


def processes_of(make_project, files):
    return find_processes(Repository(make_project(files)))


def test_the_line_of_a_command_after_continued_lines(make_project):
    dockerfile = 'FROM python:3.13\nRUN a \\\n  b \\\n  c\nCMD ["sh", "-c", \\\n  "gunicorn \\\n app:app"]\n'
    assert processes_of(make_project, {"Dockerfile": dockerfile}).web[0].source == "Dockerfile:5"


def test_a_server_that_reloads_comes_last(make_project):
    compose = "services:\n  web: {command: uvicorn main:app --reload}\n"
    files = {"compose.yml": compose, "Dockerfile": "FROM python:3.13\nCMD gunicorn main:app -w 4\n"}
    assert [process.words[0] for process in processes_of(make_project, files).web] == ["gunicorn", "uvicorn"]


def test_a_worker_after_other_commands(make_project):
    compose = "services:\n  jobs:\n    command: sh -c 'python manage.py migrate && celery -A shop worker'\n"
    found = processes_of(make_project, {"compose.yml": compose})
    assert [(item.name, item.words) for item in found.others] == [("jobs", ("celery", "-A", "shop", "worker"))]


def test_programs_that_are_left_out_are_named(make_project):
    compose = (
        "services:\n  web: {command: python manage.py runserver}\n  mail: {command: python -m shop.mailer}\n"
        "  monitor: {command: celery -A shop flower}\n"
    )
    notes = processes_of(make_project, {"compose.yml": compose}).notes
    assert [note.partition(":")[2] for note in notes] == [
        "4 starts flower: it was left out",
        "3 starts 'python -m shop.mailer': it was left out. If it is a worker: --set worker=",
    ]


def test_a_server_with_variables_is_no_worker(make_project):
    assert processes_of(make_project, {"Procfile": "api: gunicorn $APP\n"}).others == []


def test_a_worker_in_a_folder(make_project):
    compose = "services:\n  jobs:\n    command: sh -c 'cd jobs && celery -A tasks worker'\n"
    found = processes_of(make_project, {"compose.yml": compose})
    assert found.others[0].words == ("sh", "-c", "cd jobs && celery -A tasks worker")
