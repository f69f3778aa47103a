"""One worker process: `python -m streams.worker`, started by the supervisor, which hands the settings in.

Standard input carries the settings and then stays open; when it closes the supervisor is gone, however it went, and
the worker stops in good order. Standard output carries one line of totals at the end.
"""

import asyncio
import base64
import ctypes
import gc
import json
import logging
import os
import pickle
import signal
import sys
import threading
from collections import Counter
from dataclasses import fields
from typing import Any

import stamina
from aiokafka.errors import KafkaError

from streams.errors import TouchstreamError, render
from streams.failures import block_of
from streams.processor import leave
from streams.repeats import Repeats
from streams.report import BatchReport
from streams.settings import Settings

log = logging.getLogger("touchstream.worker")

# Journeys and credits hold no cycles: collecting them costs a third of the throughput and frees nothing.
GC_THRESHOLDS = (200_000, 20, 100)

# Memory that one step frees is what the next one needs. By default glibc gives it back to the system each time, and a
# tenth of a worker's processor time goes by page faults. Numbers of mallopt(3) with bytes: what is kept at the top of
# the heap, and from which size on a piece is mapped by itself (the most that glibc allows).
MALLOC_OPTIONS = {-1: 128 << 20, -3: 32 << 20}

# Not SIGTERM: a supervisor that ends after it has asked its workers to stop has not asked them a second time.
SUPERVISOR_GONE = signal.SIGHUP

# What links came to, as `models.linking.Outcome` has it.
LINKED = ("admitted", "refused", "merged", "passed_on", "waiting")

# Stages as log lines name them: two processes of different stages work on the same partition numbers.
SHOWN = {"credit": "attribution", "identity": "identity"}

# Loggers of libraries that report, as warnings, what the protocol expects and handles.
QUIET = ("aiokafka", "faust", "mode", "streams.app", "streams.transport", "state.table")


class Totals:
    """Sums of everything the steps reported."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._names = [f.name for f in fields(BatchReport) if f.type in {"int", int} and f.name != "partition"]

    def add(self, report: BatchReport) -> None:
        for name in self._names:
            self._sums[name] += getattr(report, name)

    def add_linked(self, linked: Any) -> None:
        """Take what the links of a step came to."""
        for name in LINKED:
            self._sums[f"links_{name}"] += getattr(linked, name)

    def line(self) -> str:
        return json.dumps(
            {name: self._sums[name] for name in self._names}
            | {f"links_{name}": self._sums[f"links_{name}"] for name in LINKED}
        )


def main() -> None:
    """Run a worker until SIGTERM, SIGINT or the end of standard input."""
    settings: Settings = pickle.loads(base64.b64decode(sys.stdin.buffer.readline()))
    line = f"%(asctime)s %(levelname)s %(name)s [{SHOWN[sys.argv[3]]}] %(message)s"
    logging.basicConfig(level=sys.argv[2], stream=sys.stderr, format=line)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Repeats())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Otherwise retries are printed to standard output where structlog happens to be installed.
    stamina.instrumentation.set_on_retry_hooks([stamina.instrumentation.LoggingOnRetryHook])
    _keep_memory()
    totals = Totals()
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        code = runner.run(_run(settings, totals, int(sys.argv[1]), sys.argv[3]))
    print(totals.line(), flush=True)
    logging.shutdown()
    # Threads of libraries may still be about; nothing of value is left to do.
    os._exit(code)


def _keep_memory() -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; other C libraries have none
    if mallopt is not None:
        for option, size in MALLOC_OPTIONS.items():
            mallopt(option, size)


def _new_loop() -> asyncio.AbstractEventLoop:
    from streams.loop import Loop  # noqa: PLC0415

    loop: asyncio.AbstractEventLoop = Loop()
    return loop


async def _run(settings: Settings, totals: Totals, number: int, name: str) -> int:
    """Start the app, wait for the end, and stop it in good order; the exit code."""
    from streams import watchdog  # noqa: PLC0415
    from streams.app import build_app  # noqa: PLC0415
    from streams.following import Following  # noqa: PLC0415
    from streams.origin import read_origin  # noqa: PLC0415
    from streams.policies import Reader, join  # noqa: PLC0415
    from streams.stages import credit_stage, identity_stage  # noqa: PLC0415
    from streams.watch import Watch  # noqa: PLC0415

    stop = _stop_on_signals(asyncio.get_running_loop())
    watch = Watch(settings.policy(), settings.compiled_filters())

    def report(step: BatchReport) -> None:
        totals.add(step)
        watch.report(step)

    following = None
    try:
        origin = await read_origin(settings, name)
        if name == "identity":
            stage = identity_stage(settings, report, totals.add_linked, origin)
        else:
            known = await join(settings)
            following = Following(settings.policy(), settings.processing.settle, known, Reader(settings))
            stage = credit_stage(settings, report, following, origin)
        app = build_app(settings, stage)
        await watch.start(settings.web, number, app.batch_owner, app.journeys)
    except (TouchstreamError, KafkaError, OSError) as exc:
        return _say(exc)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    processing = settings.processing
    stuck_after_s = max(processing.stuck_after, 2 * processing.settle) / 1000
    watching = asyncio.ensure_future(watchdog.watch(app.batch_owner.parts, stuck_after_s))
    starting = asyncio.ensure_future(app.start())
    stopped = asyncio.ensure_future(stop.wait())
    crashed = asyncio.ensure_future(app._crashed.wait())
    await asyncio.wait({starting, stopped, crashed, watching}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done() and starting.exception() is None:
        await asyncio.wait({stopped, crashed, watching}, return_when=asyncio.FIRST_COMPLETED)
    # The watchdog ends by a defect only.
    failure = app._crash_reason or next((t.exception() for t in (starting, watching) if t.done()), None)
    if failure is not None:
        return _say(failure)
    try:
        async with asyncio.timeout(processing.stop_deadline / 1000):
            app.consumer.stop_flow()
            await app.batch_owner.close()
            await app.stop()
            await watch.stop()
            if following is not None:
                await following.close()
    except TimeoutError:
        leave(f"the worker did not stop within {processing.stop_deadline / 1000:g} s")
    watching.cancel()
    return 0


def _stop_on_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT, or where the supervisor has gone; the second signal ends the process."""
    stop, asked_before = asyncio.Event(), asyncio.Event()

    def asked() -> None:
        if asked_before.is_set():
            leave("asked to stop a second time")
        asked_before.set()
        stop.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, asked)
    loop.add_signal_handler(SUPERVISOR_GONE, stop.set)
    return stop


def _say(failure: BaseException) -> int:
    """Print the block of what ended the worker; its exit code."""
    block = block_of(failure)
    print(render(block), file=sys.stderr, flush=True)
    return block.exit_code


def _end_with_supervisor() -> None:
    # Not sys.stdin: a thread that waits in its lock would end the interpreter with a fatal error.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), SUPERVISOR_GONE)


if __name__ == "__main__":
    main()
