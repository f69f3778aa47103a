"""What every attribution model gives and keeps to: weights, shares, reasons, and money from them."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import lru_cache
from math import gcd
from typing import Protocol

import msgspec

from models.facts import JourneyTouch
from models.money import split

# Weights by the number of touches are remembered. Most paths are short, so these all stay; of the long ones
# (up to 10,000 touches, a quarter of a megabyte each) only the last few used do.
SHORT_PATH = 1_024
LONG_PATHS_KEPT = 32


class Reason(StrEnum):
    """Why a touch has the share it has: the `reason` of a credit."""

    ONLY = "only"  # the path has one touch
    FIRST = "first"  # by its place from the front
    LAST = "last"  # by its place from the back, or the last one that counts (last_non_direct)
    MIDDLE = "middle"  # a part of what the ends leave
    EQUAL = "equal"  # the same for all: linear, participation, or where all weights are zero
    DECAY = "decay"  # by age
    NONE = "none"  # weight 0 under a rule that picks one touch: gets no credit


class Weighing(msgspec.Struct, frozen=True, gc=False):
    """What an attribution model says about one path, touch by touch; may be cached and shared, never changed.

    `weights` are exact, scaled to whole numbers >= 0; `total` is their sum, > 0; `shares` are weight / total,
    correctly rounded. Where an attribution model is not additive, `total` is 1 and each share stands alone.
    """

    weights: tuple[int, ...]
    total: int
    shares: tuple[float, ...]
    reasons: tuple[str, ...]


class AttributionModel(Protocol):
    """A rule that shares a conversion among the touches of its path.

    `additive` is false where shares do not add up to 1. `by_length` is true where `weigh` hands out the same
    few objects again and again, so that what is made from one is worth keeping by its identity.
    `weigh` takes a path of at least one touch in order of (time, event_id) and the conversion's event time;
    `micros` gives each touch its part of the value. Both are pure. An empty path is a ValueError.
    """

    name: str
    additive: bool
    by_length: bool

    def weigh(self, touches: Sequence[JourneyTouch], conversion_ms: int) -> Weighing: ...

    def micros(self, total_micros: int, weighing: Weighing) -> Sequence[int]: ...


def weighing(weights: Sequence[int], reasons: Sequence[str]) -> Weighing:
    """Weights in lowest terms and their shares; equal where all are zero, `only` for a single touch."""
    if len(weights) == 1:
        return ONLY
    if not any(weights):
        return equal_weighing(len(weights))
    common = gcd(*weights)
    lowest = tuple(weight // common for weight in weights)
    total = sum(lowest)
    share_of = {weight: weight / total for weight in set(lowest)}
    return Weighing(lowest, total, tuple(share_of[weight] for weight in lowest), tuple(map(str, reasons)))


def equal_weighing(count: int) -> Weighing:
    """Equal shares for `count` touches."""
    if count == 1:
        return ONLY
    return Weighing((1,) * count, count, (1 / count,) * count, (str(Reason.EQUAL),) * count)


ONLY = Weighing((1,), 1, (1.0,), (str(Reason.ONLY),))


class Additive:
    """Base of attribution models whose shares add up to 1: the value is split exactly."""

    additive = True
    by_length = False

    def __init__(self, name: str) -> None:
        self.name = name

    def micros(self, total_micros: int, weighing: Weighing) -> Sequence[int]:
        """Each touch's part of `total_micros`; adds up to it exactly."""
        return split(total_micros, weighing.weights)


class ByCount(Additive):
    """Base of attribution models that look at nothing but how many touches there are.

    `weigh` returns the very same object for the same count as long as it is remembered.
    """

    by_length = True

    def __init__(self, name: str, of_count: Callable[[int], Weighing]) -> None:
        super().__init__(name)
        self._of_short = lru_cache(SHORT_PATH)(of_count)
        self._of_long = lru_cache(LONG_PATHS_KEPT)(of_count)

    def weigh(self, touches: Sequence[JourneyTouch], conversion_ms: int) -> Weighing:
        count = len(touches)
        if count == 0:
            raise ValueError("an empty path has nothing to weigh")
        return self._of_short(count) if count <= SHORT_PATH else self._of_long(count)
