"""The records of `moves` of one step, and what they make of its touches and conversions.

Facts for persons that are others are sent on after them; facts for persons who were forgotten are dropped.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.crediting import Event, Moved, Source
from models.journey import PendingCorrection, forward_key, read_frames
from models.moving import Forget, Merge, Move, write_move
from streams.deciding import Decided
from streams.decode import Taken, TakenMove
from streams.report import BatchReport

# Records of `moves` taken in one step. Each may load a whole journey, or bring one: the number follows the bytes of the
# journeys of the last step, as most visitors that are merged have next to none.
MOVES_FIRST, MOVES_MAX, MOVED_BYTES = 500, 4_000, 16 << 20
# What a touch that arrives is taken for; a little more than most frames.
TOUCH_BYTES = 150


def together(waiting: Sequence[TakenMove], most: int) -> int:
    """How many of the records that wait are taken in one step, `most` of them.

    A forget must not meet what came before it for the same person: what a journey brought is published under the person
    first, so that every conversion has its credits, with their shares, before the person is taken out of them.
    """
    seen: set[bytes] = set()
    for i, taken in enumerate(waiting[:most]):
        if isinstance(taken.move, Forget) and taken.key in seen:
            return i
        seen.add(taken.key)
    return min(len(waiting), most)


@dataclass(slots=True)
class Moves:
    """`into`: persons here that are others, since when, and who they are; `forgotten`: those of whom nothing is kept.

    Of this step are the journeys that are `leaving` with a merge, those of `forgetting`, what is `arriving`, and the
    records to write of what is sent on (`sent`).
    """

    partition: int
    into: dict[bytes, tuple[int, str]] = field(default_factory=dict)
    forgotten: set[bytes] = field(default_factory=set)
    leaving: dict[bytes, tuple[Merge, int]] = field(default_factory=dict)
    forgetting: dict[bytes, Source] = field(default_factory=dict)
    arriving: dict[bytes, list[Moved]] = field(default_factory=dict)
    sent: list[Move] = field(default_factory=list)

    def sort(self, records: Iterable[TakenMove], decided: Decided) -> None:
        """Take the records in, in their order."""
        for offset, record_ms, key, move, dead in records:
            source = Source("moves", offset, record_ms)
            match move:
                case None:
                    if dead is not None:
                        decided.output.dead.append(dead)
                case Forget():
                    self._forget(key, move, source, decided)
                case Merge():
                    # Who was forgotten stays so, and has no journey that could leave.
                    if key not in self.into and key not in self.forgotten:
                        self.into[key] = (record_ms, move.into)
                        self.leaving[key] = (move, record_ms)
                        decided.writes.puts[forward_key(key)] = pointer(record_ms, move.into)
                case Move():
                    self.arriving.setdefault(key, []).append(Moved(move, source))
        decided.merged = len(self.leaving)
        decided.forgotten = len(self.forgetting)

    def _forget(self, key: bytes, forget: Forget, source: Source, decided: Decided) -> None:
        if key in self.forgotten:
            return
        self.forgotten.add(key)
        self.forgetting[key] = source
        into = self.into.pop(key, None)
        if into is not None:
            # The journey is there. It was sent before this, so that it is there before this.
            self.leaving.pop(key, None)
            decided.writes.puts.pop(forward_key(key), None)
            decided.writes.deletes.append(forward_key(key))
            decided.output.sends.append(("moves", *write_move(Forget(into[1], forget.request))))

    def drop(
        self, taken: Taken, events: dict[bytes, list[Event]], decided: Decided, report: BatchReport, tells: bool
    ) -> None:
        """Take away the facts for persons who were forgotten, and count them; `tells`: see `Deciding`."""
        kept = [touch for touch in taken.touches if touch[2] not in self.forgotten]
        report.touches_forgotten += len(taken.touches) - len(kept)
        taken.touches = kept
        for key in [key for key in events if key in self.forgotten]:
            dropped = events.pop(key)
            report.conversions_forgotten += len(dropped)
            if tells:
                decided.tell(e.conversion.conversion_id for e in dropped if e.conversion.action == "create")

    def send_on(self, taken: Taken, events: dict[bytes, list[Event]]) -> None:
        """Facts for persons that are others, as moves; they are taken out of where they were."""
        sent = self.sent
        frames: dict[bytes, list[bytes]] = {}
        for touch in taken.touches:
            if touch[2] in self.into:
                frames.setdefault(touch[2], []).append(touch[4])
        if frames:
            taken.touches = [touch for touch in taken.touches if touch[2] not in self.into]
        for key, parts in frames.items():
            sent.append(self._to(key, touches=read_frames(b"".join(parts))))
        for key in [key for key in events if key in self.into]:
            waiting = [PendingCorrection(e.conversion, e.key, e.value, list(e.headers)) for e in events.pop(key)]
            sent += [self._to(key, events=[event]) for event in waiting]
        for key in [key for key in self.arriving if key in self.into]:
            for move, _ in self.arriving.pop(key):
                merged_ms, move.person_id = self.into[key]
                move.merged_ms = max(move.merged_ms, merged_ms)
                sent.append(move)

    def _to(self, key: bytes, **facts: Any) -> Move:
        merged_ms, into = self.into[key]
        return Move(into, key.decode(), self.partition, merged_ms=merged_ms, **facts)


def pointer(merged_ms: int, into: str) -> bytes:
    """What stands where a person is another one since a merge of this record time."""
    return b"%d;%s" % (merged_ms, into.encode())


def read_pointer(text: bytes) -> tuple[int, str]:
    """The record time of the merge, and who the person is."""
    merged_ms, _, into = text.partition(b";")
    return int(merged_ms), into.decode()
