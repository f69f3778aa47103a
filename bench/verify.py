"""After the clock has stopped: is what was published right? Every set whole, every sum exact, nothing twice.

Reads flat credits (Touchstream's, and the peers' flat form) and grouped ones; keeps for each (conversion, attribution
model) the records of its highest revision, which is the final view, and adds up.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

READ_SECONDS = 300


@dataclass(frozen=True)
class Verdict:
    """Records in the final view, records read in all, tombstones, and the faults found (none when right)."""

    final: int
    read: int
    tombstones: int
    faults: tuple[str, ...]


class _Set:
    """The records of one (conversion, attribution model) at its highest revision so far."""

    __slots__ = ("amount", "ids", "revision", "size", "twice", "value")

    def __init__(self) -> None:
        self.revision, self.size, self.value = -1, 0, 0
        self._clear()

    def _clear(self) -> None:
        self.ids: set[str] = set()
        self.amount = self.twice = 0

    def take(self, c: dict[str, Any]) -> None:
        revision = int(c["revision"])
        if revision < self.revision:
            return
        if revision > self.revision:
            self.revision = revision
            self._clear()
        self.size, self.value = c["set_size"], c["conversion_value_micros"]
        if c["credit_id"] in self.ids:
            self.twice += 1
            return
        self.ids.add(c["credit_id"])
        self.amount += c["value_micros"]


def verify(broker: str, topic: str, partitions: int, conversions: int, final: int | None) -> Verdict:
    """Read `topic` to its end and check it; `final` is the expected size of the final view, None if unknown."""
    sets: dict[tuple[str, str], _Set] = {}
    read = tombstones = 0
    for value in _values(broker, topic, partitions):
        read += 1
        if value is None:
            tombstones += 1
            continue
        for credit in _flat(msgspec.json.decode(value)):
            key = (credit["conversion_id"], credit["attribution_model"])
            found = sets.get(key)
            if found is None:
                found = sets[key] = _Set()
            found.take(credit)
    faults = [
        *(f"{k}: {len(s.ids)} of {s.size} records" for k, s in sets.items() if len(s.ids) != s.size),
        *(f"{k}: sum {s.amount}, not {s.value}" for k, s in sets.items() if s.amount != s.value),
        *(f"{k}: {s.twice} published twice" for k, s in sets.items() if s.twice),
    ]
    if len(sets) != 5 * conversions:
        faults.append(f"{len(sets)} sets, not {5 * conversions}")
    size = sum(len(s.ids) for s in sets.values())
    if final is not None and size != final:
        faults.append(f"final view has {size} records, not {final}")
    return Verdict(size, read, tombstones, tuple(faults[:10]))


def _flat(record: dict[str, Any]) -> list[dict[str, Any]]:
    if "credits" not in record:
        return [record]
    head = {k: v for k, v in record.items() if k != "credits"} | {"revision": 1, "set_size": len(record["credits"])}
    return [head | c | {"credit_id": c["touch_id"]} for c in record["credits"]]


def _values(broker: str, topic: str, partitions: int) -> Iterator[bytes | None]:
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": "bench-reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(partitions)])
    open_partitions = set(range(partitions))
    deadline = time.monotonic() + READ_SECONDS
    while open_partitions and time.monotonic() < deadline:
        for m in consumer.consume(5_000, 0.1):
            error = m.error()
            if error is None:
                yield m.value()
            elif error.code() == KafkaError._PARTITION_EOF:
                open_partitions.discard(m.partition())
    consumer.close()
    if open_partitions:
        raise RuntimeError(f"{topic}: {sorted(open_partitions)} not read to the end within {READ_SECONDS} s")
