"""Everyday deploys, rollbacks and invalid input."""

import re
import subprocess
import time

from scripts.runner.build import SWARM_FILE
from scripts.runner.process import ROOT, run
from scripts.runner.project import env_template
from tests.rehearsal.edits import (
    FIRST_RELEASE,
    limit_memory,
    reduce_to_short_lived_api,
    require_setting,
    write_compose_file,
    write_file,
)
from tests.rehearsal.failures import expect, say
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.repository import runner_environment
from tests.rehearsal.server import DIR
from tests.rehearsal.swarm.cluster import Cluster
from tests.rehearsal.variants import deploy_and_expect_live, push_release

UNKNOWN_COMMIT = "0" * 40


def first_deploy(rehearsal: Rehearsal) -> None:
    """First deploy to an empty server, after a refused attempt."""
    server = rehearsal.server
    server.add_settings(rehearsal.application.settings)
    tag = push_short_lived_release(rehearsal)
    done = rehearsal.deploy_by_key(tag)
    expect(done.returncode == 1 and "boom" in done.stdout, f"not refused: {done.stdout}")
    message = "refused: the api has exited\n==> still live: nothing"
    expect(message in done.stdout, f"the output does not contain {message!r}: {done.stdout}")
    services = rehearsal.services()
    expected = sorted(f"{services.project}-{name}-1" for name in services.others)
    containers = [line.split()[0] for line in server.containers()]
    expect(containers == expected, f"the refused first release left {containers}, expected {expected}")
    expect("live: nothing" in server.ssh("status").stdout, "status reports a live release")
    server.use_https()
    rehearsal.merge_and_expect_live("first", "The application")
    rehearsal.prepare()
    rehearsal.start_traffic()


def push_short_lived_release(rehearsal: Rehearsal) -> str:
    """Build and push a release that exits after two requests; return its tag. Nothing is merged yet."""
    server, tag = rehearsal.server, "1" * 40
    compose = rehearsal.compose_file()
    reduce_to_short_lived_api(compose)
    image = f"{server.image}:{tag}"
    options = ("--quiet", "--build-arg", f"BASE={rehearsal.bases['PYTHON_IMAGE']}", "--tag", image, "--file", "-")
    file = rehearsal.repository.folder / SWARM_FILE
    swarm = write_file(SWARM_FILE, file.read_text()) if file.exists() else ""
    run("docker", "build", *options, str(ROOT / "scripts"), input=FIRST_RELEASE + write_compose_file(compose) + swarm)
    push_release(image, rehearsal.bases["FRONT_IMAGE"])
    return tag


def code_change(rehearsal: Rehearsal) -> None:
    """A code change."""
    change = rehearsal.application.change
    if change:
        rehearsal.repository.replace(change.file, change.old, change.new)
    (rehearsal.repository.folder / "rehearsal.txt").write_text("A file that changes the image.\n")
    # The commit has a date in the future, as from a fast clock. Later merges must still count as newer.
    rehearsal.merge_and_expect_live("code", "Change the code", date=f"@{time.time() + 600:.0f} +0000")
    if change:
        expect(change.text in rehearsal.get(change.path), f"{change.path} does not show the changed code")


def compose_change(rehearsal: Rehearsal) -> None:
    """A change of docker-compose.prod.yml."""
    server = rehearsal.server
    proxy = [line for line in server.containers() if "proxy" in line.split()[0]]
    deploy_and_expect_live(rehearsal, "compose", limit_memory("500M"))
    memory = server.memory_limit("api")
    expect(memory == 500 * 2**20, f"the memory limit is {memory}")
    expect(proxy == [line for line in server.containers() if "proxy" in line.split()[0]], "the proxy was recreated")


def unhealthy_release(rehearsal: Rehearsal) -> None:
    """A release that is healthy in CI but never on the server."""
    repository = rehearsal.repository
    with repository.reverted(), rehearsal.expect_unchanged("a release that is never healthy"):
        rehearsal.change_compose_file(require_setting("PARTNER"))
        for path in (repository.folder / env_template(repository.folder), repository.folder / ".env.example"):
            if path.exists():
                path.write_text(path.read_text() + "# The partner whose API is called.\nPARTNER=example\n")
        status, log = rehearsal.merge("bad", "Call a partner")
    expect(status != 0, "cd.yml succeeded for a refused release")
    expect("==> refused:" in log, f"not refused by the server:\n{log[-3000:]}")
    expect("PARTNER is not set on this server" in log, "the log does not show why the release is not healthy")
    latest = rehearsal.server.manifest("latest")
    expect(latest == rehearsal.server.manifest(rehearsal.commits["code"]), "latest moved to a refused release")


def roll_back(rehearsal: Rehearsal) -> None:
    """Rollback: edit IMAGE_TAG in .env and run deploy.sh."""
    commit = rehearsal.commits["code"]
    expect(
        f"IMAGE_TAG={commit}" in rehearsal.server.ssh("status").stdout, f"status has no rollback command for {commit}"
    )
    rehearsal.server.set(IMAGE_TAG=commit)
    rehearsal.deploy_by_hand()
    rehearsal.expect_live("code")


def roll_forward(rehearsal: Rehearsal) -> None:
    """Roll forward with the next merge."""
    rehearsal.merge_and_expect_live("forward", "Fix it")


def commit_order(rehearsal: Rehearsal) -> None:
    """The same deploy again is a no-op, an older commit is refused, changed settings are applied."""
    server, live, older = rehearsal.server, rehearsal.commits["forward"], rehearsal.commits["code"]
    with rehearsal.expect_unchanged("the same deploy again"):
        done = server.ssh(f"deploy {live}")
    expect(done.returncode == 0 and f"==> live: {live}" in done.stdout, f"not live: {done.stdout}")
    with rehearsal.expect_unchanged("an older commit"):
        done = server.ssh(f"deploy {older}")
    expect(done.returncode != 0 and "older" in done.stdout, f"not refused as older: {done.stdout}")
    if isinstance(server, Cluster):  # there, the port cannot change without an interruption
        return
    port = int(server.setting("API_PORT"))
    with server.settings(API_PORT=str(port + 1)):
        rehearsal.deploy_by_hand()
        rehearsal.expect_live("forward")
        expect(f"API_PORT={port + 1}" in server.environment("front"), "a changed setting was not applied")
    rehearsal.deploy_by_hand()
    rehearsal.expect_live("forward")


def roll_back_under_load(rehearsal: Rehearsal) -> None:
    """Roll back and roll forward with two replicas and twice the load, by the commands that status prints."""
    server = rehearsal.server
    traffic = rehearsal.build_traffic("more.jsonl")
    traffic.start()
    try:
        with server.settings(API_REPLICAS="2"):
            rehearsal.deploy_by_hand()
            rehearsal.expect_live("forward")
            for name in ("code", "forward"):
                lines = server.ssh("status").stdout.splitlines()
                commands = [line for line in lines if line.startswith("sudo sed") and rehearsal.commits[name] in line]
                expect(len(commands) == 1, f"status prints {len(commands)} rollback commands for {name}: {lines}")
                began = time.monotonic()
                server.exec(commands[0])
                seconds = time.monotonic() - began
                say(f"{seconds:.1f} s for {name}, two replicas, {2 * rehearsal.rate:.0f} requests/s")
                rehearsal.expect_live(name)
        rehearsal.deploy_by_hand()
        rehearsal.expect_live("forward")
    finally:
        rehearsal.stop_load(traffic)


def wrong_public_url(rehearsal: Rehearsal) -> None:
    """The public URL does not serve the release: `nox -s deploy`, which the workflow runs, fails."""
    server, commit = rehearsal.server, rehearsal.commits["forward"]
    environment = runner_environment() | server.variables | server.secrets
    environment["PUBLIC_URL"] = f"http://127.0.0.1:{server.registry_port}"  # the registry
    with rehearsal.expect_unchanged("a deploy of the live release"):
        done = subprocess.run(
            ["scripts/nox", "-s", "deploy"],
            cwd=rehearsal.repository.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    expect(
        done.returncode != 0 and f"expected release {commit}" in done.stderr,
        f"the session did not fail: {done.stdout}{done.stderr}",
    )


def key_restrictions(rehearsal: Rehearsal) -> None:
    """The deploy key allows only `deploy <commit>` and `status`."""
    server, commit = rehearsal.server, rehearsal.commits["forward"]
    deploy = f"deploy {commit}"
    commands = ["id", "bash", "", "deploy", "deploy HEAD", "deploy $(id)", f"deploy {commit[:-1]}", f" {deploy}"]
    commands += [f"{deploy}; id", f"{deploy}\nid", f"{deploy} --force", "status; id", "status\nid", "--help"]
    commands += [f"cat {DIR}/.env", "scp -t /tmp", "internal-sftp"]
    with rehearsal.expect_unchanged("a forbidden command"):
        for command in commands:
            done = server.ssh(command)
            expect(
                done.returncode == 2 and "uid=" not in done.stdout,
                f"{command!r} was not rejected with exit code 2: {done.stdout}{done.stderr}",
            )
        terminal = server.ssh("status", options=("-tt",))
        expect("PTY allocation request failed" in terminal.stderr, f"the key gets a terminal: {terminal.stderr}")
        sftp = server.ssh("sftp", options=("-s",))  # sshd discards the stderr of a subsystem
        is_rejected = sftp.returncode == 2 or "subsystem request failed" in sftp.stderr
        expect(is_rejected, f"the key gets sftp (exit code {sftp.returncode}): {sftp.stdout}{sftp.stderr}")
        reverse = server.ssh("status", options=("-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:80"))
        expect(
            "remote port forwarding failed" in reverse.stderr, f"the key gets remote port forwarding: {reverse.stderr}"
        )
        forward = server.ssh("status", options=("-W", "127.0.0.1:80"))
        expect("administratively prohibited" in forward.stderr, f"the key gets local port forwarding: {forward.stderr}")


def invalid_input(rehearsal: Rehearsal) -> None:
    """Invalid arguments and settings get one clear message and change nothing."""
    server, older = rehearsal.server, rehearsal.commits["code"]
    invalid_settings = {
        "IMAGE_TAG in": {"IMAGE_TAG": ""},
        "must be a commit": {"IMAGE_TAG": "latest"},
        "cannot be pulled": {"IMAGE_TAG": UNKNOWN_COMMIT},
        "IMAGE in": {"IMAGE": ""},
        "set API_PORT in .env": {"API_PORT": ""},
        "API_REPLICAS in": {"API_REPLICAS": "many"},
        "NOTIFY_URL in": {"NOTIFY_URL": "chat.example.com"},
        "MIN_FREE_MB is 99999999": {"MIN_FREE_MB": "99999999", "IMAGE_TAG": UNKNOWN_COMMIT},
    }
    for message, settings in invalid_settings.items():
        with rehearsal.expect_unchanged(str(settings)), server.settings(**settings):
            done = server.run(f"{DIR}/deploy.sh")
        output = done.stdout + done.stderr
        expect(done.returncode != 0, f"the exit code with {settings} is 0: {output}")
        lines = [line for line in output.splitlines() if re.match("==> refused:|deploy.sh:", line) and message in line]
        expect(len(lines) == 1, f"{settings} is not reported in one line with {message!r}: {output}")
    for message, command in {
        f"no .env in {DIR}": "mv .env .env.away",
        f"cannot read {DIR}/.env": "mv .env .env.away; install -m 000 -o deploy .env.away .env",
        "the line IMAGE_TAG= is missing": "cp -p .env .env.away; sed -i /^IMAGE_TAG=/d .env",
    }.items():
        with rehearsal.expect_unchanged(command):
            try:
                server.exec(f"cd {DIR}; {command}")
                done = server.ssh(f"deploy {older}")
            finally:
                server.exec(f"cd {DIR}; mv -f .env.away .env")
        expect(done.returncode == 2 and done.stderr.count(message) == 1, f"{command!r} is reported as: {done.stderr}")
