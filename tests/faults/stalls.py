"""A read_committed consumer of all credits partitions that notes when something arrives, and how long nothing did."""

import time
from itertools import pairwise
from types import TracebackType

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

# Below this a silence is the pace of the load and of the batches, not a fault.
SILENCE_S = 1.0
FETCHED_MAX = 1_000


class Stalls:
    """Arrivals a credits partition, in seconds of the monotonic clock. `look` has to be called often."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self._arrivals: dict[int, list[float]] = {partition: [] for partition in range(partitions)}
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"stalls-of-{topic}",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 20,
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(partitions)])

    def __enter__(self) -> "Stalls":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._consumer.close()

    def look(self) -> None:
        """Take what has arrived. An error of the connection says nothing of credits, so it is left out."""
        seen = {message.partition() for message in self._consumer.consume(FETCHED_MAX, 0) if message.error() is None}
        now_s = time.monotonic()
        for partition in seen:
            assert partition is not None
            self._arrivals[partition].append(now_s)

    def all_since(self, moment_s: float) -> bool:
        """Whether every partition brought a credit after that moment."""
        return all(times and times[-1] > moment_s for times in self._arrivals.values())

    def longest_s(self) -> float:
        """The longest silence between two arrivals of one partition."""
        return max((end - start for start, end in self._silences()), default=0.0)

    def recovered_s(self, moment_s: float) -> float:
        """From that moment to the end of the last silence after it in any partition; 0 where there was none."""
        ends = [end for start, end in self._silences() if end > moment_s and end - start > SILENCE_S]
        return max(ends) - moment_s if ends else 0.0

    def _silences(self) -> list[tuple[float, float]]:
        return [pair for times in self._arrivals.values() for pair in pairwise(times)]
