"""Everyday deploys, rollbacks and invalid input."""

import re
import subprocess
import time
import urllib.request

from scripts.runner.process import run
from tests.rehearsal.dockerfiles import SHORT_LIVED_RELEASE
from tests.rehearsal.rehearsal import Rehearsal, expect
from tests.rehearsal.repository import runner_environment
from tests.rehearsal.server import DIR
from tests.rehearsal.traffic import Traffic

UNKNOWN_COMMIT = "0" * 40


def first_deploy(rehearsal: Rehearsal) -> None:
    """First deploy to an empty server, after a refused attempt."""
    rehearsal.server.set(NOTIFY_URL="http://127.0.0.1/deploys", NOTIFY_TOKEN="${API_TOKEN}")  # noqa: S106 - a reference
    tag = "1" * 40
    image = f"{rehearsal.server.registry}/quai:{tag}"
    options = ("--quiet", "--build-arg", f"BASE={rehearsal.bases['PYTHON_IMAGE']}", "--tag", image, "--file", "-")
    run("docker", "build", *options, str(rehearsal.repository.folder), input=SHORT_LIVED_RELEASE.replace("TAG", tag))
    run("docker", "push", "--quiet", image)
    refused = rehearsal.deploy_by_key(tag)
    expect(refused.returncode == 1 and "boom" in refused.stdout, f"not refused: {refused.stdout}{refused.stderr}")
    expect("refused: the new api is crashing\n==> still live: nothing" in refused.stdout, f"says {refused.stdout}")
    left = [line.split()[0] for line in rehearsal.server.containers()]
    expect(left == ["quai-db-1", "quai-proxy-1"], f"a first release that was refused left {left}")
    expect("live: nothing" in rehearsal.server.ssh("status").stdout, "status says that something is live")
    rehearsal.merge_and_expect_live("first", "The service")
    rehearsal.start_traffic()


def code_change(rehearsal: Rehearsal) -> None:
    """A code change."""
    rehearsal.repository.replace("service/app.py", 'title="Quai"', 'title="Quai, changed"')
    # Committed on a laptop whose clock is fast: the merges after it are not older for that.
    rehearsal.merge_and_expect_live("code", "Change the code", date=f"@{time.time() + 600:.0f} +0000")
    expect("Quai, changed" in rehearsal.get("/openapi.json"), "the code that answers is not the changed one")


def configuration_and_page_change(rehearsal: Rehearsal) -> None:
    """A change of docker-compose.prod.yml, the Caddyfile and the page."""
    rehearsal.repository.replace(
        "docker-compose.prod.yml",
        "memory: 512M, pids: 256}\n\n  # Run once",
        "memory: 500M, pids: 256}\n\n  # Run once",
    )
    rehearsal.repository.replace("service/front/page/index.html", "</title>", ", rehearsed</title>")
    rehearsal.repository.replace(
        "service/front/Caddyfile", "Referrer-Policy no-referrer", "Referrer-Policy same-origin"
    )
    proxy = [line for line in rehearsal.server.containers() if "-proxy-" in line]
    rehearsal.merge_and_expect_live("page", "Change the page, its headers and the memory limit")
    with urllib.request.urlopen(rehearsal.server.url, timeout=10) as page:  # noqa: S310 - loopback
        expect(page.headers["Referrer-Policy"] == "same-origin", "the Caddyfile that serves is not the changed one")
    expect("rehearsed</title>" in rehearsal.get("/"), "the page that is served is not the changed one")
    memory = rehearsal.server.exec(
        "docker inspect --format '{{.HostConfig.Memory}}' $(docker ps -q --filter name=-api-)"
    )
    expect(memory == str(500 * 2**20), f"the memory limit is {memory}")
    expect(proxy == [line for line in rehearsal.server.containers() if "-proxy-" in line], "the proxy was recreated")


def unhealthy_release(rehearsal: Rehearsal) -> None:
    """A release that is healthy in CI but never on the server."""
    add = "    if os.environ.get('APP_ENV') == 'prod' and not os.environ.get('PARTNER'):\n"
    add = add.replace("'", '"') + '        return "PARTNER is not set on this server"\n'
    rehearsal.repository.replace(
        "service/app.py",
        "def _unhealthy_reason(engine: Engine, required_revision: str) -> str | None:\n",
        "def _unhealthy_reason(engine: Engine, required_revision: str) -> str | None:\n" + add,
    )
    rehearsal.repository.replace("service/app.py", "import secrets\n", "import os\nimport secrets\n")
    rehearsal.repository.replace(
        "docker-compose.prod.yml", "    API_TOKEN: $", "    PARTNER: ${PARTNER:-}\n    API_TOKEN: $"
    )
    for name in (".env.example", ".env.prod"):
        path = rehearsal.repository.folder / name
        path.write_text(path.read_text() + "# Whom we call.\nPARTNER=somebody\n")
    with rehearsal.expect_unchanged("a release that is never healthy"):
        status, log = rehearsal.merge("bad", "Call a partner")
    expect(status != 0, "cd.yml is green for a release that was refused")
    expect("==> refused:" in log, f"not refused by the server:\n{log[-3000:]}")
    expect("PARTNER is not set on this server" in log, "the log does not show why the release is not healthy")
    latest = rehearsal.server.manifest("latest")
    expect(latest == rehearsal.server.manifest(rehearsal.commits["page"]), "latest moved to a refused release")
    rehearsal.repository.git("revert", "--no-edit", "HEAD")


def roll_back(rehearsal: Rehearsal) -> None:
    """Rollback: edit IMAGE_TAG in .env and run deploy.sh."""
    expect(
        f"IMAGE_TAG={rehearsal.commits['code']}" in rehearsal.server.ssh("status").stdout,
        "status does not list the tag to go back to",
    )
    rehearsal.server.set(IMAGE_TAG=rehearsal.commits["code"])
    rehearsal.deploy_by_hand()
    rehearsal.expect_live("code")
    expect("rehearsed</title>" not in rehearsal.get("/"), "the page did not go back with its release")


def roll_forward(rehearsal: Rehearsal) -> None:
    """Roll forward with the next merge."""
    rehearsal.merge_and_expect_live("forward", "Mend it")
    expect("rehearsed</title>" in rehearsal.get("/"), "the page did not come back with its release")


def commit_order(rehearsal: Rehearsal) -> None:
    """The same deploy again is a no-op, an older commit is refused, changed settings are applied."""
    with rehearsal.expect_unchanged("the same deploy again"):
        again = rehearsal.server.ssh(f"deploy {rehearsal.commits['forward']}")
    expect(
        again.returncode == 0 and f"==> live: {rehearsal.commits['forward']}" in again.stdout,
        f"not live: {again.stdout}",
    )
    with rehearsal.expect_unchanged("an older commit"):
        older = rehearsal.server.ssh(f"deploy {rehearsal.commits['code']}")
    expect(older.returncode != 0 and "older" in older.stdout, f"not refused as older: {older.stdout}")
    was = rehearsal.server.setting("API_TOKEN")
    rehearsal.server.set(API_TOKEN=f"{was},{'another-token-' * 3}")
    rehearsal.deploy_by_hand()
    rehearsal.expect_live("forward")
    tokens = rehearsal.server.exec("docker exec quai-api-1 printenv API_TOKEN")
    expect(tokens == rehearsal.server.setting("API_TOKEN"), "a changed setting was not applied")
    rehearsal.server.set(API_TOKEN=was, API_REPLICAS="2")
    rehearsal.deploy_by_hand()
    rehearsal.expect_live("forward")


def roll_back_under_load(rehearsal: Rehearsal) -> None:
    """Rollback and roll forward with two replicas and twice the load, by the commands that status prints."""
    more = Traffic(
        rehearsal.server.url,
        rehearsal.server.setting("API_TOKEN"),
        rehearsal.commits["first"],
        rehearsal.rate,
        rehearsal.server.folder / "more.jsonl",
    )
    more.start()
    try:
        for name in ("code", "forward"):
            told = rehearsal.server.ssh("status").stdout.splitlines()
            line = next(line for line in told if line.startswith("sudo sed") and rehearsal.commits[name] in line)
            began = time.monotonic()
            rehearsal.server.exec(line)
            print(
                f"  {time.monotonic() - began:.1f} s for {name}, two replicas, {2 * rehearsal.rate:.0f} requests/s",
                flush=True,
            )
            rehearsal.expect_live(name)
        rehearsal.server.set(API_REPLICAS="1")
        rehearsal.deploy_by_hand()
        rehearsal.expect_live("forward")
    finally:
        rehearsal.records += more.stop().records


def wrong_public_url(rehearsal: Rehearsal) -> None:
    """The public URL does not serve the release: the workflow fails."""
    given = rehearsal.server.variables | rehearsal.server.secrets | {"PUBLIC_URL": f"{rehearsal.server.url}/releases"}
    command = ["scripts/nox", "-s", "deploy"]
    environment = runner_environment() | given
    folder = rehearsal.repository.folder
    with rehearsal.expect_unchanged("a deploy of what is live"):
        got = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    expect(
        got.returncode != 0 and f"not {rehearsal.commits['forward']}" in got.stderr,
        f"not red: {got.stdout}{got.stderr}",
    )


def key_restrictions(rehearsal: Rehearsal) -> None:
    """The deploy key gives access to nothing else."""
    commit = rehearsal.commits["forward"]
    deploy = f"deploy {commit}"
    asked = ["id", "bash", "", "deploy", "deploy HEAD", "deploy $(id)", f"deploy {commit[:-1]}", f" {deploy}"]
    asked += [f"{deploy}; id", f"{deploy}\nid", f"{deploy} --force", "status; id", "status\nid", "--help"]
    asked += [f"cat {DIR}/.env", "scp -t /tmp", "internal-sftp"]
    with rehearsal.expect_unchanged("something that the key must not do"):
        for command in asked:
            got = rehearsal.server.ssh(command)
            expect(
                got.returncode == 2 and "uid=" not in got.stdout,
                f"the key may do {command!r}: {got.stdout}{got.stderr}",
            )
        terminal = rehearsal.server.ssh("status", options=("-tt",))
        expect("PTY allocation request failed" in terminal.stderr, f"the key gets a terminal: {terminal.stderr}")
        subsystem = rehearsal.server.ssh("sftp", options=("-s",))
        expect(subsystem.returncode != 0, "the key gets sftp")
        reverse = rehearsal.server.ssh("status", options=("-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:80"))
        expect(reverse.returncode == 255, f"the key gets a reverse forward: {reverse.stderr}")
        through = rehearsal.server.ssh("status", options=("-W", "127.0.0.1:80"))
        expect("administratively prohibited" in through.stderr, f"the key gets a forward: {through.stderr}")


def invalid_input(rehearsal: Rehearsal) -> None:
    """Invalid arguments and settings get one clear message and change nothing."""
    wrong = {
        "IMAGE_TAG in": {"IMAGE_TAG": ""},
        "must be a commit": {"IMAGE_TAG": "latest"},
        "cannot be pulled": {"IMAGE_TAG": UNKNOWN_COMMIT},
        "IMAGE in": {"IMAGE": ""},
        "set DB_CONN in .env": {"DB_CONN": ""},
        "set API_TOKEN in .env": {"API_TOKEN": ""},
        "API_REPLICAS in": {"API_REPLICAS": "many"},
        "NOTIFY_URL in": {"NOTIFY_URL": "chat.example.com"},
        "MIN_FREE_MB is 99999999": {"MIN_FREE_MB": "99999999", "IMAGE_TAG": rehearsal.commits["code"]},
    }
    for message, settings in wrong.items():
        was = {name: rehearsal.server.setting(name) for name in settings}
        with rehearsal.expect_unchanged(str(settings)):
            rehearsal.server.set(**settings)
            command = ["docker", "exec", rehearsal.server.name, f"{DIR}/deploy.sh"]
            got = subprocess.run(command, capture_output=True, text=True, check=False)
            rehearsal.server.set(**was)
        output = got.stdout + got.stderr
        expect(got.returncode != 0, f"{settings} exits 0: {output}")
        told = [line for line in output.splitlines() if re.match("==> refused:|deploy.sh:", line) and message in line]
        expect(len(told) == 1, f"{settings} is not reported in one line with {message!r}: {output}")
    for message, command in {
        f"no .env in {DIR}": "mv .env .env.away",
        f"cannot read {DIR}/.env": "mv .env .env.away; install -m 000 -o deploy .env.away .env",
        "the line IMAGE_TAG= is missing": "cp -p .env .env.away; sed -i /^IMAGE_TAG=/d .env",
    }.items():
        with rehearsal.expect_unchanged(command):
            rehearsal.server.exec(f"cd {DIR}; {command}")
            got = rehearsal.server.ssh(f"deploy {rehearsal.commits['code']}")
            rehearsal.server.exec(f"cd {DIR}; mv -f .env.away .env")
        expect(got.returncode == 2 and got.stderr.count(message) == 1, f"{command!r} is reported as: {got.stderr}")
