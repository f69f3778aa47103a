"""A scenario, and one round of it: workers under load on real servers, a fault, the end, and what was found then."""

import contextlib
import json
import random
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults import verdict, verifying
from tests.faults.stalls import Stalls
from tests.support import restarts
from tests.support.cluster import PARTITIONS, Cluster, Draw, Worker, cluster, draw_waves, small_settings
from tests.support.proxy import Relay
from tests.support.servers import RedisServer

DEADLINE_S = 240.0
STARTS_MAX = 60
FIRST_WAVES = 5
# After a fault the load has to go on for a while, and no longer than that shows something.
REST_WAVES = 20


class Servers(NamedTuple):
    """Apache Kafka and redis-server, with the relays before them."""

    kafka: restarts.TwoDoorKafka
    kafka_door: Relay
    redis: RedisServer
    redis_door: Relay


@dataclass
class Round:
    """What a scenario's function has at hand.

    after: what has to be undone once the cluster is gone. recovered_s: filled by scenarios that measure a recovery.
    """

    cluster: Cluster
    servers: Servers
    stalls: Stalls
    rng: random.Random
    after: contextlib.ExitStack
    recovered_s: list[float] = field(default_factory=list)

    def said(self, *texts: str) -> int:
        """How often workers said any of these so far."""
        said = self.cluster.said()
        return sum(map(said.count, texts))

    def noticed(self) -> Callable[[], bool]:
        """A condition: since now some worker has claimed again, or left, so that the fault did not pass unseen."""
        signs = ("claiming again", "leaving: ")
        before = self.said(*signs)
        return lambda: self.said(*signs) > before

    def run_for(self, seconds: float) -> None:
        """Let the load go on for a while: some faults last."""
        end = time.monotonic() + seconds
        self.cluster.until(lambda: time.monotonic() > end, f"{seconds:g} s have passed")


@dataclass(frozen=True)
class Scenario:
    """A fault: `play` causes it once `after` records were applied under load, and returns when it is over.

    rounds: of the full run. workers: that work beside each other; with 0, `play` starts them itself.
    rest: waves sent after the fault in the small run and in the full one; None: all that were drawn.
    evict: a sole worker that died leaves the group at once, as it would with the end of its session.
    relayed: workers come through the relays. attribution, processing: settings beside those of `small_settings`.
    backlog, pace_s: a wave of input is sent when fewer records are left to do, and so long after the last one.
    crashes: crash points of the first workers of a round.
    """

    name: str
    play: Callable[[Round], None]
    rounds: int = 2
    workers: int = 1
    after: int = 600
    rest: tuple[int | None, int | None] = (REST_WAVES, REST_WAVES)
    evict: bool = False
    draw: Draw = draw_waves
    relayed: bool = False
    backlog: int = 400
    pace_s: float = 0.15
    attribution: Mapping[str, Any] = field(default_factory=dict)
    processing: Mapping[str, Any] = field(default_factory=dict)
    crashes: Callable[[int], list[str]] = lambda number: []


class Result(NamedTuple):
    """One round: what the verdict found, and how long no credit arrived."""

    found: verdict.Findings
    stall_s: float
    recovered_s: list[float]


class RoundFailed(AssertionError):
    """A round that did not come to its end; the text says why and where its logs are."""


def play(scenario: Scenario, servers: Servers, number: int, seed: int, logs: Path, full: bool = False) -> Result:
    """One round from a prefix of its own to the verdict. Raises RoundFailed; logs of a failed round stay in `logs`."""
    folder = Path(tempfile.mkdtemp(prefix=f"{scenario.name.replace(' ', '-')}-{number}-", dir=logs))
    try:
        with _round(scenario, servers, number, seed, folder) as one:
            _run(scenario, one, scenario.rest[full])
            result = Result(verdict.findings(one.cluster), one.stalls.longest_s(), one.recovered_s)
            at_rest = one.cluster.committed() == one.cluster.applied() == one.cluster.ends()
            assert at_rest, f"not at rest: {one.cluster.progress()}"
            report = verifying.of_cluster(one.cluster)
            assert not report.findings, "the verifier objects:\n" + "\n".join(verifying.told(report))
    except Exception as error:  # whatever it was, it belongs into the table
        (folder / "failure.txt").write_text(f"seed {seed}\n{traceback.format_exc()}")
        first = (str(error) or repr(error)).partition("\n")[0]
        raise RoundFailed(f"{scenario.name}, round {number}, seed {seed}: {first}; logs in {folder.name}") from error
    if result.found.notes:
        (folder / "failure.txt").write_text(f"seed {seed}\n" + json.dumps(result.found.notes, indent=1))
    else:
        for log in folder.iterdir():
            log.unlink()
        folder.rmdir()
    return result


def _run(scenario: Scenario, one: Round, rest: int | None) -> None:
    made = one.cluster
    made.send_waves(FIRST_WAVES)
    for _ in range(scenario.workers):
        made.start()
    if scenario.workers:
        made.until(lambda: len(made.members()) >= scenario.workers, "all are members", feeding=False)
        made.until_records(scenario.after)
        made.until(lambda: one.stalls.all_since(0.0), "credits in every partition")
        assert made.waves, "all was sent before the fault"
    scenario.play(one)
    assert made.waves, "all was sent before the fault was over"
    made.pace_s = 0.0
    if rest is not None:
        del made.waves[rest:]
    made.until_all_applied()
    made.stop()


@contextlib.contextmanager
def _round(scenario: Scenario, servers: Servers, number: int, seed: int, folder: Path) -> Iterator[Round]:
    redis = servers.redis_door.redis_url if scenario.relayed else servers.redis.url
    settings = small_settings(servers.kafka.url, redis, **scenario.attribution)
    processing = settings.processing.model_copy(update=dict(scenario.processing))
    settings = settings.model_copy(update={"processing": processing})
    changes: dict[str, Any] = {"crashes": scenario.crashes(number), "backlog": scenario.backlog}
    changes["pace_s"] = scenario.pace_s
    if scenario.relayed:
        kafka = settings.kafka.model_copy(update={"broker": servers.kafka.relayed_url})
        changes["reach"] = settings.model_copy(update={"kafka": kafka})
    limits = {"evict": scenario.evict, "deadline_s": DEADLINE_S, "starts_max": STARTS_MAX}
    with (
        contextlib.ExitStack() as after,
        cluster(settings, folder, seed, scenario.draw, **changes, **limits) as made,
        Stalls(servers.kafka.bootstrap, made.names.credits, PARTITIONS) as stalls,
    ):
        made.look = stalls.look
        yield Round(made, servers, stalls, random.Random(seed), after)


def victim(one: Round) -> Worker:
    """One of the workers that live, drawn."""
    return one.rng.choice(one.cluster.alive)
