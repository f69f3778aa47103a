"""The independent observer: when the whole output was readable under read_committed, and how many records it has.

It watches the last stable offsets, which is all that decides what a read_committed consumer can see, and reads the
records only once they can be complete: reading along would take a part of the machine away from the system that is
being measured, and the more of it the more records that system writes.

Prints `ready` once it watches, `reached <epoch ms> <count>` with the moment at which the last missing record became
readable, and `final <count> <epoch ms of the last>` after a quiet time, so that a surplus shows as well. While records
are missing and none comes, `count <count>` says how far it got: a system that ends early is short by a known number.
"""

import argparse
import time
from collections.abc import Mapping

from confluent_kafka import OFFSET_BEGINNING, Consumer, IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

LOOK_SECONDS = 0.02
STANDSTILL_SECONDS = 5.0
ADMIN_SECONDS = 10.0
READ_SECONDS = 300.0


class Ends:
    """The last stable offsets of a topic, and when they last moved."""

    def __init__(self, broker: str, topic: str, partitions: int) -> None:
        self._admin = AdminClient({"bootstrap.servers": broker})
        self._spec = {TopicPartition(topic, p): OffsetSpec.latest() for p in range(partitions)}
        self.offsets = dict.fromkeys(range(partitions), 0)
        self.moved = time.time()

    def look(self) -> int:
        """Ask for them; their sum, which is at least the number of records."""
        asked = time.time()
        answers = self._admin.list_offsets(
            self._spec, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ADMIN_SECONDS
        )
        offsets = {tp.partition: future.result(ADMIN_SECONDS).offset for tp, future in answers.items()}
        if offsets != self.offsets:
            self.offsets, self.moved = offsets, asked
        return sum(offsets.values())


class Counter:
    """Counts the records up to given offsets, each once."""

    def __init__(self, broker: str, topic: str, partitions: int) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": broker,
                "group.id": "bench-reader",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 20,
                "fetch.message.max.bytes": 8 << 20,
                "check.crcs": False,
                "enable.partition.eof": True,
                "log_level": 2,
            }
        )
        self._topic, self._partitions = topic, partitions
        self._at_end: dict[int, int] = {}
        self.count = 0

    def read_to(self, ends: Mapping[int, int]) -> None:
        """Read on until every partition has come to its end in `ends`."""
        if not self._at_end:
            self._at_end = dict.fromkeys(range(self._partitions), -1)
            self._consumer.assign([TopicPartition(self._topic, p, OFFSET_BEGINNING) for p in self._at_end])
        deadline = time.monotonic() + READ_SECONDS
        while any(self._at_end[p] < end for p, end in ends.items()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the output could not be read: at {self._at_end}, expected {ends}")
            for message in self._consumer.consume(10_000, LOOK_SECONDS):
                if message.error() is None:
                    self.count += 1
                else:  # the end of a partition, told once each time it is reached
                    self._at_end[message.partition()] = message.offset()

    def close(self) -> None:
        self._consumer.close()


def main() -> None:
    """Watch until nothing has come for `--quiet` seconds after the expected number, then say so and end."""
    options = argparse.ArgumentParser()
    for name in ("--broker", "--topic"):
        options.add_argument(name, required=True)
    options.add_argument("--partitions", type=int, required=True)
    options.add_argument("--expected", type=int, required=True)
    options.add_argument("--quiet", type=float, default=1.0)
    o = options.parse_args()
    ends = Ends(o.broker, o.topic, o.partitions)
    counter = Counter(o.broker, o.topic, o.partitions)
    ends.look()
    print("ready", flush=True)
    reached, told, counted_at = False, time.time(), -1.0
    while not (reached and time.time() - ends.moved > o.quiet):
        if ends.look() >= o.expected and ends.moved != counted_at:
            counted_at = ends.moved
            counter.read_to(ends.offsets)
            if counter.count >= o.expected and not reached:
                reached = True
                print("reached", int(counted_at * 1000), counter.count, flush=True)
        elif not reached and time.time() - max(ends.moved, told) > STANDSTILL_SECONDS:
            told = time.time()
            print("count", counter.count or sum(ends.offsets.values()), flush=True)
        time.sleep(LOOK_SECONDS)
    counter.read_to(ends.offsets)
    print("final", counter.count, int(ends.moved * 1000), flush=True)
    counter.close()


if __name__ == "__main__":
    main()
