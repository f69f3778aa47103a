"""Linear: the same share for every touch."""

from collections.abc import Sequence
from typing import Literal

from models.attribution.base import ByCount, Weighing, equal_weighing
from models.attribution.table import AttributionModelTable, ShortPath
from models.money import split_evenly


class LinearTable(AttributionModelTable):
    """`kind = "linear"`: nothing to set."""

    kind: Literal["linear"] = "linear"

    def build(self, name: str, short_path: ShortPath) -> "Linear":
        return Linear(name)


class Linear(ByCount):
    """1/n to each of n touches."""

    def __init__(self, name: str) -> None:
        super().__init__(name, equal_weighing)

    def micros(self, total_micros: int, weighing: Weighing) -> Sequence[int]:
        """What the general split gives for equal weights, sooner."""
        return split_evenly(total_micros, weighing.total)
