"""`python -m scripts.adopt PATH`: add the pipeline to an existing repository, update it, or remove it."""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from scripts.adopt import proof
from scripts.adopt.commit import (
    ensure_dev,
    has_commits,
    make_commit,
    require_clean,
    require_main_branch,
    require_no_branch,
    switch_to,
)
from scripts.adopt.configuration import unknown_settings
from scripts.adopt.detect import detect
from scripts.adopt.evidence import ANSWERS, Undecided
from scripts.adopt.facts import Facts
from scripts.adopt.generate import is_executable, quai_files
from scripts.adopt.plan import RECORD, make_plan, read_record
from scripts.adopt.pull_request import describe
from scripts.adopt.repository import Repository
from scripts.adopt.update import plan_removal, plan_update, require_record
from scripts.runner.process import ROOT, Failure, given_path

BRANCH, UPDATE_BRANCH, REMOVAL_BRANCH = "feature/ci-cd-setup", "feature/quai-update", "feature/quai-removal"
PULL_REQUEST, PATCH = "quai-pull-request.md", "quai-update.patch"  # in .git: they are not committed


def say(text: str = "") -> None:
    """Print a line of progress."""
    print(text, flush=True)


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    """Return the parsed arguments."""
    parser = argparse.ArgumentParser(
        prog="adopt",
        description="Add the pipeline to the Git repository at PATH, in one commit on a new branch. No file changes.",
        epilog="Names for --set:\n" + "\n".join(f"  {name:15} {text}" for name, text in ANSWERS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="PATH", type=given_path, help="top level of a Git repository")
    parser.add_argument("--app", metavar="FOLDER", default="", help="folder of the application, for example backend")
    parser.add_argument(
        "--set", dest="answers", metavar="NAME=VALUE", action="append", default=[], help="decide a fact"
    )
    parser.add_argument("--yes", action="store_true", help="ask nothing: fail if a fact is not decided")
    parser.add_argument("--no-proof", dest="prove", action="store_false", help="do not run lint, tests and image")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--update", action="store_true", help="replace the files of the pipeline with newer ones")
    action.add_argument("--remove", action="store_true", help="remove all files that were added")
    return parser.parse_args(arguments)


def read_answers(items: list[str]) -> dict[str, str]:
    """Return the answers by name. Raise Failure for an unknown name or one that is given twice."""
    answers: dict[str, str] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if name not in ANSWERS or not separator:
            raise Failure(f"--set {item}: expected NAME=VALUE with one of {', '.join(ANSWERS)}")
        if name in answers:
            raise Failure(f"--set {name} is given twice")
        if "\n" in value or not value.isprintable():
            raise Failure(f"--set {name}: expected one line of printable text")
        answers[name] = value
    return answers


def decide(repository: Repository, answers: dict[str, str], ask: Callable[[Undecided], str] | None) -> Facts:
    """Return the facts; ask where they are not decided. Raise Failure if that is not possible."""
    while True:
        try:
            return detect(repository, answers)
        except Undecided as error:
            if ask is None:
                listed = "".join(f"\n  {candidate}" for candidate in error.candidates)
                raise Failure(f"{error.reason}{listed}\nDecide with --set {error.name}=VALUE") from None
            answers[error.name] = ask(error)


def ask_on_terminal(question: Undecided) -> str:
    """Ask on the terminal; return the chosen candidate or the text."""
    say(f"\n{question.reason}")
    for number, candidate in enumerate(question.candidates, 1):
        say(f"  {number}. {candidate}")
    try:
        answer = input(f"{ANSWERS[question.name]}: ").strip()
    except EOFError:
        raise Failure(f"no answer. Decide with --set {question.name}=VALUE") from None
    if answer.isdigit() and 0 < int(answer) <= len(question.candidates):
        return question.candidates[int(answer) - 1].rpartition(" (")[0] or question.candidates[int(answer) - 1]
    return answer


def show_facts(facts: Facts) -> None:
    """Print each finding with its source, and the notes."""
    width = max(len(name) for name in facts.findings)
    for name, finding in facts.findings.items():
        say(f"  {name:{width}}  {finding.value}  ({finding.source})")
    required = [setting for setting in facts.settings if setting.is_required]
    for setting in required:
        say(f"  {'setting':{width}}  {setting.name}  ({setting.source})")
    if optional := [setting.name for setting in facts.settings if not setting.is_required]:
        say(f"  {'optional':{width}}  {', '.join(optional)}")
    for note in facts.notes:
        say(f"  note: {note}")
    if unknown := unknown_settings(facts):
        say(f"  note: set these on the server before the first deploy: {', '.join(unknown)}")


def adopt(
    repository: Repository, answers: dict[str, str], ask: Callable[[Undecided], str] | None, *, prove: bool
) -> None:
    """Detect, commit the files on a new branch, and prove that they work."""
    if read_record(repository.folder):
        say(
            f"{repository.folder} was adopted already ({RECORD}). Nothing has changed. To update it: adopt --update."
            f" To start again on main: git switch main && git branch --delete --force {BRANCH}"
        )
        return
    if repository.has("scripts/adopt/__main__.py"):
        say(f"{repository.folder} contains Quai itself, so it has the pipeline. Nothing has changed")
        return
    if not has_commits(repository) and not any(path.name != ".git" for path in repository.top.iterdir()):
        create_sample(repository)
        return
    require_clean(repository)
    require_main_branch(repository)
    require_no_branch(repository, BRANCH)
    facts = decide(repository, answers, ask)
    say(f"{repository.folder}:")
    show_facts(facts)
    plan = make_plan(repository, facts, answers | {"name": facts.name})
    commit = make_commit(repository, "Add a deployment pipeline", plan.files, plan.executable)
    switch_to(repository, BRANCH, commit)
    if ensure_dev(repository, f"{commit}^"):
        say("created the branch dev")
    lines = sum(plan.files[name].count(b"\n") for name in plan.names.values())
    say(f"created the branch {BRANCH}: {len(plan.files)} new files")
    names = ", ".join(sorted(map(repository.place, plan.names.values())))
    say(f"  {len(plan.names)} of them are for this application ({lines} lines): {names}")
    for name, reason in plan.left_alone.items():
        say(f"  left alone: {repository.place(name)}: {reason}")
    description = repository.private_file(PULL_REQUEST)
    description.write_text(describe(repository, facts, plan, []))  # the proof may be interrupted
    results = show_proof(repository.folder) if prove else []
    description.write_text(describe(repository, facts, plan, results))
    folder, root = shlex.quote(str(repository.folder)), shlex.quote(str(ROOT))
    say(
        "\nNext: deploy it to a throwaway server, set up a server, open the pull request\n"
        f"  (cd {root} && scripts/nox -s rehearse -- --repository {folder})\n"
        f"  {repository.place('scripts/setup-server.sh')} --help   # on the server; {ROOT}/docs/server.md\n"
        f"  git push --set-upstream origin dev {BRANCH} && gh pr create --base dev --title 'Add a deployment pipeline'"
        f" --body-file {shlex.quote(str(description))}"
    )
    if failed := [result.session for result in results if result.outcome == "failed"]:
        raise Failure(
            f"{' and '.join(failed)} failed: the branch {BRANCH} is complete, but does not work yet."
            f" Fix the cause on it, commit, and run: scripts/nox -s {' '.join(failed)}"
        )


def create_sample(repository: Repository) -> None:
    """Fill an empty repository with a new project: the sample, its tests and the pipeline."""
    sources = {name: path for name, path in quai_files().items() if not name.startswith(".ci/")}
    executable = {name for name, path in sources.items() if is_executable(path)}
    contents = {name: path.read_bytes() for name, path in sources.items()}
    commit = make_commit(repository, "Start with the sample of Quai", contents, executable)
    switch_to(repository, "main", commit)
    repository.git("branch", "--no-track", "dev", commit)
    say(f"created the branches main and dev with {len(contents)} files: the sample and the pipeline")
    say("\nNext: read README.md, rehearse the sample, replace it\n  scripts/nox -s rehearse -- --only code_change")


def show_proof(folder: Path) -> list[proof.Result]:
    """Run the sessions, print their results and return them."""
    results = []
    for session in proof.SESSIONS:
        say(f"scripts/nox -s {session} ...")
        result = proof.run_session(folder, session)
        results.append(result)
        say(f"  {result.outcome} ({result.seconds:.0f} s)")
        if result.outcome == "failed":
            say("".join(f"    {line}\n" for line in result.output.splitlines()))
    return results


def update(repository: Repository, answers: dict[str, str], ask: Callable[[Undecided], str] | None) -> None:
    """Replace the files of the pipeline in one commit on a branch, and show what changed in the configuration."""
    require_clean(repository)
    record = require_record(repository)
    require_no_branch(repository, UPDATE_BRANCH)
    repository.hide({*record.files(), RECORD})
    answers = record.answers | answers
    facts = decide(repository, answers, ask)
    planned = plan_update(repository, record, facts, answers)
    if not planned.files:
        say("up to date: nothing has changed")
        return
    message = "Update the deployment pipeline"
    commit = make_commit(repository, message, planned.files, planned.executable, tuple(planned.removed))
    switch_to(repository, UPDATE_BRANCH, commit)
    replaced = len(planned.files) - 1  # without the record
    say(f"created the branch {UPDATE_BRANCH}: {replaced} files replaced or added, {len(planned.removed)} removed")
    if planned.patch:
        path = repository.private_file(PATCH)
        path.write_text(planned.patch)
        say(f"\n{planned.patch}\nThe configuration is yours and was not changed. To apply this: git apply {path}")
    for name, change in planned.conflicts.items():
        say(f"\n{change}\n{name}: you changed the same lines. Make the change above by hand, if you need it")


def remove(repository: Repository) -> None:
    """Remove all files that were added, in one commit on a branch."""
    require_clean(repository)
    record = require_record(repository)
    require_no_branch(repository, REMOVAL_BRANCH)
    names, edited = plan_removal(repository, record)
    commit = make_commit(repository, "Remove the deployment pipeline", {}, set(), tuple(names))
    switch_to(repository, REMOVAL_BRANCH, commit)
    say(f"created the branch {REMOVAL_BRANCH}: {len(names)} files removed")
    if edited:
        say(f"with your changes, which stay in the history: {', '.join(edited)}")


def main(arguments: list[str]) -> None:
    """Run the command."""
    options = read_arguments(arguments)
    repository = Repository(options.path, options.app)
    ask = None if options.yes or not sys.stdin.isatty() else ask_on_terminal
    if options.update:
        update(repository, read_answers(options.answers), ask)
    elif options.remove:
        remove(repository)
    else:
        adopt(repository, read_answers(options.answers), ask, prove=options.prove)


if __name__ == "__main__":
    main(sys.argv[1:])
