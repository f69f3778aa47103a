"""Every metric of a worker: its type, unit, meaning, and what to do when it moves. Recorded once a batch.

A step counts in plain integers (`BatchReport`); `Metrics.record` adds them up when it is over, and a scrape reads the
sums. So a touch costs no metric call, and no label ever holds a person, a conversion or a campaign.
`docs/metrics.md` is written by `python -m streams.metrics`.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from models.outcome import Reason
from streams.report import BatchReport

PREFIX = "touchstream_"
EVENTS = ("touch", "conversion")
OUTCOMES = ("accepted", "duplicate", "dropped", "dead", "filtered", "forgotten")
RESOLVED = ("delivered", "passed_on", "waiting", "forgotten", "dead")
STAGES = ("decode", "load", "decide", "publish", "save")
# Freshness reaches from a live stream to a replay of old data; latency is what this worker can do something about.
AGE_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
STAGE_S = (0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric. `name` is without the prefix; `known` are the label values to show as 0 from the start."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    action: str
    labels: Labels = ()
    known: tuple[Labels, ...] = ()
    buckets: tuple[float, ...] = ()


_PLACE = ("topic", "partition")

SPECS = (
    # is it right
    Spec(
        "events_total",
        "counter",
        "records",
        meaning="Input records by type and outcome; the outcomes add up to the records processed. Replayed ones "
        "are not in it.",
        action="A rising share of `duplicate` points to a producer that retries; of `dropped` to journeys at their "
        "bound; for `dead` see touchstream_dead_letters_total, for `filtered` touchstream_filtered_total. `forgotten` "
        "is what came for people who were forgotten: find out which source still sends it.",
        labels=("type", "outcome"),
        known=tuple((event, outcome) for event in EVENTS for outcome in OUTCOMES),
    ),
    Spec(
        "dead_letters_total",
        "counter",
        "records",
        meaning="Records that could not be used, by the reason in their `touchstream-reason` header.",
        action="`touchstream dead-letters show` names the field and the record; mend the producer, then `touchstream "
        "dead-letters retry`.",
        labels=("reason",),
        known=tuple((str(reason),) for reason in Reason),
    ),
    Spec(
        "filtered_total",
        "counter",
        "records",
        meaning="Records that a filter of `[[filters]]` left out, by record type, the filter's name and its reason.",
        action="A filter that never drops, or drops nearly all, has a wrong condition. A jump of `consent` points to "
        "the banner of the site.",
        labels=("type", "filter", "reason"),
    ),
    Spec(
        "mismatched_sums_total",
        "counter",
        "conversions",
        meaning="Sets of credits whose parts did not add up to the conversion's value. They are checked before they "
        "are published. Must stay 0.",
        action="Page. Stop relying on reports made since, keep the topics, and report it: it is a defect of "
        "Touchstream.",
    ),
    Spec(
        "misrouted_total",
        "counter",
        "records",
        meaning="Records in another partition than the one that murmur2 gives their key.",
        action="A producer uses another partitioner, so journeys are torn apart: `touchstream doctor` names the "
        "topic; set `partitioner=murmur2_random` (librdkafka).",
    ),
    # what it does
    Spec(
        "conversions_credited_total",
        "counter",
        "conversions",
        meaning="Conversions credited for the first time, by attribution model.",
        action="All attribution models rise together, except where one excludes a conversion type. A flat line with "
        "touches coming in: no conversions arrive.",
        labels=("attribution_model",),
    ),
    Spec(
        "credits_published_total",
        "counter",
        "records",
        meaning="Credits published, restated ones included, tombstones not.",
        action="Compare with the rows in the sink.",
    ),
    Spec(
        "tombstones_total",
        "counter",
        "records",
        meaning="Keys of credits that a restatement took away.",
        action="Rises with restatements. A burst after a rebuild of Redis is expected.",
    ),
    Spec(
        "restatements_total",
        "counter",
        "conversions",
        meaning="Conversions whose credits were published again after new facts.",
        action="A rise means late touches or corrections; see whether a source has fallen behind.",
    ),
    Spec(
        "unattributed_total",
        "counter",
        "conversions",
        meaning="Conversions without any touch in their lookback, counted once each.",
        action="A rising share: touches are missing, come late, or carry other ids than conversions do.",
    ),
    Spec(
        "retracted_total",
        "counter",
        "conversions",
        meaning="Conversions taken back by a `retract`.",
        action="Compare with refunds in the shop.",
    ),
    Spec(
        "milestones_total",
        "counter",
        "conversions",
        meaning="Conversions of types with `credited = false`.",
        action="Nothing, as long as the policy means it so.",
    ),
    Spec(
        "forgotten_total",
        "counter",
        "persons",
        meaning="Person ids forgotten by `touchstream forget`, each once in either stage.",
        action="Compare with the requests.",
    ),
    Spec(
        "uncounted_total",
        "counter",
        "conversions",
        meaning='Conversions that gave way to an earlier one of their type when they came, under `count = "first"`.',
        action="Nothing, as long as the policy means it so.",
    ),
    # who is who
    Spec(
        "identity_events_total",
        "counter",
        "records",
        meaning="Raw events of the identity stage by what became of them: delivered under a person, passed on to the "
        "owner of an id (and read again there), corrections waiting for their conversion, forgotten with their person, "
        "dead letters.",
        action="Many `passed_on` for each `delivered`: key raw records by the person id of their highest id. `waiting` "
        "that rises with each correction: they name conversions that never come as raw records.",
        labels=("outcome",),
        known=tuple((outcome,) for outcome in RESOLVED),
    ),
    Spec(
        "identity_links_total",
        "counter",
        "ids",
        meaning="Ids that were taken in below a higher id of the same person.",
        action="Compare with Identify records and logins. A flat line with both coming in: nobody is recognised.",
    ),
    Spec(
        "identity_refused_total",
        "counter",
        "links",
        meaning="Links that were refused, as a person would have had more than `identity.ids_max` ids.",
        action="`touchstream identity show` lists the last of each id: mostly a shared computer or a placeholder that "
        "the producer should not send.",
    ),
    Spec(
        "identity_merges_total",
        "counter",
        "persons",
        meaning="Merges sent to the crediting stage: ids whose journey belongs to a higher id from then on.",
        action="Follows touchstream_identity_links_total. A burst restates many conversions; see "
        "touchstream_restatements_total.",
    ),
    # is it fresh, is it keeping up
    Spec(
        "event_freshness_seconds",
        "histogram",
        "seconds",
        meaning="From the event time of a conversion to its credits being committed. High with no lag means old data, "
        "not a slow worker.",
        action="Look at touchstream_end_to_end_seconds first: if that is fine, the source is late.",
        buckets=AGE_S,
    ),
    Spec(
        "end_to_end_seconds",
        "histogram",
        "seconds",
        meaning="From the record time (append) of a conversion to its credits being committed. `settle` is part of it.",
        action="Page when p99 leaves its goal for 5 minutes: see lag, then touchstream_stage_seconds for where the "
        "time goes.",
        buckets=LATENCY_S,
    ),
    Spec(
        "stage_seconds",
        "histogram",
        "seconds",
        meaning="Time of each stage of a step: decode, load (Redis), decide, publish (Kafka transaction), save "
        "(Redis).",
        action="The stage that grew names the culprit: publish the brokers, load and save Redis, decode and decide "
        "this machine.",
        labels=("stage",),
        known=tuple((stage,) for stage in STAGES),
        buckets=STAGE_S,
    ),
    Spec(
        "transactions_total",
        "counter",
        "transactions",
        meaning="Kafka transactions committed.",
        action="Many with few credits each: raise `settle` or the commit interval.",
    ),
    Spec(
        "lag_records",
        "gauge",
        "records",
        meaning="Offsets between the last stable offset and the applied one; transaction markers count too.",
        action="Growing for 15 minutes: add workers, up to the partitions. Look at the largest partition, not at the "
        "mean.",
        labels=_PLACE,
    ),
    Spec(
        "lag_seconds",
        "gauge",
        "seconds",
        meaning="Age of the last processed record while there is lag, else 0.",
        action="The number to alert and to scale on: it needs no knowledge of the rate.",
        labels=_PLACE,
    ),
    Spec(
        "last_processed_timestamp_seconds",
        "gauge",
        "unix time",
        meaning="Record time of the last record processed.",
        action="Standing still while lag is above 0: the partition is stuck, see the log and /readyz.",
        labels=_PLACE,
    ),
    Spec(
        "held_conversions",
        "gauge",
        "conversions",
        meaning="Conversions that wait for touches still on their way.",
        action="High and not falling: the touches topic is not read to its end; at the bound the conversions topic "
        "is paused.",
        labels=("partition",),
    ),
    # is it stable
    Spec(
        "applied_offset",
        "gauge",
        "offset",
        meaning="Next offset up to which the journeys in Redis hold what the topic says.",
        action="Must not fall, except for a catch-up.",
        labels=_PLACE,
    ),
    Spec(
        "committed_offset",
        "gauge",
        "offset",
        meaning="Next offset committed to Kafka with the credits.",
        action="May trail touchstream_applied_offset of touches by the commit interval. Ahead of it: a catch-up is "
        "running.",
        labels=_PLACE,
    ),
    Spec(
        "replayed_total",
        "counter",
        "records",
        meaning="Records taken in again without output, to rebuild journeys.",
        action="After a crash a batch or so. Millions: Redis lost its memory; see its persistence and eviction.",
    ),
    Spec(
        "reclaims_total",
        "counter",
        "partitions",
        meaning="Partitions claimed again because the store was not where this worker left it.",
        action="Once after a restart of Redis is expected. Repeated: Redis restarts, evicts, or two clusters share "
        "one database.",
    ),
    Spec(
        "rebalances_total",
        "counter",
        "rebalances",
        meaning="Assignments of partitions to this worker.",
        action="More than a few an hour without deployments: workers die or pause; see their exit codes.",
    ),
    Spec(
        "partitions_assigned",
        "gauge",
        "partitions",
        meaning="Partition numbers this worker owns.",
        action="The sum over workers is the topic's partitions; less means that some stand still.",
    ),
    Spec(
        "partitions_replaying",
        "gauge",
        "partitions",
        meaning="Owned partition numbers that are catching up; the worker is not ready while any is.",
        action="Falls to 0 by itself; see touchstream_replayed_total for progress.",
    ),
    Spec(
        "partitions_tripped",
        "gauge",
        "partitions",
        meaning="Owned partition numbers that stand still because more than half of their last 1,000 records were dead "
        "letters; the worker is not ready while any does.",
        action="`touchstream dead-letters ls` says what came; stop the producer, then `touchstream dead-letters "
        "accept`.",
    ),
    Spec(
        "check_ok",
        "gauge",
        "1 or 0",
        meaning="Each check of /readyz: 1 is fine.",
        action="/readyz has the reason in words.",
        labels=("check",),
    ),
    Spec(
        "build_info",
        "gauge",
        "1",
        meaning="Version of this worker, as a label.",
        action="More than one version for long: a deployment is stuck.",
        labels=("version",),
    ),
)


@dataclass(slots=True)
class Position:
    """Where one partition of one topic stands: next offsets; -1 where not known yet.

    `end` is the last stable offset, `record_ms` the record time of the last record processed.
    """

    topic: str
    partition: int
    applied: int = -1
    committed: int = -1
    end: int = -1
    record_ms: int = -1

    def lag_seconds(self, now_ms: int) -> float:
        """Age of the last processed record while something waits behind it; 0 where nothing does."""
        behind = self.end > self.applied >= 0
        return max(0, now_ms - self.record_ms) / 1000 if behind and self.record_ms >= 0 else 0.0


class Buckets:
    """A histogram that takes a whole batch of values at once."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, values: Iterable[float]) -> None:
        bounds, counts = self._bounds, self._counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            self._sum += value

    def cumulated(self) -> tuple[list[tuple[str, float]], float]:
        """(upper bound, values up to it) for each bound and +Inf, and the sum of all values."""
        total, found = 0, []
        for bound, count in zip([*map(str, map(float, self._bounds)), "+Inf"], self._counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found, self._sum


class Metrics(Collector):
    """The sums of one worker, shown by `registry`; to be used from the event loop's thread only."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        attribution_models: Sequence[str],
        version: str,
        filters: Sequence[Labels] = (),
    ) -> None:
        known = {
            "conversions_credited_total": [(name,) for name in attribution_models],
            "build_info": [(version,)],
            "filtered_total": filters,
        }
        plain = [spec for spec in SPECS if spec.kind != "histogram"]
        self._values: dict[str, dict[Labels, float]] = {
            spec.name: dict.fromkeys(_first(spec, known), 0.0) for spec in plain
        }
        self._buckets = {
            spec.name: {labels: Buckets(spec.buckets) for labels in _first(spec, known)}
            for spec in SPECS
            if spec.kind == "histogram"
        }
        self._values["build_info"][version,] = 1
        registry.register(self)

    def record(self, report: BatchReport, now_ms: int) -> None:
        """Add one step. `now_ms`: the wall clock at its end, epoch milliseconds."""
        events = self._values["events_total"]
        for labels in events:
            events[labels] += getattr(report, _FIELDS[labels], 0)
        for name, attribute in _SUMS:
            self._values[name][()] += getattr(report, attribute)
        resolved = self._values["identity_events_total"]
        for outcome in RESOLVED:
            resolved[outcome,] += getattr(report, f"raw_{outcome}")
        self._add("dead_letters_total", report.dead_by_reason)
        for labels, count in report.filtered.items():
            self._values["filtered_total"][labels] = self._values["filtered_total"].get(labels, 0.0) + count
        self._add("conversions_credited_total", report.credited_by_model)
        self._buckets["event_freshness_seconds"][()].add(
            [max(0, now_ms - event_ms) / 1000 for event_ms, _ in report.credited_at]
        )
        self._buckets["end_to_end_seconds"][()].add(
            [max(0, now_ms - record_ms) / 1000 for _, record_ms in report.credited_at]
        )
        stages = self._buckets["stage_seconds"]
        for stage, seconds in report.stages.items():
            stages[stage,].add((seconds,))

    def position(self, position: Position, now_ms: int) -> None:
        """Show where a partition of a topic stands, after a step or by a timer; unknown numbers are left out."""
        place = (position.topic, str(position.partition))
        if position.applied >= 0:
            self._values["applied_offset"][place] = position.applied
        if position.committed >= 0:
            self._values["committed_offset"][place] = position.committed
        if position.end >= 0 and position.applied >= 0:
            self._values["lag_records"][place] = max(0, position.end - position.applied)
            self._values["lag_seconds"][place] = position.lag_seconds(now_ms)
        if position.record_ms >= 0:
            self._values["last_processed_timestamp_seconds"][place] = position.record_ms / 1000

    def held(self, partition: int, conversions: int) -> None:
        """Show how many conversions of a partition number wait."""
        self._values["held_conversions"][str(partition),] = conversions

    def assigned(self, partitions: int, replaying: int) -> None:
        """Show how many partition numbers are owned, and how many of them are catching up."""
        self._values["partitions_assigned"][()] = partitions
        self._values["partitions_replaying"][()] = replaying

    def tripped(self, partitions: int) -> None:
        """Show how many owned partition numbers the trip wire stopped."""
        self._values["partitions_tripped"][()] = partitions

    def rebalanced(self) -> None:
        """Count an assignment."""
        self._values["rebalances_total"][()] += 1

    def reclaimed(self) -> None:
        """Count a partition claimed again."""
        self._values["reclaims_total"][()] += 1

    def checked(self, results: Mapping[str, bool]) -> None:
        """Show the checks of /readyz: name → fine."""
        self._values["check_ok"] = {(name,): float(fine) for name, fine in results.items()}

    def revoked(self, partition: int) -> None:
        """Take away what is said of a partition number that another worker shows from now on."""
        for spec in SPECS:
            if "partition" in spec.labels:
                kept = self._values[spec.name]
                at = spec.labels.index("partition")
                self._values[spec.name] = {k: v for k, v in kept.items() if k[at] != str(partition)}

    def collect(self) -> Iterator[Metric]:
        """Yield every family, as the registry asks at a scrape."""
        for spec in SPECS:
            yield self._histogram(spec) if spec.kind == "histogram" else self._plain(spec)

    def _plain(self, spec: Spec) -> Metric:
        family = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
        shown: CounterMetricFamily | GaugeMetricFamily = family(PREFIX + spec.name, spec.meaning, labels=spec.labels)
        for labels, value in self._values[spec.name].items():
            shown.add_metric(labels, value)
        return shown

    def _histogram(self, spec: Spec) -> Metric:
        shown = HistogramMetricFamily(PREFIX + spec.name, spec.meaning, labels=spec.labels)
        for labels, buckets in self._buckets[spec.name].items():
            counts, total = buckets.cumulated()
            shown.add_metric(labels, counts, total)
        return shown

    def _add(self, name: str, counts: Mapping[str, int]) -> None:
        values = self._values[name]
        for label, count in counts.items():
            values[label,] = values.get((label,), 0.0) + count


_FIELDS: dict[Labels, str] = {
    (event, outcome): f"{event}{'es' if event == 'touch' else 's'}_{outcome}"
    for event in EVENTS
    for outcome in OUTCOMES
}
_SUMS = (
    ("mismatched_sums_total", "mismatched"),
    ("misrouted_total", "misrouted"),
    ("credits_published_total", "credits"),
    ("tombstones_total", "tombstones"),
    ("restatements_total", "restated"),
    ("unattributed_total", "unattributed"),
    ("retracted_total", "retracted"),
    ("milestones_total", "milestones"),
    ("forgotten_total", "forgotten"),
    ("uncounted_total", "uncounted"),
    ("identity_links_total", "ids_linked"),
    ("identity_refused_total", "ids_refused"),
    ("identity_merges_total", "merges_sent"),
    ("transactions_total", "transactions"),
    ("replayed_total", "replayed"),
)


def _first(spec: Spec, known: Mapping[str, Sequence[Labels]]) -> Sequence[Labels]:
    """The label values shown as 0 before anything happened; a rate needs a first value to rise from."""
    if not spec.labels:
        return [()]
    return known.get(spec.name, spec.known)


def as_markdown() -> str:
    """The text of docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Written by `python -m streams.metrics` from `streams/metrics.py`. Every name starts with `touchstream_`.",
        "All are recorded once a step, by each worker: sum counters over workers, take the largest lag of partitions.",
        "",
        "| metric | type, unit | labels | meaning | when it moves |",
        "|---|---|---|---|---|",
    ]
    for spec in SPECS:
        labels = ", ".join(f"`{label}`" for label in spec.labels) or "–"
        lines.append(
            f"| `{PREFIX}{spec.name}` | {spec.kind}, {spec.unit} | {labels} | {spec.meaning} | {spec.action} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
