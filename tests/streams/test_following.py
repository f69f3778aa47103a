"""What a running worker knows of policies: in time for every record, without a look at each."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from aiokafka.errors import KafkaConnectionError

from models.policy import Policy
from models.schedule import LEAD_MS, SURE_MS, Announced
from streams.following import Following
from streams.policies import CLOCKS_MS, TRANSACTION_MS
from streams.publish import Refused
from tests.streams.test_processor import Desk
from tests.support.fakes import START_MS, virtual_time

SETTLE_MS = 250


def announced(*starts_ms: int) -> list[Announced]:
    made = [Policy.from_effective({"attribution": {"models": ["linear"], "lookback": f"{n + 1}d"}}) for n in range(20)]
    return [Announced(p.version, at, p) for at, p in zip(starts_ms, made, strict=False)]


class Topic:
    """The topic of policies as it can be read at `clock_ms`, a while after it was written: transactions take time."""

    def __init__(self, of: Sequence[Announced], delay_ms: int = 0) -> None:
        self.of, self.delay_ms, self.clock_ms, self.looks = of, delay_ms, 0, 0
        self.faults: list[Exception] = []
        self.closed = 0

    async def read(self) -> list[Announced]:
        self.looks += 1
        if self.faults:
            raise self.faults.pop()
        return [e for e in self.of if e.from_ms == 0 or e.from_ms - LEAD_MS + self.delay_ms <= self.clock_ms]

    async def close(self) -> None:
        self.closed += 1


def following(topic: Topic) -> Following:
    return Following(Policy.default(), SETTLE_MS, topic.of[:1], topic)  # type: ignore[arg-type]


def test_every_record_finds_its_policy_in_time(seed: int) -> None:
    """Whatever the paces of the log, an announcement that took as long as can be to show is known when it counts; and
    there are as many looks as there are spans of ten seconds, not as there are records."""

    async def story() -> None:
        for world in range(50):
            rng = random.Random(f"{seed} {world}")
            clock_ms = START_MS
            starts = sorted(START_MS + LEAD_MS + rng.randrange(600_000) for _ in range(5))
            topic = Topic(announced(0, *starts), delay_ms=LEAD_MS - SURE_MS)
            known, records = following(topic), 0
            while clock_ms < START_MS + 700_000:
                clock_ms += rng.choice((1, 100, 4_000, SURE_MS, 30_000))
                topic.clock_ms = clock_ms
                rules = await known.until(clock_ms - rng.choice((0, 0, 5_000)))
                records += 1
                wanted = [e for e in topic.of if e.from_ms <= clock_ms - 5_000][-1]
                assert rules.at(clock_ms - 5_000) is wanted.policy, f"{seed} {world}"
            assert topic.looks <= 700_000 / SURE_MS + 1

    asyncio.run(story())


def test_the_lead_covers_what_can_come_between() -> None:
    """A transaction that takes as long as it may, clocks that are apart as far as is accepted, and the last look."""
    assert SURE_MS + TRANSACTION_MS + 2 * CLOCKS_MS < LEAD_MS


def test_a_kafka_that_does_not_tell_is_waited_for() -> None:
    """The step is refused and done again; nothing is decided meanwhile, and the next look has a new connection."""

    async def story() -> None:
        topic = Topic(announced(0, START_MS))
        topic.clock_ms = START_MS
        known = following(topic)
        before = known.rules
        topic.faults = [KafkaConnectionError(), TimeoutError()]
        for closed in (1, 2):
            with pytest.raises(Refused, match="policies cannot be read"):
                await known.until(START_MS)
            assert (topic.closed, known.rules) == (closed, before)
        assert (await known.until(START_MS)).at(START_MS) is topic.of[1].policy

    asyncio.run(story())


def test_all_partitions_share_a_look() -> None:
    """Eight that want to know the same at once are answered by one."""

    async def story() -> None:
        topic = Topic(announced(0))
        known = following(topic)
        await asyncio.gather(*(known.until(START_MS) for _ in range(8)))
        assert topic.looks == 1

    asyncio.run(story())


def test_who_takes_over_knows_what_the_one_before_knew() -> None:
    """A conversion of the newest policy is restated under it by a worker that had not heard of it until the claim."""

    async def story() -> None:
        topic = Topic(announced(0, START_MS - 1))
        first = Desk()
        late = following(topic)
        topic.clock_ms = START_MS
        for desk, knows in ((first, following(topic)), (first.again(), late)):
            desk.task._following = knows
            desk.task._use(knows.rules)
            await desk.claim()
            if desk is first:
                await desk.step([desk.touch("t")], [desk.conversion("c")])
                await desk.settle()
            else:
                await desk.step([desk.touch("u", desk.now_ms - 60_000)])
        rows = first.view().values()
        assert {row["policy_version"] for row in rows} == {topic.of[1].version}
        assert {row["touch_id"] for row in rows} == {"t", "u"}

    with virtual_time() as runner:
        runner.run(story())


def test_one_that_cannot_be_followed_ends_the_step() -> None:
    """Nothing is published of a conversion whose policy only a later program knows."""

    async def story() -> None:
        topic = Topic([*announced(0), Announced("later", START_MS, None)])
        desk = Desk()
        desk.task._following = following(topic)
        topic.clock_ms = START_MS
        await desk.claim()
        await desk.step([desk.touch("t")], [desk.conversion("c")])
        with pytest.raises(ValueError, match="policy later"):
            await desk.settle()
        assert desk.kafka.credits == []

    with virtual_time() as runner:
        runner.run(story())
