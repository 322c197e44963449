"""What is live, its containers, the last attempt, and the commands that roll back."""

from pathlib import Path

from server import history, orchestrator
from server.settings import Settings
from server.state import say


def show(directory: Path, settings: Settings) -> int:
    """Print the status and return the exit code. Raises EngineError."""
    chosen = orchestrator.choose(settings)
    deploy_id, tag, containers = chosen.find_live(directory, settings)
    entry = history.find_live_entry(directory, deploy_id)
    stopped = [container.name for container in containers if not container.is_running]
    say(f"live: {tag or 'nothing'}" + (f" since {entry.time}, by {entry.by}" if tag and entry else ""))
    if stopped:
        say(f"not running: {', '.join(stopped)}; to start the release again, run 'sudo {directory}/deploy.sh'")
    if settings.is_stale:
        say(
            f"IMAGE_TAG and DEPLOY_ID in .env are older than the last deploy: 'sudo {directory}/deploy.sh' "
            "corrects them"
        )
    if settings.image_tag not in ("", tag):
        say(f"IMAGE_TAG in .env is '{settings.image_tag}': to make that live, run 'sudo {directory}/deploy.sh'")
    chosen.show_containers(directory, settings)
    say(f"last attempt: {history.last_line(directory) or 'none'}")
    candidates = history.rollback_candidates(directory, tag or settings.image_tag, settings.keep_releases)
    if settings.is_stale:
        candidates = []  # IMAGE_TAG may name one of them already
        say(f"to roll back, first run 'sudo {directory}/deploy.sh', then this command again")
    elif candidates:
        say("to roll back, run one of these lines (newest first):")
    else:
        say("no release to roll back to")
    for candidate in candidates:
        print(f"sudo sed -i 's/^IMAGE_TAG=.*/IMAGE_TAG={candidate}/' {directory}/.env && sudo {directory}/deploy.sh")
    return 0
