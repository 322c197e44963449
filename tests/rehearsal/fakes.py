"""For unit tests: an HTTP server that fails on demand, certificates, a server simulated by a folder, a sample run."""

import json
import shutil
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts.runner.process import run
from tests.rehearsal.application import Application, Request
from tests.rehearsal.server import DIR, Server
from tests.rehearsal.traffic import Summary, Traffic

TAG = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """A server with one release. `server.fault` returns the fault for a request, by its number and method."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.server.connections += 1

    def respond(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        with self.server.lock:
            self.server.received.append((self.command, self.path))
            self.server.sent.append((dict(self.headers), body))
            fault = self.server.fault(len(self.server.received), self.command)
            if self.command == "POST" and self.path not in self.server.responses and fault != "no response":
                self.server.stored.append(json.loads(body)["text"])
        if fault == "no response":
            self.close_connection = True
            return
        status = 500 if fault == "500" else 201 if self.command == "POST" else 200
        status, response = self.server.responses.get(self.path, (status, {"tag": "of /version"}))
        response = b"" if self.command == "HEAD" else json.dumps(response).encode()
        self.send_response(status)
        self.send_header("X-Release", TAG)
        self.send_header("Content-Length", str(len(response) + (fault == "incomplete")))
        if fault in ("connection close", "incomplete"):
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(response)

    do_GET = do_HEAD = do_POST = respond

    def log_message(self, *_):
        pass


class FaultyServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # more than the connections of the load generator

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock, self.received, self.stored, self.connections = threading.Lock(), [], [], 0
        self.sent: list[tuple[dict, str]] = []  # headers and body of each request
        self.responses: dict[str, tuple[int, object]] = {}  # status and JSON of other responses, by path
        self.fault = lambda number, method: None

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        pass  # the client resets connections when the load generator stops


# One request in five is a write, as in the load of the sample.
WRITE = Request("/notes?a=b", "POST", {"X-Id": "${id}"}, '{"text": "${id}"}', status=201, counted="notes")
REQUESTS = (WRITE, Request("/version"), Request("/notes?limit=5"), Request("/version"), Request("/"))
APPLICATION = Application("/healthz", REQUESTS)


def send_load(server, folder, requests=100, rate=1000, load=REQUESTS, **options) -> Summary:
    """Send requests until the server has received this many."""
    traffic = Traffic([options.pop("url", server.url)], load, rate, folder / "requests.jsonl", **options)
    traffic.start()
    deadline = time.monotonic() + 20
    while len(server.received) < requests and time.monotonic() < deadline:
        time.sleep(0.005)
    return traffic.stop()


def scheduled_rate(summary) -> float:
    """Return the requests per second by the times when they were due, however late a busy machine sent them."""
    due = [record["at"] - record["late"] for record in summary.records]
    return (summary.requests - 1) / (max(due) - min(due))


def create_certificate(folder, name, *options):
    """Create a certificate and its key as NAME.pem and NAME.key. Skips the test without openssl."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", *options]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    return folder / f"{name}.pem"


def create_context(ca, host):
    """Return the TLS context of a server with a certificate of this authority for this host."""
    signed = ("-CA", ca.name, "-CAkey", f"{ca.stem}.key", "-addext", f"subjectAltName=DNS:{host}")
    certificate = create_certificate(ca.parent, "server", *signed, "-addext", "basicConstraints=critical,CA:FALSE")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return context


class FolderServer(Server):
    """A server whose commands run on this machine, in a folder; its containers are the lines of a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__({}, folder, "quai")
        (folder / ".env").write_text("API_TOKEN=\nHEALTH_SECONDS=20\n")
        (folder / "releases").mkdir()
        (folder / "releases/upstream").write_text("front\n")
        (folder / "releases/current").symlink_to(TAG)

    def exec(self, script: str, timeout: float = 60) -> str:
        docker = 'docker() { case $* in compose*) "${@:2}" ;; ps*.ID*) cat containers ;; esac; }'
        script = f"{docker}; {script.replace(DIR, str(self.folder))}"
        return run("bash", "-euo", "pipefail", "-c", script, cwd=self.folder, timeout=timeout)


def sample_run() -> tuple[dict, list[dict]]:
    """Return two scenarios of ten seconds with 4,000 requests, one of which fails at 12.5 s."""
    records = []
    for number in range(4000):
        post, version = number % 5 == 0, number % 5 in (1, 3)
        record = {"at": 1000 + number * 0.005, "seconds": 0.004, "late": 0.001, "error": None}
        record |= {"counted": "notes" if post else None, "id": str(number) if post else None}
        record |= {"method": "POST" if post else "GET", "path": "/version" if version else "/<b>"}
        record |= {
            "status": 201 if post else 200,
            "expected": 201 if post else 200,
            "tag": ("a" * 40 if number < 2000 else "b" * 40),
        }
        records.append(record if version else record | {"tag": None})
    records[2500] |= {
        "status": None,
        "error": "ConnectionResetError: </script>",
        "seconds": 0.25,
        "tag": None,
    }
    scenario = {
        "passed": True,
        "error": None,
        "live_before": None,
        "steps": [{"name": "switch", "at": 1010.0}],
    }
    first = scenario | {"name": "first", "started": 1000.0, "ended": 1010.0}
    first |= {"deploy_seconds": None, "live_after": "a" * 40}
    second = scenario | {"name": "second", "started": 1010.0, "ended": 1020.0}
    second |= {"deploy_seconds": 4.25, "live_after": "b" * 40, "passed": False, "error": "one request failed"}
    run = {"started": 1000.0, "ended": 1020.0, "machine": "a <machine>", "stand_ins": True, "replacements": 1}
    return run | {"scenarios": [first, second], "lost": 0, "duplicated": 0, "violations": []}, records
