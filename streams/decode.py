"""From fetched records to facts: each record on its own, and a bad one is an outcome, not an exception.

Decoding records joined would be faster and wrong: two torn records can make two valid ones.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from models.crediting import Event
from models.events import decode_conversion, decode_touch
from models.filters import NO_FILTERS, Filtered, Filters
from models.journey import frame, frame_with_person
from models.moving import Forget, Merge, Move, read_move
from models.outcome import Reason, Rejected
from streams.gate import Held
from streams.native import Native
from streams.publish import DeadLetter

# A good touch on its way to its journey: offset, record time, key, event time, frame. A bare tuple, because a million
# named ones cost a quarter of a second.
TakenTouch = tuple[int, int, bytes, int, bytes]


class TakenMove(NamedTuple):
    """A record of `moves`: what it says, or what is wrong with it."""

    offset: int
    record_ms: int
    key: bytes
    move: Merge | Move | Forget | None
    dead: DeadLetter | None = None


@dataclass(slots=True)
class HeldFiltered(Held):
    """A conversion that a filter drops: nothing comes of it, but it keeps its place in the gate as dead ones do."""

    filtered: Filtered | None = None


@dataclass(slots=True)
class Taken:
    """What fetched records came to, each in the order of their offsets; `dead` are dead touches, and `filtered` those
    that a filter drops, with their offsets.
    """

    touches: list[TakenTouch] = field(default_factory=list)
    conversions: list[Held] = field(default_factory=list)
    moves: list[TakenMove] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    filtered: list[tuple[int, Filtered]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.touches or self.conversions or self.moves or self.dead or self.filtered)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many records there are of touches, conversions and moves."""
        return len(self.touches) + len(self.dead) + len(self.filtered), len(self.conversions), len(self.moves)

    def split(self, ends: tuple[int, ...], later: "Taken") -> "Taken":
        """Those below the offsets `ends`; the others are added to `later`."""
        now = Taken()
        touches_end, conversions_end, moves_end = ends
        for touch in self.touches:
            (now if touch[0] < touches_end else later).touches.append(touch)
        for held in self.conversions:
            (now if held.offset < conversions_end else later).conversions.append(held)
        for move in self.moves:
            (now if move.offset < moves_end else later).moves.append(move)
        for letter in self.dead:
            (now if letter.offset < touches_end else later).dead.append(letter)
        for filtered in self.filtered:
            (now if filtered[0] < touches_end else later).filtered.append(filtered)
        return now


class Decoder:
    """Decodes the records of the three topics under one policy's idea of a journey's key, and drops what filters say.

    A record has to be valid first: what a filter would drop and nobody could read is a dead letter.
    """

    def __init__(
        self,
        touches_topic: str,
        conversions_topic: str,
        moves_topic: str,
        by_account: bool,
        filters: Filters = NO_FILTERS,
        native: Native | None = None,
    ) -> None:
        """`native` is the compiled part, where it is there: it reads the plain touches."""
        self.native = native
        self._topics = (touches_topic, conversions_topic, moves_topic)
        self._by_account = by_account
        self._of_touch = filters.touch if filters.touches else None
        self._of_conversion = filters.conversion if filters.conversions else None
        # A filter looks at fields that a frame does not have.
        self._native = native if self._of_touch is None else None

    def unpack(self, topic: str, records: Iterator[Any]) -> list[Any]:
        """Records as they are fetched; plain touches as what they come to.

        Read while a record's bytes are at hand, a touch costs half of what it costs when all records of a large step
        have been unpacked before the first one is read.
        """
        if self._native is None or topic != self._topics[0]:
            return list(records)
        return self._native.unpack(records, self._by_account)

    def touches(self, records: Sequence[Any], partition: int, taken: Taken) -> None:
        """Add touch records to `taken`."""
        if self._native is None:
            self._touches(records, partition, taken)
            return
        records, at = list(records), 0
        while (at := self._native.touches(records, at, self._by_account, taken.touches)) < len(records):
            self._touches(records[at : at + 1], partition, taken)
            at += 1

    def _touches(self, records: Sequence[Any], partition: int, taken: Taken) -> None:
        add, by_account = taken.touches.append, self._by_account
        to_frame = frame_with_person if by_account else frame
        drops = self._of_touch
        for r in records:
            record_ms = r.timestamp
            try:
                touch = decode_touch(r.value, record_ms)
                key = r.key
                owner = touch.account_id if by_account else touch.person_id
                if key is None or owner is None or key != owner.encode():
                    self._refuse_key(key, owner)
            except Rejected as exc:
                taken.dead.append(self._dead(0, partition, r, exc))
                continue
            if drops is not None and (filtered := drops(touch, r.value)) is not None:
                taken.filtered.append((r.offset, filtered))
                continue
            add((r.offset, record_ms, key, touch.occurred_ms, to_frame(touch)))

    def conversions(self, records: Sequence[Any], partition: int, taken: Taken) -> None:
        """Add conversion records to `taken`; the bad ones too, as they must keep their place in the gate."""
        now_s = time.monotonic()
        drops = self._of_conversion
        for r in records:
            try:
                conversion = decode_conversion(r.value, r.timestamp)
                owner = conversion.account_id if self._by_account else conversion.person_id
                if r.key is None or owner is None or r.key != owner.encode():
                    self._refuse_key(r.key, owner)
            except Rejected as exc:
                held = Held(r.offset, r.timestamp, now_s, None, self._dead(1, partition, r, exc))
            else:
                conversion.record_ms = r.timestamp
                conversion.offset = r.offset
                held = Held(r.offset, r.timestamp, now_s, Event(conversion, r.key, r.value, r.headers))
                if drops is not None and (filtered := drops(conversion, r.value)) is not None:
                    held = HeldFiltered(r.offset, r.timestamp, now_s, None, filtered=filtered)
            taken.conversions.append(held)

    def moves(self, records: Sequence[Any], partition: int, taken: Taken) -> None:
        """Add records of `moves` to `taken`, the bad ones too."""
        for r in records:
            try:
                move = read_move(r.key, r.value)
            except Rejected as exc:
                dead = self._dead(2, partition, r, exc)
                taken.moves.append(TakenMove(r.offset, r.timestamp, r.key or b"", None, dead))
            else:
                taken.moves.append(TakenMove(r.offset, r.timestamp, r.key, move))

    def _refuse_key(self, key: bytes | None, owner: str | None) -> None:
        name = "account_id" if self._by_account else "person_id"
        if key is None:
            raise Rejected(Reason.NULL_KEY, f"expected the key to be the record's {name}, found no key")
        if owner is None:
            raise Rejected(Reason.MISSING_FIELD, f"expected {name}, as journeys are kept by account", name)
        raise Rejected(Reason.KEY_MISMATCH, f"expected the key {owner[:80]!r}, found {key[:80]!r}", name)

    def _dead(self, topic: int, partition: int, r: Any, exc: Rejected) -> DeadLetter:
        return DeadLetter(self._topics[topic], partition, r.offset, r.key, r.value, r.headers, exc.reason, str(exc))
