"""Small Git repositories of projects that have no pipeline."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.adopt.__main__ import main
from scripts.adopt.detect import Facts, detect
from scripts.adopt.repository import Repository

AUTHOR = ("-c", "user.name=author", "-c", "user.email=author@example.com")
FLASK = {
    "requirements.txt": "Flask==3.1.3\ngunicorn==27.0.1\n",
    "app.py": "from flask import Flask\n\napp = Flask(__name__)\n",
}
FASTAPI = {"requirements.txt": "fastapi==0.165.0\nuvicorn==0.54.0\n"}
APPLICATION = "from fastapi import FastAPI\n\napp = FastAPI()\n"
DJANGO = {
    "requirements.txt": "Django==5.2.1\ngunicorn==27.0.1\npsycopg[binary]==3.3.9\n",
    "manage.py": "import django, os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site1.settings')\n",
    "site1/__init__.py": "",
    "site1/settings.py": "ROOT_URLCONF = 'site1.urls'\n",
    "site1/urls.py": "from django.urls import path\n\nurlpatterns = [path('health/', None)]\n",
    "site1/wsgi.py": "from django.core.wsgi import get_wsgi_application\n\napplication = get_wsgi_application()\n",
    "site1/asgi.py": "from django.core.asgi import get_asgi_application\n\napplication = get_asgi_application()\n",
}


def run_git(folder: Path, *command: str) -> str:
    """Run git in a folder and return its output."""
    words = ["git", "-C", str(folder), *AUTHOR, *command]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def adopt(folder: Path, *options: str) -> None:
    """Add the pipeline to a repository, without the proof."""
    main([str(folder), "--yes", "--no-proof", *options])


def files_of(folder: Path, commit: str) -> dict[str, str]:
    """Return mode and content id of each file of a commit."""
    lines = run_git(folder, "ls-tree", "-r", commit).splitlines()
    return {line.partition("\t")[2]: line.partition("\t")[0] for line in lines}


def state_of(folder: Path) -> tuple[str, str, str]:
    """Return the work tree, the references and the branches of a repository, as Git prints them."""
    return (
        run_git(folder, "status", "--porcelain", "--ignored"),
        run_git(folder, "for-each-ref"),
        run_git(folder, "branch"),
    )


@pytest.fixture
def make_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that makes a repository with these files, committed on main."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "author")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "author@example.com")

    def make(files: dict[str, str], *, name: str = "shop", commit: bool = True) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        run_git(folder, "init", "--quiet", "--initial-branch=main")
        for file, text in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text)
        if commit:
            run_git(folder, "add", "--all")
            run_git(folder, "commit", "--quiet", "--message=project")
        return folder

    return make


@pytest.fixture
def facts_of(make_project: Callable[..., Path]) -> Callable[..., Facts]:
    """Return a function that detects the facts about a project with these files."""
    return lambda files, **answers: detect(
        Repository(make_project(files)), {k.replace("_", "-"): v for k, v in answers.items()}
    )


@pytest.fixture
def monorepo(make_project):
    """Return a repository with the application in a folder."""
    return make_project({f"backend/api/{name}": text for name, text in FLASK.items()} | {"front/index.html": "shop"})
