"""What the server runs: the release in .env, the state files, and all containers."""

from typing import NamedTuple

from tests.rehearsal.server import DIR, Server

OTHER_PROJECT = "another"  # the name of a container that a scenario starts

# One "name=value" per line; then files that only an interrupted deploy leaves, and containers, separated by tabs.
SCRIPT = f"""
cd {DIR}; . ./.env
printf '%s\\n' "project=$COMPOSE_PROJECT_NAME" "tag=$IMAGE_TAG" "deploy_id=$DEPLOY_ID" "replicas=$API_REPLICAS"
printf '%s\\n' "link=$(readlink releases/current)" "upstream=$(<releases/upstream)"
find . -name '*.new' -o -path './backups/new'
"""
LABELS = ("quai.deploy", "quai.tag", "quai.one-shot")
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


def parse(output: str) -> Production:
    """Parse the output of SCRIPT."""
    lines = output.splitlines()
    values = dict(line.partition("=")[::2] for line in lines[:6])
    rows = [line.split("\t") for line in lines[6:] if "\t" in line]
    # The empty columns of the last line are stripped.
    containers = [FoundContainer(*row, *[""] * (len(FoundContainer._fields) - len(row))) for row in rows]
    return Production(values, [line for line in lines[6:] if "\t" not in line], containers)


def read_production(server: Server) -> Production:
    """Return what the server runs now."""
    return parse(server.exec(SCRIPT))


def find_problem(production: Production, commit: str) -> str:
    """Return how the server differs from one that runs this release and nothing else; empty if it does not."""
    values, leftovers, containers = production
    project = values["project"]
    found = [one for one in containers if not one.may_exist]
    expected = {"tag": commit, "link": commit, "upstream": "front"}
    if different := {name: values.get(name) for name in expected if values.get(name) != expected[name]}:
        return f"expected {expected}, found {different}; the containers are {found}"
    names = [f"{project}-api-{number + 1}" for number in range(int(values["replicas"] or 1))]
    names.append(f"{project}-front-1")
    others = [f"{project}-db-1", f"{project}-proxy-1"]
    if sorted(one.name for one in found) != sorted(names + others):
        return f"expected the containers {names + others} and nothing else, found {found}"
    for one in found:
        if one.name in names:
            is_image = one.name == f"{project}-front-1" or one.image.endswith(f":{commit}")
            is_healthy = one.status.startswith("Up ") and one.status.endswith("(healthy)")
            if not (is_image and is_healthy and (one.deploy_id, one.tag) == (values["deploy_id"], commit)):
                return f"expected a healthy container of {commit}, deployed by {values['deploy_id']}, found {one}"
    return f"an interrupted deploy left {leftovers}" if leftovers else ""
