"""The way of a record into the core: its bytes become a validated fact, or `Rejected`.

`decode_touch` and `decode_conversion` are the hot path. msgspec reads first; whatever it or a cheap check
refuses is read again by the public contract in `models.records`, and that verdict counts. So the quick way
may refuse too much (which costs time only), but never accept what the contract refuses, nor give other
values: `tests/models` prove it. `read_touch` and `read_conversion` are the contract alone.
"""

from models.channel import enrich
from models.currencies import CURRENCIES
from models.facts import Conversion, Touch
from models.ids import ID_BYTES_MAX
from models.money_text import parse_money
from models.records.inputs import Conversion as ConversionRecord
from models.records.inputs import Cost, Identify
from models.records.inputs import Touch as TouchRecord
from models.records.reading import read_record
from models.times import AHEAD_MAX_MS, EARLIEST_MS, parse_time
from models.wire import (
    BACKSLASH,
    NO_MONEY,
    REFUSALS,
    SHALLOW_BYTES,
    SPACE,
    clean_conversion,
    clean_touch,
    conversion_json,
    money,
    refuse_large_or_deep,
    strip_touch,
    touch_json,
)


def decode_touch(value: bytes | None, record_ms: int) -> Touch:
    """The touch in a Kafka value; Rejected where it breaks the contract. record_ms: record time, epoch ms."""
    if value is not None:
        try:
            return _quick_touch(value, record_ms)
        except REFUSALS:
            pass
    return read_touch(value, record_ms)


def decode_conversion(value: bytes | None, record_ms: int) -> Conversion:
    """The conversion or correction in a Kafka value; Rejected where it breaks the contract.

    record_ms: record time, epoch ms. The offset is the caller's to set.
    """
    if value is not None:
        try:
            return _quick_conversion(value, record_ms)
        except REFUSALS:
            pass
    return read_conversion(value, record_ms)


def decode_identify(value: bytes | None, record_ms: int) -> Identify:
    """The Identify in a Kafka value; errors and units as in `decode_touch`."""
    return read_record(Identify, value, record_ms)


def decode_cost(value: bytes | None, record_ms: int) -> Cost:
    """The Cost in a Kafka value; errors and units as in `decode_touch`."""
    return read_record(Cost, value, record_ms)


def read_touch(value: bytes | None, record_ms: int) -> Touch:
    """As `decode_touch`, by the public contract alone; some ten times slower."""
    r = read_record(TouchRecord, value, record_ms)
    touch = Touch(
        event_id=r.event_id,
        person_id=r.person_id,
        occurred_ms=r.occurred_at,
        type=r.type or "visit",
        channel=r.channel or "",
        source=r.source,
        medium=r.medium,
        campaign=r.campaign,
        content=r.content,
        term=r.term,
        account_id=r.account_id,
        record_ms=record_ms,
    )
    if not touch.channel or (r.url and _adds(r.url, touch)):
        _fill_in(touch, r.url, r.referrer)
    return touch


def read_conversion(value: bytes | None, record_ms: int) -> Conversion:
    """As `decode_conversion`, by the public contract alone; some six times slower."""
    r = read_record(ConversionRecord, value, record_ms)
    return Conversion(
        conversion_id=r.conversion_id,
        person_id=r.person_id,
        occurred_ms=r.occurred_at,
        type=r.type or "conversion",
        value_micros=None if r.value is None else parse_money(format(r.value, "f")),
        currency=r.currency,
        account_id=r.account_id,
        action=r.action or "create",
        event_id=r.event_id,
        record_ms=record_ms,
    )


def _quick_touch(value: bytes, record_ms: int) -> Touch:
    """The touch of a valid record; raises one of REFUSALS where there is any doubt."""
    if len(value) > SHALLOW_BYTES:
        refuse_large_or_deep(value)
    if not value.isascii():
        value.decode()  # msgspec leaves the bytes of unknown fields unread
        t = touch_json(value)
        clean_touch(t)
    else:
        t = touch_json(value)
        if BACKSLASH in value:
            clean_touch(t)
        elif SPACE in value:
            strip_touch(t)
    given = t.occurred_at
    occurred_ms = parse_time(given) if isinstance(given, str) else given
    if not EARLIEST_MS <= occurred_ms <= record_ms + AHEAD_MAX_MS:
        raise ValueError("time out of range")
    if t.cost is not NO_MONEY:
        money(t.cost)
    if t.currency and t.currency not in CURRENCIES:
        raise ValueError("unknown currency")
    account_id = t.account_id
    if account_id and len(account_id) > ID_BYTES_MAX:
        raise ValueError("account_id too long")
    touch = Touch(  # by position: names would cost 16 ns more
        t.event_id,
        t.person_id,
        occurred_ms,
        t.type or "visit",
        t.channel or "",
        t.source or None,
        t.medium or None,
        t.campaign or None,
        t.content or None,
        t.term or None,
        account_id or None,
        record_ms,
    )
    url = t.url
    if not touch.channel or (url and "utm_" in url and _adds(url, touch)):
        _fill_in(touch, url or None, t.referrer or None)
    return touch


def _quick_conversion(value: bytes, record_ms: int) -> Conversion:
    """The conversion of a valid record; raises one of REFUSALS where there is any doubt."""
    if len(value) > SHALLOW_BYTES:
        refuse_large_or_deep(value)
    if not value.isascii():
        value.decode()
    c = conversion_json(value)
    if BACKSLASH in value or SPACE in value or not value.isascii():
        clean_conversion(c)
    given = c.occurred_at
    occurred_ms = parse_time(given) if isinstance(given, str) else given
    if not EARLIEST_MS <= occurred_ms <= record_ms + AHEAD_MAX_MS:
        raise ValueError("time out of range")
    if c.currency and c.currency not in CURRENCIES:
        raise ValueError("unknown currency")
    account_id, event_id = c.account_id, c.event_id
    if (account_id and len(account_id) > ID_BYTES_MAX) or (event_id and len(event_id) > ID_BYTES_MAX):
        raise ValueError("id too long")
    return Conversion(
        c.conversion_id,
        c.person_id,
        occurred_ms,
        c.type or "conversion",
        None if c.value is NO_MONEY else money(c.value),
        c.currency or None,
        account_id or None,
        c.action or "create",
        event_id or None,
        record_ms,
    )


def _fill_in(touch: Touch, url: str | None, referrer: str | None) -> None:
    """Derive the channel where it is absent, and take from the url what the record leaves out."""
    touch.channel, touch.source, touch.medium, touch.campaign, touch.content, touch.term, _ = enrich(
        touch.channel or None,
        touch.source,
        touch.medium,
        touch.campaign,
        touch.content,
        touch.term,
        url,
        referrer,
    )


def _adds(url: str, touch: Touch) -> bool:
    return (
        (touch.source is None and "utm_source=" in url)
        or (touch.medium is None and "utm_medium=" in url)
        or (touch.campaign is None and "utm_campaign=" in url)
        or (touch.content is None and "utm_content=" in url)
        or (touch.term is None and "utm_term=" in url)
    )
