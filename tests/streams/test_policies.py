"""Announcing policies on a real broker: one at a time, ahead, and never another for the same time."""

import asyncio
import json
import re
import time
import uuid
from typing import Any
from unittest import mock

import pytest
from confluent_kafka import Producer

from models.policy import Policy
from models.schedule import LEAD_MS, Announced
from models.times import format_time
from streams import embedded, policies, topics
from streams.errors import RunFailed, SettingsError
from streams.settings import Settings, load_settings
from tests.support import product


class Place:
    """A prefix of its own with its topics."""

    def __init__(self, broker: embedded.Broker) -> None:
        self._given = {"kafka.broker": broker.url, "kafka.prefix": f"policies-{uuid.uuid4().hex[:8]}"}
        asyncio.run(topics.ensure(self.settings(), 1))

    def settings(self, **attribution: Any) -> Settings:
        given = {f"attribution.{name}": value for name, value in attribution.items()}
        return load_settings(None, {**self._given, **given}, {})

    def join(self, **attribution: Any) -> list[Announced]:
        return asyncio.run(policies.join(self.settings(**attribution)))

    def send(self, key: str, value: bytes) -> None:
        producer = Producer({"bootstrap.servers": ",".join(self.settings().kafka.bootstrap_servers())})
        producer.produce(topics.name_of(self.settings(), "policies"), value, key)
        assert producer.flush(30) == 0


@pytest.fixture
def place(embedded_broker: embedded.Broker) -> Place:
    return Place(embedded_broker)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_each_policy_is_announced_once(place: Place) -> None:
    """The first counts from the beginning, the next half a minute after it came; starting again changes nothing."""
    (first,) = place.join()
    assert (first.from_ms, first.policy) == (0, place.settings().policy())
    assert place.join() == [first]
    before_ms = now_ms()
    known = place.join(lookback="7d")
    assert known[0] == first
    assert before_ms + LEAD_MS <= known[1].from_ms <= now_ms() + LEAD_MS
    assert place.join() == known
    assert place.join(lookback="7d") == known


def test_many_workers_at_once_announce_it_once(place: Place) -> None:
    """Whoever is first fixes the time for all, wherever they run."""
    place.join()
    others = [place.settings(lookback="7d") for _ in range(4)]

    async def all_at_once() -> list[list[Announced]]:
        return await asyncio.gather(*(policies.join(each) for each in others))

    found = asyncio.run(all_at_once())
    assert all(len(known) == 2 for known in found)
    assert len({known[1].from_ms for known in found}) == 1
    assert found[0] == place.join(lookback="7d")


def test_a_named_time_is_kept_to(place: Place) -> None:
    """And then taken: other content under it is refused, before anything starts."""
    place.join()
    at = format_time((now_ms() // 1000 + 3600) * 1000)
    assert format_time(place.join(lookback="7d", effective_from=at)[1].from_ms) == at
    with pytest.raises(SettingsError) as error:
        place.join(lookback="8d", effective_from=at)
    assert (error.value.code, error.value.where) == ("T127", "attribution.effective_from")
    assert "other content" in error.value.why
    assert len(place.join()) == 2


def test_the_past_is_refused(place: Place) -> None:
    """A time that is over by now is no time for a policy that nobody knew; of one that was announced it may be."""
    past = format_time((now_ms() // 1000 - 60) * 1000)
    there = place.join(effective_from=past)
    assert place.join(effective_from=past) == there
    with pytest.raises(SettingsError) as error:
        place.join(lookback="8d", effective_from=format_time((now_ms() // 1000 + 5) * 1000))
    assert error.value.code == "T127"


def test_who_starts_with_an_old_file_is_told(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """By hand it is refused, with the way back to that policy; a worker that is started again goes on, with a warning:
    what it credits is the same whatever its file says."""
    place.join()
    # As programs before this one did, at once.
    place.send(*_legacy(place.settings(lookback="7d").policy()))
    known = place.join()
    assert "gave way to" in caplog.text
    policies.refuse_outdated(place.settings(lookback="7d"), known)
    with pytest.raises(SettingsError) as error:
        policies.refuse_outdated(place.settings(), known)
    assert error.value.code == "T128"
    assert "effective_from" in error.value.fix


def test_topics_of_earlier_programs_are_read(place: Place) -> None:
    """Their policies name no time: the first counts from the beginning, the next from its own record on."""
    first, second = (place.settings(lookback=each).policy() for each in ("1d", "2d"))
    place.send(*_legacy(first))
    before_ms = now_ms()
    place.send(*_legacy(second))
    known = place.join(lookback="2d")
    assert [each.version for each in known] == [first.version, second.version]
    assert known[0].from_ms == 0
    assert before_ms - 1_000 <= known[1].from_ms <= now_ms() + 1_000


def test_a_policy_of_a_later_program_is_not_guessed(place: Place) -> None:
    """Where it counts now, nobody starts."""
    place.join()
    place.send("later", b'{"effective_from":1,"policy":{"attribution":{"models":["telepathy"]}}}')
    with pytest.raises(RunFailed) as error:
        place.join()
    assert error.value.code == "T226"


def test_clocks_that_are_apart_announce_nothing(place: Place) -> None:
    """The time would be another one for the broker, which says what is before and after."""
    place.join()
    with (
        mock.patch.object(policies, "_now_ms", side_effect=lambda: now_ms() - 20_000),
        pytest.raises(RunFailed) as error,
    ):
        place.join(lookback="7d")
    assert error.value.code == "T227"
    assert len(place.join()) == 1


def test_what_was_announced_is_listed(place: Place) -> None:
    """By its times: what is over, in force and to come, as text and as JSON."""
    place.send(*_legacy(place.settings(lookback="1d").policy()))
    place.send(*_legacy(place.settings().policy()))
    later = format_time((now_ms() // 1000 + 3600) * 1000)
    known = place.join(lookback="7d", effective_from=later)
    kafka = place.settings().kafka
    where = ("config", "policies", "--broker", kafka.broker, "--prefix", kafka.prefix)
    said = product.touchstream(*where)
    assert said.code == 0, said.said()
    lines = [re.split(" {2,}", line) for line in said.stdout.splitlines()]
    assert [line[0] for line in lines] == [each.version for each in known]
    assert [line[-1] for line in lines] == ["over", "in force", "to come"]
    assert "the beginning" in lines[0][1]
    assert lines[2][1] == later
    rows = json.loads(product.touchstream(*where, "--json").stdout)
    assert [(row["effective_from"], row["state"]) for row in rows] == [
        (each.from_ms, state) for each, state in zip(known, ("over", "in force", "to come"), strict=True)
    ]
    assert rows[2]["policy"]["attribution"]["lookback"] == "7d"


def _legacy(policy: Policy) -> tuple[str, bytes]:
    return policy.version, json.dumps({"policy_version": policy.version, "policy": policy.effective()}).encode()
