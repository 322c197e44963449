"""The health path of an application: a route with a usual name, and without parameters."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from scripts.adopt.code import APPLICATIONS, HTTP_METHODS, Module, assigned_calls, find_constants, text_of

# The first one that exists is used: readiness before liveness.
NAMES = (
    *("ready", "readyz", "readiness", "health", "healthz", "healthcheck", "health-check", "health_check", "_health"),
    *("ht", "ping", "status", "heartbeat", "__heartbeat__", "up", "live", "livez", "liveness", "alive"),
)
# Parts before the name: `/orders/status` is a page of the application.
OUTER = re.compile(r"api|v\d+|internal|system|control|monitoring|utils|core|public|health|status|_|-")
ROUTERS = {"fastapi.APIRouter", "flask.Blueprint", "quart.Blueprint", "apiflask.APIBlueprint"}
REGISTRATIONS = {"include_router": "prefix", "register_blueprint": "url_prefix"}


@dataclass(frozen=True)
class Route:
    """A route for GET: its path, and the `file:line` that states it."""

    path: str
    source: str


def find_health_paths(modules: list[Module]) -> list[Route]:
    """Return the routes with the usual names, the best one first. Paths whose prefix is unknown are left out."""
    found = []
    for route in [*_decorated(modules), *_django(modules)]:
        name = route.path.strip("/").rpartition("/")[2].lower()
        if name in NAMES and all(OUTER.fullmatch(part) for part in route.path.lower().strip("/").split("/")[:-1]):
            found.append((NAMES.index(name), len(route.path), route))
    return [route for *_, route in sorted(found, key=lambda item: item[:2])]


def _decorated(modules: list[Module]) -> Iterator[Route]:
    """Yield the routes of decorators, as in Flask and FastAPI."""
    prefixes = dict(_router_prefixes(modules))
    for module in modules:
        applications, others = _own_applications(module)
        for node in ast.walk(module.tree):
            for decorator in getattr(node, "decorator_list", []):
                if not isinstance(decorator, ast.Call) or not isinstance(decorator.func, ast.Attribute):
                    continue
                path = text_of(decorator.args[0]) if decorator.args else None
                owner = decorator.func.value
                methods = [ast.unparse(item.value) for item in decorator.keywords if item.arg == "methods"]
                if decorator.func.attr not in HTTP_METHODS or not isinstance(owner, ast.Name) or path is None:
                    continue
                if methods and "GET" not in methods[0]:
                    continue
                is_application = owner.id in applications or owner.id in {"app", "application", "api"} - others
                prefix = prefixes.get((module.name, owner.id), "" if is_application else None)
                if prefix is not None and not re.search(r"[<{:]", path):
                    yield Route(f"{prefix}{path}", module.at(decorator))


def _own_applications(module: Module) -> tuple[set[str], set[str]]:
    """Return the names of the applications that a module makes, and of objects that are in another application."""
    made, others = set(), set()
    for name, call in assigned_calls(module):
        made_by = module.full_name(call.func)
        if made_by in APPLICATIONS:
            made.add(name)
        elif made_by.endswith(("API", ".Api")):
            others.add(name)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "mount":
            others |= {argument.id for argument in node.args if isinstance(argument, ast.Name)}
    return made - others, others


def _router_prefixes(modules: list[Module]) -> Iterator[tuple[tuple[str, str], str | None]]:
    """Yield (module, name of a router) and its prefix; None if that is unknown."""
    registered: dict[str, list[str | None]] = {}
    for module in modules:
        for call in (node for node in ast.walk(module.tree) if isinstance(node, ast.Call)):
            method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            if keyword := REGISTRATIONS.get(method):
                given = [item.value for item in call.keywords if item.arg == keyword]
                is_app = isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in ("app", "application")
                prefix = (text_of(given[0]) if given else "") if is_app else None
                for argument in call.args[:1]:
                    name = module.full_name(argument)
                    registered.setdefault(name if "." in name else f"{module.name}.{name}", []).append(prefix)
    for module in modules:
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
                continue
            if module.full_name(node.value.func) not in ROUTERS or not isinstance(node.targets[0], ast.Name):
                continue
            name = node.targets[0].id
            own = [item.value for item in node.value.keywords if item.arg in ("prefix", "url_prefix")]
            inner = text_of(own[0]) if own else ""
            outer = registered.get(f"{module.name}.{name}", [])
            is_known = len(outer) == 1 and outer[0] is not None and inner is not None
            # Flask: the prefix of the registration replaces that of the blueprint.
            is_flask = "Blueprint" in module.full_name(node.value.func)
            both = (outer[0] or inner) if is_known and is_flask else f"{outer[0]}{inner}" if is_known else None
            yield (module.name, name), both


def _django(modules: list[Module]) -> Iterator[Route]:
    """Yield the routes of Django's URL configuration, from ROOT_URLCONF on."""
    by_name = {module.name: module for module in modules}
    for _, constant in find_constants(modules, "ROOT_URLCONF"):
        if root := text_of(constant.value):
            yield from _urlconf(by_name, root, "/", set())


def _urlconf(modules: dict[str, Module], name: str, prefix: str, seen: set[str]) -> Iterator[Route]:
    if name not in modules or name in seen:
        return
    module = modules[name]
    for call in (node for node in ast.walk(module.tree) if isinstance(node, ast.Call)):
        path = text_of(call.args[0]) if len(call.args) > 1 else None
        if module.full_name(call.func) != "django.urls.path" or path is None or "<" in path:
            continue
        view = call.args[1]
        if isinstance(view, ast.Call) and module.full_name(view.func) == "django.urls.include":
            included = (text_of(view.args[0]) or "") if view.args else ""
            if included == "health_check.urls":
                yield Route(prefix + path, module.at(call))
            yield from _urlconf(modules, included, prefix + path, seen | {name})
        else:
            yield Route(prefix + path, module.at(call))
