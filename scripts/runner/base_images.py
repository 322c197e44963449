"""The images of Python, Caddy, PostgreSQL and Redis: the pinned ones, or stand-ins if no registry is reachable."""

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from scripts.runner import project
from scripts.runner.process import ROOT, Failure, ensure_command, ensure_engine, run, say

PREFIX = "quai-rehearsal"
STAND_INS = Path(__file__).parent / "standins"
COMPOSE, DOCKERFILE = "docker-compose.prod.yml", "Dockerfile"
# For each variable: the file that pins the image, and the stage of standins/Dockerfile that can replace it.
PINS = {
    "PYTHON_IMAGE": (DOCKERFILE, "python"),
    "FRONT_IMAGE": (COMPOSE, "caddy"),
    "DB_IMAGE": (COMPOSE, "postgres"),
    "REDIS_IMAGE": (COMPOSE, "redis"),
}


def pinned(file: Path, name: str) -> str | None:
    """Return the image that a file pins for a variable, or None if the file does not use the variable.

    The variable's default is an image, or the name of a stage of the Dockerfile that is only `FROM <image>`.
    """
    text = file.read_text()
    default = re.search(rf"(?:ARG {name}=|\${{{name}:-)([\w./:@-]+)", text)
    stage = default and re.search(rf"^FROM (\S+) AS {default[1]}$", text, re.MULTILINE)
    found = stage or default
    return found[1] if found else None


def base_images(
    pins: Mapping[str, tuple[str, str]] = PINS, root: Path = ROOT, *, stand_ins: bool = True
) -> dict[str, str]:
    """Return the image for each variable that the files in `root` use, and make sure that the engine has it.

    The environment variable takes precedence, then the pinned image, then a stand-in. Raises Failure
    if an image is unavailable and stand-ins are not allowed.
    """
    ensure_engine()
    images = {}
    names = {DOCKERFILE: project.dockerfile(root), COMPOSE: project.compose_file(root)}
    for name, (file, _) in pins.items():
        file = names.get(file, file)
        if image := os.environ.get(name) or pinned(root / file, name):
            images[name] = image
    errors = {name: error for name, image in images.items() if (error := _try_pull(image))}
    if not errors:
        return images
    first = next(iter(errors))
    say(f"cannot pull {images[first]}: {errors[first]}")
    if not stand_ins:
        raise Failure(
            f"{images[first]} cannot be pulled, and an image that is built or tested with stand-ins is not pushed."
            f" Try again when the registry is reachable, or set {first} to an image in another registry"
        )
    say("using stand-ins built from Debian packages")
    debian = f"{PREFIX}/debian:trixie"
    if _try_pull(debian):
        _build_debian(debian)
    return images | {name: _build_stand_in(pins[name][1], debian) for name in errors}


def _try_pull(image: str) -> str:
    """Pull an image unless the engine has it; return why it is unavailable, or an empty text."""
    error = ""
    for command in [["image", "inspect"]] if image.startswith(PREFIX) else [["image", "inspect"], ["pull", "--quiet"]]:
        done = subprocess.run(["docker", *command, image], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return ""
        error = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return error


def _build_debian(name: str) -> None:
    ensure_command("mmdebstrap", "mmdebstrap")
    say("building a Debian root file system (takes about half a minute)")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # mmdebstrap requires a path that any user can read
        tar = f"{folder}/debian.tar"
        run("mmdebstrap", "--variant=minbase", "--include=ca-certificates,netbase,tzdata", "trixie", tar)
        run("docker", "import", tar, name)


def _build_stand_in(stage: str, debian: str) -> str:
    if stage == "debian":
        return debian
    name = f"{PREFIX}/{stage}:latest"
    say(f"stand-in {name}")
    run(
        *("docker", "build", "--quiet", "--target", stage),
        *("--build-arg", f"DEBIAN={debian}", "--tag", name, str(STAND_INS)),
    )
    return name
