"""Time decay: a touch loses half of its weight every half-life before the conversion."""

from collections.abc import Sequence
from math import frexp
from typing import Literal, Self

from pydantic import model_validator

from models.attribution.base import ONLY, Additive, Reason, Weighing, weighing
from models.attribution.table import AttributionModelTable, ShortPath
from models.durations import DAY_MS, Duration
from models.facts import JourneyTouch

AgeUnit = Literal["exact", "1d"]

# A double has 53 significant bits, so 2**(53 - exponent) makes a whole number of it.
_PRECISION = 53
# Within this exponent the scaled weights stay finite doubles, and the scaling is one multiplication.
_EXPONENT_MIN = -900

_DECAY = str(Reason.DECAY)


class TimeDecayTable(AttributionModelTable):
    """`kind = "time_decay"`: `half_life`, and `age_unit` (`exact`, or `1d` to count whole days)."""

    kind: Literal["time_decay"] = "time_decay"
    half_life: Duration = 7 * DAY_MS
    age_unit: AgeUnit = "exact"

    @model_validator(mode="after")
    def _halve_in_some_time(self) -> Self:
        if self.half_life == 0:
            raise ValueError("half_life must be longer than 0")
        return self

    def build(self, name: str, short_path: ShortPath) -> "TimeDecay":
        return TimeDecay(name, self.half_life, self.age_unit)


class TimeDecay(Additive):
    """2^(-age / half_life), as the IEEE double nearest to it, normalised.

    Ages count from the youngest touch, which changes no share but keeps its weight at 1: however short the
    half-life, the weights are never all zero. Each double is a whole number times a power of two, so they are
    scaled to whole numbers exactly and the money split repeats to the bit.
    """

    def __init__(self, name: str, half_life_ms: int, age_unit: AgeUnit) -> None:
        super().__init__(name)
        self.half_life_ms = half_life_ms
        self.whole_days = age_unit == "1d"

    def weigh(self, touches: Sequence[JourneyTouch], conversion_ms: int) -> Weighing:
        count = len(touches)
        if count == 1:
            return ONLY
        if count == 0:
            raise ValueError("an empty path has nothing to weigh")
        decays = self._decays(touches, conversion_ms)
        exponent = frexp(decays[0])[1]  # the oldest touch comes first and has the smallest weight
        if decays[0] == 0.0 or exponent < _EXPONENT_MIN:
            return _weigh_far_apart(decays)
        scale = 2.0 ** (_PRECISION - exponent)
        weights = tuple([int(decay * scale) for decay in decays])
        total = sum(weights)
        return Weighing(weights, total, tuple([weight / total for weight in weights]), (_DECAY,) * count)

    def _decays(self, touches: Sequence[JourneyTouch], conversion_ms: int) -> list[float]:
        half_life_ms = self.half_life_ms
        if self.whole_days:
            days = [(conversion_ms - touch.occurred_ms) // DAY_MS for touch in touches]
            youngest = days[-1]
            return [2.0 ** ((youngest - age) * DAY_MS / half_life_ms) for age in days]
        youngest_ms = touches[-1].occurred_ms
        return [2.0 ** ((touch.occurred_ms - youngest_ms) / half_life_ms) for touch in touches]


def _weigh_far_apart(decays: Sequence[float]) -> Weighing:
    """The same where the weights lie hundreds of powers of two apart: slower, at any distance."""
    ratios = [decay.as_integer_ratio() for decay in decays]
    scale = max(denominator for _, denominator in ratios)
    weights = [numerator * (scale // denominator) for numerator, denominator in ratios]
    total = sum(weights)
    # A share too small for a double is 0, and a touch with share 0 has no weight either.
    kept = [weight if weight / total else 0 for weight in weights]
    return weighing(kept, [_DECAY if weight else Reason.NONE for weight in kept])
