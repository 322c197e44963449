"""What adoption adds to a repository, and what it leaves alone: no existing file changes."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from scripts.adopt.facts import Facts
from scripts.adopt.generate import CD, CI, DEPENDABOT, generate, is_executable, pipeline_files
from scripts.adopt.repository import Repository, line_at
from scripts.runner import project
from scripts.runner.process import ROOT, Failure, run

RECORD = ".quai.json"
ABOUT = "What Quai added to this repository. adopt --update and --remove read this file: do not edit it."
OWN_DOCKERFILE = project.DOCKERFILES[0]
# For files of the configuration whose names the repository uses already: the name that the pipeline uses instead
# (empty: the file is not added), and what the user should know.
ALTERNATIVES = {
    "Dockerfile": (OWN_DOCKERFILE, "the release image is built from {name}; to use yours: --set dockerfile=Dockerfile"),
    "docker-compose.prod.yml": (project.COMPOSE_FILES[0], "production uses {name}: copy what you need from yours"),
    ".env.prod": (project.ENV_TEMPLATES[0], "the template of the server's .env is {name}"),
    "noxfile.py": ("noxfile_pipeline.py", "scripts/nox uses {name}"),
    CD: (".github/workflows/pipeline.yml", "{name} deploys. If yours does, too, remove it when the new server serves"),
    CI: ("", "add a step: scripts/nox -s image. If it checks all Python files: exclude noxfile.py and scripts/"),
    DEPENDABOT: ("", "let it update docker, docker-compose and github-actions, too, which the pipeline pins"),
    "rehearsal.toml": ("", "the rehearsal uses it"),
}
SAME_PURPOSE = {DEPENDABOT: (".github/dependabot.yaml", ".github/renovate.json", "renovate.json", "renovate.json5")}
DEPLOYS = re.compile(r"deploy|docker(/build-push-action| push)|\b(ssh|rsync|flyctl|heroku|kamal)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Added:
    """A file of the configuration as it was generated: its name in the repository, and the digest of its content."""

    file: str
    digest: str


@dataclass(frozen=True)
class Record:
    """An adoption: the version of Quai, the user's answers, the facts as JSON, and the files that were added.

    `pipeline` has their digests by name, `configuration` the files by the names of their templates.
    """

    version: str
    answers: dict[str, str]
    facts: dict[str, Any]
    pipeline: dict[str, str]
    configuration: dict[str, Added]

    def text(self) -> str:
        """Return the content of the file RECORD."""
        return json.dumps({"about": ABOUT, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    def files(self) -> dict[str, str]:
        """Return the digest of each file that was added."""
        return self.pipeline | {added.file: added.digest for added in self.configuration.values()}


def read_record(folder: Path) -> Record | None:
    """Return the record of a repository; None if it was not adopted. Raise Failure if it is damaged."""
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
        configuration = {name: Added(**added) for name, added in values["configuration"].items()}
        known = {name: values[name] for name in ("version", "answers", "facts", "pipeline")}
        record = Record(**known, configuration=configuration)
        paths = [PurePosixPath(name) for name in (*configuration, *record.files())]
        if not re.fullmatch("[0-9a-f]{40}", record.version) or any(x.is_absolute() or ".." in x.parts for x in paths):
            raise ValueError(f"version {record.version!r}, or a path that is not in the repository")
        return record
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{RECORD} is damaged ({error!r}): restore it with git checkout <commit> -- {RECORD}") from None


@dataclass
class Plan:
    """The files that are added: their content, and which are executable; and what is left alone, with the reason.

    `names` has the names of the generated ones by the names of their templates.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    executable: set[str] = field(default_factory=set)
    names: dict[str, str] = field(default_factory=dict)
    left_alone: dict[str, str] = field(default_factory=dict)


def make_plan(repository: Repository, facts: Facts, answers: dict[str, str]) -> Plan:
    """Return what adoption adds. Raise Failure if a file that the pipeline needs exists with other content."""
    plan = Plan(left_alone=_unaffected_files(repository))
    blocking = []
    sources = pipeline_files()
    for name, source in sources.items():
        existing = _existing(repository, name)
        if existing is None:
            plan.files[name] = source.read_bytes()
            if is_executable(source):
                plan.executable.add(name)
        elif existing != source.read_bytes():
            blocking.append(name)
    configuration = {}
    for template, text in sorted(generate(facts).items()):
        name = _choose_name(repository, facts, plan, template)
        content = text.encode()
        if template == ".dockerignore" and (own := _existing(repository, template)):
            content = own + b"\n" + content
        existing = _existing(repository, name) if name else None
        if existing not in (None, content):
            blocking.append(name)
        elif name and existing is None:
            plan.files[name] = content
            plan.names[template] = name
            configuration[template] = Added(name, digest(content))
    if blocking:
        raise Failure(
            f"the pipeline needs files that exist with other content: {', '.join(map(repository.place, blocking))}."
            " Rename yours, commit, and run adopt again"
        )
    for name in plan.files:
        _require_inside(repository, name)
    pipeline = {name: digest(source.read_bytes()) for name, source in sources.items()}
    record = Record(quai_version(), answers, facts.to_json(), pipeline, configuration)
    plan.files[RECORD] = record.text().encode()
    return plan


def _unaffected_files(repository: Repository) -> dict[str, str]:
    """Return files that a user may expect to change, and why adopt leaves them alone."""
    found = {name: "say there that a merge to main deploys" for name in repository.names if name.startswith("README.")}
    for name in (".env.example", ".env.sample"):
        if repository.has(name):
            found[name] = "for development; the server's settings are described in the template of its .env"
    for name, text in repository.workflows().items():
        if name not in (CD, CI) and (deploys := DEPLOYS.search(text)):
            found[name] = (
                f"line {line_at(text, deploys.start())} may deploy or push an image ({deploys[0]!r}). If so, remove it"
                " when the new server serves"
            )
    return found


def _choose_name(repository: Repository, facts: Facts, plan: Plan, template: str) -> str:
    """Return the name for a file of the configuration; empty if the repository's own file replaces it."""
    if template in ("Dockerfile", ".dockerignore") and facts.has_own_dockerfile:
        plan.left_alone["Dockerfile"] = "the release image is built from it"
        return ""
    if template == ".dockerignore":  # the user's own builds must not change
        dockerfile = OWN_DOCKERFILE if _existing(repository, "Dockerfile") else "Dockerfile"
        if dockerfile == "Dockerfile" and _existing(repository, template) is None:
            return template
        if _existing(repository, template) is not None:
            plan.left_alone[template] = f"{dockerfile}.dockerignore contains its lines and those of the pipeline"
        return f"{dockerfile}.dockerignore"
    others = same_purpose(repository, template)
    if template in ALTERNATIVES and (others or _existing(repository, template) is not None):
        name, reason = ALTERNATIVES[template]
        plan.left_alone[others[0] if others else template] = reason.format(name=name)
        return name
    return template


def same_purpose(repository: Repository, template: str) -> list[str]:
    """Return files of the user, with other names, that do what a file of the configuration does."""
    return [name for name in SAME_PURPOSE.get(template, ()) if (repository.top / name).exists()]


def _existing(repository: Repository, name: str) -> bytes | None:
    """Return the content of a file of the work tree, tracked or not; None if there is none."""
    path = repository.path(name)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise Failure(f"{name} is needed for a file of the pipeline, and is a link or a folder: rename it")
    try:
        return path.read_bytes() if path.exists() else None
    except OSError as error:
        raise Failure(f"cannot read {name}: {error.strerror}") from None


def _require_inside(repository: Repository, name: str) -> None:
    """Raise Failure if a file would be written through a link, or into something that is no folder."""
    folder = repository.top
    for part in Path(repository.place(name)).parent.parts:
        folder /= part
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise Failure(f"{folder.relative_to(repository.top)} must be a folder for the pipeline: rename it")


def digest(content: bytes) -> str:
    """Return the digest with which the record identifies the content of a file."""
    return hashlib.sha256(content).hexdigest()


def quai_version() -> str:
    """Return the commit of this clone of Quai."""
    return run("git", "-C", str(ROOT), "rev-parse", "HEAD")
