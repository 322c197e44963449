"""The deploy: roll out a release and write .env, or revert."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from server import engine, history, orchestrator, release, settings, state
from server.attempt import Attempt, Live, Steps
from server.compose import Project
from server.engine import EngineError
from server.errors import Interrupted, Refused, UsageError
from server.follow import ignore_signals
from server.settings import Settings
from server.state import say

# Expected failures. During the rollout any other exception, a bug, also reverts the release.
FAILURES = (Refused, Interrupted, EngineError, OSError)


def run(directory: Path, tag: str, actor: str, *, refuse_older: bool) -> int:
    """Make the release `tag` live, or the one that IMAGE_TAG names if `tag` is empty. Return the exit code.

    IMAGE_TAG is read when the lock is acquired. With `refuse_older` the release must not be older than the live one.
    The caller runs this with `follow`.
    """
    steps = Steps()
    try:
        with state.lock(directory, tag or "reconcile"):
            try:
                attempt = _begin(directory, tag, actor, steps)
            except (*FAILURES, UsageError) as error:
                return _abort(directory, tag, error)
            return _execute(attempt, refuse_older)
    except (Refused, Interrupted, OSError) as error:  # without the lock
        return _abort(directory, tag, error)


def _begin(directory: Path, tag: str, actor: str, steps: Steps) -> Attempt:
    """Clean up after an interrupted deploy, and find out what is live."""
    current = history.read_settings(directory)  # again: the previous holder of the lock may have changed it
    if current.is_stale:
        say("IMAGE_TAG and DEPLOY_ID in .env are older than the last deploy: this command corrects them")
    state.end_orphans(directory)
    steps.begin("repair")
    live = orchestrator.choose(current).clean_up(directory, current)
    # If a first deploy was killed after the switch, .env names no release yet.
    tag = tag or current.image_tag or ("" if current.deploy_id else live.tag)
    if not tag:
        raise UsageError(f"IMAGE_TAG in {directory}/.env is empty, and no release is live: set it, or merge to main")
    if not re.fullmatch(settings.COMMIT, tag):
        raise UsageError(f"IMAGE_TAG in {directory}/.env must be a commit (40 hex digits)")
    if live.containers:
        _record_missing_line(directory, current, live)
    elif current.deploy_id:
        # Its containers were removed. It stays the release that .env names, unless this attempt succeeds.
        entry = history.find_live_entry(directory, current.deploy_id)
        live = Live(current.deploy_id, entry.tag if entry else current.image_tag, ())
    deploy_id = history.new_id(directory, int(time.time()))
    return Attempt(Project(directory, current, tag, deploy_id), actor, live, steps)


def _record_missing_line(directory: Path, current: Settings, live: Live) -> None:
    """Write the line of the live release to deploys.log, which its deploy lacks if it was killed before that."""
    if history.is_recorded(directory, live.deploy_id):
        return
    project = Project(directory, current, live.tag, live.deploy_id)
    try:
        _record(Attempt(project, "unknown", live, Steps()), history.LIVE, "")
    except OSError as error:
        say(f"the live release was not recorded in deploys.log: {error}")


def _abort(directory: Path, tag: str, error: Exception) -> int:
    """Nothing was deployed: restore IMAGE_TAG, because a reboot would deploy the release that it names."""
    ignore_signals()
    say(f"refused: {error}")
    try:
        current = history.read_settings(directory)
        live_entry = history.find_live_entry(directory, current.deploy_id)
        if tag in ("", current.image_tag) and current.deploy_id and not live_entry:
            say(
                f"IMAGE_TAG in .env is not restored: deploys.log has no live release with the id {current.deploy_id}; "
                f"check IMAGE_TAG, then run sudo {directory}/deploy.sh"
            )
        elif tag and live_entry and live_entry.tag != tag:
            in_file = (tag, settings.read(directory).deploy_id)  # if .env is stale, its id is not that of `current`
            settings.write_release(directory, live_entry.tag, current.deploy_id, only_if=in_file)
    except (OSError, UsageError) as problem:
        say(f"IMAGE_TAG in .env could not be restored: {problem}")
    say("nothing was deployed")
    return 1


def _execute(attempt: Attempt, refuse_older: bool) -> int:
    """Keep the live release or roll out a new one, and write .env; revert if that fails. Then finish.

    Return the exit code.
    """
    live_attempt, outcome, is_live = attempt, history.LIVE, False
    chosen = orchestrator.choose(attempt.settings)
    try:
        if chosen.keep_live(attempt):
            live_attempt = attempt.for_live_release()
        else:
            outcome = chosen.roll_out(attempt, refuse_older)
        try:
            settings.write_release(attempt.directory, attempt.tag, live_attempt.project.deploy_id)
        except OSError as error:
            raise Refused(f"cannot write .env: {error}") from None
        is_live = True  # .env names the release: from here on nothing is reverted
        _finish(live_attempt, outcome)
        ignore_signals()
        say(f"live: {attempt.tag}")
    except BaseException as error:
        ignore_signals()
        if not is_live:
            return _revert(attempt, error)
        say(f"{attempt.tag} is live, but a later step failed ({_reason(attempt, error)}): run the same command again")
        return 1
    return 0


def _reason(attempt: Attempt, error: BaseException) -> str:
    """Return the message of an expected failure; for a bug, also the type of the exception and the step."""
    return str(error) if isinstance(error, FAILURES) else f"{type(error).__name__} in {attempt.steps.name}: {error}"


def _finish(attempt: Attempt, outcome: str) -> None:
    """Record the live release at once, stop the previous one, and remove what no rollback needs."""
    directory, current, deploy_id = attempt.directory, attempt.settings, attempt.project.deploy_id
    attempt.steps.end()
    if not history.is_recorded(directory, deploy_id):
        _record(attempt, outcome, "")
    attempt.steps.begin("clean up")
    state.link_current(directory, attempt.tag)
    problem = orchestrator.choose(current).finish(attempt)
    release.prune(directory, current, attempt.tag)
    history.notify(directory, current)
    if problem:
        raise Refused(problem)


def _record(attempt: Attempt, outcome: str, reason: str) -> None:
    try:
        image = engine.image(attempt.image)
    except EngineError:
        image = None
    history.record(
        attempt.directory,
        deploy_id=attempt.project.deploy_id,
        image=attempt.image,
        outcome=outcome,
        actor=attempt.actor,
        reason=reason,
        committed=release.label(image, release.CREATED),
        seconds=attempt.steps.seconds,
    )


def _revert(attempt: Attempt, error: BaseException) -> int:
    """Switch back to the release that was live, remove the new one, say why, and return the exit code 1."""
    reason = _reason(attempt, error)
    attempt.steps.end()
    problems = _restore(attempt)
    if problems:
        failed = ", ".join(f"{what} ({problem})" for what, problem in problems.items())
        reason += f"; not reverted: {failed}: fix this, then run sudo {attempt.directory}/deploy.sh"
    try:
        _record(attempt, history.REFUSED, reason)
    except OSError as problem:
        say(f"this attempt was not recorded in deploys.log: {problem}")
    if not problems:
        release.prune(attempt.directory, attempt.settings, attempt.live.tag)
    history.notify(attempt.directory, attempt.settings)
    say(f"refused: {reason}")
    say(_describe_live(attempt, is_known=not problems.keys() - {".env"}))
    return 1


def _describe_live(attempt: Attempt, *, is_known: bool) -> str:
    tag = attempt.live.tag or "nothing"
    if not is_known:
        return f"state unknown; last known live: {tag}"
    stopped = [container.name for container in attempt.live.containers if not container.is_running]
    if attempt.live.tag and (stopped or not attempt.live.containers):
        what = ", ".join(stopped) or "all its containers"
        return f"still live, but not running: {tag} ({what}); to start it, run sudo {attempt.directory}/deploy.sh"
    return f"still live: {tag}"


def _restore(attempt: Attempt) -> dict[str, Exception]:
    """Restore what was live, and show why the new release failed. Return what could not be restored, and why."""
    directory, live, problems = attempt.directory, attempt.live, dict[str, Exception]()
    chosen = orchestrator.choose(attempt.settings)

    def restore(what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as problem:
            problems[what] = problem

    restore("the switch", lambda: chosen.withdraw(attempt))
    try:
        chosen.diagnose(attempt)
    except Exception as problem:
        say(f"no diagnostics: {problem}")
    restore(".env", lambda: settings.write_release(directory, live.tag, live.deploy_id))
    before = replace(attempt.settings, deploy_id=live.deploy_id)
    state.end_orphans(directory)  # a process that was being started when a signal arrived still runs
    restore("the containers", lambda: chosen.clean_up(directory, before))
    return problems
