"""What the server runs: the release in .env, the state files, and all containers."""

import json
from collections import Counter
from typing import Any, NamedTuple

from tests.rehearsal.server import DIR, Server

OTHER_PROJECT = "another"  # the name of a container that a scenario starts
ONE_SHOTS = ("check", "backup", "migrate")
RELEASE_LABEL = "quai.deploy"

# One "name=value" per line; then files that only an interrupted deploy leaves, and containers, separated by tabs.
SCRIPT = f"""
cd {DIR}
printf '%s\\n' "tag=$(sed -n 's/^IMAGE_TAG=//p' .env)" "deploy_id=$(sed -n 's/^DEPLOY_ID=//p' .env)"
printf '%s\\n' "link=$(readlink releases/current)" "upstream=$(<releases/upstream)"
printf 'compose=%s\\n' "$(docker compose config --format json | tr -d '\\n')"
find . -name '*.new' -o -path './backups/new'
"""
LABELS = (RELEASE_LABEL, "quai.tag", "quai.one-shot")
COLUMNS = "\t".join(("{{.Names}}", "{{.Image}}", "{{.Status}}", *(f'{{{{.Label "{label}"}}}}' for label in LABELS)))
SCRIPT += f"docker ps --all --format '{COLUMNS}' | sort"


class FoundContainer(NamedTuple):
    """A container of the server. The last three are the labels in LABELS, empty without one."""

    name: str
    image: str
    status: str
    deploy_id: str
    tag: str
    one_shot: str

    @property
    def may_exist(self) -> bool:
        """Whether it may exist next to a release: a backup started by hand (without the label), or another project."""
        return self.name == OTHER_PROJECT or ("-backup-run-" in self.name and not self.one_shot)


class Production(NamedTuple):
    """What the server runs, and what an interrupted deploy left."""

    values: dict[str, str]
    leftovers: list[str]
    containers: list[FoundContainer]


class ExpectedServices(NamedTuple):
    """The services of a compose file: of the release, each with its number of containers, and others."""

    project: str
    release: Counter[str]
    others: list[str]

    def names(self, services: Counter[str]) -> list[str]:
        """Return the names of these services' containers."""
        return [f"{self.project}-{name}-{number + 1}" for name in services for number in range(services[name])]


def parse(output: str) -> Production:
    """Parse the output of SCRIPT."""
    lines = output.splitlines()
    values = dict(line.partition("=")[::2] for line in lines[:5])
    rows = [line.split("\t") for line in lines[5:] if "\t" in line]
    # The empty columns of the last line are stripped.
    containers = [FoundContainer(*row, *[""] * (len(FoundContainer._fields) - len(row))) for row in rows]
    return Production(values, [line for line in lines[5:] if "\t" not in line], containers)


def read_production(server: Server) -> Production:
    """Return what the server runs now."""
    return parse(server.exec(SCRIPT))


def read_services(compose: dict[str, Any]) -> ExpectedServices:
    """Return the services of a resolved compose file that a server runs permanently."""
    release, others = Counter[str](), []
    for name, service in compose["services"].items():
        replicas = (service.get("deploy") or {}).get("replicas", 1)
        if RELEASE_LABEL in (service.get("labels") or {}):
            release[name] = replicas
        elif replicas and name not in ONE_SHOTS:
            others.append(name)
    return ExpectedServices(compose["name"], release, others)


def find_problem(production: Production, commit: str) -> str:
    """Return how the server differs from one that runs this release and nothing else; empty if it does not."""
    values, leftovers, containers = production
    found = [one for one in containers if not one.may_exist]
    expected = {"tag": commit, "link": commit, "upstream": "front"}
    if different := {name: values.get(name) for name in expected if values.get(name) != expected[name]}:
        return f"expected {expected}, found {different}; the containers are {found}"
    compose = json.loads(values["compose"])
    services = read_services(compose)
    names, others = services.names(services.release), services.names(Counter(services.others))
    if sorted(one.name for one in found) != sorted(names + others):
        return f"expected the containers {names + others} and nothing else, found {found}"
    served = services.names(Counter({name: services.release[name] for name in ("api", "front")}))
    for one in found:
        if one.name in names:
            service = one.name.removeprefix(f"{services.project}-").rpartition("-")[0]
            is_image = one.image == compose["services"][service]["image"]
            # A worker needs no health check; if it has one, it must pass.
            may_lack_check = one.name not in served and "(" not in one.status
            is_healthy = one.status.startswith("Up ") and (one.status.endswith("(healthy)") or may_lack_check)
            if not (is_image and is_healthy and (one.deploy_id, one.tag) == (values["deploy_id"], commit)):
                return f"expected a healthy container of {commit}, deployed by {values['deploy_id']}, found {one}"
    return f"an interrupted deploy left {leftovers}" if leftovers else ""
