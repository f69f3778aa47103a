"""True worlds, made by running the product in process, and copies of them that are corrupted in one way each."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from models.durations import parse_duration
from tests.faults.exact import Fields, Rules
from tests.faults.verifier import Record, Report, verify
from tests.simulation import schedule
from tests.simulation.run import simulate
from tests.simulation.scenario import POLICIES, Arriving, Scenario, draw
from tests.simulation.simulation import Simulation
from tests.support import fakes, readers, worlds

PREFIX = "true"
TOUCHES, CONVERSIONS, CREDITS, DEAD = (f"{PREFIX}.{n}" for n in ("touches", "conversions", "credits", "dead-letters"))
NOBODY = {"event_id": "nobody-t", "person_id": "nobody", "occurred_at": worlds.START_MS, "channel": "Email"}
TIMES = ("lookback", "allowed_lateness", "corrections")
COVERED = {*TIMES, "models", "max_touches", "short_path", "currency"}


@dataclass(frozen=True)
class World:
    """All that the verifier is given. Records are in the order of their topics and offsets."""

    records: list[Record]
    rules: Rules
    applied: tuple[int, int]
    committed: tuple[int, int]
    replayed: list[Fields]

    def verify(self) -> Report:
        """What the verifier says of it."""
        given = {"applied": {0: self.applied}, "committed": {0: self.committed}, "replayed": self.replayed}
        return verify(self.records, PREFIX, self.rules, **given)

    def topic(self, name: str) -> list[Record]:
        """The records of one topic."""
        return [record for record in self.records if record.topic == name]

    def replayed_by_itself(self) -> "World":
        """With the replay that would give just this, so that only the other invariants can tell."""
        credits = (readers.Read(0, r.offset, r.timestamp_ms, r.key, r.value) for r in self.topic(CREDITS))
        return replace(self, replayed=_newest(credits))

    def but(self, name: str, records: Sequence[Record]) -> "World":
        """The same with other records in a topic, which get new offsets where it is one of ours."""
        if name in (CREDITS, DEAD):
            records = [record._replace(offset=offset) for offset, record in enumerate(records)]
        return replace(self, records=[*(r for r in self.records if r.topic != name), *records])


class _Steadily(Simulation):
    """A simulation whose input gets the same offsets whatever is in it."""

    async def _produce(self) -> None:
        for number, arriving in enumerate(self.scenario.arriving):
            log = self.kafka.logs[arriving.tp]
            log.append(arriving.key, arriving.value, arriving.record_ms, [("trace", b"1")])
            if number % 7 == 3:
                log.gap(2)
            if number % 4 == 0:
                await asyncio.sleep(1.0)


def true_world(seed: int, *, troubled: bool = False, blind_to: str = "") -> World:
    """What the product publishes of the scenario of a seed, with everything that can go wrong on the way or nothing.

    `blind_to` is the event_id of a touch that it gets to see as one of nobody.
    """
    drawn = _drawn(seed, blind_to)
    simulation = _run(drawn, schedule.draw(seed) if troubled else schedule.Schedule([]))
    kafka, applied = simulation.kafka, simulation.applied()
    assert applied is not None
    return World(
        [*_input(simulation), *_output(simulation)],
        rules_of(drawn),
        (applied.offsets[0], applied.offsets[1]),
        (kafka.committed[fakes.TOPICS.touches], kafka.committed[fakes.TOPICS.conversions]),
        _replayed(seed, blind_to),
    )


def is_covered(seed: int) -> bool:
    """Whether the policy of a seed's scenario is one that the verifier knows."""
    tables = POLICIES[seed % len(POLICIES)]
    return tables.keys() == {"attribution"} and tables["attribution"].keys() <= COVERED


def rules_of(drawn: Scenario) -> Rules:
    """The policy of a scenario as the verifier has it."""
    table = drawn.tables["attribution"]
    given = {name: table[name] for name in table if name not in TIMES}
    given |= {f"{name}_ms": parse_duration(table[name]) for name in TIMES if name in table}
    return Rules(**{**given, "models": ",".join(table["models"]), "settle_ms": drawn.settle_ms})


def _drawn(seed: int, blind_to: str) -> Scenario:
    drawn = draw(seed)
    drawn.arriving = [_as_of_nobody(a) if _is_touch(a, blind_to) else a for a in drawn.arriving]
    return drawn


def _replayed(seed: int, blind_to: str) -> list[Fields]:
    """The final view of another run from empty, cut into other steps and without troubles."""
    drawn = _drawn(seed, blind_to)
    drawn.seed += 1_000_000
    credits = _run(drawn, schedule.Schedule([])).kafka.credits
    return _newest(readers.Read(0, c.offset, c.timestamp, c.key, c.value) for c in credits)


def _newest(credits: Iterable[readers.Read]) -> list[Fields]:
    """The rows of the highest revision of each set, however whole."""
    rows = [json.loads(credit.value) for credit in credits if credit.value is not None]
    highest: dict[tuple[str, str], int] = {}
    for row in rows:
        name = (row["conversion_id"], row["attribution_model"])
        highest[name] = max(row["revision"], highest.get(name, 0))
    return [row for row in rows if row["revision"] == highest[row["conversion_id"], row["attribution_model"]]]


def _run(drawn: Scenario, trouble: schedule.Schedule) -> Simulation:
    simulation = _Steadily(drawn, trouble, Counter())
    simulate(simulation)
    return simulation


def _is_touch(arriving: Arriving, event_id: str) -> bool:
    name = b'"event_id":' + json.dumps(event_id).encode()
    return bool(event_id) and arriving.tp == fakes.TOUCHES and name in (arriving.value or b"")


def _as_of_nobody(arriving: Arriving) -> Arriving:
    return arriving._replace(key=b"nobody", value=worlds.line(NOBODY).encode())


def _input(simulation: Simulation) -> Iterator[Record]:
    for tp, log in simulation.kafka.logs.items():
        for r in log.records:
            yield Record(f"{PREFIX}.{tp.topic}", 0, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))


def _output(simulation: Simulation) -> Iterator[Record]:
    for c in simulation.kafka.credits:
        yield Record(CREDITS, 0, c.offset, c.timestamp, c.key, c.value)
    for offset, letter in enumerate(simulation.kafka.dead):
        letter.topic = f"{PREFIX}.{letter.topic}"
        yield Record(DEAD, 0, offset, 0, letter.key, letter.value, tuple(letter.all_headers()))


# Corruptions of the credits topic


def row_of(record: Record) -> Fields:
    """The credit, empty for a tombstone."""
    row: Fields = json.loads(record.value or b"{}")
    return row


def changed(record: Record, **changes: Any) -> Record:
    """The same credit saying something else."""
    return record._replace(value=json.dumps({**row_of(record), **changes}).encode())


def live_sets(world: World) -> list[list[int]]:
    """Places in the credits topic of the credited sets of the final view that have more than one record."""
    newest: dict[tuple[str, str], tuple[int, list[int]]] = {}
    for place, row in enumerate(map(row_of, world.topic(CREDITS))):
        if row:
            name = (row["conversion_id"], row["attribution_model"])
            revision, places = newest.get(name, (-1, []))
            newest[name] = (row["revision"], [*places, place] if revision == row["revision"] else [place])
    return sorted(places for _, places in newest.values() if len(places) > 1)


def with_wrong_sum(world: World) -> World:
    """One part has a micro too much."""
    return _with_micros(world, 1, 0)


def with_moved_micro(world: World) -> World:
    """A micro went from one touch to another; the sum is right."""
    return _with_micros(world, 1, -1)


def _with_micros(world: World, *more: int) -> World:
    credits = world.topic(CREDITS)
    place = next(s for s in live_sets(world) if all(row_of(credits[i])["value_micros"] > 1 for i in s))
    for i, micros in zip(place, more, strict=False):
        credits[i] = changed(credits[i], value_micros=row_of(credits[i])["value_micros"] + micros)
    return world.but(CREDITS, credits).replayed_by_itself()


def with_set_twice(world: World) -> World:
    """A set lies in the topic twice, at the same revision."""
    credits, places = world.topic(CREDITS), live_sets(world)[-1]
    end = places[-1] + 1
    twice = [*credits[:end], *(credits[i] for i in places), *credits[end:]]
    return world.but(CREDITS, twice).replayed_by_itself()


def with_set_again_higher(world: World) -> World:
    """A set was published once more at a higher revision, as by a batch that was worked on twice."""
    credits, places = world.topic(CREDITS), live_sets(world)[-1]
    return world.but(CREDITS, [*credits, *(changed(credits[i], revision=sum(world.committed)) for i in places)])


def with_half_a_set(world: World) -> World:
    """A record of a set is missing."""
    credits = world.topic(CREDITS)
    del credits[live_sets(world)[-1][0]]
    return world.but(CREDITS, credits).replayed_by_itself()


def without_tombstone(world: World) -> World:
    """A credit that was taken back stays for who reads by key."""
    credits = world.topic(CREDITS)
    last = {record.key: place for place, record in enumerate(credits)}
    del credits[next(place for place in last.values() if credits[place].value is None)]
    return world.but(CREDITS, credits)


def with_falling_revision(world: World) -> World:
    """A restatement has a revision below the one before it."""
    credits = world.topic(CREDITS)
    rows = [row_of(record) for record in credits]
    name = next(r["conversion_id"] for r in reversed(rows) if r and _revisions(rows, r["conversion_id"])[1:])
    last = _revisions(rows, name)[-1]
    fallen = [
        changed(c, revision=1) if r and (r["conversion_id"], r["revision"]) == (name, last) else c
        for c, r in zip(credits, rows, strict=True)
    ]
    return world.but(CREDITS, fallen)


def _revisions(rows: Sequence[Fields], conversion_id: str) -> list[int]:
    return sorted({r["revision"] for r in rows if r and r["conversion_id"] == conversion_id})


def with_late_write(world: World) -> World:
    """A worker that had lost the partition published after its successor: what it had decided, at its revision."""
    credits = world.topic(CREDITS)
    rows = [row_of(record) for record in credits]
    name = next(r["conversion_id"] for r in rows if r and len(_revisions(rows, r["conversion_id"])) == 1)
    late = [c for c, r in zip(credits, rows, strict=True) if r and r["conversion_id"] == name]
    return world.but(CREDITS, [*(c for c in credits if c not in late), *late])


def without_conversion(world: World) -> World:
    """The credits of a conversion are nowhere."""
    credits = world.topic(CREDITS)
    name = row_of(credits[live_sets(world)[-1][0]])["conversion_id"]
    kept = [c for c in credits if not (c.key or b"").startswith(f"{name}|".encode())]
    return world.but(CREDITS, kept).replayed_by_itself()


# Corruptions of the touches: what the product would have published, had it read something else


def touch_of_path(world: World) -> str:
    """The event_id of a touch that has credits in the end."""
    touch_id: str = row_of(world.topic(CREDITS)[live_sets(world)[-1][0]])["touch_id"]
    return touch_id


def with_lost_touch(seed: int) -> World:
    """A touch lies in the log, and its credits are as if it did not."""
    true = true_world(seed)
    blind = true_world(seed, blind_to=touch_of_path(true))
    return blind.but(TOUCHES, true.topic(TOUCHES))


def with_invented_touch(seed: int) -> World:
    """Credits name a touch that the log does not have."""
    true = true_world(seed)
    blind = true_world(seed, blind_to=touch_of_path(true))
    return true.but(TOUCHES, blind.topic(TOUCHES))


# Corruptions of the dead letters


def without_dead_letter(world: World) -> World:
    """A record that cannot be read ended nowhere."""
    return world.but(DEAD, world.topic(DEAD)[1:])


def with_dead_letter_twice(world: World) -> World:
    """A dead letter lies in the topic twice."""
    return world.but(DEAD, [*world.topic(DEAD), world.topic(DEAD)[0]])


def with_other_bytes(world: World) -> World:
    """A dead letter is not the record that it stands for."""
    first, *others = world.topic(DEAD)
    return world.but(DEAD, [first._replace(value=b"other"), *others])


def with_good_record_dead(world: World) -> World:
    """A touch that counted is a dead letter too."""
    name = json.dumps(touch_of_path(world)).encode()
    touch = next(r for r in world.topic(TOUCHES) if b'"event_id":' + name in (r.value or b""))
    place = (("topic", touch.topic), ("partition", "0"), ("offset", str(touch.offset)))
    headers = [*touch.headers, *((f"__connect.errors.{n}", v.encode()) for n, v in place)]
    letter = Record(DEAD, 0, 0, 0, touch.key, touch.value, (*headers, ("touchstream-reason", b"invalid-json")))
    return world.but(DEAD, [*world.topic(DEAD), letter])


# What lies beside the topics


def with_applied_ahead(world: World) -> World:
    """The store has applied what the group never committed."""
    return replace(world, applied=(world.applied[0] + 1, world.applied[1]))


def with_lag(world: World) -> World:
    """The last touch was neither applied nor committed."""
    short = (world.topic(TOUCHES)[-1].offset, world.committed[1])
    return replace(world, applied=short, committed=short)


def with_offsets_put_back(world: World) -> World:
    """Somebody who did not own the partition any more wrote offsets from before its last transaction."""
    return replace(world, applied=(0, 1), committed=(0, 1))


def with_other_replay(world: World) -> World:
    """A replay of the same log gives one credit to another channel."""
    first, *others = world.replayed
    return replace(world, replayed=[{**first, "channel": "another"}, *others])
