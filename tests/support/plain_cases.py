"""Seeded records and journeys for the compiled part: mostly plain, with everything beside them that is not."""

import json
import random
from copy import copy
from dataclasses import dataclass, field

from faust.types import TP

from models.attribution.time_decay import TimeDecayTable
from models.crediting import Event
from models.durations import DAY_MS
from models.facts import Conversion, Touch
from models.journey import JourneyConversion, JourneyState, buckets, frame, frame_with_person, write_state
from models.policy import AttributionTable, ConversionTable, Policy, compile_policy
from models.rules import Rules
from models.times import format_time
from state.store import Writes
from streams.compiled import CompiledOutput
from streams.deciding import Decided, Deciding
from streams.decode import TakenTouch
from streams.native import Native
from streams.plain import PlainCredits
from streams.publish import BATCH_BYTES, BatchedOutput
from streams.report import BatchReport
from tests.support.fakes import LogRecord

NOW_MS = 1_790_000_000_000
TEXTS = ("a", "google", "x" * 31, "x" * 32, "x" * 255, "x" * 256, "a b", "\x7f", "[{", "utm_source=", "https://x/?a=1")
ODD_TEXTS = (
    "",
    " ",
    " x",
    "x ",
    "é",
    "e\u0301",
    'q"q',
    "back\\slash",
    "|",
    "\\|",
    "tab\tx",
    "\u2028",
    "😀",
    "x" * 70_000,
)
MODELS = (
    *("first_touch", "last_touch", "last_non_direct", "linear", "position_based", "time_decay"),
    *("j_shaped", "inverse_j", "participation"),
)
IDS = ("u1", "u2", "anonymous:a", "email:b", "p" * 200, "a b", "x@example.com")
NAMES = ("type", "source", "medium", "campaign", "content", "term", "url", "referrer", "account_id", "unknown")


# Leap days that are and are not, edges of the calendar, and what is nearly a time.
ODD_TIMES = (
    "2026-01-01T00:00:00Z",
    "2024-02-29T23:59:59.999Z",
    "2000-02-29T00:00:00Z",
    "2000-03-01T00:00:00Z",
    "2000-12-31T23:59:59Z",
    "2025-02-29T00:00:00Z",
    "2100-02-29T00:00:00Z",
    "2026-04-31T00:00:00Z",
    "2026-00-10T00:00:00Z",
    "2026-13-10T00:00:00Z",
    "2026-01-00T00:00:00Z",
    "2026-01-01T24:00:00Z",
    "2026-01-01T23:60:00Z",
    "2026-01-01T23:59:60Z",
    "1969-12-31T23:59:59Z",
    "1970-01-01T00:00:00Z",
    "1999-12-31T23:59:59.999Z",
    "2000-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "0000-01-01T00:00:00Z",
    "2026-01-01T00:00:00",
    "2026-01-01T00:00:00.Z",
    "2026-01-01T00:00:00z",
    "2026-01-01 00:00:00Z",
    "2026-1-01T00:00:00Z",
    "2026-01-01T00:00:00Z ",
)


def touch_records(rng: random.Random, count: int) -> list[LogRecord]:
    """Records of the touches topic: valid ones, odd ones, broken ones, some under a wrong key."""
    return [_record(rng, offset) for offset in range(count)]


def raw_touch_records(rng: random.Random, count: int) -> list[LogRecord]:
    """The same for the raw topic: mostly one id of one kind, now and then more or none, and some with headers."""
    return [_raw_record(rng, _record(rng, offset)) for offset in range(count)]


def _raw_record(rng: random.Random, record: LogRecord) -> LogRecord:
    ids: dict[str, object] = {}
    for _ in range(rng.choice((0, 1, 1, 1, 1, 1, 1, 1, 2))):
        name = rng.choice(("anonymous_id", "anonymous_id", "user_id", "user_id", "person_id", "email"))
        ids[name] = rng.choice(IDS if rng.random() < 0.8 else (*ODD_TEXTS, None, 5, "p" * 246, "p" * 247, "p" * 257))
    value = record.value
    try:
        fields = json.loads(value or b"")
        if "person_id" in fields and (ids or rng.random() < 0.9):
            del fields["person_id"]
        if rng.random() < 0.02:
            fields["content"] = "[" * rng.choice((255, 256, 257, 300)) + "x" * rng.choice((1, 300))
        if rng.random() < 0.05:
            fields[rng.choice(NAMES)] = ""
        items = [*fields.items(), *ids.items()]
        rng.shuffle(items)
        layout = rng.choice(({"separators": (",", ":")}, {}, {"ensure_ascii": False}))
        value = json.dumps(dict(items), **layout).encode()
    except (ValueError, TypeError):
        pass  # it stays as broken as it is
    headers = [rng.choice((("x", b"1"), ("touchstream-hops", b"1")))] if rng.random() < 0.03 else []
    return LogRecord(record.offset, record.timestamp, record.key, value, headers)


def touch_record(offset: int, occurred_at: object, record_ms: int) -> LogRecord:
    """A plain touch of that time."""
    fields = {"event_id": f"t{offset}", "person_id": "p1", "occurred_at": occurred_at, "channel": "email"}
    return LogRecord(offset, record_ms, b"p1", json.dumps(fields).encode())


def _record(rng: random.Random, offset: int) -> LogRecord:
    fields = {
        "event_id": f"t{rng.randrange(10**9)}",
        "person_id": rng.choice(("p1", "p1", "p" * 256, "p" * 257)),
        "occurred_at": _time(rng, NOW_MS - rng.randrange(40 * DAY_MS)),
        "channel": rng.choice(TEXTS),
    }
    fields |= {name: rng.choice(TEXTS) for name in NAMES if rng.random() < 0.5}
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        _spoil(rng, fields)
    names = list(fields)
    rng.shuffle(names)
    layout = rng.choice(({"separators": (",", ":")}, {}, {"indent": 1}, {"ensure_ascii": False}))
    raw = json.dumps({name: fields[name] for name in names}, **layout).encode(errors="replace")
    owner = "account_id" if rng.random() < 0.3 else "person_id"
    key = str(fields.get(owner, "p1")).encode(errors="replace")
    return LogRecord(
        offset, NOW_MS + rng.choice((0, 5, -3 * DAY_MS)), rng.choice((key, key, key, b"p1")), _broken(rng, raw)
    )


def _time(rng: random.Random, time_ms: int) -> object:
    """The time as a number, or in one of the spellings of RFC 3339."""
    if rng.random() < 0.5:
        return time_ms
    text = format_time(time_ms)
    whole = text[:19]
    return rng.choice(
        (text, text, f"{whole}Z", f"{whole}.5Z", f"{whole}.123456789Z", f"{whole}+02:00", f"{whole}.25-00:00")
    )


def _spoil(rng: random.Random, fields: dict[str, object]) -> None:
    """One thing that makes a record odd or wrong."""
    name = rng.choice((*NAMES, "event_id", "person_id", "channel", "occurred_at"))
    some: tuple[object, ...] = (None, 5, 1.5, True, [], {"a": "b"}, rng.choice(ODD_TEXTS))
    edges = (
        946_684_799_999,
        946_684_800_000,
        NOW_MS + 2 * DAY_MS,
        NOW_MS + 2 * DAY_MS + 1,
        -1,
        0,
        10**17,
        10**18,
        10**30,
    )
    times: tuple[object, ...] = (*edges, *ODD_TIMES, 1.0)
    what = rng.randrange(4)
    if what == 0:
        fields.pop(name, None)
    elif what == 1:
        fields[rng.choice(("cost", "currency", "properties", name))] = rng.choice((*some, "1.50", "USD"))
    elif what == 2:
        fields["url"] = f"https://x/?utm_{rng.choice(('source', 'medium', 'campaign', 'content', 'term', 'id'))}=a"
    else:
        fields[name] = rng.choice(times if name == "occurred_at" else some)


def _broken(rng: random.Random, raw: bytes) -> bytes | None:
    what, at = rng.randrange(40), rng.randrange(len(raw) + 1)
    if what == 0:
        return raw[:at]
    if what == 1:
        return raw[:at] + bytes([rng.randrange(256)]) + raw[at:]
    if what == 2:
        return (
            raw[:at] + rng.choice((b" ", b"\n", b'"', b"\\", b"{", b"}", b",", b":", b"\x00", b"\xff")) + raw[at + 1 :]
        )
    if what == 3:
        return raw + rng.choice((b" ", b"x", b"\n", b"{}"))
    if what == 4:
        again = rng.choice(
            (b',"source":"again"}', b',"event_id":"again"}', b',"occurred_at":1780000000001}', b',"":""}')
        )
        return raw.rstrip()[:-1] + again
    return None if what == 5 else raw


@dataclass
class Case:
    """A policy, and what is to be decided of one journey."""

    rules: Rules
    blobs: list[bytes | None]
    arrivals: list[TakenTouch]
    events: list[Event]
    batch_bytes: int = BATCH_BYTES
    replaying: bool = False


@dataclass
class Decision:
    """Everything that comes of a case."""

    batches: list[bytes]
    puts: dict[bytes, bytes]
    appends: dict[bytes, bytes]
    deletes: list[bytes]
    accepted: list[tuple[bytes, int]]
    dead: list[tuple[str, str]]
    report: BatchReport = field(default_factory=lambda: BatchReport(0))


def case(rng: random.Random) -> Case:
    """A journey with one conversion to decide, mostly plain."""
    rules = Rules(policy(rng), 250, [policy(rng)] if rng.random() < 0.1 else [])
    occurred_ms = NOW_MS - rng.randrange(10**9)
    touches = _touches(rng, occurred_ms)
    stored = len(touches) - len(touches) // 4
    to_frame = frame_with_person if rng.random() < 0.1 else frame
    blob = b"".join(map(to_frame, touches[:stored]))
    arrivals = [(n, t.record_ms, b"p", t.occurred_ms, to_frame(t)) for n, t in enumerate(touches[stored:])]
    if rng.random() < 0.02:
        blob = _broken(rng, blob) or b""
    value = rng.choice((None, 0, 1, 7, 100, 99_990_000, rng.randrange(10**9), rng.randrange(10**15), 10**18 - 1))
    c = Conversion(
        rng.choice(("c1", "c|1", 'c"é', "c\\", "c" * 256)),
        "p\u00e9",
        occurred_ms,
        rng.choice(("order", "order", "lead", "ö")),
        value,
        rng.choice(("USD", "EUR", None)),
        rng.choice((None, "acc")),
        rng.choice(("create",) * 20 + ("restate", "retract")),
        rng.choice((None, "e")),
        occurred_ms + rng.choice((0, 10, 10**6)),
        rng.randrange(10**9),
    )
    events = [Event(c, b"p", b"{}", [])] * rng.choice((1,) * 20 + (0, 2))
    if rng.random() < 0.3:
        events += [Event(_later(rng, c, n), b"p", b"{}", []) for n in range(rng.randrange(3))]
    small = rng.random() < 0.15
    return Case(
        rules, [_state(rng, rules, c), blob], arrivals, events, 3_000 if small else BATCH_BYTES, rng.random() < 0.02
    )


def _later(rng: random.Random, c: Conversion, n: int) -> Conversion:
    """Another conversion of the same batch, mostly a new one that may have a path."""
    more_ms = rng.choice((0, 1, 10**6, 10**9, 10**10))
    later = copy(c)
    later.conversion_id = rng.choice((f"later{n}",) * 9 + (c.conversion_id,))
    later.event_id = rng.choice((None, None, f"e{n}", c.event_id))
    later.action = rng.choice(("create",) * 9 + ("retract",))
    later.occurred_ms += rng.choice((-more_ms, more_ms))
    later.record_ms += more_ms
    later.offset += n + 1
    return later


def policy(rng: random.Random) -> Policy:
    """Five attribution models or less, mostly with no other rules."""
    attribution: dict[str, object] = {
        "models": tuple(rng.sample(MODELS, rng.randrange(1, 6))),
        "lookback": rng.choice(("1d", "30d", "90d")),
    }
    odd: tuple[tuple[str, object], ...] = (
        ("touch_reuse", "reset_after_conversion"),
        ("direct", "ignore_unless_alone"),
        ("exclude_channels", ("email",)),
        ("repeats", "collapse_adjacent"),
        ("max_touches", rng.choice((1, 5))),
        ("journey_touches_max", rng.choice((1, 5))),
        ("lookback_by_touch_type", {"visit": "1d"}),
        ("allowed_lateness", "0s"),
        ("short_path", "split_middle"),
    )
    attribution |= dict(rng.sample(odd, 1)) if rng.random() < 0.3 else {}
    order = rng.choice(
        ({},) * 6 + ({"value": "10.01"}, {"credited": False, "milestone": "m"}, {"count": "first"}, {"lookback": "2d"})
    )
    decay = TimeDecayTable(
        half_life=rng.choice(("1h", "12h", "7d", "30d")), age_unit=rng.choice(("exact",) * 4 + ("1d",))
    )
    tables = {"order": ConversionTable.model_validate(order)}
    return compile_policy(AttributionTable.model_validate(attribution), tables, {"time_decay": decay})


def _touches(rng: random.Random, occurred_ms: int) -> list[Touch]:
    count = rng.choice((0, 1, 1, 2, 3, 5, 8, 13, 40, 120, 501 if rng.random() < 0.1 else 4))
    span = rng.choice((1, 10**4, 10**7, 10**9, 3 * 10**9))

    def optional() -> str | None:
        return rng.choice((None, None, *TEXTS, *ODD_TEXTS[:-2], "v1", "v2"))

    touches = []
    for n in range(count):
        at_ms = occurred_ms - rng.randrange(span) if rng.random() < 0.97 else occurred_ms + rng.randrange(10**6)
        touches.append(
            Touch(
                rng.choice((f"t{n}", f"t{n}", f"t|{n}", f"é\\{n}", f"t{rng.randrange(count * 30)}")),
                "p" if rng.random() < 0.9 else 'p"2',
                at_ms,
                rng.choice(("visit", "visit", "ad\n")),
                rng.choice(("direct", "(Direct)", "DIRECT", "email", 'a"b', "dïrect")),
                *(optional() for _ in range(5)),
                None,
                at_ms + rng.choice((0, 0, 5, -40, 3_000, 10**6, 2 * 10**9)),
            )
        )
    return touches


def _state(rng: random.Random, rules: Rules, e: Conversion) -> bytes | None:
    """What the journey knows: mostly nothing, or conversions of before."""
    if rng.random() < 0.6:
        return None
    conversions = []
    for n in range(rng.randrange(1, 4)):
        at_ms = e.occurred_ms - rng.choice((-(10**6), 10**6, 10**8, 10**9, 10**10, 10**11))
        conversions.append(
            JourneyConversion(
                e.conversion_id if n == 0 and rng.random() < 0.25 else f"before{n}",
                "p",
                e.type,
                at_ms,
                at_ms + 10,
                n,
                5_000_000,
                "USD",
                None,
                rng.choice((rules.policy.version, rules.policy.version, "unknown")),
                retracted=rng.random() < 0.1,
                seen=["e"] if rng.random() < 0.05 else [],
            )
        )
    conversions.sort(key=lambda c: c.record_ms)
    return write_state(
        JourneyState(conversions=conversions, pending=[], dropped_ms=rng.choice((-1,) * 20 + (e.occurred_ms,)))
    )


def decide(case: Case, native: Native | None, revision: int = 12_345) -> Decision:
    """What comes of the case, with the compiled part or without."""

    def place(kind: str, offset: int) -> tuple[str, bytes]:
        return "touchstream-source", f"x.{kind}/0/{offset}".encode()

    output = BatchedOutput(0, lambda: _new_batch(case.batch_bytes), place)
    if native is not None:
        output = CompiledOutput(native, 0, place)
        output.batches = native.batches(case.batch_bytes)
    decided = Decided(output, Writes(), [])
    report = BatchReport(0)
    deciding = Deciding(
        TP("x.conversions", 0),
        case.rules,
        revision,
        case.replaying,
        -1,
        decided,
        report,
        False,
        plain=PlainCredits(case.rules),
    )
    deciding.journey(b"p", case.blobs, buckets(0, 1), case.arrivals, case.events, ())
    dead = [(letter.reason.value, letter.message) for letter in output.dead]
    batches = [bytes(batch._build()) for batch, _ in output.close()]
    writes = decided.writes
    return Decision(batches, writes.puts, writes.appends, writes.deletes, decided.accepted, dead, report)


def _new_batch(batch_bytes: int) -> object:
    from aiokafka.producer.message_accumulator import BatchBuilder  # noqa: PLC0415

    return BatchBuilder(batch_bytes, 4, is_transactional=1)
