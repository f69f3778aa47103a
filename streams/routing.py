"""Whether records lie in the partition that Kafka's default partitioner gives their key."""

from collections.abc import Callable, Sequence
from typing import Any

# murmur2 in Python costs more than everything else a touch costs, so mostly a sample is looked at. A producer with
# another partitioner puts nearly all its keys wrong: as soon as one is found, its whole chunk is counted.
SAMPLE_EVERY = 64


def misrouted(
    records: Sequence[Any], partition: int, partitions: int, partition_of: Callable[[bytes, int], int]
) -> int:
    """How many of a chunk's records lie in another partition than their key's; 0 where the sample has none.

    `partition_of`: as `streams.murmur.partition_of`.
    """

    def is_elsewhere(record: Any) -> bool:
        return record.key is not None and partition_of(record.key, partitions) != partition

    return sum(map(is_elsewhere, records)) if any(map(is_elsewhere, records[::SAMPLE_EVERY])) else 0
