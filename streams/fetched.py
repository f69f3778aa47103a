"""What a fetch brought, as a chunk: in place of aiokafka's loop, which makes a dataclass of each record.

It rests on private methods of aiokafka 0.14.0. Everything here runs in the consumer's thread.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.record.default_records import DefaultRecordBatch


class Chunk(list[Any]):
    """Records of one topic partition as they were fetched, and from which position to which."""

    __slots__ = ("end", "start")

    def __init__(self, records: Iterable[Any], start: int, end: int) -> None:
        super().__init__(records)
        self.start = start
        self.end = end


class _Records:
    """Records that go through aiokafka's loop as if they were one, which lies at `offset`."""

    __slots__ = ("_found", "offset")

    def __init__(self, found: Iterable[Any], offset: int) -> None:
        self._found = found
        self.offset = offset

    def __iter__(self) -> Iterator[Any]:
        return iter(self._found)


class _Whole:
    """A batch of which every record is wanted: aiokafka's loop over them costs as much as making them."""

    __slots__ = ("_batch",)

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[_Records]:
        yield _Records(self._batch, self._batch.base_offset)


class _Batches:
    """The batches of a fetch, for aiokafka's loop: it decides which of them count, and moves the position on."""

    __slots__ = ("_batches", "_fetched")

    def __init__(self, fetched: Any) -> None:
        self._fetched = fetched
        self._batches = fetched._records

    def has_next(self) -> bool:
        """Whether `next_batch` has another."""
        return bool(self._batches.has_next())

    def next_batch(self) -> Any:
        """The next one; as it is where aiokafka looks into it, or where it begins before the position."""
        batch = self._batches.next_batch()
        is_whole = (
            isinstance(batch, DefaultRecordBatch)
            and not batch.is_control_batch
            and batch.base_offset >= self._fetched.next_fetch_offset
        )
        return _Whole(batch) if is_whole else batch


def _consumer_record(self: Any, tp: Any, record: Any) -> Any:
    if not isinstance(self._records, _Batches):
        return record
    return record if isinstance(record, _Records) else _Records((record,), record.offset)


def _get_all(self: Any, max_records: int | None = None) -> list[Any]:
    """All records of a fetched chunk at once; Faust never asks for less (`broker_max_poll_records` is unset)."""
    if not self.check_assignment(self._topic_partition) or not self.has_more():
        return []
    fetched = self._partition_records
    start = fetched.next_fetch_offset
    # Its loop has not begun.
    fetched._records = _Batches(fetched)
    found = chain.from_iterable(fetched._records_iterator)
    # Other consumers of this process have none.
    unpack = fetched._value_deserializer
    records = list(found) if unpack is None else unpack(self._topic_partition.topic, found)
    self._update_position()
    self._partition_records = None
    state = self._assignment.state_value(self._topic_partition)
    # A fetch can hold markers of transactions only; nothing is handed out then, and the next chunk begins before it.
    passed = getattr(state, "touchstream_passed", None)
    if passed is not None and passed[1] == start:
        start = passed[0]
    if not records:
        state.touchstream_passed = (start, fetched.next_fetch_offset)
        return []
    state.touchstream_passed = None
    return Chunk(records, start, fetched.next_fetch_offset)


def install() -> None:
    """Let aiokafka hand out its own C records, and all of a fetch at once."""
    aiokafka_fetcher.PartitionRecords._consumer_record = _consumer_record
    aiokafka_fetcher.FetchResult.getall = _get_all
