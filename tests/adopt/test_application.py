"""The application object, and the name with which it is imported."""

import pytest

from scripts.adopt.evidence import Undecided
from tests.adopt.conftest import APPLICATION, FASTAPI, FLASK


@pytest.mark.parametrize(
    ("file", "target"),
    [
        ("main.py", "main:app"),
        ("app/main.py", "app.main:app"),
        ("src/shop/main.py", "shop.main:app"),
        ("app/__init__.py", "app:app"),
    ],
)
def test_import_name(facts_of, file, target):
    assert facts_of(FASTAPI | {file: APPLICATION}).target == target


@pytest.mark.parametrize(
    ("files", "target", "folder"),
    [
        (
            {"src/py/shop/main.py": APPLICATION, "src/py/shop/orders.py": "from shop.main import app"},
            "shop.main:app",
            "src/py",
        ),
        ({"src/main.py": APPLICATION, "src/orders.py": "from src.main import app"}, "src.main:app", ""),
        ({"api/main.py": APPLICATION + "import orders\n", "api/orders.py": ""}, "main:app", "api"),
        (
            {"main.py": APPLICATION, "lib/__init__.py": "", "lib/celery.py": "", "lib/a.py": "import celery"},
            "main:app",
            "src",
        ),
        ({"main.py": APPLICATION, "lib/email.py": "", "lib/a.py": "import email"}, "main:app", "src"),
        ({"main.py": APPLICATION, "lib/uvicorn.py": "", "lib/a.py": "import uvicorn"}, "main:app", "src"),
        ({"api/main.py": APPLICATION + "import api.orders\n", "api/orders.py": ""}, "api.main:app", "src"),
    ],
)
def test_the_project_s_imports_decide_from_where_it_is_imported(facts_of, files, target, folder):
    facts = facts_of(FASTAPI | files)
    assert (facts.target, facts.source_folder) == (target, folder)


def test_an_extension_is_not_the_application(facts_of):
    code = "from quart import Quart\n\napp = Quart(__name__)\nauth_manager = QuartAuth(app)\napp = Cors(app)\n"
    assert facts_of({"requirements.txt": "quart==0.20\nhypercorn==0.17\n", "run.py": code}).target == "run:app"


def test_factory(facts_of):
    code = "import fastapi\n\ndef create_app(debug=False):\n    app = fastapi.FastAPI()\n    return app\n"
    facts = facts_of(FASTAPI | {"shop/__init__.py": code})
    assert facts.target == "shop:create_app"
    assert "--factory" in facts.command


def test_object_from_factory(facts_of):
    code = "from flask import Flask\n\ndef create_app():\n    return Flask(__name__)\n"
    facts = facts_of(
        {
            **FLASK,
            "app.py": "",
            "shop/__init__.py": code,
            "wsgi.py": "from shop import create_app\n\napp = create_app()\n",
        }
    )
    assert facts.target == "wsgi:app"


def test_a_call_that_uses_the_application_is_not_the_application(facts_of):
    factory = "from flask import Flask\n\ndef create_app():\n    return Flask(__name__)\n"
    worker = "from shop import create_app\nfrom jobs import make_celery\ncelery = make_celery(create_app())\n"
    files = {"requirements.txt": FLASK["requirements.txt"], "shop.py": factory, "celery_worker.py": worker}
    assert facts_of(files).target == "shop:create_app"


@pytest.mark.parametrize("wrapper", ["Cling", "configure"])
def test_an_unknown_wrapper(facts_of, wrapper):
    code = f"from flask import Flask\nfrom shop import {wrapper}\napp = {wrapper}(Flask(__name__))\n"
    assert facts_of(FLASK | {"app.py": code}).target == "app:app"


def test_flask_behind_asgi_with_a_wsgi_server(facts_of):
    code = (
        "from asgiref.wsgi import WsgiToAsgi\nfrom flask import Flask\napp = Flask('x')\nasgi_app = WsgiToAsgi(app)\n"
    )
    assert facts_of(FLASK | {"app.py": code}).target == "app:app"


def test_flask_behind_asgi(facts_of):
    wsgi = "from asgiref.wsgi import WsgiToAsgi\nfrom flask import Flask\nserver = Flask('x')\n"
    files = {"requirements.txt": "flask==3.1\nuvicorn==0.54\n", "app.py": wsgi + "app = WsgiToAsgi(server)\n"}
    facts = facts_of(files)
    assert (facts.framework, facts.target, facts.command[0]) == ("flask", "app:app", "uvicorn")


def test_applications_of_tests_and_docs_do_not_count(facts_of):
    files = {
        "main.py": APPLICATION,
        "tests/app.py": APPLICATION,
        "docs/example.py": APPLICATION,
        "test_main.py": APPLICATION,
    }
    assert facts_of(FASTAPI | files).target == "main:app"


def test_several_applications_are_a_question(facts_of):
    with pytest.raises(Undecided) as raised:
        facts_of(FASTAPI | {"one.py": APPLICATION, "two.py": APPLICATION})
    assert raised.value.candidates == ("one:app (one.py:3)", "two:app (two.py:3)")


def test_the_start_command_decides_between_applications(facts_of):
    files = {"one.py": APPLICATION, "two.py": APPLICATION, "Procfile": "web: uvicorn two:app --port $PORT\n"}
    facts = facts_of(FASTAPI | files)
    assert facts.target == "two:app"
    assert " ".join(facts.command) == "uvicorn two:app --host 0.0.0.0 --port ${API_PORT} --timeout-keep-alive 75"


def test_two_frameworks_are_a_question(facts_of):
    files = {"requirements.txt": "flask\nfastapi\ngunicorn\nuvicorn\n", "one.py": APPLICATION}
    with pytest.raises(Undecided, match="two frameworks: fastapi and flask"):
        facts_of(FLASK | files)


def test_a_similar_name_is_not_the_framework(facts_of):
    files = {"requirements.txt": "django-environ==1\nflask==3\ngunicorn==1\n", "app.py": FLASK["app.py"]}
    assert facts_of(files).framework == "flask"


def test_no_application(facts_of):
    with pytest.raises(Undecided, match=r"flask is a dependency .*, but no file creates an application"):
        facts_of(FLASK | {"app.py": ""})
