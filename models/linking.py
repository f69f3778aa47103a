"""Which ids are one person's: what links do to one id, a pure function of its state and of what was sent to it.

No one knows the whole person. Each id has an owner, who keeps one pointer: `up`, a higher id of the same person, or
none. Owners tell each other with three messages, each sent to the owner of its `id`:

    offer id to          you and `to` are one person: ask it to take you in, and all that is below you
    admit id lower size  take `lower` in below you: the owner of the higher id decides, as it is the one who counts
    link id up           `up` has taken you in: the owner of the lower id points to it, once and for all

A pointer is set once and never changed, so what was forwarded along it stays right. An id that already points elsewhere
passes the news on: the lower of its two higher ids is to be taken in by the higher one. That comes to an end, because
the lower id of what is passed on only rises; pointers only go up a total order, so there are no cycles, whatever races;
and each message keeps the ids it names connected, so in the end all lead to the highest, in any order of messages.

What is kept of an id follows from the messages to it in their order, nothing else; and a `link` is followed whatever
the settings are. So a lost store is read again from them, and pointers agree with the merges that were published.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from models.formats import Codec, Form, first_element
from models.identity import ANONYMOUS, higher, is_higher
from models.moving import Forget, Merge, write_move
from models.outcome import Reason, Rejected, shorten
from models.raw import HOPS, PERSON, Header, RawEvent, own_headers

STATE_VERSION = 1
REFUSED_KEPT = 10
# A record that has come so far is not sent on: to its owner, it never will come; up a chain, the crediting stage knows
# the way from here too.
HOPS_MAX = 64

_encode = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode


class Offer(msgspec.Struct, tag_field="do", tag="offer", gc=False, frozen=True):
    """To the owner of `id`: the higher id `to` is the same person's. `at`: record time of what said so, epoch ms."""

    id: str
    to: str
    at: int = 0


class Admit(msgspec.Struct, tag_field="do", tag="admit", gc=False, frozen=True):
    """To the owner of `id`: `lower` is the same person's, and has `size` ids below it. `at` as in `Offer`."""

    id: str
    lower: str
    at: int = 0
    size: int = 0


class Link(msgspec.Struct, tag_field="do", tag="link", gc=False, frozen=True):
    """To the owner of `id`: the higher id `up` has taken it in. `at` as in `Offer`."""

    id: str
    up: str
    at: int = 0


class Where(msgspec.Struct, tag_field="do", tag="where", gc=False, frozen=True):
    """To the owner of `id`, a conversion's key: it was created for `person_id`. `at`: its record time, epoch ms."""

    id: str
    person_id: str
    at: int = 0


class ForgetId(msgspec.Struct, tag_field="do", tag="forget", omit_defaults=True, gc=False, frozen=True):
    """To the owner of `id`: keep nothing of it, nor of the ids of the same person. `request`: see `moving.Forget`;
    `at`: when it was asked for, epoch ms."""

    id: str
    request: str = ""
    at: int = 0


class ForgetWhere(msgspec.Struct, tag_field="do", tag="forget-where", omit_defaults=True, gc=False, frozen=True):
    """To the owner of `id`, a conversion's key: the person it was created for was forgotten."""

    id: str
    at: int = 0


Said = Offer | Admit | Link
Message = Offer | Admit | Link | Where | ForgetId | ForgetWhere


class IdState(msgspec.Struct, gc=False, array_like=True, frozen=True):
    """What the owner of an id keeps of it.

    `up` is the higher id that it points to, `up_ms` the record time of what said so. `below` are the ids that were
    taken in directly below it, with the same time; from when it points up itself, those that it has sent up. `deeper`
    is how many ids those brought with them.
    `refused` counts links that were refused as there would be too many ids; the last are kept with their times.
    """

    version: int = STATE_VERSION
    up: str | None = None
    up_ms: int = 0
    below: dict[str, int] = {}
    refused: int = 0
    refused_last: list[tuple[str, int]] = []
    deeper: int = 0

    @property
    def size(self) -> int:
        """How many ids are below it, as far as is known here."""
        return len(self.below) + self.deeper


class Arrived(msgspec.Struct, gc=False):
    """A raw event and the record that it came in; record_ms is its record time, epoch ms."""

    event: RawEvent
    offset: int
    record_ms: int
    key: bytes | None
    value: bytes
    headers: Sequence[Header]


class Send(msgspec.Struct, gc=False):
    """A record to write: the topic's short name, key, value, headers, and the time of what caused it, epoch ms."""

    topic: str
    key: bytes
    value: bytes
    headers: Sequence[Header]
    record_ms: int


@dataclass(slots=True)
class Outcome:
    """What a step comes to: records to write, records that end here, and counts."""

    sends: list[Send] = field(default_factory=list)
    dead: list[tuple[Arrived, Reason, str]] = field(default_factory=list)
    admitted: int = 0
    refused: int = 0
    merged: int = 0
    passed_on: int = 0
    touches: int = 0
    conversions: int = 0
    waiting: int = 0
    # Ids that are kept no more, with the time of what said so, and events that came for those.
    forgotten: list[tuple[str, int]] = field(default_factory=list)
    dropped: list[Arrived] = field(default_factory=list)

    def tell(self, message: Message, record_ms: int) -> None:
        """Send a message to the owner of its id."""
        self.sends.append(Send("links", message.id.encode(), _encode(message), (), record_ms))

    def pass_on(self, arrived: Arrived, to: str, person: str | None) -> None:
        """Send a raw record to the owner of `to`; `person` says whose it is where its own ids do not.

        The bytes stay as they came, so that every owner judges what the producer wrote.
        """
        headers = [*own_headers(arrived.headers), (HOPS, b"%d" % (arrived.event.hops + 1))]
        if person is not None:
            headers.append((PERSON, person.encode()))
        topic = f"raw-{arrived.event.kind}"
        self.sends.append(Send(topic, to.encode(), arrived.value, headers, arrived.record_ms))
        self.passed_on += 1


NEW = IdState()
_state = msgspec.msgpack.Decoder(IdState).decode
IDS: Codec[IdState] = Codec("what is kept of an id", {1: Form(_state, _pack)}, first_element)
_message = msgspec.json.Decoder(Message).decode


def read_id(blob: bytes | None) -> IdState:
    """The state of an id; an id that nothing was said about has no blob."""
    if blob is None:
        return NEW
    try:
        state = _state(blob)
    except msgspec.MsgspecError:
        return IDS.read_other(blob)
    return state if state.version == STATE_VERSION else IDS.read_other(blob)


def write_id(state: IdState) -> bytes:
    """The bytes of an id's state."""
    return _pack(state)


def id_writer(number: int) -> Callable[[IdState], bytes]:
    """What writes an id's state in that format."""
    return IDS.writer(number)


def decode_message(key: bytes | None, value: bytes | None) -> Message:
    """What an owner was told; Rejected where no owner can have said so."""
    if value is None:
        raise Rejected(Reason.NULL_VALUE, "expected a message between owners, found no value")
    try:
        message: Message = _message(value)
    except msgspec.ValidationError as exc:
        raise Rejected(Reason.WRONG_TYPE, f"expected a message between owners: {shorten(str(exc))}") from None
    except (msgspec.MsgspecError, ValueError) as exc:
        raise Rejected(Reason.INVALID_JSON, f"expected JSON, found {shorten(str(exc))}") from None
    if key != message.id.encode():
        raise Rejected(Reason.KEY_MISMATCH, f"expected the key {shorten(message.id)!r}, found {(key or b'')[:80]!r}")
    match message:
        case Admit(id=high, lower=low) | Link(id=low, up=high) | Offer(id=low, to=high) if not is_higher(high, low):
            raise Rejected(Reason.BAD_MERGE, f"expected {shorten(high)!r} to be higher than {shorten(low)!r}")
    return message


def introduce(high: str, low: str, at: int) -> Offer | Admit:
    """The first thing to say where two ids are one person's; `at`: record time of what said so, epoch ms."""
    # Records name one anonymous id at most, so next to nothing is below one, and its owner need not be asked.
    return Admit(high, low, at) if low.startswith(ANONYMOUS) else Offer(low, high, at)


def decide_id(
    person_id: str,
    state: IdState,
    messages: Iterable[Said],
    named: Mapping[str, int],
    events: Iterable[Arrived],
    ids_max: int,
    out: Outcome,
) -> IdState:
    """What messages, in the order of their offsets, and events make of one id; what they lead to is added to `out`.

    `named` are lower ids that records name together with this one, each with the record time. The state is the same
    object where nothing changed. `ids_max` bounds the ids below one.
    """
    for message in messages:
        match message:
            case Link():
                state = _linked(person_id, state, message, out)
            case Offer():
                state = _offered(person_id, state, message, ids_max, out)
            case _:
                state = _admitted(person_id, state, message, ids_max, out)
    for lower, at in named.items():
        if lower not in state.below and not _is_refused(state, lower, ids_max):
            out.tell(introduce(person_id, lower, at), at)
    for arrived in events:
        _deliver(person_id, state.up, arrived, out)
    return state


def _is_refused(state: IdState, lower: str, ids_max: int) -> bool:
    """Whether there is no room, and that is known of this id: then it need not be said with each event again."""
    is_full = state.up is None and state.size >= ids_max
    return is_full and any(lower == known for known, _ in state.refused_last)


def forget_id(forget: ForgetId, state: IdState, out: Outcome) -> None:
    """Tell the owners of all ids that this one is connected with by pointers, and the crediting stage.

    Whatever points to an id stands in its `below`. Whoever was told before passes nothing on, so that it ends.
    """
    others = [*state.below] if state.up is None else [state.up, *state.below]
    for other in others:
        out.tell(ForgetId(other, forget.request, forget.at), forget.at)
    out.sends.append(Send("moves", *write_move(Forget(forget.id, forget.request)), (), forget.at))
    out.forgotten.append((forget.id, forget.at))


def forget_others(at: int, messages: Iterable[Said], named: Mapping[str, int], out: Outcome) -> None:
    """What is said of an id that was forgotten is not taken in. Who was the same person by then, is forgotten too.

    `at`: when the id was forgotten. What was said later is of somebody new, who has come to an old address.
    """
    others = dict(named)
    for message in messages:
        match message:
            case Link(up=other) | Offer(to=other) | Admit(lower=other):
                others[other] = min(message.at, others.get(other, message.at))
    for other, said_at in others.items():
        if said_at <= at:
            out.tell(ForgetId(other, "", at), at)


def forget_where(conversion_id: str) -> tuple[bytes, bytes]:
    """Key and value of the record that tells the owner of a conversion's key to forget whose it is."""
    return write_message(ForgetWhere(conversion_key(conversion_id)))


def write_message(message: Message) -> tuple[bytes, bytes]:
    """Key and value of a record of `links`."""
    return message.id.encode(), _encode(message)


def _linked(person_id: str, state: IdState, link: Link, out: Outcome) -> IdState:
    if state.up is None:
        out.sends.append(Send("moves", *write_move(Merge(person_id, link.up)), (), link.at))
        out.merged += 1
        return replace(state, up=link.up, up_ms=link.at)
    _pass_on_news(state.up, link.up, link.at, out)
    return state


def _offered(person_id: str, state: IdState, offer: Offer, ids_max: int, out: Outcome) -> IdState:
    if state.up is not None:
        _pass_on_news(state.up, offer.to, offer.at, out)
    elif state.size < ids_max:
        out.tell(Admit(offer.to, person_id, offer.at, state.size), offer.at)
    else:
        return _refused(state, offer.to, offer.at, out)
    return state


def _pass_on_news(up: str, also_up: str, at: int, out: Outcome) -> None:
    """Two ids above one are one person's."""
    if up != also_up:
        high = higher(up, also_up)
        news = introduce(high, also_up if high == up else up, at)
        out.tell(news, at)


def _admitted(person_id: str, state: IdState, admit: Admit, ids_max: int, out: Outcome) -> IdState:
    lower, at = admit.lower, admit.at
    if lower in state.below:
        # Its owner was told already, or the owner above was.
        return state
    if state.up is not None:
        out.tell(Admit(state.up, lower, at, admit.size), at)
        # So that it is not sent up with each event again.
        return replace(state, below={**state.below, lower: at}) if len(state.below) < ids_max else state
    if state.size + 1 + admit.size > ids_max:
        return _refused(state, lower, at, out)
    out.tell(Link(lower, person_id, at), at)
    out.admitted += 1
    return replace(state, below={**state.below, lower: at}, deeper=state.deeper + admit.size)


def _refused(state: IdState, other: str, at: int, out: Outcome) -> IdState:
    out.refused += 1
    last = [*(each for each in state.refused_last if each[0] != other), (other, at)][-REFUSED_KEPT:]
    return replace(state, refused=state.refused + 1, refused_last=last)


def _deliver(person_id: str, up: str | None, arrived: Arrived, out: Outcome) -> None:
    event = arrived.event
    if up is not None and event.hops < HOPS_MAX:
        out.pass_on(arrived, up, up)
        return
    headers = own_headers(arrived.headers) if arrived.headers else ()
    out.sends.append(Send(event.kind, person_id.encode(), event.rekeyed, headers, arrived.record_ms))
    if event.kind == "touches":
        out.touches += 1
        return
    out.conversions += 1
    if event.action == "create":
        out.tell(Where(conversion_key(event.conversion_id), person_id, arrived.record_ms), arrived.record_ms)


def conversion_key(conversion_id: str) -> str:
    """The text whose owner knows whose conversion it is."""
    return f"conversion:{conversion_id}"
