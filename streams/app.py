"""The Faust app of a worker: one agent over the two input topics, one table of journeys, one task a partition number.

Nothing is built at import. `build_app` wires the parts; tests hand in their own store.
"""

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import faust
from aiokafka.errors import KafkaError
from faust.types import TP

from models.policy import Policy
from models.rules import Rules
from state.store import StoreError
from state.table import JourneyTable, TableManager
from streams import transport
from streams.crash import crash_point
from streams.decode import Decoder
from streams.origin import Origin
from streams.processor import Limits, PartitionTask, leave
from streams.publish import Publisher, Refused, Superseded, Uncertain
from streams.report import BatchReport
from streams.settings import SecuritySettings, Settings
from streams.topics import group_of, topics_of

log = logging.getLogger("touchstream.app")

HEARTBEAT_S = 1.0
FETCH_BYTES = 2 << 20
REQUEST_TIMEOUT_S = 30.0
REBALANCE_TIMEOUT_S = 60.0


class Owner:
    """The partition numbers of this worker; what the transport asks when they come and go."""

    def __init__(
        self,
        settings: Settings,
        table: Any,
        report: Callable[[BatchReport], None],
        earlier: Sequence[Policy],
        origin: Origin | None,
    ) -> None:
        self.topics = topics_of(settings)
        self.touches = self.topics.touches
        self.conversions = self.topics.conversions
        self.batch_records = settings.processing.fetch_records
        self.parts: dict[int, PartitionTask] = {}
        self.rebalances = 0
        self._reclaims = 0
        self._settings = settings
        self._table = table
        self._report = report
        self._origin = origin
        self._crash_point = crash_point()
        policy = settings.policy()
        self._rules = Rules(policy, settings.processing.settle, earlier)
        by_account = policy.journey == "account"
        self._decoder = Decoder(self.touches, self.conversions, by_account, settings.compiled_filters())

    async def on_assigned(self, consumer: transport.Consumer, partitions: set[int]) -> Mapping[TP, int]:
        """Claim every partition number owned now, kept ones too: the rebalance stopped them."""
        self.rebalances += 1
        await self._forget(set(self.parts) - partitions)
        for partition in partitions:
            if partition not in self.parts:
                self.parts[partition] = self._new_part(partition)
        try:
            starts = await asyncio.gather(*(self.parts[p].claim(consumer) for p in sorted(partitions)))
        except (StoreError, Superseded, Uncertain, Refused, KafkaError, OSError) as exc:
            # Another worker claimed meanwhile, or a server does not answer: a new start finds out. A StartError, which
            # only people can mend, ends the worker with 1.
            leave(f"claiming {sorted(partitions)}: {exc!r}")
            raise
        for partition in partitions:
            self.parts[partition].start()
        return {tp: offset for found in starts for tp, offset in found.items()}

    async def on_revoked(self, partitions: set[int]) -> None:
        """Finish and commit what is under way."""
        await asyncio.gather(*(self.parts[p].stop() for p in partitions if p in self.parts))

    async def close(self) -> None:
        """Stop everything, for the end of the worker."""
        await self.on_revoked(set(self.parts))
        await self._forget(set(self.parts))

    def reclaims(self) -> int:
        """How often partitions were claimed again while running, since the start."""
        return self._reclaims + sum(part.reclaims for part in self.parts.values())

    async def _forget(self, partitions: Iterable[int]) -> None:
        for partition in list(partitions):
            part = self.parts.pop(partition)
            self._reclaims += part.reclaims
            await part.close()

    def _new_part(self, partition: int) -> PartitionTask:
        s, prefix = self._settings, self._settings.kafka.prefix
        publisher = Publisher(
            s.kafka.client_options(),
            f"{prefix}.credit.{partition}",
            group_of(s),
            {
                "touches": self.topics.touches,
                "conversions": self.topics.conversions,
                "credits": self.topics.credits,
                "dead_letters": self.topics.dead_letters,
            },
            self._crash_point,
        )
        p = s.processing
        limits = Limits(
            p.settle, p.step_records, p.held_max, p.commit_interval / 1000, p.retry_deadline / 1000, p.trip_wire
        )
        return PartitionTask(
            partition,
            self.topics,
            self._table.data,
            publisher,
            self._decoder,
            self._rules,
            limits,
            self._crash_point,
            self._report,
            self._origin,
            p.republish,
        )


def credentials(security: SecuritySettings) -> Any:
    """Faust's form of the TLS and SASL settings; None for a plain connection."""
    options = security.client_options()
    context = options.get("ssl_context")
    if "sasl_mechanism" in options:
        return faust.SASLCredentials(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            mechanism=options["sasl_mechanism"],
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


class App(faust.App):
    """Faust's app with the owner that the batch transport asks for."""

    batch_owner: Owner
    journeys: Any


def build_app(
    settings: Settings,
    report: Callable[[BatchReport], None],
    earlier: Sequence[Policy] = (),
    journeys: Any = None,
    origin: Origin | None = None,
) -> App:
    """A worker's app.

    `report` gets what each step did; `earlier` are policies that conversions were credited with before; `journeys`
    replaces the store in Redis, for tests; `origin` is the log as Kafka tells it, which the store must be made from.
    """
    transport.install()
    processing = settings.processing
    folder = Path(tempfile.gettempdir()) / f"touchstream-{os.getpid()}"
    app = App(
        group_of(settings),
        broker=f"{transport.SCHEME}://{','.join(settings.kafka.bootstrap_servers())}",
        broker_client_id="touchstream",
        broker_credentials=credentials(settings.kafka.security),
        broker_session_timeout=processing.session_timeout / 1000,
        broker_heartbeat_interval=HEARTBEAT_S,
        broker_request_timeout=REQUEST_TIMEOUT_S,
        broker_rebalance_timeout=REBALANCE_TIMEOUT_S,
        broker_max_poll_interval=300.0,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=FETCH_BYTES,
        # Without a standby Faust falls back to an assignor that splits the two topics of a partition number.
        table_standby_replicas=1,
        TableManager=TableManager,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        web_tables_enabled=False,
        # An exception in the agent ends the process; the default supervisor would lose the batch it was in.
        agent_supervisor="mode.CrashingSupervisor",
        cython_optimizations=True,
        stream_wait_empty=True,
        producer_threaded=False,
        value_serializer="raw",
        key_serializer="raw",
        datadir=str(folder),
        store="memory://",
    )
    table = JourneyTable(
        app,
        name=settings.kafka.prefix,
        store=settings.redis.url,
        options={} if journeys is None else {"journeys": journeys},
    )
    app.tables.add(table)
    app.journeys = table.data
    owner = app.batch_owner = Owner(settings, table, report, earlier, origin)
    topic = app.topic(owner.touches, owner.conversions, schema=transport.BatchSchema(key_type=bytes, value_type=bytes))

    @app.agent(topic)
    async def credit(stream: Any) -> None:
        """Hand each batch to the task of its partition number."""
        stream.enable_acks = False
        async for event in stream.events():
            part = owner.parts.get(event.message.partition)
            if part is None or not part.take(event):
                app.consumer.ack(event.message)

    return app
