"""Workers whose wall clock a test sets while they run: Debian's libfaketime, loaded into them alone."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

from tests.support.servers import MissingServer

LIBRARIES = "*/faketime/libfaketimeMT.so.1"
STAMP = "%Y-%m-%d %H:%M:%S"
STAMP_CHARACTERS = 19


class Clock:
    """What workers take for the time of day; it passes as usual, only from elsewhere. The monotonic clock stays."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump(timedelta(0))

    @property
    def environment(self) -> Mapping[str, str]:
        """For a process that is to live by it."""
        return {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # second until a jump is seen
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, away: timedelta) -> None:
        """From now on it differs so much from the real one."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{away.total_seconds():+.0f}")
        new.replace(self._file)


@contextmanager
def strange_clock() -> Iterator[Clock]:
    """The clock of every process that is started within. Raises MissingServer where libfaketime is not installed."""
    with tempfile.TemporaryDirectory(prefix="touchstream-clock-") as folder:
        clock = Clock(Path(folder) / "clock")
        with mock.patch.dict(os.environ, clock.environment):
            yield clock


def differences(log: str) -> tuple[timedelta, timedelta]:
    """How far the times of a log reach before now and beyond it: what shows that its process saw the clock jump."""
    now = datetime.now()
    times = [found for line in log.splitlines() if (found := _time(line)) is not None]
    return now - min(times, default=now), max(times, default=now) - now


def _time(line: str) -> datetime | None:
    try:
        return datetime.strptime(line[:STAMP_CHARACTERS], STAMP)
    except ValueError:
        return None


def _library() -> Path:
    found = next(Path("/usr/lib").glob(LIBRARIES), None)
    if found is None:
        raise MissingServer("libfaketime is not on this machine: apt-get install faketime")
    return found
