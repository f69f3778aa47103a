"""What a worker tells about itself: metrics, probes, totals. Steps report to it; a timer looks at the rest."""

import asyncio
import logging
import time
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry

from models.filters import NO_FILTERS, Filters
from models.policy import Policy
from streams.metrics import Metrics
from streams.report import BatchReport
from streams.settings import WebSettings
from streams.web.health import DeadLetterTrip, Health, Reported
from streams.web.pages import build_pages
from streams.web.server import Server, serve

log = logging.getLogger("touchstream.watch")

LOOK_EVERY_S = 1.0
ASK_STORE_EVERY_S = 60.0
ASK_STORE_TIMEOUT_S = 5.0


class Watch:
    """Collects what steps report, and answers `/metrics`, `/livez` and `/readyz`."""

    def __init__(self, policy: Policy, filters: Filters = NO_FILTERS) -> None:
        self.registry = CollectorRegistry()
        names = [attribution_model.name for attribution_model in policy.models]
        self.metrics = Metrics(
            self.registry,
            attribution_models=names,
            version=version("touchstream"),
            filters=[
                *(("touch", *filtered) for filtered, _ in filters.touches),
                *(("conversion", *filtered) for filtered, _ in filters.conversions),
            ],
        )
        self.health = Health()
        self._names = names
        self._trip = DeadLetterTrip()
        self._store = Reported(3 * ASK_STORE_EVERY_S)
        self._loop_alive = Reported(10 * LOOK_EVERY_S)
        self._owner: Any = None
        self._rebalances = 0
        self._reclaims = 0
        self._shown: set[int] = set()
        self._server: Server | None = None
        self._timer: asyncio.Task[None] | None = None

    def report(self, report: BatchReport) -> None:
        """Take one step's counts."""
        if report.credited:
            report.credited_by_model.update(dict.fromkeys(self._names, report.credited))
        self.metrics.record(report, int(time.time() * 1000))
        dead = report.touches_dead + report.conversions_dead
        good = report.touches_accepted + report.touches_duplicate + report.touches_filtered
        good += report.conversions_accepted + report.conversions_duplicate + report.conversions_filtered
        self._trip.add(good + dead, dead)

    async def start(self, settings: WebSettings, number: int, owner: Any, store: Any) -> None:
        """Open the port and begin to look. Raises ConnectError where a configured port is taken."""
        self._owner = owner
        self.health.add("event_loop", self._loop_alive, live=True)
        self.health.add("partitions", self._partitions)
        self.health.add("caught_up", self._caught_up)
        self.health.add("redis", self._store)
        self.health.add("dead_letters", self._dead_letters)
        # Each worker of a supervisor needs a port of its own: a configured one counts up.
        port = settings.port + number if settings.port else settings.port
        pages = build_pages(self.registry, self.metrics, self.health)
        self._server = await serve(pages, settings.host, port)
        log.info("metrics and probes on %s", self._server.url)
        self._timer = asyncio.ensure_future(self._look(store))

    async def stop(self) -> None:
        """Close the port."""
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            await self._server.stop()

    async def _look(self, store: Any) -> None:
        asked_s = -ASK_STORE_EVERY_S
        while True:
            self._loop_alive.say(None)
            if time.monotonic() - asked_s >= ASK_STORE_EVERY_S:
                asked_s = time.monotonic()
                await self._ask(store)
            self._show()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _ask(self, store: Any) -> None:
        try:
            async with asyncio.timeout(ASK_STORE_TIMEOUT_S):
                problems = await store.health()
        except Exception as exc:  # whatever it is, it belongs on the page, and must not end the timer
            problems = [f"does not answer: {exc!r}"]
        for text in problems:
            log.warning("redis: %s", text)
        faults = [text for text in problems if not text.startswith("warning: ")]
        self._store.say("; ".join(faults) or None)

    def _show(self) -> None:
        parts = self._owner.parts
        now_ms = int(time.time() * 1000)
        for _ in range(self._owner.rebalances - self._rebalances):
            self.metrics.rebalanced()
        self._rebalances = self._owner.rebalances
        reclaims = self._owner.reclaims()
        for _ in range(reclaims - self._reclaims):
            self.metrics.reclaimed()
        self._reclaims = reclaims
        for gone in self._shown - set(parts):
            self.metrics.revoked(gone)
        self._shown = set(parts)
        for number, part in parts.items():
            for place in part.positions():
                self.metrics.position(place, now_ms)
            self.metrics.held(number, part.held)
        self.metrics.assigned(len(parts), sum(part.replaying for part in parts.values()))
        self.metrics.tripped(sum(bool(part.tripped) for part in parts.values()))

    def _partitions(self) -> str | None:
        return None if self._owner.rebalances else "no assignment yet"

    def _dead_letters(self) -> str | None:
        """Partitions that the trip wire stopped; else where dead letters outnumber the rest over all of them."""
        stopped = [f"partition {n}: {part.tripped}" for n, part in sorted(self._owner.parts.items()) if part.tripped]
        if stopped:
            return f"{'; '.join(stopped)}: nothing more is published until `touchstream dead-letters accept`"
        return self._trip()

    def _caught_up(self) -> str | None:
        behind = sorted(p for p, part in self._owner.parts.items() if part.replaying)
        return f"rebuilding journeys of partitions {behind}" if behind else None
