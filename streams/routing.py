"""Whether records lie in the partition that Kafka's default partitioner gives their key."""

from collections.abc import Sequence
from typing import Any

from streams.murmur import partition_of

# murmur2 in Python costs more than everything else a touch costs, so mostly a sample is looked at. A producer with
# another partitioner puts nearly all its keys wrong: as soon as one is found, its whole chunk is counted.
SAMPLE_EVERY = 64


def misrouted(records: Sequence[Any], partition: int, partitions: int) -> int:
    """How many of a chunk's records lie in another partition than their key's; 0 where the sample has none."""
    if not any(_is_elsewhere(r, partition, partitions) for r in records[::SAMPLE_EVERY]):
        return 0
    return sum(_is_elsewhere(r, partition, partitions) for r in records)


def _is_elsewhere(record: Any, partition: int, partitions: int) -> bool:
    return record.key is not None and partition_of(record.key, partitions) != partition
