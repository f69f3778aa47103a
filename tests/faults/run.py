"""The fault suite: `python -m tests.faults.run [--full] [--only NAME] [--rounds N] [--out FILE]`.

Every scenario runs on Apache Kafka and redis-server of its own making, in rounds, each with a prefix, an input and a
verdict of its own. Last come seeded worlds of thousands of people, which need no servers (`tests/worlds`). It prints a
table and ends with 1 where anything was lost, doubled or wrong, or did not end.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import large_worlds, of_input, of_servers, of_workers
from tests.faults.rounds import Result, RoundFailed, Scenario, Servers, play
from tests.support import restarts

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = (*of_workers.SCENARIOS, *of_servers.SCENARIOS, *of_input.SCENARIOS)
# A small run is a tenth of the full one.
SMALL = 10
SEED = 20261122
HEAD = ("fault", "rounds", "records", "lost", "duplicated", "wrong sums", "longest stall")


@dataclass
class Row:
    """A scenario's line of the table, summed over its rounds."""

    name: str
    results: list[Result] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        found = [result.found for result in self.results]
        return bool(found) and not self.failures and not any(one.lost or one.duplicated or one.wrong for one in found)

    def cells(self) -> list[str]:
        found = [result.found for result in self.results]
        sums = [sum(one.records for one in found)]
        sums += [sum(one.lost for one in found), sum(one.duplicated for one in found), sum(one.wrong for one in found)]
        stall = max((result.stall_s for result in self.results), default=0.0)
        rounds = str(len(self.results)) + (f", {len(self.failures)} failed" if self.failures else "")
        return [self.name, rounds, *(f"{n:,}" for n in sums), f"{stall:.1f} s"]

    def recovery(self) -> str | None:
        """Median and worst, where the scenario measures it."""
        times = [s for result in self.results for s in result.recovered_s]
        if not times:
            return None
        return (
            f"{self.name}: recovery median {statistics.median(times):.1f} s, worst {max(times):.1f} s of {len(times)}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, write; 0 where every round is clean."""
    options = _options(argv)
    chosen = [one for one in SCENARIOS if not options.only or any(part in one.name for part in options.only)]
    with_worlds = not options.only or any(part in large_worlds.NAME for part in options.only)
    if not chosen and not with_worlds:
        names = ", ".join([*(one.name for one in SCENARIOS), large_worlds.NAME])
        print(f"no fault is called {options.only!r}; there are: {names}")
        return 2
    logs = Path(options.logs or tempfile.mkdtemp(prefix="touchstream-faults-"))
    logs.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    rows: list[Row] = []
    worlds: list[large_worlds.Played] = []

    def write() -> str:
        text = report(rows, options.seed, time.monotonic() - started_s, worlds)
        if options.out:  # after each, so that a run that is cut short has something to show
            options.out.write_text(text + "\n")
        return text

    with servers() if chosen else contextlib.nullcontext() as running:
        for scenario in chosen:
            assert running is not None
            rounds = options.rounds or rounds_of(scenario, options.full)
            rows.append(played(scenario, running, rounds, options, logs))
            write()
    if with_worlds:
        worlds.append(large_worlds.play(options.full))
    print(write())
    clean = all(row.is_clean for row in rows) and all(one.is_clean for one in worlds)
    if not clean:
        print(f"logs: {logs}")
    return 0 if clean else 1


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The fault suite on Apache Kafka and redis-server.")
    parser.add_argument("--full", action="store_true", help="all rounds; without it a tenth of them")
    parser.add_argument("--only", action="append", metavar="NAME", help="faults whose name contains this; repeatable")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each fault")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--logs", metavar="FOLDER", help="where logs of failed rounds stay")
    return parser.parse_args(argv)


def rounds_of(scenario: Scenario, full: bool) -> int:
    """How often it runs."""
    return scenario.rounds if full else max(1, scenario.rounds // SMALL)


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    """Apache Kafka and redis-server of this run. Raises MissingServer where they are not installed."""
    with restarts.two_door_kafka() as (kafka, kafka_door), restarts.lasting_redis() as (redis, redis_door):
        yield Servers(kafka, kafka_door, redis, redis_door)


def played(scenario: Scenario, servers: Servers, rounds: int, options: argparse.Namespace, logs: Path) -> Row:
    """So many rounds of a scenario, one after the other, each with a seed of its own."""
    row, seed, full = Row(scenario.name), options.seed, options.full
    for number in range(rounds):
        started_s = time.monotonic()
        try:
            result = play(scenario, servers, number, seed + number, logs, full)
            row.results.append(result)
            said = "; ".join(result.found.notes) or "clean"
        except RoundFailed as error:
            row.failures.append(str(error))
            said = str(error)
        print(f"{scenario.name} {number + 1}/{rounds} {time.monotonic() - started_s:.0f} s: {said}", file=sys.stderr)
    return row


def report(rows: Sequence[Row], seed: int, seconds: float, worlds: Sequence[large_worlds.Played] = ()) -> str:
    """The table as Markdown, the recoveries, the failures, the worlds, and what it was run on."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(tuple(row.cells()) for row in rows)]
    table = [f"| {' | '.join(cells)} |" for cells in lines]
    notes = [note for row in rows if (note := row.recovery())] + [one for row in rows for one in row.failures]
    conversions = sum(result.found.conversions for row in rows for result in row.results)
    tail = [f"{conversions:,} conversions", f"commit {_commit()}, seed {seed}, {seconds:.0f} s"]
    return "\n".join([*table, "", *notes, *(line for one in worlds for line in one.lines()), *tail])


def _commit() -> str:
    """The commit that was run, and whether the tree differed from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
