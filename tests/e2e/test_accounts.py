"""Journeys by account behind the identity stage: several contacts, known by any id, in one journey."""

import json
import random
from pathlib import Path
from typing import Any

from tests.e2e.test_identity import Live, running
from tests.support import oracle, product, worlds

CONFIG = """
[attribution]
models = ["linear", "first_touch", "participation"]
journey = "account"
"""
POLICY = {"attribution": {"models": ["linear", "first_touch", "participation"], "journey": "account"}}
WORLDS = 10
FIRST_SEED = 7_000


def test_people_of_accounts_are_credited_as_by_the_oracle(tmp_path: Path) -> None:
    """Records that name an anonymous id or a user and no account are credited as if they had named person and account:
    corrections find their conversion, and each credit names the contact whose touch it was."""
    rng = random.Random(FIRST_SEED)
    print(f"seeds from {FIRST_SEED} on")
    drawn = [worlds.draw(FIRST_SEED + n, accounts=True) for n in range(WORLDS)]
    # Raw records have no order between partitions, so that none may be sent twice with another content.
    touches = _first([t for world in drawn for t in world.touches], ("event_id",))
    conversions = _first([c for world in drawn for c in world.conversions], ("conversion_id", "action"))
    people = {r["person_id"]: r["account_id"] for r in (*touches, *conversions)}
    identities = tmp_path / "identities.ndjson"
    identities.write_text("".join(f"{json.dumps(each)}\n" for each in _identities(people)))
    raw = [[worlds.line(_raw(rng, record)) for record in records] for records in (touches, conversions)]
    done = product.replay(tmp_path, *raw, CONFIG, "--identities", identities)
    got = _comparable(done.rows())
    expected = _comparable(oracle.final_view(touches, conversions, POLICY))
    assert [r["credit_id"] for r in got] == [r["credit_id"] for r in expected]
    for one, other in zip(got, expected, strict=True):
        assert one == other
    assert {r["touch_person_id"] for r in got if r.get("touch_person_id")} <= people.keys()


def test_who_was_unknown_is_credited_once_the_account_is(tmp_path: Path) -> None:
    """A visit waits until somebody says who it was, then counts for the account's conversion; journey, explain and
    forget go by the account, and a correction that names nobody finds its conversion."""
    with running(tmp_path, CONFIG.replace(', "first_touch", "participation"', "") + "[web]\nport = 0\n") as live:
        at = worlds.START_MS
        live.send("raw-touches", {"event_id": "ad", "anonymous_id": "a", "occurred_at": at, "channel": "Display"})
        eve = {"user_id": "eve", "account_id": "acme", "occurred_at": at + 1}
        live.send("raw-touches", {**eve, "event_id": "mail", "channel": "Email"})
        live.settle()
        ana = {"user_id": "ana", "account_id": "acme", "occurred_at": at + 2}
        live.send("raw-conversions", {**ana, "conversion_id": "deal", "value": "10"})
        live.settle()
        assert _touches(live) == [("mail", "eve", 10_000_000)]
        live.send("identities", {"anonymous_id": "a", "user_id": "ana", "account_id": "acme", "occurred_at": at})
        live.settle()
        assert _touches(live) == [("ad", "ana", 5_000_000), ("mail", "eve", 5_000_000)]
        for command in (("journey", "acme"), ("explain", "deal")):
            shown = product.touchstream(*command, *live.where, "--json")
            assert shown.code == 0, shown.said()
            assert json.loads(shown.stdout)["journey"]["key"] == "acme"
            assert json.loads(shown.stdout)["journey"]["touches"] == 2
        assert json.loads(shown.stdout)["matches_published"] is True
        refund = {"conversion_id": "deal", "action": "restate", "value": "4", "occurred_at": at + 3}
        live.send("raw-conversions", refund)
        live.settle()
        assert _touches(live) == [("ad", "ana", 2_000_000), ("mail", "eve", 2_000_000)]
        forgotten = product.touchstream("forget", "acme", *live.where)
        assert forgotten.code == 0, forgotten.said()
        live.settle()
        assert _touches(live) == [("ad", None, 2_000_000), ("mail", None, 2_000_000)]


def test_a_replay_says_whose_account_nobody_named(tmp_path: Path) -> None:
    """Events that wait for an account at the end are dead letters with their own bytes, as are corrections."""
    touch = '{"event_id":"t","anonymous_id":"a","occurred_at":1714564800000,"channel":"Email"}'
    refund = '{"conversion_id":"c","user_id":"u","action":"retract","occurred_at":1714564800000}'
    dead = tmp_path / "dead.ndjson"
    done = product.replay(tmp_path, [touch], [refund], CONFIG, "--dead-letters", dead)
    assert done.rows() == []
    letters = {letter["reason"]: letter for letter in map(json.loads, dead.read_text().splitlines())}
    assert letters.keys() == {"no-account", "no-create"}
    assert (letters["no-account"]["value"], letters["no-create"]["value"]) == (touch, refund)


def _touches(live: Live) -> list[tuple[str, str | None, int]]:
    rows = live.rows()["deal", "linear"]
    assert {row["person_id"] for row in rows} <= {"ana", "(forgotten)"}
    return [(row["touch_id"], row.get("touch_person_id"), row["value_micros"]) for row in rows]


def _first(records: list[dict[str, Any]], fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """The first of those that say the same of these fields."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in records:
        found.setdefault(tuple(record.get(name) for name in fields), record)
    return list(found.values())


def _identities(people: dict[str, str]) -> list[dict[str, Any]]:
    at = worlds.START_MS
    links = [{"anonymous_id": f"of-{person}", "user_id": person, "occurred_at": at} for person in people]
    return links + [{"anonymous_id": f"of-{p}", "account_id": a, "occurred_at": at} for p, a in people.items()]


def _raw(rng: random.Random, record: dict[str, Any]) -> dict[str, Any]:
    """The record as somebody sends it who does not know the account, and mostly not the person."""
    person, kept = record["person_id"], {k: v for k, v in record.items() if k not in ("person_id", "account_id")}
    given: list[dict[str, str]] = [{"user_id": person}, {"anonymous_id": f"of-{person}"}, {"person_id": person}]
    if record.get("action"):
        given.append({})
    return {**kept, **rng.choice(given)}


def _comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return oracle.comparable(rows, without=(*oracle.NOT_THE_ORACLES, "reason"))
