"""A worker process on the embedded servers: how it stops, what it refuses, and a flood of dead letters."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition
from redis import Redis

from state.keys import APPLIED, prefix
from streams import cli, embedded, topics
from streams.errors import EXIT_FINDING, EXIT_FINE, EXIT_RESTART
from streams.settings import Settings
from streams.spawn import spawn
from streams.step import Applied
from streams.tripwire import ACCEPTED, TRIP, TRIPPED, WINDOW

# A fence: a start takes about two seconds on an idle machine.
DEADLINE_S = 60.0
POLL_S = 0.02


class Place:
    """A prefix of its own with one partition, and the workers started on it."""

    def __init__(self, broker: embedded.Broker, valkey: embedded.Valkey, folder: Any) -> None:
        self.settings = Settings.model_validate(
            {
                "kafka": {"broker": broker.url, "prefix": f"worker-{uuid.uuid4().hex[:10]}"},
                "redis": {"url": valkey.url},
                "web": {"port": 0},
                "processing": {"settle": "50ms", "commit_interval": "300ms"},
            }
        )
        self.folder = folder
        self.redis = Redis.from_url(valkey.url)
        self.started: list[subprocess.Popen[bytes]] = []
        asyncio.run(topics.ensure(self.settings, 1))

    def key(self, subkey: bytes) -> bytes:
        return prefix(self.settings.kafka.prefix, 0) + subkey

    def start(self, stage: str = "credit") -> "subprocess.Popen[bytes]":
        with (self.folder / f"{len(self.started)}.log").open("wb") as log:
            process = spawn(self.settings, stage=stage, stdout=subprocess.DEVNULL, stderr=log)
        self.started.append(process)
        return process

    def said(self) -> str:
        return "".join((self.folder / f"{n}.log").read_text() for n in range(len(self.started)))

    def until(self, holds: Callable[[], Any]) -> None:
        """Wait for what a worker shall do; it must not end meanwhile."""
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            assert self.started[-1].poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(POLL_S)

    def applied(self) -> tuple[int, ...] | None:
        text: Any = self.redis.get(self.key(APPLIED))
        return None if text is None else Applied.parse(text).offsets[:2]

    def send(self, topic: str, values: list[bytes]) -> None:
        async def send() -> None:
            producer = AIOKafkaProducer(**self.settings.kafka.client_options())
            await producer.start()
            sent = [await producer.send(topics.name_of(self.settings, topic), v, b"ada") for v in values]
            await asyncio.gather(*sent)
            await producer.stop()

        asyncio.run(send())

    def count(self, topic: str) -> int:
        """Committed records of the topic."""

        async def read() -> int:
            place = TopicPartition(topics.name_of(self.settings, topic), 0)
            options = {**self.settings.kafka.client_options(), "isolation_level": "read_committed"}
            consumer = AIOKafkaConsumer(**options, auto_offset_reset="earliest")
            await consumer.start()
            consumer.assign([place])
            end = (await consumer.end_offsets([place]))[place]
            found = 0
            while await consumer.position(place) < end:
                found += sum(map(len, (await consumer.getmany(timeout_ms=100)).values()))
            await consumer.stop()
            return found

        return asyncio.run(read())


def touch(number: int) -> bytes:
    now_ms = time.time_ns() // 1_000_000
    return json.dumps(
        {"event_id": f"t{number}", "person_id": "ada", "occurred_at": now_ms, "channel": "Email"}
    ).encode()


@pytest.fixture
def place(embedded_broker: embedded.Broker, embedded_valkey: embedded.Valkey, tmp_path: Any) -> Iterator[Place]:
    made = Place(embedded_broker, embedded_valkey, tmp_path)
    try:
        yield made
    finally:
        for process in made.started:
            process.kill()
            process.wait()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        made.redis.close()


def test_it_stops_in_good_order_when_asked_once(place: Place) -> None:
    """SIGTERM: everything applied is committed, and the exit code is 0."""
    worker = place.start()
    place.send("touches", [touch(1)])
    place.until(lambda: place.applied() == (1, 0))
    worker.terminate()
    assert worker.wait(DEADLINE_S) == EXIT_FINE, place.said()


def test_its_log_says_of_which_stage_it_is(place: Place) -> None:
    """Processes of both stages write of the same partition numbers, mostly to one terminal."""
    for stage, shown in (("credit", "attribution"), ("identity", "identity")):
        process = place.start(stage)
        place.until(lambda line=f" [{shown}] partition 0 claimed: ": line in place.said())
        process.terminate()
        assert process.wait(DEADLINE_S) == EXIT_FINE, place.said()


def test_it_leaves_at_once_when_asked_twice(place: Place) -> None:
    """The second SIGTERM or SIGINT does not wait for anything; the exit code is 75."""
    worker = place.start()
    place.until(lambda: place.applied() == (0, 0))
    # Both are there before it can look at the first.
    for signum in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        os.kill(worker.pid, signum)
    assert worker.wait(DEADLINE_S) == EXIT_RESTART, place.said()
    assert "a second time" in place.said()


def test_the_end_of_the_supervisor_after_its_signal_is_no_second_signal(place: Place) -> None:
    """A supervisor that asked its workers to stop may go before they have: they still stop in good order."""
    worker = place.start()
    place.until(lambda: place.applied() == (0, 0))
    os.kill(worker.pid, signal.SIGSTOP)
    worker.terminate()
    assert worker.stdin is not None
    worker.stdin.close()
    os.kill(worker.pid, signal.SIGCONT)
    assert worker.wait(DEADLINE_S) == EXIT_FINE, place.said()


def test_it_refuses_topics_that_were_made_again(place: Place) -> None:
    """The store is of the topics that were deleted: the worker says so, changes nothing, and ends with 1."""
    worker = place.start()
    place.send("touches", [touch(1)])
    place.until(lambda: place.applied() == (1, 0))
    worker.terminate()
    assert worker.wait(DEADLINE_S) == EXIT_FINE, place.said()
    asyncio.run(topics.delete(place.settings))
    asyncio.run(topics.ensure(place.settings, 1))
    place.send("touches", [touch(2), touch(3)])
    assert place.start().wait(DEADLINE_S) == EXIT_FINDING, place.said()
    assert "error[T222]" in place.said()
    assert "was deleted and made again" in place.said()
    assert place.applied() == (1, 0)


def test_a_flood_of_dead_letters_stops_it_until_accepted(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of the flood is published, over a restart too, until the command accepts it; then all of it is, once."""
    flood = 2 * WINDOW
    place.send("touches", [b"{"] * flood)
    first = place.start()
    place.until(lambda: (place.redis.get(place.key(TRIP)) or b"").startswith(TRIPPED))
    before = place.count("dead-letters")
    assert before <= WINDOW // 2
    first.terminate()
    assert first.wait(DEADLINE_S) == EXIT_FINE, place.said()
    place.start()
    place.until(lambda: " claimed: " in place.said().rpartition("stands still")[2])
    assert place.count("dead-letters") == before
    command = ["dead-letters", "accept", "--json", "--broker", place.settings.kafka.broker]
    command += ["--redis", place.settings.redis.url, "--prefix", place.settings.kafka.prefix]
    assert cli.main(command) == EXIT_FINE
    (stopped,) = json.loads(capsys.readouterr().out)["stopped"]
    assert (stopped["partition"], stopped["done"]) == (0, "accepted now")
    assert "more than half of 1000 records" in stopped["why"]
    place.until(lambda: place.applied() == (flood, 0))
    assert place.count("dead-letters") == flood
    assert place.redis.get(place.key(TRIP)) == ACCEPTED + stopped["why"].encode()
    assert cli.main(command) == EXIT_FINE
    assert json.loads(capsys.readouterr().out)["stopped"][0]["done"] == "accepted before"
    place.send("touches", [touch(number) for number in range(WINDOW)])
    place.until(lambda: place.applied() == (flood + WINDOW, 0))
    assert place.redis.get(place.key(TRIP)) is None
    assert cli.main(command) == EXIT_FINE
    assert json.loads(capsys.readouterr().out) == {"stopped": []}
