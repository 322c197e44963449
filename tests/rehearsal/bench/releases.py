"""Lines of a Dockerfile that make a release crash, or a release of the first edition."""

from tests.rehearsal import HERE

CRASH_SECONDS = 2  # from the first answer of a bad release until its process is killed
FIRST_EDITION = HERE / "first_edition"
# Serves, and is killed: by then the release was healthy. PID 1 gets only the signals that it handles.
SERVE_AND_CRASH = """
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


def crash() -> list[str]:
    """A release that serves, and whose process is killed CRASH_SECONDS after its first answer."""
    code = SERVE_AND_CRASH.replace("SECONDS", str(CRASH_SECONDS))
    return [f"COPY <<'END' /app/crash.py{code}END", 'CMD ["python", "/app/crash.py"]']


def first_edition() -> list[str]:
    """Lines of a Dockerfile that make a release one of the first edition."""
    lines = ["RUN rm -r /release/server"]
    for file in sorted(FIRST_EDITION.iterdir()):
        lines.append(f"COPY --chmod=755 <<'END_OF_FILE' /release/{file.name}\n{file.read_text()}END_OF_FILE")
    return lines
