"""The quick reading of touches and conversions: their JSON as msgspec structs, and what msgspec leaves to do.

Only `models.events` uses this. Everything here may refuse a valid record (the public contract then reads it
again), but must never let an invalid one pass.
"""

from typing import Annotated

from msgspec import Meta, MsgspecError, Raw, Struct
from msgspec.json import Decoder

from models.facts import Action
from models.ids import ID_BYTES_MAX, clean_id
from models.money_text import parse_money
from models.records.reading import NESTING_MAX, RECORD_BYTES_MAX
from models.text import clean_text

# In ASCII, characters are bytes; and whatever is longer in characters is longer in bytes.
_Id = Annotated[str, Meta(min_length=1, max_length=ID_BYTES_MAX)]
NO_MONEY = Raw(b"")

# n levels of nesting take 2 n bytes, so shorter records need no count.
SHALLOW_BYTES = 2 * NESTING_MAX
# Searching a byte takes 15 ns, a text of two 200 ns. Without a backslash a text is what its bytes say; if it
# is ASCII too, the only white space that can stand at its ends is the space: JSON allows no raw control
# characters.
BACKSLASH, SPACE = b"\\ "

# What the quick reading gives up with. ValueError is also bad UTF-8, and an integer of thousands of digits.
REFUSALS = (MsgspecError, ValueError)


class TouchJson(Struct, gc=False):
    """A touch as its JSON has it; `cost` stays text until it is parsed."""

    event_id: _Id
    person_id: _Id
    occurred_at: int | str
    type: str | None = None
    channel: str | None = None
    source: str | None = None
    medium: str | None = None
    campaign: str | None = None
    content: str | None = None
    term: str | None = None
    url: str | None = None
    referrer: str | None = None
    account_id: str | None = None
    cost: Raw = NO_MONEY
    currency: str | None = None
    properties: dict[str, str] | None = None


class ConversionJson(Struct, gc=False):
    """A conversion as its JSON has it; `value` stays text until it is parsed."""

    conversion_id: _Id
    person_id: _Id
    occurred_at: int | str
    type: str | None = None
    value: Raw = NO_MONEY
    currency: str | None = None
    account_id: str | None = None
    action: Action | None = None
    event_id: str | None = None


touch_json = Decoder(TouchJson).decode
conversion_json = Decoder(ConversionJson).decode


def refuse_large_or_deep(value: bytes) -> None:
    """Raises ValueError for records of a size or depth that only the contract may judge."""
    if len(value) > RECORD_BYTES_MAX or value.count(b"[") + value.count(b"{") > NESTING_MAX:
        raise ValueError("large or deep")


def money(raw: Raw) -> int:
    """Micros of money in JSON, as text or as a number; ValueError where it is anything else."""
    text = str(raw, "ascii")
    return parse_money(text[1:-1] if text[0] == '"' else text)


def strip_touch(t: TouchJson) -> None:
    """Trim the texts of a touch in ASCII; straight-line code, for all producers that write `", "`."""
    t.event_id = _strip_id(t.event_id)
    t.person_id = _strip_id(t.person_id)
    t.account_id = _clean_optional_id(t.account_id)
    t.type = t.type and t.type.strip()
    t.channel = t.channel and t.channel.strip()
    t.source = t.source and t.source.strip()
    t.medium = t.medium and t.medium.strip()
    t.campaign = t.campaign and t.campaign.strip()
    t.content = t.content and t.content.strip()
    t.term = t.term and t.term.strip()
    t.url = t.url and t.url.strip()
    t.referrer = t.referrer and t.referrer.strip()
    t.currency = t.currency and t.currency.strip()


def clean_touch(t: TouchJson) -> None:
    """Check the ids of a touch in bytes, then trim and compose (NFC) all its texts."""
    t.event_id = clean_id(t.event_id)
    t.person_id = clean_id(t.person_id)
    t.account_id = _clean_optional_id(t.account_id)
    t.type = t.type and clean_text(t.type)
    t.channel = t.channel and clean_text(t.channel)
    t.source = t.source and clean_text(t.source)
    t.medium = t.medium and clean_text(t.medium)
    t.campaign = t.campaign and clean_text(t.campaign)
    t.content = t.content and clean_text(t.content)
    t.term = t.term and clean_text(t.term)
    t.url = t.url and clean_text(t.url)
    t.referrer = t.referrer and clean_text(t.referrer)
    t.currency = t.currency and clean_text(t.currency)


def clean_conversion(c: ConversionJson) -> None:
    """Check the ids of a conversion in bytes, then trim and compose (NFC) all its texts."""
    c.conversion_id = clean_id(c.conversion_id)
    c.person_id = clean_id(c.person_id)
    c.account_id = _clean_optional_id(c.account_id)
    c.event_id = _clean_optional_id(c.event_id)
    c.type = c.type and clean_text(c.type)
    c.currency = c.currency and clean_text(c.currency)


def _strip_id(text: str) -> str:
    text = text.strip()
    if not text:
        raise ValueError("blank id")
    return text


def _clean_optional_id(text: str | None) -> str | None:
    return clean_id(text) if text and clean_text(text) else None
