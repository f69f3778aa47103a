"""Position based (U-shaped, J-shaped and their kin): fixed weights for the ends, the rest to the middle."""

from fractions import Fraction
from math import lcm
from typing import Literal, Self

from pydantic import model_validator

from models.attribution.base import ByCount, Reason, Weighing, weighing
from models.attribution.table import AttributionModelTable, ShortPath, Weight


class PositionBasedTable(AttributionModelTable):
    """`kind = "position_based"`: the weights of the `first` and the `last` touch, together at most 1."""

    kind: Literal["position_based"] = "position_based"
    first: Weight
    last: Weight

    @model_validator(mode="after")
    def _leave_no_debt(self) -> Self:
        if self.first + self.last > 1:
            raise ValueError("first and last add up to more than 1")
        return self

    def build(self, name: str, short_path: ShortPath) -> "PositionBased":
        return PositionBased(name, self.first, self.last, short_path)


class PositionBased(ByCount):
    """`first` and `last` to the ends, the rest shared equally by the touches between them.

    Two touches have no middle: `normalise_ends` rescales the ends to 1, `split_middle` gives each half of the
    rest.
    """

    def __init__(self, name: str, first: Fraction, last: Fraction, short_path: ShortPath) -> None:
        scale = lcm(first.denominator, last.denominator)
        self._first = int(first * scale)
        self._last = int(last * scale)
        self._rest = scale - self._first - self._last
        self._split_middle = short_path == "split_middle"
        super().__init__(name, self._of_count)

    def _of_count(self, count: int) -> Weighing:
        if count <= 2:
            half = self._rest if self._split_middle else 0
            ends = [2 * self._first + half, 2 * self._last + half]
            return weighing(ends[:count], [Reason.FIRST, Reason.LAST][:count])
        middle = count - 2
        return weighing(
            [self._first * middle, *[self._rest] * middle, self._last * middle],
            [Reason.FIRST, *[Reason.MIDDLE] * middle, Reason.LAST],
        )
