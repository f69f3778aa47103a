"""Metrics, probes and the port they are on."""

import errno
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from models.outcome import Reason
from streams.errors import EXIT_CONNECT, ConnectError
from streams.metrics import EVENTS, OUTCOMES, RESOLVED, SPECS, Metrics, Position, as_markdown
from streams.report import BatchReport
from streams.web.health import DeadLetterTrip, Health, Reported
from streams.web.pages import build_pages
from streams.web.server import PORT_DEFAULT, Server, serve

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
NOW_MS = 1_700_000_000_000
FORBIDDEN = {"person", "person_id", "campaign", "conversion_id", "touch_id", "account_id", "user_id", "key"}


def build() -> tuple[CollectorRegistry, Metrics]:
    registry = CollectorRegistry()
    return registry, Metrics(registry, attribution_models=["linear", "last_touch"], version="1.2.3")


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"touchstream_{name}", labels)


def test_counts_of_a_step_are_added() -> None:
    """Every count of a report ends in its own metric, and a second report adds to the first."""
    registry, metrics = build()
    report = BatchReport(3)
    names = [f"{event}{'es' if event == 'touch' else 's'}_{outcome}" for event in EVENTS for outcome in OUTCOMES]
    sums = "mismatched misrouted credits tombstones restated unattributed retracted milestones forgotten uncounted"
    sums += " transactions replayed ids_linked ids_refused merges_sent"
    for number, name in enumerate([*names, *sums.split()], start=1):
        setattr(report, name, number)
    report.dead_by_reason["invalid-json"] = 40
    report.credited_by_model["linear"] = 50
    for _ in range(2):
        metrics.record(report, NOW_MS)
    for number, (event, outcome) in enumerate(((e, o) for e in EVENTS for o in OUTCOMES), start=1):
        assert value(registry, "events_total", type=event, outcome=outcome) == 2 * number
    shown = "mismatched_sums misrouted credits_published tombstones restatements unattributed retracted milestones"
    more = ("forgotten", "uncounted", "transactions", "replayed", "identity_links", "identity_refused")
    for number, name in enumerate([*shown.split(), *more, "identity_merges"], start=1 + len(names)):
        assert value(registry, f"{name}_total") == 2 * number
    assert value(registry, "dead_letters_total", reason="invalid-json") == 80
    assert value(registry, "conversions_credited_total", attribution_model="linear") == 100
    assert value(registry, "conversions_credited_total", attribution_model="last_touch") == 0


def test_raw_events_are_counted_by_what_became_of_them() -> None:
    """Each outcome has a series of its own, at 0 from the start, and steps add up."""
    registry, metrics = build()
    assert {value(registry, "identity_events_total", outcome=outcome) for outcome in RESOLVED} == {0}
    counts = dict(zip(RESOLVED, (5, 4, 3, 2, 1), strict=True))
    for _ in range(2):
        metrics.record(BatchReport(0, **{f"raw_{outcome}": count for outcome, count in counts.items()}), NOW_MS)
    shown = {outcome: value(registry, "identity_events_total", outcome=outcome) for outcome in RESOLVED}
    assert shown == {outcome: 2 * count for outcome, count in counts.items()}


def test_filtered_records_are_counted_under_the_configured_names() -> None:
    """Each filter has a series for each kind of record that it can drop, at 0 from the start."""
    registry = CollectorRegistry()
    known = [("touch", "office", "internal"), ("conversion", "office", "internal")]
    metrics = Metrics(registry, attribution_models=[], version="1", filters=known)
    touch, conversion = ({"type": kind, "filter": "office", "reason": "internal"} for kind, *_ in known)
    assert (value(registry, "filtered_total", **touch), value(registry, "filtered_total", **conversion)) == (0, 0)
    report = BatchReport(0, touches_filtered=3)
    report.filtered["touch", "office", "internal"] = 3
    for _ in range(2):
        metrics.record(report, NOW_MS)
    assert (value(registry, "filtered_total", **touch), value(registry, "filtered_total", **conversion)) == (6, 0)
    assert value(registry, "events_total", type="touch", outcome="filtered") == 6


def test_everything_known_shows_zero_from_the_start() -> None:
    """A rate has a first value to rise from: reasons, outcomes, stages and attribution models are there at 0."""
    registry, _ = build()
    for reason in Reason:
        assert value(registry, "dead_letters_total", reason=reason) == 0
    assert value(registry, "mismatched_sums_total") == 0
    assert value(registry, "stage_seconds_count", stage="decide") == 0
    assert value(registry, "conversions_credited_total", attribution_model="linear") == 0
    assert value(registry, "build_info", version="1.2.3") == 1


def test_ages_go_by_their_own_clocks() -> None:
    """Freshness runs from event time, latency from record time; a bound belongs to its bucket; none is negative."""
    registry, metrics = build()
    report = BatchReport(0)
    report.credited_at = [(NOW_MS - 60_000, NOW_MS - 250), (NOW_MS + 500, NOW_MS - 251)]
    report.stages = {"decode": 0.001, "publish": 11.0}
    metrics.record(report, NOW_MS)
    assert value(registry, "event_freshness_seconds_sum") == 60.0
    assert value(registry, "event_freshness_seconds_bucket", le="0.01") == 1
    assert value(registry, "event_freshness_seconds_bucket", le="30.0") == 1
    assert value(registry, "event_freshness_seconds_bucket", le="60.0") == 2
    assert value(registry, "end_to_end_seconds_sum") == pytest.approx(0.501)
    assert value(registry, "end_to_end_seconds_bucket", le="0.25") == 1
    assert value(registry, "end_to_end_seconds_bucket", le="+Inf") == 2
    assert value(registry, "stage_seconds_bucket", stage="decode", le="0.001") == 1
    assert value(registry, "stage_seconds_bucket", stage="publish", le="10.0") == 0
    assert value(registry, "stage_seconds_bucket", stage="publish", le="+Inf") == 1


@pytest.mark.parametrize(
    ("position", "records", "seconds"),
    [
        (Position("t", 1, applied=7, committed=5, end=10, record_ms=NOW_MS - 2_500), 3, 2.5),
        (Position("t", 1, applied=10, committed=5, end=10, record_ms=NOW_MS - 2_500), 0, 0),
        (Position("t", 1, applied=7, committed=5, end=-1, record_ms=NOW_MS - 2_500), None, None),
        (Position("t", 1, applied=7, committed=5, end=10, record_ms=-1), 3, 0),
        (Position("t", 1, applied=7, committed=5, end=10, record_ms=NOW_MS + 99), 3, 0),
    ],
)
def test_lag_is_counted_from_applied(position: Position, records: float | None, seconds: float | None) -> None:
    """Lag in records and seconds goes by applied offsets, is 0 at the end, and absent where the end is unknown."""
    registry, metrics = build()
    metrics.position(position, NOW_MS)
    place = {"topic": "t", "partition": "1"}
    assert value(registry, "lag_records", **place) == records
    assert value(registry, "lag_seconds", **place) == seconds
    assert value(registry, "applied_offset", **place) == position.applied
    assert value(registry, "committed_offset", **place) == 5


def test_revoked_partitions_are_no_longer_shown() -> None:
    """After a revocation nothing is said of that partition number, so that no stale lag raises an alert."""
    registry, metrics = build()
    for partition in (1, 11):
        metrics.position(Position("t", partition, 1, 1, 9, NOW_MS), NOW_MS)
        metrics.held(partition, 4)
    metrics.revoked(1)
    assert value(registry, "lag_records", topic="t", partition="1") is None
    assert value(registry, "held_conversions", partition="1") is None
    assert value(registry, "lag_records", topic="t", partition="11") == 8
    assert value(registry, "held_conversions", partition="11") == 4


def test_names_and_labels_keep_the_rules() -> None:
    """Counters end in _total and nothing else does, names are unique, and no label names a person or a campaign."""
    assert len({spec.name for spec in SPECS}) == len(SPECS)
    for spec in SPECS:
        assert (spec.kind == "counter") == spec.name.endswith("_total")
        assert not FORBIDDEN & set(spec.labels)
        assert spec.meaning.endswith(".")
        assert spec.action.endswith(".")
        assert "|" not in spec.meaning + spec.action


def test_documentation_is_current() -> None:
    """docs/metrics.md is what the code says; `python -m streams.metrics > docs/metrics.md` renews it."""
    assert DOCS.read_text(encoding="utf-8") == as_markdown()


@pytest.mark.slow
def test_promtool_finds_nothing() -> None:
    """Prometheus' own linter has no complaint about what is exposed, with values in every metric."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    registry, metrics = build()
    metrics.record(BatchReport(0, stages={"save": 0.1}, credited_at=[(NOW_MS, NOW_MS)]), NOW_MS)
    metrics.position(Position("t", 1, 1, 1, 9, NOW_MS), NOW_MS)
    metrics.held(1, 4)
    metrics.checked({"redis": True})
    shown = generate_latest(registry)
    assert all(b"touchstream_" + spec.name.encode() in shown for spec in SPECS)
    found = subprocess.run([promtool, "check", "metrics"], input=shown, capture_output=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


# -- health


def test_a_check_that_breaks_is_a_check_that_fails() -> None:
    """An exception in a check makes that check fail, in words, and the others still answer."""

    def broken() -> str | None:
        raise RuntimeError("no such thing")

    health = Health()
    health.add("broken", broken)
    health.add("fine", lambda: None, live=True)
    broken_finding, fine = health.readiness()
    assert not broken_finding.ok
    assert "no such thing" in broken_finding.detail
    assert fine.ok
    assert [finding.name for finding in health.liveness()] == ["fine"]
    with pytest.raises(ValueError, match="fine"):
        health.add("fine", lambda: None)


def test_a_report_turns_stale() -> None:
    """A reported check fails before its first report, says what was reported, and fails when it grows too old."""
    now = [0.0]
    check = Reported(90, lambda: now[0])
    assert check() == "not asked yet"
    check.say("maxmemory-policy is allkeys-lru")
    assert check() == "maxmemory-policy is allkeys-lru"
    check.say(None)
    now[0] = 90.0
    assert check() is None
    now[0] = 90.5
    assert check() == "last asked 90 s ago"


def test_dead_letters_trip_and_fall_back() -> None:
    """Few records never trip, exactly the share does not, more does, and good records let it fall back."""
    trip = DeadLetterTrip(share=0.5, window=1_000, least=100)
    trip.add(99, 99)
    assert trip() is None
    trip.add(99, 0)
    assert trip() is None
    trip.add(1, 1)
    assert trip() is not None
    trip.add(0, 0)
    for _ in range(10):
        trip.add(100, 0)
    assert trip() is None
    for _ in range(10_000):
        trip.add(1, 1)
    assert trip() is not None
    assert len(trip._steps) <= 1_000


# -- the server


@pytest.fixture
async def served() -> AsyncIterator[tuple[Server, Health, aiohttp.ClientSession]]:
    registry, metrics = build()
    health = Health()
    server = await serve(build_pages(registry, metrics, health), "127.0.0.1", 0)
    async with aiohttp.ClientSession(server.url) as client:
        yield server, health, client
    await server.stop()


async def test_probes_tell_each_check(served: tuple[Server, Health, aiohttp.ClientSession]) -> None:
    """200 and `ok` while all is fine, 503 and the reason when a check fails; liveness only looks at its own."""
    _, health, client = served
    problems: dict[str, str] = {}
    health.add("kafka", lambda: None, live=True)
    health.add("redis", lambda: problems.get("redis"))
    async with client.get("/readyz") as answer:
        assert answer.status == 200
        assert (await answer.json())["status"] == "ok"
    problems["redis"] = "evicted_keys is 3"
    async with client.get("/readyz") as answer:
        assert answer.status == 503
        body: dict[str, Any] = json.loads(await answer.text())
    assert body == {
        "status": "failing",
        "checks": {"kafka": {"ok": True, "detail": ""}, "redis": {"ok": False, "detail": "evicted_keys is 3"}},
    }
    async with client.get("/livez") as answer:
        assert answer.status == 200
        assert set((await answer.json())["checks"]) == {"kafka"}
    async with client.get("/metrics") as answer:
        shown = await answer.text()
    assert 'touchstream_check_ok{check="redis"} 0.0' in shown
    assert 'touchstream_check_ok{check="kafka"} 1.0' in shown


async def test_metrics_speak_both_formats(served: tuple[Server, Health, aiohttp.ClientSession]) -> None:
    """Prometheus gets what it asks for: the text format, or OpenMetrics with its end mark."""
    client = served[2]
    async with client.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert "# TYPE touchstream_events_total counter" in await answer.text()
    wanted = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with client.get("/metrics", headers=wanted) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert (await answer.text()).endswith("# EOF\n")


async def test_first_page_leads_on(served: tuple[Server, Health, aiohttp.ClientSession]) -> None:
    """The first page is HTML and every link on it works or is a failing probe."""
    client = served[2]
    async with client.get("/") as answer:
        assert answer.content_type == "text/html"
        page = await answer.text()
    for path in ("/readyz", "/livez", "/metrics"):
        assert f'href="{path}"' in page
        async with client.get(path) as answer:
            assert answer.status in (200, 503)
    async with client.get("/nowhere") as answer:
        assert answer.status == 404


async def test_a_configured_port_that_is_taken_is_an_error() -> None:
    """Exit 3, with the address and what to do."""
    registry, metrics = build()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConnectError) as caught:
            await serve(build_pages(registry, metrics, Health()), "127.0.0.1", taken.getsockname()[1])
    assert caught.value.exit_code == EXIT_CONNECT


async def test_a_host_that_is_not_ours_is_an_error() -> None:
    """An address of no interface of this machine does not fall back to anything."""
    registry, metrics = build()
    with pytest.raises(ConnectError):
        await serve(build_pages(registry, metrics, Health()), "192.0.2.1", None)


async def test_the_default_port_moves_when_taken(caplog: pytest.LogCaptureFixture) -> None:
    """Two workers without a configured port both run: the second takes a free port and says which."""
    registry, metrics = build()
    first = await serve(build_pages(registry, metrics, Health()))
    second = await serve(build_pages(registry, metrics, Health()))
    try:
        assert second.moved
        assert second.port not in (first.port, PORT_DEFAULT)
        assert str(second.port) in caplog.text
        async with aiohttp.ClientSession() as client, client.get(f"{second.url}/livez") as answer:
            assert answer.status == 200
    finally:
        await first.stop()
        await second.stop()


async def test_the_default_port_moves_when_another_process_is_quicker_to_listen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both may bind it; the second finds out when it listens."""
    registry, metrics = build()
    asked: list[int] = []

    def create_server(address: tuple[str, int], **options: Any) -> socket.socket:
        asked.append(address[1])
        if len(asked) == 1:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return socket.create_server(address, **options)

    monkeypatch.setattr("streams.web.server.create_server", create_server)
    server = await serve(build_pages(registry, metrics, Health()))
    await server.stop()
    assert asked == [PORT_DEFAULT, 0]
    assert server.moved
