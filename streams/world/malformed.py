"""Records that cannot be used, one of every kind that producers really send; each ends as one dead letter."""

from random import Random
from typing import NamedTuple

from msgspec.json import encode

KINDS = (
    "broken-json", "torn-pair", "missing-field", "wrong-type", "nan", "huge-number", "unknown-currency", "year-1970",
    "year-9999", "bad-utf8", "null-value", "null-key", "other-key", "too-large",
)  # fmt: skip
# The largest kind is one in this many of its like: 1 MiB weighs as much as five thousand good records.
TOO_LARGE_ONE_IN = 20
RECORD_BYTES_MAX = 1024 * 1024


class Bad(NamedTuple):
    """A record that must end as a dead letter."""

    kind: str
    topic_kind: str
    key: bytes | None
    value: bytes | None


def malformed(rng: Random, event_id: str, person_id: str, at_ms: int) -> list[Bad]:
    """One bad record of a drawn kind, or two where one torn in half is sent as two."""
    kind = rng.choice(KINDS)
    if kind == "too-large" and rng.randrange(TOO_LARGE_ONE_IN):
        kind = "broken-json"
    return spoil(kind, event_id, person_id, at_ms)


def spoil(kind: str, event_id: str, person_id: str, at_ms: int) -> list[Bad]:
    """The records of this kind (one of KINDS), otherwise as good as can be."""
    key = person_id.encode()
    touch = {"event_id": event_id, "person_id": person_id, "occurred_at": at_ms, "channel": "Email"}
    whole = encode(touch)
    value: bytes | None
    match kind:
        case "broken-json":
            value = whole[:-1]
        case "torn-pair":
            return [Bad(kind, "touches", key, half) for half in (whole[:40], whole[40:])]
        case "missing-field":
            value = encode({"event_id": event_id, "occurred_at": at_ms, "channel": "Email"})
        case "wrong-type":
            value = encode({**touch, "event_id": 12345})
        case "nan" | "huge-number":
            number = b"NaN" if kind == "nan" else b"1e308"
            return [Bad(kind, "conversions", key, _sale(event_id, person_id, at_ms, number, b"USD"))]
        case "unknown-currency":
            return [Bad(kind, "conversions", key, _sale(event_id, person_id, at_ms, b'"9.99"', b"XXQ"))]
        case "year-1970" | "year-9999":
            value = encode({**touch, "occurred_at": "1970-01-01T00:00:00Z" if kind == "year-1970" else 253402300799000})
        case "bad-utf8":
            value = whole.replace(b"Email", b"Em\xffil")
        case "too-large":
            value = encode({**touch, "content": "x" * RECORD_BYTES_MAX})
        case "null-value":
            value = None
        case "null-key":
            key, value = None, whole  # type: ignore[assignment]
        case _:
            key, value = b"somebody-else", whole
    return [Bad(kind, "touches", key, value)]


def _sale(event_id: str, person_id: str, at_ms: int, value: bytes, currency: bytes) -> bytes:
    """A conversion with a raw value, as no JSON library would write it."""
    fields = {"conversion_id": event_id, "person_id": person_id, "occurred_at": at_ms}
    return encode(fields)[:-1] + b',"value":' + value + b',"currency":"' + currency + b'"}'
