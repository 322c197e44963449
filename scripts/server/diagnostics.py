"""Why a release is not healthy: its log, how its containers exited, and the output of its health checks."""

import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server import commands, engine, on_node
from server.state import say

LOG_LINES = "50"


def show(directory: Path, containers: Mapping[str, str]) -> None:
    """Print the last lines of each log, how each container exited, and the output of its health checks.

    `containers` are ids by name.
    """
    for name, container in containers.items():
        say(f"last log lines of {name}:")
        commands.docker(directory, "logs", "--tail", LOG_LINES, container)
        for line in describe_exit(container):
            print(line, flush=True)


def describe_exit(container: str) -> list[str]:
    """Describe how a container exited, and the output of its last health checks."""
    try:
        found = engine.inspect(container)
        events = _events(container)
    except engine.EngineError as error:
        return [str(error)]
    state, limit = found["State"], found["HostConfig"].get("Memory", 0)
    codes = [int(event["Actor"]["Attributes"].get("exitCode", 0)) for event in events if event["Action"] == "die"]
    if not codes and not state["Running"] and state["Status"] != "created":
        codes = [state["ExitCode"]]
    lines = [f"exit code {code}{_signal_name(code)}" for code in codes[-1:]]
    if state.get("OOMKilled") or any(event["Action"] == "oom" for event in events):
        lines.append(on_node.OUT_OF_MEMORY.format(limit >> 20))
    if found["RestartCount"]:
        lines.append(f"restarts: {found['RestartCount']}")
    return lines + on_node.describe_checks(state)


def _events(container: str) -> list[Any]:
    filters = json.dumps({"container": [container], "event": ["die", "oom"]})
    body = engine.request("GET", "/events", {"since": "1", "until": f"{time.time():.6f}", "filters": filters})
    return [json.loads(line) for line in body.splitlines() if line.strip()]


def _signal_name(code: int) -> str:
    if code > 128:
        try:
            return f" ({signal.Signals(code - 128).name})"
        except ValueError:
            pass
    return ""
