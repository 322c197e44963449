"""Work of administrators on the server, next to deploys, under load; no request may fail."""

import json
import shlex

from tests.rehearsal.edits import CRASH, version_1_lines
from tests.rehearsal.failures import NotApplicable, expect
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.server import DIR
from tests.rehearsal.variants import build_variant, deploy_and_expect_live, expect_refused

# Lines of .env in the notations that Compose knows.
NOTATIONS = """
PLAIN=one
SPACES =  one two   # a comment
HASH=one#two
EMPTY=
QUOTED="one # two ${PLAIN}"
ESCAPED="one\\n\\"two\\" \\\\"
LITERAL='one ${PLAIN} # two'
REFERENCE=${PLAIN}-$PLAIN-${MISSING}
DEFAULTS=${MISSING:-three}${EMPTY:-four}${EMPTY-five}${PLAIN:+six}
DOLLARS=a$$b
export EXPORTED=seven
PLAIN=last
"""
PARSER = """
import json, sys
from server.settings import parse
print(json.dumps(parse(open(sys.argv[1]).read())))
"""


def env_notations(rehearsal: Rehearsal) -> None:
    """The deploy program reads each notation of .env as Docker Compose does."""
    names = [line.split("=")[0].split()[-1] for line in NOTATIONS.strip().splitlines()]
    environment = "".join(f"      {name}: ${{{name}}}\n" for name in dict.fromkeys(names))
    compose = f"services:\n  one:\n    image: none\n    environment:\n{environment}"
    rehearsal.server.exec(
        f"rm -rf /tmp/notations; mkdir /tmp/notations; cd /tmp/notations; printf '%s' {shlex.quote(NOTATIONS)} >.env;"
        f"printf '%s' {shlex.quote(compose)} >docker-compose.yml"
    )
    configuration = json.loads(rehearsal.server.exec("cd /tmp/notations; docker compose config --format json"))
    # Compose escapes the dollar signs in its output.
    values = configuration["services"]["one"]["environment"]
    expected = {name: value.replace("$$", "$") for name, value in values.items()}
    command = f"cd {DIR}/releases/current; python3 -Bc {shlex.quote(PARSER)} /tmp/notations/.env"
    found = json.loads(rehearsal.server.exec(command))
    expect(found == expected, f"the deploy program reads {found}, Compose reads {expected}")


def manual_backup(rehearsal: Rehearsal) -> None:
    """A `docker compose run backup` of an administrator survives deploys and refusals."""
    server = rehearsal.server
    if "backup" not in rehearsal.compose_file().services:
        raise NotApplicable("there is no service backup")
    backup = server.exec(f"cd {DIR}; docker compose run --detach --rm --no-deps --entrypoint 'sleep 600' backup")
    try:
        deploy_and_expect_live(rehearsal, "next to a backup")
        expect_refused(rehearsal, "refused next to a backup", "boom", CRASH)
        running = server.exec(f"docker inspect --format '{{{{.State.Running}}}}' {backup}")
        expect(running == "true", f"the backup is not running: {running}")
    finally:
        server.exec(f"docker rm --force {backup}")
    rehearsal.expect_live("next to a backup")


def settings_during_a_deploy(rehearsal: Rehearsal) -> None:
    """A setting that is changed during a deploy is applied to the new release, not to the previous one."""
    name = "during a change of settings"
    tag = build_variant(rehearsal, name)
    with rehearsal.start_deploy(tag) as deploy:
        deploy.read_until("==> start")
        with rehearsal.server.settings(API_REPLICAS="2"):
            output = rehearsal.deploy_by_hand()
            done = deploy.finish()
            expect(done.returncode == 0, f"the deploy failed: {done.stdout}")
            waited = "waiting up to" in output and f"==> live: {tag}" in output
            expect(waited, f"deploy.sh did not wait or deploy: {output}")
            rehearsal.expect_live(name)
    rehearsal.deploy_by_hand()
    rehearsal.expect_live(name)


def services_during_a_deploy(rehearsal: Rehearsal) -> None:
    """`deploy.sh services` waits for a deploy, then applies changed settings to proxy and database only."""
    server = rehearsal.server
    if server.ca:
        raise NotApplicable("this scenario changes SITE_ADDRESS, which has a certificate")
    with rehearsal.without_traffic():
        inspect_proxy = f"docker inspect --format '{{{{.Id}}}} {{{{.Config.Env}}}}' {server.project}-proxy-1"
        inspect_release = f"docker inspect --format '{{{{.Id}}}}' {server.project}-front-1 {server.project}-api-1"
        proxy_before, release_before = server.exec(inspect_proxy), server.exec(inspect_release)
        tag = build_variant(rehearsal, "during deploy.sh services")
        try:
            with rehearsal.start_deploy(tag) as deploy:
                deploy.read_until("==> start")
                with server.settings(SITE_ADDRESS="http://:80"):
                    output = server.exec(f"{DIR}/deploy.sh services")
                    done = deploy.finish()
            proxy, release = server.exec(inspect_proxy), server.exec(inspect_release)
        finally:
            again = server.exec(f"{DIR}/deploy.sh services; {inspect_release}")
        expect(done.returncode == 0, f"the deploy failed: {done.stdout}")
        expect("waiting up to" in output and "==> done" in output, f"services did not wait or finish: {output}")
        expect(
            proxy_before.split()[0] != proxy.split()[0] and "http://:80 {" in proxy,
            f"services did not apply SITE_ADDRESS to the proxy: {proxy}",
        )
        expect(release != release_before, "the deploy replaced nothing")
        expect(release in again, "services replaced the release")
        rehearsal.expect_only_release(tag)


def kill_deploy(rehearsal: Rehearsal, name: str, step: str) -> None:
    """Deploy a variant and kill its deploy program at this step; expect that it ends there, without a record."""
    tag = build_variant(rehearsal, name)
    with rehearsal.start_deploy(tag) as deploy:
        deploy.read_until(step)
        # Fails if there is no such process.
        rehearsal.server.exec("pkill --signal KILL --uid deploy --full 'server|deploy|docker'")
        done = deploy.finish()
    expect(done.returncode != 0, f"{name}: not killed at {step}: {done.stdout}")
    recorded = [one for one in rehearsal.server.deploy_log() if one["tag"] == tag]
    expect(not recorded, f"{name}: not killed at {step}, it recorded {recorded}")


def link_current(rehearsal: Rehearsal, tag: str) -> None:
    """Link releases/current to another release on the server: its deploy program runs next."""
    rehearsal.server.exec(f"runuser --user deploy -- ln -sfn {tag} {DIR}/releases/current")


def upgrade_from_version_1(rehearsal: Rehearsal) -> None:
    """A server of version 1 (a Bash program) deploys this version; rollbacks and cleanups work in both directions."""
    old, new = "of version 1", "after version 1"

    def deploy(name: str, *lines: str) -> None:
        # A plain `docker compose up` would recreate the proxy, whose definition differs.
        deploy_and_expect_live(rehearsal, name, *lines, plain_up=False)

    def roll_back_to(name: str) -> None:
        rehearsal.server.set(IMAGE_TAG=rehearsal.commits[name])
        rehearsal.deploy_by_hand()
        rehearsal.expect_only_release(rehearsal.commits[name])

    def release_files() -> list[str]:
        return rehearsal.server.exec(f"ls {DIR}/releases/current").split()

    try:
        deploy(old, *version_1_lines())
        expect("server" not in release_files(), f"this is not version 1: {release_files()}")
        deploy(new)  # by version 1
        expect("server" in release_files(), f"the deploy program is missing: {release_files()}")
        roll_back_to(old)
        roll_back_to(new)
        for live, step, other in ((new, "watch", old), (old, "wait", new)):
            kill_deploy(rehearsal, f"killed deploy {live}", f"==> {step}")
            link_current(rehearsal, rehearsal.commits[other])  # so that the other program cleans up
            roll_back_to(other)
    finally:
        deploy("the end of version 1")
