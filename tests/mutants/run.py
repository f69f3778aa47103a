"""Takes one rule at a time out of the product and shows that a test notices: `make mutants`.

Each mutant is applied to a copy of the tree of its own, where each of the tests that it names must fail: by a failing
test, not by an error while they are collected or set up, nor by a mutant that is no program. Before, the same tests
pass in a copy as it is. Exit code 0 where every mutant was caught, 1 where one was not, 2 for an unknown name.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.mutants.catalogue import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("models", "state", "streams")
COPIED = (*PRODUCT, "tests", "pyproject.toml")
# The tests of a mutant take seconds. One that makes them wait for ever has not been caught: a person would have to.
LIMIT_S = 180.0
# What a mutant ends with that does not fit its surroundings any more: then nothing was shown.
NO_PROGRAM = ("NameError", "UnboundLocalError", "AttributeError", "ImportError", "ModuleNotFoundError", "SyntaxError")
TAIL_LINES = 80


class Misfit(Exception):
    """The mutant does not fit the product or its tests: it has to be written anew."""


class Ran(NamedTuple):
    """What pytest came to. `failed` names the tests that failed while they ran, each with its message."""

    code: int
    passed: int
    failed: list[tuple[str, str]]
    output: str


class Verdict(NamedTuple):
    """`caught_by` has one failing test for each that the mutant names; `missed` those that noticed nothing.

    `trouble` says why nothing was shown.
    """

    mutant: Mutant
    seconds: float
    caught_by: list[str]
    missed: list[str]
    trouble: str

    @property
    def is_caught(self) -> bool:
        return bool(self.caught_by) and not self.missed and not self.trouble

    def lines(self) -> list[str]:
        """What the table says of it."""
        if self.trouble:
            return ["BROKEN, see below"]
        return [*self.caught_by, *(f"SURVIVED {test}" for test in self.missed)]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="NAME", action="append", help="this mutant alone; may be given again")
    parser.add_argument("--jobs", metavar="N", type=int, default=2, help="mutants at a time (default: 2)")
    parser.add_argument("--list", action="store_true", help="names, and where the text of each is found")
    options = parser.parse_args()
    known = {mutant.name: mutant for mutant in MUTANTS}
    strange = [name for name in options.only or () if name not in known]
    if strange:
        parser.error(f"no mutant is called {', '.join(strange)}; --list names them")
    chosen = [known[name] for name in options.only or known]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name:40} {place(ROOT, mutant).relative_to(ROOT)}")
        return 0
    return report(chosen, options.jobs)


def report(mutants: Sequence[Mutant], jobs: int) -> int:
    """Run them all and print what caught each."""
    started = time.monotonic()
    if trouble := passes_unmutated(mutants):
        print(trouble, file=sys.stderr)
        return 1
    print(f"as it is: all tests named pass, {time.monotonic() - started:.0f} s\n", flush=True)
    width = max(len(mutant.name) for mutant in mutants)
    print(f"{'mutant':{width}} | seconds | caught by\n{'-' * width}-|---------|-{'-' * 60}", flush=True)
    verdicts = []
    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        for verdict in pool.map(judge, mutants):
            first, *others = verdict.lines()
            print(f"{verdict.mutant.name:{width}} | {verdict.seconds:7.1f} | {first}", flush=True)
            for other in others:
                print(f"{'':{width}} | {'':7} | {other}", flush=True)
            verdicts.append(verdict)
    for verdict in verdicts:
        if verdict.trouble:
            print(f"\n{verdict.mutant.name}: {verdict.trouble}", file=sys.stderr)
    caught_count = sum(verdict.is_caught for verdict in verdicts)
    print(f"\n{caught_count} of {len(mutants)} caught, {time.monotonic() - started:.0f} s")
    return 0 if caught_count == len(mutants) else 1


def passes_unmutated(mutants: Sequence[Mutant]) -> str:
    """What is wrong with the tests before anything is broken; empty where all is well."""
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    with copied() as root:
        ran = run(root, tests)
    if ran.code != 0:
        return f"tests fail without a mutant:\n{ran.output}"
    # A test that skips on this machine could catch nothing.
    return "" if ran.passed >= len(tests) else f"{len(tests)} tests are named, {ran.passed} ran:\n{ran.output}"


def judge(mutant: Mutant) -> Verdict:
    """Apply it to a copy and run its tests there."""
    started = time.monotonic()
    caught_by: list[str] = []
    missed: list[str] = []
    trouble = ""
    with copied() as root:
        try:
            apply(root, mutant)
            caught_by, missed = noticed(run(root, mutant.tests), mutant.tests)
        except Misfit as exc:
            trouble = str(exc)
    return Verdict(mutant, time.monotonic() - started, caught_by, missed, trouble)


def noticed(ran: Ran, tests: Sequence[str]) -> tuple[list[str], list[str]]:
    """The first failure of each of these tests, and those that did not fail. Raises Misfit if nothing was shown."""
    if ran.code != 0 and (ran.code != 1 or not ran.failed):
        raise Misfit(f"pytest ended with {ran.code} without a failing test:\n{ran.output}")
    for name, message in ran.failed:
        if message.startswith(NO_PROGRAM):
            raise Misfit(f"the mutant is no program, {name}: {message}\n{ran.output}")
    # A name may stand for a file, a class, or a test with any of its parameters.
    found = [next((name for name, _ in ran.failed if name.startswith(test)), "") for test in tests]
    return [name for name in found if name], [test for test, name in zip(tests, found, strict=True) if not name]


def place(root: Path, mutant: Mutant) -> Path:
    """The file of the product that holds the mutant's text, once. Raises Misfit."""
    found = {path: path.read_text().count(mutant.old) for name in PRODUCT for path in (root / name).rglob("*.py")}
    holders = {path: count for path, count in found.items() if count}
    if sum(holders.values()) != 1:
        where = ", ".join(f"{path.relative_to(root)} ({count})" for path, count in sorted(holders.items())) or "nowhere"
        raise Misfit(f"its text must occur exactly once in {', '.join(PRODUCT)}; it is found: {where}\n{mutant.old}")
    return next(iter(holders))


def apply(root: Path, mutant: Mutant) -> None:
    """Change the copy at `root`. Raises Misfit where the text is not there, or no program comes out."""
    path = place(root, mutant)
    mutated = path.read_text().replace(mutant.old, mutant.new)
    try:
        compile(mutated, str(path), "exec")
    except SyntaxError as exc:
        raise Misfit(f"with it {path.relative_to(root)} is no Python: {exc}") from exc
    path.write_text(mutated)


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the product and its tests, gone after the block."""
    with tempfile.TemporaryDirectory(prefix="touchstream-mutant-") as folder:
        root = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, root / name)
        yield root


def run(root: Path, tests: Sequence[str]) -> Ran:
    """Run the tests of the copy at `root`. Raises Misfit where they do not end."""
    found = root / "found.xml"
    options = ["-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={found}"]
    # Whatever the tests start must be of the copy too, and leave nothing compiled behind.
    env = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", *options, *tests]
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise Misfit(f"its tests did not end within {LIMIT_S:.0f} s") from exc
    tail = "\n".join(done.stdout.splitlines()[-TAIL_LINES:])
    passed, failed = read(found) if found.exists() else (0, [])
    return Ran(done.returncode, passed, failed, tail)


def read(found: Path) -> tuple[int, list[tuple[str, str]]]:
    """How many tests passed, and those that failed while they ran; an error in a set-up is neither."""
    passed, failed = 0, []
    for case in ET.parse(found).iter("testcase"):
        failure = case.find("failure")
        if failure is not None:
            failed.append((name_of(case), failure.get("message", "")))
        passed += len(case) == 0
    return passed, failed


def name_of(case: ET.Element) -> str:
    """What pytest calls the test on its command line."""
    file, name = case.get("file", ""), case.get("name", "")
    within = case.get("classname", "").removeprefix(file.removesuffix(".py").replace("/", ".")).replace(".", "::")
    return f"{file}{within}::{name}"


if __name__ == "__main__":
    sys.exit(main())
