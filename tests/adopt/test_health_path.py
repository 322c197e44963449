"""The health path, from routes with the usual names."""

import pytest

from tests.adopt.conftest import DJANGO, FLASK


@pytest.mark.parametrize(
    ("code", "path"),
    [
        ("from flask import Flask\n\napp = Flask(__name__)\n\n@app.route('/health')\ndef health(): pass\n", "/health"),
        (
            "from flask import Flask\n\napp = Flask(__name__)\n\n@app.get('/users/<id>/status')\ndef status(): pass\n",
            "",
        ),
        ("from flask import Flask\n\napp = Flask(__name__)\n\n@app.post('/ping')\ndef ping(): pass\n", ""),
        (
            "from flask import Flask\n\napp = Flask(__name__)\n\n@app.route('/up', methods=['POST'])\ndef up(): pass\n",
            "",
        ),
        (
            "from flask import Flask, Blueprint\n\napp = Flask(__name__)\n"
            "bp = Blueprint('x', __name__, url_prefix='/api')\napp.register_blueprint(bp)\n"
            "@bp.get('/ping')\ndef ping(): pass\n",
            "/api/ping",
        ),
        (
            "from flask import Flask, Blueprint\n\napp = Flask(__name__)\nbp = Blueprint('x', __name__)\n"
            "app.register_blueprint(bp, url_prefix=prefix())\n\n@bp.get('/ping')\ndef ping(): pass\n",
            "",
        ),
    ],
)
def test_health_path(facts_of, code, path):
    assert facts_of(FLASK | {"app.py": code}).health_path == path


def test_health_path_of_included_urls(facts_of):
    files = {
        "site1/urls.py": "from django.urls import include, path\n\nu = [path('api/', include('shop.urls'))]\n",
        "shop/urls.py": "from django.urls import path\n\nu = [path('healthz', None), path('<int:id>/ping', None)]\n",
    }
    assert facts_of(DJANGO | files).health_path == "/api/healthz"


@pytest.mark.parametrize(
    "code",
    [
        "from fastapi import FastAPI\napp = FastAPI()\napi = FastAPI()\napp.mount('/api', api)\n"
        "@api.get('/health')\ndef f(): ...\n",
        "from fastapi import FastAPI\nfrom ninja import NinjaAPI\napp = FastAPI()\napi = NinjaAPI()\n"
        "@api.get('/health')\ndef f(): ...\n",
    ],
)
def test_a_route_of_a_mounted_application_has_an_unknown_prefix(facts_of, code):
    files = {"requirements.txt": "fastapi==0.165.0\nuvicorn==0.54.0\n", "main.py": code}
    assert facts_of(files, application="main:app").health_path == ""


def test_an_application_with_another_name(facts_of):
    code = "from flask import Flask\nshop = Flask(__name__)\n@shop.get('/health')\ndef f(): ...\n"
    assert facts_of(FLASK | {"app.py": code}).health_path == "/health"


@pytest.mark.parametrize(
    "code",
    [
        "from fastapi import FastAPI\napi: FastAPI = FastAPI()\n@api.get('/health')\ndef f(): ...\n",
        "from fastapi import FastAPI\napp = FastAPI()\ndef add(api):\n    @api.get('/health')\n    def f(): ...\n",
    ],
)
def test_an_application_named_api(facts_of, code):
    files = {"requirements.txt": "fastapi==0.165.0\nuvicorn==0.54.0\n", "main.py": code}
    assert facts_of(files).health_path == "/health"
