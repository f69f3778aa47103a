"""Ends a worker that is stuck, so that it is started again: a worker that hangs holds its partitions for ever.

Two ways to be stuck. Records wait at a partition and none is done for `stuck_after`: seen by a timer on the event loop.
The event loop itself stands still: seen by a thread, which looks for the timer's heartbeat. The thread counts its own
ticks, not time, so that a process that was suspended and goes on is not taken for one that hangs.
"""

import asyncio
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from streams.errors import EXIT_RESTART
from streams.processor import leave

log = logging.getLogger("touchstream.watchdog")

TICK_S = 1.0
# Time to say why. Where standard error is what everything hangs on, the end must come without.
LAST_WORDS_S = 2.0


class Progress:
    """Which partition numbers have waited since when, as `parts` tell it; times of one monotonic clock."""

    def __init__(self, stuck_after_s: float) -> None:
        self._stuck_after_s = stuck_after_s
        self._since: dict[int, tuple[object, float]] = {}

    def stuck(self, parts: dict[int, Any], now_s: float) -> list[int]:
        """The partition numbers at which records wait and nothing was done for too long."""
        waiting = {number: part.progress for number, part in parts.items() if part.waits()}
        known = self._since
        self._since = {
            number: known[number] if number in known and known[number][0] == progress else (progress, now_s)
            for number, progress in waiting.items()
        }
        return sorted(n for n, (_, since_s) in self._since.items() if now_s - since_s >= self._stuck_after_s)


class Heartbeat:
    """A thread that calls `end` once where `beat` was not called for so many of its ticks."""

    def __init__(self, ticks_max: int, end: Callable[[], None], tick_s: float = TICK_S) -> None:
        self._ticks_max, self._end, self._tick_s = ticks_max, end, tick_s
        self._beats = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def beat(self) -> None:
        """The event loop runs."""
        self._beats += 1

    def stop(self) -> None:
        """Look no more; returns when the thread has ended."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        seen, missed = self._beats, 0
        while not self._over.wait(self._tick_s):
            missed = missed + 1 if self._beats == seen else 0
            seen = self._beats
            if missed >= self._ticks_max:
                self._end()
                return


async def watch(parts: dict[int, Any], stuck_after_s: float) -> None:
    """Watch a worker's partition tasks and its event loop, until cancelled."""
    progress = Progress(stuck_after_s)
    heart = Heartbeat(max(1, round(stuck_after_s / TICK_S)), _leave_without_loop)
    heart.start()
    try:
        while True:
            heart.beat()
            stuck = progress.stuck(parts, time.monotonic())
            if stuck:
                leave(f"no step of partitions {stuck} was finished for {stuck_after_s:g} s although records wait")
            await asyncio.sleep(TICK_S)
    finally:
        heart.stop()


def _leave_without_loop() -> None:
    """Say where the event loop hangs, if that can be said, and end."""
    words = threading.Thread(target=_say_where, daemon=True)
    words.start()
    words.join(LAST_WORDS_S)
    os._exit(EXIT_RESTART)


def _say_where() -> None:
    log.error("leaving: the event loop stands still, here:")
    faulthandler.dump_traceback(sys.stderr)
