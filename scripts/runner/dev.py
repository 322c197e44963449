"""The command `dev`: serve the API and the front on this machine with live reload, without Docker."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.runner.process import Failure, say, show
from scripts.runner.settings import read_env_file

API = (sys.executable, "-m", "service", "--reload", "--host", "127.0.0.1")
FRONT = ("caddy", "run", "--watch", "--adapter", "caddyfile", "--config", "service/front/Caddyfile")
LOOPBACK = {"PAGE": "service/front/page", "API_HOST": "127.0.0.1", "BIND": "127.0.0.1"}
POLL_SECONDS = 0.2
STOP_SECONDS = 10


def api_port(folder: Path = Path(), environment: Mapping[str, str] = os.environ) -> str:
    """Return API_PORT: environment variables take precedence over .env, and .env over .env.dev."""
    settings = read_env_file(folder / ".env.dev") | read_env_file(folder / ".env") | dict(environment)
    if not settings.get("API_PORT"):
        raise Failure("API_PORT is missing or empty: set it in .env.dev, for example API_PORT=8000")
    return settings["API_PORT"]


def run_until_one_ends(programs: Mapping[str, tuple[Sequence[str], Mapping[str, str]]]) -> None:
    """Run programs, each with its environment, until one of them ends; then raise Failure.

    The others are terminated, not killed, even after Ctrl-C and SIGTERM: the API must stop its own child process.
    """
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, (command, environment) in programs.items():
            processes[name] = subprocess.Popen(command, env=environment)
        while True:
            for name, process in processes.items():
                if process.poll() is not None:
                    raise Failure(f"{name} ended with exit code {process.returncode}: see its output above")
            time.sleep(POLL_SECONDS)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def serve() -> None:
    """Migrate the development database, then serve until Ctrl-C. Raise Failure if the API or Caddy ends."""
    port = api_port()
    environment = {**os.environ, "APP_ENV": "dev", "API_PORT": port}
    if Path("service/migrate.py").exists():
        show(sys.executable, "-m", "service.migrate", env=environment)
    say(f"the page: http://localhost:8080; the API: http://localhost:{port}/docs; Ctrl-C stops both")
    run_until_one_ends({"the API": (API, environment), "Caddy": (FRONT, {**environment, **LOOPBACK})})
