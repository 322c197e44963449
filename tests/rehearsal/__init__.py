"""The rehearsal: production on a throwaway server."""

from pathlib import Path

HERE = Path(__file__).parent
SERVER_PINS = {
    "DEBIAN_IMAGE": ("tests/rehearsal/server.Dockerfile", "debian"),
    "REGISTRY_IMAGE": ("tests/rehearsal/server.Dockerfile", "registry"),
}
