"""What an application needs in addition to its server, and what its settings become."""

from scripts.adopt.generate import generate
from tests.adopt.conftest import FLASK


def test_a_package_from_a_git_repository_needs_git_in_the_build(facts_of):
    requirements = FLASK["requirements.txt"] + "tool @ git+https://example.com/tool@v1\n"
    facts = facts_of(FLASK | {"requirements.txt": requirements})
    assert facts.build_packages == ["git"]
    assert "git" not in facts.runtime_packages


def test_redis_for_several_purposes(facts_of):
    code = "import os\nA = os.environ['REDIS_QUEUE_HOST']\nB = os.environ['REDIS_QUEUE_PORT']\n"
    files = FLASK | {"requirements.txt": FLASK["requirements.txt"] + "redis==6\n", "config.py": code}
    text = generate(facts_of(files))[".env.prod"]
    assert "REDIS_QUEUE_HOST=redis\nREDIS_QUEUE_PORT=6379\n" in text


def test_a_monitor_of_celery_is_not_a_worker(facts_of):
    compose = "services:\n  jobs: {command: celery -A app worker}\n  monitor: {command: celery -A app flower}\n"
    assert [item.name for item in facts_of(FLASK | {"docker-compose.yml": compose}).processes] == ["jobs"]


def test_an_optional_database_url_is_composed_by_the_code(facts_of):
    code = "import os\nHOST, KEY = os.environ['DB_HOST'], os.environ['DB_PASSWORD']\nURL = os.getenv('DATABASE_URL')\n"
    files = FLASK | {"requirements.txt": FLASK["requirements.txt"] + "psycopg[binary]==3.3\n", "config.py": code}
    text = generate(facts_of(files))[".env.prod"]
    assert "DB_HOST=db\n" in text
    assert "DATABASE_URL" not in text
