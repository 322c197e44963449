"""What an application needs in addition to its server: a database and its migrations, Redis, workers and schedulers."""

import ast
import re
import shlex

from scripts.adopt import code
from scripts.adopt.commands import worker_words
from scripts.adopt.environment import Setting
from scripts.adopt.evidence import Evidence, Undecided
from scripts.adopt.processes import Process, make_process
from scripts.runner.process import Failure

POSTGRESQL = ("psycopg", "psycopg2", "psycopg2-binary", "psycopg-binary", "asyncpg", "aiopg", "pg8000")
OTHER_DATABASES = (
    "mysqlclient",
    "pymysql",
    "mysql-connector-python",
    "aiomysql",
    "asyncmy",
    "pymongo",
    "motor",
    "oracledb",
)
# The Debian packages that compile a Python package, and that it needs at run time. Wheels need neither.
COMPILER = "gcc libc6-dev"
SYSTEM_PACKAGES = {
    "psycopg2": (f"{COMPILER} libpq-dev", "libpq5"),
    "psycopg": ("", "libpq5"),  # unless psycopg-binary or psycopg-c is installed, too
    "psycopg-c": (f"{COMPILER} libpq-dev", "libpq5"),
    "mysqlclient": (f"{COMPILER} libmariadb-dev pkg-config", "libmariadb3"),
    "uwsgi": (COMPILER, ""),
    "python-ldap": (f"{COMPILER} libldap-dev libsasl2-dev", "libldap2"),
    "python-magic": ("", "libmagic1"),
    "weasyprint": ("", "libpango-1.0-0 libpangoft2-1.0-0"),
}
# A package that is installed from a Git repository: in requirements.txt, uv.lock, and poetry.lock or pdm.lock.
GIT_DEPENDENCY = re.compile(r"\bgit\+(https|ssh)|source = \{ git =|^type = \"git\"|^git = ", re.MULTILINE)
REDIS = ("redis", "django-redis", "rq", "django-rq", "arq", "channels-redis", "flask-redis")
QUEUES = ("celery", "rq", "django-rq", "dramatiq", "huey", "arq", "django-q", "django-q2", "taskiq", "procrastinate")


def find_database(evidence: Evidence) -> str:
    """Return `postgresql`, `external`, or an empty text. Raise Undecided for SQLite."""
    if (answer := evidence.answer("database")) is not None:
        if answer not in ("postgresql", "external", "none"):
            raise Failure(f"--set database={answer}: expected postgresql, external or none")
        return answer.removesuffix("none")
    dependencies = evidence.dependencies
    if driver := dependencies.find(*POSTGRESQL):
        return evidence.add("database", "postgresql", driver.source)
    if indirect := next((name for name in POSTGRESQL if dependencies.is_installed(name)), ""):
        return evidence.add("database", "postgresql", f"{dependencies.file}: {indirect}")
    if other := dependencies.find(*OTHER_DATABASES):
        evidence.notes.append(f"{other.name} ({other.source}): Quai runs no such database; the server must reach yours")
        return evidence.add("database", "external", other.source)
    if sqlite := evidence.texts(r"sqlite(3|\+aiosqlite)?://|backends\.sqlite3"):
        reason = (
            f"{sqlite[0]} uses SQLite, and no driver of PostgreSQL is a dependency: with each release, the container"
            " and the file in it are replaced"
        )
        raise Undecided("database", reason, ("external", "none"))
    return ""


def is_redis(name: str) -> bool:
    """Return whether a setting is the address of a Redis server or of a message broker."""
    if re.search("TLS|SSL", name):
        return False
    kinds = r"(\w+_)?(REDIS|BROKER|CELERY|CACHE|QUEUE|RQ)\w*_(URL|URI|DSN)"
    return bool(re.fullmatch(rf"{kinds}|(\w+_)?REDIS(_\w+)?_(HOST|PORT)|REDIS|(CELERY_)?RESULT_BACKEND", name))


def uses_redis(evidence: Evidence, settings: list[Setting]) -> bool:
    """Return whether the application needs Redis, and a setting says where it is."""
    dependencies = evidence.dependencies
    queue = dependencies.find("celery", "kombu")
    setting = next((item for item in settings if is_redis(item.name)), None)
    if not any(map(dependencies.is_installed, REDIS)) and not (queue and "redis" in queue.extras):
        if queue and setting:
            evidence.notes.append(f"{setting.name} ({setting.source}): Quai adds no message broker other than Redis")
        return False
    if not setting:
        evidence.notes.append("Redis is a dependency, but no setting says where it is: no service redis was added")
        return False
    evidence.add("Redis", setting.name, setting.source)
    return True


def find_scheme(evidence: Evidence, framework: str) -> str:
    """Return the scheme of a database URL of PostgreSQL; empty without a driver of it.

    SQLAlchemy needs the name of the driver in it, unless it is the default one.
    """
    dependencies = evidence.dependencies
    if not any(dependencies.is_installed(name) for name in POSTGRESQL):
        return ""
    if framework == "django" or not any(map(dependencies.is_installed, ("sqlalchemy", "sqlmodel", "flask-sqlalchemy"))):
        return "postgresql"
    if dependencies.is_installed("asyncpg"):
        return "postgresql" if evidence.texts(r"^postgresql\+asyncpg(://)?$") else "postgresql+asyncpg"
    sqlalchemy = dependencies.find("sqlalchemy")
    version = re.findall(r"\d+", sqlalchemy.version) if sqlalchemy else []
    is_default = tuple(map(int, version[:2])) >= (2, 1)
    is_psycopg = dependencies.is_installed("psycopg") and not any(
        dependencies.is_installed(name) for name in ("psycopg2", "psycopg2-binary")
    )
    return "postgresql+psycopg" if is_psycopg and not is_default else "postgresql"


def find_system_packages(evidence: Evidence) -> tuple[list[str], list[str]]:
    """Return the Debian packages that install the dependencies, and those that they need at run time."""
    dependencies = evidence.dependencies
    names = {name for name in SYSTEM_PACKAGES if dependencies.is_installed(name)}
    psycopg = dependencies.find("psycopg")
    extras = psycopg.extras if psycopg else frozenset()
    if "binary" in extras or dependencies.is_installed("psycopg-binary"):
        names.discard("psycopg")
    if "c" in extras:
        names.add("psycopg-c")
    build, runtime = ({word for name in names for word in SYSTEM_PACKAGES[name][part].split()} for part in (0, 1))
    if any(GIT_DEPENDENCY.search(evidence.repository.text(x)) for x in (dependencies.file, *dependencies.included)):
        build.add("git")
    return sorted(build), sorted(runtime)


def find_migrations(evidence: Evidence, framework: str, database: str) -> tuple[list[str], list[str]]:
    """Return the command that migrates, and the one that exits with 0 if no migration is pending; empty without."""
    migrate, check, source = _migrations(evidence, framework) if database else ([], [], "")
    for name, words in (("migrate", migrate), ("check", check)):
        if (answer := evidence.answer(name)) is not None:
            words[:] = answered_words(name, answer)
        elif words:
            text = words[-1] if words[:2] == ["sh", "-c"] else " ".join(words)
            evidence.add(name, "compares current with heads" if "heads" in text else text, source)
    return migrate, check


def answered_words(name: str, answer: str) -> list[str]:
    """Return the words of a command that the user gives. Raise Failure if a shell cannot read it."""
    words = worker_words(answer) or []
    if answer.strip() and not words:
        raise Failure(f"--set {name}={answer}: the quotes are not closed")
    return words


def _migrations(evidence: Evidence, framework: str) -> tuple[list[str], list[str], str]:
    manage = code.find_manage(evidence.repository)
    if framework == "django" and manage:
        words = ["python", manage, "migrate"]
        return [*words, "--noinput"], [*words, "--check"], manage
    if package := evidence.dependencies.find("flask-migrate"):
        return ["flask", "db", "upgrade"], _alembic_check("flask db"), package.source
    file = next(evidence.repository.matching("alembic.ini"), "")
    if file and framework != "django":
        folder = file.rpartition("/")[0]  # the paths in alembic.ini are relative to the current directory
        begin = f"cd {shlex.quote(folder)} && " if folder else ""
        upgrade = ["sh", "-c", f"{begin}alembic upgrade head"] if folder else ["alembic", "upgrade", "head"]
        return upgrade, _alembic_check("alembic", begin), file
    return [], [], ""


def _alembic_check(alembic: str, begin: str = "") -> list[str]:
    """Return a command that exits with 0 on the latest revisions, and on one of a newer release.

    `current` prints "(head)" after each revision of `heads` that the database has. Compose reads `$$` as `$`.
    """
    script = (
        f"{begin}current=$$({alembic} current 2>&1)\n"
        """case $$current in *"Can't locate revision"*) exit 0;; esac\n"""
        f"heads=$$({alembic} heads) &&\n"
        """  [ "$$(echo "$$current" | grep -c 'head)')" -ge "$$(echo "$$heads" | grep -c 'head)')" ]\n"""
    )
    return ["sh", "-c", script]


def find_workers(evidence: Evidence, described: list[Process]) -> list[Process]:
    """Return the workers and schedulers: those of the project's files, or the usual ones of Celery."""
    found = described or _celery(evidence)
    for name in ("worker", "scheduler"):
        if (answer := evidence.answer(name)) is not None:
            is_single = name == "scheduler"
            found = [item for item in found if item.is_single != is_single and item.name != name]
            if words := answered_words(name, answer):
                found.append(make_process(name, words, f"--set {name}"))
    for item in found:
        evidence.add(item.name, " ".join(item.words), item.source)
    queue = evidence.dependencies.find(*QUEUES)
    if queue and not found and not evidence.answers.keys() & {"worker", "scheduler"}:
        evidence.notes.append(
            f"{queue.name} is a dependency ({queue.source}), but no file says how a worker starts: if there is one, add"
            " --set worker='COMMAND'"
        )
    return found


def _celery(evidence: Evidence) -> list[Process]:
    for module in evidence.modules:
        for node in module.tree.body:
            if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
                continue
            target = node.targets[0]
            if module.full_name(node.value.func) not in ("celery.Celery", "celery.app.Celery"):
                continue
            if isinstance(target, ast.Name):
                app = ["celery", "-A", f"{module.name}:{target.id}"]
                worker = make_process("worker", [*app, "worker", "--loglevel=info"], module.at(node))
                return [worker, *_celery_beat(evidence, app)]
    return []


def _celery_beat(evidence: Evidence, app: list[str]) -> list[Process]:
    words = [*app, "beat", "--loglevel=info"]
    if package := evidence.dependencies.find("django-celery-beat"):
        words += ["--scheduler", "django_celery_beat.schedulers:DatabaseScheduler"]
        return [make_process("scheduler", words, package.source)]
    for module in evidence.modules:
        for node in ast.walk(module.tree):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(ast.unparse(target).lower().endswith("beat_schedule") for target in targets):
                return [make_process("scheduler", words, module.at(node))]
    return []
