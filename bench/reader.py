"""The independent observer: a read_committed consumer in a process of its own that only counts.

Prints `ready` once every partition is assigned, `reached <epoch ms> <count>` the moment the expected number of records
was read, and `final <count> <epoch ms of the last>` after a quiet time, so that a surplus shows as well. While records
are missing and none comes, `count <count>` says how far it got: a system that ends early is short by a known number.
"""

import argparse
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

STANDSTILL_SECONDS = 5.0


def main() -> None:
    """Count until nothing has come for `--quiet` seconds after the expected number, then say so and end."""
    options = argparse.ArgumentParser()
    for name in ("--broker", "--topic"):
        options.add_argument(name, required=True)
    options.add_argument("--partitions", type=int, required=True)
    options.add_argument("--expected", type=int, required=True)
    options.add_argument("--quiet", type=float, default=1.0)
    o = options.parse_args()
    consumer = Consumer(
        {
            "bootstrap.servers": o.broker,
            "group.id": "bench-reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 20,
            "fetch.message.max.bytes": 8 << 20,
            "check.crcs": False,
            "log_level": 2,
        }
    )
    consumer.assign([TopicPartition(o.topic, p, OFFSET_BEGINNING) for p in range(o.partitions)])
    print("ready", flush=True)
    count, last, reached, told = 0, time.time(), False, 0
    while not (reached and time.time() - last > o.quiet):
        batch = consumer.consume(10_000, 0.02)
        good = sum(1 for m in batch if m.error() is None)
        if not good:
            if not reached and count != told and time.time() - last > STANDSTILL_SECONDS:
                told = count
                print("count", count, flush=True)
            continue
        count, last = count + good, time.time()
        if count >= o.expected and not reached:
            reached = True
            print("reached", int(last * 1000), count, flush=True)
    print("final", count, int(last * 1000), flush=True)
    consumer.close()


if __name__ == "__main__":
    main()
