"""Supervises worker processes: restarts those that gave up their partitions, and ends when it must.

A worker that ends with 75 was fenced or unsure and wants a new start; one that a signal killed is started again too.
So is one that cannot connect any more after it has run: an outage must not need a person to end it. Any other exit
code is for people: the other workers are stopped, and it becomes the supervisor's own.
"""

import asyncio
import logging
import random
import signal
import subprocess
import time
from types import FrameType

from aiokafka.errors import KafkaError

from streams.errors import EXIT_CONNECT, EXIT_FINE, EXIT_RESTART
from streams.preflight import preflight
from streams.settings import Settings
from streams.spawn import spawn
from streams.topics import unreachable

log = logging.getLogger("touchstream.supervisor")

POLL_S = 0.1
# A worker that dies at once is not started again in a tight loop; the pause doubles up to the longest one and is
# forgotten after a run of this length.
PAUSE_S = 0.2
PAUSE_MAX_S = 10.0
STABLE_S = 60.0
# A worker that lived so long had Kafka and Redis.
PROVEN_S = 15.0
# Workers end by themselves at `processing.stop_deadline`; one that takes so much longer hangs, and is killed.
STOP_MARGIN_S = 5.0


class Supervisor:
    """`run` blocks until SIGTERM or SIGINT, or until a worker ends for good."""

    def __init__(self, settings: Settings, workers: int) -> None:
        self._settings = settings
        stages = ("credit", "identity") if settings.identity.enabled else ("credit",)
        places = [(stage, n) for stage in stages for n in range(workers)]
        # Ports count up over all of them.
        self._slots = [_Slot(settings, number, stage) for number, (stage, _) in enumerate(places)]
        self._signals = 0
        self._at_once = 0

    def run(self) -> int:
        """The exit code for the command; 128 + signal where a second one cut the orderly stop short."""
        before = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            for slot in self._slots:
                slot.start()
            code = self._watch()
        finally:
            self._stop()
            for number, handler in before.items():
                signal.signal(number, handler)
        return self._at_once or code

    def _watch(self) -> int:
        while not self._signals:
            for slot in self._slots:
                code = slot.look()
                if code is not None:
                    return code
            time.sleep(POLL_S)
        return EXIT_FINE

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            self._at_once = 128 + number
            for slot in self._slots:
                slot.kill()

    def _stop(self) -> None:
        for slot in self._slots:
            slot.terminate()
        deadline = time.monotonic() + self._settings.processing.stop_deadline / 1000 + STOP_MARGIN_S
        for slot in self._slots:
            slot.wait(max(0.0, deadline - time.monotonic()))


class _Slot:
    """One place for a worker process."""

    def __init__(self, settings: Settings, number: int, stage: str) -> None:
        self._settings = settings
        self._number = number
        self._stage = stage
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._start_again_s = 0.0
        self._pause_s = PAUSE_S
        self._has_run = False

    def start(self) -> None:
        self._started_s = time.monotonic()
        self._process = spawn(
            self._settings, self._number, stage=self._stage, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def look(self) -> int | None:
        """Start the worker again where that is right; its exit code where it ended for good."""
        if self._process is None:
            if time.monotonic() >= self._start_again_s:
                self.start()
            return None
        code = self._process.poll()
        if code is None:
            return None
        ran_s = time.monotonic() - self._started_s
        self._has_run = self._has_run or ran_s > PROVEN_S
        if code >= 0 and code != EXIT_RESTART and not (code == EXIT_CONNECT and self._has_run):
            log.error("worker %d ended with %d", self._number, code)
            return code
        if ran_s > STABLE_S:
            self._pause_s = PAUSE_S
        pause_s = self._pause_s * random.uniform(0.5, 1.5)
        self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)
        log.warning("worker %d ended with %d, starting it again in %.1f s", self._number, code, pause_s)
        self._process, self._start_again_s = None, time.monotonic() + pause_s
        return None

    def terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def wait(self, timeout_s: float) -> None:
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                log.error("worker %d does not end: killing it", self._number)
                self._process.kill()
                self._process.wait()


async def _prepare(settings: Settings) -> None:
    from streams import policies  # noqa: PLC0415  (what checks come first need not wait for it)

    await preflight(settings)
    try:
        policies.refuse_outdated(settings, await policies.join(settings))
    except (KafkaError, TimeoutError) as exc:
        raise unreachable(settings, exc) from exc


def run(settings: Settings, workers: int) -> int:
    """Supervise `workers` processes; the exit code of the command."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    asyncio.run(_prepare(settings))
    return Supervisor(settings, workers).run()
