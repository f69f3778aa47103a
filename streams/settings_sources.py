"""Where settings come from: a file with line numbers, layers to merge, and the origin of each value."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from operator import eq
from pathlib import Path
from typing import Any

from streams.errors import SettingsError

Loc = tuple[str, ...]
_HEADER = re.compile(r"^\s*\[\[?\s*(?P<name>[^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""^\s*(?P<name>(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*[A-Za-z0-9_"'-]+)*)\s*=""")
_INNER_KEY = re.compile(r"""[{,]\s*(?P<name>[A-Za-z0-9_-]+|"[^"]*"|'[^']*')\s*=""")


@dataclass(frozen=True)
class Layer:
    """One source of values. `origin` is what `config show` prints; `text` is the file, for line numbers."""

    origin: str
    values: Mapping[str, Any]
    text: str = ""

    def place(self, loc: Loc) -> str:
        """The origin, with the line where a setting stands if this layer is a file."""
        line = line_of(self.text, loc) if self.text else None
        return f"{self.origin}:{line}" if line else self.origin


@dataclass
class Merged:
    """Values of all layers, later ones winning, and for each leaf the layer that won."""

    values: dict[str, Any] = field(default_factory=dict)
    layers: dict[Loc, Layer] = field(default_factory=dict)

    def layer_of(self, loc: Loc) -> Layer | None:
        """The layer of a value, of the nearest value above it, or of one inside it."""
        for length in range(len(loc), 0, -1):
            if found := self.layers.get(loc[:length]):
                return found
        return next((layer for key, layer in self.layers.items() if key[: len(loc)] == loc), None)


def merge(layers: Iterable[Layer]) -> Merged:
    """Tables are merged key by key, every other value replaces what an earlier layer said."""
    merged = Merged()
    for layer in layers:
        _merge_into(merged, merged.values, layer, layer.values, ())
    return merged


def _merge_into(merged: Merged, target: dict[str, Any], layer: Layer, values: Mapping[str, Any], at: Loc) -> None:
    for key, value in values.items():
        loc = (*at, key)
        if isinstance(value, Mapping):
            inner = target.get(key)
            target[key] = inner if isinstance(inner, dict) else {}
            merged.layers.pop(loc, None)
            _merge_into(merged, target[key], layer, value, loc)
            if not value:
                merged.layers[loc] = layer
        else:
            target[key] = value
            merged.layers[loc] = layer


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """`{"kafka.broker": b}` → `{"kafka": {"broker": b}}`; None means not given."""
    nested: dict[str, Any] = {}
    for path, value in dotted.items():
        if value is None:
            continue
        *parents, last = path.split(".")
        table = nested
        for parent in parents:
            table = table.setdefault(parent, {})
        table[last] = value
    return nested


def parse_assignment(text: str) -> tuple[str, Any]:
    """`attribution.max_touches=20` → (path, value); the value is read as TOML and, if it is none, as text."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip() or any(not part.strip() for part in path.split(".")):
        raise SettingsError("T125", "--set needs section.key=value", f"--set {text}")
    try:
        return path.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return path.strip(), value.strip()


def read_file(path: Path) -> Layer:
    """The file as a layer. Raises SettingsError with the line if it is not there or no TOML."""
    try:
        text = path.read_bytes().decode("utf-8")
        return Layer(str(path), tomllib.loads(text), text)
    except OSError as error:
        fix = "name another one with --config; without a file the defaults hold"
        raise SettingsError("T121", "the settings file cannot be read", str(path), str(error), fix) from error
    except UnicodeDecodeError as error:
        raise SettingsError("T121", "the settings file is not UTF-8", str(path), str(error)) from error
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{path}:{line[1]}" if line else str(path)
        fix = 'text needs quotes: lookback = "30d"'
        raise SettingsError("T122", "the settings file is not valid TOML", where, str(error), fix) from error


def line_of(text: str, loc: Loc) -> int | None:
    """The line (from 1) where a setting, or else the nearest table around it, stands in a TOML file."""
    best, best_line = 0, None
    table: Loc = ()
    for number, line in enumerate(text.splitlines(), start=1):
        for seen in _paths_in(line, table):
            depth = sum(1 for _ in takewhile(bool, map(eq, seen, loc)))
            if depth > best:
                best, best_line = depth, number
        if header := _HEADER.match(line):
            table = _split(header["name"])
    return best_line


def _paths_in(line: str, table: Loc) -> Iterable[Loc]:
    """The settings that a line opens: a table, a key, and the keys of a table written in the line."""
    if header := _HEADER.match(line):
        yield _split(header["name"])
    elif key := _KEY.match(line):
        path = (*table, *_split(key["name"]))
        yield path
        yield from ((*path, *_split(inner["name"])) for inner in _INNER_KEY.finditer(line[key.end() :]))


def _split(dotted: str) -> Loc:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def nearest(key: str, known: Iterable[str]) -> str:
    """A hint with the most similar known name, or the list of names where none is similar."""
    names = sorted(known)
    if similar := difflib.get_close_matches(key, names, n=1, cutoff=0.6):
        return f'did you mean "{similar[0]}"?'
    return "known here: " + ", ".join(names) if names else ""
