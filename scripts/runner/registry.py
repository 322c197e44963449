"""Log in to the image's registry, push a commit's image, and move the tag latest."""

import os
import re
import subprocess

from scripts.runner.process import Failure, run, say
from scripts.runner.settings import VARIABLES_PAGE, required

WORKFLOW_REGISTRY = "ghcr.io"  # accepts the token of a GitHub workflow


def registry_host(image: str) -> str:
    """Return the registry of an image's name; empty for Docker Hub."""
    host, slash, _ = image.partition("/")
    return host if slash and re.search(r"[.:]|^localhost$", host) else ""


def log_in(image: str) -> None:
    """Log in as REGISTRY_USER; without that variable, use the existing logins of docker.

    The password is REGISTRY_PASSWORD. Without it, GITHUB_TOKEN is sent to ghcr.io, and never to another registry.
    """
    user = os.environ.get("REGISTRY_USER")
    if not user:
        return
    host = registry_host(image)
    token = os.environ.get("GITHUB_TOKEN") if host == WORKFLOW_REGISTRY else None
    password = os.environ.get("REGISTRY_PASSWORD") or token or required("REGISTRY_PASSWORD")["REGISTRY_PASSWORD"]
    command = ["docker", "login", "--username", user, "--password-stdin", *([host] if host else [])]
    done = subprocess.run(command, input=password, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(
            f"the registry {host or 'Docker Hub'} rejected the login as {user}: {done.stderr.strip()}\n"
            f"Check REGISTRY_USER and REGISTRY_PASSWORD, see {VARIABLES_PAGE}"
        )


def push(image: str) -> None:
    """Push a local image; `image` includes the tag."""
    run("docker", "push", "--quiet", image)
    say(f"pushed {image}")


def move_latest(name: str, commit: str) -> None:
    """Make IMAGE:latest the image of a commit that the registry already has; the engine need not have it.

    Pull and push, because `docker buildx imagetools create` wraps the image in a new index, so that latest would
    not have the digest of the release.
    """
    log_in(name)
    run("docker", "pull", "--quiet", f"{name}:{commit}")
    run("docker", "tag", f"{name}:{commit}", f"{name}:latest")
    push(f"{name}:latest")
