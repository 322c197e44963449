"""What OpenAPI says of the API is true, whatever is sent to it: by Schemathesis, which `nox -s postgres` installs."""

import subprocess
import sys

import pytest
from conftest import AUTHENTICATED

pytest.importorskip("schemathesis", reason="nox -s postgres has it")


def test_no_request_gets_an_answer_that_is_not_described(server, tmp_path):
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
    command += [f"http://127.0.0.1:{server.port}/openapi.json", "--checks=all", "--no-color"]
    command += ["--seed=1", "--generation-deterministic"]
    command += [f"--header=Authorization:{AUTHENTICATED['Authorization']}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"status": 500' not in server.log.read_text()
