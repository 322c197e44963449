"""`python -m service.dev`: serve the API and the page on this machine with live reload, without Docker."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.settings import read_settings_or_exit

FRONT = Path(__file__).parent / "front"
MIGRATE = (sys.executable, "-m", "service.migrate")
API = (sys.executable, "-m", "service", "--reload", "--host", "127.0.0.1")
CADDY = ("caddy", "run", "--watch", "--adapter", "caddyfile", "--config", str(FRONT / "Caddyfile"))
LOOPBACK = {"PAGE": str(FRONT / "page"), "API_HOST": "127.0.0.1", "BIND": "127.0.0.1"}
POLL_SECONDS = 0.2
STOP_SECONDS = 10
STOPPING = (signal.SIGTERM, signal.SIGINT)


def unblock() -> None:
    """Let the signals that stop this program through again."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def run_until_one_ends(programs: Mapping[str, tuple[Sequence[str], Mapping[str, str]]]) -> str:
    """Run programs, each with its environment, until one of them ends; return a message that says which.

    The others are terminated, not killed, even after Ctrl-C and SIGTERM: the API must stop its own child process.
    """
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, (command, environment) in programs.items():
            # A signal during the start of a program would leave it running.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
            processes[name] = subprocess.Popen(command, env=environment, preexec_fn=unblock)
            unblock()
        while True:
            for name, process in processes.items():
                if process.poll() is not None:
                    return f"{name} ended with exit code {process.returncode}: see its output above"
            time.sleep(POLL_SECONDS)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def main() -> None:
    """Migrate the development database, then serve until Ctrl-C; exit with status 1 if the API or Caddy ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("service: terminated by SIGTERM"))  # run the finally block
    os.environ["APP_ENV"] = "dev"
    port = str(read_settings_or_exit().api_port)
    api = {**os.environ, "API_PORT": port}
    if code := subprocess.run(MIGRATE, check=False).returncode:
        sys.exit(code)
    addresses = f"the page: http://localhost:8080; the API: http://localhost:{port}/docs"
    print(f"service: {addresses}; Ctrl-C stops both", flush=True)
    try:
        message = run_until_one_ends({"the API": (API, api), "Caddy": (CADDY, {**api, **LOOPBACK})})
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(f"service: {message}")


if __name__ == "__main__":
    main()
