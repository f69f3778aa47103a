"""Journeys by account: events leave the identity stage keyed by their account, or wait until that is known.

The account of an event is what its record says; else the one that the latest Identify gave its person, by the time the
event is resolved. Events of nobody's account wait at the owner of their person id, for as long as corrections do, and
go on with their person where that turns out to be another one.
"""

from collections.abc import Sequence
from itertools import takewhile

import msgspec

from models.linking import Arrived, IdState, Outcome, is_sent_on
from models.outcome import Reason, Rejected
from models.raw import of_account
from models.waiting import FRAMES_VERSION, Waits, frame, read_frames, waits

# Events of one id that wait: as many as a path has by default.
WAITING_MAX = 500


class _Left(msgspec.Struct, array_like=True, tag=f"{FRAMES_VERSION}l", gc=False):
    """The first so many wait no more."""

    count: int


_frames: msgspec.msgpack.Decoder[msgspec.Struct] = msgspec.msgpack.Decoder(Waits | _Left)


def read_waiting(blob: bytes | None) -> list[Arrived]:
    """The events of an id that wait. Raises CodecError."""
    waiting: list[Arrived] = []
    for each in read_frames(blob, _frames):
        if isinstance(each, Waits):
            waiting.append(each.arrived())
        elif isinstance(each, _Left):
            del waiting[: each.count]
    return waiting


def decide_accounts(
    person_id: str, state: IdState, blob: bytes | None, events: Sequence[Arrived], wait_ms: int, out: Outcome
) -> bytes | None:
    """Send the events of an id on, new ones and those that wait (`blob`), or keep them waiting.

    Gives the frames to append, empty where nothing new waits; None where nothing waits any more.
    """
    waiting = read_waiting(blob)
    account_id = state.account
    if account_id is not None or state.points:
        for arrived in [*waiting, *events]:
            _send(person_id, state, arrived, account_id, out)
        return None
    frames: list[bytes] = []
    now_ms = max([arrived.record_ms for arrived in events], default=0)
    gone = list(takewhile(lambda one: one.record_ms + wait_ms < now_ms, waiting))
    if gone:
        frames.append(frame(_Left(len(gone))))
        out.dead += [(one, Reason.NO_ACCOUNT, f"waited {wait_ms} ms for the account of {person_id!r}") for one in gone]
    room = WAITING_MAX - len(waiting) + len(gone)
    for arrived in events:
        if arrived.event.account_id is not None:
            to_account(arrived, person_id, arrived.event.account_id, out)
        elif room > 0:
            room -= 1
            frames.append(frame(waits(arrived)))
            out.waiting += 1
        else:
            out.dead.append((arrived, Reason.NO_ACCOUNT, f"{WAITING_MAX} events wait for the account already"))
    return b"".join(frames)


def to_account(arrived: Arrived, person_id: str, account_id: str, out: Outcome) -> None:
    """Write an event of this person to the journey of this account."""
    event = arrived.event
    try:
        value = of_account(event.rekeyed, person_id, account_id)
    except Rejected as exc:
        out.dead.append((arrived, exc.reason, exc.message))
        return
    out.deliver(arrived, account_id.encode(), value, person_id, account_id)


def _send(person_id: str, state: IdState, arrived: Arrived, account_id: str | None, out: Outcome) -> None:
    if is_sent_on(state, arrived, out):
        return
    account_id = arrived.event.account_id or account_id
    if account_id is not None and not state.points:
        to_account(arrived, person_id, account_id, out)
    else:
        out.dead.append((arrived, Reason.TOO_MANY_HOPS, f"passed on {arrived.event.hops} times, last to {person_id!r}"))
