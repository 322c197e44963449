"""Small Git repositories of projects that have no pipeline."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.adopt.detect import Facts, detect
from scripts.adopt.repository import Repository

AUTHOR = ("-c", "user.name=author", "-c", "user.email=author@example.com")
FLASK = {
    "requirements.txt": "Flask==3.1.3\ngunicorn==27.0.1\n",
    "app.py": "from flask import Flask\n\napp = Flask(__name__)\n",
}
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
