"""Steady HTTP traffic, one attempt per request, against a front behind which deployments are rehearsed."""

import argparse
import ipaddress
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import quote, urlsplit

TIMEOUT = 10.0  # seconds for a whole request
CREDENTIAL_VARIABLE = "TRAFFIC_TOKEN"  # not an argument: arguments can be read by everyone on the machine
ROOT = Path(__file__).resolve().parents[2]


def loopback(base_url: str) -> tuple[str, int]:
    """Host and port of an http:// URL on this machine; ValueError for any other URL."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    local = host == "localhost"
    with suppress(ValueError):
        local = local or ipaddress.ip_address(host).is_loopback
    if parts.scheme != "http" or not local:
        raise ValueError(f"only http:// on a loopback address gets this traffic, not {base_url!r}")
    return host, parts.port or 80


def is_failed(record: dict) -> bool:
    """Whether a request got anything but the complete answer that its method asks for."""
    return record["error"] is not None or record["status"] != (201 if record["method"] == "POST" else 200)


def lost_and_doubled(acknowledged: Iterable[str], stored: Iterable[str]) -> tuple[set[str], set[str]]:
    """Texts acknowledged but not stored, and texts stored more than once, acknowledged or not."""
    copies = Counter(stored)
    return set(acknowledged) - copies.keys(), {text for text, count in copies.items() if count > 1}


@dataclass(frozen=True)
class Summary:
    """What the traffic met. Times are epoch seconds, durations seconds."""

    records: list[dict]

    @classmethod
    def read(cls, path: Path) -> "Summary":
        """Read a records file, also one that is still being written."""
        lines = path.read_text().splitlines(keepends=True)
        return cls([json.loads(line) for line in lines if line.endswith("\n")])

    def records_between(self, start: float, end: float) -> list[dict]:
        """Requests sent from `start` on and before `end`."""
        return [record for record in self.records if start <= record["at"] < end]

    def failures_between(self, start: float, end: float) -> list[dict]:
        """Failed requests among those of `records_between`."""
        return [record for record in self.records_between(start, end) if is_failed(record)]

    @property
    def requests(self) -> int:
        return len(self.records)

    @property
    def failed(self) -> int:
        return sum(map(is_failed, self.records))

    @property
    def posts(self) -> int:
        return sum(record["method"] == "POST" for record in self.records)

    @property
    def acknowledged(self) -> list[str]:
        """Notes whose POST was answered 201, even where the rest of that answer never came."""
        return [record["note"] for record in self.records if record["note"] and record["status"] == 201]

    @property
    def rate(self) -> float:
        """Requests a second, from the first to the last one sent."""
        sent = [record["at"] for record in self.records]
        return (len(sent) - 1) / (max(sent) - min(sent)) if len(sent) > 1 else 0.0

    @property
    def longest(self) -> float:
        return max((record["seconds"] for record in self.records), default=0.0)

    @property
    def latest(self) -> float:
        """The longest that a request was sent after its time because all workers were busy."""
        return max((record["late"] for record in self.records), default=0.0)


class Traffic:
    """The generator in a process of its own, so that what the harness does never slows it."""

    def __init__(
        self,
        base_url: str,
        token: str,
        release_tag: str,
        rate: float,
        records: Path,
        seconds: float = 3600,
        *,
        writes: bool = True,
    ) -> None:
        """`rate` is in requests a second, `seconds` bounds the run. ValueError unless on loopback."""
        loopback(base_url)
        self.records = records.resolve()
        self._environment = os.environ | {CREDENTIAL_VARIABLE: token}
        self._command = [sys.executable, "-m", "tests.rehearsal.traffic", "--base-url", base_url]
        self._command += ["--release-tag", release_tag, "--rate", str(rate), "--seconds", str(seconds)]
        self._command += ["--records", str(self.records), *([] if writes else ["--read-only"])]
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it and wait until it sends; RuntimeError when it does not. Replaces the records file."""
        self.records.unlink(missing_ok=True)
        # A session of its own: an interrupt at the terminal reaches the harness, which then stops this.
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 20
        while not self.records.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise RuntimeError("the traffic did not start; its own message is above")
            time.sleep(0.02)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> Summary:
        """Let requests in flight end, then say what was met.

        RuntimeError when it was not running any more: then part of the rehearsal went without traffic.
        """
        if self._process is None:
            raise RuntimeError("the traffic was not started")
        ended_by_itself = not self.running
        self._process.terminate()
        try:
            code = self._process.wait(3 * TIMEOUT + 5)  # connecting, head and body have TIMEOUT each
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        if ended_by_itself or code:
            raise RuntimeError(f"the traffic ended before it was told to (exit {code}), see {self.records}")
        return Summary.read(self.records)


def send(connection: HTTPConnection, number: int, options: argparse.Namespace, late: float) -> dict:
    """Make the request of this number, once: of five, one writes a note and two ask for the version."""
    notes = f"/releases/{quote(options.release_tag, safe='')}/notes"
    first = "/version" if options.read_only else notes
    target = (first, "/version", f"{notes}?limit=5", "/version", "/")[number % 5]
    note = str(uuid.uuid4()) if target == notes else None
    payload = json.dumps({"text": note}).encode() if note else None
    headers = {"Authorization": f"Bearer {options.token}", "Content-Type": "application/json"} if note else {}
    record = {"at": time.time(), "late": round(late, 6), "seconds": 0.0, "method": "POST" if note else "GET"}
    record |= {"path": target.partition("?")[0], "status": None, "error": None, "tag": None, "note": note}
    began = time.monotonic()
    try:
        # http.client opens the connection when an earlier answer announced its end, and never sends twice.
        connection.request(record["method"], target, payload, headers)
        answer = connection.getresponse()
        record["status"] = answer.status
        body = answer.read()
        if target == "/version" and answer.status == 200:
            record["tag"] = str(json.loads(body)["tag"])
        if time.monotonic() - began > TIMEOUT:
            raise TimeoutError(f"longer than {TIMEOUT:g} s")  # each wait was shorter, not all together
    except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
        record["error"] = f"{type(error).__name__}: {error}"
        connection.close()
    record["seconds"] = round(time.monotonic() - began, 6)
    return record


def generate(options: argparse.Namespace) -> None:
    """Send until a signal, the bound in seconds, or the end of the process that started this one."""
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before any thread: only sigtimedwait takes them
    stopping, numbers, records = threading.Event(), itertools.count(), deque()
    parent, start = os.getppid(), time.monotonic()

    def work() -> None:
        connection = HTTPConnection(*loopback(options.base_url), timeout=TIMEOUT)
        for number in numbers:
            due = start + number / options.rate
            if stopping.wait(max(0.0, due - time.monotonic())):
                return connection.close()
            records.append(send(connection, number, options, time.monotonic() - due))

    with options.records.open("w") as file, ThreadPoolExecutor(options.workers) as pool:
        workers = [pool.submit(work) for _ in range(options.workers)]
        while not all(worker.done() for worker in workers):
            signalled = signal.sigtimedwait(signals, 0.2)
            if signalled or os.getppid() != parent or time.monotonic() - start > options.seconds:
                stopping.set()
            while records:
                file.write(json.dumps(records.popleft()) + "\n")
            file.flush()
        for record in records:
            file.write(json.dumps(record) + "\n")
        for worker in workers:
            worker.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"The API's token is read from {CREDENTIAL_VARIABLE}.")
    parser.add_argument("--base-url", required=True, help="the front, on a loopback address")
    parser.add_argument("--release-tag", required=True, help="the release whose notes are written and read")
    parser.add_argument("--records", required=True, type=Path, help="where to write one JSON line per request")
    parser.add_argument("--rate", type=float, default=150, help="requests a second (default %(default)s)")
    parser.add_argument("--workers", type=int, default=16, help="keep-alive connections (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=3600, help="stop after this long (default %(default)s)")
    parser.add_argument("--read-only", action="store_true", help="write no notes")
    options = parser.parse_args()
    options.token = os.environ.get(CREDENTIAL_VARIABLE, "")
    try:
        loopback(options.base_url)
    except ValueError as error:
        parser.error(str(error))
    if not options.token or min(options.rate, options.workers, options.seconds) <= 0:
        parser.error(f"{CREDENTIAL_VARIABLE} must be set; rate, workers and seconds must be above 0")
    generate(options)
    if not options.records.exists():
        return  # who wanted it is gone
    met = Summary.read(options.records)
    print(f"{met.requests} requests, {met.failed} failed, {met.rate:.1f} a second, latest {met.latest:.3f} s")


if __name__ == "__main__":
    main()
