"""The fronts of a release, the pipeline's default and the sample's: a real Caddy, and an application behind it."""

import threading
import time
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx2
import pytest
import uvicorn
from conftest import start_front
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.service.conftest import ROOT, accepts_connections, free_port, wait_until

DEFAULT, SAMPLE = "scripts/front/Caddyfile", "service/front/Caddyfile"
RELEASE = "8f3a1c" * 6 + "beef"
OF_DIGITS = "1234567890" * 4  # as a number, it would lose digits
MEGABYTE = 1_000_000
LIMIT = {DEFAULT: 100 * MEGABYTE, SAMPLE: MEGABYTE}  # of a request body
SECONDS = 30  # for a response; the front tries for 5 s to reach an API


class Application:
    """An application on a free port. The stream ends when `may_end` is set."""

    def __init__(self):
        self.port, self.may_end, self.api = free_port(), threading.Event(), FastAPI()
        self.api.get("/application")(self.read)
        self.api.get("/own")(self.name_itself)
        self.api.post("/size")(self.measure)
        self.api.get("/stream")(self.stream)
        self.api.websocket("/ws")(self.echo)

    async def read(self, request: Request) -> dict[str, str]:
        return dict(request.headers)

    async def name_itself(self, response: Response) -> None:
        response.headers["X-Release"] = "own"

    async def measure(self, request: Request) -> int:
        return sum([len(chunk) async for chunk in request.stream()])

    def stream(self) -> StreamingResponse:
        def chunks():
            yield "first"
            yield "last" if self.may_end.wait(SECONDS / 2) else "late"

        return StreamingResponse(chunks())

    async def echo(self, websocket: WebSocket) -> None:
        await websocket.accept(headers=[(b"X-Release", b"own")] if "own" in websocket.query_params else None)
        try:
            while True:
                await websocket.send_text(f"echo: {await websocket.receive_text()}")
        except WebSocketDisconnect:
            pass

    @contextmanager
    def serve(self):
        """Serve in a thread; the value is a function that stops it earlier."""
        config = uvicorn.Config(self.api, port=self.port, log_level="critical", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)

        def stop():
            server.should_exit = True
            thread.join()

        thread.start()
        try:
            wait_until(lambda: accepts_connections(self.port))
            yield stop
        finally:
            self.may_end.set()
            stop()


@pytest.fixture
def application():
    return Application()


@pytest.fixture
def stop(application):
    """Serve the application, and return a function that stops it."""
    with application.serve() as stop:
        yield stop


@pytest.fixture
def run_front(tmp_path):
    """Run a front whose fallback, the name `api` in production, is another port of this machine."""

    @contextmanager
    def run_front(caddyfile, api_port, release=RELEASE, fallback_port=None, changes=None):
        text = (ROOT / caddyfile).read_text()
        changes = {" api:{$API_PORT:8000}": f" localhost:{fallback_port or free_port()}"} | (changes or {})
        for old, new in changes.items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        copy = tmp_path / "Caddyfile"
        copy.write_text(text)
        page = ROOT / "service/front/page"
        with start_front(copy, tmp_path, API_PORT=api_port, RELEASE=release, PAGE=page) as process:
            yield process

    return run_front


@pytest.fixture(params=[DEFAULT, SAMPLE])
def caddyfile(request):
    return request.param


@pytest.fixture
def front(run_front, application, stop):
    """The default front, and an application behind it."""
    with run_front(DEFAULT, application.port) as front:
        yield front


def get(front, path="/application", **headers):
    return httpx2.get(front.url + path, headers=headers, timeout=SECONDS)


def open_websocket(front, path="/ws"):
    return connect(front.url.replace("http", "ws") + path, proxy=None, open_timeout=SECONDS)


def find_releases(response):
    """Return each header X-Release of a response."""
    assert "Server" not in response.headers
    assert "Via" not in response.headers
    return response.headers.get_list("X-Release")


def exceed(front, limit):
    """Send one byte more than the limit, of a longer body, and return the response.

    The front has then read all bytes, so it does not reset the connection.
    """
    with closing(HTTPConnection(urlsplit(front.url).netloc, timeout=SECONDS)) as connection:
        connection.putrequest("POST", "/size")
        connection.putheader("Content-Length", str(limit + MEGABYTE))
        connection.endheaders()
        for _ in range(limit // MEGABYTE):
            connection.send(bytes(MEGABYTE))
        connection.send(b"1")
        response = connection.getresponse()
        return httpx2.Response(response.status, headers=response.getheaders(), content=response.read())


@pytest.mark.parametrize("release", [RELEASE, OF_DIGITS])
def test_each_response_names_the_release(caddyfile, release, run_front, application, stop):
    with run_front(caddyfile, application.port, release) as front:
        for path, status in (("/application", 200), ("/own", 200), ("/", 200 if caddyfile == SAMPLE else 404)):
            response = get(front, path)
            assert (response.status_code, find_releases(response)) == (status, [release]), path


def test_files_of_a_front_end_name_the_release(run_front):
    block = "\thandle {\n"
    changes = {block: f"\thandle /static {{\n\t\trespond static\n\t}}\n{block}"}
    with run_front(DEFAULT, free_port(), changes=changes) as front:
        response = get(front, "/static")
    assert (response.text, find_releases(response)) == ("static", [RELEASE])


@pytest.mark.parametrize("release", [RELEASE, OF_DIGITS])
def test_errors_of_the_front_name_the_release(caddyfile, release, run_front, application, stop):
    with run_front(caddyfile, application.port, release) as front:
        response = exceed(front, LIMIT[caddyfile])
        assert (response.status_code, find_releases(response)) == (413, [release])
        stop()
        response = get(front)
        assert (response.status_code, find_releases(response)) == (502, [release])


def test_responses_of_the_fallback_name_another_release(caddyfile, run_front, application, stop):
    with run_front(caddyfile, free_port(), fallback_port=application.port) as front:
        for path in ("/application", "/own"):
            response = get(front, path)
            assert (response.status_code, find_releases(response)) == (200, ["another"]), path
        for path in ("/ws", "/ws?own"):
            with open_websocket(front, path) as websocket:
                assert websocket.response.headers.get_all("X-Release") == ["another"], path


@pytest.mark.parametrize("path", ["/ws", "/ws?own"])
def test_websockets_pass(caddyfile, path, run_front, application, stop):
    with run_front(caddyfile, application.port) as front, open_websocket(front, path) as websocket:
        assert websocket.response.headers.get_all("X-Release") == [RELEASE]
        websocket.send("hello")
        assert websocket.recv(SECONDS) == "echo: hello"


def test_default_front_sets_no_content_security_policy(front, stop):
    assert "Content-Security-Policy" not in get(front).headers
    stop()
    assert "Content-Security-Policy" not in get(front).headers


def test_request_bodies_may_have_100_mb(front):
    response = httpx2.post(f"{front.url}/size", content=bytes(20 * MEGABYTE), timeout=SECONDS)
    assert (response.status_code, response.text) == (200, str(20 * MEGABYTE))
    assert exceed(front, 100 * MEGABYTE).status_code == 413


def test_chunks_of_a_stream_pass_at_once(front, application):
    with httpx2.stream("GET", f"{front.url}/stream", timeout=SECONDS) as response:
        chunks = response.iter_raw()
        assert next(chunks) == b"first"
        application.may_end.set()
        assert b"".join(chunks) == b"last"


def test_host_and_forwarded_headers_of_a_private_address_reach_the_application(front):
    headers = {"Host": "shop.example", "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.5"}
    received = get(front, **headers).json()
    assert received["host"] == "shop.example"
    assert received["x-forwarded-proto"] == "https"
    assert received["x-forwarded-for"].split(", ")[0] == "203.0.113.5"


def test_front_that_stops_finishes_its_requests_and_then_closes_websockets(front, application):
    with httpx2.stream("GET", f"{front.url}/stream", timeout=SECONDS) as response, open_websocket(front) as websocket:
        chunks = response.iter_raw()
        assert next(chunks) == b"first"
        front.terminate()
        wait_until(lambda: not accepts_connections(urlsplit(front.url).port))
        for _ in range(5):
            websocket.send("hello")
            assert websocket.recv(SECONDS) == "echo: hello"
            time.sleep(0.2)
        application.may_end.set()
        assert b"".join(chunks) == b"last"
        with pytest.raises(ConnectionClosed):
            websocket.recv(SECONDS)
    assert front.wait(SECONDS) == 0


def test_front_that_stops_does_not_wait_for_websockets(front):
    with open_websocket(front) as websocket:
        front.terminate()
        with pytest.raises(ConnectionClosed):
            websocket.recv(SECONDS)
    assert front.wait(SECONDS) == 0
