"""Build the image of a commit reproducibly."""

import hashlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence

from scripts.runner.process import Failure, git, run, say, show

CACHE_TAG = "cache"
MIGRATION_FOLDERS = {"migrations", "alembic"}  # of Django, Alembic and Flask-Migrate


def release_position() -> str:
    """Return the number of first-parent commits, including HEAD; empty in a shallow clone, where it is unknown."""
    if git("rev-parse", "--is-shallow-repository") == "true":
        return ""
    return git("rev-list", "--count", "--first-parent", "HEAD")


def migrations_digest() -> str:
    """Return a digest of the files of HEAD in folders named migrations or alembic; empty without any.

    The server starts a release while it checks for pending migrations, if the live release has the same digest.
    """
    lines = git("ls-tree", "-r", "HEAD").splitlines()
    files = [line for line in lines if MIGRATION_FOLDERS & set(line.partition("\t")[2].split("/")[:-1])]
    return hashlib.sha256("\n".join(files).encode()).hexdigest()[:16] if files else ""


def require_pushable(position: str) -> None:
    """Raise Failure if the image would not be what its tag and its labels say."""
    if git("status", "--porcelain"):
        raise Failure(
            "the working tree has uncommitted changes, but the image is tagged with the commit: commit them first"
        )
    if not position:
        raise Failure(
            "this is a shallow clone, and the server orders releases by their number of commits: run"
            " 'git fetch --unshallow', or set 'fetch-depth: 0' on actions/checkout in the workflow"
        )


def build_arguments(
    python_image: str,
    commit: str,
    epoch: int,
    position: str,
    migrations: str,
    environment: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """Return the Dockerfile's build arguments; `epoch` is the commit's time in seconds."""
    server, repository = environment.get("GITHUB_SERVER_URL", ""), environment.get("GITHUB_REPOSITORY", "")
    return {
        "PYTHON_IMAGE": python_image,
        "SOURCE_DATE_EPOCH": str(epoch),
        "REVISION": commit,
        "SOURCE": f"{server}/{repository}" if repository else "",
        "CREATED": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
        "POSITION": position,
        "MIGRATIONS": migrations,
    }


def build_command(
    target: str, arguments: Mapping[str, str], options: Sequence[str], environment: Mapping[str, str] = os.environ
) -> list[str]:
    """Return the command that builds `target` from the current directory."""
    # Behind a proxy that intercepts TLS, one of these variables names the bundle that pip needs.
    bundle = environment.get("PIP_CERT") or environment.get("SSL_CERT_FILE")
    return [
        *("docker", "buildx", "build", "--provenance=false", "--tag", target),
        *(f"--build-arg={name}={value}" for name, value in arguments.items()),
        *([f"--secret=id=ca,src={bundle}"] if bundle else []),
        *options,
        ".",
    ]


def build(target: str, arguments: Mapping[str, str], *options: str) -> str:
    """Build `target` into the engine and return the image's id."""
    show(*build_command(target, arguments, ["--load", *options]))
    return run("docker", "image", "inspect", "--format={{.Id}}", target)


def cache_from(name: str) -> str:
    """Return the build option that reuses unchanged layers from the registry; buildx ignores a missing cache."""
    return f"--cache-from=type=registry,ref={name}:{CACHE_TAG}"


def push_cache(name: str, arguments: Mapping[str, str]) -> None:
    """Push the layers of the preceding build as IMAGE:cache, for the next runner.

    A separate tag, because the cache metadata contains timestamps, which would change the id of the release image
    with every build. The registry already has the layers, so only the metadata is uploaded.
    """
    command = build_command(f"{name}:{CACHE_TAG}", arguments, ["--push", "--quiet", "--cache-to=type=inline"])
    try:
        run(*command)
    except subprocess.CalledProcessError as error:
        say(f"{name}:{CACHE_TAG} was not pushed ({error}): the next build uses an older cache, or none")


def require_reproducible(target: str, arguments: Mapping[str, str]) -> str:
    """Build twice without cache and return the image's id. Raise Failure if the two ids differ."""
    ids = {build(target, arguments, "--no-cache") for _ in range(2)}
    if len(ids) > 1:
        raise Failure(
            f"two builds of the same commit have different ids, {' and '.join(sorted(ids))}: compare their layers"
            " with 'docker history --no-trunc ID', and fix the step of the Dockerfile that depends on the time"
        )
    return ids.pop()
