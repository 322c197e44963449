"""deploys.log: one line of JSON for each attempt; what was live, what can be rolled back to, and who was notified."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from getpass import getuser
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from server.settings import Settings
from server.state import now, replace, say

LIVE, ROLLBACK, REFUSED = "live", "rollback", "refused"
WENT_LIVE = (LIVE, ROLLBACK, "rolled_back")  # the last is how the first edition spelled ROLLBACK
NOTIFY_SECONDS = 5  # for one request
NOTIFY_LINES = 20  # at the most, with one deploy
RETRIED = (401, 403, 404, 408, 429)  # a mistake of configuration, or of the moment; other 4xx are final


class Attempt(NamedTuple):
    """What the log says of one attempt."""

    id: str
    tag: str
    outcome: str
    time: str
    by: str


def attempts(directory: Path) -> list[Attempt]:
    """All attempts, oldest first. A line that cannot be read, such as one cut short, is left out."""
    found = []
    for line in _lines(directory):
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            found.append(Attempt(*(str(entry[name]) for name in Attempt._fields)))
    return found


def _lines(directory: Path) -> list[str]:
    with suppress(OSError):
        return (directory / "deploys.log").read_text(encoding="utf-8", errors="replace").splitlines()
    return []


def last_live(directory: Path, deploy: str) -> Attempt | None:
    """The attempt that made this deploy live; None if the log has none."""
    return next((one for one in attempts(directory) if one.id == deploy and one.outcome in WENT_LIVE), None)


def rollback_candidates(directory: Path, live: str, keep: int) -> list[str]:
    """The tags of at most `keep` releases that were live, newest first, without the one that is live."""
    newest = reversed([one.tag for one in attempts(directory) if one.outcome in WENT_LIVE and one.tag != live])
    return list(dict.fromkeys(newest))[:keep]


def new_id(directory: Path, seconds: int) -> str:
    """An id for an attempt: the time in `seconds`, or the next number that is free."""
    taken = {one.id for one in attempts(directory)}
    while str(seconds) in taken:
        seconds += 1
    return str(seconds)


def last_line(directory: Path) -> str:
    """The line of the last attempt, as it stands in the log; empty if there is none."""
    return (_lines(directory) or [""])[-1]


def is_recorded(directory: Path, deploy: str) -> bool:
    """Whether the log has a line of this attempt."""
    return any(one.id == deploy for one in attempts(directory))


def record(
    directory: Path,
    *,
    deploy: str,
    image: str,
    outcome: str,
    by: str,
    reason: str,
    committed: str,
    seconds: Mapping[str, float],
) -> None:
    """Append the line of an attempt. `seconds` are of each step, `committed` is RFC 3339 or empty."""
    reason = "".join(one if one.isprintable() else " " for one in reason).strip()
    by = "".join(one for one in by if one.isalnum() or one in " @._-")
    what = "live again (rollback)" if outcome == ROLLBACK else outcome
    entry = {
        "id": deploy,
        "time": now(),
        "tag": image.rpartition(":")[2],
        "outcome": outcome,
        "by": by,
        "reason": reason,
        "committed": committed,
        "seconds": {step: round(value, 2) for step, value in seconds.items()},
        "text": f"{image} is {what}{f': {reason}' if reason else ''}",
    }
    with (directory / "deploys.log").open("a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")


def notify(directory: Path, settings: Settings) -> None:
    """Send the lines of the log that NOTIFY_URL has not taken yet, oldest first. Never fails a deploy."""
    if not settings.notify_url:
        return
    lines, file = _lines(directory), directory / "notified"
    try:
        if not file.exists():  # attempts before NOTIFY_URL was set are not news
            replace(file, f"{len(lines) - 1}\n")
        sent = int(file.read_text())
        for line in lines[sent : sent + NOTIFY_LINES]:
            answer = _post(settings, line)
            if not _is_final(answer):
                say(f"NOTIFY_URL answers {answer or 'nothing'}: the line is sent again with the next deploy")
                break
            sent += 1
            # A new file each time: one that another user created can be replaced, not written.
            replace(file, f"{sent}\n")
    except (OSError, ValueError) as error:
        say(f"NOTIFY_URL was not notified: {file} must be a file with one number that {getuser()} can read: {error}")


def _is_final(answer: int) -> bool:
    return 200 <= answer < 300 or (400 <= answer < 500 and answer not in RETRIED)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A POST that is redirected would arrive as a GET."""


def _post(settings: Settings, line: str) -> int:
    """The status that NOTIFY_URL answers; 0 without an answer within NOTIFY_SECONDS."""
    headers = {"Content-Type": "application/json"}
    if settings.notify_token:
        headers["Authorization"] = f"Bearer {settings.notify_token}"
    answers = [0]

    def send() -> None:
        request = urllib.request.Request(settings.notify_url, line.encode(), headers, method="POST")
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=NOTIFY_SECONDS) as answer:
                answers.append(answer.status)
        except urllib.error.HTTPError as error:
            answers.append(error.code)
        except (OSError, ValueError, HTTPException):
            pass

    # In a thread, since an answer that comes in drops would outlive the timeout of each drop.
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(NOTIFY_SECONDS)
    return answers[-1]
