"""Run many worlds, or one again: `python -m tests.simulation.run --seeds 10000 --jobs 2`, `… --seed 4711`.

Prints what the worlds came through; exit code 1 where a world failed or something did not come up often enough.
"""

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.simulation import coverage, scenario, schedule
from tests.simulation.checks import check
from tests.simulation.simulation import Simulation, mortal
from tests.support.fakes import virtual_time
from tests.support.in_parts import in_parts

AGAIN = "python -m tests.simulation.run --seed"
FAILURES_MAX = 10
CHUNK = 100


@dataclass
class Result:
    """What came of some worlds: what they came through, and seed and traceback of those that failed."""

    worlds: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: "Result") -> None:
        self.worlds += other.worlds
        self.seen += other.seen
        self.failures += other.failures


def simulate(simulation: Simulation) -> None:
    """Let a world run to its end, in virtual time."""
    with mortal(), virtual_time() as runner:
        runner.run(simulation.run())


def world(seed: int, seen: Counter[str]) -> Simulation:
    """The world of a seed, ready to run."""
    return Simulation(scenario.draw(seed), schedule.draw(seed), seen)


def some(seeds: Iterable[int]) -> Result:
    """Run these worlds, and judge each."""
    result = Result()
    for seed in seeds:
        simulation = world(seed, result.seen)
        try:
            simulate(simulation)
            check(simulation)
        except Exception:
            result.failures.append((seed, traceback.format_exc()))
            if len(result.failures) >= FAILURES_MAX:
                break
        result.worlds += 1
        result.seen += coverage.of_world(simulation)
    return result


def many(seeds: range, jobs: int = 1, progress: Callable[[Result], None] = lambda _: None) -> Result:
    """Run these worlds in so many processes; ends early where many fail."""
    result = Result()
    for part in in_parts(some, seeds, CHUNK, jobs):
        result.add(part)
        progress(result)
        if len(result.failures) >= FAILURES_MAX:
            break
    return result


def verdict(result: Result) -> list[str]:
    """What is wrong, with the command that shows it again; empty where all is well."""
    wrong = [f"{trace}seed {seed} failed; again with: {AGAIN} {seed}" for seed, trace in result.failures]
    if not result.failures:
        wrong += [f"too few: {name}" for name in coverage.missing(result.seen, result.worlds)]
    return wrong


def tell(seed: int) -> int:
    """Run one world and say what happened in it."""
    simulation = world(seed, Counter())
    try:
        simulate(simulation)
        check(simulation)
    finally:
        print("\n".join(simulation.story))
    print(
        f"seed {seed}: {len(simulation.kafka.credits)} credits in {simulation.kafka.transactions} transactions, right"
    )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description="Seeded simulation.")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many worlds (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--seed", type=int, help="only this world, and tell its story")
    args = parser.parse_args()
    if args.seed is not None:
        return tell(args.seed)

    def progress(result: Result) -> None:
        if sys.stderr.isatty():
            print(f"\r{result.worlds} of {args.seeds} worlds", end="", file=sys.stderr, flush=True)

    started = time.monotonic()
    result = many(range(args.first, args.first + args.seeds), args.jobs, progress)
    seconds = time.monotonic() - started
    wrong = verdict(result)
    print(coverage.table(result.seen, result.worlds))
    print(f"{result.worlds} worlds, {len(result.failures)} failed, {result.worlds / seconds:.0f} a second")
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
