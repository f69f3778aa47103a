"""Ids: what is the same person id, which of two is the higher, and what an e-mail address becomes."""

import hashlib
import hmac
import itertools
import re

import pytest
from hypothesis import example, given, seed
from hypothesis import strategies as st

from models.identity import (
    Names,
    anonymous_id,
    email_id,
    higher,
    is_higher,
    normalise_email,
    people_of,
    precedence,
    user_id,
)
from models.ids import ID_BYTES_MAX, clean_id
from models.outcome import Reason, Rejected

SEED = 20_261_122
KEY = b"secret"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("bo@example.com", "bo@example.com"),
        ("  Bo@Example.COM\n", "bo@example.com"),
        ("mailto:Bo@example.com", "bo@example.com"),
        ("MailTo: mailto:bo@example.com", "bo@example.com"),
        ("b.o+news@gmail.com", "b.o+news@gmail.com"),
        ("ju\u0308rgen@BU\u0308CHER.de", "jürgen@bücher.de"),
        ('"odd@local"@example.com', '"odd@local"@example.com'),
    ],
)
def test_addresses_of_one_mailbox_are_one(given: str, wanted: str) -> None:
    """White space, case, composition and mailto: make no difference; dots and tags do."""
    assert normalise_email(given) == wanted


@pytest.mark.parametrize("junk", ["null", "n/a", "@", "bo@", "@example.com", "bo @example.com", "a@b c", "mailto:"])
def test_what_is_no_address_is_refused(junk: str) -> None:
    """A placeholder in an e-mail field does not make one person of everybody."""
    with pytest.raises(ValueError, match="not an e-mail address"):
        normalise_email(junk)


@seed(SEED)
@given(st.text(min_size=1), st.text(min_size=1))
@example("İ", "İ.tr")
@example("mailto:mailto:x", "ẞ.de")
def test_normalising_twice_changes_nothing(local: str, domain: str) -> None:
    """What normalise_email gives is what it gives of that again."""
    try:
        once = normalise_email(f"{local}@{domain}")
    except ValueError:
        return
    assert normalise_email(once) == once


def test_an_email_id_is_half_of_its_hmac() -> None:
    """The id is the first 16 bytes of HMAC-SHA256 of the normalised address, in hex, and tells nothing of it."""
    found = email_id(" Bo@Example.com ", KEY)
    wanted = hmac.new(KEY, b"bo@example.com", hashlib.sha256).digest()[:16].hex()
    assert found == f"email:{wanted}"
    assert re.fullmatch("email:[0-9a-f]{32}", found)
    assert email_id("bo@example.com", b"another") != found


def test_ids_that_name_their_kind_are_taken_as_they_are() -> None:
    """A user_id `anonymous:a1` is the anonymous id a1, and `email:…` an e-mail's."""
    assert user_id("anonymous:a1") == anonymous_id("a1")
    assert user_id(email_id("bo@example.com", KEY)) == email_id("bo@example.com", KEY)


def test_users_are_above_emails_are_above_anonymous() -> None:
    """The order is kind first, then the smaller text by its UTF-8 bytes."""
    wanted = ["B", "a", "b", "é", "ｘ", "𐀀", "email:00", "email:0a", "anonymous:A", "anonymous:b"]
    assert sorted(set(wanted), key=precedence) == wanted


@seed(SEED)
@given(st.lists(st.text(min_size=1, max_size=12).filter(str.strip), min_size=2, max_size=6, unique=True))
def test_precedence_is_a_total_order(texts: list[str]) -> None:
    """Of two different ids exactly one is higher, and none is higher than itself."""
    kinds = ["", "email:", "anonymous:"]
    ids = {clean_id(kinds[i % 3] + text) for i, text in enumerate(texts)}
    for a, b in itertools.product(ids, ids):
        assert is_higher(a, b) + is_higher(b, a) == (a != b)
        assert higher(a, b) == higher(b, a)


def test_a_record_s_ids_come_highest_first() -> None:
    """All ids of a record, each once; person_id counts as user_id."""
    email = email_id("bo@example.com", KEY)
    assert people_of(Names("a1", "u1", "Bo@example.com"), KEY) == ("u1", email, "anonymous:a1")
    assert people_of(Names("a1", person_id="u1"), KEY) == ("u1", "anonymous:a1")
    assert people_of(Names("a1", user_id="anonymous:a1"), KEY) == ("anonymous:a1",)
    assert people_of(Names(user_id="u1", person_id="u1"), b"") == ("u1",)
    assert people_of(Names(), b"") == ()


@pytest.mark.parametrize(
    ("names", "key", "reason"),
    [
        (Names(user_id="u1", person_id="u2"), KEY, Reason.BAD_ID),
        (Names(user_id="u1", email="bo@example.com"), b"", Reason.NO_EMAIL_KEY),
        (Names(email="unknown"), KEY, Reason.BAD_ID),
        (Names(anonymous_id="a" * (ID_BYTES_MAX - 9)), KEY, Reason.BAD_ID),
        (Names(user_id="u" * (ID_BYTES_MAX + 1)), KEY, Reason.BAD_ID),
    ],
)
def test_names_that_cannot_be(names: Names, key: bytes, reason: Reason) -> None:
    """Two users in one record, an e-mail without a key, no address, and ids too long to be keys are rejected."""
    with pytest.raises(Rejected) as caught:
        people_of(names, key)
    assert caught.value.reason is reason


def test_a_rejected_address_is_not_told() -> None:
    """Messages go into headers and logs, so they hold no address."""
    with pytest.raises(Rejected) as caught:
        people_of(Names(email="bo smith@example.com"), KEY)
    assert "smith" not in str(caught.value)
