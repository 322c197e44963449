"""Send a steady HTTP load to a server during deploys, and record each response; no request is sent twice."""

import argparse
import ipaddress
import itertools
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from tests.rehearsal.application import Request

TIMEOUT = 10.0  # seconds, for a complete request
BODY_BYTES = 200  # of an unexpected response, which its record contains
RELEASE_HEADER = "X-Release"  # of each response: the commit of the release
ROOT = Path(__file__).resolve().parents[2]


def connect(base_url: str, ca: Path | None = None) -> HTTPConnection:
    """Return a connection, which opens with its first request, to a URL on this machine; ValueError for any other URL.

    It must be http:// on a loopback address, or https://localhost with a certificate of the authority in the file `ca`.
    """
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    local = host == "localhost"
    with suppress(ValueError):
        local = local or ipaddress.ip_address(host).is_loopback
    if parts.scheme == "http" and local:
        return HTTPConnection(host, parts.port or 80, timeout=TIMEOUT)
    if parts.scheme == "https" and host == "localhost" and ca:
        context = ssl.create_default_context(cafile=ca)
        return HTTPSConnection(host, parts.port or 443, timeout=TIMEOUT, context=context)
    expected = "an http:// URL on a loopback address, or https://localhost and the certificate of an authority"
    raise ValueError(f"expected {expected}, not {base_url!r}")


def is_expected(record: dict) -> bool:
    """Return whether a request got its expected status, or one below 500 if it has none."""
    status, expected = record["status"], record["expected"]
    return status is not None and (status < 500 if expected is None else status == expected)


def is_failed(record: dict) -> bool:
    """Return whether a request got no complete response, or an unexpected status."""
    return record["error"] is not None or not is_expected(record)


def is_acknowledged(record: dict) -> bool:
    """Return whether a request is a counted write with the expected status, even if its response was incomplete."""
    return bool(record["counted"]) and is_expected(record)


def lost_and_duplicated(acknowledged: Iterable[str], stored: Iterable[str]) -> tuple[set[str], set[str]]:
    """Return the ids acknowledged but not stored, and those stored more than once, acknowledged or not."""
    copies = Counter(stored)
    return set(acknowledged) - copies.keys(), {one for one, count in copies.items() if count > 1}


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
    def acknowledged(self) -> dict[str, list[str]]:
        """The ids of the acknowledged writes, by the name of their count."""
        ids: dict[str, list[str]] = {}
        for record in filter(is_acknowledged, self.records):
            ids.setdefault(record["counted"], []).append(record["id"])
        return ids

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
        base_urls: Sequence[str],
        requests: Sequence[Request],
        rate: float,
        records: Path,
        seconds: float = 3600,
        *,
        ca: Path | None = None,
        version_path: str = "",
    ) -> None:
        """`rate` is in requests per second, `seconds` limits the run, `version_path` is that of `send`.

        Only `${id}` is replaced in the requests. ValueError for a URL that `connect` does not accept.
        """
        for url in base_urls:
            connect(url, ca)
        self.records = records.resolve()
        self._requests = json.dumps([asdict(request) for request in requests])
        options = {"--rate": rate, "--seconds": seconds, "--records": self.records}
        options |= {"--ca": ca, "--version-path": version_path}
        self._command = [sys.executable, "-m", "tests.rehearsal.traffic"]
        self._command += [word for name, value in options.items() if value for word in (name, str(value))]
        self._command += [f"--base-url={url}" for url in base_urls]
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start the process and wait until it sends requests; RuntimeError if it fails. Replaces the records file."""
        self.records.unlink(missing_ok=True)
        # In a new session: Ctrl-C reaches the rehearsal only, which then stops this process.
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(self._requests)
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


def send(connection: HTTPConnection, request: Request, due: float, version_path: str = "") -> dict:
    """Send a request that is due at this time (`time.monotonic`) once, and return its record.

    The tag of a record is the release that answered: the header RELEASE_HEADER, or with `version_path` the field `tag`
    of the JSON response at this path, and then no other request has a tag.
    """
    new_id = str(uuid.uuid4())
    path, body = request.path.replace("${id}", new_id), request.body.replace("${id}", new_id)
    headers = {name: value.replace("${id}", new_id) for name, value in request.headers.items()}
    record = {"at": time.time(), "late": round(time.monotonic() - due, 6), "seconds": 0.0, "method": request.method}
    record |= {"path": path.partition("?")[0], "status": None, "error": None, "tag": None, "expected": request.status}
    record |= {"counted": request.counted or None, "id": new_id if request.counted else None}
    began = time.monotonic()
    try:
        # http.client reconnects after a response with `Connection: close`, and never retries.
        connection.request(request.method, path, body.encode() or None, headers)
        response = connection.getresponse()
        record["status"] = response.status
        text = response.read()
        if not is_expected(record):
            record["body"] = text[:BODY_BYTES].decode(errors="replace")
        if not version_path:
            record["tag"] = response.headers[RELEASE_HEADER]
        elif path == version_path and response.status == 200:
            record["tag"] = str(json.loads(text)["tag"])
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

    def work(worker: int) -> None:
        connection = connect(options.base_url[worker % len(options.base_url)], options.ca)
        for number in numbers:
            due = start + number / options.rate
            if stopping.wait(max(0.0, due - time.monotonic())):
                return connection.close()
            request = options.requests[number % len(options.requests)]
            records.append(send(connection, request, due, options.version_path))

    with options.records.open("w") as file, ThreadPoolExecutor(options.workers) as pool:
        workers = [pool.submit(work, worker) for worker in range(options.workers)]
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
    # Not an argument: every user of the machine can read those, and requests have secrets.
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='stdin: the requests, for example [{"path": "/"}, {"path": "/orders", "method": "POST", "headers": {}, '
        '"body": "${id}", "status": 201, "counted": "orders"}]. They are sent in turn. ${id} becomes a new UUID.',
    )
    parser.add_argument(
        "--base-url",
        required=True,
        action="append",
        help="URL of the server, on a loopback address; of several, each connection uses one",
    )
    parser.add_argument("--ca", type=Path, help="certificate of the authority, for https://localhost")
    parser.add_argument("--records", required=True, type=Path, help="file to write, one JSON line per request")
    parser.add_argument("--rate", type=float, default=150, help="requests per second (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=16, help="keep-alive connections (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3600, help="stop after this time (default: %(default)s)")
    parser.add_argument(
        "--version-path", default="", help="JSON response with the tag of the release; default: a header"
    )
    options = parser.parse_args()
    try:
        for url in options.base_url:
            connect(url, options.ca)
        options.requests = [Request(**one) for one in json.load(sys.stdin)]
    except (OSError, ValueError, TypeError) as error:
        parser.error(str(error))
    if not options.requests or min(options.rate, options.workers, options.seconds) <= 0:
        parser.error("there must be a request to send; --rate, --workers and --seconds must be greater than 0")
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
