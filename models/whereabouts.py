"""Whose a conversion is, for corrections that name nobody: a pure function, as `models.linking` is for ids.

The owner of a conversion's key learns from a `Where` for whom it was created. Corrections that come sooner wait for it;
those that come later are sent to that person, whose owner sends them on if the person was merged meanwhile.

What is known is kept as frames that are only appended, so that it expires by itself with the first of them: a create, a
correction that waits, and a mark that those before it wait no more. A frame is a msgpack array behind its length.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from models.accounts import to_account
from models.linking import Arrived, Outcome, Where
from models.outcome import Reason
from models.waiting import FRAMES_VERSION, Waits, frame, read_frames, waits

# Corrections of one conversion that wait; no order is refunded so often before it is known.
WAITING_MAX = 20


class _Created(msgspec.Struct, array_like=True, tag=f"{FRAMES_VERSION}c", gc=False):
    person_id: str


class _CreatedFor(msgspec.Struct, array_like=True, tag=f"{FRAMES_VERSION}a", gc=False):
    person_id: str
    account_id: str


class _Done(msgspec.Struct, array_like=True, tag=f"{FRAMES_VERSION}d", gc=False):
    pass


class _Forgotten(msgspec.Struct, array_like=True, tag=f"{FRAMES_VERSION}f", gc=False):
    pass


_frames: msgspec.msgpack.Decoder[msgspec.Struct] = msgspec.msgpack.Decoder(
    _Created | _CreatedFor | Waits | _Done | _Forgotten
)


class Whereabouts(NamedTuple):
    """For whom a conversion was created, None while that is not known, and the corrections that wait for it.

    `account_id`: in whose journey it is, where journeys are kept by account.
    """

    person_id: str | None = None
    waiting: tuple[Arrived, ...] = ()
    forgotten: bool = False
    account_id: str | None = None


def read_whereabouts(blob: bytes | None) -> Whereabouts:
    """What is known of a conversion; nothing where there is no blob."""
    person_id: str | None = None
    account_id: str | None = None
    waiting: list[Arrived] = []
    for each in read_frames(blob, _frames):
        match each:
            case _Created():
                person_id, account_id, waiting = each.person_id, None, []
            case _CreatedFor():
                person_id, account_id, waiting = each.person_id, each.account_id, []
            case Waits():
                waiting.append(each.arrived())
            case _Done():
                waiting = []
            case _Forgotten():
                return Whereabouts(forgotten=True)
    return Whereabouts(person_id, tuple(waiting), account_id=account_id)


def decide_whereabouts(
    known: Whereabouts, told: Iterable[Where], corrections: Iterable[Arrived], wait_ms: int, out: Outcome
) -> bytes:
    """Send on, or keep waiting; gives the frames to append, empty where nothing new is known.

    The first create counts. A correction waits at most `wait_ms` of record time; that it waited for longer shows when
    the next record of this conversion comes, or when `give_up` is asked.
    """
    person_id, account_id, waiting = known.person_id, known.account_id, known.waiting
    frames: list[bytes] = []
    news: list[tuple[int, int, Where | Arrived]] = [(where.at, 0, where) for where in told]
    news += [(arrived.record_ms, 1, arrived) for arrived in corrections]
    for now_ms, _, each in sorted(news, key=lambda one: one[:2]):
        if person_id is not None:
            if isinstance(each, Arrived):
                _send_on(each, person_id, account_id, out)
            continue
        in_time = tuple(one for one in waiting if one.record_ms + wait_ms >= now_ms)
        if len(in_time) < len(waiting):
            frames += _refuse(waiting, in_time, wait_ms, out)
            waiting = in_time
        if isinstance(each, Where):
            person_id, account_id = each.person_id, each.account_id
            frames.append(frame(_CreatedFor(person_id, account_id) if account_id else _Created(person_id)))
            for one in waiting:
                _send_on(one, person_id, account_id, out)
        elif len(waiting) < WAITING_MAX:
            waiting = (*waiting, each)
            frames.append(frame(waits(each)))
            out.waiting += 1
            out.began.append((each.record_ms, each.offset, each.event.conversion_id.encode()))
        else:
            out.dead.append((each, Reason.NO_CREATE, f"{WAITING_MAX} corrections wait for this conversion already"))
    return b"".join(frames)


def give_up(known: Whereabouts, until_ms: int, wait_ms: int, out: Outcome) -> bytes | None:
    """Refuse the corrections that wait and have a record time up to `until_ms`.

    Gives the frames to append, empty where none of these waits any more; None where nothing is left to be known.
    """
    left = tuple(one for one in known.waiting if one.record_ms > until_ms)
    if len(left) == len(known.waiting):
        return b""
    frames = _refuse(known.waiting, left, wait_ms, out)
    return b"".join(frames) if left else None


def forgotten_whereabouts() -> bytes:
    """The frames of a conversion whose person was forgotten, in place of all that was known of it."""
    return frame(_Forgotten())


def _refuse(waiting: Iterable[Arrived], left: Iterable[Arrived], wait_ms: int, out: Outcome) -> list[bytes]:
    """Those that are not `left` become dead letters; the frames that say so."""
    out.dead += [(one, Reason.NO_CREATE, _in_vain(wait_ms)) for one in waiting if one not in left]
    return [frame(_Done()), *(frame(waits(one)) for one in left)]


def _in_vain(wait_ms: int) -> str:
    return f"waited {wait_ms} ms for its conversion, which never came"


def _send_on(correction: Arrived, person_id: str, account_id: str | None, out: Outcome) -> None:
    if account_id is not None:
        # Whose it is may have changed since; in which journey it is, has not.
        to_account(correction, person_id, account_id, out)
        return
    correction.event.found = True
    out.pass_on(correction, person_id, person_id)
