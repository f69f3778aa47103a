"""Pauses between tries, on a clock that jumps."""

import asyncio

import pytest

from streams.patience import PAUSE_MAX_S, PAUSE_S, Patience
from tests.support.fakes import virtual_time


def test_an_outage_ends_with_its_cause() -> None:
    """Pauses double up to the longest, and past the limit the failure is raised."""

    async def run() -> list[float]:
        clock, patience, at = asyncio.get_running_loop().time, Patience(10.0), []
        began = clock()
        for _ in range(100):
            try:
                await patience.wait(OSError("no answer"))
            except OSError:
                return at
            at.append(clock() - began)
        raise AssertionError("it never ended")

    with virtual_time() as runner:
        at = runner.run(run())
    pauses = [b - a for a, b in zip([0.0, *at], at, strict=False)]
    assert pauses[0] == pytest.approx(PAUSE_S)
    assert pauses[-1] == pytest.approx(PAUSE_MAX_S)
    assert at[-1] > 10.0
    assert len(at) < 20


def test_a_failure_after_a_quiet_time_is_a_new_outage() -> None:
    """Failures further apart than the limit never add up."""

    async def run() -> None:
        patience = Patience(5.0)
        for _ in range(50):
            await patience.wait(OSError("now and then"))
            await asyncio.sleep(6.0)

    with virtual_time() as runner:
        runner.run(run())
