"""`touchstream explain` and `touchstream journey` beside a running worker, against what it published."""

import contextlib
import io
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from streams import embedded
from streams.cli import main
from tests.support import product, readers

SALE_MS = 1_717_243_200_000  # 2024-06-01T12:00:00Z
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SEND_SECONDS = 30
COMPACTED_NEVER_MS = 3_600_000
CONFIG = """
[attribution]
models = ["linear", "last_touch", "position_based", "participation"]
direct = "ignore_unless_alone"
exclude_channels = ["Internal"]
[conversions.lead]
credited = false
milestone = "lead"
[processing]
settle = "50ms"
"""
ODD = "ada|c\\1"  # both characters that a credit_id escapes
Row = dict[str, Any]


@dataclass(frozen=True)
class World:
    """A worker that has credited the story below, and its settings file."""

    folder: Path
    settings: Path
    credits: list[readers.Read]
    story: "Story"

    def run(self, *arguments: object) -> product.Finished:
        """The command in this process: the same code, two seconds sooner."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*map(str, arguments), "--config", str(self.settings)])
        return product.Finished(code, out.getvalue(), err.getvalue())

    def command(self, *arguments: object) -> product.Finished:
        """The command as a user has it."""
        return product.touchstream(*arguments, "--config", self.settings, cwd=self.folder)

    def document(self, *arguments: object) -> Row:
        done = self.run(*arguments, "--json")
        assert done.code == 0, done.said()
        found: Row = json.loads(done.stdout)
        return found

    def final(self, conversion_id: str, attribution_model: str) -> list[Row]:
        """What an append-only reader keeps, by position."""
        rows = [r for r in readers.append_only_view(self.credits) if r["conversion_id"] == conversion_id]
        return sorted((r for r in rows if r["attribution_model"] == attribution_model), key=lambda r: r["position"])


def touch(person: str, number: int, age_ms: int, channel: str, **fields: Any) -> Row:
    touch_id = f"{person}-t{number}"
    return {"event_id": touch_id, "person_id": person, "occurred_at": SALE_MS - age_ms, "channel": channel, **fields}


def sale(person: str, conversion_id: str, value: str = "", **fields: Any) -> Row:
    named = {"value": value, "currency": "EUR"} if value else {}
    return {"conversion_id": conversion_id, "person_id": person, "occurred_at": SALE_MS, **named, **fields}


ADAS = [
    touch("ada", 1, 40 * DAY_MS, "Email"),
    touch("ada", 2, 10 * DAY_MS, "Paid Search", source="google", medium="cpc", campaign="spring"),
    touch("ada", 3, 5 * DAY_MS, "Display"),
    touch("ada", 4, 1 * DAY_MS, "(direct)"),
    touch("ada", 5, 2 * DAY_MS, "internal"),
    touch("ada", 6, -HOUR_MS, "Email"),
]
LATE = touch("ada", 7, 3 * DAY_MS, "Referral")
DORAS = [touch("dora", 1, DAY_MS, "Email"), touch("dora", 1, DAY_MS, "Display"), touch("dora", 2, HOUR_MS, "Display")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("explain")
    prefix = f"explain-{uuid.uuid4().hex[:8]}"
    # Compaction would take earlier revisions away.
    with embedded.broker(cleaner_backoff_ms=COMPACTED_NEVER_MS) as kafka, embedded.valkey() as redis:
        settings = folder / "touchstream.toml"
        servers = f'[kafka]\nbroker = "{kafka.url}"\nprefix = "{prefix}"\n[redis]\nurl = "{redis.url}"\n'
        settings.write_text(CONFIG + servers)
        applied = product.touchstream("topics", "apply", "--config", settings, cwd=folder)
        assert applied.code == 0, applied.said()
        with (
            product.running("run", "--config", settings, cwd=folder) as process,
            readers.reader(kafka.url, f"{prefix}.credits") as published,
        ):
            story = Story(kafka.url, prefix, process, published)
            story.tell()
            yield World(folder, settings, list(published.to_end()), story)


class Story:
    """Sends records one step after the other, each when what it restates is published."""

    def __init__(self, broker: str, prefix: str, process: product.Running, published: readers.TopicReader) -> None:
        self._producer = Producer({"bootstrap.servers": readers.hosts(broker), "linger.ms": 0})
        self._prefix, self._process, self._published = prefix, process, published

    def tell(self) -> None:
        self._send("touches", *ADAS, touch("bob", 1, DAY_MS, "Email"), *DORAS)
        self._send("conversions", sale("ada", ODD, "100.000001"), sale("bob", "bobs", "7"), sale("carl", "carls", "5"))
        self._send("conversions", sale("ada", "lead-1", type="lead"))
        self._send("conversions", sale("ella", "nowhere", "3", action="restate"))
        self._until((ODD, 100_000_001), ("bobs", 7_000_000), ("carls", 5_000_000))
        self._send("touches", LATE)
        self._published.until(lambda rows: any(b"ada-t7" in (r.value or b"") for r in rows), alive=self._alive)
        again = {"action": "restate", "occurred_at": SALE_MS + DAY_MS}
        self._send("conversions", sale("ada", ODD, "50.01", **again), sale("bob", "bobs", action="retract"))
        self._until((ODD, 50_010_000), ("bobs", 0))

    def sell_again(self) -> None:
        """One more conversion of the same person, until it is credited."""
        self._send("conversions", sale("ada", "adas-next", "1"))
        self._until(("adas-next", 1_000_000))

    def said(self) -> str:
        return self._process.said()

    def _send(self, topic: str, *records: Row) -> None:
        for record in records:
            key = str(record["person_id"]).encode()
            self._producer.produce(f"{self._prefix}.{topic}", json.dumps(record).encode(), key)
        assert self._producer.flush(SEND_SECONDS) == 0

    def _until(self, *wanted: tuple[str, int]) -> None:
        """Until all attribution models of these conversions have been published with that value."""

        def done(records: Any) -> bool:
            rows = [json.loads(r.value) for r in records if r.value is not None]
            found = {(r["conversion_id"], r["conversion_value_micros"], r["attribution_model"]) for r in rows}
            names = ("linear", "last_touch", "position_based", "participation")
            return all((*each, name) in found for each in wanted for name in names)

        self._published.until(done, alive=self._alive)

    def _alive(self) -> None:
        self._process.check_alive()


@pytest.mark.parametrize("conversion_id", [ODD, "bobs", "carls"])
def test_the_explained_parts_are_the_published_credits(world: World, conversion_id: str) -> None:
    """Touch, place, share, micros and reason of each part are the credit's, and they sum to the value exactly."""
    found = world.document("explain", conversion_id)
    assert found["matches_published"] is True
    assert len(found["attribution_models"]) == 4
    for one in found["attribution_models"]:
        rows = world.final(conversion_id, one["attribution_model"])
        fields = ("touch_id", "position", "share", "value_micros", "reason")
        parts = [part for part in one["parts"] if part["reason"] != "weight_zero"]
        assert [[part[f] for f in fields] for part in parts] == [[row[f] for f in fields] for row in rows]
        if one["additive"]:
            assert sum(part["value_micros"] for part in one["parts"]) == found["conversion"]["value_micros"]
            assert one["value_micros"] == found["conversion"]["value_micros"]
        else:
            assert one["value_micros"] is None


def test_every_touch_is_told_of(world: World) -> None:
    """Those of the path with their places, all others with the reason why they got nothing."""
    found = world.document("explain", ODD)
    assert found["journey"]["touches"] == len(ADAS) + 1
    path = [part["touch_id"] for part in found["attribution_models"][0]["parts"]]
    assert path == ["ada-t2", "ada-t3", "ada-t7"]
    assert {each["touch_id"]: each["reason"] for each in found["left_out"]} == {
        "ada-t1": "before_lookback",
        "ada-t4": "direct_ignored",
        "ada-t5": "excluded_channel",
        "ada-t6": "after_conversion",
    }
    (last,) = [one for one in found["attribution_models"] if one["attribution_model"] == "last_touch"]
    assert [part["reason"] for part in last["parts"]] == ["weight_zero", "weight_zero", "last"]


def test_the_history_names_what_caused_each_revision(world: World) -> None:
    """The create, the late touch and the restatement, in this order, with the values that they led to."""
    history = world.document("explain", ODD)["revisions"]
    assert [each["cause"]["kind"] for each in history] == ["create", "touch", "restate"]
    assert history[1]["cause"]["touch_id"] == "ada-t7"
    assert [each["sets"][0]["value_micros"] for each in history] == [100_000_001, 100_000_001, 50_010_000]
    revisions = [each["revision"] for each in history]
    assert revisions == sorted(set(revisions))
    # The late touch is the last one now, so the key of the former last touch was taken back.
    (last,) = [one for one in history[1]["sets"] if one["attribution_model"] == "last_touch"]
    assert last["removed"] == ["ada-t3"]


def test_states_without_a_path_are_explained(world: World) -> None:
    """Retracted, unattributed and milestone conversions say so, a milestone only where its journey is named."""
    bob, carl = world.document("explain", "bobs"), world.document("explain", "carls")
    assert (bob["conversion"]["status"], bob["conversion"]["stated_value_micros"]) == ("retracted", 7_000_000)
    assert [each["reason"] for each in bob["left_out"]] == ["retracted"]
    assert carl["conversion"]["status"] == "unattributed"
    lead = world.document("explain", "lead-1", "--person", "ada")
    assert (lead["conversion"]["status"], lead["attribution_models"], lead["revisions"]) == ("milestone", [], [])
    assert world.run("explain", "lead-1").code == 1


def test_naming_the_person_changes_nothing_but_the_search(world: World) -> None:
    """The same document with --person as without, and only the one attribution model with --attribution-model."""
    assert world.document("explain", ODD, "--person", "ada") == world.document("explain", ODD)
    one = world.document("explain", ODD, "--attribution-model", "linear")
    assert [each["attribution_model"] for each in one["attribution_models"]] == ["linear"]
    assert {each["attribution_model"] for revision in one["revisions"] for each in revision["sets"]} == {"linear"}


def test_the_text_can_be_read(world: World) -> None:
    """Money with its currency, dates in ISO 8601 UTC, channels, reasons in words, and nothing on stderr."""
    done = world.command("explain", ODD)
    assert done.code == 0, done.said()
    assert done.stderr == ""
    for text in ("50.01 EUR", "16.67 EUR", "2024-06-01T12:00:00Z", "33.33 %", "google / cpc", "spring", "sum"):
        assert text in done.stdout, done.said()
    for text in ("older than the lookback of 30d", "the policy excludes its channel", "restated to 50.01 EUR"):
        assert text in done.stdout, done.said()


def test_the_journey_shows_touches_conversions_and_what_waits(world: World) -> None:
    """All touches by time, a duplicate marked, the conversions with their state, the correction without its create."""
    ada = world.document("journey", "ada")
    assert [each["touch_id"] for each in ada["touches"]] == [f"ada-t{n}" for n in (1, 2, 3, 7, 5, 4, 6)]
    states = {each["conversion_id"]: each["status"] for each in ada["conversions"]}
    assert (states[ODD], states["lead-1"]) == ("credited", "milestone")
    dora = world.document("journey", "dora")
    assert [(each["channel"], each["duplicate"]) for each in dora["touches"]] == [
        ("Email", False),
        ("Display", True),
        ("Display", False),
    ]
    ella = world.document("journey", "ella")
    assert [each["conversion_id"] for each in ella["waiting_corrections"]] == ["nowhere"]
    text = world.run("journey", "ada").stdout
    assert "journey of person ada" in text
    assert "CONVERSION (conversion) 50.01 EUR, credited, 3 touches in its path" in text


def test_the_worker_is_left_in_peace(world: World) -> None:
    """After questions about a journey its worker goes on with it, without claiming its partition again."""
    world.document("explain", ODD)
    world.document("journey", "ada")
    world.story.sell_again()
    assert "claiming again" not in world.story.said()
    assert world.document("explain", "adas-next")["matches_published"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("explain", "never"), 1, "error[T240]"),
        (("explain", "never", "--person", "ada"), 1, "error[T240]"),
        (("explain", "never", "--person", "nobody"), 1, "error[T241]"),
        (("explain", "carls", "-m", "lienar"), 2, "error[T115]"),
        (("journey", "nobody"), 1, "error[T241]"),
        (("journey", "ada", "--prefix", "elsewhere"), 1, "error[T244]"),
        (("journey", "ada", "--redis", "redis://127.0.0.1:1/0"), 3, "error[T302]"),
        (("explain", "carls", "--broker", "kafka://127.0.0.1:1"), 3, "error[T301]"),
        (("explain",), 2, "error[T100]"),
    ],
)
def test_what_is_not_there_is_a_block(world: World, arguments: tuple[str, ...], code: int, told: str) -> None:
    """Unknown conversions and people, misspelt names and servers that are away: a block, nothing on stdout."""
    done = world.run(*arguments)
    assert done.code == code, done.said()
    assert done.stdout == ""
    assert done.stderr.startswith(told), done.said()
    assert done.stderr.count("error[") == 1
