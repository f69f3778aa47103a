"""The Faust app of a worker: one agent over the two input topics, one table of journeys, one task a partition number.

Nothing is built at import. `build_app` wires the parts; tests hand in their own store.
"""

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
from aiokafka.errors import KafkaError
from faust.types import TP

from state.store import StoreError
from state.table import JourneyTable, TableManager
from streams import transport
from streams.native import load
from streams.processor import PartitionTask, leave
from streams.publish import Refused, Superseded, Uncertain
from streams.settings import SecuritySettings, Settings

log = logging.getLogger("touchstream.app")

HEARTBEAT_S = 1.0
FETCH_BYTES = 2 << 20
REQUEST_TIMEOUT_S = 30.0
REBALANCE_TIMEOUT_S = 60.0


def as_they_are(topic: str, records: Iterator[Any]) -> list[Any]:
    """The records of a fetch."""
    return list(records)


@dataclass(frozen=True)
class Stage:
    """A step of the way that records take: which topics it reads, as which group, and who works on a partition number.

    `table` names its keys in the store. `new_part` makes the task of a partition number over that store.
    `unpack`: see `transport.Owner`.
    """

    group: str
    table: str
    inputs: tuple[str, ...]
    new_part: Callable[[int, Any], PartitionTask[Any, Any]]
    unpack: Callable[[str, Iterator[Any]], list[Any]] = as_they_are


class Owner:
    """The partition numbers of this worker; what the transport asks when they come and go."""

    def __init__(self, stage: Stage, batch_records: int, store: Any) -> None:
        self.inputs = stage.inputs
        self.batch_records = batch_records
        self.unpack = stage.unpack
        self.parts: dict[int, PartitionTask[Any, Any]] = {}
        self.rebalances = 0
        self._reclaims = 0
        self._stage = stage
        self._store = store
        # A revocation may come while what it revokes is still being claimed. It waits for the claims, as a task that
        # was started behind its back would work beside the one that the next assignment starts.
        self._changing = asyncio.Lock()

    async def on_assigned(self, consumer: transport.Consumer, partitions: set[int]) -> Mapping[TP, int]:
        """Claim every partition number owned now, kept ones too: the rebalance stopped them."""
        async with self._changing:
            return await self._claim(consumer, partitions)

    async def on_revoked(self, partitions: set[int]) -> None:
        """Finish and commit what is under way."""
        async with self._changing:
            await self._stop(partitions)

    async def close(self) -> None:
        """Stop everything, for the end of the worker."""
        async with self._changing:
            await self._stop(set(self.parts))
            await self._forget(set(self.parts))

    def reclaims(self) -> int:
        """How often partitions were claimed again while running, since the start."""
        return self._reclaims + sum(part.reclaims for part in self.parts.values())

    async def _claim(self, consumer: transport.Consumer, partitions: set[int]) -> Mapping[TP, int]:
        self.rebalances += 1
        await self._forget(set(self.parts) - partitions)
        for partition in partitions:
            if partition not in self.parts:
                self.parts[partition] = self._stage.new_part(partition, self._store)
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

    async def _stop(self, partitions: Iterable[int]) -> None:
        await asyncio.gather(*(self.parts[p].stop() for p in partitions if p in self.parts))

    async def _forget(self, partitions: Iterable[int]) -> None:
        for partition in list(partitions):
            part = self.parts.pop(partition)
            self._reclaims += part.reclaims
            await part.close()


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


def build_app(settings: Settings, stage: Stage, journeys: Any = None) -> App:
    """The app of a worker of that stage; `journeys` replaces the store in Redis, for tests."""
    transport.install()
    processing = settings.processing
    folder = Path(tempfile.gettempdir()) / f"touchstream-{os.getpid()}"
    app = App(
        stage.group,
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
    native = load(processing.native)
    options = {} if native is None else {"pack": native.pack}
    if journeys is not None:
        options["journeys"] = journeys
    table = JourneyTable(app, name=stage.table, store=settings.redis.url, options=options)
    app.tables.add(table)
    app.journeys = table.data
    owner = app.batch_owner = Owner(stage, processing.fetch_records, table.data)
    topic = app.topic(*owner.inputs, schema=transport.BatchSchema(key_type=bytes, value_type=bytes))

    @app.agent(topic)
    async def work(stream: Any) -> None:
        """Hand each batch to the task of its partition number."""
        stream.enable_acks = False
        async for event in stream.events():
            part = owner.parts.get(event.message.partition)
            if part is None or not part.take(event):
                app.consumer.ack(event.message)

    return app
