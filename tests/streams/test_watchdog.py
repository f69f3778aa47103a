"""A stuck worker is noticed, one that works or has nothing to do is not."""

import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

from streams.errors import EXIT_RESTART
from streams.watchdog import Heartbeat, Progress

WAIT_S = 30.0


@dataclass
class Part:
    """What a partition task tells."""

    progress: tuple[object, ...] = (0,)
    waiting: bool = True

    def waits(self) -> bool:
        return self.waiting


def test_waiting_without_progress_is_stuck_after_the_time() -> None:
    """Counted from the first look at which records waited and nothing had been done since."""
    part, progress = Part(), Progress(10.0)
    parts: dict[int, Any] = {3: part}
    assert progress.stuck(parts, 100.0) == []
    assert progress.stuck(parts, 109.9) == []
    assert progress.stuck(parts, 110.0) == [3]


def test_progress_and_rest_begin_the_time_anew() -> None:
    """A step done, nothing to do, or a partition that left and came back: none of them is stuck."""
    part, progress = Part(), Progress(10.0)
    parts: dict[int, Any] = {3: part}
    progress.stuck(parts, 100.0)
    part.progress = (1,)
    assert progress.stuck(parts, 110.0) == []
    part.waiting = False
    assert progress.stuck(parts, 119.0) == []
    part.waiting = True
    assert progress.stuck(parts, 120.0) == []
    assert progress.stuck({}, 129.0) == []
    assert progress.stuck(parts, 130.0) == []
    assert progress.stuck(parts, 140.0) == [3]


def test_a_heart_that_stops_ends_it() -> None:
    """Without a beat for so many ticks the end is called, once."""
    ended = threading.Event()
    heart = Heartbeat(3, ended.set, tick_s=0.001)
    heart.start()
    assert ended.wait(WAIT_S)
    heart.stop()


def test_a_heart_that_beats_goes_on() -> None:
    """A hundred ticks, each after a beat: nobody is ended."""
    ended, ticks = threading.Event(), threading.Semaphore(0)

    class Ticking(threading.Event):
        """The thread's clock: it ticks when it has been given leave to."""

        def wait(self, timeout: float | None = None) -> bool:
            ticked.release()
            ticks.acquire(timeout=WAIT_S)
            return self.is_set()

    ticked = threading.Semaphore(0)
    heart = Heartbeat(2, ended.set)
    heart._over = Ticking()
    heart.start()
    for _ in range(100):
        assert ticked.acquire(timeout=WAIT_S)
        heart.beat()
        ticks.release()
    heart._over.set()
    ticks.release()
    heart.stop()
    assert not ended.is_set()


LOOP_HANGS = """
import asyncio, threading
from streams import watchdog
watchdog.TICK_S = 0.01

async def main():
    asyncio.ensure_future(watchdog.watch({}, 0.05))
    await asyncio.sleep(0)
    threading.Event().wait()

asyncio.run(main())
"""


def test_a_worker_whose_event_loop_hangs_ends_with_the_restart_code() -> None:
    """It says in which line it hung, and leaves with 75 although nothing on its loop can run."""
    found = subprocess.run([sys.executable, "-c", LOOP_HANGS], check=False, capture_output=True, text=True)
    assert found.returncode == EXIT_RESTART, found.stderr
    assert "in main" in found.stderr
