"""The command `deploy`: request the deploy of a commit, verify it at the public URL, and write the job's summary."""

from scripts.runner.process import Failure, git
from scripts.runner.request import VARIABLES, request_deploy
from scripts.runner.settings import required, summarize
from scripts.runner.verify import wait_for_release


def deploy() -> None:
    """Deploy HEAD. Raise Failure unless the server says that it is live and the public URL serves it."""
    public_url = required(*VARIABLES, "PUBLIC_URL")["PUBLIC_URL"]
    commit = git("rev-parse", "HEAD")
    try:
        request_deploy(commit)
    except Failure as failure:
        summarize(f"### Not deployed: `{commit}`\n\n{failure}")
        raise
    try:
        answer = wait_for_release(public_url, commit)
    except Failure as failure:
        summarize(f"### Not verified: `{commit}`\n\nThe server says that it is live, but {failure}")
        raise
    started = answer.get("started_at", "an unknown time")
    summarize(f"### Live: `{commit}`\n\n{public_url} answers from this commit, started at {started}.")
