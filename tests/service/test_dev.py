"""`python -m service.dev`: the API and Caddy are started and stopped together."""

import os
import subprocess
import sys
import time

import pytest

from service import dev

# Replaces the API: it records that SIGTERM stopped it.
API = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(pathlib.Path('terminated').touch()))
pathlib.Path('started').touch()
time.sleep(60)
"""
PROGRAM = f"from service import dev; dev.API = (dev.sys.executable, '-c', {API!r}); dev.main()"


@pytest.fixture
def start(environ, tmp_path):
    """Return a function that starts the program with a Caddy that is this shell script."""

    def start(script):
        (tmp_path / "caddy").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "caddy").chmod(0o755)
        environment = environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        )

    return start


@pytest.mark.parametrize("end", ["Caddy", "SIGTERM"])
def test_all_programs_stop_when_one_ends(start, tmp_path, end):
    """The API gets SIGTERM, not SIGKILL: it stops its own child, which would keep the port."""
    script = "until [ -e started ]; do sleep 0.02; done\n" + ("exit 3" if end == "Caddy" else "exec sleep 60")
    with start(script) as program:
        try:
            while end == "SIGTERM" and not (tmp_path / "started").exists():
                time.sleep(0.02)
            if end == "SIGTERM":
                program.terminate()
            _, stderr = program.communicate(timeout=30)
        finally:
            program.kill()
    assert program.returncode == 1
    assert ("terminated by SIGTERM" if end == "SIGTERM" else "Caddy ended with exit code 3") in stderr
    assert (tmp_path / "terminated").exists()


def test_nothing_starts_if_the_migration_fails(start, environ, tmp_path):
    environ["DB_CONN"] = "sqlite:////missing/folder/test.db"
    with start("touch caddy-started") as program:
        _, stderr = program.communicate(timeout=30)
    assert program.returncode == 1
    assert "the migration failed" in stderr
    assert not list(tmp_path.glob("*started"))


def test_front_and_api_listen_on_the_loopback_interface_only():
    assert dev.API[-2:] == ("--host", "127.0.0.1")
    assert dev.LOOPBACK["BIND"] == dev.LOOPBACK["API_HOST"] == "127.0.0.1"
