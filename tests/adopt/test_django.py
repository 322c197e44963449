"""What is particular to Django: settings module, static files, folders, WebSockets."""

import pytest

from scripts.adopt.evidence import Undecided
from scripts.adopt.generate import generate
from tests.adopt.conftest import DJANGO


def test_a_django_project_in_a_folder_is_imported_from_there(facts_of):
    wsgi = "from django.core.wsgi import get_wsgi_application\n\napplication = get_wsgi_application()\n"
    settings = "INSTALLED_APPS = ['django.contrib.staticfiles']\nSTATIC_ROOT = BASE_DIR / 'static'\n"
    facts = facts_of(
        {
            "requirements.txt": "django==6.1\ngunicorn==27.0.1\npsycopg[binary]==3.3.9\n",
            "site/manage.py": "import django\n",
            "site/shop/wsgi.py": wsgi,
            "site/shop/settings.py": settings,
        }
    )
    assert facts.target == "shop.wsgi:application"
    assert facts.migrate == ["python", "site/manage.py", "migrate", "--noinput"]
    assert facts.static_root == "site/static"
    assert "PYTHONPATH=/app:/app/site " in generate(facts)["Dockerfile"]


def test_django_settings_of_manage_differ(facts_of):
    setting = "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site1.production')\n"
    wsgi = DJANGO["site1/wsgi.py"] + setting
    facts = facts_of(DJANGO | {"site1/wsgi.py": wsgi})
    assert facts.settings_module == "site1.production"


def test_static_files_are_where_base_dir_is(facts_of):
    settings = (
        "from pathlib import Path\nBASE_DIR = Path(__file__).resolve().parent.parent\n"
        "INSTALLED_APPS = ['django.contrib.staticfiles']\nSTATIC_ROOT = BASE_DIR / 'static'\n"
    )
    files = {name: text for name, text in DJANGO.items() if name != "site1/settings.py"}
    assert facts_of(files | {"site1/settings/base.py": settings}).static_root == "site1/static"


def test_settings_for_production_are_a_question(facts_of):
    wsgi = DJANGO["site1/wsgi.py"] + "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site1.settings')\n"
    files = {name: text for name, text in DJANGO.items() if name != "site1/settings.py"} | {"site1/wsgi.py": wsgi}
    files |= {f"site1/settings/{name}.py": "ROOT_URLCONF = 'site1.urls'\n" for name in ("__init__", "base", "prod")}
    with pytest.raises(Undecided) as raised:
        facts_of(files)
    assert (raised.value.name, raised.value.candidates) == (
        "settings-module",
        ("site1.settings.prod", "site1.settings"),
    )


@pytest.mark.parametrize("module", ["site1.settings.prod", "site1.settings"])
def test_the_user_decides_about_the_settings(facts_of, module):
    facts = facts_of(DJANGO, settings_module=module)
    assert f"DJANGO_SETTINGS_MODULE: {module}\n" in generate(facts)["docker-compose.prod.yml"]


def test_channels(facts_of):
    asgi = (
        "from channels.routing import ProtocolTypeRouter\nfrom django.core.asgi import get_asgi_application\n"
        "http = get_asgi_application()\napplication = ProtocolTypeRouter({'http': http})\n"
    )
    files = DJANGO | {
        "site1/asgi.py": asgi,
        "requirements.txt": DJANGO["requirements.txt"] + "channels==4\nuvicorn==1\n",
    }
    facts = facts_of(files)
    assert (facts.target, facts.command[0]) == ("site1.asgi:application", "uvicorn")


def test_lost_websockets_and_uploads_are_noted(facts_of):
    asgi = "from channels.routing import ProtocolTypeRouter\napplication = ProtocolTypeRouter({})\n"
    settings = DJANGO["site1/settings.py"] + "MEDIA_ROOT = 'media'\n"
    files = DJANGO | {"site1/asgi.py": asgi, "site1/settings.py": settings, "Procfile": "web: gunicorn site1.wsgi\n"}
    notes = " ".join(facts_of(files).notes)
    assert "site1/asgi.py:2 accepts WebSockets" in notes
    assert "MEDIA_ROOT (site1/settings.py:2)" in notes


SETTINGS = "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site1.settings')\n"


@pytest.mark.parametrize(
    "files",
    [
        {"site1/live/__init__.py": "", "site1/production_orders/__init__.py": ""},
        {"Procfile": "web: DJANGO_SETTINGS_MODULE=site1.production gunicorn site1.wsgi\n", "site1/production.py": ""},
        {
            "compose.prod.yml": "services: {web: {environment: {DJANGO_SETTINGS_MODULE: site1.production}}}\n",
            "site1/production.py": "",
        },
    ],
)
def test_settings_that_are_decided(facts_of, files):
    wsgi = {"site1/wsgi.py": DJANGO["site1/wsgi.py"] + SETTINGS}
    expected = "site1.production" if "site1/production.py" in files else ""
    assert facts_of(DJANGO | wsgi | files).settings_module == expected


def test_settings_that_import_those_for_production(facts_of):
    files = {name: text for name, text in DJANGO.items() if name != "site1/settings.py"}
    files |= {
        "site1/wsgi.py": DJANGO["site1/wsgi.py"] + SETTINGS,
        "site1/settings/__init__.py": "from .prod import *\n",
    }
    assert facts_of(files | {"site1/settings/prod.py": "ROOT_URLCONF = 'site1.urls'\n"}).settings_module == ""
