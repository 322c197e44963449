"""The command `image`: build the image of a commit, smoke-test it, push it."""

from scripts.runner import build, registry
from scripts.runner.base_images import base_images
from scripts.runner.process import ensure_engine, git, say
from scripts.runner.settings import image_name
from scripts.runner.smoke import smoke_test


def make_image(*, push: bool, twice: bool) -> None:
    """Build and smoke-test the image of HEAD; push it, or build it twice without cache to compare the ids."""
    name, commit, position = image_name(), git("rev-parse", "HEAD"), build.release_position()
    if push:
        build.require_pushable(position)
        ensure_engine()
        registry.log_in(name)  # before the base images: they may be private, too
    bases = base_images(stand_ins=not push)
    epoch = int(git("log", "-1", "--format=%ct"))
    labels = build.release_labels(commit, epoch, position, build.migrations_digest())
    target = f"{name}:{commit}"
    if twice:
        ids = build.build_twice(target, bases, epoch, labels)
        say(f"two builds without cache have the same ids of release and front: {ids}")
    else:
        build.build(target, bases, epoch, labels, cache=build.cache_image(name) if push else "")
    smoke_test(name, commit, bases)
    if push:
        registry.push(build.front_image(target))  # first: a server that finds the release also finds its front
        registry.push(target)
        build.push_cache(name, target)


def move_latest() -> None:
    """Make IMAGE:latest the image of HEAD, which the registry already has."""
    ensure_engine()
    registry.move_latest(image_name(), git("rev-parse", "HEAD"))
