"""Custom: weights by position, counted from the front and from the back."""

from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from models.attribution.base import ByCount, Reason, Weighing, weighing
from models.attribution.table import AttributionModelTable, ShortPath, Weight

# More positions than this are a formula, not a list.
POSITIONS_MAX = 100

Positions = Annotated[tuple[Weight, ...], Field(max_length=POSITIONS_MAX)]


class CustomTable(AttributionModelTable):
    """`kind = "custom"`: `front` from the first touch on, `back` from the last one backwards; at most 1."""

    kind: Literal["custom"] = "custom"
    front: Positions = ()
    back: Positions = ()

    @model_validator(mode="after")
    def _leave_no_debt(self) -> Self:
        if not self.front and not self.back:
            raise ValueError("front or back must name at least one weight")
        if sum(self.front) + sum(self.back) > 1:
            raise ValueError("front and back add up to more than 1")
        return self

    def build(self, name: str, short_path: ShortPath) -> "Custom":
        return Custom(name, self.front, self.back)


class Custom(ByCount):
    """`front[i]` to the i-th touch, `back[i]` to the i-th from the end, the rest in equal parts to others.

    On a path too short for both lists a position beyond the path is left out, a touch that both name gets
    the sum of the two, and a rest that finds no touch is left out; what is there is then scaled to 1. So the
    lists have no precedence, and one weight at each end gives position_based with `normalise_ends`.
    """

    def __init__(self, name: str, front: Sequence[Fraction], back: Sequence[Fraction]) -> None:
        scale = lcm(*(weight.denominator for weight in (*front, *back)))
        self._front = [int(weight * scale) for weight in front]
        self._back = [int(weight * scale) for weight in back]
        self._rest = scale - sum(self._front) - sum(self._back)
        super().__init__(name, self._of_count)

    def _of_count(self, count: int) -> Weighing:
        each = max(count - len(self._front) - len(self._back), 1)  # how many share the rest: keeps it whole
        weights, reasons = [0] * count, [Reason.MIDDLE] * count
        for place, weight in zip(range(count - 1, -1, -1), self._back, strict=False):
            weights[place], reasons[place] = weight * each, Reason.LAST
        for place, weight in zip(range(count), self._front, strict=False):
            weights[place], reasons[place] = weights[place] + weight * each, Reason.FIRST
        for place in range(len(self._front), count - len(self._back)):
            weights[place] = self._rest
        return weighing(weights, reasons)
