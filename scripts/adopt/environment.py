"""The settings that the code reads from environment variables: their names, never their values."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeGuard

from scripts.adopt.code import Module, assigned_calls, text_of

# Functions that read a variable: their first argument is its name.
READERS = {"os.getenv", "os.environ.get", "os.environ.pop", "decouple.config"}
READER_OBJECTS = {"environs.env"}
READER_CLASSES = {
    *("environs.Env", "environ.Env", "environ.FileAwareEnv", "starlette.config.Config"),
    *("decouple.AutoConfig", "decouple.Config"),
}
READER_METHODS = {
    *("str", "bool", "int", "float", "decimal", "list", "dict", "json", "url", "uuid", "path", "enum", "tuple"),
    *("db", "db_url", "dj_db_url", "cache", "cache_url", "email", "email_url", "search_url", "log_level", "timedelta"),
}
DEFAULT_NAMES = {"db": "DATABASE_URL", "db_url": "DATABASE_URL", "cache": "CACHE_URL", "cache_url": "CACHE_URL"}
CASTS = {"int": "int", "float": "int", "decimal": "int", "bool": "bool", "EmailStr": "email", "email": "email"}
CASTS |= dict.fromkeys(("AnyUrl", "AnyHttpUrl", "HttpUrl", "url"), "url")
MODEL_CLASSES = {"pydantic.BaseModel", "pydantic.v1.BaseModel"}
SETTINGS_CLASSES = {"pydantic_settings.BaseSettings", "pydantic.BaseSettings", "pydantic.v1.BaseSettings"}
# Variables of the system, the shell, Python, the server and the platform: not settings of the application.
IGNORED = re.compile(
    r"(PATH|HOME|USER|PWD|SHELL|LANG|TZ|TERM|HOSTNAME|CI|HOST|PYTHON\w*|VIRTUAL_ENV|DJANGO_SETTINGS_MODULE|"
    r"XDG_\w+|GITHUB_\w+|KUBERNETES_\w+|DYNO|RUN_MAIN|SERVER_SOFTWARE|WERKZEUG_\w+|TESTING|PYTEST\w*|IMAGE|IMAGE_TAG|ENGINE|"
    r"DEPLOY_ID|COMPOSE_\w+|API_PORT|API_REPLICAS|SITE_ADDRESS|LISTEN_ADDRESS|HTTP_PORT|HTTPS_PORT|\w+_proxy|"
    r"FRONT_IMAGE|DB_IMAGE|REDIS_IMAGE|KEEP_RELEASES|MIN_FREE_MB|(HEALTH|MIGRATE|WATCH)_SECONDS|NOTIFY_(URL|TOKEN))",
)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Setting:
    """An environment variable that the application reads.

    It is required if it has no default; `default` is one that is a literal. `kind` is `int`, `bool`, `email` or `url`
    if it is read as that; `separator` is that of a list.
    """

    name: str
    is_required: bool
    source: str
    kind: str = ""
    separator: str = ""
    default: str = ""


def find_settings(modules: list[Module]) -> list[Setting]:
    """Return the settings in the order of their names. One that is optional anywhere in the code is optional."""
    found: dict[str, Setting] = {}
    context = _context(modules)
    for module in modules:
        for setting in _in_module(module, context):
            if not NAME.fullmatch(setting.name) or IGNORED.fullmatch(setting.name):
                continue
            known = found.setdefault(setting.name, setting)
            found[setting.name] = replace(
                known,
                is_required=known.is_required and setting.is_required,
                kind=known.kind or setting.kind,
                separator=known.separator or setting.separator,
                default=known.default or setting.default,
            )
    return [found[name] for name in sorted(found)]


@dataclass(frozen=True)
class Context:
    """What the whole project defines: subclasses of BaseSettings, functions that read a variable, and other classes.

    For each function: whether a variable without a second argument is required. `prefixes` has the prefix and the
    nested delimiter of each class of settings; `models` are the other classes of pydantic.
    """

    settings_classes: set[str]
    readers: dict[str, bool]
    prefixes: dict[str, tuple[str, ...]]
    models: dict[str, ast.ClassDef]


def _context(modules: list[Module]) -> Context:
    nodes: dict[str, ast.ClassDef] = {}
    bases: dict[str, list[str]] = {}
    for module in modules:
        for node in (node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)):
            nodes[f"{module.name}.{node.name}"] = node
            bases[f"{module.name}.{node.name}"] = [module.qualified(base) for base in node.bases]
    settings, models = _subclasses(bases, SETTINGS_CLASSES), _subclasses(bases, MODEL_CLASSES)
    options = ("env_prefix", "env_nested_delimiter")
    return Context(
        settings_classes=settings,
        readers=dict(_own_readers(modules)),
        prefixes={name: tuple(_option(name, nodes, bases, x) for x in options) for name in settings & nodes.keys()},
        models={name: nodes[name] for name in models & nodes.keys() - settings},
    )


def _subclasses(bases: dict[str, list[str]], roots: set[str]) -> set[str]:
    """Return these roots and the full names of all their subclasses; `bases` has those of each class."""
    found = set(roots)
    while new := {name for name, names in bases.items() if found & {*names}} - found:
        found |= new
    return found


def _own_readers(modules: list[Module]) -> Iterator[tuple[str, bool]]:
    """Yield the project's functions that read the variable which their first parameter names."""
    for module in modules:
        for node in module.tree.body:
            if not isinstance(node, ast.FunctionDef) or not node.args.args:
                continue
            first = node.args.args[0].arg
            for part in ast.walk(node):
                is_call = isinstance(part, ast.Call) and module.full_name(part.func) in READERS and part.args
                argument = part.args[0] if is_call else None  # type: ignore[attr-defined] # an ast.Call
                if isinstance(part, ast.Subscript) and module.full_name(part.value) == "os.environ":
                    argument = part.slice
                if isinstance(argument, ast.Name) and argument.id == first:
                    yield f"{module.name}.{node.name}", not node.args.defaults
                    break


def _in_module(module: Module, context: Context) -> Iterator[Setting]:
    # The defaults of each: the keywords of `environ.Env(DEBUG=(bool, False))`.
    readers: dict[str, dict[str, ast.expr]] = {}
    for name, call in assigned_calls(module):
        if module.full_name(call.func) in READER_CLASSES:
            readers[name] = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    for imported, origin in module.imports.items():
        # `from project.settings.base import env`: the object of another module.
        is_own = imported == "env" and origin.partition(".")[0] not in ("environ", "environs")
        if is_own or origin in READER_OBJECTS:
            readers.setdefault(imported, {})
    parents = {id(child): node for node in ast.walk(module.tree) for child in ast.iter_child_nodes(node)}
    conditional = {
        id(part)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.If) and "environ" in ast.unparse(node.test)
        for statement in node.body
        for part in ast.walk(statement)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Subscript) and module.full_name(node.value) == "os.environ":
            if isinstance(node.ctx, ast.Load) and (variable := text_of(node.slice)):
                yield _described(Setting(variable, id(node) not in conditional, module.at(node)), node, parents)
        elif isinstance(node, ast.Compare) and module.full_name(node.comparators[0]) == "os.environ":
            if variable := text_of(node.left):
                yield Setting(variable, False, module.at(node))
        elif isinstance(node, ast.Call):
            for setting in _in_call(module, node, readers, context):
                yield _described(setting, node, parents)
        elif isinstance(node, ast.ClassDef):
            yield from _in_class(module, node, context)


def _described(setting: Setting, node: ast.AST, parents: dict[int, ast.AST]) -> Setting:
    """Return a setting with what the code around it does with its value."""
    parent = parents.get(id(node))
    while isinstance(parent, ast.BoolOp):  # os.environ.get("X") or "default"
        parent = parents.get(id(parent))
    if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id in CASTS:
        return replace(setting, kind=CASTS[parent.func.id])
    if isinstance(parent, ast.Attribute) and parent.attr == "split":
        call = parents.get(id(parent))
        separator = text_of(call.args[0]) if isinstance(call, ast.Call) and call.args else " "
        return replace(setting, separator=separator or " ")
    return setting


def _in_call(
    module: Module, call: ast.Call, readers: dict[str, dict[str, ast.expr]], context: Context
) -> Iterator[Setting]:
    function = module.full_name(call.func)
    keywords: dict[str | None, ast.expr] = {keyword.arg: keyword.value for keyword in call.keywords}
    first = text_of(call.args[0]) if call.args else None
    if function == "dj_database_url.config":
        yield Setting(text_of(keywords.get("env")) or "DATABASE_URL", "default" not in keywords, module.at(call))
        return
    written = ast.unparse(call.func)  # for `env`, which may come from another module
    owner, _, method = written.rpartition(".")
    if function in READERS:
        is_required = function == "decouple.config" and len(call.args) < 2 and "default" not in keywords
    elif written in readers or (owner in readers and method in READER_METHODS):
        first = first or DEFAULT_NAMES.get(method)
        schema = readers[owner if owner in readers else written].get(first or "")
        if isinstance(schema, ast.Tuple) and len(schema.elts) == 2:
            keywords = {"cast": schema.elts[0], "default": schema.elts[1], **keywords}
        elif schema is not None:
            keywords = {"cast": schema, **keywords}
        is_required = len(call.args) < 2 and "default" not in keywords
    elif (own := module.qualified(call.func)) in context.readers:
        is_required = context.readers[own] and len(call.args) + len(call.keywords) < 2
    else:
        return
    if first:
        default = keywords.get("default") or (call.args[1] if len(call.args) > 1 else None)
        literal = str(default.value) if isinstance(default, ast.Constant) else ""
        cast = keywords.get("cast")
        kind = CASTS.get(method) or CASTS.get(cast.id if isinstance(cast, ast.Name) else "", "")
        yield Setting(first, is_required, module.at(call), kind=kind, default=literal)


def _in_class(module: Module, node: ast.ClassDef, context: Context) -> Iterator[Setting]:
    """Yield the fields of a class of pydantic-settings."""
    if not any(module.qualified(base) in context.settings_classes for base in node.bases):
        return
    # In version 1 of pydantic, `X | None` has the default None.
    is_v2 = "pydantic_settings.BaseSettings" in {module.qualified(base) for base in node.bases}
    prefix, delimiter = context.prefixes.get(f"{module.name}.{node.name}", ("", ""))
    yield from _fields(module, node, context, (prefix, delimiter), is_v2=is_v2)


def _fields(
    module: Module, node: ast.ClassDef, context: Context, names: tuple[str, str], *, is_v2: bool
) -> Iterator[Setting]:
    """Yield the fields of a class; `names` are the prefix and the delimiter of its variables."""
    prefix, delimiter = names
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        name = item.target.id
        if name == "model_config" or "ClassVar" in ast.dump(item.annotation):
            continue
        annotation, field = item.annotation, item.value
        if isinstance(annotation, ast.Subscript) and module.full_name(annotation.value).endswith("Annotated"):
            parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
            annotation = parts[0]
            field = next((part for part in parts if _is_field(part, module)), field)
        model = context.models.get(module.qualified(annotation))
        if model and delimiter and item.value is None and model is not node:
            yield from _fields(module, model, context, (prefix + name + delimiter, ""), is_v2=is_v2)
            continue
        alias = None
        is_required = item.value is None and (is_v2 or "None" not in ast.unparse(annotation))
        if field and _is_field(field, module):
            keywords = {keyword.arg: keyword.value for keyword in field.keywords}
            alias = next(
                filter(None, (_alias(keywords.get(key)) for key in ("validation_alias", "alias", "env"))), None
            )
            has_default = bool(keywords.keys() & {"default", "default_factory"}) or (
                bool(field.args) and not (isinstance(field.args[0], ast.Constant) and field.args[0].value is Ellipsis)
            )
            is_required = not has_default and (item.value is None or item.value is field)
        yield Setting(
            (alias or prefix + name).upper(), is_required, module.at(item), CASTS.get(ast.unparse(annotation), "")
        )


def _is_field(node: ast.expr, module: Module) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and module.full_name(node.func).startswith("pydantic") and _name(node) == "Field"


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _alias(node: ast.expr | None) -> str | None:
    """Return the name in `alias="NAME"`, or the first one of `AliasChoices("NAME", "OTHER")`."""
    if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).endswith("AliasChoices"):
        return text_of(node.args[0])
    return text_of(node)


def _option(
    name: str,
    nodes: dict[str, ast.ClassDef],
    bases: dict[str, list[str]],
    option: str,
    seen: frozenset[str] = frozenset(),
) -> str:
    """Return an option of a class of settings, which it can inherit; empty without it."""
    if name not in nodes or name in seen:  # a class may name itself as its base
        return ""
    for part in ast.walk(nodes[name]):
        if isinstance(part, ast.keyword) and part.arg == option:
            return text_of(part.value) or ""
        if isinstance(part, ast.Assign) and any(isinstance(x, ast.Name) and x.id == option for x in part.targets):
            return text_of(part.value) or ""
    return next(filter(None, (_option(base, nodes, bases, option, seen | {name}) for base in bases[name])), "")
