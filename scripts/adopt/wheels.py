"""Whether the wheels in a lock file fit a version of Python."""

import re
from collections.abc import Iterator
from typing import Any

from packaging.utils import InvalidWheelFilename, parse_wheel_filename


def find_missing_wheel(entries: dict[str, dict[str, Any]], packages: set[str], python: str) -> str:
    """Return the first of these locked packages whose wheels do not fit a Python on Linux; empty if all do.

    `python` is for example `3.13`. A package without any wheel is compiled for each version, so it fits.
    """
    for name in sorted(packages):
        wheels = list(_wheels(entries.get(name, {})))
        if wheels and not any(_fits(wheel, python) for wheel in wheels):
            return f"{name} {entries[name].get('version', '')}".strip()
    return ""


def _wheels(entry: dict[str, Any]) -> Iterator[str]:
    """Yield the file names of a package's wheels for Linux; uv names them by URL or path, Poetry and pdm by file."""
    for key in ("wheels", "files"):
        listed = entry.get(key)
        for item in listed if isinstance(listed, list) else []:
            values = [item.get(name) for name in ("file", "url", "path", "filename")] if isinstance(item, dict) else []
            name = next((str(value) for value in values if value), "").rpartition("/")[2]
            if re.search(r"(any|linux\w*_x86_64)\.whl$", name):
                yield name


def _fits(wheel: str, python: str) -> bool:
    try:
        tags = parse_wheel_filename(wheel)[3]
    except InvalidWheelFilename:
        return True
    minor = int(python.partition(".")[2])
    for tag in tags:
        if tag.interpreter.startswith("py3") or tag.interpreter == f"cp3{minor}":
            return True
        older = re.fullmatch(r"cp3(\d+)", tag.interpreter)
        if tag.abi == "abi3" and older and int(older[1]) <= minor:
            return True
    return False
