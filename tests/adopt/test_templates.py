"""The templates give what the sample has: both are kept up to date together."""

import re
import tomllib
from pathlib import Path

import yaml

from scripts.adopt.generate import PYTHON_IMAGES, generate, pipeline_files
from scripts.runner.base_images import PINS, pinned
from scripts.runner.process import ROOT
from tests.adopt.conftest import DJANGO, FLASK
from tests.rehearsal.application import read

FILES = FLASK | {
    "requirements.txt": FLASK["requirements.txt"] + "psycopg==3.3.9\nflask-migrate==4.1\ncelery[redis]==5.6\n",
    "app.py": FLASK["app.py"] + "import os\nURL = os.environ['DATABASE_URL']\nQ = os.environ['REDIS_URL']\n",
    "Procfile": "web: gunicorn app:app\nworker: celery -A app worker\nscheduler: python clock.py\n",
}


def test_what_does_not_depend_on_the_application_is_that_of_the_sample(facts_of):
    generated = yaml.safe_load(generate(facts_of(FILES))["docker-compose.prod.yml"])
    sample = yaml.safe_load((ROOT / "docker-compose.prod.yml").read_text())
    assert generated["services"]["proxy"] == sample["services"]["proxy"]
    assert generated["services"]["front"] == sample["services"]["front"]
    for name in ("api", "check", "backup", "migrate", "db"):
        differing = {"labels", "command"}  # the sample's command is in its Dockerfile
        assert generated["services"][name].keys() - differing == sample["services"][name].keys() - differing
    own, other = generated["services"]["api"], sample["services"]["api"]
    assert own["networks"] == other["networks"]
    assert own["labels"] == other["labels"] | {"quai.health-path": ""}
    for key in ("healthcheck", "deploy"):  # not their values: a release of the sample may change them
        assert own[key].keys() == other[key].keys()


def test_the_images_are_those_of_the_sample(facts_of, tmp_path):
    texts = generate(facts_of(FILES))
    for name, (file, _) in PINS.items():
        path = tmp_path / name
        path.write_text(texts[file])
        if name != "REDIS_IMAGE":  # the sample has no Redis
            assert pinned(path, name) == pinned(ROOT / file, name)
    assert pinned(ROOT / "Dockerfile", "PYTHON_IMAGE") == PYTHON_IMAGES["3.13"]


def test_each_variable_of_the_compose_file_is_in_the_template_of_the_server(facts_of):
    texts = generate(facts_of(FILES))
    names = {line.partition("=")[0] for line in texts[".env.prod"].splitlines() if line and not line.startswith("#")}
    assert {"DATABASE_URL", "REDIS_URL", "POSTGRES_PASSWORD", "SITE_ADDRESS"} <= names
    assert "DATABASE_URL=postgresql://shop:${POSTGRES_PASSWORD}@db:5432/shop" in texts[".env.prod"]


def test_tests_that_need_a_database_get_one(facts_of):
    workflow = "on: push\njobs: {test: {services: {postgres: {image: 'postgres:17'}}}}\n"
    files = FILES | {"tests/test_a.py": "", ".github/workflows/test.yml": workflow}
    text = generate(facts_of(files))["noxfile.py"]
    compile(text, "noxfile.py", "exec")
    assert '"DATABASE_URL": "postgresql://{user}:{password}@{host}:{port}/{name}",' in text
    assert 'run_pipeline(session, "postgres", *settings, "--", *command)' in text


def test_the_password_of_the_database_is_one_of_its_settings(facts_of):
    code = "import os\nPASSWORD = os.environ['POSTGRES_PASSWORD']\nHOST = os.environ['POSTGRES_SERVER']\n"
    files = FILES | {"tests/test_a.py": "", "config.py": code}
    text = generate(facts_of(files, test_database="yes"))["noxfile.py"]
    assert '"POSTGRES_SERVER": "{host}",' in text
    assert '"POSTGRES_PASSWORD": "{password}",' in text


def test_tests_that_need_no_database_get_none(facts_of):
    text = generate(facts_of(FILES | {"tests/test_a.py": ""}, test_database="no"))["noxfile.py"]
    compile(text, "noxfile.py", "exec")
    assert "TEST_SETTINGS" not in text


def test_tests_get_the_required_settings(facts_of):
    text = generate(facts_of(FLASK | {"config.py": "import os\nKEY = os.environ['API_KEY']\n"}))["noxfile.py"]
    compile(text, "noxfile.py", "exec")
    assert '"API_KEY": "change-me",' in text
    assert 'env=project.test_variables("src") | TEST_SETTINGS' in text


def test_only_the_lines_of_the_lock_file_are_in_the_dockerfile(facts_of):
    text = generate(facts_of(FILES))["Dockerfile"]
    assert "COPY requirements*.txt ./" in text
    assert "poetry" not in text


def test_pytest_does_not_collect_a_file_of_the_pipeline():
    names = [Path(name).name for name in pipeline_files()]
    assert not [name for name in names if re.fullmatch(r"(test_.*|.*_test|conftest)\.py", name)]


def test_folders_with_spaces(facts_of):
    files = {f"my site/{name}": text for name, text in DJANGO.items()}
    files["requirements.txt"] = DJANGO["requirements.txt"]
    text = generate(facts_of(files))["Dockerfile"]
    assert 'PYTHONPATH="/app:/app/my site" ' in text


def test_a_site_that_checks_the_host_has_a_name(facts_of):
    settings = "import os\nALLOWED_HOSTS = os.environ['ALLOWED_HOSTS'].split(',')\n"
    wsgi = "from django.core.wsgi import get_wsgi_application\n\napplication = get_wsgi_application()\n"
    requirements = "django==6.1\ngunicorn==27.0.1\n"
    texts = generate(facts_of({"requirements.txt": requirements, "shop/settings.py": settings, "shop/wsgi.py": wsgi}))
    assert "SITE_ADDRESS=localhost\nALLOWED_HOSTS=${SITE_ADDRESS},localhost\n" in texts[".env.prod"]
    assert tomllib.loads(texts["rehearsal.toml"])["settings"] == {"SITE_ADDRESS": "localhost"}


def test_the_rehearsal_accepts_any_status_of_an_unknown_page(facts_of, tmp_path):
    texts = generate(facts_of(FLASK))
    for name in ("rehearsal.toml", ".env.prod"):
        (tmp_path / name).write_text(texts[name])
    assert [(request.path, request.status) for request in read(tmp_path, "").requests] == [("/", None)]


def test_a_setting_that_only_the_user_knows_has_to_be_set_on_the_server(facts_of):
    texts = generate(facts_of(FLASK | {"config.py": "import os\nKEY = os.environ['STRIPE_KEY']\n"}))
    assert "STRIPE_KEY=change-me # set it on the server\n" in texts[".env.prod"]
    assert tomllib.loads(texts["rehearsal.toml"])["settings"] == {"STRIPE_KEY": "change-me"}
