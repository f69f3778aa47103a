"""Faults of workers: killed, stopped, coming and going."""

import itertools
import signal
import time
from datetime import timedelta
from functools import partial

from streams.crash import CRASH_POINTS
from streams.errors import EXIT_RESTART
from tests.faults.clocks import differences, strange_clock
from tests.faults.rounds import REST_WAVES, Round, Scenario, victim
from tests.support.cluster import draw_waves

# 10,400 conversions a round, in waves that last longer than the session of the dead worker.
MANY = partial(draw_waves, waves=200, people=5_200)
# What is measured here is time, and every attribution model more is credits that the verdict has to go through.
FEW = {"models": ["last_touch", "linear"]}
LONG = partial(draw_waves, waves=300, people=2_000, quiet_touches=4_600)
# Workers that start take their time, which several minutes of load outlast even where others work on the machine too.
LONGEST = partial(LONG, waves=600)
LARGE = {"fetch_records": 400, "step_records": 800, "session_timeout": 10_000}
# Partitions claim side by side, so that in the first assignment the fourth is the last.
COUNTS = {"claim_producer": (1, 3), "claim_store": (2, 4)}
COUNTS_IN_STEPS = (2, 13)
PAIRS = list(itertools.product(CRASH_POINTS, repeat=2))
# Pairs in such steps: at first each point with itself. It has no factor in common with their number.
STRIDE = len(CRASH_POINTS) + 1


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
        oldest, members = one.cluster.alive[0], one.cluster.members()
        one.cluster.start()
        one.cluster.until(lambda before=members: len(one.cluster.members()) > len(before), "another has joined")
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
    pair = PAIRS[number * STRIDE % len(PAIRS)]
    counts = [COUNTS.get(point, COUNTS_IN_STEPS)[place] for place, point in enumerate(pair)]
    return [f"{point}:{count}" for point, count in zip(pair, counts, strict=True)]


def both_die(one: Round) -> None:
    """The worker dies at its crash point, and its successor at another."""
    one.cluster.start()
    one.cluster.until(lambda: len(one.cluster.ended) >= 2, "both have died")
    assert one.cluster.codes() == [-signal.SIGKILL] * 2, one.cluster.said()


def clock_jumps(one: Round) -> None:
    """The wall clock of all workers jumps forward by a day, then back to an hour before the real time.

    After each jump one joins, so that all claim their partitions again and say so, with the time that they believe.
    """
    cluster = one.cluster
    clock = one.after.enter_context(strange_clock())
    watched = cluster.start()
    cluster.until_records(600)
    for away in (timedelta(days=1), timedelta(hours=-1)):
        clock.jump(away)
        one.run_for(2.0)
        claims = watched.said().count(" claimed: ")
        cluster.start()
        cluster.until(lambda before=claims: watched.said().count(" claimed: ") > before, "one more has joined")
        since_s = time.monotonic()
        cluster.until(lambda since_s=since_s: one.stalls.all_since(since_s), "credits in every partition")
    behind, beyond = differences(watched.said())
    assert behind > timedelta(minutes=30), f"the jump back was not seen: {behind}"
    assert beyond > timedelta(hours=12), f"the jump forward was not seen: {beyond}"


SCENARIOS = (
    Scenario(
        "kill -9 at two crash points",
        both_die,
        rounds=len(PAIRS),
        workers=0,
        draw=LONG,
        pace_s=0.0,
        crashes=crashes,
        evict=True,
    ),
    Scenario(
        "kill -9 of one of three",
        kill_one,
        rounds=20,
        workers=3,
        after=2_000,
        draw=MANY,
        rest=(REST_WAVES, None),
        attribution=FEW,
        backlog=2_000,
        processing=LARGE,
    ),
    Scenario("joins and leaves", join_and_leave, workers=2, draw=LONGEST, pace_s=0.3),
    Scenario("SIGSTOP, take-over, SIGCONT", stop_and_wake, workers=2, draw=LONG),
    Scenario("clock jumps", clock_jumps, workers=0, draw=LONGEST, pace_s=0.3),
)
