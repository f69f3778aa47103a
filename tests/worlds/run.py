"""Run many worlds, or one again: `python -m tests.worlds.run --seeds 2000 --jobs 2`, `… --seed 4711`.

They are of 50 to 200 people; `--people 5000 --seeds 20` makes larger ones. Of three worlds, one has people with one id
each; in one somebody else has resolved the ids, and merges come from outside; and in one, raw records go through the
identity stage. Prints what came up in them; exit code 1 where a world failed or something did not come up.
"""

import argparse
import logging
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from tests.support.in_parts import in_parts
from tests.worlds import drawing
from tests.worlds.course import Course
from tests.worlds.raw_course import RawCourse

AGAIN = "python -m tests.worlds.run --seed"
FAILURES_MAX = 10
CHUNK = 10
# What has to come up in so many worlds; of fewer in proportion, and never less than once.
FULL_RUN = 2_000
ENOUGH = {
    "quiet points": 400_000,
    "readers of a compacted log": 800,
    "restated": 100_000,
    "tombstones": 100_000,
    "merged": 50_000,
    "splits": 300,
    "moved": 10_000,
    "touches_duplicate": 20_000,
    "conversions_duplicate": 20_000,
    "dead: no-create": 5_000,
    "dead: correction-too-late": 5_000,
    "crash": 1_000,
    "flush": 300,
    "roll-back": 300,
    "lost": 300,
    "unanswered": 300,
    "claims that replay": 1_000,
    "forgotten": 1_000,
    "touches_forgotten": 1_000,
    "conversions_forgotten": 1_000,
}
# The same of worlds of thousands of people, which are many times as large, and few.
FULL_RUN_LARGE = 20
ENOUGH_LARGE = {
    "quiet points": 70_000,
    "readers of a compacted log": 4,
    "restated": 50_000,
    "tombstones": 70_000,
    "merged": 50_000,
    "moved": 8_000,
    "touches_duplicate": 15_000,
    "conversions_duplicate": 15_000,
    "dead: no-create": 4_000,
    "dead: correction-too-late": 10_000,
    "crash": 100,
    "flush": 30,
    "roll-back": 30,
    "lost": 30,
    "unanswered": 30,
    "claims that replay": 120,
}
LARGE = 1_000


@dataclass
class Result:
    """What came of some worlds: what came up, and seed and traceback of those that failed."""

    worlds: int = 0
    people: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: "Result") -> None:
        self.worlds += other.worlds
        self.seen += other.seen
        self.failures += other.failures


def one(seed: int, people: int = 0) -> Counter[str]:
    """The world of a seed, of so many people; 0: of 50 to 200."""
    if seed % 3 == 2:
        return RawCourse(drawing.draw(seed, identities=True, people=people)).run()
    return Course(drawing.draw(seed, identities=seed % 3 == 1, people=people)).run()


def some(seeds: Iterable[int], people: int = 0) -> Result:
    """Run these worlds."""
    logging.getLogger("touchstream.processor").setLevel(logging.CRITICAL)  # of the deaths that are planned
    result = Result(people=people)
    for seed in seeds:
        try:
            result.seen += one(seed, people)
        except Exception:
            result.failures.append((seed, traceback.format_exc()))
        result.worlds += 1
    return result


def many(seeds: range, jobs: int = 1, progress: Callable[[Result], None] = lambda _: None, people: int = 0) -> Result:
    """Run these worlds in so many processes; ends early where many fail."""
    result = Result(people=people)
    for part in in_parts(partial(some, people=people), seeds, 1 if people >= LARGE else CHUNK, jobs):
        result.add(part)
        progress(result)
        if len(result.failures) >= FAILURES_MAX:
            break
    return result


def verdict(result: Result) -> list[str]:
    """What is wrong, with the command that shows it again; empty where all is well."""
    size = f" --people {result.people}" if result.people else ""
    wrong = [f"{trace}seed {seed} failed; again with: {AGAIN} {seed}{size}" for seed, trace in result.failures]
    if not wrong:
        wrong = [
            f"too few: {name}: {result.seen[name]} of {count}"
            for name, count in needed(result).items()
            if result.seen[name] < count
        ]
    return wrong


def needed(result: Result) -> dict[str, int]:
    """How often what has to come up in so many worlds."""
    if result.people >= LARGE:
        return {name: count * result.worlds // FULL_RUN_LARGE for name, count in ENOUGH_LARGE.items()}
    return {name: max(1, count * result.worlds // FULL_RUN) for name, count in ENOUGH.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.worlds.run", description="Seeded worlds of people.")
    parser.add_argument("--seeds", type=int, default=100, help="how many worlds (default 100)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--seed", type=int, help="only this world")
    parser.add_argument("--people", type=int, default=0, help="people of each world (default: by lot, 50 to 200)")
    args = parser.parse_args()
    if args.seed is not None:
        print(f"seed {args.seed}: {dict(one(args.seed, args.people))}")
        return 0

    def progress(result: Result) -> None:
        if sys.stderr.isatty():
            print(f"\r{result.worlds} of {args.seeds} worlds", end="", file=sys.stderr, flush=True)

    started = time.monotonic()
    result = many(range(args.first, args.first + args.seeds), args.jobs, progress, args.people)
    seconds = time.monotonic() - started
    wrong = verdict(result)
    for name, count in sorted(result.seen.items()):
        print(f"{count:>9}  {name}")
    print(f"{result.worlds} worlds, {len(result.failures)} failed, {result.worlds / seconds:.1f} a second")
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
