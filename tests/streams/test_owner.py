"""Partition numbers that come and go faster than they can be claimed."""

import asyncio
from typing import Any

from faust.types import TP

from streams.app import Owner, Stage


class Part:
    """A task that can be claimed, started and stopped; notes what it is asked in `said`."""

    reclaims = 0

    def __init__(self, said: list[str], claimed: asyncio.Event) -> None:
        self._said, self._claimed = said, claimed

    async def claim(self, _: Any) -> dict[TP, int]:
        self._said.append("claim")
        await self._claimed.wait()
        return {}

    def start(self) -> None:
        self._said.append("start")

    async def stop(self) -> None:
        self._said.append("stop")

    async def close(self) -> None:
        self._said.append("close")


async def test_a_revocation_waits_for_the_claims_under_way() -> None:
    """What is started after its claim is stopped before it is claimed again: never do two work on one partition."""
    said: list[str] = []
    claimed = asyncio.Event()
    owner = Owner(Stage("group", "table", ("touches",), lambda *_: Part(said, claimed)), 100, None)  # type: ignore[arg-type,return-value]
    consumer: Any = None
    first = asyncio.ensure_future(owner.on_assigned(consumer, {0}))
    await asyncio.sleep(0)
    revoked = asyncio.ensure_future(owner.on_revoked({0}))
    again = asyncio.ensure_future(owner.on_assigned(consumer, {0}))
    await asyncio.sleep(0)
    assert said == ["claim"]
    claimed.set()
    await asyncio.gather(first, revoked, again)
    assert said == ["claim", "start", "stop", "claim", "start"]


async def test_the_end_of_a_worker_waits_for_the_claims_under_way() -> None:
    """Else tasks would be started on producers that are closed."""
    said: list[str] = []
    claimed = asyncio.Event()
    owner = Owner(Stage("group", "table", ("touches",), lambda *_: Part(said, claimed)), 100, None)  # type: ignore[arg-type,return-value]
    consumer: Any = None
    first = asyncio.ensure_future(owner.on_assigned(consumer, {0}))
    await asyncio.sleep(0)
    closed = asyncio.ensure_future(owner.close())
    claimed.set()
    await asyncio.gather(first, closed)
    assert said == ["claim", "start", "stop", "close"]
    assert owner.parts == {}
