"""The house keeps its order: imports go one way, the core is pure, nothing lies about unused."""

import ast
import gc
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("models", "state", "streams")
# What the core may use beside the standard library.
PURE = {"models", "msgspec", "numpy", "pydantic", "pydantic_core"}
# Modules of the standard library that read a clock, draw lots, wait, or reach outside.
IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "selectors"),
    *("shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "urllib", "uuid"),
    *("http", "io", "logging", "sched", "queue", "contextvars"),
}
# Of `datetime` the core may use the arithmetic, not the clock.
CLOCKS = re.compile(r"\.(now|today|utcnow)\(")
# Text only, though its package can reach the network.
PURE_PARTS = {"urllib.parse"}
# Run as programs of their own, not imported.
STARTED = {"streams.cli", "streams.worker", "streams.keeper"}
# Part of the product for whoever embeds it or tests against it.
OFFERED = {"state.memory"}
MACHINE_PATH = re.compile(rb"(?<![\w.])/(?:work|home|root|Users|private/tmp)/[A-Za-z]")
# Written for others to fill in, or about a container's own tree.
NOT_MACHINES = re.compile(rb"/home/(?:app|touchstream|nonroot)\b|/root/\.(?:cache|m2)\b")


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parsed(text: str) -> ast.Module:
    """The syntax tree.

    Python 3.11 counts the depth of trees once for the whole interpreter (CPython issue 106905), so a finalizer that
    prints a traceback, for which it parses too, would break the count of the tree that is being made.
    """
    gc.disable()
    try:
        return ast.parse(text)
    finally:
        gc.enable()


def imports(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Every module that a file imports, wherever it does; `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(parsed(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node
            for alias in node.names:
                yield f"{'.' * node.level}{node.module}.{alias.name}", node


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer: str) -> None:
    """streams may use state and models, state may use models, models nobody; tests and tools are used by none."""
    above = {*LAYERS[LAYERS.index(layer) + 1 :], "tests", "bench", "deploy"}
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {name}"
        for path in files(layer)
        for name, node in imports(path)
        if name.split(".")[0] in above
    ]
    assert wrong == []


def test_imports_are_absolute() -> None:
    """A file says where things come from in full."""
    folders = ("models", "state", "streams", "tests", "bench", "deploy")
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files(*folders)
        for name, node in imports(path)
        if name.startswith(".")
    ]
    assert wrong == []


def test_the_core_uses_nothing_impure() -> None:
    """models/ has no I/O, clock, randomness or waiting, and three libraries only."""
    allowed = (sys.stdlib_module_names - IMPURE) | PURE
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {name}"
        for path in files("models")
        for name, node in imports(path)
        if name.split(".")[0] not in allowed and ".".join(name.split(".")[:2]) not in PURE_PARTS
    ]
    assert wrong == []


def test_the_core_never_waits_opens_or_asks_the_clock() -> None:
    """No async, await, open, input, print or clock in models/."""
    wrong = []
    for path in files("models"):
        text = path.read_text()
        tree = parsed(text)
        where = path.relative_to(ROOT)
        for node in ast.walk(tree):
            if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
                wrong.append(f"{where}:{node.lineno} waits")
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if called in {"open", "print", "input", "eval", "exec"}:
                wrong.append(f"{where}:{node.lineno} {called}")  # type: ignore[attr-defined]
        wrong += [f"{where} {found.group()}" for found in CLOCKS.finditer(text)]
    assert wrong == []


def test_importing_the_core_loads_no_shell() -> None:
    """In a fresh process, all of models/ comes without asyncio's servers, Kafka, Redis, Faust or the network."""
    modules = [name_of(path) for path in files("models")]
    heavy = ["aiokafka", "faust", "redis", "asyncio", "socket", "state", "streams"]
    script = f"import sys\nfor name in {modules!r}: __import__(name)\nprint([n for n in {heavy!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = ast.literal_eval(done.stdout)
    # pydantic itself may load parts of the standard library; what counts is who we are and what we talk to.
    assert [name for name in loaded if name not in ("asyncio", "socket")] == []


def test_no_module_is_dead() -> None:
    """Every module of the product is imported by another one of it, or is started by name."""
    paths = files(*LAYERS)
    used = {name for path in paths for name, _ in imports(path) if name_of(path) != name}
    packages = {name_of(path) for path in paths if path.name == "__init__.py"}
    # A class may be named by a text, as Faust does with its drivers: "state.table:TableStore".
    named = set(re.findall(r'"([a-z_.]+)[:"]', "\n".join(path.read_text() for path in paths)))
    known = used | packages | named | STARTED | OFFERED
    assert [name for name in map(name_of, paths) if name not in known] == []


def test_entry_points_exist() -> None:
    """What pyproject.toml and the supervisor start is there."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    named = {target.split(":")[0] for target in scripts.values()}
    assert named - STARTED == set()
    assert STARTED - {name_of(path) for path in files("streams")} == set()


def tracked() -> list[Path]:
    """Files under version control; all others are nobody's business."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def test_no_machine_s_paths() -> None:
    """No tracked file names a folder of the machine that it was written on."""
    wrong = []
    for path in tracked():
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if MACHINE_PATH.search(NOT_MACHINES.sub(b"", line)):
                wrong.append(f"{path.relative_to(ROOT)}:{number}")
    assert wrong == []


def test_nothing_is_built_at_import() -> None:
    """Importing any module of the product opens no socket, starts no thread and reads no environment of ours."""
    modules = [name_of(path) for path in files(*LAYERS)]
    script = (
        "import socket, sys, threading\n"
        "def no(*a, **k): raise SystemExit('a socket at import')\n"
        "socket.socket.connect = no\n"
        f"for name in {modules!r}: __import__(name)\n"
        "extra = [t.name for t in threading.enumerate() if t is not threading.main_thread()]\n"
        "sys.exit(f'threads at import: {extra}' if extra else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_test_says_what_it_claims() -> None:
    """Each test has a docstring of one claim."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in files("tests")
        for node in ast.walk(parsed(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []
