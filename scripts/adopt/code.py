"""What the source code says about an application, read from its syntax trees: nothing is imported."""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from scripts.adopt.repository import Repository
from scripts.runner.process import Failure

# The class or function that makes an application: the framework's name and package, and its interface.
APPLICATIONS = {
    "fastapi.FastAPI": "fastapi",
    "flask.Flask": "flask",
    "apiflask.APIFlask": "flask",
    "flask_openapi3.OpenAPI": "flask",
    "connexion.FlaskApp": "flask",
    "quart.Quart": "quart",
    "starlette.applications.Starlette": "starlette",
    "litestar.Litestar": "litestar",
    "litestar.app.Litestar": "litestar",
    "falcon.App": "falcon",
    "falcon.API": "falcon",
    "falcon.asgi.App": "falcon-asgi",
    "bottle.Bottle": "bottle",
    "django.core.wsgi.get_wsgi_application": "django",
    "django.core.asgi.get_asgi_application": "django-asgi",
}
ASGI = ("fastapi", "quart", "starlette", "litestar", "falcon-asgi", "django-asgi", "flask-asgi")
NOT_DEPLOYED = {
    *("test", "tests", "testing", "docs", "doc", "examples", "example", "samples", "demo", "migrations", "alembic"),
    *("node_modules", "site-packages", "venv", ".venv", "benchmarks", "scripts", ".github", "notebooks"),
}
# Calls that return an application around another one.
WRAPPERS = re.compile(r"Middleware|[AW]SGI|WsgiToAsgi|ProxyFix|WhiteNoise|Dispatcher|ProtocolTypeRouter|\bApp$")
HTTP_METHODS = ("get", "route", "api_route")


@dataclass(frozen=True)
class Application:
    """An application object or its factory: framework, `module:name`, whether it must be called, `file:line`."""

    framework: str
    target: str
    is_factory: bool
    source: str


@dataclass
class Module:
    """A parsed file: its import name, its syntax tree, and the full names of what it imports."""

    file: str
    name: str
    tree: ast.Module
    imports: dict[str, str] = field(default_factory=dict)

    def full_name(self, node: ast.expr) -> str:
        """Return the full name of a name or attribute, for example `flask.Flask`; empty for other expressions."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        return ".".join([self.imports.get(node.id, node.id), *reversed(parts)])

    def qualified(self, node: ast.expr) -> str:
        """Return the full name of a name, also of one that this module defines."""
        name = self.full_name(node)
        return f"{self.name}.{name}" if isinstance(node, ast.Name) and node.id not in self.imports else name

    def at(self, node: ast.AST) -> str:
        """Return `file:line` of a node."""
        return f"{self.file}:{getattr(node, 'lineno', 1)}"


@dataclass(frozen=True)
class Code:
    """The modules that are deployed, the folder on the import path in addition to the top level, and parse errors."""

    modules: list[Module]
    source_folder: str
    failed: list[str]


def parse(repository: Repository, installed: frozenset[str] = frozenset()) -> Code:
    """Return the code of a project; `installed` are the packages that it depends on, with underscores."""
    trees: dict[str, ast.Module] = {}
    failed = []
    for file in repository.names:
        path = PurePosixPath(file)
        if path.suffix != ".py" or is_test(path) or NOT_DEPLOYED & set(path.parts[:-1]):
            continue
        try:
            trees[file] = ast.parse(repository.text(file))
        except Failure as error:
            failed.append(str(error))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            failed.append(f"{file} is not valid for Python {sys.version_info.major}.{sys.version_info.minor}")
    source_folder = find_manage(repository).rpartition("/")[0] or _source_folder(trees, installed)
    modules = [Module(file, import_name(file, source_folder), tree) for file, tree in trees.items()]
    for module in modules:
        module.imports = dict(_imports(module))
    return Code(modules, source_folder, failed)


def _source_folder(trees: dict[str, ast.Module], installed: frozenset[str]) -> str:
    """Return the folder from which most files import others; by default `src`, unless it is itself imported."""
    importable = {part for file in trees for part in [file.removesuffix(".py"), *map(str, PurePosixPath(file).parents)]}
    votes: Counter[str] = Counter()
    for file, tree in trees.items():
        # A folder with an __init__.py is a package, and not on the import path.
        folders = [str(folder) for folder in PurePosixPath(file).parents if f"{folder}/__init__" not in importable]
        names = {name for node in ast.walk(tree) for name in _imported_packages(node)}
        for name in names - sys.stdlib_module_names - installed:
            if name in importable:
                votes[""] += name == "src"
            else:
                votes.update(folder for folder in folders if f"{folder}/{name}" in importable)
    return votes.most_common(1)[0][0] if votes.total() else "src"


def _imported_packages(node: ast.AST) -> list[str]:
    """Return the top-level packages that an absolute import names."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level and node.module:
        return [node.module.partition(".")[0]]
    return []


def is_test(path: PurePosixPath) -> bool:
    """Return whether a file contains tests or their settings."""
    stem = path.stem
    words = stem.split("_")
    return "test" in words or "tests" in words or stem == "conftest"


def find_manage(repository: Repository) -> str:
    """Return the manage.py of a Django project, the one that is nearest to the top level; empty without one."""
    found = [
        name
        for name in repository.matching("manage.py")
        if not NOT_DEPLOYED & set(name.split("/")) and "django" in repository.text(name)
    ]
    return min(found, key=lambda name: (name.count("/"), name), default="")


def import_name(file: str, source_folder: str) -> str:
    """Return the name with which a file is imported, if this folder and the top level are on the import path."""
    parts = file.removeprefix(f"{source_folder}/").removesuffix(".py").split("/")
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def _imports(module: Module) -> Iterator[tuple[str, str]]:
    package = module.name.split(".")
    if not module.file.endswith("__init__.py"):
        package.pop()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                yield alias.asname or alias.name, f"{origin}.{alias.name}"


def find_applications(modules: list[Module]) -> list[Application]:
    """Return the application objects at the top level of modules; without any, the factories."""
    makers = {name: framework for module in modules for name, framework, _ in _makers(module)}
    found: list[Application] = []
    for module in modules:
        own: dict[str, Application] = {}
        for name, value in assignments(module):
            if framework := _made(module, name, value, makers, own):
                # `application = Middleware(application)` replaces the inner one, unless it is for another server.
                is_same = framework != "flask-asgi"
                own = {key: item for key, item in own.items() if not (is_same and _mentions(value, key))}
                own[name] = Application(framework, f"{module.name}:{name}", False, module.at(value))
        found += own.values()
    return found or find_factories(modules)


def find_factories(modules: list[Module]) -> list[Application]:
    """Return the functions without required parameters that make and return an application."""
    return [
        Application(framework, f"{module.name}:{node.name}", True, module.at(node))
        for module in modules
        for _, framework, node in _makers(module)
        if len(node.args.args) <= len(node.args.defaults) and None not in node.args.kw_defaults
    ]


def _makers(module: Module) -> Iterator[tuple[str, str, ast.FunctionDef]]:
    """Yield the full name, the framework and the tree of each function that makes and returns an application."""
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef) and any(isinstance(part, ast.Return) for part in ast.walk(node)):
            calls = (part for part in ast.walk(node) if isinstance(part, ast.Call))
            if framework := next(filter(None, (APPLICATIONS.get(module.full_name(call.func)) for call in calls)), None):
                yield f"{module.name}.{node.name}", framework, node


def _made(module: Module, name: str, value: ast.expr, makers: dict[str, str], own: dict[str, Application]) -> str:
    """Return the framework of the application that `name = value` makes or wraps; empty if it makes none."""
    if not isinstance(value, ast.Call):
        return ""
    known = APPLICATIONS.get(module.full_name(value.func)) or makers.get(module.qualified(value.func))
    if known:
        return known
    if isinstance(value.func, ast.Attribute) and module.full_name(value.func.value) in own:
        return ""  # a method of the application
    wrapper = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
    if name not in {*own, "app", "application"} and not WRAPPERS.search(wrapper):
        return ""  # an extension that uses the application, such as Migrate(app)
    for part in ast.walk(value):
        inner = ""
        if isinstance(part, ast.Call) and part is not value:
            inner = APPLICATIONS.get(module.full_name(part.func)) or makers.get(module.qualified(part.func)) or ""
        elif isinstance(part, ast.Name) and part.id in own:
            inner = own[part.id].framework
        if inner:
            return "flask-asgi" if wrapper == "WsgiToAsgi" and inner == "flask" else inner
    return ""


def _mentions(value: ast.expr, name: str) -> bool:
    return any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(value))


def assignments(module: Module) -> Iterator[tuple[str, ast.expr]]:
    """Yield the name and the value of each assignment at the top level."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value


def assigned_calls(module: Module) -> Iterator[tuple[str, ast.Call]]:
    """Yield the name and the call of each assignment of a call, also within functions."""
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) and isinstance(node.value, ast.Call):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.value


def find_calls(modules: list[Module], *names: str) -> Iterator[tuple[Module, ast.Call]]:
    """Yield the calls of functions or classes with these full names."""
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and module.full_name(node.func) in names:
                yield module, node


def find_constants(modules: list[Module], name: str) -> Iterator[tuple[Module, ast.Assign]]:
    """Yield the assignments of a value to this name at the top level of modules."""
    for module in modules:
        for node in module.tree.body:
            if isinstance(node, ast.Assign) and any(isinstance(x, ast.Name) and x.id == name for x in node.targets):
                yield module, node


def text_of(node: ast.AST | None) -> str | None:
    """Return the value of a string literal; None for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
