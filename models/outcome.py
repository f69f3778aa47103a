"""What becomes of a record that cannot be used: a reason from one enum, and the exception that carries it.

Exception
└── Rejected      this record can never be used; it goes to the dead letters, and processing goes on
"""

from enum import StrEnum

# Longer finds are cut in messages: they travel in Kafka headers and logs, and may be a whole record.
FOUND_CHARS_MAX = 80


class Reason(StrEnum):
    """Why a record is a dead letter: the code in its `touchstream-reason` header.

    Codes never change their meaning. `explanation` says what happened and how to fix it, for `touchstream
    dead-letters` and the documentation.
    """

    explanation: str

    def __new__(cls, code: str, explanation: str = "") -> "Reason":
        """A member whose value is the code alone."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.explanation = explanation
        return member

    NULL_VALUE = (
        "null-value",
        "The record has no value (a tombstone). Input topics hold facts: take one back with a `retract`.",
    )
    NULL_KEY = (
        "null-key",
        "The record has no key, so it has no order. Produce it with person_id as the key.",
    )
    KEY_MISMATCH = (
        "key-mismatch",
        "The key is not the record's person_id (account_id under account journeys) as UTF-8, trimmed and in "
        "NFC. "
        "Set both from the same variable.",
    )
    TOO_LARGE = (
        "too-large",
        "The value is larger than 1 MiB. Leave out what attribution does not read.",
    )
    BAD_UTF8 = (
        "bad-utf8",
        "The bytes are not UTF-8, or a text holds half of a surrogate pair. Encode the record as UTF-8.",
    )
    INVALID_JSON = (
        "invalid-json",
        "The bytes are not JSON (RFC 8259; NaN and Infinity are not), or nest deeper than 256. "
        "Write the record with a JSON library.",
    )
    MISSING_FIELD = (
        "missing-field",
        "A required field is absent, null or blank. Fill it at the producer.",
    )
    WRONG_TYPE = (
        "wrong-type",
        "A field, or the record itself, has another JSON type than its schema says. See `docs/schemas/`.",
    )
    BAD_ID = (
        "bad-id",
        "An id is blank or longer than 256 bytes of UTF-8. Send a shorter one, for example a hash.",
    )
    BAD_TIME = (
        "bad-time",
        "A time is neither RFC 3339 with an offset nor integer epoch milliseconds, or lies before "
        "2000-01-01 or more "
        "than 48 h after the record time. Check the unit (milliseconds, not seconds) and the producer's "
        "clock.",
    )
    BAD_MONEY = (
        "bad-money",
        "Money is not a plain decimal such as 19.99: no sign, no exponent, at most 12 digits before the "
        "point and 6 "
        "after it. Send it as text; take value back with a `retract` instead of a negative one.",
    )
    UNKNOWN_CURRENCY = (
        "unknown-currency",
        "The currency is no active ISO 4217 code in upper case. Send one, or none to use the default.",
    )
    BAD_ACTION = (
        "bad-action",
        "The action of a conversion is not create, restate or retract. Leave it out for a new conversion.",
    )
    NO_CREATE = (
        "no-create",
        "A restate or retract waited for its conversion for the whole `corrections` period, and it never "
        "came. "
        "Check the conversion_id, or send the create first.",
    )
    CORRECTION_TOO_LATE = (
        "correction-too-late",
        "A restate or retract came later after its conversion than `corrections` allows. "
        "Raise `corrections`, or replay under a new prefix.",
    )
    TOO_MANY_CONVERSIONS = (
        "too-many-conversions",
        "The journey already holds as many open conversions as it may. This is rarely one person: check "
        "whether "
        "person_id is a placeholder.",
    )
    TOO_MUCH_OUTPUT = (
        "too-much-output",
        "This one record would publish more credits than fit into one transaction. "
        "Lower `max_touches`, or credit fewer attribution models.",
    )
    NO_EMAIL_KEY = (
        "no-email-key",
        "The record names an e-mail address, and there is no secret to hash it with. Set `identity.email_key` once, "
        "keep it, and retry the dead letters.",
    )
    NO_ACCOUNT = (
        "no-account",
        "Journeys are kept by account, and neither the record nor an Identify of its person names one. Send account_id "
        "with either, and retry it.",
    )
    TOO_MANY_HOPS = (
        "too-many-hops",
        "The record was passed on from partition to partition and never reached the owner of its id. Check that all "
        "input topics have the same number of partitions, and retry it.",
    )
    BAD_MERGE = (
        "bad-merge",
        "The record would merge an id into itself or into a lower one. Only Touchstream writes such records: look for "
        "another producer on that topic.",
    )


class Rejected(Exception):
    """A record that breaks the contract, so that no retry can help.

    `field` is the dotted name of the field at fault, None where it is the whole record; `message` says what
    was expected and what was found.
    """

    def __init__(self, reason: Reason, message: str, field: str | None = None) -> None:
        super().__init__(message if field is None else f"{field}: {message}")
        self.reason = reason
        self.field = field
        self.message = message


def shorten(text: str) -> str:
    """The text cut to what a message may show."""
    return text if len(text) <= FOUND_CHARS_MAX else text[: FOUND_CHARS_MAX - 1] + "…"
