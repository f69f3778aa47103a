"""Raw records: touches and conversions that say whose they are by any id, and Identify records.

As in `models.events`, msgspec reads first and the public contract (`RawTouch`, `RawConversion`) judges what it refuses.
What comes out is the same record under one `person_id` in place of its ids: money and times keep the digits that the
producer wrote, texts are trimmed, and fields that the contract does not know are gone. What passes here, the crediting
stage takes: `tests/models` prove it.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from models.currencies import CURRENCIES
from models.events import decode_identify
from models.facts import Action
from models.identity import Names, people_of
from models.ids import ID_BYTES_MAX, clean_id
from models.outcome import Reason, Rejected
from models.records.raw import IDS, RawConversion, RawTouch
from models.records.reading import RECORD_BYTES_MAX, read_record
from models.times import AHEAD_MAX_MS, EARLIEST_MS, parse_time
from models.wire import (
    BACKSLASH,
    NO_MONEY,
    REFUSALS,
    SHALLOW_BYTES,
    SPACE,
    ConversionJson,
    TouchJson,
    clean_conversion,
    clean_touch,
    money,
    refuse_large_or_deep,
)

Kind = Literal["touches", "conversions"]
Header = tuple[str, bytes | None]

# Headers of records on their way between owners; nobody else writes them, and they never leave the stage.
HOPS, PERSON, FOUND = "touchstream-hops", "touchstream-person", "touchstream-found"
# Stands for the person while a record that names none is checked.
NOBODY = "?"


class PlainTouch(Protocol):
    """A valid raw touch without headers that names one id, as the compiled part makes it of most records.

    `timestamp`: record time, epoch ms; `person`: that id as a person id; `value` and `key` are the record's.
    """

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def person(self) -> str: ...
    @property
    def value(self) -> bytes: ...
    @property
    def key(self) -> bytes | None: ...


_encode = msgspec.json.Encoder().encode
_PERSON = b'"person_id":'


class _RawTouchJson(TouchJson, omit_defaults=True, kw_only=True, gc=False):
    """A raw touch as its JSON has it; written out again once its ids are None and its person is there."""

    person_id: str | None = None  # type: ignore[assignment]
    anonymous_id: str | None = None
    user_id: str | None = None
    email: str | None = None


class _RawConversionJson(ConversionJson, omit_defaults=True, kw_only=True, gc=False):
    """As `_RawTouchJson`."""

    person_id: str | None = None  # type: ignore[assignment]
    anonymous_id: str | None = None
    user_id: str | None = None
    email: str | None = None


class _IdentifyJson(msgspec.Struct, gc=False):
    """An Identify as its JSON has it."""

    occurred_at: int | str
    anonymous_id: str | None = None
    user_id: str | None = None
    email: str | None = None
    account_id: str | None = None


_identify = msgspec.json.Decoder(_IdentifyJson).decode
_raw_touch = msgspec.json.Decoder(_RawTouchJson).decode
_raw_conversion = msgspec.json.Decoder(_RawConversionJson).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class RawEvent(msgspec.Struct, omit_defaults=True, gc=False):
    """A raw touch or conversion that is valid.

    `ids` are the person ids that it names, highest first; none for a correction that names nobody. `person` is to whom
    it goes: the highest of them, or whom an earlier owner sent it to; None where that has yet to be found out.
    `rekeyed` is the JSON for the crediting stage under that person. `conversion_id` and `action` are empty for touches.
    `account_id` is what the record itself says. `found`: a correction that was sent on by whoever knows its conversion.
    """

    kind: Kind
    ids: tuple[str, ...]
    person: str | None
    rekeyed: bytes
    hops: int
    conversion_id: str = ""
    action: Action | Literal[""] = ""
    account_id: str | None = None
    found: bool = False


class Route(NamedTuple):
    """What a record's headers say of its way so far."""

    hops: int = 0
    person: str | None = None
    found: bool = False


def decode_raw(
    kind: Kind, value: bytes | None, headers: Sequence[Header], record_ms: int, email_key: bytes
) -> RawEvent:
    """The event in a raw Kafka value; Rejected where it breaks the contract. record_ms: record time, epoch ms.

    An empty `email_key` rejects records that name an e-mail address.
    """
    route = route_of(headers) if headers else Route()
    if value is not None:
        try:
            return _quick(kind, value, route, record_ms, email_key)
        except (*REFUSALS, Rejected):
            pass
    return _by_contract(kind, value, route, record_ms, email_key)


def decode_people(value: bytes | None, record_ms: int, email_key: bytes) -> tuple[str, ...]:
    """The person ids of an Identify record, highest first; errors and units as in `decode_raw`."""
    if value is not None:
        try:
            return _quick_people(value, record_ms, email_key)
        except (*REFUSALS, Rejected):
            pass
    identify = decode_identify(value, record_ms)
    return people_of(Names(identify.anonymous_id, identify.user_id, identify.email), email_key)


def route_of(headers: Sequence[Header]) -> Route:
    """How far a record has come, and to whom it was sent; Rejected where that is no id."""
    hops, person, found = 0, None, False
    for name, content in headers:
        if name == HOPS and content is not None and content.isdigit() and len(content) < 6:
            hops = int(content)
        elif name == PERSON and content is not None:
            person = _sent_to(content)
        elif name == FOUND:
            found = True
    return Route(hops, person, found)


def own_headers(headers: Sequence[Header]) -> list[Header]:
    """The headers that the record's producer wrote."""
    return [header for header in headers if header[0] not in (HOPS, PERSON, FOUND)]


def event_of(touch: PlainTouch) -> RawEvent:
    """A `PlainTouch` as every other raw event."""
    return decode_raw("touches", touch.value, (), touch.timestamp, b"")


def tail_of(person: str) -> bytes:
    """What ends the JSON of a `PlainTouch` for the crediting stage where it belongs to this person."""
    return b"%s%s}" % (_PERSON, _encode(person))


def renamed(person: str, other: str) -> Callable[[bytes], bytes | None]:
    """Makes the JSON of a raw event for the crediting stage one of another person; None where that is not so simple."""
    before, after = _PERSON + _encode(person), _PERSON + _encode(other)
    longest = RECORD_BYTES_MAX - len(after)

    def rename(rekeyed: bytes) -> bytes | None:
        # In a JSON text a quote that is not escaped can only end this name, but properties may have it too.
        head, found, rest = rekeyed.partition(before)
        if not found or len(rekeyed) > longest or _PERSON in rest or _PERSON in head:
            return None
        return head + after + rest

    return rename


def _sent_to(content: bytes) -> str:
    try:
        person = content.decode()
        if clean_id(person) == person:
            return person
    except ValueError:
        pass
    raise Rejected(Reason.BAD_ID, f"expected the header {PERSON} to be a person id; leave it to Touchstream")


def _quick(kind: Kind, value: bytes, route: Route, record_ms: int, email_key: bytes) -> RawEvent:
    """The event of a valid record; raises one of REFUSALS or Rejected where there is any doubt."""
    is_odd, is_plain = _kind_of_text(value)
    j = _raw_touch(value) if kind == "touches" else _raw_conversion(value)
    ids = people_of(_names(Names(j.anonymous_id, j.user_id, j.email, j.person_id), is_odd, is_plain), email_key)
    person = route.person or (ids[0] if ids else None)
    j.person_id = person or NOBODY
    j.anonymous_id = j.user_id = j.email = None
    conversion_id: str = ""
    action: Action | Literal[""] = ""
    if isinstance(j, _RawTouchJson):
        if not ids:
            raise ValueError("a touch of nobody")
        if is_odd:
            clean_touch(j)
        elif not is_plain:
            # The crediting stage trims the rest.
            j.event_id, j.currency = _strip(j.event_id), j.currency and j.currency.strip()
            if not j.event_id:
                raise ValueError("blank event_id")
        amount = j.cost
    else:
        if not is_plain:
            clean_conversion(j)
        conversion_id, action, amount = j.conversion_id, j.action or "create", j.value
        if not ids and action == "create":
            raise ValueError("a conversion of nobody")
        if j.event_id and len(j.event_id) > ID_BYTES_MAX:
            raise ValueError("event_id too long")
    _prove(j, amount, record_ms)
    account_id = j.account_id
    if account_id:
        # As it is a key under account journeys, it is written as the crediting stage compares it.
        j.account_id = account_id = None if account_id.isspace() else clean_id(account_id)
    return RawEvent(kind, ids, person, _rekeyed(j), route.hops, conversion_id, action, account_id or None, route.found)


def _quick_people(value: bytes, record_ms: int, email_key: bytes) -> tuple[str, ...]:
    """The ids of a valid Identify; raises one of REFUSALS or Rejected where there is any doubt."""
    is_odd, is_plain = _kind_of_text(value)
    j = _identify(value)
    ids = people_of(_names(Names(j.anonymous_id, j.user_id, j.email), is_odd, is_plain), email_key)
    at = j.occurred_at
    occurred_ms = parse_time(at) if isinstance(at, str) else at
    if not ids or not EARLIEST_MS <= occurred_ms <= record_ms + AHEAD_MAX_MS:
        raise ValueError("nobody, or time out of range")
    if j.account_id and not j.account_id.isspace():
        clean_id(j.account_id)
    return ids


def _kind_of_text(value: bytes) -> tuple[bool, bool]:
    """Whether texts may need more than stripping, and whether they need nothing at all; ValueError for bad UTF-8."""
    if len(value) > SHALLOW_BYTES:
        refuse_large_or_deep(value)
    is_ascii = value.isascii()
    if not is_ascii:
        value.decode()  # msgspec leaves the bytes of unknown fields unread
    is_odd = not is_ascii or BACKSLASH in value
    return is_odd, not is_odd and SPACE not in value


def _names(given: Names, is_odd: bool, is_plain: bool) -> Names:
    if is_plain:
        return given
    trim = clean_id if is_odd else _strip
    return Names(*[trim(name) if name and not name.isspace() else None for name in given])


def _prove(j: _RawTouchJson | _RawConversionJson, amount: msgspec.Raw, record_ms: int) -> None:
    """Raises ValueError where time, money, currency or account may not be what the contract allows."""
    at = j.occurred_at
    occurred_ms = parse_time(at) if isinstance(at, str) else at
    if not EARLIEST_MS <= occurred_ms <= record_ms + AHEAD_MAX_MS:
        raise ValueError("time out of range")
    if amount is not NO_MONEY:
        money(amount)
    if j.currency and j.currency not in CURRENCIES:
        raise ValueError("unknown currency")
    if j.account_id and len(j.account_id) > ID_BYTES_MAX:
        raise ValueError("account_id too long")


def _strip(name: str) -> str:
    """As `clean_id`, of ASCII; blank where it is."""
    if len(name) > ID_BYTES_MAX:
        raise ValueError("id longer than 256 bytes")
    return name.strip()


def _by_contract(kind: Kind, value: bytes | None, route: Route, record_ms: int, email_key: bytes) -> RawEvent:
    """As `decode_raw`, by the public contract alone; some ten times slower."""
    form: type[RawTouch] | type[RawConversion] = RawTouch if kind == "touches" else RawConversion
    record = read_record(form, value, record_ms)
    ids = people_of(Names(record.anonymous_id, record.user_id, record.email, record.person_id), email_key)
    person = route.person or (ids[0] if ids else None)
    fields = {"person_id": person or NOBODY, **record.model_dump(mode="json", exclude_none=True, exclude=set(IDS))}
    rekeyed = _rekeyed(fields)
    if isinstance(record, RawConversion):
        conversion_id, action = record.conversion_id, record.action or "create"
        return RawEvent(kind, ids, person, rekeyed, route.hops, conversion_id, action, record.account_id, route.found)
    return RawEvent(kind, ids, person, rekeyed, route.hops, account_id=record.account_id)


def of_account(rekeyed: bytes, person_id: str, account_id: str) -> bytes:
    """The JSON of an event under its person and account; Rejected where that is too large."""
    fields = _fields(rekeyed)
    fields |= {"person_id": _raw_text(person_id), "account_id": _raw_text(account_id)}
    return _rekeyed(fields)


def _raw_text(text: str) -> msgspec.Raw:
    return msgspec.Raw(_encode(text))


def _rekeyed(fields: object) -> bytes:
    rekeyed = _encode(fields)
    if len(rekeyed) > RECORD_BYTES_MAX:
        message = f"expected at most {RECORD_BYTES_MAX} bytes under the person's id, found {len(rekeyed)}"
        raise Rejected(Reason.TOO_LARGE, message)
    return rekeyed
