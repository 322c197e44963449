"""The command `dev`: serve the API and the front on this machine with live reload, without Docker."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from scripts.runner.process import Failure, say, show
from scripts.runner.settings import read_env_file

FRONT = ("caddy", "run", "--watch", "--adapter", "caddyfile", "--config", "service/front/Caddyfile")
LOOPBACK = {"PAGE": "service/front/page", "API_HOST": "127.0.0.1", "BIND": "127.0.0.1"}


def api_port(folder: Path = Path(), environment: Mapping[str, str] = os.environ) -> str:
    """Return API_PORT: environment variables take precedence over .env, and .env over .env.dev."""
    settings = read_env_file(folder / ".env.dev") | read_env_file(folder / ".env") | dict(environment)
    if not settings.get("API_PORT"):
        raise Failure("API_PORT is missing or empty: set it in .env.dev, for example API_PORT=8000")
    return settings["API_PORT"]


def serve() -> None:
    """Migrate the development database, then serve until Ctrl-C."""
    port = api_port()
    environment = {"APP_ENV": "dev", "API_PORT": port}
    if Path("service/migrate.py").exists():
        show(sys.executable, "-m", "service.migrate", env={**os.environ, **environment})
    say(f"the page: http://localhost:8080; the API: http://localhost:{port}/docs; Ctrl-C stops both")
    with subprocess.Popen(FRONT, env={**os.environ, **environment, **LOOPBACK}) as front:
        try:
            show(
                *(sys.executable, "-m", "service", "--reload", "--host", "127.0.0.1"),
                env={**os.environ, **environment},
            )
        finally:
            front.terminate()
