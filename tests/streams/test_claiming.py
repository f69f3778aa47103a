"""What an operator is told where store and Kafka do not fit: one block, with the way out."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from faust.types import TP

from streams import claiming
from streams.claiming import Claiming
from streams.step import StartError
from streams.worker import _say

TOUCHES, CONVERSIONS, CREDITS = (TP(name, 0) for name in ("touches", "conversions", "credits"))


class Kafka:
    """Both topics end at `end`, and nothing of the conversions is committed."""

    def __init__(self, end: int) -> None:
        self._found = {"committed": {TOUCHES: 1, CONVERSIONS: 0}, "end": {TOUCHES: end, CONVERSIONS: end}}

    async def offsets(self, kind: str, tps: Iterable[TP]) -> dict[TP, int]:
        return {tp: self._found.get(kind, {}).get(tp, 0) for tp in tps}


class Store:
    """Keeps nothing beside `applied`."""

    async def load(self, _partition: int, _token: bytes, _applied: bytes, names: list[bytes]) -> list[None]:
        return [None] * len(names)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (2, "the store is at offset 2 of conversions, Kafka's group at 0"),
        (1, "touches ends at 1, but 2 was processed already"),
    ],
)
def test_a_hanging_transaction_is_told_as_a_cause(
    end: int, why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store ahead of the group, or of the log, is one block that says how to find and end a hanging transaction."""
    monkeypatch.setattr(claiming, "END_PAUSE_S", 0.0)
    consumer: Any = Kafka(end)
    begun = Claiming((TOUCHES, CONVERSIONS), CREDITS, Store(), 0, frozenset({0}))
    with pytest.raises(StartError) as refused:
        asyncio.run(begun.find(b"mine", b"2,2;-1;-1;0;0", consumer))
    assert _say(refused.value) == 1
    said = capsys.readouterr().err
    assert said.count("error[") == said.count("fix:") == 1
    assert why in said
    words = " ".join(said.split())
    tool = "kafka-transactions.sh --bootstrap-server HOST:PORT"
    assert f"{tool} find-hanging --broker-id ID" in words
    assert f"{tool} abort --topic TOPIC --partition NUMBER --start-offset OFFSET" in words
    assert words.endswith(claiming.ELSEWHERE)


def test_other_faults_of_the_state_do_not_name_transactions(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the log is another one, the way out is another prefix or the right store."""
    assert _say(StartError("partition 0: the store was made from another log")) == 1
    said = capsys.readouterr().err
    assert "kafka-transactions" not in said
    assert claiming.ELSEWHERE in said
