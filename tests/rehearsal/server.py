"""A throwaway server: Debian with its own Docker engine and sshd, set up by setup-server.sh."""

import contextlib
import json
import os
import re
import secrets
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scripts.runner import base_images
from scripts.runner.base_images import PREFIX
from scripts.runner.process import run
from scripts.runner.settings import parse_env
from tests.rehearsal import HERE
from tests.rehearsal.application import PLACEHOLDER

DIR = "/srv/quai"
REGISTRY_USER = "rehearsal"
MACHINE_IMAGE = f"{PREFIX}/server"  # a machine before setup-server.sh


def free_port() -> int:
    """Return a free TCP port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(name: str, check: Callable[[], Any], seconds: float = 60) -> Any:
    """Poll until `check()` is true and return its value. Raises TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(subprocess.CalledProcessError, OSError):
            if value := check():
                return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {name}")
        time.sleep(0.1)


def use_docker_config(folder: Path) -> None:
    """Use a copy of the user's Docker configuration without its logins."""
    original = Path(os.environ.get("DOCKER_CONFIG", Path.home() / ".docker"))
    folder.mkdir()
    for name in ("cli-plugins", "contexts"):
        if (original / name).exists():
            (folder / name).symlink_to(original / name)
    settings = json.loads((original / "config.json").read_text()) if (original / "config.json").exists() else {}
    (folder / "config.json").write_text(
        json.dumps({key: settings[key] for key in settings if not key.startswith(("auth", "cred"))})
    )
    os.environ["DOCKER_CONFIG"] = str(folder)


class Server:
    """A server and its registry, as containers of this engine; `close()` removes them."""

    def __init__(self, bases: dict[str, str], folder: Path, project: str) -> None:
        """`project` is the name of the Compose project: the prefix of its containers, and the name of the image."""
        self.bases, self.folder, self.project = bases, folder, project
        self.name = f"{PREFIX}-{secrets.token_hex(3)}"
        self.http_port, self.https_port, self.ssh_port, self.registry_port = (free_port() for _ in range(4))
        self.registry = f"localhost:{self.registry_port}"
        self.registry_password = secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.ca: Path | None = None  # for an https:// URL: the certificate of the authority
        self.variables: dict[str, str] = {}
        self.secrets: dict[str, str] = {}
        self.machines = [self.name]
        self.start_options: tuple[str, ...] = ()  # of `docker run`

    @property
    def urls(self) -> list[str]:
        """The URLs that get requests, in turn."""
        return [self.url]

    @property
    def image(self) -> str:
        """The image of the releases, without a tag."""
        return f"{self.registry}/{self.project}"

    def start(self) -> None:
        """Start the server and the registry: both this machine and the server reach the registry at localhost."""
        import bcrypt  # here, so that unit tests without this dependency can import the module

        arguments = {name: self.bases[name] for name in ("DEBIAN_IMAGE", "REGISTRY_IMAGE")}
        run(
            *("docker", "build", "--quiet", "--file", str(HERE / "server.Dockerfile"), "--target", "server"),
            *(f"--build-arg={name}={value}" for name, value in arguments.items()),
            *("--tag", MACHINE_IMAGE, str(HERE)),
        )
        ports = ((self.http_port, 80), (self.https_port, 443), (self.ssh_port, 22))
        ports += ((self.registry_port, self.registry_port),)
        run(
            *("docker", "run", "--detach", "--privileged", "--name", self.name, "--hostname", "server"),
            "--tmpfs=/run:exec",  # empty after a reboot
            *self.start_options,
            *(f"--publish=127.0.0.1:{host}:{container}" for host, container in ports),
            MACHINE_IMAGE,
        )
        # The lowest cost of bcrypt: the registry checks the password with each request.
        password = bcrypt.hashpw(self.registry_password.encode(), bcrypt.gensalt(rounds=4)).decode()
        (self.folder / "htpasswd").write_text(f"{REGISTRY_USER}:{password}\n")
        settings = {
            "REGISTRY_HTTP_ADDR": f":{self.registry_port}",
            "REGISTRY_AUTH": "htpasswd",
            "REGISTRY_AUTH_HTPASSWD_REALM": "rehearsal",
            "REGISTRY_AUTH_HTPASSWD_PATH": "/htpasswd",
        }
        run(
            *("docker", "create", "--name", f"{self.name}-registry", "--network", f"container:{self.name}"),
            *(f"--env={name}={value}" for name, value in settings.items()),
            self.bases["REGISTRY_IMAGE"],
        )
        run("docker", "cp", str(self.folder / "htpasswd"), f"{self.name}-registry:/htpasswd")
        run("docker", "start", f"{self.name}-registry")
        wait_for("the server's engine", lambda: self.exec("docker version >/dev/null 2>&1 && echo up || true"))
        self.wait_for_registry()

    def wait_for_registry(self) -> None:
        """Wait until the registry responds. Raises TimeoutError."""

        def is_available() -> bool:
            # Not only a connection: Docker's proxy for the port accepts it before the registry does.
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.registry_port}/v2/", timeout=5).close()
            except urllib.error.HTTPError as error:
                return error.code == 401  # without a login
            return True

        wait_for("the registry", is_available)

    def close(self) -> None:
        """Remove the server, its registry, its volumes, and the images pushed to it.

        The image of the server stays: the next one starts faster with it.
        """
        names = (f"{self.name}-registry", self.name)
        done = subprocess.run(
            ["docker", "rm", "--force", "--volumes", *names], capture_output=True, text=True, check=False, timeout=600
        )
        problems = [line for line in done.stderr.splitlines() if "No such container" not in line]
        if done.returncode and problems:
            print(f"not removed: {' '.join(problems)}; to remove them: docker rm -fv {' '.join(names)}", flush=True)
        tagged = ("--filter=dangling=false", "--format={{.Repository}}:{{.Tag}}")
        images = [
            name for name in run("docker", "images", *tagged, f"{self.registry}/*").split() if "<none>" not in name
        ]
        if images:
            run("docker", "image", "rm", *images)

    def exec(self, script: str, timeout: float = 600) -> str:
        """Run bash as root on the server and return the output."""
        return run("docker", "exec", self.name, "bash", "-euo", "pipefail", "-c", script, timeout=timeout)

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Run a command, which may fail, as root on the server."""
        command = ("docker", "exec", self.name, *command)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)

    def set_up(self, repository: Path) -> None:
        """Follow docs/server.md: clone, run setup-server.sh, and run what it prints."""
        run("docker", "cp", f"{repository}/.", f"{self.name}:/root/quai")
        setup = f"/root/quai/scripts/setup-server.sh --image {self.image} --host 127.0.0.1 --port {self.ssh_port}"
        files = f"cat {DIR}/.env ~deploy/.ssh/authorized_keys; find {DIR} ~deploy/.ssh -printf '%M %u %p %l\n'"
        self.exec(setup)
        before = self.exec(files)
        self.apply_commands(self.exec(setup))
        second = self.run(*setup.split(), "--dir", "/srv/second")
        if second.returncode != 2 or f"an application is already installed in {DIR}" not in second.stderr:
            raise RuntimeError(f"setup-server.sh does not refuse a second application: {second.stdout}{second.stderr}")
        if self.exec(files) != before or self.exec("ls /srv") != "quai":
            raise RuntimeError("a second setup-server.sh changed files of the first one")
        login = f"sudo -u deploy docker login --username {REGISTRY_USER} --password-stdin {self.registry}"
        self.exec(f"echo {self.registry_password} | {login}")
        self.variables |= {"PUBLIC_URL": self.url, "REGISTRY_USER": REGISTRY_USER}
        self.secrets["REGISTRY_PASSWORD"] = self.registry_password

    def use_https(self) -> None:
        """Use the HTTPS site that SITE_ADDRESS names, with a certificate of the proxy's own authority.

        Does nothing for a plain HTTP site. Raises ValueError for a name that is not of this machine.
        """
        address = self.setting("SITE_ADDRESS")
        if address.startswith((":", "http://")):
            return
        if address != "localhost":
            raise ValueError(f"SITE_ADDRESS is {address!r}: the rehearsal serves HTTPS as 'localhost' only")
        path = "/data/caddy/pki/authorities/local/root.crt"
        certificate = wait_for(
            "the proxy's authority", lambda: self.exec(f"docker exec {self.container('proxy')} cat {path}")
        )
        self.ca, known = self.folder / "ca.pem", os.environ.get("SSL_CERT_FILE", "")
        others = Path(known).read_text() if known else ""
        self.ca.write_text(f"{certificate}\n{others}")
        self.url = self.variables["PUBLIC_URL"] = f"https://localhost:{self.https_port}"

    def trusted(self) -> dict[str, str]:
        """Return the environment variable with which Python trusts the site's certificate; empty without HTTPS."""
        return {"SSL_CERT_FILE": str(self.ca)} if self.ca else {}

    def push_base_images(self) -> None:
        """Push the images of the services to the server's registry, and set them in .env."""
        login = ("docker", "login", "--username", REGISTRY_USER, "--password-stdin", self.registry)
        run(*login, input=self.registry_password)
        for name in [name for name in base_images.PINS if name in self.bases and name != "PYTHON_IMAGE"]:
            pushed = f"{self.registry}/{name.lower()}:rehearsal"
            run("docker", "tag", self.bases[name], pushed)
            run("docker", "push", "--quiet", pushed)
            run("docker", "image", "rm", pushed)
            self.add_settings({name: pushed})
        self.set(HEALTH_SECONDS="20")

    def apply_commands(self, output: str) -> None:
        """Apply the `gh variable set` and `gh secret set` commands that setup-server.sh prints."""
        for name, value in re.findall(r"^gh variable set (\w+) --env production --body (.+)$", output, re.MULTILINE):
            [self.variables[name]] = shlex.split(value)
        for command, name in re.findall(
            r"^ssh .*? (cat .+) \| gh secret set (\w+) --env production &&$", output, re.MULTILINE
        ):
            self.secrets[name] = self.exec(command)

    def set(self, **settings: str) -> None:
        """Edit the server's .env."""
        for name, value in settings.items():
            self.exec(f"grep -q '^{name}=' {DIR}/.env && sed -i 's|^{name}=.*|{name}={value}|' {DIR}/.env")

    def add_settings(self, settings: Mapping[str, str]) -> None:
        """Set these lines in the server's .env: in place, since a line below may refer to one, or else at the end."""
        text = self.exec(f"cat {DIR}/.env").rstrip("\n") + "\n"
        for name, value in settings.items():
            line = f"{name}={value}\n"
            text, count = re.subn(rf"^{name}=.*\n", lambda _, line=line: line, text, flags=re.MULTILINE)
            text += "" if count else line
        self.exec(f"printf '%s' {shlex.quote(text)} >{DIR}/.env")

    @contextlib.contextmanager
    def settings(self, **settings: str) -> Iterator[None]:
        """Edit the server's .env, and restore the previous values at the end."""
        original = {name: self.setting(name) for name in settings}
        try:
            self.set(**settings)
            yield
        finally:
            self.set(**original)

    def setting(self, name: str) -> str:
        """Return a value of the server's .env, as written."""
        return self.exec(f"sed -n 's/^{name}=//p' {DIR}/.env")

    def values(self) -> dict[str, str]:
        """Return the values of the server's .env. ${NAME} in a value becomes the value of NAME."""
        values = parse_env(self.exec(f"cat {DIR}/.env"))
        for name, value in values.items():
            values[name] = PLACEHOLDER.sub(lambda found: values.get(found[1], ""), value)
        return values

    def ssh_command(self, *command: str, options: tuple[str, ...] = ()) -> list[str]:
        """Return the ssh command of a request with the key of cd.yml."""
        key, known_hosts = self.folder / "key", self.folder / "known_hosts"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_text(self.secrets["DEPLOY_KEY"] + "\n")
            known_hosts.write_text(self.variables["DEPLOY_KNOWN_HOSTS"] + "\n")
        settings = (f"UserKnownHostsFile={known_hosts}", "BatchMode=yes", "StrictHostKeyChecking=yes")
        return [
            *("ssh", "-F", "none", "-i", str(key), "-p", str(self.ssh_port)),
            *(word for setting in settings for word in ("-o", setting)),
            *(*options, "deploy@127.0.0.1", "--", *command),
        ]

    def ssh(self, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        """Send a request with the key of cd.yml and return the result, within a minute."""
        return subprocess.run(
            self.ssh_command(*command, options=options),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    def compose(self, command: str) -> str:
        """Run docker compose on the server, in the directory of .env."""
        return self.exec(f"cd {DIR} && docker compose {command}")

    def container(self, service: str) -> str:
        """Return the name or id of a container of a service on the first machine, also before a release is live."""
        return f"{self.project}-{service}-1"

    def environment(self, service: str) -> list[str]:
        """Return NAME=VALUE of the environment of a service."""
        return self._inspect(service)["Config"]["Env"]

    def memory_limit(self, service: str) -> int:
        """Return the memory limit of a service, in bytes."""
        return self._inspect(service)["HostConfig"]["Memory"]

    def _inspect(self, service: str) -> Any:
        [found] = json.loads(self.exec(f"docker inspect {self.container(service)}"))
        return found

    def containers(self) -> list[str]:
        """Return name, image and id of all containers of the server; a container that is recreated gets a new id."""
        return sorted(self.exec("docker ps --all --format '{{.Names}} {{.Image}} {{.ID}}'").splitlines())

    def deploy_log(self) -> list[dict]:
        """Return the lines of deploys.log, oldest first; empty before the first deploy."""
        lines = self.exec(f"cat {DIR}/deploys.log 2>/dev/null || true").splitlines()
        return [json.loads(line) for line in lines]

    def manifest(self, tag: str) -> str:
        """Return the manifest of a tag in the registry."""
        return run("docker", "manifest", "inspect", "--insecure", f"{self.image}:{tag}")
