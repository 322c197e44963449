"""Property-based API tests with Schemathesis, which only `nox -s postgres` installs."""

import subprocess
import sys

import pytest
from conftest import AUTHENTICATED

pytest.importorskip("schemathesis", reason="only nox -s postgres installs Schemathesis")


def test_every_response_matches_openapi(server, tmp_path):
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
    command += [f"http://127.0.0.1:{server.port}/openapi.json", "--checks=all", "--no-color"]
    command += ["--seed=1", "--generation-deterministic"]
    command += [f"--header=Authorization:{AUTHENTICATED['Authorization']}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"status": 500' not in server.log.read_text()
