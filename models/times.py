"""Times as records write them: RFC 3339 to epoch milliseconds, and the range in which one is believed.

A journey's times cluster, so the hour and the offset are remembered, and minute and second are looked up:
this takes a third of the time of a regular expression over the whole text.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

# Before this nobody recorded touches; it is what seconds in place of milliseconds look like.
EARLIEST_MS = 946_684_800_000
# Clocks run ahead and time zones get lost; anything further off is a wrong unit or a broken clock.
AHEAD_MAX_MS = 48 * HOUR_MS

_HOUR = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):")
_OFFSET = re.compile(r"[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9])")
_MINUTE_AND_SECOND_MS = {
    f"{minute:02}:{second:02}": minute * MINUTE_MS + second * SECOND_MS for minute in range(60) for second in range(60)
}


def parse_time(text: str) -> int:
    """Epoch milliseconds of an RFC 3339 time with an offset; ValueError where it is none.

    Digits below a millisecond are cut off. `-00:00` is UTC. A leap second (`:60`) is refused: epoch time has
    none.
    """
    minute_and_second_ms = _MINUTE_AND_SECOND_MS.get(text[14:19])
    if minute_and_second_ms is None:
        raise ValueError("not a time")
    time_ms = _hour_ms(text[:14]) + minute_and_second_ms
    tail = text[19:]
    if tail == "Z":
        return time_ms
    offset_chars = 1 if tail[-1:] in "Zz" else 6
    fraction = tail[:-offset_chars]
    if fraction:
        time_ms += _fraction_ms(fraction[:4])
        below = fraction[4:]
        if below and not (below.isascii() and below.isdigit()):
            raise ValueError("not a fraction of a second")
    return time_ms - _offset_ms(tail[-offset_chars:])


def format_time(time_ms: int) -> str:
    """The RFC 3339 text of epoch milliseconds, in UTC; milliseconds only where there are some."""
    seconds, millis = divmod(time_ms, SECOND_MS)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{millis:03}Z" if millis else f"{text}Z"


def is_believable(time_ms: int, record_ms: int) -> bool:
    """Whether an event time may be true for a record of that record time (both epoch milliseconds)."""
    return EARLIEST_MS <= time_ms <= record_ms + AHEAD_MAX_MS


@lru_cache(maxsize=16_384)  # nearly two years of hours, about 3 MB
def _hour_ms(text: str) -> int:
    match = _HOUR.fullmatch(text)
    if match is None:
        raise ValueError("not a date and hour")
    year, month, day, hour = map(int, match.groups())
    return int(datetime(year, month, day, hour, tzinfo=UTC).timestamp()) * SECOND_MS


@lru_cache(maxsize=2_048)  # all fractions of one to three digits
def _fraction_ms(text: str) -> int:
    digits = text[1:]
    if text[0] != "." or not (digits.isascii() and digits.isdigit()):
        raise ValueError("not a fraction of a second")
    return int(digits.ljust(3, "0"))


@lru_cache(maxsize=4_096)  # more than there are offsets
def _offset_ms(text: str) -> int:
    match = _OFFSET.fullmatch(text)
    if match is None:
        raise ValueError("not an offset")
    sign, hours, minutes = match.groups()
    if sign is None:
        return 0
    offset_ms = int(hours) * HOUR_MS + int(minutes) * MINUTE_MS
    return -offset_ms if sign == "-" else offset_ms
