"""What is live, its containers, the last attempt, and the commands that roll back."""

from pathlib import Path

from server import commands, history
from server.repair import release_containers
from server.settings import Settings
from server.state import say

TABLE = "table {{.Names}}\t{{.Status}}\t{{.Image}}"


def show(directory: Path, settings: Settings) -> int:
    """Print the status and return the exit code. Raises EngineError."""
    live = [container for container in release_containers(settings) if container.deploy_id == settings.deploy_id]
    tag = live[0].tag if live else ""
    attempt = history.find_live(directory, settings.deploy_id)
    say(f"live: {tag or 'nothing'}" + (f" since {attempt.time}, by {attempt.by}" if tag and attempt else ""))
    if tag != settings.image_tag:
        say(f"IMAGE_TAG in .env is '{settings.image_tag}': to make that live, run 'sudo {directory}/deploy.sh'")
    project = f"label=com.docker.compose.project={settings.project}"
    commands.docker(directory, "ps", "--all", "--filter", project, "--format", TABLE)
    say(f"last attempt: {history.last_line(directory) or 'none'}")
    say("to roll back, run one of these lines (newest release first):")
    for candidate in history.rollback_candidates(directory, tag, settings.keep_releases):
        print(f"sudo sed -i 's/^IMAGE_TAG=.*/IMAGE_TAG={candidate}/' {directory}/.env && sudo {directory}/deploy.sh")
    return 0
