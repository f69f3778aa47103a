"""Policies for seeded worlds, as `tomllib` would read them."""

import random
from typing import Any

from tests.support.oracle import duration_ms

Policy = dict[str, Any]

MODELS = (
    *("first_touch", "last_touch", "last_non_direct", "linear", "position_based", "time_decay"),
    *("j_shaped", "inverse_j", "participation"),
)


def draw(rng: random.Random) -> Policy:
    """A policy of journeys of persons, under which late, corrected and merged records come often to the edge."""
    attribution: Policy = {
        "models": rng.sample(MODELS, rng.choice((1, 2, 2, 3))),
        "lookback": rng.choice(("3d", "14d", "14d", "30d")),
        "allowed_lateness": rng.choice(("0s", "1d", "3d", "7d", "20d")),
        "corrections": rng.choice(("2d", "5d", "15d", "30d", "90d")),
        "touch_reuse": rng.choice(("reuse", "reset_after_conversion")),
    }
    if rng.random() < 0.3:
        attribution["direct"] = "ignore_unless_alone"
    if rng.random() < 0.2:
        attribution["exclude_channels"] = ["EMAIL"]
    if rng.random() < 0.3:
        attribution["repeats"] = rng.choice(("collapse_adjacent", "first_of_channel", "last_of_channel"))
        attribution["repeats_by"] = rng.choice(("channel", "campaign"))
    if rng.random() < 0.2:
        attribution["max_touches"] = rng.choice((1, 2, 4))
    if rng.random() < 0.2:
        attribution["short_path"] = "split_middle"
    if rng.random() < 0.2:
        attribution["lookback_by_touch_type"] = {"impression": "1d", "click": "20d"}
    types: Policy = {}
    if rng.random() < 0.3:
        types["order"] = {"value": "10.01"}
    if rng.random() < 0.3:
        types["lead"] = {"credited": False, "milestone": "lead"}
    settle = rng.choice(("0s", "20ms", "250ms"))
    return {"attribution": attribution, "conversions": types, "processing": {"settle": settle}}


def times_ms(policy: Policy) -> tuple[int, int, int]:
    """allowed_lateness, corrections, and how long a conversion is kept at least, in milliseconds."""
    settings = policy["attribution"]
    lateness_ms, corrections_ms = duration_ms(settings["allowed_lateness"]), duration_ms(settings["corrections"])
    return lateness_ms, corrections_ms, max(corrections_ms, duration_ms(settings["lookback"]) + lateness_ms)
