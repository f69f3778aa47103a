"""Waiting until both stages have processed everything there is, what they sent each other included."""

import asyncio
import time
from collections.abc import Callable

from streams.replay_keys import ReplayKeys
from streams.settings import Settings
from streams.settled import Ends, Reader, applied_of
from streams.topics import group_of, topics_of

SETTLED_S = 180.0  # without any record processed
POLL_S = 0.05


def until_settled(settings: Settings, alive: Callable[[], None], partitions: int = 4) -> None:
    """Returns when no record lies beyond what was applied; `alive` may raise meanwhile. AssertionError on a stall."""
    asyncio.run(_until_settled(settings, alive, partitions))


async def _until_settled(settings: Settings, alive: Callable[[], None], partitions: int) -> None:
    t = topics_of(settings)
    inputs = {
        settings.kafka.prefix: (t.touches, t.conversions, t.moves),
        group_of(settings, "identity"): (t.links, t.identities, t.raw_touches, t.raw_conversions),
    }
    stages = [Reader(topics, ReplayKeys(settings, table, partitions)) for table, topics in inputs.items()]
    last, moved_s = None, time.monotonic()
    async with Ends(settings) as ends:
        while True:
            alive()
            applied = await applied_of(stages)
            if await ends.reached(applied):
                break
            if applied != last:
                last, moved_s = applied, time.monotonic()
            assert time.monotonic() - moved_s < SETTLED_S, f"nothing moves: applied {applied}"
            await asyncio.sleep(POLL_S)  # between two looks, bounded by the deadline above
    for stage in stages:
        await stage.keys.close()
