"""Random steps of two workers on the memory store and on Valkey at once: the same answers, the same keys."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from state.store import JourneyStore, StoreError, Writes
from tests.state.conftest import MemoryBackend, RedisBackend

PARTITIONS = st.integers(0, 1)
TOKENS = st.sampled_from([b"one", b"two"])
OFFSETS = st.sampled_from([b"0,0", b"1,0", b"2,1"])
SUBKEYS = st.sampled_from([b"", b"a", b"b", b"\0\xff", b"owner"])
VALUES = st.binary(max_size=3) | st.integers(60, 260).map(lambda length: b"v" * length)
TTL_MS = 10**9  # far beyond the length of a test, so that nothing expires in either
WRITES = st.builds(
    Writes,
    appends=st.dictionaries(SUBKEYS, VALUES, max_size=3),
    appends_under=st.dictionaries(
        st.sampled_from([b"", b"a"]), st.dictionaries(SUBKEYS, VALUES, max_size=2), max_size=2
    ),
    puts=st.dictionaries(SUBKEYS, VALUES, max_size=2),
    deletes=st.lists(SUBKEYS, max_size=2),
    append_ttl_ms=st.just(TTL_MS),
    put_ttl_ms=st.just(TTL_MS),
    renew_below_ms=st.sampled_from([0, TTL_MS // 2]),
)


async def outcome(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except (StoreError, ValueError) as error:
        return type(error)


def machine(url: str) -> type[RuleBasedStateMachine]:
    """The state machine over one server."""

    class TwoStores(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            self.memory = MemoryBackend()
            self.valkey = self.runner.run(self._connected())

        async def _connected(self) -> RedisBackend:
            valkey = RedisBackend(url)
            await valkey.wipe()
            return valkey

        def both(self, call: Callable[[JourneyStore], Awaitable[Any]]) -> None:
            async def ask() -> tuple[Any, Any]:
                return await outcome(call(self.memory.store)), await outcome(call(self.valkey.store))

            here, there = self.runner.run(ask())
            assert here == there

        @rule(partition=PARTITIONS, token=TOKENS)
        def claim(self, partition: int, token: bytes) -> None:
            self.both(lambda store: store.claim(partition, token))

        @rule(partition=PARTITIONS, token=TOKENS, applied=OFFSETS)
        def begin(self, partition: int, token: bytes, applied: bytes) -> None:
            self.both(lambda store: store.begin(partition, token, applied))

        @rule(partition=PARTITIONS, token=TOKENS, applied=OFFSETS, subkeys=st.lists(SUBKEYS, max_size=7))
        def load(self, partition: int, token: bytes, applied: bytes, subkeys: list[bytes]) -> None:
            self.both(lambda store: store.load(partition, token, applied, subkeys))

        @rule(partition=PARTITIONS, token=TOKENS, applied=OFFSETS, moved=OFFSETS, writes=WRITES)
        def save(self, partition: int, token: bytes, applied: bytes, moved: bytes, writes: Writes) -> None:
            self.both(lambda store: store.save(partition, token, applied, moved, writes))

        @rule(partition=PARTITIONS, token=TOKENS)
        def drop(self, partition: int, token: bytes) -> None:
            self.both(lambda store: store.drop(partition, token))

        @rule()
        def wipe(self) -> None:
            self.runner.run(self.memory.wipe())
            self.runner.run(self.valkey.wipe())

        @invariant()
        def same_keys(self) -> None:
            assert self.runner.run(self.memory.snapshot()) == self.runner.run(self.valkey.snapshot())

        def teardown(self) -> None:
            self.runner.run(self.valkey.close())
            self.runner.close()

    return TwoStores


def test_memory_and_valkey_agree(valkey_url: str) -> None:
    """Whatever two workers do, the memory store answers and keeps what Valkey answers and keeps."""
    chosen = int(os.environ.get("TOUCHSTREAM_TEST_SEED") or random.randrange(1 << 32))
    print(f"seed {chosen} (TOUCHSTREAM_TEST_SEED repeats it)")
    limits = settings(
        max_examples=60,
        stateful_step_count=40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(chosen)(machine(valkey_url)), settings=limits)
