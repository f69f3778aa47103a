"""Which touches can be late, told without reading their journeys.

A touch younger in event time than the last conversion of its journey changes no credit. A partition remembers the last
conversion of the journeys that converted lately, down to a floor of event time; a touch below the floor may be late
and its journey must be read. On a new claim nothing is remembered, so the floor is the latest conversion of all, which
is stored with the applied offsets.
"""

from collections.abc import Iterable

JOURNEYS_MAX = 100_000


class RecentConversions:
    """Journey key → event time of its last conversion, for conversions at or above `floor_ms`."""

    def __init__(self, latest_ms: int, journeys_max: int = JOURNEYS_MAX) -> None:
        """`latest_ms`: event time of the latest conversion of the partition so far, -1 if there is none."""
        self.latest_ms = latest_ms
        self.floor_ms = latest_ms + 1
        self._journeys_max = journeys_max
        self.last: dict[bytes, int] = {}

    def late(self, touches: Iterable[tuple[int, int, bytes, int, bytes]]) -> list[bytes]:
        """The journeys of touches (offset, record time, key, event time, frame) with a conversion at or after them.

        A whole batch at once: a call a touch would cost more than the test.
        """
        last, floor_ms = self.last, self.floor_ms - 1
        return [key for _, _, key, occurred_ms, _ in touches if occurred_ms <= last.get(key, floor_ms)]

    def add(self, key: bytes, occurred_ms: int) -> None:
        """A conversion was accepted."""
        self.latest_ms = max(self.latest_ms, occurred_ms)
        if occurred_ms >= self.floor_ms and occurred_ms > self.last.get(key, -1):
            self.last[key] = occurred_ms
            if len(self.last) > self._journeys_max:
                self._forget()

    def _forget(self) -> None:
        """Raise the floor so that the younger half stays."""
        times = sorted(self.last.values())
        self.floor_ms = times[len(times) // 2] + 1
        self.last = {key: ms for key, ms in self.last.items() if ms >= self.floor_ms}
