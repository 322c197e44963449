"""Three throwaway machines of a Docker Swarm. The first one is a server as in the rehearsal of one machine."""

import json
import re
import secrets
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.runner.process import run
from tests.rehearsal.production import RELEASE_LABEL
from tests.rehearsal.server import DIR, MACHINE_IMAGE, Server, free_port, wait_for

MACHINES = 3
SERVICE_LABEL = "com.docker.swarm.service.name"
# The registry is on the first machine, as localhost; this lets another machine reach it by the same name.
FORWARD = """
sysctl -qw net.ipv4.conf.all.route_localnet=1
iptables -t nat -A OUTPUT -p tcp -d 127.0.0.1 --dport {port} -j DNAT --to-destination {main}:{port}
iptables -t nat -A POSTROUTING -p tcp -d {main} --dport {port} -j MASQUERADE
exec server-start
"""
STATE = f"""
cd {DIR}
printf '%s\\n' "tag=$(sed -n 's/^IMAGE_TAG=//p' .env)" "deploy_id=$(sed -n 's/^DEPLOY_ID=//p' .env)"
printf '%s\\n' "link=$(readlink releases/current)"
find . -name '*.new' -o -path './backups/new'
docker ps --all --filter label=quai.one-shot --format 'one-shot {{{{.Names}}}}'
docker service ls --filter label=quai.job --format 'job {{{{.Name}}}}'
"""


class Cluster(Server):
    """The first machine, on which deploys run, and further ones. Requests go to the first two."""

    def __init__(self, bases: dict[str, str], folder: Path, project: str) -> None:
        super().__init__(bases, folder, project)
        third, fourth = secrets.randbelow(50) + 100, secrets.randbelow(250)
        self.subnet = f"10.{third}.{fourth}"
        self.machines = [self.name, *(f"{self.name}-{number}" for number in range(2, MACHINES + 1))]
        self.node_port = free_port()  # the HTTP port of the second machine
        self.start_options = ("--network", self.name, "--ip", self.address(0))

    @property
    def urls(self) -> list[str]:
        """The URLs of the machines that get requests. With HTTPS, only the first has the certificate."""
        return [self.url] if self.ca else [self.url, f"http://127.0.0.1:{self.node_port}"]

    def address(self, number: int) -> str:
        """Return the address of a machine; the first has the number 0."""
        return f"{self.subnet}.{number + 11}"

    def start(self) -> None:
        """Start all machines and the registry."""
        run("docker", "network", "create", "--subnet", f"{self.subnet}.0/24", self.name)
        super().start()
        for number in range(1, MACHINES):
            self.start_machine(number)

    def start_machine(self, number: int) -> None:
        """Start one of the further machines."""
        name = self.machines[number]
        command = FORWARD.format(port=self.registry_port, main=self.address(0))
        published = ("--publish", f"127.0.0.1:{self.node_port}:80") if number == 1 else ()
        run(
            *("docker", "run", "--detach", "--privileged", "--name", name),
            *("--hostname", f"node{number + 1}", "--tmpfs=/run:exec", "--network", self.name),
            *("--ip", self.address(number), *published, MACHINE_IMAGE, "bash", "-euo", "pipefail", "-c", command),
        )
        ready = "docker version >/dev/null 2>&1 && echo up || true"
        wait_for(f"the engine of {name}", lambda: run("docker", "exec", name, "bash", "-c", ready))

    def set_up(self, repository: Path) -> None:
        """Follow docs/server.md and docs/swarm.md."""
        super().set_up(repository)
        setup = f"/root/quai/scripts/setup-server.sh --swarm {self.address(0)}"
        self.exec(setup)
        [self.join] = re.findall(r"^sudo (.+ --join .+)$", self.exec(setup), re.MULTILINE)
        for number in range(1, MACHINES):
            self.add_machine(number, repository)
        self.exec("docker node update --label-add quai.proxy=true node2")
        self.set(ENGINE="swarm", API_REPLICAS="3")

    def push_base_images(self) -> None:
        """Push the images of the services, and set them in .env."""
        super().push_base_images()
        self.set(HEALTH_SECONDS="40")  # Swarm takes up to 20 s to notice that a machine died

    def add_machine(self, number: int, repository: Path) -> None:
        """Run the command that setup-server.sh printed on one of the further machines, twice."""
        run("docker", "exec", self.machines[number], "mkdir", "-p", "/root/quai")
        run("docker", "cp", f"{repository}/scripts", f"{self.machines[number]}:/root/quai/scripts")
        for _ in range(2):
            run("docker", "exec", "--workdir", "/root/quai", self.machines[number], *shlex.split(self.join))

    def remove_machine(self, number: int) -> None:
        """Remove one of the further machines, and its node."""
        run("docker", "rm", "--force", "--volumes", self.machines[number])
        down = f"docker node inspect node{number + 1} --format '{{{{.Status.State}}}}'"
        wait_for("the node to be down", lambda: self.exec(down) == "down", 90)
        self.exec(f"docker node rm node{number + 1}")

    def cut_off(self, number: int, other: int, seconds: float) -> None:
        """Cut the network between one of the further machines and another one, and restore it after this time."""
        rules = (f"INPUT -s {self.address(other)} -j DROP", f"OUTPUT -d {self.address(other)} -j DROP")
        cut, restore = ("; ".join(f"iptables {option} {rule}" for rule in rules) for option in ("-I", "-D"))
        script = f"{cut}; sleep {seconds}; {restore}"
        run("docker", "exec", "--detach", self.machines[number], "bash", "-c", script)

    @contextmanager
    def without_registry(self, number: int) -> Iterator[None]:
        """Reject what one of the further machines sends to the registry."""
        rule = f"OUTPUT -p tcp -d {self.address(0)} --dport {self.registry_port} -j REJECT"
        run("docker", "exec", self.machines[number], "iptables", "-I", *rule.split())
        try:
            yield
        finally:
            run("docker", "exec", self.machines[number], "iptables", "-D", *rule.split())

    def close(self) -> None:
        """Remove all machines, the registry and the network."""
        subprocess.run(["docker", "rm", "--force", "--volumes", *self.machines[1:]], capture_output=True, check=False)
        super().close()
        subprocess.run(["docker", "network", "rm", self.name], capture_output=True, check=False)

    def compose(self, command: str) -> str:
        """Run `exec -T SERVICE COMMAND` of docker compose in a container of a service on the first machine."""
        found = re.fullmatch(r"exec -T (\S+) (.+)", command, re.DOTALL)
        if not found:
            raise ValueError(f"this command of docker compose is not known on Swarm: {command}")
        return self.exec(f"docker exec {self.container(found[1])} {found[2]}")

    def container(self, service: str) -> str:
        """Return the id of a container of a service on the first machine."""
        return self.exec(
            f"docker ps --quiet --filter label={SERVICE_LABEL}={self.project}_{service} | head -n 1 | grep ."
        )

    def services(self) -> dict[str, Any]:
        """Return the inspect data of the services of the stack, by their names in the compose file."""
        listed = self.exec(
            f"docker service ls --quiet --filter label=com.docker.stack.namespace={self.project}"
        ).split()
        inspected = json.loads(self.exec(f"docker service inspect {' '.join(listed)}")) if listed else []
        return {one["Spec"]["Name"].removeprefix(f"{self.project}_"): one for one in inspected}

    def environment(self, service: str) -> list[str]:
        """Return NAME=VALUE of the environment of a service."""
        return self.services()[service]["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"]

    def memory_limit(self, service: str) -> int:
        """Return the memory limit of a service, in bytes."""
        return self.services()[service]["Spec"]["TaskTemplate"]["Resources"]["Limits"]["MemoryBytes"]

    def running(self) -> list[str]:
        """Return service, node and image of each task that runs, sorted."""
        filters = "--filter desired-state=running"
        form = "{{.Name}} {{.Node}} {{.Image}} {{.CurrentState}}"
        lines = self.exec(f"docker stack ps {self.project} {filters} --format '{form}' || true").splitlines()
        tasks = [line.split()[:4] for line in lines]
        return sorted(
            f"{name.removeprefix(self.project + '_').partition('.')[0]} {node} {image} {state}"
            for name, node, image, state in tasks
        )

    def containers(self) -> list[str]:
        """Return service, image and deploy id of the services, and how many of their tasks run."""
        services, running = self.services(), [line.split() for line in self.running()]
        return sorted(
            f"{name} {service['Spec']['TaskTemplate']['ContainerSpec']['Image']} {deploy_id(service)} "
            f"{sum(one[0] == name and one[3] == 'Running' for one in running)}"
            for name, service in services.items()
        )

    def find_problem(self, commit: str) -> str:
        """Return how the Swarm differs from one that runs this release and nothing else; empty if it does not."""
        lines = self.exec(STATE).splitlines()
        values = dict(line.partition("=")[::2] for line in lines[:3])
        if values["tag"] != commit or values["link"] != commit:
            return f"expected the release {commit}, found {values}"
        if leftovers := lines[3:]:
            return f"an interrupted deploy left {leftovers}"
        running = [line.split() for line in self.running()]
        for name, service in self.services().items():
            if RELEASE_LABEL not in labels(service):
                continue
            own = [one for one in running if one[0] == name]
            wrong = [one for one in own if one[3] != "Running" or not re.search(rf":{commit}(-front)?(@|$)", one[2])]
            replicas = service["Spec"]["Mode"].get("Replicated", {}).get("Replicas", len(own))
            if wrong or len(own) != replicas or deploy_id(service) != values["deploy_id"]:
                return f"expected {replicas} tasks of {name} of {commit} and deploy {values['deploy_id']}, found {own}"
        return ""


def labels(service: Any) -> dict[str, str]:
    """Return the labels of the containers of a service."""
    return service["Spec"]["TaskTemplate"]["ContainerSpec"].get("Labels") or {}


def deploy_id(service: Any) -> str:
    """Return the id of the deploy of a service; empty if it is not part of a release."""
    return labels(service).get(RELEASE_LABEL, "")
