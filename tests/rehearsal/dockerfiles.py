"""Lines of a Dockerfile that make a release faulty, unusual, or one of version 1."""

from tests.rehearsal import HERE

VERSION_1 = HERE / "version_1"
CRASH = """CMD ["python", "-c", "raise SystemExit('boom')"]"""
# A complete first release. It is healthy, and exits after two requests: one before and one after the switch.
SHORT_LIVED_RELEASE = """
ARG BASE
FROM $BASE
COPY docker-compose.prod.yml scripts/deploy.sh /release/
COPY scripts/server /release/server
COPY service/front /release/front
WORKDIR /app
RUN mkdir service && touch service/migrate.py
COPY <<END serve.py
import http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
class Handler(http.server.BaseHTTPRequestHandler):
    requests = 0
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"tag": "TAG"}')
        Handler.requests += 1
server = http.server.HTTPServer(("", 8000), Handler)
while Handler.requests < 2:
    server.handle_request()
print("boom")
END
HEALTHCHECK --start-period=60s --start-interval=1s CMD true
CMD ["python3", "serve.py"]
"""
ERROR_SERVER = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)
HTTPServer(("", 8000), Handler).serve_forever()
"""
# Healthy until the second request for its version: the first is before, the second after the switch.
FAILING_SERVER = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    requests = 0
    def do_GET(self):
        Handler.requests += self.path == "/version"
        self.send_response(503 if self.path == "/healthz" and Handler.requests > 1 else 200)
        self.end_headers()
        self.wfile.write(b'{"tag": "TAG"}')
ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""
LOCKING_MIGRATION = """
import os, psycopg
connection = psycopg.connect(os.environ["DB_CONN"].replace("+psycopg", ""))
connection.execute("LOCK TABLE notes")
connection.execute("SELECT pg_sleep(600)")  # PostgreSQL does not notice by itself that the client is gone
"""
# An Alembic migration; no earlier release runs on its schema.
DATA_LOSS_MIGRATION = """
from pathlib import Path
import sqlalchemy as sa
from alembic import op
revision = floor = "0999"
down_revision = max(file.name[:4] for file in Path(__file__).parent.glob("0*.py") if file.name[:4] < revision)
def upgrade():
    op.execute("DELETE FROM notes")
    op.execute(sa.text("UPDATE schema_floor SET revision = :floor").bindparams(floor=floor))
"""


def server_lines(code: str) -> list[str]:
    """Lines of a release that serves with this code; TAG in it becomes the tag."""
    return [f"COPY <<END /app/serve.py{code.replace('TAG', '$RELEASE')}END", 'CMD ["python", "/app/serve.py"]']


def migration_lines(code: str) -> list[str]:
    """Lines of a release whose pending migration is this code."""
    check = 'import sys\nif "--check" in sys.argv: sys.exit(3)'
    return [f"COPY <<END /app/service/migrate.py\n{check}\n{code}\nEND", "RUN rm -r /app/service/__pycache__"]


def version_1_lines() -> list[str]:
    """Lines of a release of version 1."""
    lines = ["RUN rm -r /release/server"]
    for file in sorted(VERSION_1.iterdir()):
        lines.append(f"COPY --chmod=755 <<'END_OF_FILE' /release/{file.name}\n{file.read_text()}END_OF_FILE")
    return lines
