"""deploys.log: one line of JSON per attempt; the rollback candidates; the webhooks."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace as replace_fields
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from server import settings
from server.settings import Settings
from server.state import now, replace, say

LIVE, ROLLBACK, REFUSED = "live", "rollback", "refused"
WENT_LIVE = (LIVE, ROLLBACK, "rolled_back")  # version 1 (in Bash) wrote the last one for ROLLBACK
NOTIFY_SECONDS = 5  # for one request
NOTIFY_LINES = 20  # maximum per deploy
RETRY_STATUSES = (401, 403, 404, 408, 429)  # misconfigured or temporary; other 4xx are final


class Entry(NamedTuple):
    """The line of one attempt."""

    id: str
    tag: str
    outcome: str
    time: str
    by: str


def entries(directory: Path) -> list[Entry]:
    """Return all attempts, oldest first, without lines that cannot be parsed."""
    found = []
    for line in _lines(directory):
        with suppress(ValueError, KeyError, TypeError):
            values = json.loads(line)
            found.append(Entry(*(str(values[name]) for name in Entry._fields)))
    return found


def _lines(directory: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return (directory / "deploys.log").read_text(encoding="utf-8", errors="replace").splitlines()
    return []


def find_live_entry(directory: Path, deploy_id: str) -> Entry | None:
    """Return the line of the attempt with this id if it went live; else None."""
    return next((entry for entry in _live_entries(directory) if entry.id == deploy_id), None)


def read_settings(directory: Path) -> Settings:
    """Return the settings of .env. If it is stale, the release comes from the log instead. Raises UsageError.

    It is stale if an editor opened it before a deploy and saved it afterwards: the log then has a later live release.
    """
    # The log first, because a deploy writes .env first: otherwise .env could look stale if a deploy ends in between.
    live = {entry.id: entry for entry in _live_entries(directory)}
    current = settings.read(directory)
    named = live.get(current.deploy_id)
    newest = live.get(max(filter(str.isdecimal, live), key=int, default=""))
    if named is None or newest is None or named is newest:
        return current
    # IMAGE_TAG of another release was set on purpose, for a rollback.
    tag = newest.tag if current.image_tag == named.tag else current.image_tag
    return replace_fields(current, image_tag=tag, deploy_id=newest.id, is_stale=True)


def live_ids(directory: Path) -> set[str]:
    """Return the ids of the attempts that went live."""
    return {entry.id for entry in _live_entries(directory)}


def _live_entries(directory: Path) -> list[Entry]:
    return [entry for entry in entries(directory) if entry.outcome in WENT_LIVE]


def rollback_candidates(directory: Path, live: str, keep: int) -> list[str]:
    """Return the tags of at most `keep` releases that were live, newest first, without the live one."""
    newest = reversed([entry.tag for entry in _live_entries(directory) if entry.tag != live])
    return list(dict.fromkeys(newest))[:keep]


def new_id(directory: Path, seconds: int) -> str:
    """Return an id for an attempt: the current time `seconds`, or one more than the highest id, if that is larger."""
    before = [int(entry.id) for entry in entries(directory) if entry.id.isdecimal()]
    return str(max([seconds, *(number + 1 for number in before)]))


def last_line(directory: Path) -> str:
    """Return the unparsed line of the last attempt; empty if there is none."""
    return (_lines(directory) or [""])[-1]


def is_recorded(directory: Path, deploy_id: str) -> bool:
    """Return whether the log has a line of this attempt."""
    return any(entry.id == deploy_id for entry in entries(directory))


def record(
    directory: Path,
    *,
    deploy_id: str,
    image: str,
    outcome: str,
    actor: str,
    reason: str,
    committed: str,
    seconds: Mapping[str, float],
) -> None:
    """Append the line of an attempt. `seconds` is the duration of each step, `committed` is RFC 3339 or empty."""
    reason = "".join(character if character.isprintable() else " " for character in reason).strip()
    actor = "".join(character for character in actor if character.isalnum() or character in " @._-")
    what = {LIVE: "is live", ROLLBACK: "is live again (rollback)", REFUSED: "was refused"}[outcome]
    entry = {
        "id": deploy_id,
        "time": now(),
        "tag": image.rpartition(":")[2],
        "outcome": outcome,
        "by": actor,
        "reason": reason,
        "committed": committed,
        "seconds": {step: round(value, 2) for step, value in seconds.items()},
        "text": f"{image} {what}{f': {reason}' if reason else ''}",
    }
    with (directory / "deploys.log").open("a", encoding="utf-8") as log:
        log.write(("" if _ends_with_newline(directory) else "\n") + json.dumps(entry) + "\n")


def _ends_with_newline(directory: Path) -> bool:
    """Return whether the last line is complete; a full disk may have cut it short."""
    with (directory / "deploys.log").open("rb") as log:
        log.seek(max(0, log.seek(0, 2) - 1))
        return log.read() in (b"", b"\n")


def notify(directory: Path, current: Settings) -> None:
    """Send the lines of the log that NOTIFY_URL has not accepted yet, oldest first. Never fails a deploy."""
    file = directory / "notified"
    try:
        if not current.notify_url:
            file.unlink(missing_ok=True)  # when it is set again, older lines are not sent
            return
        lines = _lines(directory)
        if not file.exists() or int(file.read_text()) > len(lines):  # NOTIFY_URL or the log is new: send the last line
            replace(file, f"{max(0, len(lines) - 1)}\n")
        sent = int(file.read_text())
        for line in lines[sent : sent + NOTIFY_LINES]:
            status, result = _post(current, line)
            if _needs_retry(status):
                say(f"NOTIFY_URL {result}: will be retried with the next deploy")
                break
            sent += 1
            # A new file each time: this user may replace, but not write to, a file that root created.
            replace(file, f"{sent}\n")
    except (OSError, ValueError) as error:
        say(f"NOTIFY_URL was not notified: cannot read or replace {file} (it must contain one number): {error}")


def _needs_retry(status: int) -> bool:
    return not (200 <= status < 300 or (400 <= status < 500 and status not in RETRY_STATUSES))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A POST that is redirected would arrive as a GET."""


def _post(current: Settings, line: str) -> tuple[int, str]:
    """Send one line. Return the status and a description of the response; status 0 if none
    arrived within NOTIFY_SECONDS."""
    headers = {"Content-Type": "application/json"}
    if current.notify_token:
        headers["Authorization"] = f"Bearer {current.notify_token}"
    results = [(0, f"did not respond within {NOTIFY_SECONDS} s")]

    def send() -> None:
        try:
            request = urllib.request.Request(current.notify_url, line.encode(), headers, method="POST")
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=NOTIFY_SECONDS) as response:
                results.append((response.status, f"returned {response.status}"))
        except urllib.error.HTTPError as error:
            results.append((error.code, f"returned {error.code}"))
        except OSError as error:
            results.append((0, f"did not respond: {error}"))
        except (ValueError, HTTPException) as error:  # its message may quote the URL or the token
            results.append((0, f"could not be called ({type(error).__name__}): check NOTIFY_URL and NOTIFY_TOKEN"))

    # In a thread: the socket's timeout restarts with each byte that is received.
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(NOTIFY_SECONDS)
    return results[-1]
