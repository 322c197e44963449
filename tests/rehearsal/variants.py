"""Releases that differ from the last merge by some lines of a Dockerfile, and what their deploys must do."""

import hashlib
import subprocess
import time

from scripts.runner.process import run
from tests.rehearsal.rehearsal import Rehearsal, expect

MOST = 120  # seconds that any one of these deploys may take, however busy the machine is
CRASH = """CMD ["python", "-c", "raise SystemExit('boom')"]"""
# Healthy, and gone once it has been asked before and after the switch.
FIRST_THAT_ENDS = """
ARG BASE
FROM $BASE
COPY docker-compose.prod.yml scripts/deploy.sh /release/
COPY scripts/server /release/server
COPY service/front /release/front
WORKDIR /app
RUN mkdir service && touch service/migrate.py
COPY <<END ends.py
import http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"tag": "TAG"}')
        Handler.asked += 1
server = http.server.HTTPServer(("", 8000), Handler)
while Handler.asked < 2:
    server.handle_request()
print("boom")
END
HEALTHCHECK --start-period=60s --start-interval=1s CMD true
CMD ["python3", "ends.py"]
"""
SERVE_500 = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)
HTTPServer(("", 8000), Handler).serve_forever()
"""
# Healthy until it has been asked for its version twice: before and after the switch.
SERVE_SICK = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += self.path == "/version"
        self.send_response(503 if self.path == "/healthz" and Handler.asked > 1 else 200)
        self.end_headers()
        self.wfile.write(b'{"tag": "TAG"}')
ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""
HOLD_A_LOCK = """
import os, time, psycopg
connection = psycopg.connect(os.environ["DB_CONN"].replace("+psycopg", ""))
connection.execute("LOCK TABLE notes")
time.sleep(600)
"""
LOSE_NOTES = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, floor = "0999", "0002", "0999"
def upgrade():
    op.execute("DELETE FROM notes")
    op.execute(sa.text("UPDATE schema_floor SET revision = :floor").bindparams(floor=floor))
"""


def build_variant(rehearsal: Rehearsal, name: str, *lines: str, position: int | None = None) -> str:
    """Push a release that differs from the last merge by some lines of a Dockerfile, and return its tag.

    `position` is its place on main, that of the last merge unless given.
    """
    base = next(
        rehearsal.commits[merge] for merge in ("forward", "page", "code", "first") if merge in rehearsal.commits
    )
    tag = hashlib.sha1(f"{name} {base}".encode(), usedforsecurity=False).hexdigest()
    image = f"{rehearsal.server.registry}/quai"
    dockerfile = [
        f"FROM {image}:{base}",
        f"ENV RELEASE={tag}",
        "USER root",
        *lines,
        "USER 10001:10001",
        *([] if position is None else [f"LABEL quai.position={position}"]),
    ]
    run("docker", "build", "--quiet", "--tag", f"{image}:{tag}", "-", input="\n".join(dockerfile))
    run("docker", "push", "--quiet", f"{image}:{tag}")
    rehearsal.commits[name] = tag
    return tag


def server_lines(name: str, code: str) -> tuple[str, str]:
    """Return Dockerfile lines of a release that serves with this code; TAG in it becomes the tag."""
    return f"COPY <<END /app/{name}.py{code.replace('TAG', '$RELEASE')}END", f'CMD ["python", "/app/{name}.py"]'


def migration_lines(code: str) -> str:
    """Return Dockerfile lines that make this code a pending migration."""
    check = 'import sys\nif "--check" in sys.argv: sys.exit(3)'
    return f"COPY <<END /app/service/migrate.py\n{check}\n{code}\nEND\nRUN rm -r /app/service/__pycache__"


def expect_refused(rehearsal: Rehearsal, name: str, because: str, *lines: str) -> None:
    """Deploy such a release; it must be refused, with the evidence in its output."""
    tag = build_variant(rehearsal, name, *lines)
    began = time.monotonic()
    with rehearsal.expect_unchanged(name):
        got = rehearsal.deploy_by_key(tag)
    expect(got.returncode != 0, f"{name}: went live: {got.stdout}")
    expect(time.monotonic() - began < MOST, f"{name}: refused after {time.monotonic() - began:.0f} s only")
    expect(because in got.stdout + got.stderr, f"{name}: the output does not say {because!r}: {got.stdout}{got.stderr}")


def deploy_and_expect_live(rehearsal: Rehearsal, name: str, *lines: str) -> None:
    """Deploy such a release; it must go live."""
    tag, began = build_variant(rehearsal, name, *lines), time.monotonic()
    got = rehearsal.deploy_by_key(tag)
    expect(got.returncode == 0, f"{name}: refused: {got.stdout}{got.stderr}")
    expect(time.monotonic() - began < MOST, f"{name}: live after {time.monotonic() - began:.0f} s only")
    rehearsal.expect_live(name)


def read_until(deploy: subprocess.Popen, step: str) -> None:
    """Read the output of a deploy until a step begins."""
    said = ""
    while step not in said:
        line = deploy.stdout.readline()
        expect(bool(line), f"the deploy ended before {step!r}: {said}")
        said += line
