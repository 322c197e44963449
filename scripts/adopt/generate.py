"""The files of an adopted repository: those of the pipeline, and the configuration for this application."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import jinja2

from scripts.adopt.configuration import SAMPLES, Configuration, sort_settings
from scripts.adopt.facts import Facts
from scripts.runner import project
from scripts.runner.process import ROOT, run

HERE = Path(__file__).parent
# Identical in every repository, without what is only for the repository of Quai.
PIPELINE = ("scripts",)
NOT_SHIPPED = ("scripts/adopt/", "scripts/ruff.toml")
PYTHON_IMAGES = {
    "3.13": "python:3.13.16-slim-trixie@sha256:bf44cdfcb76cd3b41e879bc058fc37ec5872002ccfde7fcb765e218cde0cd79c",
    "3.14": "python:3.14.8-slim-trixie@sha256:89fb7d3da20043c370643435258bdd7ab755d326d359001d02988ed15ae5219e",
}
CI, CD, DEPENDABOT = ".github/workflows/ci.yml", ".github/workflows/cd.yml", ".github/dependabot.yml"
TOOLS = {"uv.lock": "uv", "poetry.lock": "poetry", "pdm.lock": "pdm"}


def generate(facts: Facts) -> dict[str, str]:
    """Return the text of each file of the configuration, by its name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the files are not HTML
    )
    environment.filters |= {"flow": flow, "quote": shlex.quote, "word": _word, "copy": _copy}
    context = _context(facts)
    names = [name.removesuffix(".jinja") for name in environment.list_templates()]
    texts = {name: environment.get_template(f"{name}.jinja").render(context) for name in sorted(names)}
    for path in (path for path in (HERE / "files").rglob("*") if path.is_file()):
        texts[path.relative_to(HERE / "files").as_posix()] = path.read_text()
    for name, text in ((CI, texts[CI]), (CD, (ROOT / CD).read_text())):
        texts[name] = _in_folder(text, facts.folder)
    return texts


def has_backup(facts: Facts) -> bool:
    """Return whether the service backup exists: it dumps the database before a migration."""
    return facts.database == "postgresql" and facts.has_database and bool(facts.migrate)


def _in_folder(workflow: str, folder: str) -> str:
    """Return a workflow that runs its commands in a folder; an empty one is the top level."""
    if not folder:
        return workflow
    defaults = f"# The application is in this folder.\ndefaults:\n  run:\n    working-directory: {json.dumps(folder)}\n"
    return workflow.replace("permissions: {}\n", f"permissions: {{}}\n\n{defaults}")


def pipeline_files() -> dict[str, Path]:
    """Return the files of the pipeline, by their names in the adopted repository."""
    files = {name: path for name, path in quai_files(*PIPELINE).items() if not name.startswith(NOT_SHIPPED)}
    return files | {"scripts/LICENSE": ROOT / "LICENSE"}


def quai_files(*folders: str) -> dict[str, Path]:
    """Return the files of Quai in these folders, or all, by their names."""
    listed = run("git", "-C", str(ROOT), "ls-files", "-z", "--", *folders)
    return {name: ROOT / name for name in listed.split("\0") if name}


def is_executable(path: Path) -> bool:
    """Return whether the owner of a file can execute it."""
    return bool(path.stat().st_mode & 0o100)


def flow(words: list[str]) -> str:
    """Return words as a YAML list on one line."""
    return f"[{', '.join(word if _is_plain(word) else json.dumps(word) for word in words)}]"


def _word(text: str) -> str:
    """Return a word of a Dockerfile, in quotes if it needs them."""
    return text if re.fullmatch(r"[\w./:*-]+", text) else json.dumps(text, ensure_ascii=False)


def _copy(words: list[str]) -> str:
    """Return the words of COPY: as JSON if one needs quotes."""
    is_plain = all(_word(word) == word for word in words)
    return " ".join(words) if is_plain else json.dumps(words, ensure_ascii=False)


def _is_plain(word: str) -> bool:
    is_special = re.fullmatch(r"(true|false|yes|no|on|off|null|y|n)", word, re.IGNORECASE)
    return bool(re.fullmatch(r"-{0,2}[A-Za-z_/][\w./=@-]*", word)) and not is_special


def _context(facts: Facts) -> dict[str, Any]:
    configuration = sort_settings(facts)
    file = facts.dependency_file
    # A site that redirects plain HTTP, or checks the host, needs a name.
    site = "localhost" if facts.requires_https or configuration.derived else ":80"
    return {
        **vars(facts),
        **vars(configuration),
        "environment": [*_fixed_environment(facts), *configuration.environment],
        "has_database": facts.has_database,
        "database_name": facts.database_name,
        "has_backup": has_backup(facts),
        "has_data": facts.has_database or facts.uses_redis,
        "site": site,
        "rehearsal_settings": [
            *configuration.unknown,
            *([("SITE_ADDRESS", site)] if site == "localhost" else []),
            *([("COMPOSE_PROFILES", "smoke-test")] if facts.database == "external" and facts.has_database else []),
        ],
        "needs_dns": any(process.words[0] == "celery" for process in facts.processes),
        "python_image": PYTHON_IMAGES.get(facts.python, f"python:{facts.python}-slim-trixie"),
        "tool": " ".join(project.pins(TOOLS[file])) if file in TOOLS else "",
        "test_settings": _test_settings(facts, configuration),
        "throwaway_settings": _throwaway_settings(facts, configuration),
        "copied_requirements": _copied_requirements(facts),
        "copied": "/app /release" if facts.static_prefix else "/app",
    }


def _copied_requirements(facts: Facts) -> list[list[str]]:
    """Return the words after COPY: the requirements files of the top level, and folders with others."""
    others = [name for name in facts.included_requirements if "/" not in name]
    names = [name for name in others if not re.fullmatch(r"requirements.*\.txt", name)]
    folders = sorted({name.rpartition("/")[0] for name in facts.included_requirements if "/" in name})
    return [["requirements*.txt", *names, "./"], *([folder, f"./{folder}"] for folder in folders)]


def _test_settings(facts: Facts, configuration: Configuration) -> list[tuple[str, str]]:
    """Return the variables of the tests: secrets, required settings, and the address of the database that they need."""
    required = [*configuration.secrets, *configuration.unknown]
    required = [item for item in required if item[0] != "POSTGRES_PASSWORD"]
    if not facts.tests_need_database:
        return required
    name = facts.database_name
    address = {"db": "{host}", "5432": "{port}", name: "{name}", "${POSTGRES_PASSWORD}": "{password}"}
    url = f"://{name}:${{POSTGRES_PASSWORD}}@db:5432/{name}"
    found = [
        (setting, address.get(value, value.replace(url, "://{user}:{password}@{host}:{port}/{name}")))
        for setting, value in configuration.composed
    ]
    if any(setting.name == "POSTGRES_PASSWORD" for setting in facts.settings):
        found.append(("POSTGRES_PASSWORD", "{password}"))
    return [*found, *required]


def _fixed_environment(facts: Facts) -> list[tuple[str, str]]:
    """Return the variables whose values depend on the code alone."""
    found = []
    if facts.framework == "flask" and facts.migrate[:1] == ["flask"] and facts.target:
        found.append(("FLASK_APP", facts.target))
    if facts.uses_redis and any(process.words[0] == "rq" for process in facts.processes):
        found.append(("RQ_REDIS_URL", "redis://redis:6379/0"))  # the command does not read the settings of the code
    if facts.settings_module:
        found.append(("DJANGO_SETTINGS_MODULE", facts.settings_module))
    return found


def _throwaway_settings(facts: Facts, configuration: Configuration) -> str:
    """Return assignments with which the project can be imported during the build."""
    kinds = {setting.name: SAMPLES.get(setting.kind, "none") for setting in facts.settings} | {"PORT": "8000"}
    values = dict(_fixed_environment(facts)) | {
        name: kinds.get(name, "none") for name, value in configuration.environment if value
    }
    values |= {name: value.replace("${POSTGRES_PASSWORD}", "none") for name, value in configuration.composed}
    values |= {name: value.replace("${SITE_ADDRESS}", "localhost") for name, value in configuration.derived}
    return "".join(f"{name}={shlex.quote(value)} " for name, value in values.items())


def main() -> None:
    """Write the configuration for the facts in a file into a folder: `adopt --update` runs it in an older version."""
    facts = Facts.from_json(json.loads(Path(sys.argv[1]).read_text()))
    for name, text in generate(facts).items():
        path = Path(sys.argv[2], name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
