"""What one batch did, in plain numbers: counted in the step, recorded as metrics once when it is over."""

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class BatchReport:
    """Counts of one step of one partition number; times in seconds."""

    partition: int
    touches_accepted: int = 0
    touches_duplicate: int = 0
    touches_dropped: int = 0
    touches_dead: int = 0
    touches_forgotten: int = 0
    touches_filtered: int = 0
    conversions_accepted: int = 0
    conversions_duplicate: int = 0
    conversions_dropped: int = 0
    conversions_dead: int = 0
    conversions_forgotten: int = 0
    conversions_filtered: int = 0
    # (touch or conversion, name of the filter, its reason)
    filtered: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    dead_by_reason: Counter[str] = field(default_factory=Counter)
    credited: int = 0
    restated: int = 0
    unattributed: int = 0
    retracted: int = 0
    milestones: int = 0
    # Journeys that left for another person, and conversions that came with one.
    merged: int = 0
    moved: int = 0
    # Persons that were forgotten.
    forgotten: int = 0
    uncounted: int = 0
    credits: int = 0
    tombstones: int = 0
    mismatched: int = 0
    replayed: int = 0
    misrouted: int = 0
    transactions: int = 0
    # Of the identity stage: raw events by what became of them, ids taken in below others, links that were refused, and
    # merges that crediting was told of.
    raw_delivered: int = 0
    raw_passed_on: int = 0
    raw_waiting: int = 0
    raw_forgotten: int = 0
    raw_dead: int = 0
    ids_linked: int = 0
    ids_refused: int = 0
    merges_sent: int = 0
    # Attribution model → conversions credited for the first time.
    credited_by_model: Counter[str] = field(default_factory=Counter)
    stages: dict[str, float] = field(default_factory=dict)
    # (event time, record time) of the conversions credited, epoch ms
    credited_at: list[tuple[int, int]] = field(default_factory=list)

    def stage(self, name: str, started_s: float) -> None:
        """Note how long a stage took, from a `time.perf_counter()` taken at its start."""
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - started_s
