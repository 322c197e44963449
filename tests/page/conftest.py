"""Chromium, Caddy as `nox -s dev` runs it, and an API with an empty ledger for each test."""

import os
import shutil
import subprocess
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import sync_playwright

from scripts.runner.process import ensure_command
from tests.service.conftest import (
    AUTHENTICATED,
    ROOT,
    TOKEN,
    accepts_connections,
    command,
    deploy,
    free_port,
    run,
    wait_until,
)

PICTURES = ROOT / ".nox/page-pictures"
CHROMIUM_FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
PLAIN = "plain.test"  # resolves to this machine; unlike localhost, browsers treat it as insecure over HTTP
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pytest_configure():
    if find_browser():
        return
    try:
        ensure_command("chromium", "chromium")  # prints a message before it installs the package
    except (subprocess.CalledProcessError, SystemExit):
        pytest.exit(
            "Chromium is required: install it (Debian: apt-get install chromium), or set CHROMIUM to its path", 1
        )


def find_browser():
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


def tag(number):
    """Return a commit ID for this number."""
    return f"{number:02x}" * 20


@pytest.fixture(scope="session")
def chromium():
    with sync_playwright() as playwright:
        options = [*CHROMIUM_FLAGS, f"--host-resolver-rules=MAP {PLAIN} 127.0.0.1"]
        browser = playwright.chromium.launch(
            executable_path=find_browser(), args=options, chromium_sandbox=os.geteuid() != 0
        )
        yield browser
        browser.close()


@contextmanager
def start_front(caddyfile: Path, folder: Path, **settings):
    """Yield a running Caddy with its `url`, its `api_port` and its `log`; stop it at the end."""
    port = free_port()
    settings |= {"BIND": "127.0.0.1", "FRONT_PORT": port, "API_HOST": "127.0.0.1"}
    private = {"CADDY_ADMIN": f"localhost:{free_port()}", "XDG_CONFIG_HOME": folder, "XDG_DATA_HOME": folder}
    environment = os.environ | {name: str(value) for name, value in (settings | private).items()}
    caddy = ["caddy", "run", "--adapter", "caddyfile", "--config", str(caddyfile)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(caddy, env=environment, stdout=log, stderr=log)
    process.url, process.api_port, process.log = f"http://localhost:{port}", settings["API_PORT"], folder / "log"
    try:
        wait_until(lambda: process.poll() is not None or accepts_connections(port))
        assert process.poll() is None, process.log.read_text()
        yield process
    finally:
        process.kill()  # after SIGTERM, it would wait for requests that a failed test has left
        process.wait()


@pytest.fixture(scope="session")
def front(tmp_path_factory):
    """Caddy with the repository's page and Caddyfile, on a free port."""
    caddyfile, folder = ROOT / "service/front/Caddyfile", tmp_path_factory.mktemp("front")
    with start_front(caddyfile, folder, PAGE=ROOT / "service/front/page", API_PORT=free_port()) as process:
        yield process


class Site:
    """The page and its API. Tests can start and stop the API and record deploys."""

    def __init__(self, front, folder: Path):
        self.url, self.folder, self.process = front.url, folder, None
        self.environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
            "APP_ENV": "dev",
            "API_PORT": str(front.api_port),
            "DB_CONN": f"sqlite:///{folder}/page.db",
            "API_TOKEN": TOKEN,
            "READ_ACCESS": "public",
            "PYTHONPATH": str(ROOT),
            "RELEASE": tag(12),
        }
        status, _, stderr = run("service.migrate", self.environ, folder)
        assert status == 0, stderr

    def start(self, **changes):
        self.environ |= changes
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                command("service"), env=self.environ, cwd=self.folder, stdout=log, stderr=log
            )
        wait_until(lambda: accepts_connections(int(self.environ["API_PORT"])))

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    def record(self, number, outcome="live", hours=0.0, **more):
        ended = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
        body = deploy(outcome, ended, **{"actor": "the deploy key", "seconds": {"pull": 2.5, "wait": 4}} | more)
        attempt = f"{number}-{outcome}-{int(hours * 60)}"
        response = httpx2.put(f"{self.url}/releases/{tag(number)}/deploys/{attempt}", json=body, headers=AUTHENTICATED)
        assert response.status_code == 201, response.text

    def record_history(self):
        """Record two weeks with a refused deploy and a rollback; tag(12) is live."""
        for number in range(1, 13):
            hours = (12 - number) * 26 + 1.5
            committed = (datetime.now(UTC) - timedelta(hours=hours, minutes=9)).isoformat()
            seconds = {"pull": 1.2 + number % 4, "migrate": 0.6, "start": 0.9, "wait": 1.9, "verify": 0.4, "watch": 5.1}
            if number == 6:
                reason = "the api was not healthy within 60 s (HEALTH_SECONDS in .env)"
                self.record(6, "refused", hours, reason=reason, seconds={"pull": 3, "wait": 60}, committed_at=committed)
                continue
            self.record(number, "live", hours, seconds=seconds, committed_at=committed)
            if number == 9:
                self.record(8, "rollback", hours - 0.5, actor="root", seconds={"start": 1.1, "wait": 2, "watch": 5})

    def add_note(self, number, text):
        httpx2.post(f"{self.url}/releases/{tag(number)}/notes", json={"text": text}, headers=AUTHENTICATED)

    def read_notes(self, number):
        return [note["text"] for note in httpx2.get(f"{self.url}/releases/{tag(number)}/notes").json()["items"]]


@pytest.fixture
def empty(front, tmp_path):
    """A site with an empty ledger."""
    site = Site(front, tmp_path)
    try:
        site.start()
        yield site
    finally:
        site.stop()


@pytest.fixture
def site(empty):
    """A site with a history."""
    empty.record_history()
    return empty


@pytest.fixture
def visit(chromium):
    """Open a site's page in a new browser context; at the end, assert that only expected errors occurred."""
    contexts = []

    def visit(site, ready="as of", **options):
        context = chromium.new_context(**{"viewport": {"width": 1100, "height": 900}, "locale": "en-GB"} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.expected_errors, page.errors, page.requested_urls = [], [], []
        page.on("console", lambda line: page.errors.append(f"{line.text} {line.location.get('url')}"))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda request: page.requested_urls.append(request.url))
        page.clock.install()
        page.goto(site.url)
        page.get_by_text(ready).first.wait_for()
        page.origin = site.url
        return page

    yield visit
    for context in contexts:
        for page in context.pages:
            third_party = [url for url in page.requested_urls if not url.startswith(page.origin + "/")]
            assert not third_party
            unexpected = [line for line in page.errors if not any(each in line for each in page.expected_errors)]
            assert not unexpected
        context.close()


@pytest.fixture(scope="session")
def take_picture():
    PICTURES.mkdir(parents=True, exist_ok=True)
    return lambda page, name, full_page=True: page.screenshot(path=PICTURES / f"{name}.png", full_page=full_page)


@pytest.fixture(scope="session")
def read_page(front):
    def read_page(path):
        response = httpx2.get(front.url + path)
        return response.headers, response.text

    return read_page
