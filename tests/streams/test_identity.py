"""The identity stage over fakes: several owners, crashes at every point, lost stores, and replays in another order."""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from faust.types import TP

from models.identity import Names, is_higher, people_of, precedence
from models.linking import Outcome, conversion_key, read_id
from models.mail import IdentityRules
from models.outcome import Reason
from state.keys import prefix
from state.memory import MemoryStore
from streams.identity import IdentityTask
from streams.identity_decode import RawDecoder
from streams.identity_publish import OWNED, Relayed
from streams.murmur import partition_of
from streams.publish import DeadLetter, Output, Superseded
from streams.report import BatchReport
from streams.step import Limits
from streams.transport import Batch

PARTITIONS = 3
NOW_MS = 1_760_000_000_000
DAY_MS = 86_400_000
INPUTS = ("links", "identities", "raw-touches", "raw-conversions")
KEY = b"secret"
RULES = IdentityRules(ids_max=50, wait_ms=90 * DAY_MS, kept_ms=180 * DAY_MS, unread_ms=DAY_MS)
CRASH_POINTS = ("decided", "published", "saved")
WORLDS = 60


class Crash(BaseException):
    """The process died."""


class Row(NamedTuple):
    """A record as aiokafka hands it out."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Kafka:
    """The topics of the stage, what its group committed, and who may write."""

    def __init__(self) -> None:
        self.logs: defaultdict[TP, list[Row]] = defaultdict(list)
        self.committed: dict[TP, int] = {}
        self.epochs: Counter[int] = Counter()
        self.dead: list[DeadLetter] = []
        self.transactions = 0
        self.now_ms = NOW_MS

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Any = ()) -> None:
        log = self.logs[TP(topic, partition)]
        log.append(Row(len(log), self.now_ms, key, value, list(headers)))

    def publish(self, output: Output, partition: int, offsets: Mapping[str, int]) -> None:
        """One transaction, whole."""
        self.transactions += 1
        for send in output.records() if isinstance(output, Relayed) else ():
            place = partition_of(send.key, PARTITIONS)
            assert send.topic not in OWNED or place == partition, "an owner writes of its own ids only"
            self.append(send.topic, place, send.key, send.value, send.headers)
        self.dead += output.dead
        for topic, offset in offsets.items():
            assert self.committed.get(TP(topic, partition), 0) <= offset, "committed offsets never go back"
            self.committed[TP(topic, partition)] = offset

    def rows(self, topic: str) -> list[tuple[int, Row]]:
        """All records of a topic, and the partition in which each lies."""
        return [(tp.partition, row) for tp, log in self.logs.items() if tp.topic == topic for row in log]


class Publisher:
    """The transactional producer of one worker and partition number."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.epoch: int | None = None
        self.partition = -1

    async def start(self) -> None:
        self.kafka.epochs[self.partition] += 1
        self.epoch = self.kafka.epochs[self.partition]

    async def stop(self) -> None:
        self.epoch = None

    def output(self, partition: int) -> Output:
        return Relayed()

    async def commit(self, partition: int, output: Output, offsets: Mapping[str, int]) -> None:
        if self.epoch != self.kafka.epochs[partition]:
            raise Superseded("another producer took over")
        self.kafka.publish(output, partition, offsets)


class Consumer:
    """What a task asks of its transport."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.held_back: set[TP] = set()

    async def offsets(self, kind: str, tps: Iterable[TP]) -> dict[TP, int | None]:
        ask = {
            "committed": self.kafka.committed.get,
            "beginning": lambda tp: 0,
            "end": lambda tp: len(self.kafka.logs[tp]),
        }
        return {tp: ask[kind](tp) for tp in tps}

    def partitions(self, topic: str) -> int:
        return PARTITIONS

    def known_end(self, tp: TP) -> int:
        return len(self.kafka.logs[tp])

    def hold_back(self, tp: TP, yes: bool) -> None:
        (self.held_back.add if yes else self.held_back.discard)(tp)

    def has_read(self, tp: TP, processed: int, end: int) -> bool:
        return processed >= end

    def ack(self, message: Any) -> None:
        raise AssertionError("batches are stepped by hand")


class Worker:
    """One partition number: a task, and how far its records were handed to it."""

    def __init__(self, kafka: Kafka, memory: MemoryStore, partition: int, rules: IdentityRules = RULES) -> None:
        self.kafka, self.memory, self.partition = kafka, memory, partition
        self.consumer = Consumer(kafka)
        self.publisher = Publisher(kafka)
        self.publisher.partition = partition
        self.crash_at = ""
        self.told: list[Outcome] = []
        self.reports: list[BatchReport] = []
        self.task: Any = IdentityTask(
            partition,
            INPUTS,
            memory,
            self.publisher,  # type: ignore[arg-type]
            RawDecoder(INPUTS, KEY, rules.by_account),
            rules,
            Limits(commit_every_s=3_600.0),
            self._at,
            self.reports.append,
            self.told.append,
        )
        self.position: dict[TP, int] = {}

    def _at(self, point: str) -> None:
        if point == self.crash_at:
            raise Crash(point)

    async def claim(self) -> None:
        self.position = dict(await self.task.claim(self.consumer))

    @property
    def unread(self) -> bool:
        """Whether anything is to be read, or was set aside while the worker replayed."""
        unread = any(at < len(self.kafka.logs[tp]) for tp, at in self.position.items())
        return unread or self.task.replaying or bool(self.task._later)

    async def step(self, rng: random.Random | None = None) -> None:
        """Hand over some of what is there; all of it without `rng`."""
        parts = []
        for topic in INPUTS:
            tp = TP(topic, self.partition)
            at, end = self.position[tp], len(self.kafka.logs[tp])
            upto = end if rng is None else min(end, at + rng.choice((0, 1, 4)))
            parts.append(self.kafka.logs[tp][at:upto])
            self.position[tp] = upto
        await self.task.step([Batch(self.partition, tuple(parts), 0)])


class World:
    """All partition numbers of the stage, each worked on by whoever is alive."""

    def __init__(self, seed: int = 0, rules: IdentityRules = RULES) -> None:
        self.rng = random.Random(seed)
        self.rules = rules
        self.kafka, self.memory = Kafka(), MemoryStore("identity")
        self.workers: list[Worker] = []
        self.crashes: Counter[str] = Counter()
        self.replays = 0
        # What the store had of each partition number at some time.
        self.snapshots: dict[int, dict[bytes, bytes]] = {}

    def put(self, topic: str, partition: int | None = None, headers: Any = (), **facts: Any) -> None:
        where = self.rng.randrange(PARTITIONS) if partition is None else partition
        value = json.dumps({"occurred_at": NOW_MS, **facts}).encode()
        self.kafka.append(topic, where, b"any", value, headers)

    async def start(self) -> None:
        self.workers = [Worker(self.kafka, self.memory, p, self.rules) for p in range(PARTITIONS)]
        for worker in self.workers:
            await worker.claim()

    async def run(self, *, crashes: float = 0.0, losses: float = 0.0) -> None:
        """Until nothing is on its way; a share of the steps dies, and a share of those takes the store with it."""
        while ready := [worker for worker in self.workers if worker.unread]:
            worker = self.rng.choice(ready)
            if self.rng.random() < 0.1:
                self.snapshots[worker.partition] = self._stored(worker.partition)
            if self.rng.random() < crashes:
                worker.crash_at = self.rng.choice(CRASH_POINTS)
            try:
                await worker.step(self.rng)
                worker.crash_at = ""
            except Crash as crash:
                self.crashes[str(crash)] += 1
                await self._replace(worker.partition, self.rng.random() < losses)

    async def _replace(self, partition: int, lost: bool) -> None:
        """Another worker; a store that was lost comes back empty, or as it was at some time."""
        if lost:
            for key in self._stored(partition):
                del self.memory.data[key]
            if self.rng.random() < 0.5:
                for key, value in self.snapshots.get(partition, {}).items():
                    self.memory.data[key] = value
                    self.memory.expires_ms.setdefault(key, 1 << 53)
        fresh = Worker(self.kafka, self.memory, partition, self.rules)
        await fresh.claim()
        self.replays += fresh.task.replaying
        self.workers[partition] = fresh

    def _stored(self, partition: int) -> dict[bytes, bytes]:
        pre = prefix("identity", partition)
        return {key: value for key, value in self.memory.data.items() if key.startswith(pre)}

    async def settle(self) -> None:
        """Everything in steps as large as can be."""
        while any(worker.unread for worker in self.workers):
            for worker in self.workers:
                await worker.step()

    def up(self, person_id: str) -> str | None:
        pre = prefix("identity", partition_of(person_id.encode(), PARTITIONS))
        return read_id(self.memory.data.get(pre + b"i:" + person_id.encode())).up

    def top(self, person_id: str) -> str:
        while (up := self.up(person_id)) is not None:
            assert is_higher(up, person_id)
            person_id = up
        return person_id

    def out(self, topic: str) -> list[dict[str, Any]]:
        """What came out, in the partition of its person."""
        found = []
        for partition, row in self.kafka.rows(topic):
            assert row.key is not None
            assert row.value is not None
            assert partition_of(row.key, PARTITIONS) == partition
            record = json.loads(row.value)
            assert record["person_id"].encode() == row.key
            found.append(record)
        return found


def components(groups: Iterable[Sequence[str]]) -> dict[str, str]:
    """Id → the highest of its connected component."""
    people: dict[str, set[str]] = {}
    for group in groups:
        joined = set(group).union(*(people.get(each, set()) for each in group))
        people.update(dict.fromkeys(joined, joined))
    return {each: min(everybody, key=precedence) for each, everybody in people.items()}


def some_names(rng: random.Random) -> Names:
    while True:
        names = Names(
            rng.choice((None, "a1", "a2", "a3", "a4", "a5", "a6")),
            rng.choice((None, None, "u1", "u2", "u3")),
            rng.choice((None, None, None, "Bo@ex.com", "cy@ex.com")),
        )
        if any(names):
            return names


def fields_of(names: Names) -> dict[str, str]:
    return {name: given for name, given in zip(Names._fields, names, strict=True) if given is not None}


@pytest.mark.parametrize("part", range(4))
def test_nothing_is_lost_or_doubled_whatever_dies(part: int, seed: int) -> None:
    """Crashes at every point and lost stores change nothing: one pointer and one merge an id, one record an event."""
    seen = in_worlds(range(seed + part, seed + WORLDS, 4), lambda each: _one_world(World(each)))
    assert all(seen[point] for point in (*CRASH_POINTS, "replay")), seen


def in_worlds(seeds: Iterable[int], one_world: Callable[[int], Coroutine[Any, Any, Counter[str]]]) -> Counter[str]:
    """What came up in the worlds of these seeds; a seed whose world fails is printed."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        try:
            seen += asyncio.run(one_world(seed))
        except BaseException:
            print(f"world of seed {seed}")
            raise
    return seen


async def _one_world(world: World) -> Counter[str]:
    rng = world.rng
    groups: list[Sequence[str]] = []
    whose: dict[str, str] = {}
    await world.start()
    for round_ in range(3):
        for i in range(8):
            names = some_names(rng)
            groups.append(people_of(names, KEY))
            topic = rng.choice(("identities", "raw-touches", "raw-touches", "raw-conversions"))
            name = f"{topic}-{round_}-{i}"
            if topic == "identities":
                world.put(topic, **fields_of(names))
                continue
            whose[name] = groups[-1][0]
            id_name = "event_id" if topic == "raw-touches" else "conversion_id"
            world.put(topic, **{id_name: name, **fields_of(names)})
            if topic == "raw-conversions" and rng.random() < 0.7:
                world.put(topic, conversion_id=name, action="retract")
                whose[f"{name} retract"] = whose[name]
        await world.run(crashes=0.15, losses=0.3)
    wanted = components(groups)
    assert {each: world.top(each) for each in wanted} == wanted
    merged = Counter(record["person_id"] for record in world.out("moves"))
    assert merged == Counter(each for each, canonical in wanted.items() if each != canonical)
    came = [(record["event_id"], record["person_id"]) for record in world.out("touches")]
    for record in world.out("conversions"):
        name = record["conversion_id"]
        came.append((name if "action" not in record else f"{name} retract", record["person_id"]))
    assert Counter(name for name, _ in came) == Counter(list(whose))
    assert all(wanted[person_id] == wanted[whose[name]] for name, person_id in came)
    assert world.kafka.dead == []
    return world.crashes + Counter(replay=world.replays)


def everything() -> World:
    """A world with a record of each kind, read in one go."""
    world = World()
    world.put("identities", anonymous_id="a1", user_id="u1")
    world.put("raw-touches", event_id="t1", anonymous_id="a1", headers=[("traceparent", b"00-1")])
    world.put("raw-conversions", conversion_id="c1", email="Bo@ex.com", user_id="u1", value="5")
    world.put("raw-conversions", conversion_id="c1", action="restate", value="4")
    return world


def test_events_come_out_keyed_by_their_person() -> None:
    """Fields stay, ids go, the producer's headers go along, ours do not, and no address is in what comes out."""
    world = everything()
    asyncio.run(_settled(world))
    (touch,) = world.out("touches")
    assert touch == {"person_id": "u1", "occurred_at": NOW_MS, "event_id": "t1"} | {"person_id": touch["person_id"]}
    assert touch["person_id"] in ("u1", "anonymous:a1")
    assert [row.headers for _, row in world.kafka.rows("touches")] == [[("traceparent", b"00-1")]]
    assert [(c["person_id"], c["value"]) for c in world.out("conversions")] == [("u1", "5"), ("u1", "4")]
    for topic in ("links", "moves", "touches", "conversions"):
        assert not any(b"ex.com" in (row.value or b"") for _, row in world.kafka.rows(topic))
    assert not any(b"ex.com" in key + value for key, value in world.memory.data.items())


def test_counts_are_told_once() -> None:
    """What a step came to is told when it was published, not when it is replayed."""
    world = everything()
    asyncio.run(_settled(world))
    told = [outcome for worker in world.workers for outcome in worker.told]
    assert sum(outcome.merged for outcome in told) == 2
    assert sum(outcome.touches for outcome in told) == 1
    assert sum(outcome.conversions for outcome in told) == 2
    reports = [report for worker in world.workers for report in worker.reports]
    assert sum(report.raw_delivered for report in reports) == 3
    assert sum(report.raw_passed_on for report in reports) == sum(outcome.passed_on for outcome in told)
    assert sum(report.ids_linked for report in reports) == sum(report.merges_sent for report in reports) == 2
    asyncio.run(_replayed(world))
    assert [outcome for worker in world.workers for outcome in worker.told] == []
    reports = [report for worker in world.workers for report in worker.reports]
    assert {report.raw_delivered + report.ids_linked + report.merges_sent for report in reports} == {0}


async def _settled(world: World) -> None:
    await world.start()
    await world.settle()


async def _replayed(world: World) -> None:
    """Another set of workers over an empty store."""
    world.memory = MemoryStore("identity")
    before = world.kafka.transactions
    await world.start()
    assert all(worker.task.replaying for worker in world.workers)
    await world.run()
    assert not any(worker.task.replaying for worker in world.workers)
    assert world.kafka.transactions == before


def test_a_replay_in_another_order_ends_with_the_same_ids(seed: int) -> None:
    """A lost store is read again in whatever order the topics come, and knows the same of each id, byte for byte."""

    async def play(world: World) -> None:
        for _ in range(40):
            world.put("identities", **fields_of(some_names(world.rng)))
            world.put("raw-touches", event_id="t", **fields_of(some_names(world.rng)))
        await world.start()
        await world.run()
        before = {key: value for key, value in world.memory.data.items() if b":i:" in key}
        assert len(before) >= 8
        await _replayed(world)
        assert {key: value for key, value in world.memory.data.items() if b":i:" in key} == before

    for number in range(20):
        asyncio.run(play(World(seed + number, IdentityRules(1 + number % 5, RULES.wait_ms, RULES.kept_ms))))


def test_a_full_person_is_counted_and_named() -> None:
    """Over `ids_max` no merge is published; the count is told, and the id's state names who was refused."""
    world = World(rules=IdentityRules(2, RULES.wait_ms, RULES.kept_ms))
    for i in range(5):
        world.put("identities", anonymous_id=f"a{i}", user_id="u1")
    asyncio.run(_settled(world))
    assert len(world.out("moves")) == 2
    assert sum(outcome.refused for worker in world.workers for outcome in worker.told) == 3


@pytest.mark.parametrize("point", ["", *CRASH_POINTS])
def test_a_correction_of_a_conversion_that_never_comes_is_given_up_once(point: str) -> None:
    """Other raw conversions of its partition end it when none can be unread, whatever dies, and nothing is left."""

    async def play(world: World) -> None:
        place = partition_of(conversion_key("never").encode(), PARTITIONS)

        def others() -> None:
            world.put("raw-conversions", place, user_id="ann", conversion_id=f"c{world.kafka.now_ms}")

        await world.start()
        world.put("raw-conversions", place, conversion_id="never", action="retract")
        await world.settle()
        world.kafka.now_ms += RULES.wait_ms + RULES.unread_ms - 1
        others()
        await world.settle()
        assert world.kafka.dead == []
        world.kafka.now_ms += 1
        others()
        worker = world.workers[place]
        worker.crash_at = point
        if point:
            with pytest.raises(Crash):
                await world.settle()
            await world._replace(place, lost=False)
        await world.settle()
        others()
        await world.settle()
        (letter,) = world.kafka.dead
        assert (letter.topic, letter.offset, letter.reason) == ("raw-conversions", 0, Reason.NO_CREATE)
        assert not any(b"never" in key or b"never" in value for key, value in world.memory.data.items())

    asyncio.run(play(World()))


def test_bad_records_are_dead_letters_as_they_came() -> None:
    """A record that cannot be read keeps its bytes, key and own headers; what follows it goes on."""
    world = World()
    world.put("raw-touches", 0, [("h", b"1")], event_id="t1")
    world.kafka.append("raw-conversions", 0, None, b"{")
    world.kafka.append("links", 0, b"u1", b'{"do":"admit","id":"u1","lower":"u0","at":1}')
    world.kafka.append("identities", 0, b"k", None)
    world.put("raw-touches", 0, event_id="t2", user_id="u1")
    asyncio.run(_settled(world))
    assert {(letter.topic, letter.offset, letter.reason) for letter in world.kafka.dead} == {
        ("raw-touches", 0, Reason.MISSING_FIELD),
        ("raw-conversions", 0, Reason.INVALID_JSON),
        ("links", 0, Reason.BAD_MERGE),
    }
    (letter,) = [letter for letter in world.kafka.dead if letter.topic == "raw-touches"]
    assert (letter.key, letter.headers) == (b"any", [("h", b"1")])
    assert [record["event_id"] for record in world.out("touches")] == ["t2"]
    reasons = Counter(reason for worker in world.workers for r in worker.reports for reason in r.dead_by_reason)
    assert sum(reasons.values()) == 3


def test_only_links_can_be_misrouted() -> None:
    """Raw events may have any key; a message that lies with another owner is counted, and reaches its own."""
    world = World()
    for i in range(PARTITIONS):
        world.put("raw-touches", i, event_id=f"t{i}", user_id="u1")
        world.kafka.append("links", i, b"u2", b'{"do":"link","id":"u2","up":"u1","at":1}')
    asyncio.run(_settled(world))
    found = {r.partition: r.misrouted for worker in world.workers for r in worker.reports if r.misrouted}
    assert found == {p: 1 for p in range(PARTITIONS) if p != partition_of(b"u2", PARTITIONS)}
    assert [record["into"] for record in world.out("moves")] == ["u1"]


def test_what_changes_nothing_costs_no_transaction() -> None:
    """An Identify that says nothing new is applied without a transaction."""
    world = World()
    world.put("identities", partition_of(b"u1", PARTITIONS), anonymous_id="a1", user_id="u1")
    asyncio.run(_settled(world))
    before = world.kafka.transactions
    assert before
    world.put("identities", partition_of(b"u1", PARTITIONS), anonymous_id="a1", user_id="u1")
    asyncio.run(world.settle())
    assert world.kafka.transactions == before
