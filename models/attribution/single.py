"""Single touch: everything to the first touch, to the last, or to the last that is not direct."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from models.attribution.base import LONG_PATHS_KEPT, ONLY, SHORT_PATH, Additive, Reason, Weighing
from models.attribution.direct import is_direct
from models.attribution.table import AttributionModelTable, ShortPath
from models.facts import JourneyTouch

Pick = Literal["first", "last", "last_non_direct"]


class SingleTable(AttributionModelTable):
    """`kind = "single"`: `pick` says which touch gets everything."""

    kind: Literal["single"] = "single"
    pick: Pick

    def build(self, name: str, short_path: ShortPath) -> "Single":
        return Single(name, self.pick)


class Single(Additive):
    """Everything to one touch. `last_non_direct` falls back to the last touch where all are direct."""

    by_length = True

    def __init__(self, name: str, pick: Pick) -> None:
        super().__init__(name)
        self.pick = pick
        self._on_short = lru_cache(SHORT_PATH)(_all_on)
        self._on_long = lru_cache(LONG_PATHS_KEPT)(_all_on)

    def weigh(self, touches: Sequence[JourneyTouch], conversion_ms: int) -> Weighing:
        count = len(touches)
        if count == 0:
            raise ValueError("an empty path has nothing to weigh")
        place, reason = self._choose(touches)
        on = self._on_short if count <= SHORT_PATH else self._on_long
        return on(count, place, reason)

    def _choose(self, touches: Sequence[JourneyTouch]) -> tuple[int, str]:
        if self.pick == "first":
            return 0, Reason.FIRST
        last = len(touches) - 1
        if self.pick == "last_non_direct":
            for place in range(last, -1, -1):
                if not is_direct(touches[place]):
                    return place, Reason.LAST
        return last, Reason.LAST

    def micros(self, total_micros: int, weighing: Weighing) -> Sequence[int]:
        """The whole value where the weight is; what the general split gives, sooner."""
        parts = [0] * len(weighing.weights)
        parts[weighing.weights.index(1)] = total_micros
        return parts


def _all_on(count: int, place: int, reason: str) -> Weighing:
    if count == 1:
        return ONLY
    weights, shares, reasons = [0] * count, [0.0] * count, [str(Reason.NONE)] * count
    weights[place], shares[place], reasons[place] = 1, 1.0, str(reason)
    return Weighing(tuple(weights), 1, tuple(shares), tuple(reasons))
