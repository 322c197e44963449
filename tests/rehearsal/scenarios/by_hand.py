"""Work of administrators on the server, next to deploys, under load; no request may fail."""

import json
import shlex

from tests.rehearsal.edits import CRASH
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
