"""Output whose record batches are written by the compiled part; what a transaction publishes stays the same bytes."""

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.codec import zstd_encode
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c

from models.credit import Record
from models.crediting import Source
from streams.batches import Row
from streams.native import Batches, Native, Written
from streams.publish import BATCH_BYTES, CREDIT_SCHEMA, BatchedOutput, Output, Publisher

# Header of a batch of format 2: offset, length, leader epoch, magic and checksum, and behind these what the checksum is
# over: attributes, last offset, first and latest record time, producer (id, epoch, sequence), number of records.
_START = struct.Struct(">qiibI")
_CHECKED = struct.Struct(">hiqqqhii")
_LENGTH_AT = 12
# The headers of a record that has none.
NO_PACKED_HEADERS = b"\x00"
_MAGIC = 2
_ZSTD, _TRANSACTIONAL = 4, 16


class CompiledOutput(BatchedOutput):
    """As `BatchedOutput`. `credits` of a plain conversion can be written into `batches` by who knows how."""

    __slots__ = ("_headers", "batches", "native")

    def __init__(self, native: Native, partition: int, place: Callable[[str, int], tuple[str, bytes]]) -> None:
        self.native = native
        super().__init__(partition, lambda: None, place)

    def packed_headers(self, kind: str, offset: int) -> bytes:
        """The headers of a record that the record there brought about, as Kafka has them."""
        name, place = self._place(kind, offset)
        return b"".join((_FIRST_HEADER, packed(name), packed(place)))

    def wrote(self, count: int) -> None:
        """So many records were written into `batches`."""
        self._count += count

    def close(self) -> list[tuple[Any, int]]:
        self._count = 0
        self.full += [(batch, batch.count) for batch in written(self.native, self.batches)]
        return self.full

    def _put(self, source: Source, records: Sequence[Record]) -> None:
        headers, stamp = self.packed_headers(source.kind, source.offset), source.record_ms
        batches, append = self.batches, self.native.append
        for key, value in records:
            append(batches, stamp, key, value, headers)
        self._count += len(records)

    def _start(self) -> None:
        self.batches = self.native.batches(BATCH_BYTES)
        self._count = 0


def written(native: Native, batches: Batches) -> "list[CompiledBatch]":
    """What was written into `batches`, which has nothing then."""
    return [CompiledBatch(each) for each in native.take(batches, zstd_encode)]


class CompiledBatch(BatchBuilder):  # type: ignore[misc]
    """A batch whose records are written already, as aiokafka's producer takes it."""

    def __init__(self, written: Written) -> None:
        self.count = written[2]
        self._builder = _Builder(written)
        self._buffer = None
        self._relative_offset = self.count
        self._closed = True
        self._key_serializer = self._value_serializer = None

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._builder.producer = (producer_id, producer_epoch, base_sequence)


class _Builder:
    """In place of aiokafka's builder, of which a batch that is closed calls these two."""

    def __init__(self, written: Written) -> None:
        self._written = written
        self.producer = (-1, -1, 0)

    def size(self) -> int:
        return _START.size + _CHECKED.size + self._written[1]

    def build(self) -> bytearray:
        records, _, count, first_ms, last_ms = self._written
        batch = bytearray(_START.size + _CHECKED.size + len(records))
        head = (_ZSTD | _TRANSACTIONAL, count - 1, first_ms, last_ms, *self.producer, count)
        _CHECKED.pack_into(batch, _START.size, *head)
        batch[_START.size + _CHECKED.size :] = records
        checksum = calc_crc32c(memoryview(batch)[_START.size :])
        _START.pack_into(batch, 0, 0, len(batch) - _LENGTH_AT, -1, _MAGIC, checksum)
        return batch


class CompiledPublisher(Publisher):
    """The transactional producer of one partition number, whose outputs the compiled part writes."""

    def __init__(
        self,
        client: Mapping[str, Any],
        transactional_id: str,
        group: str,
        topics: Mapping[str, str],
        crash_point: Callable[[str], None],
        native: Native,
    ) -> None:
        """All but `native` as in `Publisher`."""
        super().__init__(client, transactional_id, group, topics, crash_point)
        self._native = native

    def _new_output(self, partition: int, producer: AIOKafkaProducer) -> Output:
        return CompiledOutput(self._native, partition, self._places(partition))

    def _owner_of(self, key: bytes, partitions: int) -> int:
        return self._native.owner_of(key, partitions)

    def _batches(self, producer: AIOKafkaProducer, rows: list[Row]) -> list[Any]:
        native, there = self._native, self._native.batches(BATCH_BYTES)
        for record_ms, key, value, _ in rows:
            # What goes this way has no headers.
            native.append(there, record_ms, key, value, NO_PACKED_HEADERS)
        return written(native, there)


def packed(text: bytes | str | None) -> bytes:
    """A text with its size in front, as it stands in a header."""
    if text is None:
        return _NO_TEXT
    raw = text.encode() if isinstance(text, str) else text
    return varint(len(raw)) + raw


@lru_cache(1_024)
def varint(number: int) -> bytes:
    """A number as Kafka has it inside a record: zigzag, then seven bits a byte."""
    left, out = number << 1, bytearray()
    while left >= 0x80:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


# The size -1.
_NO_TEXT = b"\x01"
# How many headers there are, and the one that is always the same.
_FIRST_HEADER = varint(2) + packed(CREDIT_SCHEMA[0]) + packed(CREDIT_SCHEMA[1])
