"""Journeys that move: one person turns out to be another, and what is known of the first goes to the second.

The topic `moves` holds what is said about it, keyed by the person it is for. A `Merge` tells the owner of a journey
that it belongs to somebody else from now on; the facts then travel as `Move` records with their own record times, so
that the new owner decides as if they had been its own from the beginning. A `Forget` tells the owner to keep nothing of
a person any more (`models/forgetting.py`).
"""

from collections.abc import Iterator, Sequence

import msgspec

from models.facts import JourneyTouch
from models.identity import is_higher
from models.journey import JourneyConversion, PendingCorrection
from models.outcome import Reason, Rejected, shorten

# A record of `moves` stays well below the megabyte that brokers allow.
TOUCHES_A_MOVE = 500
IDS_A_MOVE = 2_000


class MovedConversion(msgspec.Struct, gc=False, array_like=True):
    """A conversion on its way, and the ids of the touches that it was last published with (none: unattributed)."""

    conversion: JourneyConversion
    shown: list[str]


class Merge(msgspec.Struct, tag_field="do", tag="merge"):
    """Everything of `person_id` belongs to `into`, for good. Both are person ids; the key is `person_id`."""

    person_id: str
    into: str


class Move(msgspec.Struct, tag_field="do", tag="journey", omit_defaults=True):
    """Facts of another person that are `person_id`'s now; the key is `person_id`.

    `partition` is where the records of `events` lie: conversion records that came after their person had left.
    """

    person_id: str
    of: str
    partition: int
    touches: list[JourneyTouch] = []
    conversions: list[MovedConversion] = []
    events: list[PendingCorrection] = []
    dropped_ms: int = -1
    # Record time of the latest merge that brought these facts here.
    merged_ms: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether it has touches at most: those change nothing where there are no conversions."""
        return not (self.conversions or self.events) and self.dropped_ms < 0


class Forget(msgspec.Struct, tag_field="do", tag="forget", omit_defaults=True):
    """Nothing of `person_id` is to be kept, nor taken in again; the key is `person_id`.

    `request` names the request that this is part of, as one person can have several ids; it says nothing of the person.
    """

    person_id: str
    request: str = ""


_decode = msgspec.json.Decoder(Merge | Move | Forget).decode
_encode = msgspec.json.Encoder().encode


def read_move(key: bytes | None, value: bytes | None) -> Merge | Move | Forget:
    """A record of `moves`. Raises Rejected."""
    if value is None:
        raise Rejected(Reason.NULL_VALUE, "expected a merge, a moved journey or a forget, found no value")
    if key is None:
        raise Rejected(Reason.NULL_KEY, "expected the key to be the record's person_id, found no key")
    try:
        move: Merge | Move | Forget = _decode(value)
    except msgspec.ValidationError as exc:
        raise Rejected(Reason.WRONG_TYPE, str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Rejected(Reason.INVALID_JSON, str(exc)) from exc
    if isinstance(move, Merge) and not is_higher(move.into, move.person_id):
        message = f"expected {shorten(move.into)!r} to be higher than {shorten(move.person_id)!r}"
        raise Rejected(Reason.BAD_MERGE, message, "into")
    if key != move.person_id.encode():
        message = f"expected the key {move.person_id[:80]!r}, found {key[:80]!r}"
        raise Rejected(Reason.KEY_MISMATCH, message, "person_id")
    return move


def write_move(move: Merge | Move | Forget) -> tuple[bytes, bytes]:
    """Key and value of a record of `moves`."""
    return move.person_id.encode(), _encode(move)


def split(
    into: str,
    of: str,
    partition: int,
    touches: Sequence[JourneyTouch],
    conversions: Sequence[MovedConversion],
    pending: Sequence[PendingCorrection],
    dropped_ms: int,
    merged_ms: int,
) -> Iterator[Move]:
    """A whole journey as records of bounded size: touches first, so that few conversions are restated twice."""
    for i in range(0, len(touches), TOUCHES_A_MOVE):
        yield Move(into, of, partition, touches=list(touches[i : i + TOUCHES_A_MOVE]), merged_ms=merged_ms)
    group: list[MovedConversion] = []
    ids = 0
    for moved in conversions:
        ids += 10 + len(moved.shown)
        if group and ids > IDS_A_MOVE:
            yield Move(into, of, partition, conversions=group, merged_ms=merged_ms)
            group, ids = [], 10 + len(moved.shown)
        group.append(moved)
    if group:
        yield Move(into, of, partition, conversions=group, merged_ms=merged_ms)
    for event in pending:
        yield Move(into, of, partition, events=[event], merged_ms=merged_ms)
    # The news of the merge travels in any case, as conversions there may be too old for it.
    if dropped_ms >= 0 or not (touches or conversions or pending):
        yield Move(into, of, partition, dropped_ms=dropped_ms, merged_ms=merged_ms)
