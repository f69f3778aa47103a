"""The quick way (msgspec) and the public contract (pydantic) accept the same bytes and give the same values.

Three nets, each finer than the last: a corpus of inputs on which JSON readers are known to differ, every
token of a few records replaced by every token of a pool, and generated records with one token changed.
"""

import datetime
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from models import events
from models.events import decode_conversion, decode_touch, read_conversion, read_touch
from models.facts import Touch
from models.journey import frame
from models.money_text import MONEY_PATTERN
from models.outcome import Reason, Rejected
from models.records.reading import NESTING_MAX, RECORD_BYTES_MAX
from models.wire import REFUSALS
from streams.native import load
from tests.support.fakes import LogRecord

SEED = 20_251_009
EXAMPLES = 1_500
RECORD_MS = 1_760_000_000_000

COMPILED = load()

Reader = Callable[[bytes | None, int], Any]
# The whole way, the contract alone, the quick way before it falls back.
READERS: dict[str, tuple[Reader, Reader, Callable[[bytes, int], Any]]] = {
    "touch": (decode_touch, read_touch, events._quick_touch),
    "conversion": (decode_conversion, read_conversion, events._quick_conversion),
}
RECORDS: dict[str, list[dict[str, Any]]] = {
    "touch": [
        {"event_id": "t1", "person_id": "p1", "occurred_at": "2025-10-09T08:53:20.123456+02:00", "source": "Frühjahr"},
        {
            "event_id": "t1",
            "person_id": "p1",
            "occurred_at": RECORD_MS,
            "type": "click",
            "channel": "email",
            "source": "newsletter",
            "medium": "e-mail",
            "campaign": "spring",
            "term": "shoes",
            "url": "https://shop.example/?utm_source=google&utm_content=b",
            "referrer": "https://www.google.com/",
            "account_id": "a1",
            "cost": "0.35",
            "currency": "EUR",
            "properties": {"k": "v"},
            "unknown": [1, {"deep": None}],
        },
    ],
    "conversion": [
        {
            "conversion_id": "c1",
            "person_id": "p1",
            "occurred_at": "2025-10-09T08:53:20Z",
            "value": 5.25,
            "type": "Käufe",
        },
        {
            "conversion_id": "c1",
            "person_id": "p1",
            "occurred_at": RECORD_MS,
            "type": "order",
            "value": "19.99",
            "currency": "USD",
            "account_id": "a1",
            "action": "restate",
            "event_id": "e1",
            "unknown": {"x": [True]},
        },
    ],
}

# What may stand in the place of one token. Most of it is JSON; what is not must be refused by both.
NUMBERS = b"""0 -0 1 5 -5 1.0 -0.0 5.10 0.000001 1e2 1E+2 1e308 1e999 01 1. .5 +1 - 0x10 NaN Infinity -Infinity
    123456789012.123456 123456789012.1234567 1234567890123 123456789012345678 99999999999999999999999 946684800000
    946684799999 1760172800000 1760172800001 1760000000000.0 1.76e12""".split()
TEXTS = rb""""" "5" "x" "\u0078" "\u0000" "\ud800" "\ud83d\ude00" "\ude00\ud83d" "\ud83dx" "\q" "\u12g4" "\u00e9"
    "e\u0301" "\n" "\u00a0x\u3000" "\u2028" "\ufeff" "a|b" "a\\b" "\/" "\"" "USD" "usd" "XXX" "ZZZ" "\u0055SD"
    "create" "Create" "retract" "restate" "0.5" "1.5" "1,5" "-1" "1e2" "12.1234567" "0\u002e5" "NaN"
    "2025-10-09T08:53:20Z" "2025-10-09T08:53:20" "1999-12-31T23:59:59.999Z" "9999-12-31T23:59:59Z" "
    ""1760000000000"
    "2025-10-09T08:53:20.9999999Z" "2025-02-30T00:00:00Z" "2025-10-09\u005408:53:20Z" "record_ms" "event_id"
    "channel" "value" "cost" "\u0063ost" "person_id" "properties" 'x' "x""".split()
TEXTS += [
    f'"{text}"'.encode() for text in ("é", "e\u0301", "\u0958", "\u2126", "😀", "\x7f", "ＵＳＤ", "\ufeff", "\x85")
]
TEXTS += [f'"{text}"'.encode() for text in ("é" * 128, "é" * 129, "\u0958" * 43, "\u0958" * 29, "\u0958" * 28)]
TEXTS += [f'"{text}"'.encode() for text in ("x" * 256, "x" * 257, " " + "x" * 255, " " + "x" * 256, " " * 300)]
TEXTS += [b'" "', b'" x"', b'"x "', b'" USD "', b'"create "', b'"a b"', b'"\\t\\u0020"', b'"\t"', b'"\x00"', b'"\x1f"']
TEXTS += [b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b'"\xc3"', b'"\xf5\x80\x80\x80"']
OTHERS = b"""null true false tru nul [] {} [1,2] [1,] [NaN] {1:2} {"a":"b"} {"a":null} {"a":1} {"a":{"b":"c"}} {"":""}
    {"a":"b","a":"c"} {"a":1,"a":"c"} {"\\ud800":"x"} {"a":"\\udc00"} : , { } [ ] //x /**/ \xff""".split()
OTHERS += [b"", b" ", b"\n\t ", b"\x0c", b"\x00", b"\xef\xbb\xbf", b"\xc2\xa0", b",,", b'"a":1,', b'"cost":"x",']
POOL = NUMBERS + TEXTS + OTHERS

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[-+.\w]+|\s+|[^\s"]', re.DOTALL)

BASE = {kind: json.dumps(records[0]).encode()[:-1] for kind, records in RECORDS.items()}


def verdict(read: Callable[[Any, int], Any], value: bytes | None) -> object:
    """What a reader makes of the bytes: the fact, or every detail of the refusal."""
    try:
        return read(value, RECORD_MS)
    except Rejected as rejected:
        return rejected.reason, rejected.field, rejected.message


def check(kind: str, value: bytes) -> tuple[bool, bool]:
    """Assert that all readers agree; (the contract accepts, the quick way accepts)."""
    decode, read, quick = READERS[kind]
    expected = verdict(read, value)
    assert verdict(decode, value) == expected, value
    check_compiled(kind, value, expected)
    msgspec.msgpack.encode(expected)  # whatever was accepted can be written out again
    try:
        found = quick(value, RECORD_MS)
    except REFUSALS:
        return not isinstance(expected, tuple), False
    assert found == expected, value
    return True, True


def check_compiled(kind: str, value: bytes, expected: object) -> None:
    """Assert that the compiled part, where it is there, leaves the record to Python or keeps of it what Python does."""
    if kind != "touch" or COMPILED is None:
        return
    key = expected.person_id.encode() if isinstance(expected, Touch) else b"p1"
    kept: list[Any] = []
    COMPILED.touches([LogRecord(7, RECORD_MS, key, value)], 0, False, kept)
    for found in kept:
        assert isinstance(expected, Touch), value
        assert found == (7, RECORD_MS, key, expected.occurred_ms, frame(expected)), value


def corpus() -> Iterator[tuple[str, bytes, bytes]]:
    """(name, bytes after the fields of a valid touch, bytes before it)."""
    deep = b"[" * 10_000 + b"]" * 10_000
    yield from (
        ("bad UTF-8 in an unknown text", b',"x":"\xff"}', b""),
        ("bad UTF-8 in an unknown name", b',"\xff":1}', b""),
        ("a surrogate in UTF-8", b',"x":"\xed\xa0\x80"}', b""),
        ("a lone surrogate escape in an unknown field", b',"x":"\\ud800"}', b""),
        ("a lone surrogate escape in a known field", b',"term":"\\ud800"}', b""),
        ("a reversed surrogate pair", b',"term":"\\ude00\\ud83d"}', b""),
        ("a lone surrogate in properties", b',"properties":{"a":"\\ud800"}}', b""),
        ("a lone surrogate in a name of properties", b',"properties":{"\\ud800":"a"}}', b""),
        ("18 digits of money", b',"cost":123456789012.345678}', b""),
        ("19 digits of money", b',"cost":123456789012.3456789}', b""),
        ("18 digits of money as text", b',"cost":"123456789012.345678"}', b""),
        ("NaN in a known field", b',"cost":NaN}', b""),
        ("NaN in an unknown field", b',"x":NaN}', b""),
        ("Infinity in an unknown field", b',"x":[-Infinity]}', b""),
        ("1e308", b',"cost":1e308}', b""),
        ("1e400 in an unknown field", b',"x":1e400}', b""),
        ("5,000 digits in an unknown field", b',"x":' + b"9" * 5_000 + b"}", b""),
        ("5,000 digits as a time", b',"occurred_at":' + b"9" * 5_000 + b"}", b""),
        ("5,000 digits as money", b',"cost":' + b"9" * 5_000 + b"}", b""),
        ("5,000 digits as text", b',"term":' + b"9" * 5_000 + b"}", b""),
        ("1.0 as an integer", b',"occurred_at":1.0}', b""),
        ("a whole float as a time", b',"occurred_at":1760000000000.0}', b""),
        ('"5" as an integer', b',"occurred_at":"5"}', b""),
        ("milliseconds as text", b',"occurred_at":"1760000000000"}', b""),
        ("true as a time", b',"occurred_at":true}', b""),
        ("-0 as a time", b',"occurred_at":-0}', b""),
        ("-0 as money", b',"cost":-0}', b""),
        ("leading zeros", b',"cost":007}', b""),
        ("1e2 as money", b',"cost":1e2}', b""),
        ("an escaped digit in money", b',"cost":"\\u0035"}', b""),
        ("a duplicate key, the last good", b',"term":1,"term":"x"}', b""),
        ("a duplicate key, the last bad", b',"term":"x","term":1}', b""),
        ("a duplicate key, the last null", b',"term":"x","term":null}', b""),
        ("a duplicate money, the first bad", b',"cost":"x","cost":"1"}', b""),
        ("a duplicate key behind an escape", b',"term":"x","\\u0074erm":"y"}', b""),
        ("a duplicate key in properties", b',"properties":{"a":1,"a":"b"}}', b""),
        ("NUL escaped", b',"term":"a\\u0000b"}', b""),
        ("NUL raw in text", b',"term":"a\x00b"}', b""),
        ("NUL after the record", b"}\x00", b""),
        ("a control character in an unknown text", b',"x":"\x01"}', b""),
        ("BOM", b"}", b"\xef\xbb\xbf"),
        ("UTF-16 BOM", b"}", b"\xff\xfe"),
        ("trailing garbage", b"}x", b""),
        ("two records", b'}{"event_id":"t2"}', b""),
        ("a trailing comma", b",}", b""),
        ("a comment", b"/* x */}", b""),
        ("white space around", b" \t\r\n} \t\r\n", b" \t\r\n"),
        ("a form feed before", b"}", b"\x0c"),
        ("an array around", b"}]", b"["),
        ("torn in the middle", b',"x":"', b""),
        ("10,000 levels in an unknown field", b',"x":' + deep + b"}", b""),
        ("10,000 levels never closed", b',"x":' + deep[:10_000], b""),
        ("10,000 objects deep", b',"x":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}", b""),
        ("brackets in text", b',"x":"' + deep + b'"}', b""),
        ("brackets in text behind a quote", b',"x":"\\"' + deep + b'"}', b""),
        ("unterminated text of escaped quotes", b',"x":' + b"[" * 300 + b'"' + b'\\"' * 50_000, b""),
        ("deepest that is allowed", b',"x":' + nest(NESTING_MAX - 1) + b"}", b""),
        ("one level too deep", b',"x":' + nest(NESTING_MAX) + b"}", b""),
        ("null in a required field", b',"person_id":null}', b""),
        ("null everywhere else", b',"term":null,"cost":null,"currency":null,"properties":null,"type":null}', b""),
        ("blank optional text", b',"term":" ","type":"","channel":"\\t","account_id":"  "}', b""),
        ("names that the core uses", b',"record_ms":1,"offset":"x","lag_ms":null,"occurred_ms":[],"rule":{}}', b""),
        ("spaces inside text", b',"campaign":"black friday"}', b""),
        ("a decomposed letter", ',"term":"e\u0301"}'.encode(), b""),
        ("a letter that grows when composed", f',"account_id":"{chr(0x958) * 43}"}}'.encode(), b""),
        ("wide spaces", ',"term":"\u3000x\u00a0"}'.encode(), b""),
    )


def nest(levels: int) -> bytes:
    """An array of that depth."""
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("name", "end", "start"), list(corpus()), ids=lambda part: part if isinstance(part, str) else ""
)
def test_corpus(kind: str, name: str, end: bytes, start: bytes) -> None:
    """Inputs on which JSON readers are known to differ get one verdict, in one line or pretty-printed."""
    end = end.replace(b'"cost"', b'"value"') if kind == "conversion" else end
    check(kind, start + BASE[kind] + end)
    check(kind, start + BASE[kind].replace(b", ", b",\n\t").replace(b": ", b" :  ") + end)
    check(kind, start + BASE[kind].replace(b", ", b",").replace(b": ", b":") + end)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    "value", [b"", b" ", b"null", b"[]", b"{}", b"1", b'"x"', b"true", b"\xff", b"\x00", b"{", b"NaN"]
)
def test_no_record_at_all(kind: str, value: bytes) -> None:
    """What is not an object is refused by all."""
    assert check(kind, value) == (False, False)


@pytest.mark.parametrize("kind", READERS)
def test_size_bound(kind: str) -> None:
    """A record of exactly 1 MiB is read, one byte more is refused as too large, and no value as "
    "null-value."""
    decode, read, _ = READERS[kind]
    start = BASE[kind] + b',"x":"'
    fits = start + b"x" * (RECORD_BYTES_MAX - len(start) - 2) + b'"}'
    assert check(kind, fits) == (True, True)
    assert check(kind, fits + b" ") == (False, False)
    for value, reason in ((fits + b" ", Reason.TOO_LARGE), (None, Reason.NULL_VALUE)):
        for reader in (decode, read):
            with pytest.raises(Rejected) as refused:
                reader(value, RECORD_MS)
            assert refused.value.reason is reason


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("levels", [200, NESTING_MAX - 1, NESTING_MAX])
def test_verdict_is_independent_of_the_stack(kind: str, levels: int) -> None:
    """Nested records get the same verdict from a shallow and from a deep call stack."""
    value = BASE[kind] + b',"x":' + nest(levels) + b"}"

    def from_depth(frames: int) -> tuple[bool, bool]:
        return from_depth(frames - 1) if frames else check(kind, value)

    here = len(_frames())
    deep = sys.getrecursionlimit() - here - NESTING_MAX - 150
    assert from_depth(deep) == from_depth(0)
    assert from_depth(0)[0] == (levels < NESTING_MAX)


def _frames() -> list[object]:
    frames: list[object] = []
    frame = sys._getframe()
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back  # type: ignore[assignment]
    return frames


@pytest.mark.parametrize("kind", READERS)
def test_every_token_replaced_by_every_other(kind: str) -> None:
    """No single token of a record can be changed so that the two readers disagree."""
    seen: Counter[tuple[bool, bool]] = Counter()
    for record in RECORDS[kind]:
        for text in (json.dumps(record, ensure_ascii=False, separators=(",", ":")), json.dumps(record)):
            tokens = TOKEN.findall(text.encode())
            for place in range(len(tokens)):
                for token in POOL:
                    seen[check(kind, b"".join([*tokens[:place], token, *tokens[place + 1 :]]))] += 1
    print(f"{kind}: (contract, quick) accept: {dict(seen)}")
    assert seen[True, True] > 1_000
    assert seen[False, False] > 1_000


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WORD = st.sampled_from(["google", "cpc", " Email ", "", "black friday", "Frühjahr", "USD"]) | TEXT
ID = WORD.filter(str.strip)
TIME = st.integers(RECORD_MS - 10**11, RECORD_MS + 10**8) | st.datetimes(
    datetime.datetime(2000, 1, 2), datetime.datetime(2025, 10, 10), timezones=st.just(datetime.UTC)
).map(datetime.datetime.isoformat)
MONEY = st.from_regex(MONEY_PATTERN, fullmatch=True)
CURRENCY = st.sampled_from(["USD", "EUR", "JPY"])
STRATEGIES = {
    "touch": st.fixed_dictionaries(
        {"event_id": ID, "person_id": ID, "occurred_at": TIME},
        optional={
            **dict.fromkeys(("type", "channel", "source", "medium", "campaign", "content", "term"), WORD),
            "url": st.sampled_from(["https://a.example/?utm_term=x&gclid=1", "/", " https://b.example/?utm_medium=y"]),
            "referrer": st.just("https://www.bing.com/"),
            "account_id": WORD,
            "cost": MONEY,
            "currency": CURRENCY,
            "properties": st.dictionaries(TEXT, TEXT, max_size=2),
            "x": st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | TEXT, st.lists, max_leaves=4),
        },
    ),
    "conversion": st.fixed_dictionaries(
        {"conversion_id": ID, "person_id": ID, "occurred_at": TIME},
        optional={
            "type": WORD,
            "value": MONEY,
            "currency": CURRENCY,
            "account_id": WORD,
            "action": st.sampled_from(["create", "restate", "retract"]),
            "event_id": WORD,
            "x": st.integers() | TEXT,
        },
    ),
}
LAYOUTS: list[dict[str, Any]] = [
    {"separators": (",", ":")},
    {"separators": (",", ":"), "ensure_ascii": False},
    {},
    {"indent": 2, "ensure_ascii": False},
]


def alike(token: bytes) -> st.SearchStrategy[bytes]:
    """Tokens of the same JSON type, which a record often survives."""
    same = WORD | TIME.map(str) | MONEY if token.startswith(b'"') else st.integers(0, 2 * RECORD_MS)
    return same.map(lambda given: json.dumps(given).encode())


@st.composite
def mutated(draw: st.DrawFn, kind: str) -> bytes:
    """A valid record in some layout, with one of its tokens replaced, doubled, removed, or moved."""
    record = draw(STRATEGIES[kind])
    tokens: list[bytes] = TOKEN.findall(json.dumps(record, **draw(st.sampled_from(LAYOUTS))).encode())
    # Punctuation and names are drawn less often than values: nearly every change to them is plainly no
    # record.
    values = [n for n, token in enumerate(tokens) if token not in b"{}[]:, \n" and tokens[n + 1 : n + 2] != [b":"]]
    place = draw(st.sampled_from(values) | st.sampled_from(values) | st.integers(0, len(tokens) - 1))
    others = st.sampled_from([*POOL, *tokens, tokens[place] * 2])
    fresh = draw(alike(tokens[place]) | alike(tokens[place]) | others)
    return b"".join([*tokens[:place], fresh, *tokens[place + 1 :]])


@pytest.mark.parametrize("kind", READERS)
def test_mutated_records(kind: str) -> None:
    """Generated records with one token changed, at least 30 % of them still valid, are read alike by both."""
    seen: Counter[tuple[bool, bool]] = Counter()

    @seed(SEED)
    @settings(database=None, deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(mutated(kind))
    def run(value: bytes) -> None:
        seen[check(kind, value)] += 1

    run()
    total = seen.total()
    valid = seen[True, True] + seen[True, False]
    print(f"seed {SEED}, {kind}: {total} records, {valid / total:.0%} valid, {seen[True, True] / valid:.0%} quick")
    assert valid >= 0.3 * total
    assert seen[True, True] >= 0.5 * valid, "the quick way hardly takes part"
