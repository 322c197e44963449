"""Log in to the image's registry, push a commit's image, and move the tag latest."""

import os
import re
import subprocess

from scripts.runner.process import Failure, run, say
from scripts.runner.settings import VARIABLES_PAGE, required


def registry_host(image: str) -> str:
    """Return the registry of an image's name; empty for Docker Hub."""
    host, slash, _ = image.partition("/")
    return host if slash and re.search(r"[.:]|^localhost$", host) else ""


def log_in(image: str) -> None:
    """Log in as REGISTRY_USER; without that variable, use the logins that docker has."""
    if not os.environ.get("REGISTRY_USER"):
        return
    given = required("REGISTRY_USER", "REGISTRY_PASSWORD")
    host = registry_host(image)
    command = ["docker", "login", "--username", given["REGISTRY_USER"], "--password-stdin", *([host] if host else [])]
    done = subprocess.run(command, input=given["REGISTRY_PASSWORD"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(
            f"the registry {host or 'Docker Hub'} refuses the login of {given['REGISTRY_USER']}:"
            f" {done.stderr.strip()}\nCheck REGISTRY_USER and REGISTRY_PASSWORD, see {VARIABLES_PAGE}"
        )


def push(image: str) -> None:
    """Push an image of the engine, given with its tag."""
    run("docker", "push", "--quiet", image)
    say(f"pushed {image}")


def move_latest(name: str, commit: str) -> None:
    """Make IMAGE:latest the image of a commit that the registry already has; the engine need not have it.

    Pulled and pushed, since `docker buildx imagetools create` wraps the image into an index of its own:
    latest would not have the digest of the release.
    """
    log_in(name)
    run("docker", "pull", "--quiet", f"{name}:{commit}")
    run("docker", "tag", f"{name}:{commit}", f"{name}:latest")
    push(f"{name}:latest")
