"""Whatever a repository contains, detection ends with facts, a question or a refusal, and what it writes is valid."""

import subprocess
import tempfile
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.adopt.detect import detect
from scripts.adopt.evidence import Undecided
from scripts.adopt.generate import generate
from scripts.adopt.packages import LOCK_FILES
from scripts.adopt.processes import server_words, worker_words
from scripts.adopt.repository import Repository
from scripts.runner.process import Failure

PACKAGES = [
    "flask",
    "Django==5.2",
    "fastapi[standard]",
    "gunicorn==27",
    "uvicorn",
    "psycopg[binary]",
    "celery[redis]",
    "redis",
]
CODE = [
    "from flask import Flask\napp = Flask(__name__)\n",
    "import fastapi\ndef create_app():\n    return fastapi.FastAPI()\n",
    "from fastapi import APIRouter\nrouter = APIRouter(prefix='/x')\n@router.get('/health')\ndef f(): ...\n",
    "import os\nA = os.environ['A_KEY']\nB = os.getenv('REDIS_URL')\n",
    "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n",
    "STATIC_ROOT = BASE / 'static'\nINSTALLED_APPS = ['django.contrib.staticfiles']\nROOT_URLCONF = 'urls'\n",
    "from celery import Celery\napp = Celery('x')\n",
    "print 'python 2'\n",
    "",
]
FILES = [
    "app.py",
    "main.py",
    "src/shop/main.py",
    "shop/__init__.py",
    "shop/wsgi.py",
    "shop/urls.py",
    "manage.py",
    "tests/test_x.py",
]
TEXTS = {
    "requirements.txt": st.lists(st.sampled_from(PACKAGES), min_size=1, max_size=6).map("\n".join),
    "Procfile": st.one_of(st.text(max_size=80), st.just("web: gunicorn app:app\nworker: celery -A app worker\n")),
    "Dockerfile": st.one_of(st.text(max_size=80), st.just('FROM python:3.12\nCMD ["uvicorn", "main:app"]\n')),
    "docker-compose.yml": st.one_of(st.text(max_size=80), st.just("services: {web: {command: gunicorn app:app}}")),
    "pyproject.toml": st.one_of(st.text(max_size=80), st.just("[project]\nname='x'\ndependencies=['flask']\n")),
    ".python-version": st.text(max_size=10),
    **dict.fromkeys(LOCK_FILES, st.one_of(st.text(max_size=40), st.just(""))),
    **{name: st.one_of(st.sampled_from(CODE), st.text(max_size=60)) for name in FILES},
}
REPOSITORIES = st.fixed_dictionaries({}, optional=TEXTS)


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(REPOSITORIES)
def test_any_repository(files):
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "shop"
        folder.mkdir()
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        subprocess.run(["git", "-C", str(folder), "init", "--quiet"], check=True)
        subprocess.run(["git", "-C", str(folder), "add", "--all"], check=True)
        try:
            facts = detect(Repository(folder), {})
        except (Undecided, Failure):
            return
        texts = generate(facts)
        compose = yaml.safe_load(texts["docker-compose.prod.yml"])
        assert compose["services"]["api"]["command"] == facts.command
        assert "\n\n\n" not in texts["docker-compose.prod.yml"]


@settings(deadline=None, database=None)
@given(st.text())
def test_any_command(text):
    for words in (server_words(text), worker_words(text)):
        assert words is None or all(isinstance(word, str) for word in words)
