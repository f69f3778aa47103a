"""`touchstream demo`: a broker, Valkey, a worker and made-up journeys in one go, and the credits as they come.

Everything but the view is what a user would start by hand: the worker is `touchstream run`, the journeys come from
`touchstream simulate`, the credits are read from the credits topic as any consumer reads them. All of it ends with
this process, however that ends (`streams.servers`), and nothing is left on the disk.
"""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streams import embedded, topics
from streams.demo_view import Rates, Tally, credit_row, headline, money_text, screen
from streams.errors import RunFailed
from streams.options import DemoOptions
from streams.servers import Child
from streams.settings import Settings, load_settings
from streams.spawn import hand_over, worker_command

STARTED = time.monotonic()
SETUP_FRESH_SECONDS = 30.0  # `make demo` starts us right after the set-up
FIRST_CREDIT_SECONDS = 60.0  # a crowded two-core machine needs about five; beyond this something is wrong
LINES_EVERY_SECONDS = 1.0
VIEWS_A_SECOND = 4
FETCH_MS = 100
PREFERRED = "last_touch"  # the attribution model whose money is shown, if it is among those computed


@dataclass
class Demo:
    """What a running demo knows: its parts, how long the set-up took, and the tally."""

    options: DemoOptions
    settings: Settings
    tally: Tally
    setup: dict[str, float]
    children: list[Child] = field(default_factory=list)
    rates: Rates = field(default_factory=Rates)
    credited: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = field(default_factory=time.monotonic)

    def step(self, name: str, since: float) -> float:
        """Tell how long a step took, and return the time from which the next one counts."""
        now = time.monotonic()
        print(f"  {name:<22}{now - since:6.1f} s", flush=True)
        return now


def demo(options: DemoOptions) -> int:
    """Run until Ctrl-C or a limit, and return 0.

    Raises RunFailed with the end of its log if a part ends by itself or no credit comes, ConnectError if a server
    does not start, UsageError without the `demo` extra.
    """
    print("touchstream demo", flush=True)
    setup = setup_seconds()
    for name, seconds in setup.items():
        print(f"  {name:<22}{seconds:6.1f} s", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        _with_servers(options, setup)
    return 0


def _with_servers(options: DemoOptions, setup: dict[str, float]) -> None:
    since = time.monotonic()
    with embedded.broker() as kafka, embedded.valkey() as redis:
        settings = load_settings(options.config, _overrides(options.settings, kafka.url, redis.url))
        running = Demo(options, settings, Tally(shown_model(settings)), setup)
        asyncio.run(_run(running, running.step("broker and Valkey", since)))
    print("stopped; nothing is left behind", flush=True)


def _overrides(settings: Settings, broker: str, redis: str) -> dict[str, Any]:
    """What the command line said stays; the servers are our own, and want nobody's TLS or password."""
    own = {"kafka.broker": broker, "kafka.security.protocol": "plaintext", "redis.url": redis}
    return {**settings.given, **own, "redis.cluster": False}


def shown_model(settings: Settings) -> str:
    """The attribution model whose credits are shown: last_touch, or else the first of those computed."""
    names = settings.attribution.models
    return PREFERRED if PREFERRED in names else names[0]


def setup_seconds(path: Path | None = None, now: float | None = None) -> dict[str, float]:
    """How long the set-up took that `make demo` did just now, and the part of it in which the broker was built.

    `deploy/set_up.py` notes both; what an earlier set-up took is not of this start, and there is nothing then.
    """
    noted = path or Path(sys.prefix) / ".setup-seconds"
    try:
        if (time.time() if now is None else now) - noted.stat().st_mtime > SETUP_FRESH_SECONDS:
            return {}
        found = json.loads(noted.read_text(encoding="ascii"))
        return {"set-up": float(found["set_up_s"]), "of it broker build": float(found["build_s"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # a demo of its own, without the Makefile: nothing to tell


async def _run(running: Demo, since: float) -> None:
    _end_on_sigterm()
    await topics.ensure(running.settings, running.options.partitions)
    since = running.step("topics", since)
    with contextlib.ExitStack() as stack:
        # A worker of its own, not `touchstream run`: that would look at the servers first, and a second would pass.
        worker = stack.enter_context(Child.started("worker", worker_command(log_level="WARNING")))
        hand_over(running.settings, worker.process)
        running.children.append(worker)
        _start(running, stack, "generator", _simulate_arguments(running.options))
        # Ctrl-C cancels this very task; what is left to do is the same as when a limit is reached.
        with contextlib.suppress(asyncio.CancelledError):
            await _watch(running, since)
        _summary(running)


def _end_on_sigterm() -> None:
    """SIGTERM ends the demo as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def _simulate_arguments(options: DemoOptions) -> list[str]:
    return ["simulate", "--rate", f"{options.rate:g}", "--seed", str(options.seed)]


def _start(running: Demo, stack: contextlib.ExitStack, name: str, arguments: list[str]) -> None:
    """Start `touchstream …` as a child that ends with us. `-P`: a folder `models` here must not shadow ours."""
    command = [sys.executable, "-P", "-m", "streams.cli", *arguments]
    command += ["--config", running.options.config] if running.options.config else []
    for path, value in running.settings.given.items():
        command += ["--set", f"{path}={json.dumps(value)}"]
    running.children.append(stack.enter_context(Child.kept(name, command)))


async def _watch(running: Demo, since: float) -> None:
    async with _reader(running.settings) as consumer:
        tasks = [asyncio.create_task(_read(running, consumer, since))]
        tasks.append(asyncio.create_task(_show(running, consumer)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _read(running: Demo, consumer: Any, since: float) -> None:
    """Take credits into the tally until a limit is reached."""
    credits_topic = topics.name_of(running.settings, "credits")
    while not _done(running):
        for tp, records in (await consumer.getmany(timeout_ms=FETCH_MS)).items():
            now_ms = time.time() * 1000
            if tp.topic != credits_topic:
                running.tally.dead_letters += len(records)
                continue
            for record in records:
                running.tally.add(record.key, record.value, now_ms - record.timestamp)
        if running.tally.credits and not running.credited.is_set():
            running.credited.set()
            running.step("first credit", since)
            in_all = time.monotonic() - STARTED + running.setup.get("set-up", 0.0)
            print(f"  {'all together':<22}{in_all:6.1f} s", flush=True)
        _check(running, since)


def _done(running: Demo) -> bool:
    limits = running.options
    if limits.credits is not None and running.tally.credits >= limits.credits:
        return True
    return limits.seconds is not None and time.monotonic() - running.began >= limits.seconds


def _check(running: Demo, since: float) -> None:
    """Raise RunFailed if a part has ended, or if no credit comes."""
    for child in running.children:
        if child.process.poll() is not None:
            raise _failed(child, f"the {child.name} ended by itself, exit code {child.process.returncode}")
    if not running.credited.is_set() and time.monotonic() - since > FIRST_CREDIT_SECONDS:
        raise _failed(running.children[0], f"no credit came within {FIRST_CREDIT_SECONDS:g} s")


def _failed(child: Child, what: str) -> RunFailed:
    """The block for a part that does not do its work; the end of its log says why."""
    log = child.failed("").why
    fix = "see the lines above; TOUCHSTREAM_DEBUG=1 makes them more"
    return RunFailed("T210", what, f"touchstream demo, {child.name}", log, fix)


@contextlib.asynccontextmanager
async def _reader(settings: Settings) -> AsyncIterator[Any]:
    """A consumer of all credits and dead letters from the start, outside any group, committed ones only."""
    from aiokafka import AIOKafkaConsumer, TopicPartition  # noqa: PLC0415

    consumer = AIOKafkaConsumer(
        **settings.kafka.client_options(),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=FETCH_MS,
    )
    await consumer.start()
    try:
        async with topics.admin_client(settings) as client:
            counts = (await topics.read_cluster(client, settings)).topics
        read = (topics.name_of(settings, topic) for topic in ("credits", "dead-letters"))
        partitions = [TopicPartition(name, p) for name in read for p in range(counts[name].partitions)]
        consumer.assign(partitions)
        yield consumer
    finally:
        await consumer.stop()


async def _counts(settings: Settings, consumer: Any, partitions: int) -> dict[str, int]:
    """How many records each input topic has. Its producers use no transactions, so offsets are records."""
    from aiokafka import TopicPartition  # noqa: PLC0415

    names = {topic: topics.name_of(settings, topic) for topic in topics.INPUTS}
    asked = [TopicPartition(name, p) for name in names.values() for p in range(partitions)]
    ends = await consumer.end_offsets(asked)
    return {topic: sum(ends[tp] for tp in asked if tp.topic == name) for topic, name in names.items()}


async def _show(running: Demo, consumer: Any) -> None:
    """Draw until cancelled: a live screen on a terminal, else a line a second."""
    if running.options.plain or not sys.stdout.isatty():
        return await _lines(running, consumer)
    return await _screen(running, consumer)


async def _lines(running: Demo, consumer: Any) -> None:
    while True:
        await asyncio.sleep(LINES_EVERY_SECONDS)
        await _measure(running, consumer)
        if running.credited.is_set():
            print("  " + headline(running.tally, running.rates), flush=True)


async def _screen(running: Demo, consumer: Any) -> None:
    from rich.live import Live  # noqa: PLC0415

    notes = ["Ctrl-C stops and removes everything"]
    await running.credited.wait()
    with Live(refresh_per_second=VIEWS_A_SECOND, transient=False) as live:
        while True:
            await _measure(running, consumer)
            live.update(screen(running.tally, running.rates, notes))
            await asyncio.sleep(LINES_EVERY_SECONDS)


async def _measure(running: Demo, consumer: Any) -> None:
    counts = await _counts(running.settings, consumer, running.options.partitions)
    running.rates.update(counts, time.monotonic())


def _summary(running: Demo) -> None:
    tally, counts = running.tally, running.rates.counts
    print("\nlast credits (" + tally.attribution_model + ")")
    for credit in tally.last:
        print("  " + "  ".join(cell for cell in credit_row(credit) if cell))
    print(
        f"touches {counts.get('touches', 0):,} · conversions {counts.get('conversions', 0):,} · "
        f"credits {tally.credits:,} · credited {money_text(tally.money)} · "
        f"dead letters {tally.dead_letters:,} · "
        f"p50 {tally.percentile(0.5):,.0f} ms · p99 {tally.percentile(0.99):,.0f} ms · "
        f"{time.monotonic() - running.began:.1f} s",
        flush=True,
    )
