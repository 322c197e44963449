"""The deploy: roll out a release and write .env, or revert."""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from server import engine, health, history, release, settings, state
from server.compose import Project
from server.engine import EngineError
from server.errors import Interrupted, Refused, UsageError
from server.repair import move_pointer, release_containers, repair
from server.rollout import Deploy, Steps, roll_out
from server.state import say

# Expected failures. Any other exception is a bug, and also reverts the release.
FAILURES = (Refused, EngineError, OSError)


def run(directory: Path, tag: str, actor: str, *, refuse_older: bool) -> int:
    """Make a release live and return the exit code; without a tag the one of IMAGE_TAG, as it is under the lock.

    With `refuse_older` the release must not be older than the live one. Runs in a session of its own.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    steps = Steps()
    try:
        with state.lock(directory, tag or "reconcile"):
            try:
                deploy = _begin(directory, tag, actor, steps)
            except (*FAILURES, UsageError) as error:
                return _abort(directory, tag, error)
            return _run(deploy, refuse_older)
    except (Refused, OSError) as error:  # the lock was not acquired
        return _abort(directory, tag, error)


def _interrupt(*_: int | FrameType | None) -> None:
    ignore_signals()
    raise Interrupted("interrupted")


def ignore_signals() -> None:
    """Ignore TERM and INT for the rest of this process; children inherit this."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _begin(directory: Path, tag: str, actor: str, steps: Steps) -> Deploy:
    """Clean up after an interrupted deploy, and find out what is live."""
    current = settings.read(directory)  # again: the previous holder of the lock may have changed it
    tag = tag or current.image_tag
    if not re.fullmatch(settings.COMMIT, tag):
        raise UsageError(f"IMAGE_TAG in {directory}/.env must be a commit (40 hex digits)")
    state.end_orphans(directory)
    steps.begin("repair")
    live = repair(directory, current)
    deploy_id = history.new_id(directory, int(time.time()))
    return Deploy(Project(directory, current, tag, deploy_id), actor, live, steps)


def _abort(directory: Path, tag: str, error: Exception) -> int:
    """Nothing changed: restore IMAGE_TAG, because a reboot deploys it."""
    ignore_signals()
    say(f"refused: {error}")
    try:
        deploy_id = settings.read(directory).deploy_id
        last = history.find_live(directory, deploy_id)
        if tag and last and last.tag != tag:
            settings.write_release(directory, last.tag, deploy_id, only_if=(tag, deploy_id))
    except (OSError, UsageError) as problem:
        say(f"IMAGE_TAG in .env is not restored and still names {tag}: {problem}")
    say("nothing was deployed")
    return 1


def _run(deploy: Deploy, refuse_older: bool) -> int:
    try:
        live, outcome = roll_out(deploy, refuse_older)
        try:
            settings.write_release(deploy.directory, deploy.tag, live.project.deploy_id)
        except OSError as error:
            raise Refused(f"cannot write .env: {error}") from None
    except BaseException as error:
        ignore_signals()
        return _revert(deploy, error)
    # .env names the release: it is live, and from here on nothing is reverted.
    try:
        _finish(live, outcome)
    except (*FAILURES, ValueError) as error:
        ignore_signals()
        say(f"{deploy.tag} is live, but the cleanup failed ({error}): run the same command again")
        return 1
    say(f"live: {deploy.tag}")
    return 0


def _finish(deploy: Deploy, outcome: str) -> None:
    """Record the live release at once, stop the previous one, and remove what no rollback needs."""
    directory, current = deploy.directory, deploy.settings
    deploy.steps.end()
    if not history.is_recorded(directory, deploy.project.deploy_id):
        _record(deploy, outcome, "")
    deploy.steps.begin("clean up")
    state.link_current(directory, deploy.tag)
    others = [one.id for one in release_containers(current) if one.deploy_id != deploy.project.deploy_id]
    engine.remove(others)
    _rename_containers(deploy)
    state.point_to(directory, "front")
    release.prune(directory, current, deploy.tag)
    history.notify(directory, current)


def _rename_containers(deploy: Deploy) -> None:
    """Name the containers <project>-api-1, -2 and <project>-front-1: Compose only increments their numbers."""
    for service in ("api", "front"):
        for number, container in enumerate(deploy.containers(service), 1):
            name = f"{deploy.settings.project}-{service}-{number}"
            if container.name != name:
                engine.rename(container.id, name)


def _record(deploy: Deploy, outcome: str, reason: str) -> None:
    try:
        image = engine.image(deploy.image)
    except EngineError:
        image = None
    history.record(
        deploy.directory,
        deploy_id=deploy.project.deploy_id,
        image=deploy.image,
        outcome=outcome,
        actor=deploy.actor,
        reason=reason,
        committed=release.label(image, release.CREATED),
        seconds=deploy.steps.seconds,
    )


def _revert(deploy: Deploy, error: BaseException) -> int:
    """Switch back to the release that was live, remove the new one, say why, and return the exit code 1."""
    reason = str(error) if isinstance(error, FAILURES) else f"{type(error).__name__} in {deploy.steps.name}: {error}"
    deploy.steps.end()
    directory, live, problems = deploy.directory, deploy.live, list[str]()

    def attempt(what: str, action: Callable[[], object]) -> bool:
        try:
            action()
        except Exception as problem:
            problems.append(f"{what} ({problem})")
            return False
        return True

    attempt("the pointer", lambda: move_pointer(directory, live.front))
    try:
        health.show_evidence(directory, deploy.containers())
    except FAILURES as problem:
        say(f"no evidence: {problem}")
    attempt(".env", lambda: settings.write_release(directory, live.tag, live.deploy_id))
    is_repaired = attempt("the containers", lambda: repair(directory, settings.read(directory)))
    if problems:
        reason += f"; not reverted: {', '.join(problems)}: fix this, then run the same command again"
    try:
        _record(deploy, history.REFUSED, reason)
        release.prune(directory, deploy.settings, live.tag)
        history.notify(directory, deploy.settings)
    except OSError as problem:
        say(f"not recorded: {problem}")
    say(f"refused: {reason}")
    say(f"{'still live' if is_repaired else 'state unknown; last known live'}: {live.tag or 'nothing'}")
    return 1
