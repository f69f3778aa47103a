"""Who is who: person ids, which of two is the higher, and e-mail addresses that nobody can read back.

Every id is one text, the person id, which is also the Kafka key and so decides who owns it:

    user_id "u1"          u1
    e-mail "Bo@Ex.com"    email:<32 hex digits>     HMAC-SHA256 of the address under a secret, its first 16 bytes
    anonymous_id "a1"     anonymous:a1

A user_id that itself begins with `email:` or `anonymous:` is taken as that id, as it is. So the text alone tells the
kind, and the kind and the text tell the precedence: user over e-mail over anonymous, then the smaller text.
"""

import hmac
import unicodedata
from typing import NamedTuple

from models.ids import ID_BYTES_MAX, clean_id
from models.outcome import Reason, Rejected
from models.text import clean_text

EMAIL, ANONYMOUS = "email:", "anonymous:"
# Half of SHA-256: a billion addresses meet by chance once in 10^20 such sets, and ids stay short.
EMAIL_HASH_BYTES = 16
MAILTO = "mailto:"


class Names(NamedTuple):
    """The ids that a record gives, trimmed and in NFC; None where absent or blank."""

    anonymous_id: str | None = None
    user_id: str | None = None
    email: str | None = None
    person_id: str | None = None


def normalise_email(text: str) -> str:
    """The address as it is hashed: trimmed, without `mailto:`, in lower case, in NFC; ValueError where it is none.

    Nothing else is folded. Dots and `+tags` are different mailboxes at most providers, and which provider ignores them
    is nothing that ids may depend on; a domain stays as it is written, so `bücher.de` and `xn--bcher-kva.de` differ.
    The part before the @ is case-sensitive by RFC 5321, and in no mailbox of note.
    """
    address = clean_text(text)
    while address[: len(MAILTO)].lower() == MAILTO:
        address = address[len(MAILTO) :].strip()
    address = unicodedata.normalize("NFC", address.lower())
    local, at, domain = address.rpartition("@")
    if not (local and at and domain) or any(character.isspace() for character in address):
        # What stands in an e-mail field by mistake (`null`, `n/a`) would make one person of everybody.
        raise ValueError("not an e-mail address")
    return address


def email_id(address: str, key: bytes) -> str:
    """The person id of an e-mail address; ValueError where it is none. `key` is the secret `identity.email_key`."""
    digest = hmac.digest(key, normalise_email(address).encode(), "sha256")
    return EMAIL + digest[:EMAIL_HASH_BYTES].hex()


def anonymous_id(text: str) -> str:
    """The person id of an anonymous id; ValueError where blank or too long to be a person id."""
    return clean_id(ANONYMOUS + clean_id(text))


def user_id(text: str) -> str:
    """The person id of a user id, which is that text; ValueError where blank or longer than 256 bytes."""
    return clean_id(text)


def precedence(person_id: str) -> tuple[int, bytes]:
    """What ids are sorted by: the smaller, the higher; total, as no two ids have the same."""
    return _kind(person_id), person_id.encode()


def _kind(person_id: str) -> int:
    return 2 if person_id.startswith(ANONYMOUS) else 1 if person_id.startswith(EMAIL) else 0


def higher(a: str, b: str) -> str:
    """The one of two ids that the other is merged into."""
    return min(a, b, key=precedence)


def is_higher(a: str, b: str) -> bool:
    """Whether `b` may point to `a`; False for an id and itself."""
    # As `precedence` says, without making its tuples: texts are sorted as their bytes in UTF-8 are.
    kind_a, kind_b = _kind(a), _kind(b)
    return a < b if kind_a == kind_b else kind_a < kind_b


def people_of(names: Names, email_key: bytes) -> tuple[str, ...]:
    """The person ids that a record names, highest first, each once; empty where it names none.

    Rejected where an id is none, where user_id and person_id differ, or for an e-mail without a key.
    """
    anonymous, user, email, person = names
    if person and user and person != user:
        raise Rejected(Reason.BAD_ID, "expected the same id as user_id (they say the same)", "person_id")
    user = user or person
    found: list[str] = []
    if user:
        found.append(_bounded("user_id", user, ID_BYTES_MAX))
    if email:
        found.append(_hashed(email, email_key))
    if anonymous:
        found.append(ANONYMOUS + _bounded("anonymous_id", anonymous, ID_BYTES_MAX - len(ANONYMOUS)))
    if user and len(found) > 1 and user.startswith((EMAIL, ANONYMOUS)):
        # All others stand in their order already.
        return tuple(sorted(set(found), key=precedence))
    return tuple(found)


def _bounded(field: str, text: str, longest: int) -> str:
    if len(text) > longest or (not text.isascii() and len(text.encode()) > longest):
        raise Rejected(Reason.BAD_ID, f"expected an id of at most {longest} bytes, found a longer one", field)
    return text


def _hashed(address: str, key: bytes) -> str:
    if not key:
        raise Rejected(Reason.NO_EMAIL_KEY, "found an e-mail address, but identity.email_key is not set", "email")
    try:
        return email_id(address, key)
    except ValueError as error:
        # The address itself is not repeated: messages end in logs and headers.
        raise Rejected(Reason.BAD_ID, f"expected an e-mail address: {error}", "email") from None
