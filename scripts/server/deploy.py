"""The deploy: roll out a release and write .env, or take everything back."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from server import engine, health, history, release, settings, state
from server.compose import Project
from server.engine import EngineError
from server.errors import Interrupted, Refused
from server.repair import move_pointer, releases, repair
from server.rollout import Deploy, Steps, roll_out
from server.state import say

# A failure that a deploy expects. Anything else is a defect, and takes the release back all the same.
FAILURES = (Refused, EngineError, OSError)


def run(directory: Path, tag: str, by: str, *, forward: bool) -> int:
    """Make a release live and return the exit code. With `forward` it must not be older than the live one.

    The caller holds the deploy in a session of its own; this process gets its signals.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    steps = Steps()
    try:
        with state.lock(directory, tag):
            try:
                deploy = _begin(directory, tag, by, steps)
            except FAILURES as error:
                ignore_signals()
                return _give_up(directory, tag, error)
            return _run(deploy, forward)
    except Refused as error:  # the lock was not to be had
        ignore_signals()
        return _give_up(directory, tag, error)


def _interrupt(*_: int | FrameType | None) -> None:
    ignore_signals()
    raise Interrupted("interrupted")


def ignore_signals() -> None:
    """From here on to the end no signal interrupts: neither this process nor its children."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _begin(directory: Path, tag: str, by: str, steps: Steps) -> Deploy:
    current = settings.read(directory)  # again, since a deploy that was waited for wrote it
    state.end_orphans(directory)
    steps.begin("repair")
    live = repair(directory, current)
    deploy = history.new_id(directory, int(time.time()))
    return Deploy(Project(directory, current, tag, deploy), by, live, steps)


def _give_up(directory: Path, tag: str, error: Exception) -> int:
    """Nothing was touched, so IMAGE_TAG names the live release again: a reboot deploys what it names."""
    say(f"refused: {error}")
    try:
        last = history.last_live(directory, settings.read(directory).deploy_id)
        if last and last.tag != tag:
            settings.write_release(directory, last.tag, only_if_tag=tag)
    except Exception as problem:
        say(f"and IMAGE_TAG in .env still names {tag}: {problem}")
    say("nothing was deployed")
    return 1


def _run(deploy: Deploy, forward: bool) -> int:
    try:
        deploy, outcome = roll_out(deploy, forward)
        try:
            settings.write_release(deploy.directory, deploy.tag, deploy.project.deploy)
        except OSError as error:
            raise Refused(f"cannot write .env: {error}") from None
    except BaseException as error:
        ignore_signals()
        return _take_back(deploy, error)
    # .env names the release: it is live, and there is nothing to go back to.
    try:
        _finish(deploy, outcome)
    except (*FAILURES, ValueError) as error:
        ignore_signals()
        say(f"{deploy.tag} is live, but not everything is done ({error}): run the same command again")
        return 1
    say(f"live: {deploy.tag}")
    return 0


def _finish(deploy: Deploy, outcome: str) -> None:
    """The new release is live: record it at once, stop the previous one, remove what no rollback needs."""
    directory, current = deploy.directory, deploy.settings
    deploy.steps.end()
    if not history.is_recorded(directory, deploy.project.deploy):
        _record(deploy, outcome, "")
    deploy.steps.begin("clean up")
    state.link_current(directory, deploy.tag)
    every = releases(current)
    engine.remove(one.id for one in every if one.deploy != deploy.project.deploy)
    _keep_names(deploy)
    state.point_to(directory, "front")
    release.prune(directory, current, deploy.tag)
    history.notify(directory, current)


def _keep_names(deploy: Deploy) -> None:
    """Compose numbers containers upwards; the names stay <project>-api-1, -2 and <project>-front-1."""
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
        deploy=deploy.project.deploy,
        image=deploy.image,
        outcome=outcome,
        by=deploy.by,
        reason=reason,
        committed=release.label(image, release.CREATED),
        seconds=deploy.steps.seconds,
    )


def _take_back(deploy: Deploy, error: BaseException) -> int:
    """Send requests to the release that was live, remove the new one, and say why; the exit code is 1."""
    reason = str(error) if isinstance(error, FAILURES) else f"{type(error).__name__} in {deploy.steps.name}: {error}"
    deploy.steps.end()
    directory, live, problems = deploy.directory, deploy.live, list[str]()

    def attempt(what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as problem:
            problems.append(f"{what} ({problem})")

    attempt("the pointer", lambda: move_pointer(directory, live.front))
    try:
        health.show_evidence(directory, deploy.containers())
    except FAILURES as problem:
        say(f"no evidence: {problem}")
    if live.deploy:
        attempt(".env", lambda: settings.write_release(directory, live.tag, live.deploy))
    attempt("the containers", lambda: repair(directory, settings.read(directory)))
    if problems:
        reason += f"; not taken back: {', '.join(problems)}: fix this, then run the same command again"
    else:
        release.prune(directory, deploy.settings, live.tag)
    try:
        _record(deploy, history.REFUSED, reason)
        history.notify(directory, deploy.settings)
    except OSError as problem:
        say(f"not recorded: {problem}")
    say(f"refused: {reason}")
    if any(problem.startswith("the containers") for problem in problems):
        say(f"state unknown; last known to be live: {live.tag or 'nothing'}")
    else:
        say(f"still live: {live.tag or 'nothing'}")
    return 1
