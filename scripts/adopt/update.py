"""Newer files of the pipeline for an adopted repository, and the removal of all that was added."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from scripts.adopt.facts import Facts
from scripts.adopt.generate import generate, is_executable, pipeline_files
from scripts.adopt.plan import RECORD, Record, digest, quai_version, read_record, same_purpose
from scripts.adopt.repository import Repository
from scripts.runner.process import ROOT, Failure


@dataclass
class Update:
    """What an update changes: new and replaced files, removed ones, and a patch for the configuration.

    `conflicts`: for each file in which the user changed the same lines as Quai, what Quai changed.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    executable: set[str] = field(default_factory=set)
    removed: list[str] = field(default_factory=list)
    patch: str = ""
    conflicts: dict[str, str] = field(default_factory=dict)


def require_record(repository: Repository) -> Record:
    """Return the record of the repository. Raise Failure if it was not adopted."""
    record = read_record(repository.folder)
    if record is None:
        adopted = next(repository.matching(f"*/{RECORD}"), "")
        hint = f"Add --app {adopted.rpartition('/')[0]}" if adopted else "Run adopt without --update and --remove"
        raise Failure(f"{repository.folder} has no {RECORD}: it was not adopted. {hint}")
    return record


def edited_files(repository: Repository, recorded: dict[str, str]) -> list[str]:
    """Return the recorded files that exist with other content."""
    paths = {name: repository.path(name) for name in recorded}
    return [name for name, path in paths.items() if path.is_file() and digest(path.read_bytes()) != recorded[name]]


def plan_update(repository: Repository, record: Record, facts: Facts, answers: dict[str, str]) -> Update:
    """Return the update to this version of Quai; `facts` and `answers` are those of today.

    Raise Failure if a file of the pipeline was edited, or if a new one exists already.
    """
    if edited := edited_files(repository, record.pipeline):
        commit = repository.git("log", "-1", "--format=%h", "--", RECORD)
        raise Failure(
            f"edited since Quai added them: {', '.join(edited)}. To discard your changes, so that the update"
            f" can replace the files: git checkout {commit} -- {' '.join(edited)}"
        )
    update = Update()
    sources = pipeline_files()
    pipeline = {name: digest(source.read_bytes()) for name, source in sources.items()}
    for name, source in sources.items():
        path = repository.path(name)
        if name not in record.pipeline and path.exists() and digest(path.read_bytes()) != pipeline[name]:
            raise Failure(f"the new version adds {name}, which exists in your repository: rename yours first")
        if record.pipeline.get(name) != pipeline[name] or not path.exists():
            update.files[name] = source.read_bytes()
            if is_executable(source):
                update.executable.add(name)
    update.removed = [name for name in record.pipeline if name not in sources and repository.path(name).exists()]
    _plan_configuration(repository, record, facts, update)
    if update.files or update.removed or update.patch or update.conflicts:
        new = replace(record, version=quai_version(), answers=answers, facts=facts.to_json(), pipeline=pipeline)
        update.files[RECORD] = new.text().encode()
    return update


def _plan_configuration(repository: Repository, record: Record, facts: Facts, update: Update) -> None:
    """Add to the update what changed between the two generated versions."""
    before, after = generate_old(record), generate(facts)
    for template, text in after.items():
        added = record.configuration.get(template)
        path = repository.path(added.file if added else template)
        name = path.relative_to(repository.top).as_posix()
        if added and path.is_file() and before.get(template) not in (None, text):
            _merge(update, name, path.read_bytes(), before[template].encode(), text.encode())
        elif template not in before and not path.exists() and not same_purpose(repository, template):  # a new one
            with tempfile.TemporaryDirectory() as directory:
                update.patch += _diff(Path(directory), name, None, text.encode())


def generate_old(record: Record) -> dict[str, str]:
    """Return the configuration as the recorded version of Quai generates it from the recorded facts.

    Raise Failure if this clone does not have that version.
    """
    if record.version == quai_version():
        return generate(Facts.from_json(record.facts))
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        try:
            words = ["git", "-C", str(ROOT), "archive", record.version, "scripts", ".github/workflows"]
            archive = subprocess.run(words, capture_output=True, check=True)
        except subprocess.CalledProcessError:
            raise Failure(
                f"{ROOT} does not have the version {record.version} of Quai, which this repository was adopted with."
                f" If it is a shallow clone: git -C {ROOT} fetch --unshallow"
            ) from None
        subprocess.run(["tar", "-x", "-C", directory], input=archive.stdout, check=True)
        (folder / "facts.json").write_text(json.dumps(record.facts))
        words = [sys.executable, "-m", "scripts.adopt.generate", "facts.json", "output"]
        subprocess.run(words, cwd=folder, check=True, env=os.environ | {"PYTHONPATH": directory})
        output = folder / "output"
        files = (path for path in output.rglob("*") if path.is_file())
        return {path.relative_to(output).as_posix(): path.read_text() for path in files}


def _merge(update: Update, name: str, current: bytes, base: bytes, new: bytes) -> None:
    """Add the change from `base` to `new` to the patch, or to the conflicts if `current` changed the same lines."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        for file, content in (("current", current), ("base", base), ("new", new)):
            (folder / file).write_bytes(content)
        words = ["git", "merge-file", "-p", "current", "base", "new"]
        merged = subprocess.run(words, cwd=folder, capture_output=True, check=False)
        if merged.returncode:  # the number of conflicts
            update.conflicts[name] = _diff(folder, name, base, new)
        else:
            update.patch += _diff(folder, name, current, merged.stdout)


def _diff(folder: Path, name: str, old: bytes | None, new: bytes) -> str:
    """Return a patch for a file that had the content `old`, or did not exist."""
    for side, content in (("a", old), ("b", new)):
        path = folder / side / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content or b"")
    before = "/dev/null" if old is None else f"a/{name}"
    words = ["git", "diff", "--no-index", "--no-prefix", "--no-color", before, f"b/{name}"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False).stdout


def plan_removal(repository: Repository, record: Record) -> tuple[list[str], list[str]]:
    """Return the files that Quai added and that still exist, and those of them that were edited."""
    recorded = record.files()
    existing = [name for name in [*recorded, RECORD] if repository.path(name).is_file()]
    return existing, edited_files(repository, recorded)
