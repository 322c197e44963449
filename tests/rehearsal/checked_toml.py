"""A TOML file whose values are checked: each problem is one line with the file, the line number and the key."""

import json
import re
import tomllib
from collections.abc import Callable, Iterable
from typing import Any

REQUIRED: Any = object()  # as a default: the key must be there
MAX_SHOWN = 60  # characters of a wrong value
TEXT = "(?s:.+)"

KeyPath = tuple[str | int, ...]

_NAME = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_NAMES = rf"{_NAME}(?:\s*\.\s*{_NAME})*"
_HEADER = re.compile(rf"\s*\[(?P<array>\[)?\s*(?P<names>{_NAMES})\s*\]")
_KEY = re.compile(rf"\s*(?P<names>{_NAMES})\s*=")
_SYNTAX_ERROR = re.compile(r"(?P<message>.*) \(at (?:line (?P<line>\d+), column \d+|end of document)\)")


class InvalidFile(Exception):
    """A file has problems; the message has one line for each."""


class CheckedFile:
    """The problems found in a file, and the lines of its keys."""

    def __init__(self, name: str, text: str) -> None:
        """Raises InvalidFile if the text is not TOML."""
        self.name, self.problems = name, []
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            found = _SYNTAX_ERROR.fullmatch(str(error))
            line = (found and found["line"]) or text.count("\n") + 1
            raise InvalidFile(f"{name}:{line}: not TOML: {found['message'] if found else error}") from None
        self._lines = locate_keys(text)
        self.root = CheckedTable(self, (), values)

    def report(self, path: KeyPath, problem: str) -> None:
        """Record a problem of the value at this path, or of a key that is missing there."""
        line = next(self._lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self._lines)
        message = f"{self.name}:{line}: {describe_path(path)} {problem}"
        if message not in self.problems:  # a table may be read twice
            self.problems.append(message)

    def raise_problems(self) -> None:
        """Raise InvalidFile if a problem was recorded."""
        if self.problems:
            raise InvalidFile("\n".join(self.problems))


class CheckedTable:
    """A table of the file. Its methods return the value of a key, and report a wrong one."""

    def __init__(self, file: CheckedFile, path: KeyPath, values: dict[str, Any]) -> None:
        self._file, self._path, self._values = file, path, values
        self._known: dict[str, None] = {}

    @property
    def names(self) -> list[str]:
        """The keys of the table."""
        return list(self._values)

    def report(self, key: str, problem: str) -> None:
        """Record a problem of a key."""
        self._file.report((*self._path, key), problem)

    def report_unknown_keys(self) -> None:
        """Report the keys that nothing asked for."""
        for key in self.names:
            if key not in self._known:
                self.report(key, f"is unknown: expected one of {', '.join(self._known)}")

    def _find(self, key: str, expected: str, is_valid: Callable[[Any], bool], default: Any, fallback: Any) -> Any:
        """Return the value, or the default for a missing key. Report a wrong value, and return the fallback."""
        self._known[key] = None
        if key not in self._values and default is not REQUIRED:
            return default
        if key in self._values and is_valid(self._values[key]):
            return self._values[key]
        found = json.dumps(self._values[key], default=str) if key in self._values else "nothing"
        found = found if len(found) <= MAX_SHOWN else f"{found[:MAX_SHOWN]}..."
        self.report(key, f"must be {expected}, found {found}")
        return fallback

    def text(self, key: str, expected: str = "text", pattern: str = TEXT, default: Any = REQUIRED) -> str:
        """Return text that matches this pattern."""
        fallback = "" if default is REQUIRED else default
        return self._find(key, expected, lambda value: _is_text(value, pattern), default, fallback)

    def number(self, key: str, least: int, most: int, default: int, *, whole: bool = False) -> Any:
        """Return a number in this range."""

        def is_valid(value: Any) -> bool:
            is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
            return is_number and least <= value <= most

        return self._find(key, f"a number from {least} to {most}", is_valid, default, default)

    def flag(self, key: str) -> bool:
        """Return true or false; false for a missing key."""
        return self._find(key, "true or false", lambda value: isinstance(value, bool), False, False)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts; empty for a missing key."""
        return tuple(self._find(key, "a list of texts", lambda value: _is_list(value, _is_text), [], []))

    def mapping(self, key: str, names: str, values: str, expected: str) -> dict[str, str]:
        """Return a table of texts, whose names and values match these patterns; empty for a missing key."""
        table = self.table(key)
        if table is None:
            return {}
        for name in table.names:
            if not re.fullmatch(names, name):
                table.report(name, f"must have a name that matches {names}")
        return {name: table.text(name, expected, values) for name in table.names}

    def table(self, key: str) -> "CheckedTable | None":
        """Return a table; None for a missing key."""
        value = self._find(key, "a table", _is_table, None, None)
        return None if value is None else CheckedTable(self._file, (*self._path, key), value)

    def tables(self, key: str) -> list["CheckedTable"]:
        """Return a list of tables; empty for a missing key."""
        values = self._find(key, f"tables [[{key}]]", lambda value: _is_list(value, _is_table), [], [])
        return [CheckedTable(self._file, (*self._path, key, index), value) for index, value in enumerate(values)]


def _is_text(value: Any, pattern: str = TEXT) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_list(value: Any, is_valid: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_valid, value))


def describe_path(path: Iterable[str | int]) -> str:
    """Return a path as it is usually written: requests[1].headers."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def locate_keys(text: str) -> dict[KeyPath, int]:
    """Return the line of each table, and of each key at the beginning of a line, so without those of inline tables."""
    lines: dict[KeyPath, int] = {(): 1}
    indexes: dict[KeyPath, int] = {}  # of the last table of each array of tables
    table: KeyPath = ()
    closing = ""  # the end of a multi-line text that has begun
    for number, line in enumerate(text.split("\n"), 1):
        if closing:
            closing = "" if closing in line else closing
        elif header := _HEADER.match(line):
            table = ()
            names = _split(header["names"])
            for position, name in enumerate(names, 1):
                table = (*table, name)
                if header["array"] and position == len(names):
                    indexes[table] = indexes.get(table, -1) + 1
                table = (*table, indexes[table]) if table in indexes else table
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, *_split(key["names"])), number)
            closing = next((quotes for quotes in ('"""', "'''") if line.count(quotes) % 2), "")
    return lines


def _split(names: str) -> list[str]:
    return [name.strip("\"'") for name in re.findall(_NAME, names)]
