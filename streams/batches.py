"""Records for other partitions as Kafka batches: where each lies, and one batch builder for many of them."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer

from streams.murmur import partition_of
from streams.native import Native

# murmur2 in Python costs as much as the rest of an event; the people of today come again and again.
PLACES_MAX = 1 << 17

# Record time (epoch ms), key, value, headers.
Row = tuple[int, bytes, bytes, Sequence[tuple[str, bytes | None]]]


@lru_cache(PLACES_MAX)
def owner_of(text: str, partitions: int) -> int:
    """The partition number that owns an id or a conversion's key, remembered."""
    return partition_of(text.encode(), partitions)


def owners(native: Native | None) -> Callable[[str, int], int]:
    """`owner_of`, by the compiled part where it is there; that needs no memory."""
    return owner_of if native is None else native.owner_of


def partitioner(native: Native | None) -> Callable[[bytes, int], int]:
    """`partition_of`, by the compiled part where it is there."""
    return partition_of if native is None else native.owner_of


def batches(producer: AIOKafkaProducer, rows: Iterable[Row]) -> list[Any]:
    """Records of one partition as Kafka batches; `send` for each of them would cost ten times as much."""
    full: list[Any] = []
    batch = producer.create_batch()
    # The C builder directly: BatchBuilder.append costs three times as much.
    append, count = batch._builder.append, 0
    for record_ms, key, value, headers in rows:
        if append(count, record_ms, key, value, headers) is None:
            full.append(_closed(batch, count))
            batch = producer.create_batch()
            append, count = batch._builder.append, 0
            append(0, record_ms, key, value, headers)
        count += 1
    full.append(_closed(batch, count))
    return full


def _closed(batch: Any, count: int) -> Any:
    # Its builder was filled directly, so the batch does not know its count.
    batch._relative_offset = count
    batch.close()
    return batch
