"""Every system and configuration that the benchmark can run: what is started, and how its clock begins.

`first_fetch` says where the clock of a run starts. "line": the peers print `first-fetch <epoch ms>` when their first
record reaches user code, a little after the fetch itself (in their favour). "claim": Touchstream is not instrumented
for the benchmark, so its clock starts with the first line of its log that says that a partition is claimed, before
any fetch (in its disfavour).
"""

import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench.jars import HERE, ROOT, class_path, quix_python

PREFIX = "bench"
APPLY_SECONDS = 60
TOUCHES, CONVERSIONS = f"{PREFIX}.touches", f"{PREFIX}.conversions"
TOUCHSTREAM = (
    ".venv/bin/touchstream run --broker kafka://{broker} --redis {redis} --config bench/touchstream.toml"
    " --workers {workers}"
)


def apply_topics(broker: str, prefix: str = PREFIX) -> None:
    """Let Touchstream create its own topics beside the inputs, as its users do; raises when it cannot."""
    program = str(ROOT / ".venv" / "bin" / "touchstream")
    words = ["topics", "apply", "--broker", f"kafka://{broker}", "--config", str(HERE / "touchstream.toml")]
    words += ["--prefix", prefix]
    subprocess.run([program, *words, "--partitions", "4"], check=True, capture_output=True, timeout=APPLY_SECONDS)


@dataclass(frozen=True)
class Place:
    """Where one run happens: servers, an output topic and a scratch directory of its own."""

    broker: str
    redis: str
    output: str
    run_id: str
    scratch: Path
    events: int


@dataclass(frozen=True)
class Launch:
    """Commands to start together and environment for all of them."""

    commands: list[list[str]]
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """One configuration of one system. `flat`: one record a touch; otherwise one an attribution model."""

    name: str
    family: str
    flat: bool
    launch: Callable[[Place], Launch]
    first_fetch: Literal["line", "claim"] = "line"
    uses_redis: bool = False
    limited: bool = False
    note: str = ""


def kafka_streams(store: str, threads: int, flat: bool, **changes: str) -> System:
    """Kafka Streams, exactly_once_v2."""
    given = {"layout": "append", "commit-ms": "2000", "cache-mib": "256", "codec": "lz4", "gc": "ParallelGC"} | changes

    def launch(p: Place) -> Launch:
        options = {
            "broker": p.broker,
            "id": p.run_id,
            "touches": TOUCHES,
            "conversions": CONVERSIONS,
            "output": p.output,
            "state-dir": str(p.scratch),
            "store": store,
            "threads": str(threads),
            "format": "flat" if flat else "grouped",
            **{k: v for k, v in given.items() if k != "gc"},
        }
        return Launch([_java("kafka_streams", "AttributionStreams", given["gc"], options)])

    name = _name("kafka-streams", store, threads, flat, changes)
    return System(name, "Kafka Streams", flat, launch)


def flink(backend: str, parallelism: int, flat: bool, **changes: str) -> System:
    """Flink in one process with an exactly-once sink."""
    given = {
        "checkpoint-ms": "5000",
        "keyed": "forward" if parallelism == 1 else "hash",
        "codec": "lz4",
        "gc": "ParallelGC",
    } | changes

    def launch(p: Place) -> Launch:
        options = {
            "broker": p.broker,
            "id": p.run_id,
            "touches": TOUCHES,
            "conversions": CONVERSIONS,
            "output": p.output,
            "state-dir": str(p.scratch),
            "backend": backend,
            "parallelism": str(parallelism),
            "format": "flat" if flat else "grouped",
            **{k: v for k, v in given.items() if k != "gc"},
        }
        return Launch([_java("flink", "AttributionFlink", given["gc"], options)])

    return System(_name("flink", backend, parallelism, flat, changes), "Flink", flat, launch)


def _name(system: str, store: str, threads: int, flat: bool, changes: dict[str, str]) -> str:
    extra = "".join(f"-{k}={v}" for k, v in changes.items())
    return f"{system}-{store}-{threads}-{'flat' if flat else 'grouped'}{extra}"


def _java(peer: str, main: str, gc: str, options: dict[str, str]) -> list[str]:
    opens = [f"--add-opens=java.base/java.{x}=ALL-UNNAMED" for x in ("util", "lang")]
    java = ["java", "-Xms2g", "-Xmx2g", f"-XX:+Use{gc}", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", *opens]
    return [*java, "-cp", class_path(peer), main, *(w for k, v in options.items() for w in (f"--{k}", v))]


def quix(processes: int, flat: bool, commit: str = "5") -> System:
    """Quix Streams, exactly-once, in 1 or 2 processes that share the group."""

    def launch(p: Place) -> Launch:
        program = str(HERE / "peers" / "quix_streams.py")
        shape = "flat" if flat else "grouped"
        common = [quix_python(), program, p.broker, TOUCHES, CONVERSIONS, p.output, p.run_id]
        return Launch([[*common, str(p.scratch / str(i)), shape, commit] for i in range(processes)])

    extra = "" if commit == "5" else f"-commit={commit}"
    name = f"quix-{processes}-{'flat' if flat else 'grouped'}{extra}"
    return System(name, "Quix Streams", flat, launch)


def stock_faust() -> System:
    """Faust as in its tutorial, over the first 60,000 events only."""

    def launch(p: Place) -> Launch:
        env = {
            "BROKER": p.broker,
            "REDIS": p.redis,
            "TOUCHES": TOUCHES,
            "CONVERSIONS": CONVERSIONS,
            "OUTPUT": p.output,
            "GROUP": p.run_id,
            "DATADIR": str(p.scratch),
            "LIMIT": str(min(60_000, p.events)),
        }
        return Launch([[sys.executable, str(HERE / "peers" / "stock_faust.py"), "worker", "-l", "warn"]], env)

    note = "for information: linear only, at-least-once, first 60,000 events"
    return System("faust-stock", "stock Faust", False, launch, uses_redis=True, limited=True, note=note)


def touchstream(workers: int, command: str = TOUCHSTREAM) -> System:
    """The product as a user starts it; `command` may name {broker}, {redis} and {workers}."""

    def launch(p: Place) -> Launch:
        return Launch([shlex.split(command.format(broker=p.broker, redis=p.redis, workers=workers))])

    return System(f"touchstream-{workers}", "Touchstream", True, launch, "claim", uses_redis=True)


def every(command: str = TOUCHSTREAM) -> list[System]:
    """All configurations that `make bench` runs in its first round, to choose the best of each family and shape."""
    flats = (False, True)
    return [
        *(kafka_streams(s, t, f) for s in ("rocksdb", "memory") for t in (1, 2) for f in flats),
        *(flink(b, p, f) for b in ("hashmap", "rocksdb") for p in (1, 2) for f in flats),
        *(quix(n, f) for n in (1, 2) for f in flats),
        stock_faust(),
        *(touchstream(n, command) for n in (1, 2)),
    ]


def variants() -> list[System]:
    """Settings to hold against the defaults above; run them with --variants, or with --only by full name."""
    return [
        *(kafka_streams(store, 1, False, layout="rows") for store in ("rocksdb", "memory")),
        *(kafka_streams("memory", 1, False, **{"commit-ms": ms}) for ms in ("100", "500", "10000")),
        *(kafka_streams("memory", 2, True, **{"commit-ms": ms}) for ms in ("100", "500", "10000")),
        kafka_streams("memory", 1, False, **{"cache-mib": "0"}),
        kafka_streams("rocksdb", 1, False, **{"cache-mib": "0"}),
        kafka_streams("memory", 1, False, gc="G1GC"),
        kafka_streams("memory", 1, False, gc="SerialGC"),
        kafka_streams("memory", 1, False, codec="zstd"),
        *(flink("hashmap", 1, False, **{"checkpoint-ms": ms}) for ms in ("500", "2000", "10000")),
        flink("hashmap", 1, False, keyed="hash"),
        flink("rocksdb", 1, False, keyed="hash"),
        flink("hashmap", 1, False, gc="G1GC"),
        quix(2, False, "1"),
        quix(2, False, "20"),
    ]
