"""Runs the deploy program on the rehearsal's server; lists the points where it can be killed, or kills it at one.

Points are before and after each process that it starts, each file that it renames, removes or links, and each
request that changes something in the engine. Standard library only. `python3 -m server ...` becomes
`points.py -m server ...`, with these environment variables:

    POINTS=FILE           append each point to the file, after the time in seconds
    AT=POINT SIGNAL=NAME  at this point send KILL, TERM, INT or HUP to the process group; ALONE: KILL to
                          this process only
    MARK=FILE             before that, write to the file how the program treats the signal: default, ignored
                          or handled
"""

import http.client
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

AUDIT_EVENTS = ("subprocess.Popen", "os.rename", "os.remove", "os.mkdir", "os.symlink", "shutil.rmtree", "os.truncate")
# Commits, ids of deploys, and random names of temporary files.
IDS = re.compile("[0-9a-f]{40}|[0-9]{10}|(?<=(?:unlink|remove) )[a-z0-9_]{8}(?= in )")
MAX_OCCURRENCES = 3  # recorded per point; more come from a loop

occurrences: Counter[str] = Counter()
state = threading.local()
forked = False


def handle_point(when: str, event: str) -> None:
    """Handle one point. Its name consists of the event and of the calling functions of the program."""
    if forked or getattr(state, "busy", False):
        return
    state.busy = True
    try:
        frame, names = sys._getframe(1), []
        while frame:
            if frame.f_code.co_filename.endswith("shutil.py") and "shutil" not in event:
                return  # a file of a removed folder: only the removal of the folder is a point
            if "/server/" in frame.f_code.co_filename:
                names.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")
            frame = frame.f_back
        if not names or ".pyc" in event:  # the interpreter's own cache
            return
        point = IDS.sub("ID", f"{when} {event} in {' < '.join(names[:5])}")
        occurrences[point] += 1
        if occurrences[point] <= MAX_OCCURRENCES:
            list_or_kill(f"{point} #{occurrences[point]}")
    finally:
        state.busy = False


def list_or_kill(point: str) -> None:
    """List the point, or send the signal if it is the point to kill at."""
    if file := os.environ.get("POINTS"):
        with Path(file).open("a") as points:
            points.write(f"{time.monotonic():.3f} {point}\n")
    elif point == os.environ.get("AT"):
        name = os.environ["SIGNAL"]
        number = signal.SIGKILL if name == "ALONE" else getattr(signal, f"SIG{name}")
        Path(os.environ["MARK"]).write_text(describe_handler(number))
        os.kill(os.getpid() if name == "ALONE" else 0, number)


def describe_handler(number: int) -> str:
    """How the program treats a signal at the moment."""
    handler = signal.getsignal(number)
    if handler in (signal.SIG_DFL, signal.default_int_handler):
        return "default"
    return "ignored" if handler == signal.SIG_IGN else "handled"


def describe_command(arguments: list[str]) -> str:
    """A command without the arguments that differ between deploys."""
    words = [word for word in arguments if not word.startswith(("-", "/")) and "=" not in word]
    return " ".join([Path(arguments[0]).name, *[word for word in words if len(word) < 12][:3]])


def audit(event: str, arguments: tuple) -> None:
    """Reach a point before an action: the interpreter reports it as an audit event."""
    if event == "http.client.send":
        line = bytes(arguments[1]).split(b"\r\n", 1)[0].decode(errors="replace")
        if line.startswith(("POST", "DELETE", "PUT")):
            handle_point("before", describe_request(line))
    elif event == "subprocess.Popen":
        handle_point("before", describe_command([str(word) for word in arguments[1]]))
    elif event in AUDIT_EVENTS:
        handle_point("before", f"{event} {Path(str(arguments[0])).name}")


def describe_request(line: str) -> str:
    """The method and the path of a request, without ids (at least 25 characters, those of Swarm) and query."""
    method, path = line.split(" ")[:2]
    return method + " " + "/".join(part if len(part) < 25 else "ID" for part in path.partition("?")[0].split("/"))


def report_after(owner: object, name: str, describe: Callable[..., str]) -> None:
    """Replace a function with one that reaches a point after it returned, unless `describe` returns an empty text."""
    original = getattr(owner, name)

    def wrapper(*arguments, **options):
        result = original(*arguments, **options)
        if event := describe(*arguments):
            handle_point("after", event)
        return result

    setattr(owner, name, wrapper)


def describe_answer(connection: http.client.HTTPConnection) -> str:
    """The answer to a request that changed something; empty for others."""
    method = getattr(connection, "_method", None) or ""
    return f"answer to {method}" if method in ("POST", "DELETE", "PUT") else ""


def note_fork(child: bool) -> None:
    """The deploy continues in the child; the parent only prints its log (see the scenario `dropped_connection`)."""
    global forked
    forked = not child


def main() -> None:
    """Run the program with the hooks in place."""
    os.register_at_fork(after_in_parent=lambda: note_fork(False), after_in_child=lambda: note_fork(True))
    for name, event in (("__init__", "start"), ("communicate", "end")):
        report_after(
            subprocess.Popen,
            name,
            lambda process, *_, event=event: f"{event} of {describe_command([str(word) for word in process.args])}",
        )
    for name in ("rename", "replace", "symlink", "unlink"):
        report_after(os, name, lambda path, *_, name=name: f"{name} {Path(str(path)).name}")
    report_after(http.client.HTTPConnection, "getresponse", describe_answer)
    sys.addaudithook(audit)
    sys.argv = ["server", *sys.argv[3:]]
    sys.path[0] = str(Path.cwd())
    runpy.run_module("server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
