"""One journey through the core, batch by batch: its facts as they are kept, and what an upsert reader has of it."""

import json
from typing import Any

from models.crediting import Arrival, Event, Journey, Source, decide
from models.crediting import stored as stored_journey
from models.explaining import Explanation, explain
from models.facts import Conversion, JourneyTouch, Touch
from models.journey import frame, frame_with_person, read_frames, read_state
from models.policy import Policy
from models.rules import Rules
from tests.support.drawn import draw

SETTLE_MS = 250
Row = dict[str, Any]


class Told:
    """One journey, its touches kept as they were appended (duplicates too), and an upsert reader of its credits."""

    def __init__(self, tables: Row) -> None:
        self.policy = Policy.from_effective(tables)
        self.rules = Rules(self.policy, SETTLE_MS)
        self.accepted: list[JourneyTouch] = []
        self.state = read_state(None)
        self.credits: dict[str, Row] = {}
        self.offset = 0

    def take(self, *facts: Touch | Conversion) -> "Told":
        """One batch, each fact at its own record time."""
        arrivals, events, frames = [], [], []
        kept = frame_with_person if self.policy.journey == "account" else frame
        for fact in facts:
            self.offset += 1
            if isinstance(fact, Touch):
                frames += read_frames(kept(fact))
                arrivals.append(Arrival(frames[-1], Source("touches", self.offset, fact.record_ms)))
            else:
                fact.offset = self.offset
                events.append(Event(fact, b"k", b"{}", []))
        journey: Journey = stored_journey([list(self.accepted)], self.state)
        out = decide(journey, arrivals, events, self.rules, self.offset)
        self.state = out.state
        self.accepted = list(out.touches) if out.rewrite else [*self.accepted, *frames]
        for publication in out.publications:
            for key, value in publication.records:
                self.credits.pop(key.decode(), None)
                if value is not None:
                    self.credits[key.decode()] = json.loads(value)
        return self

    def explained(self, conversion_id: str = "c1") -> Explanation:
        found = explain(self.accepted, self.state, conversion_id, self.rules)
        assert found is not None
        return found

    def published(self, conversion_id: str, attribution_model: str) -> list[Row]:
        of = [r for r in self.credits.values() if r["conversion_id"] == conversion_id]
        return sorted((r for r in of if r["attribution_model"] == attribution_model), key=lambda r: r["position"])


def tell(drawing: str, **attribution: Any) -> Told:
    """A drawn journey under one policy, all in one batch; record time is event time."""
    tables = {"attribution": {"models": ["linear"], **attribution}}
    return Told(tables).take(*draw(drawing).facts)
