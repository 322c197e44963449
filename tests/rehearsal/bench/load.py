"""Requests per second at each step of a request's path, compared with a minimal API."""

import re
import shlex
import urllib.request

from scripts.runner.process import ensure_command, run
from tests.rehearsal.server import DIR, Server, wait_for

CONNECTIONS = 32
MINIMAL_API = """
import os, fastapi, sqlalchemy, uvicorn
app = fastapi.FastAPI()
engine = sqlalchemy.create_engine(os.environ["DB_CONN"], pool_size=5, max_overflow=5)
@app.get("/")
def hello():
    return {"hello": "world"}
@app.get("/select")
def select():
    with engine.connect() as connection:
        return {"hello": connection.exec_driver_sql("SELECT 1").scalar()}
uvicorn.run(app, host="0.0.0.0", access_log=False)
"""
ROWS = (  # each differs from a row above by one step of the path
    ('minimal API ("hello")', 8001, "/"),
    ("the same with one `SELECT 1`", 8001, "/select"),
    ("the sample, `/version` (no database)", 8002, "/version"),
    ("the sample, `/live`", 8002, "/live"),
    ("`/live` through the front", 8003, "/live"),
    ("`/live` through front and proxy", 80, "/live"),
    ("the page", 80, "/"),
)
START_SCRIPT = f"""cd {DIR}
docker compose run --detach --no-deps --name hello --publish 8001:8000 api python -c {shlex.quote(MINIMAL_API)}
docker compose run --detach --no-deps --name sample --publish 8002:8000 api
docker compose run --detach --no-deps --name sample-front --publish 8003:8080 --env API_HOST=sample front
"""


def measure_load(server: Server, seconds: int) -> list[dict]:
    """Measure each row for `seconds` with wrk, over keep-alive connections: requests/s, p50 and p99 in ms.

    RuntimeError if an answer was not 200.
    """
    ensure_command("wrk", "wrk")
    server.exec(START_SCRIPT)
    try:
        host = run(
            "docker", "inspect", "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", server.name
        )
        return [{"what": what, **measure_url(f"http://{host}:{port}{path}", seconds)} for what, port, path in ROWS]
    finally:
        server.exec("docker rm --force --volumes hello sample sample-front")


def measure_url(url: str, seconds: int) -> dict:
    """Requests/s, p50 and p99 of one URL."""
    wait_for(url, lambda: urllib.request.urlopen(url, timeout=5).read())  # noqa: S310 - the server's address
    wrk = ("wrk", "--latency", "--threads=1", f"--connections={CONNECTIONS}")
    run(*wrk, "--duration=2", url)  # warm-up
    output = run(*wrk, f"--duration={seconds}", url)
    if errors := re.search(r"(Non-2xx|Socket errors).*", output):
        raise RuntimeError(f"{url}: {errors[0]}")
    milliseconds = {"us": 0.001, "ms": 1, "s": 1000}
    p50, p99 = (
        float(found[1]) * milliseconds[found[2]]
        for found in (re.search(rf"{part}%\s+([\d.]+)(us|ms|s)", output) for part in (50, 99))
    )
    return {"rate": float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1]), "p50_ms": p50, "p99_ms": p99}
