"""The records of a step of the identity stage by whom they are for, and what they come to.

Pure: sort everything into a `Mail`, read what the store has under its `subkeys`, and `decide`. What is for the owner of
another partition number becomes a record to write at once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from models.accounts import decide_accounts, read_waiting
from models.formats import FORMAT
from models.linking import (
    HOPS_MAX,
    Arrived,
    Belong,
    ForgetId,
    ForgetWhere,
    IdState,
    Message,
    Outcome,
    Said,
    Where,
    all_whole,
    conversion_key,
    decide_id,
    forget_id,
    forget_others,
    id_writer,
    introduce,
    is_somebody_else,
    read_id,
    sever,
    whole,
)
from models.outcome import Reason, shorten
from models.raw import PlainTouch, RawEvent
from models.whereabouts import decide_whereabouts, forgotten_whereabouts, read_whereabouts

NOBODY: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class IdentityRules:
    """`ids_max`: ids that may be below one.

    `wait_ms`: how long a correction waits for its conversion; `unread_ms`: how long a record can lie in a topic before
    it is read; both in record time. `kept_ms`: how long it is known whose a conversion is, longer than both together.
    `by_account`: whether journeys are kept by account; see `models.accounts`. `state_format`: in which format ids are
    written (`models/formats.py`).
    """

    ids_max: int
    wait_ms: int
    kept_ms: int
    unread_ms: int = 0
    by_account: bool = False
    state_format: int = FORMAT


class Change(NamedTuple):
    """What to write under a subkey: a new value, or bytes to append to it; None deletes it."""

    subkey: bytes
    value: bytes | None
    append: bool


class _ForId(msgspec.Struct, gc=False):
    # There is one for each id of a step, and most have one of these: each is made when it is needed.
    messages: list[Said] | None = None
    events: list[Arrived] | None = None
    plain: list[PlainTouch] | None = None
    named: dict[str, int] | None = None
    forget: ForgetId | None = None
    # What was said after that.
    late: list[Said] | None = None


@dataclass(slots=True)
class _ForConversion:
    told: list[Where] = field(default_factory=list)
    forgotten: bool = False
    corrections: list[Arrived] = field(default_factory=list)


class Mail:
    """The records of one step for what this partition number owns; `owns` says of an id or conversion key if it does.

    What others own, and what ends here, is added to `out`.
    """

    def __init__(self, owns: Callable[[str], bool], out: Outcome, by_account: bool = False) -> None:
        self._owns = owns
        self._out = out
        self._by_account = by_account
        self._ids: dict[str, _ForId] = {}
        self._conversions: dict[str, _ForConversion] = {}

    def message(self, message: Message) -> None:
        """Take what another owner says. What is not for here, as no owner wrote it, is sent where it belongs."""
        if not self._owns(message.id):
            self._out.tell(message, message.at)
        elif isinstance(message, Where):
            self._for_conversion(message.id).told.append(message)
        elif isinstance(message, ForgetWhere):
            self._for_conversion(message.id).forgotten = True
        else:
            mail = self._for_id(message.id)
            if isinstance(message, ForgetId):
                mail.forget = mail.forget or message
                mail.late = mail.late or []
            elif mail.late is not None:
                mail.late.append(message)
            elif mail.messages is None:
                mail.messages = [message]
            else:
                mail.messages.append(message)

    def people(self, ids: Sequence[str], record_ms: int) -> None:
        """Take the ids of one person, highest first: the owner of the highest is to take in the others."""
        if len(ids) > 1 and self._owns(ids[0]):
            mail = self._for_id(ids[0])
            named = mail.named = mail.named or {}
            for lower in ids[1:]:
                named.setdefault(lower, record_ms)
        else:
            for lower in ids[1:]:
                self._out.tell(introduce(ids[0], lower, record_ms), record_ms)

    def belongs(self, person_id: str, account_id: str, record_ms: int) -> None:
        """Take the account of a person; it goes over `links`, as what is kept of ids follows from these alone."""
        self._out.tell(Belong(person_id, account_id, record_ms), record_ms)

    def event(self, arrived: Arrived) -> None:
        """Take a raw event; one that somebody else owns is passed on to there."""
        event = arrived.event
        person = event.person
        is_own = event.ids[:1] == (person,)
        named = None if is_own else person
        if event.action and self._goes_by_conversion(event):
            person = None
        place = conversion_key(event.conversion_id) if person is None else person
        # Whoever has mail is owned here: that is cheaper to see, and most come more than once.
        if place not in self._ids and not self._owns(place):
            if event.hops < HOPS_MAX:
                self._out.pass_on(arrived, place, named)
            else:
                message = f"passed on {event.hops} times, last to the owner of {shorten(place)!r}"
                self._out.dead.append((arrived, Reason.TOO_MANY_HOPS, message))
            return
        # One that a lower owner sent up has told of its ids there.
        if is_own and len(event.ids) > 1:
            self.people(event.ids, arrived.record_ms)
        if person is None:
            self._for_conversion(place).corrections.append(arrived)
        else:
            mail = self._for_id(person)
            if mail.events is None:
                mail.events = [arrived]
            else:
                mail.events.append(arrived)

    def touches(self, items: Iterable[Any]) -> Iterator[Any]:
        """As `event`, for the plain touches among these, which journeys by account have none of; gives the others."""
        ids = self._ids
        for item in items:
            person = getattr(item, "person", None)
            if person is None:
                yield item
                continue
            mail = ids.get(person)
            if mail is None:
                if not self._owns(person):
                    self.event(whole(item))
                    continue
                mail = self._for_id(person)
            if mail.plain is None:
                mail.plain = [item]
            else:
                mail.plain.append(item)

    def _goes_by_conversion(self, event: RawEvent) -> bool:
        """Whether a correction goes where its conversion is, though it may name somebody.

        By account that is the account of then; and whoever was split from a person has conversions here and there.
        """
        if event.action == "create" or event.found:
            return False
        by_account = self._by_account and event.account_id is None
        return by_account or event.person == conversion_key(event.conversion_id)

    def subkeys(self) -> list[bytes]:
        """What has to be read before `decide`."""
        ids = [id_subkey(each) for each in self._ids]
        if self._by_account:
            ids += [waiting_subkey(each) for each in self._ids]
        return ids + [conversion_subkey(each) for each in self._conversions]

    def ids(self) -> list[str]:
        """The ids that are spoken of."""
        return list(self._ids)

    def decide(
        self, blobs: Sequence[bytes | None], rules: IdentityRules, forgotten: Mapping[str, int] = NOBODY
    ) -> Iterator[Change | None]:
        """Decide one id or conversion after the other; gives what to write, None where nothing changes.

        `blobs` are what the store has under `subkeys`, in that order; `forgotten` the `ids` that were, and when.
        """
        out, count, write_id = self._out, len(self._ids), id_writer(rules.state_format)
        waiting: Sequence[bytes | None] = blobs[count : 2 * count] if self._by_account else [None] * count
        for (person_id, mail), blob, waits in zip(self._ids.items(), blobs[:count], waiting, strict=True):
            stored = state = read_id(blob)
            said, forget = mail.messages or (), mail.forget
            if forget is not None or person_id in forgotten:
                if forget is not None and person_id not in forgotten:
                    state = self._decided(person_id, state, said, rules)
                if forget is None or person_id in forgotten or not is_somebody_else(forget, state):
                    yield from self._without(person_id, mail, state, waits, forgotten.get(person_id))
                    continue
                state, said = sever(forget, state), mail.late or ()
            state = self._decided(person_id, state, said, rules, mail)
            yield None if state is stored else Change(id_subkey(person_id), write_id(state), append=False)
            if self._by_account and (mail.events or waits):
                yield self._waiting(person_id, mail.events or (), state, waits, rules)
        told = blobs[(2 if self._by_account else 1) * count :]
        for (key, about), blob in zip(self._conversions.items(), told, strict=True):
            known = read_whereabouts(blob)
            if about.forgotten or known.forgotten:
                out.dropped += [*known.waiting, *about.corrections]
                gone = Change(conversion_subkey(key), forgotten_whereabouts(), append=False)
                yield None if known.forgotten else gone
                continue
            frames = decide_whereabouts(known, about.told, about.corrections, rules.wait_ms, out)
            yield Change(conversion_subkey(key), frames, append=True) if frames else None

    def _decided(
        self, person_id: str, state: IdState, said: Sequence[Said], rules: IdentityRules, mail: _ForId | None = None
    ) -> IdState:
        """What messages make of an id, and with `mail` all else that there is for it."""
        ids_max, out, by_account = rules.ids_max, self._out, self._by_account
        if mail is None:
            return decide_id(person_id, state, said, NOBODY, (), ids_max, out, by_account)
        events = () if by_account else mail.events or ()
        return decide_id(person_id, state, said, mail.named or NOBODY, events, ids_max, out, by_account, mail.plain)

    def _waiting(
        self, person_id: str, events: Sequence[Arrived], state: IdState, blob: bytes | None, rules: IdentityRules
    ) -> Change | None:
        """Send events on to their account; those whose account is not known wait."""
        frames = decide_accounts(person_id, state, blob, events, rules.wait_ms, self._out)
        if frames is None:
            return None if blob is None else Change(waiting_subkey(person_id), None, append=False)
        return Change(waiting_subkey(person_id), frames, append=True) if frames else None

    def _without(
        self, person_id: str, mail: _ForId, state: IdState, waits: bytes | None, at: int | None
    ) -> Iterator[Change]:
        """Decide an id that is to be forgotten, or was already: `at`."""
        out, late = self._out, mail.late or ()
        said = [*(mail.messages or ()), *late]
        if at is None and mail.forget is not None:
            forget_id(mail.forget, state, out)
            at, said = mail.forget.at, list(late)
            yield Change(id_subkey(person_id), None, append=False)
        if waits is not None:
            out.dropped += read_waiting(waits)
            yield Change(waiting_subkey(person_id), None, append=False)
        forget_others(at or 0, said, mail.named or NOBODY, out)
        out.dropped += all_whole(mail.plain or (), mail.events or ())

    def _for_id(self, person_id: str) -> _ForId:
        found = self._ids.get(person_id)
        if found is None:
            found = self._ids[person_id] = _ForId()
        return found

    def _for_conversion(self, key: str) -> _ForConversion:
        found = self._conversions.get(key)
        if found is None:
            found = self._conversions[key] = _ForConversion()
        return found


def id_subkey(person_id: str) -> bytes:
    """Where what is kept of an id lies."""
    return b"i:" + person_id.encode()


def waiting_subkey(person_id: str) -> bytes:
    """Where the events of an id that wait for its account lie."""
    return b"a:" + person_id.encode()


def conversion_subkey(key: str) -> bytes:
    """Where it lies whose a conversion is; `key` as `conversion_key` makes it."""
    return b"w:" + key.encode()
