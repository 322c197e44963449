"""The request to deploy: the ssh command, and what counts as success."""

import sys
import time
from pathlib import Path

import pytest

from scripts.runner import deploy, process, request
from scripts.runner.process import Failure

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TARGET = {"DEPLOY_HOST": "api.example.com", "DEPLOY_USER": "deploy", "DEPLOY_PORT": ""}
LIVE = f"==> live: {COMMIT}\n"


def options(command):
    return {command[index + 1] for index, word in enumerate(command) if word == "-o"}


def test_ssh_trusts_only_the_pinned_host_key_and_uses_only_the_given_key():
    command = request.ssh_command(TARGET, Path("the-key"), Path("the-hosts"), f"deploy {COMMIT}")
    assert options(command) >= {
        "StrictHostKeyChecking=yes",
        "UserKnownHostsFile=the-hosts",
        "GlobalKnownHostsFile=/dev/null",
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
    }
    assert command[:6] == ["ssh", "-T", "-F", "none", "-i", "the-key"]
    assert command[-5:] == ["-p", "22", "--", "deploy@api.example.com", f"deploy {COMMIT}"]


def test_ssh_uses_the_port():
    command = request.ssh_command(TARGET | {"DEPLOY_PORT": "2222"}, Path("k"), Path("h"), "status")
    assert command[command.index("-p") + 1] == "2222"


@pytest.mark.parametrize(
    ("lines", "exit_code", "success"),
    [
        (["==> pull\n", LIVE], 0, True),
        (["==> clean up\n", "some output\n", LIVE, "more output\n"], 0, True),
        ([LIVE], 1, False),
        ([LIVE, "==> live, but not recorded\n"], 0, False),
        (["==> switch\n"], 0, False),
        ([f"==> live: {COMMIT[:-1]}8\n"], 0, False),
        ([f"the log says live: {COMMIT}\n"], 0, False),
        ([], 0, False),
        ([], 255, False),
    ],
)
def test_success_is_the_last_step_and_the_exit_code(lines, exit_code, success):
    assert request.has_succeeded(COMMIT, lines, exit_code) is success


@pytest.fixture
def server(monkeypatch):
    """Replace ssh with a script; the returned function sets the script."""
    for name in (*request.VARIABLES, "PUBLIC_URL"):
        monkeypatch.setenv(name, f"the {name}")
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.setattr(deploy, "git", lambda *_: COMMIT)
    monkeypatch.setattr(request, "ensure_command", lambda command, package: None)

    def answer(script):
        def command(target, key, known_hosts, asked):
            assert asked == f"deploy {COMMIT}"
            assert key.stat().st_mode & 0o077 == 0
            assert key.read_text() == "the DEPLOY_KEY\n"
            assert known_hosts.read_text() == "the DEPLOY_KNOWN_HOSTS\n"
            return [sys.executable, "-c", script]

        monkeypatch.setattr(request, "ssh_command", command)

    return answer


def test_the_log_of_the_server_is_shown(server, capfd):
    server(f"print('==> pull'); print('{LIVE.strip()}')")
    request.request_deploy(COMMIT)
    assert capfd.readouterr().out == f"==> pull\n{LIVE}"


def test_a_refused_deploy_gives_the_reason_and_the_exit_code(server):
    server("print('==> refused: it is unhealthy'); print('==> still live: x'); raise SystemExit(1)")
    with pytest.raises(Failure, match=r"was not deployed .*exit code 1") as failure:
        request.request_deploy(COMMIT)
    assert "refused: it is unhealthy\nstill live: x\n" in str(failure.value)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("print('==> watch'); raise SystemExit(255)", rf"(?s)deploy of {COMMIT} may still be running:.watch.*status"),
        ("print('==> clean up'); raise SystemExit(137)", rf"(?s)deploy of {COMMIT} may still be running:.clean up"),
        ("print('==> watch'); raise SystemExit(0)", rf"(?s)deploy of {COMMIT} may still be running:.watch.*status"),
        (
            "print('==> the command continues in the background: tail -f x'); raise SystemExit(1)",
            rf"(?s)deploy of {COMMIT} may still be running:.*continues in the background",
        ),
        ("raise SystemExit(255)", "was not deployed .*exit code 255"),
        ("print('==> refused: it is 255'); raise SystemExit(1)", "was not deployed .*exit code 1"),
    ],
)
def test_lost_connection_is_not_reported_as_a_refused_deploy(server, script, message):
    server(script)
    with pytest.raises(Failure, match=message):
        request.request_deploy(COMMIT)


def test_interrupted_runner_ends_ssh_and_accepts_workflow_commands_again(server, monkeypatch, capfd):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setattr(request, "print", interrupt_at("==> pull"), raising=False)
    server("import time; print('==> pull', flush=True); time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        request.request_deploy(COMMIT)
    assert time.monotonic() - began < 30
    first, last = capfd.readouterr().out.splitlines()
    assert last == f"::{first.removeprefix('::stop-commands::')}::"


def interrupt_at(text):
    """Return a print that raises KeyboardInterrupt at a line with this text."""

    def print_or_interrupt(line, **options):
        if text in line:
            raise KeyboardInterrupt
        print(line, **options)

    return print_or_interrupt


def test_missing_ssh_client_is_reported(server, monkeypatch, tmp_path):
    server("")
    monkeypatch.setattr(request, "ensure_command", process.ensure_command)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Failure, match=r"'ssh' is not installed.*openssh-client"):
        request.request_deploy(COMMIT)


def test_a_message_on_stderr_is_the_reason(server):
    server("import sys; sys.exit('deploy.sh: API_REPLICAS must be a number')")
    with pytest.raises(Failure, match=r"exit code 1\):\ndeploy.sh: API_REPLICAS must be a number\n"):
        request.request_deploy(COMMIT)


def test_refused_key_is_not_reported_as_a_lost_connection(server):
    server("import sys; print('Permission denied (publickey).', file=sys.stderr); sys.exit(255)")
    with pytest.raises(Failure, match=r"was not deployed .*exit code 255\):\nPermission denied"):
        request.request_deploy(COMMIT)


def test_silent_server_is_reported(server):
    server("raise SystemExit(255)")
    with pytest.raises(Failure, match="the server printed nothing"):
        request.request_deploy(COMMIT)


def test_failed_cleanup_of_a_live_release_is_not_reported_as_not_deployed(server):
    server(f"print('==> {COMMIT} is live, but a later step failed (disk full): run the same command again')\nexit(1)")
    with pytest.raises(Failure, match=f"{COMMIT} is live, but a later step failed") as failure:
        request.request_deploy(COMMIT)
    assert "was not deployed" not in str(failure.value)


@pytest.mark.parametrize(
    ("script", "verified", "summary"),
    [
        (f"print('{LIVE.strip()}')", True, f"### Live: `{COMMIT}`"),
        (f"print('{LIVE.strip()}')", False, f"### Not verified: `{COMMIT}`"),
        ("raise SystemExit(1)", True, f"### Deploy failed: `{COMMIT}`"),
        ("print('==> watch'); raise SystemExit(255)", True, f"### Result unknown: `{COMMIT}`"),
    ],
)
def test_summary_reports_the_result(server, monkeypatch, tmp_path, script, verified, summary):
    def wait_for_release(public_url, path, commit):
        assert path == "/ready"
        if not verified:
            raise Failure("it answers something else")

    server(script)
    monkeypatch.setattr(deploy, "health_path", lambda commit: "/ready")
    monkeypatch.setattr(deploy, "wait_for_release", wait_for_release)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    try:
        deploy.deploy()
    except Failure:
        assert "Live" not in summary
    assert (tmp_path / "summary").read_text().startswith(summary)


def test_deploy_is_not_requested_if_it_could_not_be_verified(server, monkeypatch):
    def fail(commit):
        raise Failure("docker-compose.prod.yml is invalid")

    monkeypatch.setattr(deploy, "health_path", fail)
    monkeypatch.setattr(deploy, "request_deploy", lambda commit: pytest.fail("the deploy was requested"))
    server("")
    with pytest.raises(Failure, match="is invalid"):
        deploy.deploy()


def test_application_log_cannot_inject_workflow_commands(monkeypatch, capfd):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    script = "import sys; sys.stdout.buffer.write(b'::set-env name=A::b \\xff\\n==> done\\n')"
    lines, exit_code = request.stream([sys.executable, "-c", script])
    stop, *_, resume = capfd.readouterr().out.splitlines()
    assert stop.startswith("::stop-commands::")
    assert resume == f"::{stop.removeprefix('::stop-commands::')}::"
    assert (lines[1], exit_code) == ("==> done\n", 0)
