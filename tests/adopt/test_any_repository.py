"""Whatever a repository contains, detection ends with facts, a question or a refusal, and what it writes is valid."""

import subprocess
import tempfile
import tomllib
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.adopt.commands import server_words, worker_words
from scripts.adopt.detect import detect
from scripts.adopt.evidence import Undecided
from scripts.adopt.generate import CD, CI, generate
from scripts.adopt.repository import Repository
from scripts.runner.process import Failure
from scripts.runner.project import LOCK_FILES
from scripts.runner.settings import parse_env

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
        assert_valid(facts)


def assert_valid(facts):
    """Assert that each generated file has the syntax of its format, and the facts."""
    texts = generate(facts)
    content = {name: yaml.safe_load(text) for name, text in texts.items() if name.endswith(".yml")}
    compose = content["docker-compose.prod.yml"]
    assert compose["services"]["api"]["command"] == facts.command
    assert "\n\n\n" not in texts["docker-compose.prod.yml"]
    compile(texts["noxfile.py"], "noxfile.py", "exec")
    tomllib.loads(texts["rehearsal.toml"])
    assert parse_env(texts[".env.prod"])["API_PORT"] == "8000"
    for name in (CI, CD):
        folder = content[name].get("defaults", {"run": {"working-directory": ""}})["run"]["working-directory"]
        assert folder == facts.folder


NAMES = st.sampled_from(["app", "shop", "my_api", "größe", "core"])
FOLDERS = st.sampled_from(["", "backend", "apps/the api", "it's: #1", "größe"])
SETTINGS = st.dictionaries(
    st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True),
    st.one_of(st.none(), st.text(max_size=20)),  # the default in the code
    max_size=5,
)


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(NAMES, NAMES, FOLDERS, st.sampled_from(["", "src"]), SETTINGS, st.booleans())
def test_any_layout(module, variable, folder, source, variables, is_fastapi):
    package, server = ("fastapi", "uvicorn") if is_fastapi else ("flask", "gunicorn")
    reads = [f"os.getenv({name!r}" + (")" if value is None else f", {value!r})") for name, value in variables.items()]
    code = f"import os\nimport {package}\n{variable} = {package}.{'FastAPI' if is_fastapi else 'Flask'}('x')\n"
    files = {
        "requirements.txt": f"{package}==3.1\n{server}==27.0\npsycopg[binary]==3.3\nredis==6.0\n",
        f"{source}/{module}/main.py".lstrip("/"): code + "\n".join(reads),
    }
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory, "shop")
        for name, text in files.items():
            (top / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (top / folder / name).write_text(text)
        subprocess.run(["git", "-C", str(top), "init", "--quiet"], check=True)
        subprocess.run(["git", "-C", str(top), "add", "--all"], check=True)
        facts = detect(Repository(top, folder), {"name": "shop"})
        assert facts.target == f"{module}.main:{variable}"
        assert {setting.name for setting in facts.settings} == variables.keys()
        assert_valid(facts)


@settings(deadline=None, database=None)
@given(st.text())
def test_any_command(text):
    for words in (server_words(text), worker_words(text)):
        assert words is None or all(isinstance(word, str) for word in words)
