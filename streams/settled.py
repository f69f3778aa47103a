"""Whether everything there is has been processed, by stages that write into each other's inputs.

What a stage applied is read first, then where the logs end. A stage publishes before it saves what it applied, so where
nothing lies beyond what was applied, nothing is on its way either. Ends are those that uncommitted records reach to, as
what another stage has just committed may be readable a moment later only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from streams.replay_keys import ReplayKeys
from streams.settings import Settings
from streams.step import Applied

READ_MS = 50
# Markers of transactions take offsets: how often a log's end is asked for records before that is seen.
LOOKS = 4


@dataclass(frozen=True)
class Reader:
    """A stage: the topics that it reads, in order, and where it keeps what it applied."""

    inputs: Sequence[str]
    keys: ReplayKeys


async def applied_of(readers: Sequence[Reader]) -> dict[TopicPartition, int]:
    """The next offset of each input partition; 0 where nothing was applied yet."""
    found: dict[TopicPartition, int] = {}
    for reader in readers:
        for partition, text in enumerate(await reader.keys.applied()):
            offsets = Applied.parse(text).offsets if text else (0,) * len(reader.inputs)
            found |= {TopicPartition(t, partition): at for t, at in zip(reader.inputs, offsets, strict=True)}
    return found


class Ends:
    """Compares what was applied with the logs; use it as `async with Ends(settings) as ends`."""

    def __init__(self, settings: Settings) -> None:
        options: dict[str, Any] = {**settings.kafka.client_options(), "enable_auto_commit": False}
        self._all = AIOKafkaConsumer(**options, isolation_level="read_uncommitted")
        self._committed = AIOKafkaConsumer(**options, isolation_level="read_committed")

    async def __aenter__(self) -> "Ends":
        await self._all.start()
        await self._committed.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._all.stop()
        await self._committed.stop()

    async def reached(self, applied: Mapping[TopicPartition, int]) -> bool:
        """Whether no record lies at or beyond these offsets."""
        ends = await self._all.end_offsets(list(applied))
        beyond = [tp for tp, at in applied.items() if at < ends[tp]]
        if not beyond:
            return True
        consumer = self._committed
        consumer.assign(beyond)
        for tp in beyond:
            consumer.seek(tp, applied[tp])
        for _ in range(LOOKS):
            if any((await consumer.getmany(timeout_ms=READ_MS, max_records=1)).values()):
                return False
            if all([await consumer.position(tp) >= ends[tp] for tp in beyond]):
                return True
        return False
