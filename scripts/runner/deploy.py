"""The command `deploy`: ask the server to deploy a commit, verify it at the public URL, and write the job's summary."""

import os
from collections.abc import Mapping
from pathlib import Path

from scripts.runner.process import Failure, git
from scripts.runner.request import VARIABLES, UnknownResult, request_deploy
from scripts.runner.settings import required
from scripts.runner.verify import health_path, wait_for_release


def deploy() -> None:
    """Deploy HEAD. Raise Failure unless the server reports it as live and the public URL serves it."""
    public_url = required(*VARIABLES, "PUBLIC_URL")["PUBLIC_URL"]
    commit = git("rev-parse", "HEAD")
    path = health_path(commit)  # before the deploy: it fails if the compose file or .env.prod is invalid
    try:
        request_deploy(commit)
    except UnknownResult as failure:
        summarize(f"### Result unknown: `{commit}`\n\n{failure}")
        raise
    except Failure as failure:
        summarize(f"### Deploy failed: `{commit}`\n\n{failure}")
        raise
    try:
        wait_for_release(public_url, path, commit)
    except Failure as failure:
        summarize(f"### Not verified: `{commit}`\n\nThe server reports it as live, but {failure}")
        raise
    summarize(f"### Live: `{commit}`\n\n{public_url} serves this release.")


def summarize(text: str, environment: Mapping[str, str] = os.environ) -> None:
    """Append Markdown to the job's summary; do nothing outside GitHub Actions."""
    if path := environment.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a") as summary:
            summary.write(text + "\n")
