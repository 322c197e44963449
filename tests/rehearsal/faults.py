"""What goes wrong with releases, and around a deploy; with traffic on, and no request may fail."""

import hashlib
import time

from tests.rehearsal.images import run
from tests.rehearsal.scenarios import Rehearsal, expect
from tests.rehearsal.server import DIR

SERVE_500 = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)
HTTPServer(("", 8000), Handler).serve_forever()
"""
HOLD_A_LOCK = """
import os, time, psycopg
connection = psycopg.connect(os.environ["DB_CONN"].replace("+psycopg", ""))
connection.execute("LOCK TABLE notes")
time.sleep(600)
"""


def variant(r: Rehearsal, name: str, *lines: str) -> str:
    """Push a release that differs from the last merge by some lines of a Dockerfile; gives its tag."""
    tag = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    image = f"{r.server.registry}/quai"
    dockerfile = [
        f"FROM {image}:{r.commits.get('forward', r.commits['first'])}",
        f"ENV RELEASE={tag}",
        "USER root",
        *lines,
        "USER 10001:10001",
    ]
    dockerfile.append(f"LABEL org.opencontainers.image.created={created}")
    run("docker", "build", "--quiet", "--tag", f"{image}:{tag}", "-", input="\n".join(dockerfile))
    run("docker", "push", "--quiet", f"{image}:{tag}")
    r.commits[name] = tag
    return tag


def python(code: str) -> str:
    """Lines of a Dockerfile that make `python -m service.migrate` run this code."""
    return f"COPY <<END /app/service/migrate.py\n{code}\nEND\nRUN rm -r /app/service/__pycache__"


def is_refused(r: Rehearsal, name: str, because: str, *lines: str) -> None:
    """A deploy of such a release must be refused, with the evidence in its output."""
    tag = variant(r, name, *lines)
    with r.refused(name):
        got = r.deploy_by_key(tag)
    expect(got.returncode != 0, f"{name}: went live: {got.stdout}")
    expect(because in got.stdout + got.stderr, f"{name}: the output does not say {because!r}: {got.stdout}{got.stderr}")


def goes_live(r: Rehearsal, name: str, *lines: str) -> None:
    """A deploy of such a release must go live."""
    got = r.deploy_by_key(variant(r, name, *lines))
    expect(got.returncode == 0, f"{name}: refused: {got.stdout}{got.stderr}")
    r.is_live(name)


def bad_releases(r: Rehearsal) -> None:
    """Releases that crash, answer 500, end after the switch, or carry broken files are refused."""
    is_refused(r, "crashes", "boom", """CMD ["python", "-c", "raise SystemExit('boom')"]""")
    is_refused(
        r, "answers 500", "not healthy within", f"COPY <<END /app/500.py{SERVE_500}END", 'CMD ["python", "/app/500.py"]'
    )
    # It ends as an application does that gives up; one that is killed takes the requests in it along.
    ends = 'CMD ["sh", "-c", "python -m service & sleep 6; kill $!; wait"]'
    is_refused(r, "ends", "the new container is crashing", ends)
    is_refused(r, "broken compose file", "do not fit", "RUN echo 'services: [' >/release/docker-compose.prod.yml")
    is_refused(r, "broken Caddyfile", "the Caddyfile is not valid", "RUN echo '{' >>/release/front/Caddyfile")
    is_refused(r, "broken deploy.sh", "failed at: pull", "RUN echo 'if' >>/release/deploy.sh")
    is_refused(r, "no files", "/release", "RUN rm -r /release")
    goes_live(r, "good after bad")


def bad_migrations(r: Rehearsal) -> None:
    """Migrations that fail, hang or hold a lock are refused, and the lock is gone."""
    r.server.set(MIGRATE_SECONDS="4")
    is_refused(r, "migration fails", "no such column", python("raise SystemExit('no such column')"))
    is_refused(r, "migration hangs", "took more than 4 s", python("import time; time.sleep(600)"))
    is_refused(r, "migration locks", "took more than 4 s", python(HOLD_A_LOCK))
    r.server.set(MIGRATE_SECONDS="300")
    goes_live(r, "good after a bad migration")


def odd_releases(r: Rehearsal) -> None:
    """A release that starts slowly goes live, and one that ignores SIGTERM is replaced."""
    r.server.set(HEALTH_SECONDS="60")
    goes_live(r, "slow", 'CMD ["sh", "-c", "sleep 20; exec python -m service"]')
    r.server.set(HEALTH_SECONDS="20")
    goes_live(r, "deaf", 'CMD ["sh", "-c", "trap : TERM; python -m service & while :; do wait; done"]')
    goes_live(r, "after deaf")


def bad_surroundings(r: Rehearsal) -> None:
    """The registry is down: refused. Two deploys at once: one after the other."""
    first, second = variant(r, "one of two"), variant(r, "two of two")
    run("docker", "stop", f"{r.server.name}-registry")
    with r.refused("a registry that is down"):
        got = r.deploy_by_key(first)
    run("docker", "start", f"{r.server.name}-registry")
    expect(got.returncode != 0 and "cannot be pulled" in got.stdout, f"registry down: {got.stdout}")
    one = r.start_deploy(first)
    while "==> pull" not in one.stdout.readline():
        expect(one.poll() is None, "the first of two deploys ended at once")
    two = r.deploy_by_key(second)
    one.communicate(timeout=200)
    expect(one.returncode == 0 and two.returncode == 0, f"two at once: {two.stdout}")
    expect(f"waiting up to 900 s for another deploy: {first}" in two.stdout, f"nobody waited: {two.stdout}")
    r.is_live("two of two")


def cut_off(r: Rehearsal) -> None:
    """The connection is cut in mid-deploy: the deploy ends by itself, and asking again says so."""
    tag = variant(r, "cut off")
    deploy = r.start_deploy(tag)
    while "==> start" not in deploy.stdout.readline():
        expect(deploy.poll() is None, "the deploy ended before it started anything")
    deploy.kill()
    deploy.wait()
    got = r.deploy_by_key(tag)
    expect(got.returncode == 0 and f"live: {tag}" in got.stdout, f"asked again: {got.stdout}")
    r.is_live("cut off")
    logs = r.server.exec(f"grep -l 'live: {tag}' {DIR}/logs/*.log | wc -l")
    expect(logs == "2", f"{logs} logs of the deploy were kept, of 2 attempts")


FAULTS = (bad_releases, bad_migrations, odd_releases, bad_surroundings, cut_off)
