"""The base images: the pinned ones, or stand-ins where no image registry answers."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PREFIX = "quai-rehearsal"
# Which file pins an image, and which stand-in has its place.
PINS = {
    "PYTHON_IMAGE": ("Dockerfile", "python"),
    "FRONT_IMAGE": ("docker-compose.prod.yml", "caddy"),
    "DB_IMAGE": ("docker-compose.prod.yml", "postgres"),
    "DEBIAN_IMAGE": ("tests/rehearsal/server.Dockerfile", "debian"),
    "REGISTRY_IMAGE": ("tests/rehearsal/server.Dockerfile", "registry"),
}


def run(*command: str, **options) -> str:
    """Run a command and give its output; a failure raises CalledProcessError and shows what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, command)
    return done.stdout.strip()


def pinned(name: str) -> str | None:
    """The image that a file of the repository pins under this variable; None where it needs no such image."""
    text = (ROOT / PINS[name][0]).read_text()
    found = re.search(rf"(?:ARG {name}=|\${{{name}:-)([\w./:@-]+)", text)
    return found and found.group(1)


def base_images(names: tuple[str, ...] = tuple(PINS), stand_ins: bool = True) -> dict[str, str]:
    """Which image each variable that is used names, all of them on this engine.

    The environment's value wins, then the pinned image, then a stand-in. Exits with one line when
    none can be had, or only a stand-in and those are not wanted.
    """
    images = {name: image for name in names if (image := os.environ.get(name) or pinned(name))}
    missing = [name for name, image in images.items() if not _on_engine(image)]
    if missing:
        say(f"no registry gives {images[missing[0]]}")
        if not stand_ins:
            sys.exit("images: what is pushed is built on the pinned image only: try again when its registry answers")
        say("using stand-ins made of Debian packages")
        debian = f"{PREFIX}/debian:trixie"
        if not _on_engine(debian):
            _make_debian(debian)
        images |= {name: _make_stand_in(PINS[name][1], debian) for name in missing}
    return images


def say(text: str) -> None:
    """Show progress, apart from the output."""
    print(f"images: {text}", file=sys.stderr, flush=True)


def need(command: str, package: str) -> None:
    """Have a command: install its Debian package where that can be done, else exit with what to do."""
    if shutil.which(command):
        return
    if not shutil.which("apt-get") or os.geteuid():
        sys.exit(f"rehearsal: install {command!r} first (on Debian and Ubuntu: apt-get install {package})")
    say(f"installing a system package: {package}")
    run("apt-get", "update", "--quiet")
    run("apt-get", "install", "--quiet", "--yes", "--no-install-recommends", package)


def _on_engine(image: str) -> bool:
    ways = (["image", "inspect"],) if image.startswith(PREFIX) else (["image", "inspect"], ["pull", "--quiet"])
    return any(not subprocess.run(["docker", *way, image], capture_output=True, check=False).returncode for way in ways)


def _make_debian(name: str) -> None:
    need("mmdebstrap", "mmdebstrap")
    say("making a Debian root file system (half a minute)")
    tar = "/tmp/quai-debian.tar"  # noqa: S108 - mmdebstrap wants its output where any user may read
    run("mmdebstrap", "--variant=minbase", "--include=ca-certificates,netbase,tzdata", "trixie", tar)
    run("docker", "import", tar, name)
    Path(tar).unlink()


def _make_stand_in(target: str, debian: str) -> str:
    if target == "debian":
        return debian
    name = f"{PREFIX}/{target}:latest"
    say(f"stand-in {name}")
    run(
        *("docker", "build", "--quiet", "--file", str(HERE / "standins.Dockerfile"), "--target", target),
        *("--build-arg", f"DEBIAN={debian}", "--tag", name, str(HERE)),
    )
    return name


if __name__ == "__main__":
    wanted = tuple(word for word in sys.argv[1:] if word != "--no-stand-ins")
    for name, image in base_images(wanted or tuple(PINS), "--no-stand-ins" not in sys.argv).items():
        print(f"{name}={image}")
