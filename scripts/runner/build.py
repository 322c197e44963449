"""Build the images of a commit reproducibly: the application's, then from it the two of the release: API and front."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.runner import project
from scripts.runner.process import ROOT, Failure, git, run, say, show
from scripts.runner.settings import COMPOSE_FILE

RELEASE_DOCKERFILE = ROOT / "scripts/runner/release.Dockerfile"
# Files of a release that the server needs, and where they are in /release.
RELEASE_FILES = {"scripts/deploy.sh": "deploy.sh", "scripts/front/Caddyfile": "front/Caddyfile"}
SWARM_FILE = "docker-compose.swarm.yml"  # a project that runs on one server may have removed it
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
    if changed := git("status", "--porcelain", "--", ".", ":(exclude,glob)**/__pycache__/**"):  # not in the image
        raise Failure(
            "the working tree has uncommitted changes, but the image is tagged with the commit: commit them, or let Git"
            f" ignore them:\n{changed}"
        )
    if not position:
        raise Failure(
            "this is a shallow clone, and the server orders releases by their number of commits: run"
            " 'git fetch --unshallow', or set 'fetch-depth: 0' on actions/checkout in the workflow"
        )


def release_labels(
    commit: str, epoch: int, position: str, migrations: str, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the labels of a release, except unknown ones.

    The server orders releases by `position`, because commit times depend on clocks. From `migrations`, a digest, it
    knows whether two releases have the same migrations.
    """
    server, repository = environment.get("GITHUB_SERVER_URL", ""), environment.get("GITHUB_REPOSITORY", "")
    labels = {
        "org.opencontainers.image.revision": commit,
        "org.opencontainers.image.source": f"{server}/{repository}" if repository else "",
        "org.opencontainers.image.created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
        "quai.position": position,
        "quai.migrations": migrations,
    }
    return {name: value for name, value in labels.items() if value}


def stage_release(folder: Path, epoch: int) -> None:
    """Write the files of /release to the folder `release` in `folder`, with fixed modes and times."""
    release = folder / "release"
    shutil.copytree("scripts/server", release / "server", ignore=shutil.ignore_patterns("__pycache__"))
    swarm = {SWARM_FILE: SWARM_FILE} if Path(SWARM_FILE).exists() else {}
    for source, name in {project.compose_file(): COMPOSE_FILE, **swarm, **RELEASE_FILES}.items():
        (release / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, release / name)
    for path in [release, *release.rglob("*")]:
        path.chmod(0o755 if path.is_dir() or path.suffix == ".sh" else 0o644)
        os.utime(path, (epoch, epoch))


def build_command(
    target: str,
    context: str,
    arguments: Mapping[str, str],
    options: Sequence[str],
    environment: Mapping[str, str] = os.environ,
) -> list[str]:
    """Return the command that builds `target` into the engine from the folder `context`."""
    # Behind a proxy that intercepts TLS, one of these variables names the bundle of certificates.
    bundle = environment.get("PIP_CERT") or environment.get("SSL_CERT_FILE")
    netrc = environment.get("NETRC") or f"{environment.get('HOME', '')}/.netrc"  # logins of private package indexes
    return [
        *("docker", "buildx", "build", "--provenance=false", "--load", "--tag", target),
        *(f"--build-arg={name}={value}" for name, value in arguments.items()),
        *([f"--secret=id=ca,src={bundle}"] if bundle else []),
        *([f"--secret=id=netrc,src={netrc}"] if Path(netrc).is_file() else []),
        *options,
        context,
    ]


def application_image(target: str) -> str:
    """Return the name of the application's image that the release `target` is based on."""
    return f"{target}-app"


def front_image(target: str) -> str:
    """Return the name of the front's image of the release `target`, as in docker-compose.prod.yml."""
    return f"{target}-front"


def build(
    target: str,
    bases: Mapping[str, str],
    epoch: int,
    labels: Mapping[str, str],
    *,
    cache: str = "",
    fresh: bool = False,
) -> str:
    """Build the application's image, the release `target` and its front into the engine; return the last two ids.

    `epoch` is the commit's time in seconds. Unchanged layers come from the engine or from the image `cache` in a
    registry, which may be missing; with `fresh`, from neither.
    """
    if "FRONT_IMAGE" not in bases:
        raise Failure(f"{project.compose_file()} has no ${{FRONT_IMAGE:-...}}: it names the base image of the front")
    # The builder of the engine itself, because another one could not find the application's image.
    common = [f"--builder={run('docker', 'context', 'show')}", *(["--no-cache"] if fresh else [])]
    reuse = ["--cache-to=type=inline", *([f"--cache-from=type=registry,ref={cache}"] if cache else [])]
    times, application = {"SOURCE_DATE_EPOCH": str(epoch)}, application_image(target)
    # An application's own Dockerfile may have fixed base images.
    base = {name: image for name, image in bases.items() if name == "PYTHON_IMAGE"}
    show(*build_command(application, ".", base | times, [*common, *reuse, f"--file={project.dockerfile()}"]))
    with tempfile.TemporaryDirectory() as folder:
        stage_release(Path(folder), epoch)
        described = [f"--label={name}={value}" for name, value in labels.items()]
        arguments = {"APP_IMAGE": application, "FRONT_IMAGE": bases["FRONT_IMAGE"]} | times
        images = {"release": target, "front": front_image(target)}
        for stage, name in images.items():
            options = [*common, f"--file={RELEASE_DOCKERFILE}", f"--target={stage}", *described]
            show(*build_command(name, folder, arguments, options))
    return " ".join(run("docker", "image", "inspect", "--format={{.Id}}", *images.values()).split())


def cache_image(name: str) -> str:
    """Return the name of the image in the registry whose layers the next build reuses."""
    return f"{name}:cache"


def push_cache(name: str, target: str) -> None:
    """Push the application's image of a release as the cache, so that the next runner reuses its layers.

    It contains cache metadata with timestamps, which a release does not. The registry already has the layers.
    """
    cache = cache_image(name)
    try:
        run("docker", "tag", application_image(target), cache)
        run("docker", "push", "--quiet", cache)
    except subprocess.CalledProcessError as error:
        say(f"{cache} was not pushed ({error}): the next build uses an older cache, or none")


def build_twice(target: str, bases: Mapping[str, str], epoch: int, labels: Mapping[str, str]) -> str:
    """Build twice without cache and return the ids of `build`. Raise Failure if they differ."""
    found = {build(target, bases, epoch, labels, fresh=True) for _ in range(2)}
    if len(found) > 1:
        raise Failure(
            f"two builds of the same commit have different ids of release and front: {', but '.join(sorted(found))}:"
            " compare their layers with 'docker history --no-trunc ID', and fix the step of the Dockerfile that"
            " depends on the time"
        )
    return found.pop()
