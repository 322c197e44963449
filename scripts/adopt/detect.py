"""What a repository is: each fact with the place that says so, and a question where the files do not decide."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from scripts.adopt import application, code, django, processes, services
from scripts.adopt.configuration import find_gaps
from scripts.adopt.environment import find_settings
from scripts.adopt.evidence import Evidence, Undecided
from scripts.adopt.facts import Facts
from scripts.adopt.health_path import find_health_paths
from scripts.adopt.packages import read_toml, table
from scripts.adopt.python_version import PYTHONS, read_python
from scripts.adopt.repository import Repository, line_at, line_of
from scripts.runner.process import Failure


def detect(repository: Repository, answers: Mapping[str, str]) -> Facts:
    """Return the facts about the application in a repository.

    `answers` replace what the files say; ANSWERS names them. Raise Undecided if neither decides a fact,
    and Failure if the application cannot be deployed.
    """
    evidence = Evidence(repository, answers)
    found_processes = processes.find_processes(repository)
    has_answer = bool({"worker", "scheduler"} & answers.keys())
    evidence.notes += [note for note in found_processes.notes if not (has_answer and processes.WORKER_HINT in note)]
    web, others = found_processes.web, found_processes.others
    name = _name(evidence)
    python = _python(evidence)
    found = application.find_application(evidence, web)
    framework = application.FRAMEWORKS[found.framework] if found else ""
    command = application.find_command(evidence, found, web)
    evidence.add("dependencies", evidence.dependencies.file, evidence.dependencies.file)
    settings = find_settings(evidence.modules)
    database = services.find_database(evidence)
    migrate, check = services.find_migrations(evidence, framework, database)
    build_packages, runtime_packages = services.find_system_packages(evidence)
    is_django = framework == "django"
    static_root, static_prefix = django.find_static_files(evidence) if is_django else ("", "")
    if is_django:
        django.note_losses(evidence, command)
    if has_own_dockerfile := _own_dockerfile(evidence):
        static_prefix = ""
    tests_need_database = _tests(evidence)
    _branch(evidence)
    facts = Facts(
        name=name,
        framework=framework,
        target=found.target if found else "",
        command=command,
        python=python,
        dependency_file=evidence.dependencies.file,
        included_requirements=list(evidence.dependencies.included),
        has_local_packages=evidence.dependencies.has_local,
        build_packages=build_packages,
        runtime_packages=runtime_packages,
        server=application.find_server(evidence, command),
        health_path=_health_path(evidence),
        settings=settings,
        database=database,
        database_scheme=services.find_scheme(evidence, framework) if database else "",
        uses_redis=services.uses_redis(evidence, settings),
        migrate=migrate,
        check=check,
        processes=services.find_workers(evidence, others),
        manage=code.find_manage(repository),
        settings_module=django.find_settings_module(evidence) if is_django else "",
        requires_https=is_django and django.requires_https(evidence),
        static_root=static_root,
        static_prefix=static_prefix,
        source_folder=evidence.source_folder,
        folder=evidence.repository.app,
        tests_need_database=tests_need_database,
        has_own_dockerfile=has_own_dockerfile,
        findings=evidence.findings,
        notes=evidence.notes,
    )
    facts.notes.extend(find_gaps(facts))
    return facts


def _name(evidence: Evidence) -> str:
    """Return the name for Compose, the database and the image: that of the project, or else of its folder."""
    if (answer := evidence.answer("name")) is not None:
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", answer):
            raise Failure(f"--set name={answer}: use lower-case letters, digits and hyphens, for example shop")
        return answer
    text = evidence.repository.text("pyproject.toml")
    tables = read_toml(evidence.repository, "pyproject.toml")
    stated = table(tables, "project").get("name") or table(tables, "tool", "poetry").get("name")
    folder = evidence.repository.top.name
    source = f"pyproject.toml:{line_of(text, 'name =')}" if stated else "the name of the folder"
    slug = re.sub(r"[^a-z0-9]+", "-", str(stated or folder).lower()).strip("-")
    if not re.match("[a-z]", slug):
        raise Undecided("name", f"{source} gives no name that begins with a letter")
    return evidence.add("name", slug, source)


def _python(evidence: Evidence) -> str:
    if (answer := evidence.answer("python")) is not None:
        if answer not in PYTHONS:
            raise Failure(f"--set python={answer}: expected one of {', '.join(sorted(PYTHONS))}")
        return answer
    return evidence.add("Python", *read_python(evidence.repository, evidence.dependencies))


def _health_path(evidence: Evidence) -> str:
    if (answer := evidence.answer("health-path")) is not None:
        if answer and not re.fullmatch(r"/[\w./~-]*", answer):
            raise Failure(f"--set health-path={answer}: expected a path that begins with /, for example /health")
        return answer
    routes = find_health_paths(evidence.modules)
    if routes:
        others = f"; also {', '.join(route.path for route in routes[1:3])}" if routes[1:] else ""
        return evidence.add("health path", routes[0].path, routes[0].source + others)
    evidence.notes.append(
        "no health path was found: the health check only proves that the process responds. If there is one, add"
        " --set health-path=PATH"
    )
    return ""


def _own_dockerfile(evidence: Evidence) -> bool:
    """Return whether the release image is built from the project's own Dockerfile, as the user decides."""
    answer = evidence.answer("dockerfile")
    if answer not in (None, "Dockerfile") or (answer and not evidence.repository.has("Dockerfile")):
        raise Failure(f"--set dockerfile={answer}: expected Dockerfile, at the top level of the application")
    return bool(answer)


def _tests(evidence: Evidence) -> bool:
    """Return whether the tests need PostgreSQL: a workflow starts one."""
    python_files = (name for name in evidence.repository.names if name.endswith(".py"))
    if found := next((name for name in python_files if code.is_test(PurePosixPath(name))), ""):
        evidence.add("tests", "run by scripts/nox -s tests", found)
    else:
        evidence.notes.append("no tests were found: the session tests is skipped")
    if (answer := evidence.answer("test-database")) is not None:
        if answer not in ("yes", "no"):
            raise Failure(f"--set test-database={answer}: expected yes or no")
        return answer == "yes"
    for name, text in evidence.repository.workflows().items():
        if found and (image := re.search(r"image:\s*[\"']?(\S+/)?(postgres|postgis)\b", text)):
            evidence.add("test database", "postgresql", f"{name}:{line_at(text, image.start())}")
            return True
    return False


def _branch(evidence: Evidence) -> None:
    branches = evidence.repository.git("for-each-ref", "--format=%(refname:short)", "refs/heads").split()
    current = evidence.repository.git("branch", "--show-current")
    found = next((name for name in ("main", "master") if name in branches), current)
    evidence.add("branch", found, "Git")
    if found != "main":
        evidence.notes.append(f"the pipeline deploys main, but your branch is {found}: rename it on GitHub")
