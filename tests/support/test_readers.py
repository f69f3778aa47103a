"""The readers on handmade lists."""

import json
from typing import Any

import pytest

from tests.support.readers import (
    Read,
    append_only_view,
    dead_letter,
    hosts,
    repeated,
    upsert_view,
)


def credit(offset: int, touch: str, revision: int, *, partition: int = 0, size: int = 1, **fields: Any) -> Read:
    row = {
        "credit_id": f"c|linear|{touch}",
        "conversion_id": "c",
        "attribution_model": "linear",
        "position": 1,
        "revision": revision,
        "set_size": size,
        **fields,
    }
    return Read(partition, offset, 0, row["credit_id"].encode(), json.dumps(row).encode())


def tombstone(offset: int, touch: str, partition: int = 0) -> Read:
    return Read(partition, offset, 0, f"c|linear|{touch}".encode(), None)


RESTATED = [
    credit(0, "a", 2, size=2),
    credit(1, "b", 2, size=2, position=2),
    credit(3, "b", 7),
    tombstone(4, "a"),
]


def test_both_readers_end_with_the_same_rows() -> None:
    """After a restatement that drops a touch, both views hold the newest set alone."""
    rows = append_only_view(RESTATED)
    assert rows == upsert_view(RESTATED)
    assert [(r["credit_id"], r["revision"]) for r in rows] == [("c|linear|b", 7)]


def test_append_only_does_not_depend_on_the_order_of_arrival() -> None:
    """An older revision that is read later changes nothing."""
    assert append_only_view(reversed(RESTATED)) == append_only_view(RESTATED)


def test_without_its_tombstone_the_upsert_reader_differs() -> None:
    """The comparison of the two readers notices a missing tombstone."""
    assert upsert_view(RESTATED[:3]) != append_only_view(RESTATED[:3])


def test_an_incomplete_set_is_an_error() -> None:
    """A set with fewer records than its set_size, or a record twice, is no set."""
    with pytest.raises(ValueError, match="set_size 2"):
        append_only_view([credit(0, "a", 1, size=2)])
    with pytest.raises(ValueError, match="2 records, set_size 1"):
        append_only_view([credit(0, "a", 1), credit(1, "a", 1)])


def test_keys_must_be_the_credit_and_stay_in_their_partition() -> None:
    """The upsert reader refuses a key in two partitions, a foreign key and no key."""
    with pytest.raises(ValueError, match="partitions 0 and 1"):
        upsert_view([credit(0, "a", 1), credit(0, "a", 2, partition=1)])
    with pytest.raises(ValueError, match="on credit"):
        upsert_view([credit(0, "a", 1)._replace(key=b"other")])
    with pytest.raises(ValueError, match="without a key"):
        upsert_view([credit(0, "a", 1)._replace(key=None)])


def test_a_repeated_revision_is_found() -> None:
    """The same key at the same revision twice is what exactly-once forbids."""
    assert repeated([*RESTATED, credit(9, "b", 7)]) == [(b"c|linear|b", 7)]
    assert repeated(RESTATED) == []


def test_a_dead_letter_comes_apart() -> None:
    """Original headers, even repeated or null ones, are kept apart from those that were added."""
    own = (("trace", b"1"), ("trace", None))
    added = (
        ("__connect.errors.topic", b"p.touches"),
        ("__connect.errors.partition", b"3"),
        ("__connect.errors.offset", b"17"),
        ("touchstream-reason", b"bad-money"),
    )
    letter = dead_letter(Read(0, 0, 0, None, b"x", own + added))
    assert (letter.topic, letter.partition, letter.offset) == ("p.touches", 3, 17)
    assert (letter.reason, letter.key, letter.value, letter.headers) == ("bad-money", None, b"x", own)
    with pytest.raises(KeyError):
        dead_letter(Read(0, 0, 0, None, b"x", added[:3]))
    with pytest.raises(KeyError):
        dead_letter(Read(0, 0, 0, None, b"x", own))


def test_broker_urls_become_hosts() -> None:
    """Several kafka URLs are a list of hosts for librdkafka."""
    assert hosts("kafka://a:9092;kafka://b:9093") == "a:9092,b:9093"
