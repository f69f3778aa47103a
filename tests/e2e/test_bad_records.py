"""Bad records in the topics of a running worker: each becomes one dead letter, and the good ones go on.

Each kind is sent as one burst to both inputs, by one producer in one batch: first, between good records, two
side by side, and last. Bursts follow one another on an idle topic, so a burst is a fetched batch of its own.
"""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka.partitioner import murmur2
from confluent_kafka import Message, Producer

from streams import embedded
from tests.support import oracle, product, readers

AT_MS = 1_717_200_000_000  # 2024-06-01T00:00:00Z
YEAR_9999_MS = 253_370_764_800_000
SEND_SECONDS = 30
TWO_MEGABYTES = 2 * 1024 * 1024
CONFIG = """
[attribution]
models = ["linear", "first_touch"]
[processing]
settle = "50ms"
"""
INPUTS = ("touches", "conversions")


class Sent(NamedTuple):
    """A record to send. A `key` of None is a null key."""

    key: bytes | None
    value: bytes | None
    reason: str = ""


@dataclass(frozen=True)
class Kind:
    """A way to be bad: what it does to a good record, and the reason that its dead letters give.

    `raw` are whole values in place of a record's; `topics` where it can happen.
    """

    name: str
    reason: str
    change: dict[str, Any] = field(default_factory=dict)
    drop: str = ""
    literal: str = ""
    raw: tuple[bytes | None, ...] = ()
    key: str = "own"
    topics: tuple[str, ...] = INPUTS

    def __str__(self) -> str:
        return self.name


KINDS = [
    Kind("broken JSON", "invalid-json", raw=(b'{"event_id":"x",', b"", b"{}{}", b"\x00", b"{'a':1}")),
    Kind("not an object", "wrong-type", raw=(b"[]", b'"text"', b"17", b"null")),
    Kind("missing event_id", "missing-field", drop="event_id", topics=("touches",)),
    Kind("missing conversion_id", "missing-field", drop="conversion_id", topics=("conversions",)),
    Kind("missing person_id", "missing-field", drop="person_id"),
    Kind("missing time", "missing-field", drop="occurred_at"),
    Kind("wrong type of a text", "wrong-type", change={"type": 7}),
    Kind("wrong type of a time", "wrong-type", change={"occurred_at": True}),
    Kind("text that is no time", "bad-time", change={"occurred_at": "yesterday"}),
    Kind("NaN", "invalid-json", change={"value": "@"}, literal="NaN", topics=("conversions",)),
    Kind("NaN as a cost", "invalid-json", change={"cost": "@"}, literal="NaN", topics=("touches",)),
    Kind("NaN as text", "bad-money", change={"value": "NaN"}, topics=("conversions",)),
    Kind("1e308", "bad-money", change={"value": "@"}, literal="1e308", topics=("conversions",)),
    Kind("1e308 as a cost", "bad-money", change={"cost": "@"}, literal="1e308", topics=("touches",)),
    Kind("negative money", "bad-money", change={"value": "-1"}, topics=("conversions",)),
    Kind("unknown currency", "unknown-currency", change={"currency": "XQQ", "cost": "1"}),
    Kind("year 1970", "bad-time", change={"occurred_at": "1970-01-01T00:00:01Z"}),
    Kind("year 1970 in ms", "bad-time", change={"occurred_at": 1_000}),
    Kind("year 9999", "bad-time", change={"occurred_at": "9999-12-31T23:59:59Z"}),
    Kind("year 9999 in ms", "bad-time", change={"occurred_at": YEAR_9999_MS}),
    Kind("bad UTF-8", "bad-utf8", change={"campaign": "@"}, literal='"\udcff\udcfe"'),
    Kind("bad UTF-8 in an unknown field", "bad-utf8", change={"zzz": "@"}, literal='"\udcc3("'),
    Kind("two megabytes", "too-large", change={"zzz": "x" * TWO_MEGABYTES}),
    Kind("null value", "null-value", raw=(None,)),
    Kind("null key", "null-key", key="null"),
    Kind("key of someone else", "key-mismatch", key="other"),
    Kind("key that is not UTF-8", "key-mismatch", key="bytes"),
]


class Tear(NamedTuple):
    """Where a good record is torn (`whole` = `end` + `glue` + `start`), and what would make it good again."""

    name: str
    whole: str
    end: str
    start: str
    glue: str


TEARS = [
    Tear("joined by nothing", '"person_id"', '"per', 'son_id"', ""),
    Tear("joined by a newline", ',"person_id"', ",", '"person_id"', "\n"),
    Tear("joined by a comma", ',"person_id"', "", '"person_id"', ","),
]


# The worker


@dataclass
class Worker:
    """A running `touchstream run` on servers of its own, and readers of what it publishes."""

    broker: str
    prefix: str
    process: product.Running
    dead: readers.TopicReader
    credits: readers.TopicReader
    producer: Producer
    bad: set[tuple[str, int, int]] = field(default_factory=set)

    def topic(self, name: str) -> str:
        return f"{self.prefix}.{name}"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder: Path = tmp_path_factory.mktemp("run")
    prefix = f"bad-{uuid.uuid4().hex[:8]}"
    with embedded.broker() as kafka, embedded.valkey() as redis:
        settings = folder / "touchstream.toml"
        settings.write_text(
            f'{CONFIG}[kafka]\nbroker = "{kafka.url}"\nprefix = "{prefix}"\n[redis]\nurl = "{redis.url}"\n'
        )
        applied = product.touchstream("topics", "apply", "--config", settings, cwd=folder)
        assert applied.code == 0, applied.said()
        with (
            product.running("run", "--config", settings, cwd=folder) as process,
            readers.reader(kafka.url, f"{prefix}.dead-letters") as dead,
            readers.reader(kafka.url, f"{prefix}.credits") as credits_,
        ):
            yield Worker(kafka.url, prefix, process, dead, credits_, _producer(kafka.url))


def _producer(broker: str) -> Producer:
    """One batch a burst: it lingers until it is flushed."""
    return Producer(
        {
            "bootstrap.servers": readers.hosts(broker),
            "linger.ms": 1_000,
            "batch.size": 3 * 1024 * 1024,  # the inputs take 4 MiB, and their limit is on batches
            "message.max.bytes": 4 * 1024 * 1024,
            "enable.idempotence": True,
        }
    )


# The bursts


def _good(topic: str, person: str, number: int) -> dict[str, Any]:
    if topic == "touches":
        own: dict[str, Any] = {"event_id": f"{person}-t{number}", "channel": f"channel {number}"}
    else:
        own = {"conversion_id": f"{person}-c{number}", "value": "1.000001"}
    return {**own, "person_id": person, "occurred_at": AT_MS + number}


def _bytes(record: dict[str, Any], literal: str = "") -> bytes:
    """JSON, with `literal` in place of the text "@"; lone surrogates stand for bytes that are not UTF-8."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    return text.replace('"@"', literal).encode(errors="surrogateescape")


def _bad(kind: Kind, topic: str, person: str, number: int) -> Sent:
    record = {**_good(topic, person, 100 + number), **kind.change}
    record.pop(kind.drop, None)
    keys = {"own": person.encode(), "null": None, "other": b"someone-else", "bytes": b"\xff\xfe"}
    value = kind.raw[number % len(kind.raw)] if kind.raw else _bytes(record, kind.literal)
    return Sent(keys[kind.key], value, kind.reason)


def _torn(tear: Tear, topic: str, person: str, number: int) -> list[Sent]:
    """Both halves of a good record, which would be good again where two records are read as one text."""
    record = _good(topic, person, 100 + number)
    before, _, after = _bytes(record).decode().partition(tear.whole)
    halves = (before + tear.end, tear.start + after)
    assert json.loads(tear.glue.join(halves)) == record
    return [Sent(person.encode(), half.encode(), "invalid-json") for half in halves]


def _around(bad: list[list[Sent]], topic: str, person: str) -> list[Sent]:
    """First, in the middle, two side by side, last: bad good bad good bad bad good bad."""
    good = [Sent(person.encode(), _bytes(_good(topic, person, n))) for n in range(3)]
    a, b, c, d, e = bad
    return [*a, good[0], *b, good[1], *c, *d, good[2], *e]


def _send(worker: Worker, topic: str, person: str, burst: list[Sent]) -> dict[tuple[str, int, int], tuple[Sent, Any]]:
    """Send a burst in its order; where each bad record lies, with the headers that it had."""
    places: list[tuple[str, int, int]] = []

    def delivered(error: Any, message: Message) -> None:
        assert error is None, error
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        places.append((worker.topic(topic), partition, offset))

    # What has no key, or that of someone else, shall lie among this person's records all the same.
    partition = _partition(worker, topic, person)
    headers = []
    for number, record in enumerate(burst):
        own: tuple[readers.Header, ...] = (
            ("traceparent", f"00-{number:032x}-{1:016x}-01".encode()),
            ("again", b"\xff\x00"),
            ("again", None),
        )
        headers.append(own)
        worker.producer.produce(worker.topic(topic), record.value, record.key, partition, delivered, headers=list(own))
    assert worker.producer.flush(SEND_SECONDS) == 0
    by_place = sorted(places, key=lambda place: place[2])
    return {place: (record, own) for place, record, own in zip(by_place, burst, headers, strict=True) if record.reason}


def _partition(worker: Worker, topic: str, person: str) -> int:
    """Where Kafka's own clients put this person's records."""
    name = worker.topic(topic)
    count = len(worker.producer.list_topics(name, timeout=SEND_SECONDS).topics[name].partitions)
    return int(murmur2(person.encode()) & 0x7FFFFFFF) % count


# The tests


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_each_bad_record_is_one_dead_letter(worker: Worker, kind: Kind) -> None:
    """A kind of bad record, wherever it stands, is one dead letter as it came; good records are credited."""
    person = _person()
    bursts = {
        topic: _around([[_bad(kind, topic, person, n)] for n in range(5)], topic, person)
        if topic in kind.topics
        else [Sent(person.encode(), _bytes(_good(topic, person, n))) for n in range(3)]
        for topic in INPUTS
    }
    _check(worker, person, bursts)


@pytest.mark.parametrize("tear", TEARS, ids=[tear.name for tear in TEARS])
def test_torn_pairs_are_two_dead_letters(worker: Worker, tear: Tear) -> None:
    """Two halves of a record are two dead letters, although they would be good when joined."""
    person = _person()
    bursts = {topic: _around([_torn(tear, topic, person, n) for n in range(5)], topic, person) for topic in INPUTS}
    _check(worker, person, bursts)


def test_there_is_no_other_dead_letter(worker: Worker) -> None:
    """Over all bursts before this test each bad record has one dead letter, and no good one has any."""
    assert sorted(readers.dead_letter(r)[:3] for r in worker.dead.to_end()) == sorted(worker.bad)


def _person() -> str:
    return f"person-{uuid.uuid4().hex}"


def _check(worker: Worker, person: str, bursts: dict[str, list[Sent]]) -> None:
    bad: dict[tuple[str, int, int], tuple[Sent, Any]] = {}
    for topic, burst in bursts.items():
        bad |= _send(worker, topic, person, burst)
    worker.bad |= bad.keys()
    worker.dead.until(lambda _: bad.keys() <= _letters(worker).keys(), alive=worker.process.check_alive)
    worker.credits.until(lambda _: len(_rows(worker, person)) == 9, alive=worker.process.check_alive)
    worker.dead.to_end()
    letters = _letters(worker)
    for place, (record, headers) in bad.items():
        (letter,) = letters[place]
        assert (letter.key, letter.value, letter.headers) == (record.key, record.value, headers)
        assert letter.reason == record.reason, letter.errors
        _check_errors(letter)
    _check_credits(worker, person)


def _check_errors(letter: readers.DeadLetter) -> None:
    """Beside the place, Connect's headers name stage, class and message, in words."""
    for name in ("stage", "exception.class.name", "exception.message"):
        assert letter.errors[name].strip(), name


def _letters(worker: Worker) -> dict[tuple[str, int, int], list[readers.DeadLetter]]:
    found: dict[tuple[str, int, int], list[readers.DeadLetter]] = {}
    for record in worker.dead.records:
        letter = readers.dead_letter(record)
        found.setdefault(letter[:3], []).append(letter)
    return found


def _rows(worker: Worker, person: str) -> list[readers.Row]:
    """This person's rows; while the topic is read only in part, sets may still be incomplete."""
    own = [r for r in worker.credits.records if r.value and json.loads(r.value)["person_id"] == person]
    try:
        return readers.append_only_view(own)
    except ValueError:
        return []


def _check_credits(worker: Worker, person: str) -> None:
    """Three conversions with one, two and three touches are credited as by the oracle: nine rows."""
    touches = [_good("touches", person, n) for n in range(3)]
    conversions = [_good("conversions", person, n) for n in range(3)]
    policy = {"attribution": {"models": ["linear", "first_touch"]}}
    expected = oracle.comparable(oracle.final_view(touches, conversions, policy))
    assert oracle.comparable(_rows(worker, person)) == expected
