"""Raw touches and conversions as producers write them: they say whose they are by any id."""

from typing import Any, Self

from pydantic import ConfigDict, Field, model_validator

from models.outcome import Reason
from models.records.fields import OptionalId, refusal
from models.records.inputs import Conversion, Touch

IDS = ("anonymous_id", "user_id", "email", "person_id")

_SAME = "Counts as user_id; the two may not differ."
_ANONYMOUS = "Id of a browser or device before anyone logged in."
_EMAIL = "E-mail address; only its keyed hash is kept."


def _some_id_required(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [{"required": [name]} for name in IDS]


def _refuse_nameless(record: "RawTouch | RawConversion") -> None:
    if not (record.anonymous_id or record.user_id or record.email or record.person_id):
        raise refusal(Reason.MISSING_FIELD, "at least one of anonymous_id, user_id, email and person_id")


class RawTouch(Touch):
    """A touch of whoever its ids say. Key: any."""

    model_config = ConfigDict(json_schema_extra=_some_id_required)

    person_id: OptionalId = Field(None, description=_SAME)  # type: ignore[assignment]
    anonymous_id: OptionalId = Field(None, description=_ANONYMOUS)
    user_id: OptionalId = Field(None, description="Id of a user who logged in.")
    email: OptionalId = Field(None, description=_EMAIL)

    @model_validator(mode="after")
    def _names_someone(self) -> Self:
        _refuse_nameless(self)
        return self


class RawConversion(Conversion):
    """A conversion of whoever its ids say, or its correction, which may name nobody. Key: any."""

    person_id: OptionalId = Field(None, description=_SAME)  # type: ignore[assignment]
    anonymous_id: OptionalId = Field(None, description=_ANONYMOUS)
    user_id: OptionalId = Field(None, description="Id of a user who logged in.")
    email: OptionalId = Field(None, description=_EMAIL)

    @model_validator(mode="after")
    def _names_someone(self) -> Self:
        if self.action not in ("restate", "retract"):
            _refuse_nameless(self)
        return self
