"""The command `postgres`: run a command with a throwaway PostgreSQL server, whose address is in variables."""

import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence

from scripts.runner.base_images import PINS, base_images
from scripts.runner.process import Failure, run, say

START_SECONDS = 90
NAME = "quai"


def run_with_postgres(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run the command and return its exit code; 0 without running it if the compose file has no database.

    In the variables for the command, {user}, {password}, {host}, {port} and {name} stand for those of the database.
    Raise Failure for other names in braces.
    """
    image = base_images({"DB_IMAGE": PINS["DB_IMAGE"]}).get("DB_IMAGE")
    if not image:
        say("skipped: docker-compose.prod.yml has no database")
        return 0
    container = f"quai-postgres-{os.getpid()}"
    password = secrets.token_hex(16)
    settings = {"POSTGRES_USER": NAME, "POSTGRES_DB": NAME, "POSTGRES_PASSWORD": password}
    options = [f"--env={key}={value}" for key, value in settings.items()]
    try:
        run(
            *("docker", "run", "--detach", "--name", container, "--user=postgres", "--publish=127.0.0.1::5432"),
            *(*options, image),
        )
        until_ready = f"until pg_isready -q -h 127.0.0.1 -U {NAME} -d {NAME}; do sleep 0.2; done"
        run("docker", "exec", container, "timeout", str(START_SECONDS), "sh", "-c", until_ready)
        host, _, port = run("docker", "port", container, "5432").split()[0].rpartition(":")
        parts = {"user": NAME, "password": password, "host": host, "port": port, "name": NAME}
        try:
            given = {name: value.format(**parts) for name, value in variables.items()}
        except (KeyError, ValueError, IndexError) as error:
            raise Failure(f"a variable of the tests names {error}: expected one of {', '.join(parts)}") from None
        return subprocess.run(command, env=os.environ | given, check=False).returncode
    finally:
        run("docker", "rm", "--force", "--volumes", container)
