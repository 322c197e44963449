"""Send a steady HTTP load to a server during deploys, and record each response; no request is sent twice."""

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
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import quote, urlsplit

TIMEOUT = 10.0  # seconds, for a complete request
CREDENTIAL_VARIABLE = "TRAFFIC_TOKEN"  # not an argument: every user of the machine can read those
ROOT = Path(__file__).resolve().parents[2]


def loopback_address(base_url: str) -> tuple[str, int]:
    """Return host and port of an http:// URL on this machine; ValueError for any other URL."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    local = host == "localhost"
    with suppress(ValueError):
        local = local or ipaddress.ip_address(host).is_loopback
    if parts.scheme != "http" or not local:
        raise ValueError(f"expected an http:// URL on a loopback address, not {base_url!r}")
    return host, parts.port or 80


def is_failed(record: dict) -> bool:
    """Return whether a request got no complete response, or an unexpected status."""
    return record["error"] is not None or record["status"] != (201 if record["method"] == "POST" else 200)


def lost_and_duplicated(acknowledged: Iterable[str], stored: Iterable[str]) -> tuple[set[str], set[str]]:
    """Return the texts acknowledged but not stored, and those stored more than once, acknowledged or not."""
    copies = Counter(stored)
    return set(acknowledged) - copies.keys(), {text for text, count in copies.items() if count > 1}


@dataclass(frozen=True)
class Summary:
    """The records of the requests sent. Times are epoch seconds, durations are seconds."""

    records: list[dict]

    @classmethod
    def read(cls, path: Path) -> "Summary":
        """Read a records file, even while it is being written."""
        lines = path.read_text().splitlines(keepends=True)
        return cls([json.loads(line) for line in lines if line.endswith("\n")])

    def records_between(self, start: float, end: float) -> list[dict]:
        """Return the requests sent from `start` on and before `end`."""
        return [record for record in self.records if start <= record["at"] < end]

    def failures_between(self, start: float, end: float) -> list[dict]:
        """Return the failed requests among those of `records_between`."""
        return [record for record in self.records_between(start, end) if is_failed(record)]

    @property
    def requests(self) -> int:
        return len(self.records)

    @property
    def failed(self) -> int:
        return sum(map(is_failed, self.records))

    @property
    def acknowledged(self) -> list[str]:
        """The notes whose POST got status 201, even if the response was incomplete."""
        return [record["note"] for record in self.records if record["note"] and record["status"] == 201]

    @property
    def rate(self) -> float:
        """Requests per second, from the first to the last request."""
        sent = [record["at"] for record in self.records]
        return (len(sent) - 1) / (max(sent) - min(sent)) if len(sent) > 1 else 0.0

    @property
    def longest(self) -> float:
        """The duration of the longest request."""
        return max((record["seconds"] for record in self.records), default=0.0)

    @property
    def longest_delay(self) -> float:
        """The longest delay before a request was sent because all workers were busy."""
        return max((record["late"] for record in self.records), default=0.0)


class Traffic:
    """The load generator in a separate process, so that the rehearsal does not slow it down."""

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
        """`rate` is in requests per second, `seconds` limits the run. ValueError if `base_url` is not on loopback."""
        loopback_address(base_url)
        self.records = records.resolve()
        self._environment = os.environ | {CREDENTIAL_VARIABLE: token}
        self._command = [sys.executable, "-m", "tests.rehearsal.traffic", "--base-url", base_url]
        self._command += ["--release-tag", release_tag, "--rate", str(rate), "--seconds", str(seconds)]
        self._command += ["--records", str(self.records), *([] if writes else ["--read-only"])]
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start the process and wait until it sends requests; RuntimeError if it fails. Replaces the records file."""
        self.records.unlink(missing_ok=True)
        # In a new session: Ctrl-C reaches the rehearsal only, which then stops this process.
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
                raise RuntimeError("the load generator did not start; its error is above")
            time.sleep(0.02)

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> Summary:
        """Wait for the requests in flight, stop the process and return its records.

        RuntimeError if the process exited earlier: part of the rehearsal then ran without load.
        """
        if self._process is None:
            raise RuntimeError("the load generator was not started")
        exited_early = not self.running
        self._process.terminate()
        try:
            code = self._process.wait(3 * TIMEOUT + 5)  # TIMEOUT for connecting, headers and body each
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        if exited_early or code:
            raise RuntimeError(f"the load generator exited early (exit code {code}); see {self.records}")
        return Summary.read(self.records)


def send(connection: HTTPConnection, number: int, options: argparse.Namespace, late: float) -> dict:
    """Send a request once and return its record. Of five numbers, one is a write and two are GET /version."""
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
        # http.client reconnects after a response with `Connection: close`, and never retries.
        connection.request(record["method"], target, payload, headers)
        response = connection.getresponse()
        record["status"] = response.status
        body = response.read()
        if target == "/version" and response.status == 200:
            record["tag"] = str(json.loads(body)["tag"])
        if time.monotonic() - began > TIMEOUT:
            raise TimeoutError(f"longer than {TIMEOUT:g} s")  # the socket timeout applies to each read only
    except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
        record["error"] = f"{type(error).__name__}: {error}"
        connection.close()
    record["seconds"] = round(time.monotonic() - began, 6)
    return record


def generate(options: argparse.Namespace) -> None:
    """Send requests until a signal, the limit in seconds, or the exit of the parent process."""
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before threads start: only sigtimedwait receives them
    stopping, numbers, records = threading.Event(), itertools.count(), deque()
    parent, start = os.getppid(), time.monotonic()

    def work() -> None:
        connection = HTTPConnection(*loopback_address(options.base_url), timeout=TIMEOUT)
        for number in numbers:
            due = start + number / options.rate
            if stopping.wait(max(0.0, due - time.monotonic())):
                return connection.close()
            records.append(send(connection, number, options, time.monotonic() - due))

    with options.records.open("w") as file, ThreadPoolExecutor(options.workers) as pool:
        workers = [pool.submit(work) for _ in range(options.workers)]
        while not stopping.is_set() and not all(worker.done() for worker in workers):
            signalled = signal.sigtimedwait(signals, 0.2)
            if signalled or os.getppid() != parent or time.monotonic() - start > options.seconds:
                stopping.set()
            while records:
                file.write(json.dumps(records.popleft()) + "\n")
            file.flush()
        wait(workers)
        for record in records:
            file.write(json.dumps(record) + "\n")
        for worker in workers:
            worker.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"{CREDENTIAL_VARIABLE} must contain the API token.")
    parser.add_argument("--base-url", required=True, help="URL of the server, on a loopback address")
    parser.add_argument("--release-tag", required=True, help="release whose notes are written and read")
    parser.add_argument("--records", required=True, type=Path, help="file to write, one JSON line per request")
    parser.add_argument("--rate", type=float, default=150, help="requests per second (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=16, help="keep-alive connections (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3600, help="stop after this time (default: %(default)s)")
    parser.add_argument("--read-only", action="store_true", help="send no writes")
    options = parser.parse_args()
    options.token = os.environ.get(CREDENTIAL_VARIABLE, "")
    try:
        loopback_address(options.base_url)
    except ValueError as error:
        parser.error(str(error))
    if not options.token or min(options.rate, options.workers, options.seconds) <= 0:
        parser.error(f"{CREDENTIAL_VARIABLE} must be set; --rate, --workers and --seconds must be greater than 0")
    generate(options)
    if not options.records.exists():
        return  # the parent process exited and removed the file
    summary = Summary.read(options.records)
    print(
        f"{summary.requests} requests at {summary.rate:.1f}/s, {summary.failed} failed; "
        f"longest delay {summary.longest_delay:.3f} s"
    )


if __name__ == "__main__":
    main()
