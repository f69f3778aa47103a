"""Open loop: records at a fixed rate, delay from each conversion's *scheduled* send to its first readable credit.

With `--identity` they are raw events: touches of visitors under anonymous ids, and conversions that name the visitor
and the user, so that the first conversion of each merges two persons. Its first credits can come before the visitor's
journey has moved; the delay to the last revision says when everything was there.

A sender that waits for the system under test hides its stalls; this one sends by the clock, and a late send counts
against the result. Sender and reader share this process: their own delay is part of every figure, not taken off.
"""

import argparse
import json
import random
import shlex
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.generate import CHANNELS
from bench.jars import HERE
from bench.processes import Child
from bench.report import rewrite
from bench.servers import servers
from bench.systems import PREFIX, TOUCHSTREAM, apply_topics

TOUCHES_PER_SECOND = 2_000
CONVERSIONS_PER_SECOND = 100
PARTITIONS = 4
PEOPLE = 20_000
SEED = 11
TICK_SECONDS = 0.005
WARM_UP_SECONDS = 60.0
DRAIN_SECONDS = 30.0


class _Id(msgspec.Struct):
    conversion_id: str


class Arrivals:
    """Receive times of each conversion's first and last credit, taken by a read_committed consumer in a thread."""

    def __init__(self, broker: str, topic: str) -> None:
        self.received: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": broker,
                "group.id": "bench-latency",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 10,
            }
        )
        self._consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(PARTITIONS)])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, then the consumer."""
        self._stop.set()
        self._thread.join(10)
        self._consumer.close()

    def _run(self) -> None:
        decode = msgspec.json.Decoder(_Id).decode
        while not self._stop.is_set():
            batch = self._consumer.consume(500, 0.005)
            now = time.time()
            for m in batch:
                value = None if m.error() else m.value()
                if value is not None:
                    conversion_id = decode(value).conversion_id
                    self.received.setdefault(conversion_id, now)
                    self.last[conversion_id] = now


class Sender:
    """Touches and conversions by the clock; remembers when each conversion was due."""

    def __init__(self, broker: str, raw: bool = False) -> None:
        """`raw`: events of visitors and users in place of whole persons."""
        self.due: dict[str, float] = {}
        self.most_behind = 0.0
        self._raw = raw
        self._random = random.Random(SEED)
        self._encode = msgspec.json.Encoder().encode
        self._producer = Producer(
            {"bootstrap.servers": broker, "partitioner": "murmur2_random", "linger.ms": 2, "compression.type": "lz4"}
        )

    def send(self, seconds: float, label: str) -> None:
        """Send for `seconds`; conversion ids begin with `label`."""
        begin = time.time()
        step = TOUCHES_PER_SECOND // CONVERSIONS_PER_SECOND
        for i in range(int(seconds * TOUCHES_PER_SECOND)):
            due = begin + i / TOUCHES_PER_SECOND
            while (wait := due - time.time()) > 0:
                self._producer.poll(0)
                time.sleep(min(wait, TICK_SECONDS))
            self.most_behind = max(self.most_behind, -wait)
            person = f"p{self._random.randrange(PEOPLE):06d}"
            self._produce("touches", person, self._touch(f"{label}-t{i}", due) | self._ids(person, "anonymous_id"))
            if i % step == step - 1:
                key = f"{label}-c{i}"
                self.due[key] = due
                ids = self._ids(person, "user_id", "anonymous_id")
                self._produce("conversions", person, self._conversion(key, due) | ids)
        if self._producer.flush(30):
            raise RuntimeError("records were not produced within 30 s")

    def _produce(self, topic: str, person: str, value: dict[str, object]) -> None:
        kind = f"raw-{topic}" if self._raw else topic
        self._producer.produce(f"{PREFIX}.{kind}", key=person, value=self._encode(value))

    def _ids(self, person: str, *raw: str) -> dict[str, object]:
        return dict.fromkeys(raw if self._raw else ("person_id",), person)

    def _touch(self, event_id: str, due: float) -> dict[str, object]:
        return {"event_id": event_id, "occurred_at": int(due * 1000), "channel": self._random.choice(CHANNELS)}

    @staticmethod
    def _conversion(key: str, due: float) -> dict[str, object]:
        return {"conversion_id": key, "occurred_at": int(due * 1000), "value": "49.90", "currency": "USD"}


def percentile(ordered: list[float], part: float) -> float:
    """Nearest rank: the smallest value that at least `part` of them do not exceed."""
    return ordered[max(0, -(-int(len(ordered) * part * 1000) // 1000) - 1)] if ordered else float("nan")


@dataclass(frozen=True)
class Target:
    """Servers, the command that starts Touchstream on them, and a folder for its log."""

    broker: str
    redis: str
    command: str
    work: Path


def latency(target: Target, seconds: float, settle: str, identity: bool = False) -> dict[str, Any]:
    """Start Touchstream with `settle`, wait for a first credit, send for `seconds`, give the percentiles in ms.

    `identity`: raw events, by way of the identity stage. Raises RuntimeError when no credit comes.
    """
    create_topics(target.broker)
    apply_topics(target.broker)
    words = shlex.split(target.command.format(broker=target.broker, redis=target.redis, workers=1))
    environ = {"TOUCHSTREAM_PROCESSING__SETTLE": settle, "TOUCHSTREAM_IDENTITY__ENABLED": str(identity).lower()}
    run = Child(words, target.work / f"latency-{settle}-{identity}.log", environ)
    arrivals = Arrivals(target.broker, f"{PREFIX}.credits")
    try:
        sender = Sender(target.broker, identity)
        warm_up(sender, arrivals, run)
        sender.due.clear()
        sender.most_behind = 0.0
        before = run.usage.sample()
        sender.send(seconds, "run")
        drain(sender, arrivals)
        cpu = run.usage.sample() - before
        return {"identity stage": identity, **summary(settle, seconds, sender, arrivals, cpu)}
    finally:
        arrivals.close()
        run.stop()


def warm_up(sender: Sender, arrivals: Arrivals, run: Child) -> None:
    """Send second by second until credits come; not part of the figures."""
    deadline = time.monotonic() + WARM_UP_SECONDS
    number = 0
    while not arrivals.received:
        if run.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("no credit came:\n" + run.tail())
        sender.send(1.0, f"warm{number}")
        number += 1
    sender.send(3.0, "warm")


def drain(sender: Sender, arrivals: Arrivals) -> None:
    """Wait for the last credits, at most `DRAIN_SECONDS`."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while not sender.due.keys() <= arrivals.received.keys() and time.monotonic() < deadline:
        time.sleep(0.05)


def delays_ms(sender: Sender, times: dict[str, float]) -> list[float]:
    """From when conversions were due to these times, in order."""
    return sorted((times[key] - due) * 1000 for key, due in sender.due.items() if key in times)


def summary(settle: str, seconds: float, sender: Sender, arrivals: Arrivals, cpu: float) -> dict[str, Any]:
    """Percentiles in ms, with how many conversions had no credit and how far the sender itself fell behind."""
    delays, last = delays_ms(sender, arrivals.received), delays_ms(sender, arrivals.last)
    parts = {f"p{100 * p:g} ms": round(percentile(delays, p), 1) for p in (0.5, 0.95, 0.99, 0.999)}
    parts |= {f"last revision, p{100 * p:g} ms": round(percentile(last, p), 1) for p in (0.5, 0.99)}
    return {
        "settle": settle,
        "seconds": seconds,
        "conversions": len(sender.due),
        "without credit": len(sender.due) - len(delays),
        **parts,
        "max ms": round(delays[-1], 1) if delays else None,
        "sender behind, most, ms": round(sender.most_behind * 1000, 1),
        "client CPU share of one core": round(cpu / seconds, 3),
    }


def create_topics(broker: str) -> None:
    """The two inputs, empty."""
    admin = AdminClient({"bootstrap.servers": broker})
    inputs = {"retention.ms": "-1", "message.timestamp.type": "LogAppendTime"}
    new = [NewTopic(f"{PREFIX}.{t}", PARTITIONS, 1, config=inputs) for t in ("touches", "conversions")]
    for future in admin.create_topics(new).values():
        future.result(30)


def main() -> None:
    """Latency alone, on servers of its own."""
    p = argparse.ArgumentParser(prog="bench.latency", description=__doc__.splitlines()[0] if __doc__ else None)
    p.add_argument("--latency-seconds", type=float, default=300.0)
    p.add_argument("--settle", default="250ms,0s")
    p.add_argument("--touchstream", default=TOUCHSTREAM)
    p.add_argument("--identity", action="store_true", help="raw events, by way of the identity stage")
    p.add_argument("--keep", action="store_true", help="put the figures into RESULTS.md, beside the others there")
    o = p.parse_args()
    for settle in o.settle.split(","):
        with servers("latency") as (kafka, redis, work):
            target = Target(kafka.bootstrap, redis.url, o.touchstream, work)
            out = latency(target, o.latency_seconds, settle, o.identity)
            print(json.dumps(out), flush=True)
        if o.keep:
            rewrite(HERE, latency=[out])


if __name__ == "__main__":
    main()
