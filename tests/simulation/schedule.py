"""What goes wrong in a world, at which places and in which order; all drawn from its seed.

Every strike names a place that a worker passes, and strikes at its n-th passing from then on. Two lines of strikes run
side by side; within a line the next one is armed when the one before it has struck, so that troubles meet: a store
that is emptied while the partition is claimed after a crash. The first strike of a world follows from the seed's
number, so that few worlds meet every kind there is.
"""

import random
from collections.abc import Iterable
from typing import NamedTuple

from streams.crash import CRASH_POINTS

# Places beside the crash points and the store's calls (`store claim`, `begin`, `load`, `save`): when a transaction
# begins, when it is about to be committed, and whenever the world looks after its workers.
TRANSACTION, COMMIT, ANY_TIME = "transaction", "commit", "any time"
HELD = "any crash point while conversions are held"
BETWEEN_STEPS = (*CRASH_POINTS, "store load", ANY_TIME)
CLAIMING = ("claim_producer", "claim_store", "store claim")

KINDS: tuple[tuple[str, str], ...] = (
    *(("crash", place) for place in (*CRASH_POINTS, HELD)),
    *(("flush", place) for place in BETWEEN_STEPS),
    *(("roll-back", place) for place in BETWEEN_STEPS),
    *(("suspension", place) for place in ("store load", "store save", COMMIT)),
    *((fault, TRANSACTION) for fault in ("refused", "lost", "unanswered")),
    *(("unreachable", place) for place in ("store claim", "store load", "store save")),
    *(("lost reply", place) for place in ("store claim", "store begin", "store save")),
    *((what, ANY_TIME) for what in ("zombie", "rebalance", "handover", "step back")),
    *((what, "store save") for what in ("revocation", "repetition")),
)
STRIKES_MAX = 14
# How many passings of a place a strike may wait for; few, as it misses its chance when the world comes to rest before.
PASSINGS = {ANY_TIME: 8, HELD: 2, "store begin": 1, **dict.fromkeys(CLAIMING, 1)}
PASSINGS_OTHERWISE = 6
# What a random draw favours, as it takes another trouble beside it to show its worth.
FAVOURED = (
    ("crash", HELD),
    ("step back", ANY_TIME),
    *(("crash", place) for place in CRASH_POINTS),
    *(("flush", place) for place in BETWEEN_STEPS),
)


class Strike(NamedTuple):
    """At the `passing`-th passing of `place`, counted from when it is armed."""

    what: str
    place: str
    passing: int


class Schedule:
    """The strikes of one world. `strike` is to be asked at every passing of a place."""

    def __init__(self, lines: Iterable[Iterable[Strike]]) -> None:
        self._lines = [list(reversed(list(line))) for line in lines]
        self._passed = [0] * len(self._lines)

    def strike(self, place: str) -> str:
        """What goes wrong at this passing of the place, "" for nothing."""
        for number, line in enumerate(self._lines):
            if line and line[-1].place == place:
                self._passed[number] += 1
                if self._passed[number] >= line[-1].passing:
                    self._passed[number] = 0
                    return line.pop().what
        return ""

    def end(self) -> None:
        """Nothing goes wrong any more."""
        self._lines.clear()


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    rng = random.Random(f"schedule {seed}")
    kinds = [KINDS[seed % len(KINDS)], *(rng.choice((*KINDS, *FAVOURED)) for _ in range(rng.randrange(STRIKES_MAX)))]
    lines: list[list[Strike]] = [[], []]
    for number, (what, place) in enumerate(kinds):
        line = lines[0] if number == 0 else rng.choice(lines)
        line += [*_before(rng, place), Strike(what, place, rng.randint(1, PASSINGS.get(place, PASSINGS_OTHERWISE)))]
    return Schedule(lines)


def _before(rng: random.Random, place: str) -> list[Strike]:
    """What has to happen for a worker to pass the place at all."""
    if place == "store begin":
        return [Strike("flush", rng.choice(("store load", "saved")), rng.randint(1, 4))]
    if place in CLAIMING:
        what = rng.choice(("zombie", "rebalance", "handover"))
        return [Strike(what, ANY_TIME, rng.randint(1, PASSINGS[ANY_TIME]))]
    return []
