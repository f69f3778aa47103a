"""The life of a partition number at a worker: claimed, at work, claimed again where something was lost, stopped.

What happens to records meanwhile is `streams/step.py`; what a stage makes of them is in a subclass. On assignment the
producer is initialised, the store claimed and the committed offsets read, in this order; where applied is behind
committed, records up to committed are taken in without output.
"""

import asyncio
import logging
import os
import sys
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from aiokafka.errors import KafkaError
from faust.types import TP

from models.formats import UnknownFormat
from models.rules import UnknownPolicy
from state.store import Fenced, Lost, StoreError, Unreachable
from streams.claiming import Claiming
from streams.errors import EXIT_RESTART, render
from streams.failures import block_of
from streams.metrics import Position
from streams.patience import Patience
from streams.publish import Output, Refused, Superseded, Uncertain
from streams.report import BatchReport
from streams.step import Applied, Decided, Limits, StartError, Steps, Taken
from streams.transport import Batch, Consumer
from streams.tripwire import TRIP, TRIPPED, Tripped

__all__ = ["Applied", "Limits", "PartitionTask", "StartError", "fail", "leave"]

log = logging.getLogger("touchstream.processor")

IDLE_WAIT_S = 1.0
# A worker that is far behind waits so long for more records before it begins a step.
FILL_S = 0.25
FINISH_TRIES = 3
# What a new claim gets over.
BY_A_NEW_CLAIM = (Lost, Unreachable, Refused, KafkaError)


class PartitionTask(Steps[Taken, Decided]):
    """Owns one partition number from assignment to revocation."""

    def __init__(self, *steps: Any, claiming: Claiming) -> None:
        """`steps`: what `Steps` takes. `claiming`: how store and log are compared."""
        super().__init__(*steps)
        self._claiming = claiming
        self.reclaims = 0
        self._busy = False
        # Why nothing more is published, until a person accepts it; empty while all is well.
        self.tripped = ""
        self._inbox: deque[Any] = deque()
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._patience = Patience(self._limits.retry_s)

    @property
    def held(self) -> int:
        """Records that were taken and wait."""
        return 0

    def _wait_s(self) -> float:
        """How long there is nothing to do where no record comes."""
        return IDLE_WAIT_S

    async def claim(self, consumer: Consumer) -> Mapping[TP, int]:
        """Fence the previous owner in Kafka, then in the store, then see where to begin; in this order."""
        self._consumer = consumer
        await self._publisher.start()
        self._crash_point("claim_producer")
        token = uuid.uuid4().hex.encode()
        text = await self._store.claim(self.partition, token)
        self._crash_point("claim_store")
        start = await self._claiming.find(token, text, consumer)
        applied = start.applied
        self._start_at(token, applied, start.committed, start.trip)
        tripped = start.trip if start.trip and start.trip.startswith(TRIPPED) and self._limits.trip_wire else b""
        self.tripped = tripped.removeprefix(TRIPPED).decode()
        self._ack_inbox()
        if start.offsets_gone:
            log.warning("partition %d: the group's offsets are gone: committing what is applied", self.partition)
            await self._publish(Output(), applied.offsets, BatchReport(self.partition))
        log.info(
            "partition %d claimed: applied %s committed %s%s",
            self.partition,
            ",".join(map(str, applied.offsets)),
            ",".join(map(str, self._committed)),
            ", replaying" if self.replaying else "",
        )
        return dict(zip(self.inputs, applied.offsets, strict=True))

    def start(self) -> None:
        """Begin to work on what the transport hands in."""
        self._stopping = False
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """Finish the step under way, commit what is applied, and end."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task
            self._task = None
        self._ack_inbox()

    async def close(self) -> None:
        """Let go of the producer."""
        await self._publisher.stop()

    def positions(self) -> list[Position]:
        """Where the inputs of this partition number stand."""
        found = []
        for i, tp in enumerate(self.inputs):
            end = self._owned_by().known_end(tp)
            found.append(
                Position(
                    tp.topic,
                    self.partition,
                    self._applied.offsets[i],
                    self._committed[i],
                    -1 if end is None else end,
                    self._last_ms[i],
                )
            )
        return found

    def waits(self) -> bool:
        """Whether there is something to do: work under way, or records that were not taken yet."""
        if self._task is None or self._stopping or self.tripped:
            return False
        consumer = self._owned_by()
        places = zip(self.inputs, self._read, strict=True)
        ends = [(place, read, consumer.known_end(place)) for place, read in places]
        unread = any(end is not None and not consumer.has_read(place, read, end) for place, read, end in ends)
        return self._busy or bool(self._inbox) or unread

    @property
    def progress(self) -> tuple[object, ...]:
        """Changes with each step that did something and each new claim; stands still where this task hangs."""
        return self._token, self._read, self._applied, self.reclaims

    def take(self, event: Any) -> bool:
        """A batch from the agent; False where nobody works on this partition number any more."""
        if self._task is None or self._stopping:
            return False
        self._inbox.append(event)
        self._wake.set()
        return True

    async def _run(self) -> None:
        try:
            while not self._stopping:
                await self._turn()
            await self._commit_at_the_end()
        except (Fenced, Superseded, Uncertain) as exc:
            leave(f"partition {self.partition}: {exc!r}")
        except (UnknownPolicy, UnknownFormat) as exc:
            fail(exc)
        except Exception as exc:
            log.exception("partition %d stopped", self.partition)
            leave(f"partition {self.partition}: {exc!r}")

    async def _commit_at_the_end(self) -> None:
        """Commit what is applied. Where that is refused the next owner does it: it had no output."""
        for _ in range(FINISH_TRIES):
            with suppress(Refused):
                await self._commit_applied()
                return

    async def _turn(self) -> None:
        if self.tripped:
            await self._stand_still()
            return
        if not self._inbox:
            await self._wait(self._wait_s())
        await self._fill()
        events, batches = self._next_batches()
        self._busy = True
        try:
            await self.step(batches)
        except BY_A_NEW_CLAIM as exc:
            await self._claim_again(events, exc)
        except Tripped as exc:
            self._trip(events, exc)
        else:
            for event in events:
                self._ack(event)
        finally:
            self._busy = False

    async def _fill(self) -> None:
        """Let a step of a worker that is far behind become a large one: a journey is read and written once a step."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FILL_S):
                while self._may_fill():
                    self._wake.clear()
                    await self._wake.wait()

    def _may_fill(self) -> bool:
        """Whether a step that could begin is not full, and what it lacks is to come."""
        if self._stopping or not self._inbox:
            return False
        missing = self._limits.step_records - sum(event.message.value.count for event in self._inbox)
        return missing > 0 and self._owned_by().is_to_come(self.partition, missing)

    async def _wait(self, seconds: float) -> None:
        self._wake.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    def _trip(self, events: Sequence[Any], cause: Tripped) -> None:
        """Drop what is under way: it is read again when a person has accepted it."""
        self.tripped = str(cause)
        log.error("partition %d stands still: %s; see `touchstream dead-letters accept`", self.partition, cause)
        for event in events:
            self._ack(event)
        self._owned_by().invalidate(self.partition)

    async def _stand_still(self) -> None:
        """Look now and then whether the dead letters were accepted, and begin anew where nothing was published."""
        consumer = self._owned_by()
        for place in self.inputs:
            consumer.hold_back(place, True)
        self._ack_inbox()
        try:
            found = await self._store.load(self.partition, self._token, self._applied.text(), [TRIP])
            if found[0] == TRIPPED + self.tripped.encode():
                await self._wait(IDLE_WAIT_S)
            else:
                await consumer.reseek(self.partition, await self.claim(consumer))
        except BY_A_NEW_CLAIM as exc:
            await self._claim_again([], exc)

    def _next_batches(self) -> tuple[list[Any], list[Batch]]:
        events, batches, count = [], [], 0
        incarnation = self._owned_by().incarnation(self.partition)
        while self._inbox and count < self._limits.step_records:
            event = self._inbox.popleft()
            batch: Batch = event.message.value
            if batch.incarnation != incarnation:
                self._ack(event)
                continue
            events.append(event)
            batches.append(batch)
            count += batch.count
        return events, batches

    def _ack(self, event: Any) -> None:
        self._owned_by().ack(event.message)

    def _ack_inbox(self) -> None:
        """Drop what waits. Each is acked, as Faust holds a rebalance up until nothing is left unacked."""
        while self._inbox:
            self._ack(self._inbox.popleft())

    async def _claim_again(self, events: Sequence[Any], cause: Exception) -> None:
        """Drop what is under way and start over from the store; the other partitions go on."""
        consumer = self._owned_by()
        log.warning("partition %d: %r: claiming again", self.partition, cause)
        for event in events:
            self._ack(event)
        self._ack_inbox()
        consumer.invalidate(self.partition)
        while not self._stopping:
            await self._patience.wait(cause)
            self.reclaims += 1
            try:
                starts = await self.claim(consumer)
            except Fenced:
                raise
            except (StoreError, Refused, KafkaError, OSError) as exc:
                cause = exc
            else:
                await consumer.reseek(self.partition, starts)
                return


def fail(why: Exception) -> None:
    """End this process with the block of what only people can mend: a new start would come to the same end."""
    block = block_of(why)
    print(render(block), file=sys.stderr, flush=True)
    logging.shutdown()
    os._exit(block.exit_code)


def leave(why: str) -> None:
    """End this process at once: waiting would block the rebalance that gives the partition to its next owner."""
    log.error("leaving: %s", why)
    logging.shutdown()
    os._exit(EXIT_RESTART)
