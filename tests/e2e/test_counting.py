"""`touchstream replay` and `run` with filters and with `count = "first"`: the whole way of a record."""

import tomllib
from pathlib import Path

from tests.support import oracle, product, worlds

WORLDS = 12
SEED = 31_000
CONFIG = """
[attribution]
models = ["linear", "last_touch"]
[conversions.order]
count = "first"
[[filters]]
name = "no consent"
drop = "touch"
reason = "consent"
when = [{ field = "properties.consent", equals = "granted", negate = true }]
[[filters]]
name = "test orders"
drop = "conversion"
reason = "test"
[[filters.when]]
field = "person_id"
ends_with = "-P3"
"""
KEPT = {"properties": {"consent": "Granted"}}
DENIED = ({}, {"properties": {"consent": "denied"}}, {"properties": {"other": "granted"}})


def test_a_replay_credits_the_first_of_what_no_filter_drops(tmp_path: Path) -> None:
    """The credits are the oracle's over the records that stay, and no filtered record is a dead letter."""
    drawn = [worlds.draw(SEED + n) for n in range(WORLDS)]
    bare = [t for world in drawn for t in world.touches]
    touches = [{**t, **KEPT} for t in bare]
    conversions = [c for world in drawn for c in world.conversions]
    # Sent first, so that an event_id that was dropped is no duplicate of the touch that is kept.
    denied = [{**t, **DENIED[n % len(DENIED)], "channel": "Display"} for n, t in enumerate(bare[::4])]
    done = product.replay(
        tmp_path, worlds.lines([*denied, *touches]), worlds.lines(conversions), CONFIG,
        "--dead-letters", tmp_path / "dead.ndjson",
    )  # fmt: skip
    kept = [c for c in conversions if not c["person_id"].endswith("-p3")]
    expected = oracle.comparable(oracle.final_view(touches, kept, tomllib.loads(CONFIG)))
    print(f"seeds from {SEED} on")
    assert oracle.comparable(done.rows()) == expected
    assert sum(row["reason"] == "not_first" for row in expected) > 5
    assert len(kept) < len(conversions)
    dead = done.dead_letters.read_text().splitlines()
    assert [line for line in dead if "no-create" not in line] == []
