"""`models.times`: RFC 3339 with an offset, and nothing else, to epoch milliseconds."""

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.times import AHEAD_MAX_MS, EARLIEST_MS, is_believable, parse_time

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MILLISECOND = datetime.timedelta(milliseconds=1)
ZONES = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(
    lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes))
)
TIMES = st.datetimes(
    datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1), timezones=ZONES, allow_imaginary=False
)


@settings(derandomize=True, database=None, deadline=None, max_examples=500)
@given(TIMES, st.sampled_from(["auto", "seconds", "milliseconds", "microseconds"]))
def test_equals_the_standard_library(time: datetime.datetime, precision: str) -> None:
    """Any time that Python writes is read as Python reads it, cut to the millisecond."""
    text = time.isoformat(timespec=precision)
    assert parse_time(text) == (datetime.datetime.fromisoformat(text) - EPOCH) // MILLISECOND


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2025-10-09T08:53:20Z", 1_760_000_000_000),
        ("2025-10-09t08:53:20z", 1_760_000_000_000),
        ("2025-10-09T08:53:20-00:00", 1_760_000_000_000),
        ("2025-10-09T10:53:20+02:00", 1_760_000_000_000),
        ("2025-10-09T03:23:20-05:30", 1_760_000_000_000),
        ("2025-10-10T08:52:20+23:59", 1_760_000_000_000),
        ("2025-10-09T08:53:20.5Z", 1_760_000_000_500),
        ("2025-10-09T08:53:20.05Z", 1_760_000_000_050),
        ("2025-10-09T08:53:20.123Z", 1_760_000_000_123),
        ("2025-10-09T08:53:20.1239999999999999999999Z", 1_760_000_000_123),
        ("2025-10-09T08:53:20.000999+00:00", 1_760_000_000_000),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
    ],
)
def test_forms_of_rfc_3339(text: str, time_ms: int) -> None:
    """Every form that RFC 3339 allows is read, and digits below a millisecond are cut off, never rounded."""
    assert parse_time(text) == time_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Z",
        "now",
        "1760000000000",
        "2025-10-09",
        "2025-10-09T08:53:20",
        "2025-10-09 08:53:20Z",
        "2025-10-09T08:53Z",
        "2025-10-09T08:53:20+0200",
        "2025-10-09T08:53:20+02",
        "2025-10-09T08:53:20+24:00",
        "2025-10-09T08:53:20+00:60",
        "2025-10-09T08:53:20 Z",
        "2025-10-09T08:53:20.Z",
        "2025-10-09T08:53:20.123",
        "2025-10-09T08:53:20.12 Z",
        "2025-10-09T08:53:20.1234 Z",
        "2025-10-09T08:53:20,5Z",
        "2025-10-09T08:53:20.+5Z",
        "2025-10-09T08:53:20.1234٣Z",
        "2025-10-09T08:53:20.٣Z",
        "٢٠٢٥-10-09T08:53:20Z",
        "2025-10-09T08:53:20Z\n",
        "\n2025-10-09T08:53:20Z",
        " 2025-10-09T08:53:20Z",
        "2025-10-09T24:00:00Z",
        "2025-10-09T08:60:00Z",
        "2016-12-31T23:59:60Z",
        "2025-02-29T00:00:00Z",
        "2025-13-01T00:00:00Z",
        "2025-00-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "12025-10-09T08:53:20Z",
        "-025-10-09T08:53:20Z",
        "20251009T085320Z",
        "2025-W41-4T08:53:20Z",
        "2025-10-09T08:53:20ZZ",
        "2025-10-09T08:53:20Z+02:00",
    ],
)
def test_refuses_everything_else(text: str) -> None:
    """What is not RFC 3339 with an offset is refused, on the first reading and on a repeated one."""
    for _ in range(2):
        with pytest.raises(ValueError, match=r"not a|must be in|out of range"):
            parse_time(text)


def test_believable_range_is_inclusive() -> None:
    """A time is believed from 2000-01-01 to exactly 48 hours after the record time."""
    record_ms = 1_760_000_000_000
    assert is_believable(EARLIEST_MS, record_ms)
    assert not is_believable(EARLIEST_MS - 1, record_ms)
    assert parse_time("2000-01-01T00:00:00Z") == EARLIEST_MS
    assert is_believable(record_ms + AHEAD_MAX_MS, record_ms)
    assert not is_believable(record_ms + AHEAD_MAX_MS + 1, record_ms)
