"""Which ids are one person's: what links do to one id, a pure function of its state and of what was sent to it.

No one knows the whole person. Each id has an owner, who keeps one pointer: `up`, a higher id of the same person, or
none. Owners tell each other with messages, each sent to the owner of its `id`:

    offer id to          you and `to` are one person: ask it to take you in, and all that is below you
    admit id lower size  take `lower` in below you: the owner of the higher id decides, as it is the one who counts
    link id up           `up` has taken you in: the owner of the lower id points to it, once and for all
    split id             what you point to is somebody else: go on as a new id, which points nowhere
    apart id other       you and `other` are two persons: do not take it in, nor let it take you in
    belong id account    your person belongs to this account

A pointer is set once and never changed, so what was forwarded along it stays right. An id that already points elsewhere
passes the news on: the lower of its two higher ids is to be taken in by the higher one. That comes to an end, because
the lower id of what is passed on only rises; pointers only go up a total order, so there are no cycles, whatever races;
and each message keeps the ids it names connected, so in the end all lead to the highest, in any order of messages.

A link that was wrong is not taken back but outlived: the pointer stays, for all that went along it, and the id goes on
as a new one (`x~2`), for events and for links that are said after the split. Those who were split do not come together
again by what one of their ids says of the other: each keeps who it is apart from, tells whom it is linked to,
and says so when it asks to be taken in, as a third id may be asked by both at once.

What is kept of an id follows from the messages to it in their order, nothing else; and a `link` is followed whatever
the settings are. So a lost store is read again from them, and pointers agree with the merges that were published.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from models.formats import Codec, Form, first_element
from models.identity import ANONYMOUS, EMAIL, higher, is_higher
from models.moving import Forget, Merge, write_move
from models.outcome import Reason, Rejected, shorten
from models.raw import FOUND, HOPS, PERSON, Header, PlainTouch, RawEvent, event_of, own_headers, renamed, tail_of
from models.splitting import next_incarnation

STATE_VERSION = 1
REFUSED_KEPT = 10
# Ids that one is not to be linked with; each split adds one, and a link to somebody else some more.
APART_MAX = 100
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
    """To the owner of `id`: `lower` is the same person's, and has `size` ids below it. `at` as in `Offer`.

    `apart`: whom `lower` is apart from, left out where that is nobody or not known.
    """

    id: str
    lower: str
    at: int = 0
    size: int = 0
    apart: list[str] | msgspec.UnsetType = msgspec.UNSET


class Link(msgspec.Struct, tag_field="do", tag="link", gc=False, frozen=True):
    """To the owner of `id`: the higher id `up` has taken it in. `at` as in `Offer`."""

    id: str
    up: str
    at: int = 0


class Where(msgspec.Struct, tag_field="do", tag="where", omit_defaults=True, gc=False, frozen=True):
    """To the owner of `id`, a conversion's key: it was created for `person_id`, in the journey of `account_id` where
    journeys are kept by account. `at`: its record time, epoch ms."""

    id: str
    person_id: str
    at: int = 0
    account_id: str | None = None


class Belong(msgspec.Struct, tag_field="do", tag="belong", gc=False, frozen=True):
    """To the owner of `id`: its person belongs to this account. `at` as in `Offer`; the latest counts."""

    id: str
    account_id: str
    at: int = 0


class Split(msgspec.Struct, tag_field="do", tag="split", omit_defaults=True, gc=False, frozen=True):
    """To the owner of `id`: it is not the same person's as what it points to. `at`: when that was read, epoch ms."""

    id: str
    at: int = 0


class Detour(msgspec.Struct, tag_field="do", tag="detour", gc=False, frozen=True):
    """To the owner of `id`: the id `up` that it points to was split, so that only its owner knows where events go."""

    id: str
    up: str
    at: int = 0


class Apart(msgspec.Struct, tag_field="do", tag="apart", omit_defaults=True, gc=False, frozen=True):
    """To the owner of `id`: it is not to be linked with `other`. `was`: the id that goes on as `id` from now on."""

    id: str
    other: str
    at: int = 0
    was: str = ""


class Unknow(msgspec.Struct, tag_field="do", tag="unknow", gc=False, frozen=True):
    """To the owner of `id`: `other` was forgotten, so nothing is to name it."""

    id: str
    other: str
    at: int = 0


class ForgetId(msgspec.Struct, tag_field="do", tag="forget", omit_defaults=True, gc=False, frozen=True):
    """To the owner of `id`: keep nothing of it, nor of the ids of the same person. `request`: see `moving.Forget`;
    `at`: when it was asked for, epoch ms; `of`: the id whose owner passes it on; `strict`: only if `id` points there.
    """

    id: str
    request: str = ""
    at: int = 0
    of: str = ""
    strict: bool = False


class ForgetWhere(msgspec.Struct, tag_field="do", tag="forget-where", omit_defaults=True, gc=False, frozen=True):
    """To the owner of `id`, a conversion's key: the person it was created for was forgotten."""

    id: str
    at: int = 0


News = Offer | Admit | Link
Said = News | Belong | Split | Detour | Apart | Unknow
Message = Said | Where | ForgetId | ForgetWhere


class IdState(msgspec.Struct, gc=False, array_like=True, frozen=True):
    """What the owner of an id keeps of it.

    `up` is the higher id that it points to, `up_ms` the record time of what said so. `below` are the ids that were
    taken in directly below it, with the same time; from when it points up itself, those that it has sent up. `deeper`
    is how many ids those brought with them.
    `refused` counts links that were refused; the last are kept with their times.
    `account` is that of the person, of the Identify at `account_ms`; an id that points up has sent it there.
    `now` is the id under which it goes on since it was split from `up`, at `split_ms`; `before` are the ids that were
    below it then. `apart` are ids that it is not to be linked with, `was` the id that goes on as this one.
    `asks`: that `up` was split, see `Detour`.
    """

    version: int = STATE_VERSION
    up: str | None = None
    up_ms: int = 0
    below: dict[str, int] = {}
    refused: int = 0
    refused_last: list[tuple[str, int]] = []
    deeper: int = 0
    account: str | None = None
    account_ms: int = 0
    now: str | None = None
    split_ms: int = 0
    before: dict[str, int] = {}
    apart: dict[str, int] = {}
    was: str = ""
    asks: bool = False

    @property
    def points(self) -> bool:
        """Whether its events belong to another id."""
        return self.up is not None or self.now is not None

    def is_after_split(self, at: int) -> bool:
        """Whether what was said at this time is said of the id that this one goes on as."""
        return self.now is not None and (at >= self.split_ms or self.up is None)

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


def whole(touch: PlainTouch) -> Arrived:
    """A plain touch as what every other raw event arrives as."""
    return Arrived(event_of(touch), touch.offset, touch.timestamp, touch.key, touch.value, ())


def all_whole(plain: Iterable[PlainTouch], events: Sequence[Arrived]) -> list[Arrived]:
    """Raw events of both kinds as those of one, those of each topic in the order of their offsets."""
    touches = [whole(touch) for touch in plain]
    return sorted([*touches, *events], key=_by_place) if touches else list(events)


def _by_place(arrived: Arrived) -> tuple[str, int]:
    return arrived.event.kind, arrived.offset


class Send(msgspec.Struct, gc=False):
    """A record to write: the topic's short name, key, value, headers, and the time of what caused it, epoch ms."""

    topic: str
    key: bytes
    value: bytes
    headers: Sequence[Header]
    record_ms: int


class Deliveries(msgspec.Struct, gc=False):
    """Plain touches of one id to write under `key`, each with the rest of its JSON."""

    key: bytes
    tail: bytes
    touches: list[PlainTouch]

    def sends(self) -> Iterator[Send]:
        """The same, record by record."""
        for touch in self.touches:
            head = event_of(touch).rekeyed.removesuffix(tail_of(touch.person))
            yield Send("touches", self.key, head + self.tail, (), touch.timestamp)


@dataclass(slots=True)
class Outcome:
    """What a step comes to: records to write, records that end here, and counts."""

    sends: list[Send | Deliveries] = field(default_factory=list)
    dead: list[tuple[Arrived, Reason, str]] = field(default_factory=list)
    admitted: int = 0
    refused: int = 0
    merged: int = 0
    passed_on: int = 0
    touches: int = 0
    conversions: int = 0
    waiting: int = 0
    split: int = 0
    # Corrections that began to wait for their conversion: record time, offset, conversion id.
    began: list[tuple[int, int, bytes]] = field(default_factory=list)
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
        if arrived.event.found:
            headers.append((FOUND, b"1"))
        topic = f"raw-{arrived.event.kind}"
        self.sends.append(Send(topic, to.encode(), arrived.value, headers, arrived.record_ms))
        self.passed_on += 1

    def deliver(
        self, arrived: Arrived, key: bytes, value: bytes, person_id: str, account_id: str | None = None
    ) -> None:
        """Write an event of this person to the journey of `key`, and tell whose a conversion is."""
        event = arrived.event
        headers = own_headers(arrived.headers) if arrived.headers else ()
        self.sends.append(Send(event.kind, key, value, headers, arrived.record_ms))
        if event.kind == "touches":
            self.touches += 1
            return
        self.conversions += 1
        if event.action == "create":
            at = arrived.record_ms
            self.tell(Where(conversion_key(event.conversion_id), person_id, at, account_id), at)


NEW = IdState()
_state = msgspec.msgpack.Decoder(IdState).decode
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
    """The bytes of an id's state; those of most ids end before what only accounts and splits need."""
    s = state
    if s.account is None and s.now is None and not (s.apart or s.was or s.asks):
        return _pack((s.version, s.up, s.up_ms, s.below, s.refused, s.refused_last, s.deeper))
    return _pack(s)


IDS: Codec[IdState] = Codec("what is kept of an id", {1: Form(_state, write_id)}, first_element)


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
        case Split(id=id_):
            try:
                next_incarnation(id_)
            except ValueError as exc:
                raise Rejected(Reason.BAD_ID, str(exc), "id") from None
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
    events: Sequence[Arrived],
    ids_max: int,
    out: Outcome,
    by_account: bool = False,
    plain: list[PlainTouch] | None = None,
) -> IdState:
    """What messages, in the order of their offsets, and events make of one id; what they lead to is added to `out`.

    `plain` are events too, in a shorter form. `named` are lower ids that records name together with this one, each with
    the record time. The state is the same object where nothing changed. `ids_max` bounds the ids below one.
    `by_account`: there are no journeys of persons, so that nothing is to be told to their owners.
    """
    for message in messages:
        match message:
            case Offer() | Admit() | Link() if state.now is not None and state.is_after_split(message.at):
                state = _renamed(state, state.now, message, ids_max, out)
            case Link():
                state = _linked(person_id, state, message, out, by_account)
            case Offer():
                state = _offered(person_id, state, message, ids_max, out)
            case Admit():
                state = _admitted(person_id, state, message, ids_max, out)
            case _:
                state = _noted(person_id, state, message, out)
    if state.now is not None:
        for lower, at in named.items():
            state = _renamed(state, state.now, Admit(person_id, lower, at), ids_max, out)
        named = {}
    for lower, at in named.items():
        if lower not in state.below and lower not in state.apart and not _is_refused(state, lower, ids_max):
            out.tell(introduce(person_id, lower, at), at)
    if events or plain:
        _deliver(person_id, state, events, plain, out)
    return state


def _is_refused(state: IdState, lower: str, ids_max: int) -> bool:
    """Whether there is no room, and that is known of this id: then it need not be said with each event again."""
    is_full = state.up is None and state.size >= ids_max
    return is_full and any(lower == known for known, _ in state.refused_last)


def forget_id(forget: ForgetId, state: IdState, out: Outcome) -> None:
    """Tell the owners of all ids that this one is connected with by pointers, and the crediting stage.

    Whatever points to an id stands in its `below`. Whoever was told before passes nothing on, so that it ends. An id
    that was split from its person is connected with the id that it goes on as, and not with what it points to: its
    journey of before is that person's, and stays.
    """
    of, split = forget.id, state.now is not None
    others = [state.now or state.up, state.was, *(() if split else state.below)]
    for other in filter(None, others):
        out.tell(ForgetId(other, forget.request, forget.at, of), forget.at)
    for other in state.before:
        # Those that were sent up point to the person of before.
        out.tell(ForgetId(other, forget.request, forget.at, of, strict=True), forget.at)
    for other in filter(None, [*state.apart, state.up if split else None]):
        out.tell(Unknow(other, of, forget.at), forget.at)
    if not split:
        out.sends.append(Send("moves", *write_move(Forget(forget.id, forget.request)), (), forget.at))
    out.forgotten.append((forget.id, forget.at))


def is_somebody_else(forget: ForgetId, state: IdState) -> bool:
    """Whether the person who is forgotten is not that of this id: it was split from it, or does not point there."""
    if forget.strict:
        return state.up != forget.of
    return state.now is not None and bool(forget.of) and forget.of == state.up


def sever(forget: ForgetId, state: IdState) -> IdState:
    """What is kept of an id when the person that it was split from is forgotten."""
    return replace(state, up=None, up_ms=0) if state.now is not None and state.up == forget.of else state


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


def _linked(person_id: str, state: IdState, link: Link, out: Outcome, by_account: bool) -> IdState:
    if state.up is None:
        if link.up in state.apart:
            return _refused(state, link.up, link.at, out)
        if not by_account:
            out.sends.append(Send("moves", *write_move(Merge(person_id, link.up)), (), link.at))
        out.merged += 1
        if state.account is not None:
            out.tell(Belong(link.up, state.account, state.account_ms), link.at)
        for other in state.apart:
            _tell_apart(link.up, other, link.at, out)
        return replace(state, up=link.up, up_ms=link.at, account=None, account_ms=0)
    _pass_on_news(state.up, link.up, link.at, out)
    return state


def _offered(person_id: str, state: IdState, offer: Offer, ids_max: int, out: Outcome) -> IdState:
    if state.up is not None:
        _pass_on_news(state.up, offer.to, offer.at, out)
    elif state.size < ids_max and offer.to not in state.apart:
        apart = list(state.apart) if state.apart else msgspec.UNSET
        out.tell(Admit(offer.to, person_id, offer.at, state.size, apart), offer.at)
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
    lower, at, apart = admit.lower, admit.at, admit.apart or ()
    if lower in state.below:
        # Its owner was told already, or the owner above was.
        return state
    if lower in state.apart:
        return _refused(state, lower, at, out)
    if state.up is not None:
        out.tell(replace(admit, id=state.up), at)
        # So that it is not sent up with each event again.
        return replace(state, below={**state.below, lower: at}) if len(state.below) < ids_max else state
    # Whoever is apart from one that was just taken in need not have heard of that yet.
    if state.size + 1 + admit.size > ids_max or any(other in state.below for other in apart):
        return _refused(state, lower, at, out)
    for other in apart:
        state = _kept_apart(person_id, state, Apart(person_id, other, at), out)
        out.tell(Apart(other, person_id, at), at)
    out.tell(Link(lower, person_id, at), at)
    out.admitted += 1
    return replace(state, below={**state.below, lower: at}, deeper=state.deeper + admit.size)


def _refused(state: IdState, other: str, at: int, out: Outcome) -> IdState:
    out.refused += 1
    last = [*(each for each in state.refused_last if each[0] != other), (other, at)][-REFUSED_KEPT:]
    return replace(state, refused=state.refused + 1, refused_last=last)


def _renamed(state: IdState, now: str, news: News, ids_max: int, out: Outcome) -> IdState:
    """What is said of an id that was split since is said of the id that it goes on as."""
    other, at = news.lower if isinstance(news, Admit) else news.up if isinstance(news, Link) else news.to, news.at
    if other == now or (isinstance(news, Admit) and other in state.below):
        return state
    if is_higher(now, other):
        out.tell(replace(news, id=now) if isinstance(news, Admit) else introduce(now, other, at), at)
    else:
        out.tell(introduce(other, now, at), at)
    if isinstance(news, Admit) and len(state.below) < ids_max:
        # So that it is not said again with each event.
        return replace(state, below={**state.below, other: at})
    return state


def _noted(person_id: str, state: IdState, note: Belong | Split | Detour | Apart | Unknow, out: Outcome) -> IdState:
    match note:
        case Belong():
            return _belongs(state, note, out)
        case Split():
            return _split(person_id, state, note, out)
        case Detour(up=up):
            return replace(state, asks=True) if state.up == up and not state.asks else state
        case Apart():
            return _kept_apart(person_id, state, note, out)
        case Unknow(other=other):
            return _unknown(state, other)


def _belongs(state: IdState, belong: Belong, out: Outcome) -> IdState:
    up = state.now if state.is_after_split(belong.at) else state.up
    if up is not None:
        out.tell(Belong(up, belong.account_id, belong.at), belong.at)
    elif (belong.at, belong.account_id) > (state.account_ms, state.account or ""):
        return replace(state, account=belong.account_id, account_ms=belong.at)
    return state


def _split(person_id: str, state: IdState, split: Split, out: Outcome) -> IdState:
    """End the pointer. It stays what it is for all that came before, and what comes goes to a new id."""
    if state.now is not None:
        out.tell(Split(state.now, split.at), split.at)
        return state
    if state.up is None:
        return state
    now = next_incarnation(person_id)
    out.split += 1
    out.tell(Apart(now, state.up, split.at, person_id), split.at)
    out.tell(Apart(state.up, now, split.at), split.at)
    for lower in state.below:
        out.tell(Detour(lower, person_id, split.at), split.at)
    return replace(state, now=now, split_ms=split.at, before=state.below, below={})


def _kept_apart(person_id: str, state: IdState, apart: Apart, out: Outcome) -> IdState:
    if apart.was and not state.was:
        state = replace(state, was=apart.was)
    if apart.other in state.apart or apart.other == person_id:
        return state
    if len(state.apart) >= APART_MAX:
        return _refused(state, apart.other, apart.at, out)
    if state.up is not None:
        _tell_apart(state.up, apart.other, apart.at, out)
    return replace(state, apart={**state.apart, apart.other: apart.at})


def _tell_apart(one: str, other: str, at: int, out: Outcome) -> None:
    if one != other:
        out.tell(Apart(one, other, at), at)
        out.tell(Apart(other, one, at), at)


def _unknown(state: IdState, other: str) -> IdState:
    """Without any mention of `other`."""
    return replace(
        state,
        below={id_: at for id_, at in state.below.items() if id_ != other},
        before={id_: at for id_, at in state.before.items() if id_ != other},
        apart={id_: at for id_, at in state.apart.items() if id_ != other},
        refused_last=[each for each in state.refused_last if each[0] != other],
    )


def is_sent_on(state: IdState, arrived: Arrived, out: Outcome) -> bool:
    """Send an event to the id that it belongs to; False where that is this one, or where it has come too far.

    A correction for an id that was split belongs where its conversion is: to the person of before or to that of now.
    """
    event, to = arrived.event, state.up if state.now is None else state.now
    if state.now is not None and event.action in ("restate", "retract"):
        to = state.up if event.found else conversion_key(event.conversion_id)
        if to is None:
            out.dropped.append(arrived)
            return True
    if to is None or event.hops >= HOPS_MAX:
        return False
    out.pass_on(arrived, to, to)
    return True


def _deliver(
    person_id: str, state: IdState, events: Sequence[Arrived], plain: list[PlainTouch] | None, out: Outcome
) -> None:
    """Events come out under the id, or the user above it; where more can be above that, its owner is asked."""
    # Users are seldom merged again, and then the crediting stage sends on what comes: that spares a record for each
    # event of a known visitor. What is below an address mostly has a user above that.
    up = None if state.now is not None or state.asks else state.up
    is_user = up is not None and not up.startswith((EMAIL, ANONYMOUS))
    key = person_id.encode()
    above = up.encode() if up is not None and is_user else key
    # Touches stay in their order. None of these has come over another owner, or is too long to be renamed.
    if plain and (is_user or not state.points) and not any(each.event.kind == "touches" for each in events):
        out.sends.append(Deliveries(above, tail_of(up if up is not None and is_user else person_id), plain))
        out.touches += len(plain)
        plain = None
    rename = renamed(person_id, up) if (events or plain) and up is not None and is_user else None
    for arrived in all_whole(plain or (), events):
        event = arrived.event
        value, to = event.rekeyed, person_id
        if state.points and (state.now is not None or event.hops < HOPS_MAX):
            under_up = rename(event.rekeyed) if rename is not None else None
            if under_up is None:
                if not is_sent_on(state, arrived, out):
                    message = f"passed on {event.hops} times, last to {shorten(person_id)!r}"
                    out.dead.append((arrived, Reason.TOO_MANY_HOPS, message))
                continue
            value, to = under_up, up or person_id
        out.deliver(arrived, key if to is person_id else above, value, to)


def conversion_key(conversion_id: str) -> str:
    """The text whose owner knows whose conversion it is."""
    return f"conversion:{conversion_id}"
