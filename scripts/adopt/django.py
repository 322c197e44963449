"""What is particular to Django: settings module, HTTPS, static files."""

import ast
import re
from pathlib import PurePosixPath

from scripts.adopt import code
from scripts.adopt.evidence import Evidence, Finding, Undecided
from scripts.adopt.repository import line_at
from scripts.runner.process import Failure

PRODUCTION = re.compile(r"(^|_)(prod|production|live)(_|$)")


def find_settings_module(evidence: Evidence) -> str:
    """Return the settings module of the application, if manage.py names a different one; else an empty text.

    It is that of the Dockerfile, the Procfile or a compose file for production, or of wsgi.py or asgi.py. Raise
    Undecided if another one is for production.
    """
    if (answer := evidence.answer("settings-module")) is not None:
        if not re.fullmatch(r"[\w.]+", answer):
            raise Failure(f"--set settings-module={answer}: expected a module, for example config.settings.production")
        return answer
    named = {}
    for module, call in code.find_calls(evidence.modules, "os.environ.setdefault"):
        name, value = [*map(code.text_of, call.args), None, None][:2]
        if name == "DJANGO_SETTINGS_MODULE" and value and re.fullmatch(r"[\w.]+", value):
            named[PurePosixPath(module.file).name] = Finding(value, module.at(call))
    for file in (*evidence.repository.matching("*compose*prod*.y*ml"), "Procfile", "Dockerfile"):
        text = evidence.repository.text(file)
        if stated := re.search(r"\bDJANGO_SETTINGS_MODULE[=: ]+[\"']?([\w.]+)", text):
            named["production"] = Finding(stated[1], f"{file}:{line_at(text, stated.start())}")
    deployed = named.get("production") or named.get("wsgi.py") or named.get("asgi.py")
    if not deployed:
        return ""
    if others := _production_settings(evidence, deployed.value):
        reason = f"{deployed.source} uses the settings module {deployed.value}, and another one looks like production"
        raise Undecided("settings-module", reason, (*others, deployed.value))
    if deployed.value != named.get("manage.py", deployed).value:
        return evidence.add("settings module", deployed.value, deployed.source)
    return ""


def _production_settings(evidence: Evidence, name: str) -> list[str]:
    """Return the modules next to a settings module whose names say that they are for production; none if its own does.

    If it is a package, they are in it.
    """
    if PRODUCTION.search(name.rpartition(".")[2]):
        return []
    packages = {module.name: module for module in evidence.modules if module.file.endswith("/__init__.py")}
    package = name if name in packages else name.rpartition(".")[0]
    names = {module.name for module in evidence.modules if module.name.rpartition(".")[0] == package} - packages.keys()
    found = sorted(module for module in names if PRODUCTION.search(module.rpartition(".")[2]))
    imported = packages[name].imports.values() if name in packages else []
    return [] if any(origin.startswith(f"{module}.") for origin in imported for module in found) else found


def note_losses(evidence: Evidence, command: list[str]) -> None:
    """Note what works in development and is lost in production: uploads in the container, and WebSockets over WSGI."""
    uploads = next(code.find_constants(evidence.modules, "MEDIA_ROOT"), None)
    if uploads and not evidence.dependencies.is_installed("django-storages"):
        evidence.notes.append(
            f"MEDIA_ROOT ({uploads[0].at(uploads[1])}): each release has a new container, without the files that users"
            " uploaded. Store them in object storage, or in a volume of docker-compose.prod.yml"
        )
    installed = next(filter(evidence.dependencies.is_installed, ("daphne", "uvicorn", "hypercorn")), "")
    for module, call in code.find_calls(evidence.modules, "channels.routing.ProtocolTypeRouter"):
        if not any(word.startswith(f"{module.name}:") or word == module.name for word in command):
            evidence.notes.append(
                f"{module.at(call)} accepts WebSockets, and the command does not start it. To do so: "
                + ("" if installed else "add uvicorn[standard] to your dependencies, and ")
                + f"--set command='{installed or 'uvicorn'} {module.name}:application'"
            )


def requires_https(evidence: Evidence) -> bool:
    """Return whether the project redirects plain HTTP."""
    for module in evidence.modules:
        for node in ast.walk(module.tree):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(target, ast.Name) and target.id == "SECURE_SSL_REDIRECT" for target in targets):
                value = node.value  # type: ignore[attr-defined] # an ast.Assign
                if not isinstance(value, ast.Constant) or value.value:
                    evidence.add("HTTPS", "required: plain HTTP is redirected", module.at(node))
                    return True
    return False


def find_static_files(evidence: Evidence) -> tuple[str, str]:
    """Return STATIC_ROOT relative to the project, and the URL prefix that the front must serve.

    Empty without static files. The prefix is also empty if WhiteNoise serves them.
    """
    roots = list(code.find_constants(evidence.modules, "STATIC_ROOT"))
    if not roots or not evidence.texts(r"^django\.contrib\.staticfiles$"):
        return "", ""
    module, node = roots[-1]
    if any(isinstance(part, ast.Attribute) and part.attr == "parent" for part in ast.walk(node.value)) or [
        call for call in ast.walk(node.value) if isinstance(call, ast.Call) and not _joins(call)
    ]:
        root = ""
    else:
        literals = [part for part in ast.walk(node.value) if isinstance(part, ast.Constant) and code.text_of(part)]
        literals.sort(key=lambda part: (part.lineno, part.col_offset))  # BASE_DIR / "a" / "b", or join(BASE_DIR, "a")
        root = "/".join(str(part.value) for part in literals).rstrip("/")
        if isinstance(node.value, ast.JoinedStr) and isinstance(node.value.values[0], ast.FormattedValue):
            root = root.lstrip("/")  # f"{BASE_DIR}/static"
        folder = _base_folder(evidence, module, node.value)
        root = f"{folder}/{root}" if folder else root
    if not re.fullmatch(r"[\w-][\w./-]*", root) or ".." in root:
        evidence.notes.append(f"STATIC_ROOT ({module.at(node)}) is not in the project: static files are not collected")
        return "", ""
    evidence.add("static files", f"collectstatic into {root}", module.at(node))
    if evidence.texts("whitenoise"):
        return root, ""
    urls = [code.text_of(node.value) for _, node in code.find_constants(evidence.modules, "STATIC_URL")]
    prefix = "/" + (next(filter(None, urls), None) or "static").strip("/") + "/"
    return root, prefix if re.fullmatch(r"/[\w./-]+/", prefix) else ""  # not the address of another server


def _base_folder(evidence: Evidence, module: code.Module, path: ast.expr) -> str:
    """Return the folder in the project that a path such as `BASE_DIR / "static"` begins with; empty: the top level."""
    names = {part.id for part in ast.walk(path) if isinstance(part, ast.Name)}
    others = (other for other in evidence.modules if other is not module)
    assigned = [(found.file, *item) for found in (module, *others) for item in code.assignments(found)]
    for file, name, value in assigned:
        if name in names and "__file__" in (text := ast.unparse(value)):
            indexes = [int(index) + 1 for index in re.findall(r"\.parents\[(\d+)\]", text)]
            levels = len(re.findall(r"\.parent\b|\bdirname\(", text)) + sum(indexes)
            folders = [str(folder) for folder in PurePosixPath(file).parents]
            return folders[levels - 1].removeprefix(".") if 0 < levels <= len(folders) else ""
    is_relative = isinstance(path, ast.Constant)  # to the current directory
    return "" if is_relative else code.find_manage(evidence.repository).rpartition("/")[0]


def _joins(call: ast.Call) -> bool:
    """Return whether a call only joins parts of a path."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name in ("join", "joinpath", "str", "Path", "root", "path", "abspath", "dirname")
