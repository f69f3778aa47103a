"""Our murmur2 is Kafka's."""

from aiokafka import partitioner
from hypothesis import example, given, seed
from hypothesis import strategies as st

from streams.murmur import murmur2, partition_of

SEED = 20_261_122


@seed(SEED)
@given(st.binary(max_size=300), st.integers(1, 1_000))
@example(b"", 3)
@example(b"\xff" * 7, 3)
def test_it_is_kafka_s(key: bytes, partitions: int) -> None:
    """Any key of any length has the hash that aiokafka gives it, and so the partition that all clients give it."""
    assert murmur2(key) == partitioner.murmur2(key) & 0xFFFFFFFF
    assert partition_of(key, partitions) == (partitioner.murmur2(key) & 0x7FFFFFFF) % partitions
