"""What a worker knows of policies while it runs: the rules with every one that can count for the records in hand.

A policy is announced `LEAD_MS` before it counts. Records of some record time in hand, everything announced up to then
can be read, and so everything is known that counts up to `SURE_MS` later: until records are past that, nobody looks.
No clock but that of the records is asked.
"""

import asyncio
import logging
from collections.abc import Sequence

from aiokafka.errors import KafkaError

from models.policy import Policy
from models.rules import Rules
from models.schedule import SURE_MS, Announced
from streams.policies import Reader
from streams.publish import Refused

log = logging.getLogger("touchstream.policies")

LOOK_S = 10.0


class Following:
    """The rules of one worker process; all of its partitions ask the same."""

    def __init__(self, own: Policy, settle_ms: int, known: Sequence[Announced], reader: Reader) -> None:
        """`own` is this worker's policy, and stands in where nothing that is `known` can be followed."""
        self._own = own
        self._settle_ms = settle_ms
        self._reader = reader
        self._known: Sequence[Announced] = ()
        self._sure_ms = -1
        self._looking = asyncio.Lock()
        self._take(known)

    async def until(self, record_ms: int) -> Rules:
        """The rules with everything that counts up to this record time. Raises Refused where Kafka does not tell."""
        if record_ms > self._sure_ms:
            async with self._looking:
                if record_ms > self._sure_ms:
                    await self._look(record_ms)
        return self.rules

    async def again(self) -> Rules:
        """The rules with everything announced by now: an earlier owner of a partition may have known more."""
        async with self._looking:
            await self._look(self._sure_ms - SURE_MS)
        return self.rules

    async def close(self) -> None:
        """Let go of the connection."""
        await self._reader.close()

    async def _look(self, record_ms: int) -> None:
        try:
            async with asyncio.timeout(LOOK_S):
                known = await self._reader.read()
        except (KafkaError, OSError, TimeoutError) as exc:
            await self._reader.close()
            raise Refused(f"the policies cannot be read: {exc!r}") from exc
        if known != self._known:
            self._take(known)
        self._sure_ms = max(self._sure_ms, record_ms + SURE_MS)

    def _take(self, known: Sequence[Announced]) -> None:
        new = [each for each in known if each not in self._known]
        if self._known:
            log.info("policies announced: %s", ", ".join(each.version for each in new))
        self._known = known
        # What is not known any more is restated under the latest, the same one for all workers.
        followed = [each.policy for each in known if each.policy is not None] or [self._own]
        self.rules = Rules(followed[-1], self._settle_ms, schedule=[each.scheduled() for each in known])
