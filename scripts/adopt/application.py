"""The application object, and the command that serves it."""

import re

from packaging.utils import canonicalize_name

from scripts.adopt import code
from scripts.adopt.code import ASGI, Application
from scripts.adopt.commands import ALL, PORT, server_words, worker_words
from scripts.adopt.evidence import Evidence, Undecided
from scripts.adopt.processes import Process
from scripts.runner.process import Failure

# The package of each kind of application.
FRAMEWORKS = {kind: kind.removesuffix("-asgi") for kind in (*code.APPLICATIONS.values(), *ASGI)}
# The commands of application servers, by the name of the package. Keep-alive must be longer than the 3 s of the front.
WSGI_SERVERS = {
    "gunicorn": ["gunicorn", "{target}", "--bind", f"{ALL}:{PORT}", "--workers", "2", "--keep-alive", "75"],
    "granian": ["granian", "--interface", "wsgi", "{target}", "--host", ALL, "--port", PORT],
    "waitress": ["waitress-serve", f"--listen={ALL}:{PORT}", "{target}"],
    "uwsgi": [
        *("uwsgi", "--http-socket", f"{ALL}:{PORT}", "--module", "{target}", "--master", "--enable-threads"),
        # By default, SIGTERM reloads; with die-on-term, it cuts off requests in flight.
        *("--processes", "2", "--hook-master-start", "unix_signal:15 gracefully_kill_them_all"),
    ],
}
# For projects whose dependencies contain no server.
SERVER_VERSIONS = {"gunicorn": "27.0.1", "uvicorn": "0.54.0"}
ASGI_SERVERS = {
    "uvicorn": ["uvicorn", "{target}", "--host", ALL, "--port", PORT, "--timeout-keep-alive", "75"],
    "hypercorn": ["hypercorn", "{target}", "--bind", f"{ALL}:{PORT}", "--graceful-timeout", "30", "--keep-alive", "75"],
    "granian": ["granian", "--interface", "asgi", "{target}", "--host", ALL, "--port", PORT],
    "daphne": ["daphne", "--bind", ALL, "--port", PORT, "{target}"],
}


def find_application(evidence: Evidence, web: list[Process]) -> Application | None:
    """Return the application; None if a command starts one that the code does not show.

    Raise Undecided if there is none or more than one.
    """
    if (answer := evidence.answer("application")) is not None:
        return _named(evidence, answer)
    candidates = code.find_applications(evidence.modules)
    candidates = [item for item in candidates if _is_dependency(evidence, item)] or candidates
    candidates = [item for item in candidates if any(_starts(process, item) for process in web)] or candidates
    candidates = _of_one_interface(evidence, candidates)
    if len(candidates) == 1:
        found = candidates[0]
        framework = FRAMEWORKS[found.framework]
        package = evidence.dependencies.find(framework)
        version = f" {package.version}" if package and package.version else ""
        evidence.add("framework", f"{framework}{version}", package.source if package else found.source)
        evidence.add("application", found.target, found.source)
        return found
    if candidates:
        frameworks = sorted({FRAMEWORKS[item.framework] for item in candidates})
        reason = f"two frameworks: {' and '.join(frameworks)}" if len(frameworks) > 1 else "several applications"
        raise Undecided("application", reason, tuple(f"{item.target} ({item.source})" for item in candidates))
    if web:
        return None
    package = evidence.dependencies.find(*sorted(set(FRAMEWORKS.values())))
    what = f"{package.name} is a dependency ({package.source})" if package else "no web framework is a dependency"
    raise Undecided("application", f"{what}, but no file creates an application" if package else what)


def _is_dependency(evidence: Evidence, item: Application) -> bool:
    return FRAMEWORKS[item.framework] in evidence.dependencies.packages


def _named(evidence: Evidence, target: str) -> Application:
    """Return the application that the user names."""
    if not re.fullmatch(r"[\w.]+:\w+(\(\))?", target):
        raise Failure(f"--set application={target}: expected module:name, for example app.main:app")
    name = target.removesuffix("()")
    for item in [*code.find_applications(evidence.modules), *code.find_factories(evidence.modules)]:
        if item.target == name:
            return item
    package = evidence.dependencies.find(*FRAMEWORKS.values())
    return Application(package.name if package else "flask", name, target.endswith("()"), "--set application")


def _of_one_interface(evidence: Evidence, candidates: list[Application]) -> list[Application]:
    """Return the interface of an application that the installed servers can start: WSGI if they can start both."""
    if len({FRAMEWORKS[item.framework] for item in candidates}) != 1:
        return candidates
    packages = evidence.dependencies.packages
    is_asgi = "channels" in packages or (not packages.keys() & WSGI_SERVERS and bool(packages.keys() & ASGI_SERVERS))
    return [item for item in candidates if (item.framework in ASGI) == is_asgi] or candidates


def _starts(process: Process, application: Application) -> bool:
    """Return whether a command names this application: `module:name`; for `application`, `module` is enough."""
    module, _, name = application.target.partition(":")
    names = {application.target, f"{application.target}()", module if name == "application" else application.target}
    return any(word in names for word in process.words)


def find_command(evidence: Evidence, application: Application | None, web: list[Process]) -> list[str]:
    """Return the command that serves the application: that of the project's files, or the usual one of its server.

    Raise Undecided if there are several, and Failure if no application server is installed.
    """
    if (answer := evidence.answer("command")) is not None:
        words = server_words(answer) or worker_words(answer)
        if not words:
            raise Failure("--set command= is empty: write the command that starts the application server")
        return words
    found = [process for process in web if application and _starts(process, application)]
    if not found and len({frozenset(process.words) for process in web}) > 1:
        listed = tuple(f"{' '.join(process.words)} ({process.source})" for process in web)
        raise Undecided("command", "several commands start an application server", listed)
    if found := found or (web if "application" not in evidence.answers else []):
        first, *others = found  # a Procfile first, then compose files, then Dockerfiles
        also = f"; not used: {', '.join(process.source for process in others)}" if others else ""
        evidence.add("command", " ".join(first.words), first.source + also)
        return list(first.words)
    if not application:
        raise Undecided("command", "no file says how the application server starts")
    return _usual_command(evidence, application)


def _usual_command(evidence: Evidence, application: Application) -> list[str]:
    servers = ASGI_SERVERS if application.framework in ASGI else WSGI_SERVERS
    added = canonicalize_name(re.split(r"[=<>~!\[]", evidence.answers.get("server", ""))[0])
    sources = {name: package.source for name, package in evidence.dependencies.packages.items() if name in servers}
    if added:
        sources.setdefault(added, "--set server")
    if not sources:
        sources = {name: evidence.dependencies.file for name in servers if evidence.dependencies.is_installed(name)}
    for name, template in servers.items():
        if name in sources:
            words = _with_target(template, application)
            evidence.add("command", " ".join(words), f"{sources[name]}: {name}")
            return words
    first, *others = servers
    raise Failure(
        f"no application server is among the dependencies in {evidence.dependencies.file}. Add {first} (or"
        f" {', '.join(others)}), or let the image install it: --set server={first}=={SERVER_VERSIONS[first]}"
    )


def find_server(evidence: Evidence, command: list[str]) -> str:
    """Return the pinned application server that the image installs in addition; empty if it is a dependency.

    That is the user's answer, or the server of the project's own command.
    """
    if (answer := evidence.answer("server")) is not None:
        if answer and not re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[\w.]+", answer):
            raise Failure(f"--set server={answer}: expected a pinned package, for example gunicorn==27.0.1")
        return answer
    for name, version in SERVER_VERSIONS.items():
        if name in command and not evidence.dependencies.is_installed(name):
            pinned = f"{name}=={version}"
            evidence.notes.append(
                f"{name} is not among the dependencies: the image installs {pinned}. Better: add it to"
                f" {evidence.dependencies.file}"
            )
            return pinned
    return ""


def _with_target(template: list[str], application: Application) -> list[str]:
    """Return the command with the application in it."""
    target = application.target
    words = [target if word == "{target}" else word for word in template]
    if not application.is_factory:
        return words
    if words[0] in ("uvicorn", "granian"):
        return [*words, "--factory"]
    return [f"{target}()" if word == target else word for word in words]
