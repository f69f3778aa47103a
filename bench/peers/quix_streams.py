"""Quix Streams, exactly-once: the journey as one bytes value a person that is appended to, credits by expansion.

Usage: quix_streams.py BROKER TOUCHES CONVERSIONS OUTPUT GROUP STATE_DIR FORMAT (flat or grouped) COMMIT_SECONDS
Plain bytes in the state spare a decode and an encode of the whole journey for each touch; JSON is orjson's throughout.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

import orjson
from quixstreams import Application, State  # type: ignore[import-not-found]

BROKER, TOUCHES, CONVERSIONS, OUTPUT, GROUP, STATE_DIR, FORMAT, COMMIT = sys.argv[1:]
DAY_MS = 86_400_000
fetched: list[int] = []  # when the first record came, epoch ms


def split(micros: int, shares: Sequence[float]) -> list[int]:
    """Largest remainder, ties to the earlier touch."""
    exact = [micros * s for s in shares]
    parts = [int(x) for x in exact]
    order = sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])
    for i in order[: micros - sum(parts)]:
        parts[i] += 1
    return parts


def weigh(times: Sequence[int], now: int) -> dict[str, list[float]]:
    """Shares of the five attribution models."""
    n = len(times)
    ages = [2 ** ((t - now) / (7 * DAY_MS)) for t in times]
    total = sum(ages)
    middle = [0.4] + [0.2 / (n - 2)] * (n - 2) + [0.4] if n > 2 else [1 / n] * n
    return {
        "first_touch": [1.0] + [0.0] * (n - 1),
        "last_touch": [0.0] * (n - 1) + [1.0],
        "linear": [1 / n] * n,
        "position_based": middle,
        "time_decay": [a / total for a in ages],
    }


def credit(c: dict[str, Any], path: list[list[Any]]) -> list[dict[str, Any]]:
    """All credits of one conversion in the asked-for format."""
    units, _, fraction = c["value"].partition(".")
    micros = int(units) * 1_000_000 + int(fraction.ljust(6, "0"))
    rows = []
    for name, shares in weigh([t[1] for t in path], c["occurred_at"]).items():
        parts = split(micros, shares)
        make = flat if FORMAT == "flat" else grouped
        rows += make(c, path, name, shares, parts, micros)
    return rows


def grouped(
    c: dict[str, Any], path: list[list[Any]], name: str, shares: list[float], parts: list[int], micros: int
) -> list[dict[str, Any]]:
    """One record an attribution model."""
    credits = [
        {"touch_id": t[0], "channel": t[2], "campaign": t[5], "share": s, "value_micros": v}
        for t, s, v in zip(path, shares, parts, strict=True)
        if s
    ]
    head = {"conversion_id": c["conversion_id"], "attribution_model": name, "person_id": c["person_id"]}
    return [head | {"currency": c["currency"], "conversion_value_micros": micros, "credits": credits}]


def flat(
    c: dict[str, Any], path: list[list[Any]], name: str, shares: list[float], parts: list[int], micros: int
) -> list[dict[str, Any]]:
    """One record a touch, with the fields of Touchstream's credit."""
    size = sum(1 for s in shares if s)
    return [
        {
            "credit_id": f"{c['conversion_id']}|{name}|{t[0]}",
            "conversion_id": c["conversion_id"],
            "conversion_type": c["type"],
            "person_id": c["person_id"],
            "attribution_model": name,
            "revision": 1,
            "status": "credited",
            "touch_id": t[0],
            "touch_type": "visit",
            "channel": t[2],
            "source": t[3],
            "medium": t[4],
            "campaign": t[5],
            "content": t[6],
            "touched_at": t[1],
            "converted_at": c["occurred_at"],
            "position": i,
            "path_length": len(path),
            "share": s,
            "value_micros": v,
            "currency": c["currency"],
            "conversion_value_micros": micros,
            "set_size": size,
            "path_truncated": False,
            "additive": True,
            "reason": "credited",
            "policy_version": "00000000",
        }
        for i, (t, s, v) in enumerate(zip(path, shares, parts, strict=True), start=1)
        if s
    ]


def step(event: dict[str, Any], state: State) -> list[dict[str, Any]]:
    """A touch goes into the journey; a conversion reads it and gives credits."""
    if not fetched:
        fetched.append(int(time.time() * 1000))
        print("first-fetch", fetched[0], flush=True)
    journey = state.get_bytes("j", b"")
    if "conversion_id" not in event:
        names = ("event_id", "occurred_at", "channel", "source", "medium", "campaign", "content")
        state.set_bytes("j", journey + orjson.dumps([event[n] for n in names]) + b",")
        return []
    now = event["occurred_at"]
    touches = orjson.loads(b"[" + journey[:-1] + b"]")
    path = [t for t in touches if now - 30 * DAY_MS <= t[1] <= now]
    path.sort(key=lambda t: (t[1], t[0]))
    return credit(event, path) if path else []


def main() -> None:
    """Run until killed."""
    app = Application(
        broker_address=BROKER,
        consumer_group=GROUP,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=float(COMMIT),
        state_dir=STATE_DIR,
        loglevel="WARNING",
        producer_extra_config={"compression.type": "lz4", "linger.ms": 20, "batch.size": 262_144},
        consumer_extra_config={"fetch.message.max.bytes": 4 << 20, "check.crcs": False},
    )
    touches = app.dataframe(app.topic(TOUCHES, value_deserializer="json"))
    conversions = app.dataframe(app.topic(CONVERSIONS, value_deserializer="json"))
    output = app.topic(OUTPUT, value_serializer="json")
    touches.concat(conversions).apply(step, stateful=True, expand=True).to_topic(output)
    app.run()


if __name__ == "__main__":
    main()
