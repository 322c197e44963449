"""Lines of a Dockerfile that make a release crash while it serves, and the requests to a release."""

from tests.rehearsal.application import Request

CRASH_SECONDS = 2  # from the first answer of the release until its process is killed
# Serves until it is healthy, then its process is killed. PID 1 gets only the signals that it handles.
CRASHING_SERVER = """
import os, signal, subprocess, sys, time, urllib.request
service = subprocess.Popen([sys.executable, "-m", "service"])
signal.signal(signal.SIGTERM, lambda *_: service.terminate())
while service.poll() is None:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{os.environ['API_PORT']}/healthz").close()
        break
    except OSError:
        time.sleep(0.1)
try:
    sys.exit(service.wait(SECONDS))
except subprocess.TimeoutExpired:
    service.kill()
sys.exit("crashed")
"""


def crash_lines() -> list[str]:
    """Lines of a release that serves, and whose process is killed CRASH_SECONDS after its first answer."""
    code = CRASHING_SERVER.replace("SECONDS", str(CRASH_SECONDS))
    return [f"COPY <<'END' /app/crash.py{code}END", 'CMD ["python", "/app/crash.py"]']


def sample_requests(tag: str, token: str) -> list[Request]:
    """Return the requests of the load, for the sample: one in five adds a note to the release with this tag."""
    notes = f"/releases/{tag}/notes"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    write = Request(notes, "POST", headers, '{"text": "${id}"}', status=201, counted="notes")
    return [write, Request("/version"), Request(f"{notes}?limit=5"), Request("/version"), Request("/")]
