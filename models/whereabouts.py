"""Whose a conversion is, for corrections that name nobody: a pure function, as `models.linking` is for ids.

The owner of a conversion's key learns from a `Where` for whom it was created. Corrections that come sooner wait for it;
those that come later are sent to that person, whose owner sends them on if the person was merged meanwhile.

What is known is kept as frames that are only appended, so that it expires by itself with the first of them: a create, a
correction that waits, and a mark that those before it wait no more. A frame is a msgpack array behind its length.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from models.formats import CodecError, UnknownFormat, told
from models.linking import Arrived, Outcome, Where
from models.outcome import Reason
from models.raw import RawEvent

# Corrections of one conversion that wait; no order is refunded so often before it is known.
WAITING_MAX = 20
FRAMES_VERSION = 1
_LENGTH_BYTES = 4


class _Created(msgspec.Struct, array_like=True, tag=f"{FRAMES_VERSION}c", gc=False):
    person_id: str


class _Waits(msgspec.Struct, array_like=True, tag=f"{FRAMES_VERSION}w", gc=False):
    offset: int
    record_ms: int
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes | None]]
    event: RawEvent


class _Done(msgspec.Struct, array_like=True, tag=f"{FRAMES_VERSION}d", gc=False):
    pass


class _Forgotten(msgspec.Struct, array_like=True, tag=f"{FRAMES_VERSION}f", gc=False):
    pass


_decode = msgspec.msgpack.Decoder(_Created | _Waits | _Done | _Forgotten).decode
_pack = msgspec.msgpack.Encoder().encode


class Whereabouts(NamedTuple):
    """For whom a conversion was created, None while that is not known, and the corrections that wait for it."""

    person_id: str | None = None
    waiting: tuple[Arrived, ...] = ()
    forgotten: bool = False


def read_whereabouts(blob: bytes | None) -> Whereabouts:
    """What is known of a conversion; nothing where there is no blob."""
    person_id: str | None = None
    waiting: list[Arrived] = []
    at, end = 0, len(blob or b"")
    while blob and at < end:
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(blob[start - _LENGTH_BYTES : start], "big")
        try:
            frame = _decode(blob[start:at])
        except msgspec.MsgspecError as exc:
            raise _unreadable(blob[start:at], exc) from exc
        match frame:
            case _Created():
                person_id, waiting = frame.person_id, []
            case _Waits():
                waiting.append(
                    Arrived(frame.event, frame.offset, frame.record_ms, frame.key, frame.value, frame.headers)
                )
            case _Done():
                waiting = []
            case _Forgotten():
                return Whereabouts(forgotten=True)
    return Whereabouts(person_id, tuple(waiting))


def decide_whereabouts(
    known: Whereabouts, told: Iterable[Where], corrections: Iterable[Arrived], wait_ms: int, out: Outcome
) -> bytes:
    """Send on, or keep waiting; gives the frames to append, empty where nothing new is known.

    The first create counts. A correction waits at most `wait_ms` of record time; it is looked for when the next record
    of this conversion comes.
    """
    person_id, waiting = known.person_id, known.waiting
    frames: list[bytes] = []
    news: list[tuple[int, int, Where | Arrived]] = [(where.at, 0, where) for where in told]
    news += [(arrived.record_ms, 1, arrived) for arrived in corrections]
    for now_ms, _, each in sorted(news, key=lambda one: one[:2]):
        if person_id is not None:
            if isinstance(each, Arrived):
                out.pass_on(each, person_id, person_id)
            continue
        in_time = tuple(one for one in waiting if one.record_ms + wait_ms >= now_ms)
        if len(in_time) < len(waiting):
            out.dead += [(one, Reason.NO_CREATE, _in_vain(wait_ms)) for one in waiting if one not in in_time]
            frames += [_frame(_Done()), *(_frame(_kept(one)) for one in in_time)]
            waiting = in_time
        if isinstance(each, Where):
            person_id = each.person_id
            frames.append(_frame(_Created(person_id)))
            for one in waiting:
                out.pass_on(one, person_id, person_id)
        elif len(waiting) < WAITING_MAX:
            waiting = (*waiting, each)
            frames.append(_frame(_kept(each)))
            out.waiting += 1
        else:
            out.dead.append((each, Reason.NO_CREATE, f"{WAITING_MAX} corrections wait for this conversion already"))
    return b"".join(frames)


def forgotten_whereabouts() -> bytes:
    """The frames of a conversion whose person was forgotten, in place of all that was known of it."""
    return _frame(_Forgotten())


def _unreadable(frame: bytes, why: Exception) -> CodecError:
    """A frame begins with its format and kind, as in `1c`."""
    try:
        tag = msgspec.msgpack.decode(frame)[0]
    except (msgspec.MsgspecError, TypeError, LookupError, ValueError):
        tag = None
    if isinstance(tag, str) and tag[:-1].isdecimal() and int(tag[:-1]) != FRAMES_VERSION:
        return UnknownFormat(f"whereabouts are of format {tag[:-1]}, {told(range(FRAMES_VERSION, FRAMES_VERSION + 1))}")
    return CodecError(f"whereabouts of {len(frame)} bytes cannot be read: {why}")


def _in_vain(wait_ms: int) -> str:
    return f"waited {wait_ms} ms for its conversion, which never came"


def _kept(arrived: Arrived) -> _Waits:
    a = arrived
    return _Waits(a.offset, a.record_ms, a.key, a.value, list(a.headers), a.event)


def _frame(frame: msgspec.Struct) -> bytes:
    packed = _pack(frame)
    return len(packed).to_bytes(_LENGTH_BYTES, "big") + packed
