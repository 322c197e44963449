"""The rehearsal: production on a throwaway server."""

from pathlib import Path

from scripts.runner import base_images

HERE = Path(__file__).parent
PINS = base_images.PINS | {
    "DEBIAN_IMAGE": ("tests/rehearsal/server.Dockerfile", "debian"),
    "REGISTRY_IMAGE": ("tests/rehearsal/server.Dockerfile", "registry"),
}
