"""The records that producers write: Touch, Conversion, Identify, Cost.

Validated values stand as they are written out again: times are integer epoch milliseconds, money is a
`Decimal` that dumps as text, text is trimmed and in NFC, blank optional text is None. So
`model_dump_json(exclude_none=True)` of a valid record is a valid record.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.outcome import Reason
from models.records.fields import (
    Date,
    Id,
    Money,
    OptionalAction,
    OptionalCurrency,
    OptionalId,
    OptionalMoney,
    OptionalText,
    Text,
    Time,
    WholeText,
    refusal,
)

_PERSON = "Whose journey this belongs to; equal to the record's key."
_ACCOUNT = "The account of the person, for journeys by account; the key under account journeys."
_CURRENCY = "ISO 4217 code in upper case; default from the settings."
_OCCURRED = "When it happened (event time): RFC 3339 with an offset, or epoch milliseconds."


def _some_id_required(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [{"required": [name]} for name in ("anonymous_id", "user_id", "email")]


class _Input(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Touch(_Input):
    """A marketing contact of a person. Key: person_id."""

    event_id: Id = Field(description="Id of this touch; the first record with it counts, later ones are duplicates.")
    person_id: Id = Field(description=_PERSON)
    occurred_at: Time = Field(description=_OCCURRED)
    type: OptionalText = Field(None, description="Kind of touch, such as visit, click or impression; default visit.")
    channel: OptionalText = Field(
        None,
        description="Channel; derived from click ids, utm parameters, source, medium and referrer if absent.",
    )
    source: OptionalText = Field(None, description="Origin, such as google (utm_source); compared without case.")
    medium: OptionalText = Field(None, description="Kind of origin, such as cpc (utm_medium); compared without case.")
    campaign: OptionalText = Field(None, description="Campaign (utm_campaign).")
    content: OptionalText = Field(None, description="Variant of the advertisement (utm_content).")
    term: OptionalText = Field(None, description="Search term (utm_term).")
    url: OptionalText = Field(None, description="Address of the landing page, with its utm parameters and click ids.")
    referrer: OptionalText = Field(None, description="Address of the page that led here.")
    account_id: OptionalId = Field(None, description=_ACCOUNT)
    cost: OptionalMoney = Field(None, description="Cost of this touch in units of the currency, such as 0.35.")
    currency: OptionalCurrency = Field(None, description=_CURRENCY)
    properties: dict[WholeText, WholeText] | None = Field(None, description="Anything else: flat, text to text.")


class Conversion(_Input):
    """An event that earns credit, or its correction. Key: person_id."""

    conversion_id: Id = Field(description="Id of the order or opportunity; a correction names it again.")
    person_id: Id = Field(description=_PERSON)
    occurred_at: Time = Field(description=_OCCURRED + " Of a correction: when the correction was made.")
    type: OptionalText = Field(None, description="Kind of conversion, such as order or lead; default conversion.")
    value: OptionalMoney = Field(
        None,
        description="Value in units of the currency, such as 19.99; default 0, on a restate the old value.",
    )
    currency: OptionalCurrency = Field(None, description=_CURRENCY + " On a restate: default the old one.")
    account_id: OptionalId = Field(None, description=_ACCOUNT)
    action: OptionalAction = Field(
        None,
        description="create (default), restate (new value or currency) or retract (cancelled or refunded).",
    )
    event_id: OptionalId = Field(None, description="Id of this record; default conversion_id plus action.")


class Identify(_Input):
    """That several ids are one person's, at least one of them given. Key: canonical text of all ids."""

    model_config = ConfigDict(json_schema_extra=_some_id_required)

    anonymous_id: OptionalId = Field(None, description="Id of a browser or device before anyone logged in.")
    user_id: OptionalId = Field(None, description="Id of a user who logged in.")
    email: OptionalId = Field(None, description="E-mail address; only its hash is kept.")
    account_id: OptionalId = Field(None, description="The account of the person.")
    occurred_at: Time = Field(description=_OCCURRED)

    @model_validator(mode="after")
    def _names_someone(self) -> Self:
        if self.anonymous_id is None and self.user_id is None and self.email is None:
            raise refusal(Reason.MISSING_FIELD, "at least one of anonymous_id, user_id and email")
        return self


class Cost(_Input):
    """What a campaign cost on a day. Key: campaign, channel, date and currency joined by `|`."""

    campaign: Text = Field(description="Campaign, as touches name it.")
    channel: OptionalText = Field(None, description="Channel, as touches name it; absent: all channels.")
    date: Date = Field(description="The day, such as 2025-03-31.")
    amount: Money = Field(description="Cost of the day in units of the currency, such as 120.50.")
    currency: OptionalCurrency = Field(None, description=_CURRENCY)
