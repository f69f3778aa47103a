"""What the core knows of the outside: touches and conversions as slotted structs.

The decoders of `models.events` fill these straight from the record's bytes, so the field names on the wire are
given by `name=`. `record_ms` and `offset` come from the record's envelope and are always overwritten after decoding,
whatever a payload may say. Times are epoch milliseconds, money is in millionths of the currency unit.
"""

from typing import Literal

import msgspec

Action = Literal["create", "restate", "retract"]


class Touch(msgspec.Struct, gc=False):
    """A marketing contact, validated and normalised: the first of its `event_id` counts."""

    event_id: str
    person_id: str
    occurred_ms: int
    type: str = "visit"
    channel: str = ""
    source: str | None = None
    medium: str | None = None
    campaign: str | None = None
    content: str | None = None
    term: str | None = None
    account_id: str | None = None
    record_ms: int = 0


class Conversion(msgspec.Struct, gc=False):
    """A conversion record of any action; `value_micros` and `currency` are None where the record names none."""

    conversion_id: str
    person_id: str
    occurred_ms: int
    type: str = "conversion"
    value_micros: int | None = None
    currency: str | None = None
    account_id: str | None = None
    action: Action = "create"
    event_id: str | None = None
    record_ms: int = 0
    offset: int = 0


class JourneyTouch(msgspec.Struct, gc=False, array_like=True):
    """A touch as a journey keeps it: what credits show and what eligibility needs, nothing else.

    `lag_ms` is record time minus event time (small numbers take fewer bytes than two full times).
    `person_id` is kept under account journeys only.
    """

    mark: None
    event_id: str
    occurred_ms: int
    lag_ms: int
    type: str
    channel: str
    source: str | None
    medium: str | None
    campaign: str | None
    content: str | None
    term: str | None
    person_id: str | None = None

    @property
    def record_ms(self) -> int:
        """Record time of the touch, epoch milliseconds."""
        return self.occurred_ms + self.lag_ms
