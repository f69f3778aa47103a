"""Faults of workers: killed, stopped, coming and going."""

import itertools
import signal
import time
from functools import partial

from streams.crash import CRASH_POINTS
from streams.errors import EXIT_RESTART
from tests.faults.rounds import Round, Scenario, victim
from tests.support.cluster import draw_waves

# 10,000 conversions and some 21,000 touches a round, which last longer than the session of the dead worker.
MANY = partial(draw_waves, waves=150, people=5_000)
LARGE = {"fetch_records": 400, "step_records": 800, "session_timeout": 10_000}
# Partitions claim side by side, so that in the first assignment the fourth is the last.
COUNTS = {"claim_producer": (1, 3), "claim_store": (2, 4)}
COUNTS_IN_STEPS = (2, 13)
PAIRS = list(itertools.product(CRASH_POINTS, repeat=2))


def kill_one(one: Round) -> None:
    """kill -9; its successor joins at once, and the group waits for the session of the dead one."""
    cluster, before = one.cluster, one.cluster.members()
    killed_s = time.monotonic()
    victim(one).signal(signal.SIGKILL)

    def replaced() -> bool:
        now = cluster.members()
        return len(now) == len(before) and len(now & before) == len(before) - 1

    cluster.until(replaced, "the dead member has left, its successor has joined")
    settled_s = time.monotonic()
    cluster.until(lambda: one.stalls.all_since(settled_s), "credits from every partition again")
    one.recovered_s.append(one.stalls.recovered_s(killed_s))


def join_and_leave(one: Round) -> None:
    """Every few seconds the oldest is asked to leave and another joins, under load."""
    for _ in range(3):
        oldest = one.cluster.alive[0]
        one.cluster.start()
        one.run_for(one.rng.uniform(2.0, 4.0))
        oldest.signal(signal.SIGTERM)
        one.cluster.until(lambda gone=oldest: gone not in one.cluster.alive, "it has left")
    assert set(one.cluster.codes()) == {0}, one.cluster.said()


def stop_and_wake(one: Round) -> None:
    """SIGSTOP at any moment, the session passes, another takes over, SIGCONT."""
    cluster = one.cluster
    before = cluster.members()
    zombie = victim(one)
    zombie.signal(signal.SIGSTOP)
    cluster.start()
    cluster.until(lambda: len(cluster.members() & before) == len(before) - 1, "its session has passed")
    taken_s = time.monotonic()
    cluster.until(lambda: one.stalls.all_since(taken_s), "its partitions were taken over")
    zombie.signal(signal.SIGCONT)
    cluster.until(lambda: zombie not in cluster.alive or len(cluster.members()) >= 3, "it left or joined again")
    assert set(cluster.codes()) <= {0, EXIT_RESTART}, cluster.said()


def crashes(number: int) -> list[str]:
    """Every pair of crash points in turn: where the first worker dies, and where its successor does."""
    pair = PAIRS[number % len(PAIRS)]
    counts = [COUNTS.get(point, COUNTS_IN_STEPS)[place] for place, point in enumerate(pair)]
    return [f"{point}:{count}" for point, count in zip(pair, counts, strict=True)]


def both_die(one: Round) -> None:
    """The worker dies at its crash point, and its successor at another."""
    one.cluster.start()
    one.cluster.until(lambda: len(one.cluster.ended) >= 2, "both have died")
    assert one.cluster.codes() == [-signal.SIGKILL] * 2, one.cluster.said()


SCENARIOS = (
    Scenario("kill -9 at two crash points", both_die, len(PAIRS), 0, crashes=crashes, pace_s=0.0),
    Scenario("kill -9 of one of three", kill_one, 20, 3, 2_000, MANY, backlog=2_000, processing=LARGE),
    Scenario("joins and leaves", join_and_leave, 10, 2, draw=partial(draw_waves, waves=150, people=1_000)),
    Scenario("SIGSTOP, take-over, SIGCONT", stop_and_wake, 10, 2, draw=partial(draw_waves, waves=150, people=1_000)),
)
