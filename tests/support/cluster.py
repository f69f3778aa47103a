"""Workers under fault: real processes over one prefix of a broker and a Redis, their input, and how they end.

Everything happens in the loop of `Cluster.until`: it sends the next wave of input, starts dead workers again, and
looks at the condition. So a fault that a test causes between two looks falls under load, and no thread is about.
"""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.group import LeaveGroupRequest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from redis import Redis
from redis.exceptions import BusyLoadingError, ConnectionError, TimeoutError

from state import keys
from streams import step, topics
from streams.crash import VARIABLE
from streams.errors import EXIT_CONNECT, EXIT_RESTART
from streams.settings import Settings
from streams.spawn import spawn
from streams.topics import group_of, topics_of
from tests.support import worlds
from tests.support.readers import Read, read_topic

PARTITIONS = 4
# A fence, not a claim: the slowest scenario waits for two sessions of six seconds on a busy machine.
# Of a worker's log, in the first line of what a test says: a block of several lines and what led to it.
LAST_LINES = 12
DEADLINE_S = 90.0
POLL_S = 0.01
# Input comes while it is worked on: the next wave is sent when so few records are left to do, or nothing was sent for
# a while, as a store that lost its memory is missed only when there is something to do.
BACKLOG = 400
WAVE_S = 0.3
ADMIN_S = 20.0
ASK_S = 5.0
STARTS_MAX = 12
# librdkafka reports each connection that is refused while a broker is down.
QUIETLY = {"log_level": 0}

Wave = list[tuple[str, bytes, bytes]]
Applied = tuple[int, int]
Draw = Callable[[int, tuple[str, str]], list[Wave]]


class Ended(NamedTuple):
    """A worker that has ended: the place of its start in the crew, and the exit code (negative: a signal)."""

    number: int
    code: int


def small_settings(broker: str, redis: str, **attribution: Any) -> Settings:
    """Settings under a prefix of their own, cut into small batches, so that there are many steps to die in."""
    return Settings.model_validate(
        {
            "attribution": {"allowed_lateness": "2s", **attribution},
            "processing": {
                "settle": "50ms",
                "fetch_records": 40,
                "step_records": 80,
                "commit_interval": "300ms",
                "session_timeout": "6s",
            },
            "kafka": {"broker": broker, "prefix": f"faults-{uuid.uuid4().hex[:10]}"},
            "redis": {"url": redis},
            "web": {"port": 0},
        }
    )


# -- input


def draw_waves(
    seed: int,
    names: tuple[str, str],
    *,
    waves: int = 50,
    people: int = 110,
    quiet: int = 200,
    quiet_touches: int = 2_300,
) -> list[Wave]:
    """About 3,000 touches and 350 records of conversions, shuffled, so that many come late or before their create.

    Some are worlds of the edge cases (duplicates, restates, retracts, ties), more are touches of people who never
    convert, and one in a hundred is broken JSON with bytes of its own.
    """
    rng = random.Random(seed)
    world = worlds.draw(seed, people=people)
    touches = world.touches + [_quiet_touch(rng, number, quiet) for number in range(quiet_touches)]
    lines: list[Wave] = []
    for topic, records in zip(names, (touches, world.conversions), strict=True):
        keyed = [(topic, r["person_id"].encode(), worlds.line(r).encode()) for r in records]
        keyed += [(topic, b"broken", f'{{"broken": {n}'.encode()) for n in range(len(keyed) // 100)]
        rng.shuffle(keyed)
        lines.append(keyed)
    return [[line for kind in lines for line in kind[n::waves]] for n in range(waves)]


def _quiet_touch(rng: random.Random, number: int, people: int) -> worlds.Record:
    return {
        "event_id": f"quiet-{number}",
        "person_id": f"quiet-p{rng.randrange(people)}",
        "occurred_at": worlds.START_MS + rng.randrange(30 * worlds.DAY_MS),
        "channel": rng.choice(worlds.CHANNELS),
    }


# -- workers


class Worker:
    """One start of a worker process; its log is kept for a failing test."""

    def __init__(self, number: int, settings: Settings, crash: str | None, log: Path) -> None:
        self.number, self.log, self.crash = number, log, crash
        env = {name: value for name, value in os.environ.items() if name != VARIABLE}
        if crash is not None:
            env[VARIABLE] = crash
        with log.open("wb") as file:
            self.process = spawn(settings, number, stdout=subprocess.DEVNULL, stderr=file, env=env)
        self.pid = self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def is_stopped(self) -> bool:
        """SIGSTOP has taken effect: the state behind the name in /proc is T."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def heeds_sigterm(self) -> bool:
        """It has come so far as to handle SIGTERM; before that the signal would simply kill it."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

    def said(self) -> str:
        return f"--- worker {self.number} ({self.crash or 'no crash point'})\n{self.log.read_text(errors='replace')}"

    def last_words(self) -> str:
        """The end of its log in one line: why it went."""
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-LAST_LINES:])

    def end(self) -> None:
        """Kill it if it is still there, stopped or not."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()


@dataclass
class Cluster:
    """One prefix with its input and its workers. Made by `cluster` below.

    `crashes` are the crash points of the starts to come, in their order; starts beyond them have none.
    `evict`: a worker that died is taken out of its group at once, as the coordinator would do when its session ends.
    `restart`: whether a worker that a signal killed, or that ended with 75, is started again.
    `reach`: settings of the workers where they reach the servers by another way than this process does.
    `pace_s`: at least so long between two waves, so that the load outlasts a fault.
    `look`: called at each look, for what has to go on beside the load.
    """

    settings: Settings
    folder: Path
    waves: list[Wave]
    crashes: list[str | None] = field(default_factory=list)
    evict: bool = True
    restart: bool = True
    workers: list[Worker] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    reach: Settings | None = None
    look: Callable[[], None] = lambda: None
    backlog: int = BACKLOG
    pace_s: float = 0.0
    starts_max: int = STARTS_MAX
    deadline_s: float = DEADLINE_S

    def __post_init__(self) -> None:
        self.names = topics_of(self.settings)
        self.sent = 0
        self._applied_most = 0
        self._sent_s = 0.0
        self._ends: dict[tuple[str, int], int] = {}
        self._remembered: dict[str, dict[tuple[int, int], Read]] = {}
        self._bootstrap = ",".join(self.settings.kafka.bootstrap_servers())
        # Idempotent, as a broker that restarts would otherwise get some of the input twice.
        self._producer = Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "partitioner": "murmur2_random",
                "linger.ms": 0,
                "enable.idempotence": True,
                **QUIETLY,
            }
        )
        self._admin = AdminClient({"bootstrap.servers": self._bootstrap, **QUIETLY})
        self.redis = Redis.from_url(self.settings.redis.url)

    # input

    def send_wave(self) -> None:
        """Send the next wave and wait until the broker has it."""
        self._sent_s = time.monotonic()
        for topic, key, value in self.waves.pop(0):
            self._producer.produce(topic, value, key, on_delivery=self._delivered)
            self.sent += 1
        assert self._producer.flush(ADMIN_S) == 0, "the broker did not take the input"

    def send_waves(self, count: int) -> None:
        for _ in range(count):
            self.send_wave()

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        assert error is None, str(error)
        self._reaches(message)

    def count_in(self, delivered: Sequence[Message]) -> None:
        """Records that somebody else produced, and committed, belong to the input too."""
        self.sent += len(delivered)
        for message in delivered:
            self._reaches(message)

    def _reaches(self, message: Message) -> None:
        place, offset = (str(message.topic()), message.partition() or 0), message.offset()
        if offset is None or offset < 0:  # sent again over a new connection, and known to the broker already
            offset = self._last_offset(*place)
        self._ends[place] = max(self._ends.get(place, 0), offset + 1)

    def _last_offset(self, topic: str, partition: int) -> int:
        with _closing(Consumer({"bootstrap.servers": self._bootstrap, "group.id": "ends", **QUIETLY})) as consumer:
            return int(consumer.get_watermark_offsets(TopicPartition(topic, partition), ADMIN_S)[1]) - 1

    # workers

    def start(self, crash: str | None = None, settings: Settings | None = None) -> Worker:
        """Start a worker, by default with the next of `crashes`."""
        assert len(self.workers) < self.starts_max, f"too many starts\n{self.said()}"
        if crash is None and self.crashes:
            crash = self.crashes.pop(0)
        number = len(self.workers)
        worker = Worker(number, settings or self.reach or self.settings, crash, self.folder / f"worker-{number}.log")
        self.workers.append(worker)
        return worker

    @property
    def alive(self) -> list[Worker]:
        seen = {ended.number for ended in self.ended}
        return [worker for worker in self.workers if worker.number not in seen]

    def tend(self) -> None:
        """Start again what the supervisor would: what a signal killed, or ended with 75, or because Kafka was away."""
        for worker in self.alive:
            code = worker.process.poll()
            if code is None:
                continue
            self.ended.append(Ended(worker.number, code))
            fine = code < 0 or code in (0, EXIT_RESTART, EXIT_CONNECT)
            assert fine, f"worker {worker.number} ended with {code}: {worker.last_words()}\n{self.said()}"
            if code != 0 and self.restart:
                if self.evict and not self.alive:
                    self.evict_members(self.members())
                self.start()

    def until(self, done: Callable[[], bool], what: str, *, feeding: bool = True) -> None:
        """Feed and tend until the condition holds. AssertionError with all logs after the deadline."""
        deadline = time.monotonic() + self.deadline_s
        while True:
            self.tend()
            self.look()
            if done():
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {self.deadline_s:g} s: {what}; {self.progress()}\n{self.said()}")
            waited_s = time.monotonic() - self._sent_s
            few_left = self.records_left() < self.backlog
            # Not by the clock before a worker has come so far: on a busy machine all would be sent by then.
            is_due = (waited_s > WAVE_S and self._applied_most > 0) or (waited_s >= self.pace_s and few_left)
            if feeding and self.waves and is_due:
                self.send_wave()
            else:
                time.sleep(POLL_S)  # between two looks, bounded by the deadline above

    def until_all_applied(self) -> None:
        """Everything of the input is sent, and applied in every partition."""
        self.until(lambda: not self.waves and self.applied() == self.ends(), "all input applied")

    def until_records(self, count: int) -> None:
        """So many records have been applied, of those that there will be."""
        self.until(lambda: self.records_applied() >= count, f"{count} records applied")

    def stop(self) -> None:
        """Ask all workers to end, in good order: each must end with 0."""
        self.until(lambda: all(worker.heeds_sigterm() for worker in self.alive), "all have started", feeding=False)
        self.until(lambda: len(self.members()) >= len(self.alive), "all are members", feeding=False)
        restart, self.restart = self.restart, False
        asked = [worker.number for worker in self.alive]
        for worker in self.alive:
            worker.signal(signal.SIGTERM)
        self.until(lambda: not self.alive, "workers stopped", feeding=False)
        self.restart = restart
        assert all(code == 0 for number, code in self.ended if number in asked), f"{self.ended}\n{self.said()}"

    def said(self) -> str:
        return "\n".join(worker.said() for worker in self.workers)

    def codes(self) -> list[int]:
        """Exit codes in the order in which workers ended, without those that found a server away when they started."""
        return [ended.code for ended in self.ended if ended.code != EXIT_CONNECT]

    # what can be seen from outside

    def ends(self) -> list[Applied]:
        """Per partition the next offsets of touches and conversions after all that was sent."""
        n = self.names
        return [(self._ends.get((n.touches, p), 0), self._ends.get((n.conversions, p), 0)) for p in range(PARTITIONS)]

    def applied(self) -> list[Applied]:
        """Per partition what the store says; (-1, -1) where it says nothing, or is down."""
        names = [keys.prefix(self.settings.kafka.prefix, p) + keys.APPLIED for p in range(PARTITIONS)]
        try:
            found: Sequence[bytes | None] = self.redis.mget(names)  # type: ignore[assignment]
        except (ConnectionError, TimeoutError, BusyLoadingError):
            return [_offsets(None)] * PARTITIONS
        return [_offsets(text) for text in found]

    def log(self, topic: str) -> list[Read]:
        """All records that ever lay in an input topic; `remember` keeps those that are deleted later."""
        kept = self._remembered.get(topic, {})
        return sorted({**kept, **self._in_topic(topic)}.values(), key=lambda r: (r.partition, r.offset))

    def remember(self, below: Sequence[Applied]) -> None:
        """Keep what lies below these offsets of the input topics, as it is about to be deleted there."""
        for i, topic in enumerate((self.names.touches, self.names.conversions)):
            found = {place: read for place, read in self._in_topic(topic).items() if read.offset < below[place[0]][i]}
            self._remembered.setdefault(topic, {}).update(found)

    def delete_below(self, offsets: Sequence[Applied]) -> None:
        """Delete what lies below these offsets of the input topics, as their retention would."""
        wanted = [
            TopicPartition(topic, partition, place[i])
            for i, topic in enumerate((self.names.touches, self.names.conversions))
            for partition, place in enumerate(offsets)
            if place[i] > 0
        ]
        for deleted in self._admin.delete_records(wanted, request_timeout=ADMIN_S).values():
            deleted.result(ADMIN_S)

    def _in_topic(self, topic: str) -> dict[tuple[int, int], Read]:
        return {(r.partition, r.offset): r for r in read_topic(self.settings.kafka.broker, topic)}

    def records_applied(self) -> int:
        return sum(max(0, n) for offsets in self.applied() for n in offsets)

    def committed(self) -> list[Applied]:
        """Per partition the offsets of the group; -1 where there are none."""
        n = self.names
        parts = [TopicPartition(topic, p) for p in range(PARTITIONS) for topic in (n.touches, n.conversions)]
        with _closing(
            Consumer({"bootstrap.servers": self._bootstrap, "group.id": group_of(self.settings), **QUIETLY})
        ) as consumer:
            found = consumer.committed(parts, timeout=ADMIN_S)
        offsets = [part.offset if part.offset >= 0 else -1 for part in found]
        return list(zip(offsets[::2], offsets[1::2], strict=True))

    def records_left(self) -> int:
        """Records sent that were never applied; those that a lost store has to apply again do not count."""
        self._applied_most = max(self._applied_most, self.records_applied())
        return sum(n for offsets in self.ends() for n in offsets) - self._applied_most

    def progress(self) -> str:
        return f"applied {self.applied()} of {self.ends()}, committed {self.committed()}, {len(self.waves)} waves left"

    # the group

    def members(self) -> set[str]:
        """The ids of the group's members; none where the broker does not say, as it does after a restart."""
        group = group_of(self.settings)
        try:
            described = self._admin.describe_consumer_groups([group], request_timeout=ASK_S)[group].result(ASK_S)
        except (KafkaException, FutureTimeoutError):
            self._admin = AdminClient({"bootstrap.servers": self._bootstrap, **QUIETLY})
            return set()
        return {member.member_id for member in described.members}

    def evict_members(self, members: set[str]) -> None:
        """Take members out of the group, which is all that the end of a session does."""
        asyncio.run(self._leave(members))

    async def _leave(self, members: set[str]) -> None:
        client = AIOKafkaClient(**self.settings.kafka.client_options())
        await client.bootstrap()
        try:
            for member in members:
                request = LeaveGroupRequest(group_of(self.settings), member)
                await asyncio.wait_for(client.send(client.get_random_node(), request), ADMIN_S)
        finally:
            await client.close()

    # the end

    def close(self) -> None:
        """End every process, whatever state it is in, and remove the keys."""
        for worker in self.workers:
            worker.end()
        for partition in range(PARTITIONS):
            names = list(
                self.redis.scan_iter(match=keys.prefix(self.settings.kafka.prefix, partition) + b"*", count=2000)
            )
            if names:
                self.redis.unlink(*names)
        self.redis.close()


def _offsets(text: bytes | None) -> Applied:
    if text is None:
        return -1, -1
    touches, conversions, *_ = step.Applied.parse(text).offsets
    return touches, conversions


@contextlib.contextmanager
def _closing(consumer: Consumer) -> Iterator[Consumer]:
    try:
        yield consumer
    finally:
        consumer.close()


@contextlib.contextmanager
def cluster(settings: Settings, folder: Path, seed: int, draw: Draw = draw_waves, **changes: Any) -> Iterator[Cluster]:
    """A cluster with its topics made and its input drawn; all its processes are gone when the block ends."""
    names = topics_of(settings)
    asyncio.run(topics.ensure(settings, PARTITIONS))
    waves = draw(seed, (names.touches, names.conversions))
    made = Cluster(settings, folder, waves, **changes)
    try:
        yield made
    finally:
        made.close()
