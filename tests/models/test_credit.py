"""Credits as bytes: each is what the public contract calls a Credit, whatever the ids and texts look like."""

import json
import random
from typing import Any

import pytest

from models import credit
from models.credit import Encoder
from models.facts import JourneyTouch
from models.ids import split_credit_id
from models.journey import JourneyConversion
from models.path import Path
from models.policy import Policy
from models.records.output import Credit
from tests.support.drawn import NOW_MS

MODELS = ["first_touch", "last_touch", "linear", "position_based", "time_decay", "participation"]
# Ids and texts that break a JSON or a key put together carelessly.
ODD = (
    "|",
    "\\",
    "\\|",
    "a|b\\c",
    '"',
    "\n",
    "\u2028",
    "läufer",
    "\x7f",
    "😀",
    "a" * 256,
    " ",
    "{}",
    "</script>",
    "\x00",
)


def policy(**attribution: Any) -> Policy:
    return Policy.from_effective({"attribution": {"models": MODELS, **attribution}})


def encoder() -> Encoder:
    of = policy()
    return Encoder(of.models, of.version)


def conversion(**fields: Any) -> JourneyConversion:
    made = JourneyConversion("c", "ada", "order", NOW_MS, NOW_MS, 0, 10_000_001, "EUR", None, "v")
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def touch(event_id: str, age_ms: int = 0, **fields: Any) -> JourneyTouch:
    made = JourneyTouch(None, event_id, NOW_MS - age_ms, 0, "visit", "Email", *[None] * 5)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def rows(sets: Any) -> dict[str, list[dict[str, Any]]]:
    """attribution model → rows; each is read by the public contract, and its key is its credit_id."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in sets:
        for key, value in one.records:
            row = json.loads(value)
            assert Credit.model_validate_json(value).model_dump(exclude_none=True) == row
            assert row["credit_id"].encode() == key
            assert split_credit_id(row["credit_id"]) == (row["conversion_id"], one.attribution_model, row["touch_id"])
            found.setdefault(one.attribution_model, []).append(row)
        assert not one.mismatched
    return found


def test_every_field_of_a_credit() -> None:
    """A full credit carries each field of the contract with the value it was given, and absent ones are absent."""
    full = touch("t", 5, type="click", source="s", medium="m", campaign="k", content="n", term="w", person_id="bob")
    path = Path([full, touch("u")], True)
    found = rows(encoder().credited(conversion(account_id="acme"), path, 7))["linear"]
    assert found[0] == {
        "credit_id": "c|linear|t",
        "conversion_id": "c",
        "conversion_type": "order",
        "person_id": "ada",
        "account_id": "acme",
        "attribution_model": "linear",
        "revision": 7,
        "status": "credited",
        "touch_id": "t",
        "touch_type": "click",
        "channel": "Email",
        "source": "s",
        "medium": "m",
        "campaign": "k",
        "content": "n",
        "term": "w",
        "touched_at": NOW_MS - 5,
        "converted_at": NOW_MS,
        "position": 1,
        "path_length": 2,
        "share": 0.5,
        "value_micros": 5_000_001,
        "currency": "EUR",
        "path_truncated": True,
        "conversion_value_micros": 10_000_001,
        "set_size": 2,
        "touch_person_id": "bob",
        "additive": True,
        "reason": "equal",
        "policy_version": policy().version,
    }
    absent = {"source", "medium", "campaign", "content", "term", "touch_person_id"}
    assert found[1].keys() == found[0].keys() - absent


def test_ids_and_texts_of_any_kind(seed: int) -> None:
    """Bars, backslashes, quotes, controls and long texts come back as they were, in keys and values."""
    rng = random.Random(seed)
    for _ in range(200):
        ids = rng.sample(ODD, 3)
        texts = {name: rng.choice([None, *ODD]) for name in ("source", "medium", "campaign", "content", "term")}
        touches = [touch(i, age_ms, **texts) for age_ms, i in zip((2, 1, 0), ids, strict=True)]
        given = conversion(conversion_id=rng.choice(ODD), person_id=rng.choice(ODD), type=rng.choice(ODD))
        for found in rows(encoder().credited(given, Path(touches, False), 1)).values():
            for row in found:
                assert row["conversion_id"] == given.conversion_id, seed
                assert row["touch_id"] == ids[row["position"] - 1], seed
                assert {n: row.get(n) for n in texts} == texts, seed


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("value", [0, 1, 10_000_001, 999_999_999_999_999_999])
def test_parts_add_up_to_the_value(count: int, value: int) -> None:
    """Sums are exact in micros for every additive attribution model, and `set_size` says how many records there are."""
    path = Path([touch(f"t{i}", (count - i) * 3_600_000) for i in range(count)], False)
    for name, found in rows(encoder().credited(conversion(value_micros=value), path, 1)).items():
        assert {row["set_size"] for row in found} == {len(found)}
        parts = [row["value_micros"] for row in found]
        assert (sum(parts) == value) if found[0]["additive"] else (parts == [value] * count), name
        assert all(row["share"] > 0 for row in found)


def test_unattributed_carries_the_whole_value() -> None:
    """One record per attribution model, without touch, share 1, channel `(unattributed)`."""
    found = rows(encoder().unattributed(conversion(), 3))
    assert found.keys() == set(MODELS)
    for (row,) in found.values():
        assert (row["status"], row["touch_id"], row["share"], row["value_micros"]) == (
            "unattributed",
            "",
            1.0,
            10_000_001,
        )
        assert (row["channel"], row["reason"], row["set_size"]) == ("(unattributed)", "unattributed", 1)
        assert (row["position"], row["path_length"], row["path_truncated"]) == (0, 0, False)


def test_retracted_takes_everything_back() -> None:
    """One record per attribution model, without touch and channel, share and value 0."""
    found = rows(encoder().retracted(conversion(retracted=True), 3))
    assert found.keys() == set(MODELS)
    for (row,) in found.values():
        assert (row["status"], row["touch_id"], row["share"], row["value_micros"]) == ("retracted", "", 0.0, 0)
        assert (row["position"], row["path_length"], "channel" in row, row["reason"]) == (0, 0, False, "retracted")


def test_keys_are_those_that_records_have() -> None:
    """`keys` names the key of every record that a conversion can have, with the empty touch_id first."""
    touches = [touch(i) for i in ("a|b", "c\\")]
    written = {
        name: {row["credit_id"].encode() for row in found}
        for name, found in rows(encoder().credited(conversion(conversion_id="x|"), Path(touches, False), 1)).items()
    }
    for name, keys in encoder().keys("x|", [t.event_id for t in touches]):
        assert written[name] <= set(keys)
        assert keys[0] == f"x\\||{name}|".encode()
        assert len(keys) == 3


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quoted texts and shapes are forgotten beyond their bounds, and credits stay right."""
    monkeypatch.setattr(credit, "QUOTED_MAX", 8)
    monkeypatch.setattr(credit, "SHAPES_MAX", 2)
    writer = encoder()
    for count in range(1, 30):
        path = Path([touch(f"t{i}", count - i, campaign=f"k{count}-{i}") for i in range(count)], False)
        found = rows(writer.credited(conversion(), path, 1))["linear"]
        assert [row["campaign"] for row in found] == [f"k{count}-{i}" for i in range(count)]
        assert {row["share"] for row in found} == {1 / count}
    assert len(credit._quoted) <= 8
    assert len(writer._shapes) <= 2
