"""A wrong link taken back, as its users see it."""

import json
from pathlib import Path
from typing import Any

from tests.e2e.test_identity import CONFIG, MINUTE_MS, START_MS, Live, running
from tests.support import product


def test_an_id_is_split_from_a_person(tmp_path: Path) -> None:
    """What the id brought to the person stays; what comes later is somebody else's, who can be forgotten alone."""
    with running(tmp_path, CONFIG) as live:
        live.send("raw-touches", {**_at(0), "event_id": "ad", "anonymous_id": "a", "channel": "Display"})
        live.send("identities", {**_at(0), "anonymous_id": "a", "user_id": "bo"})
        live.settle()
        live.send("raw-conversions", {**_at(1), "conversion_id": "first", "user_id": "bo", "value": "10"})
        live.settle()
        assert _said(live, "split", "anonymous:a") == {
            "person_id": "anonymous:a",
            "former": "bo",
            "now": "anonymous:a~2",
            "done": True,
        }
        live.send("raw-touches", {**_at(2), "event_id": "later", "anonymous_id": "a", "channel": "Email"})
        live.send("identities", {**_at(3), "anonymous_id": "a", "user_id": "bo"})
        live.settle()
        live.send("raw-conversions", {**_at(4), "conversion_id": "second", "anonymous_id": "a", "value": "5"})
        live.send("raw-conversions", {**_at(4), "conversion_id": "third", "user_id": "bo", "value": "7"})
        live.settle()
        assert _shown(live) == {
            "first": ("bo", ["ad"], 10_000_000),
            "second": ("anonymous:a~2", ["later"], 5_000_000),
            "third": ("bo", ["ad"], 7_000_000),
        }
        _check_shown(live)
        forgotten = product.touchstream("forget", "anonymous:a", *live.where)
        assert forgotten.code == 0, forgotten.said()
        live.settle()
        assert _shown(live) == {
            "first": ("bo", ["ad"], 10_000_000),
            "second": ("(forgotten)", ["later"], 5_000_000),
            "third": ("bo", ["ad"], 7_000_000),
        }


def _check_shown(live: Live) -> None:
    of_bo, of_a = _said(live, "show", "bo"), _said(live, "show", "anonymous:a")
    assert [each["id"] for each in of_bo["ids"]] == ["bo"]
    assert of_bo["ids"][0]["apart"] == ["anonymous:a~2"]
    assert of_a["person_id"] == "anonymous:a~2"
    assert {each["id"]: each["up"] for each in of_a["ids"]} == {"anonymous:a~2": None, "anonymous:a": "anonymous:a~2"}
    text = product.touchstream("identity", "show", "anonymous:a", *live.where)
    assert "anonymous:a~2 was split, and is not to be linked with: bo" in text.stdout
    for given, code in (("anonymous:a", "T252"), ("bo", "T252"), ("nobody", "T246")):
        refused = product.touchstream("identity", "split", given, *live.where)
        assert refused.code == 1
        assert code in refused.stderr


def _at(minutes: int) -> dict[str, int]:
    return {"occurred_at": START_MS + minutes * MINUTE_MS}


def _said(live: Live, *command: str) -> dict[str, Any]:
    done = product.touchstream("identity", *command, "--json", *live.where)
    assert done.code == 0, done.said()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _shown(live: Live) -> dict[str, tuple[str, list[str], int]]:
    """By conversion: whose it is, its touches, and its value under one attribution model."""
    return {
        name: (rows[0]["person_id"], [row["touch_id"] for row in rows], sum(row["value_micros"] for row in rows))
        for (name, attribution_model), rows in live.rows().items()
        if attribution_model == "linear"
    }
