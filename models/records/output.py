"""The record that Touchstream publishes: Credit."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.ids import credit_id

_OF_TOUCH = "of the touch; absent where unknown."


class Credit(BaseModel):
    """One touch's part of one conversion under one attribution model. Key: credit_id.

    The final view of a conversion under an attribution model is the records of its highest revision,
    `set_size` many.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    credit_id: str = Field(
        description="conversion_id|attribution_model|touch_id; | and \\ in an id are escaped with \\."
    )
    conversion_id: str = Field(description="Id of the conversion.")
    conversion_type: str = Field(description="Type of the conversion.")
    person_id: str = Field(description="Person of the conversion.")
    account_id: str | None = Field(None, description="Account of the conversion, if any.")
    attribution_model: str = Field(description="Name of the attribution model in the policy.")
    revision: int = Field(ge=0, description="Rises with each restatement, not always by one; the highest counts.")
    status: Literal["credited", "unattributed", "retracted"] = Field(
        description=("credited; unattributed (no touch in the window) or retracted (taken back): one record each.")
    )
    touch_id: str = Field(description="event_id of the touch; empty unless credited.")
    touch_type: str | None = Field(None, description=f"Type {_OF_TOUCH}")
    channel: str | None = Field(None, description=f"Channel {_OF_TOUCH} (unattributed) where there is no touch.")
    source: str | None = Field(None, description=f"Source {_OF_TOUCH}")
    medium: str | None = Field(None, description=f"Medium {_OF_TOUCH}")
    campaign: str | None = Field(None, description=f"Campaign {_OF_TOUCH}")
    content: str | None = Field(None, description=f"Content {_OF_TOUCH}")
    term: str | None = Field(None, description=f"Term {_OF_TOUCH}")
    touched_at: int | None = Field(None, description="Event time of the touch, epoch milliseconds.")
    converted_at: int = Field(description="Event time of the conversion, epoch milliseconds.")
    position: int = Field(ge=0, description="Place of the touch in the path, from 1; 0 unless credited.")
    path_length: int = Field(ge=0, description="Touches in the path; 0 unless credited.")
    share: float = Field(ge=0, le=1, description="Part of the conversion, 0 to 1.")
    value_micros: int = Field(
        ge=0,
        description=("Part of the value in millionths of the currency unit; where additive, the parts add up exactly."),
    )
    currency: str = Field(pattern="^[A-Z]{3}$", description="ISO 4217 code of both values.")
    path_truncated: bool = Field(description="Whether a bound on touches cut the path.")
    conversion_value_micros: int = Field(ge=0, description="Whole value in millionths of the currency unit.")
    set_size: int = Field(ge=1, description="Number of records of this conversion, attribution model and revision.")
    touch_person_id: str | None = Field(None, description="Whose touch it was, under account journeys.")
    additive: bool = Field(description="False where shares do not add up (participation): keep it out of sums.")
    reason: str = Field(description="Why this share: only, first, last, middle, equal, decay, milestone:<name> …")
    policy_version: str = Field(description="Short hash of the effective attribution policy.")
    weights_version: str | None = Field(None, description="Version of fitted weights; data-driven models only.")

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.credit_id != credit_id(self.conversion_id, self.attribution_model, self.touch_id):
            raise ValueError("credit_id is not made of conversion_id, attribution_model and touch_id")
        if (self.status == "credited") != (self.touch_id != ""):
            raise ValueError("touch_id names a touch exactly where status is credited")
        if not self.position <= self.path_length or (self.position > 0) != (self.status == "credited"):
            raise ValueError("position lies within the path exactly where status is credited")
        return self
