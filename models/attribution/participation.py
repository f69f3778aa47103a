"""Participation: every touch gets the whole, to see what took part; never to be added up."""

from collections.abc import Sequence
from typing import Literal

from models.attribution.base import ONLY, ByCount, Reason, Weighing
from models.attribution.table import AttributionModelTable, ShortPath


class ParticipationTable(AttributionModelTable):
    """`kind = "participation"`: nothing to set."""

    kind: Literal["participation"] = "participation"

    def build(self, name: str, short_path: ShortPath) -> "Participation":
        return Participation(name)


class Participation(ByCount):
    """Share 1 and the whole value for each touch; not additive."""

    additive = False

    def __init__(self, name: str) -> None:
        super().__init__(name, _whole_each)

    def micros(self, total_micros: int, weighing: Weighing) -> Sequence[int]:
        """The whole value for each touch."""
        return [total_micros] * len(weighing.weights)


def _whole_each(count: int) -> Weighing:
    if count == 1:
        return ONLY
    return Weighing((1,) * count, 1, (1.0,) * count, (str(Reason.EQUAL),) * count)
