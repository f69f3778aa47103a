"""Side by side: Touchstream and its peers on one machine, one broker, one data set. `bench/run.py --help`.

A first round runs every configuration once, proves its output, and finds the best of each system and output form; then
those alone run in `--rounds` interleaved rounds, every other one in reverse order. How and why: `bench/README.md`.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient

from bench import cost, identity
from bench.generate import DataSet, generate
from bench.jars import CACHE, HERE
from bench.latency import Target, latency
from bench.measure import PARTITIONS, Bench, Failed, Measured
from bench.report import Results, write
from bench.servers import Servers, servers
from bench.systems import PREFIX, TOUCHSTREAM, System, every, touchstream, variants

TOUCHES = 1_000_000
QUIET_SECONDS = 10.0
# `settle`, and whether raw events come by way of the identity stage.
LATENCIES = (("250ms", False), ("0s", False), ("250ms", True))


def main() -> int:
    """Run, print each measurement, write the report. Exit 1 where a run failed or an output was wrong."""
    o = options()
    systems = chosen(o)
    with servers("bench") as running:
        code, results = compare(o, systems, running)
    # Afterwards, on servers of its own: it needs the machine for itself.
    if o.identity_rounds and any(s.name.startswith("touchstream") for s in systems):
        code |= add_identity(o, results)
        write(folder_of(o), results)
    return code


def folder_of(o: argparse.Namespace) -> Path:
    """Where the report goes."""
    out: Path | None = o.out
    return out or (HERE if o.scale == 1 and not o.only else CACHE / "out")


def options() -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(prog="bench/run.py", description=__doc__.splitlines()[0] if __doc__ else None)
    p.add_argument("--only", help="names of configurations, or beginnings of names, with commas between")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--scale", type=float, default=1.0, help="1 is a million touches")
    p.add_argument("--latency-seconds", type=float, default=300.0, help="0 leaves the latency runs out")
    p.add_argument("--identity-rounds", type=int, default=3, help="runs of each case; 0 leaves the identity stage out")
    p.add_argument("--variants", action="store_true", help="also the settings that were tried and not kept")
    p.add_argument("--touchstream", default=TOUCHSTREAM, help="command; {broker}, {redis}, {workers} are filled in")
    p.add_argument("--out", type=Path, help="folder for RESULTS.md and results.json")
    return p.parse_args()


def chosen(o: argparse.Namespace) -> list[System]:
    """The configurations asked for; an unknown name is an error."""
    systems = every(o.touchstream) + (variants() if o.variants else [])
    if not o.only:
        return systems
    names = {s.name: s for s in every(o.touchstream) + variants()}
    found: dict[str, System] = {}
    for wanted in o.only.split(","):
        hits = [names[wanted]] if wanted in names else [s for s in systems if s.name.startswith(wanted)]
        if not hits:
            raise SystemExit(f"unknown: {wanted}; known: {', '.join(names)}")
        found |= {s.name: s for s in hits}
    return list(found.values())


def add_identity(o: argparse.Namespace, results: Results) -> int:
    """What the identity stage costs, at half of the data; 1 where it could not be measured."""
    try:
        results.identity.extend(identity.compare(int(TOUCHES * identity.SCALE * o.scale), 1, o.identity_rounds))
    except RuntimeError as failed:
        results.failures.append(f"identity stage: {str(failed).splitlines()[0]}")
        print(failed, file=sys.stderr, flush=True)
        return 1
    print(cost.table(results.identity), cost.verdict(results.identity), sep="\n", flush=True)
    return 0


def compare(o: argparse.Namespace, systems: list[System], running: Servers) -> tuple[int, Results]:
    """First round, interleaved rounds, the spoiled run, latency; the exit code and what was measured."""
    kafka, redis, work = running
    touches = int(TOUCHES * o.scale)
    data = generate(kafka.bootstrap, PREFIX, touches, PARTITIONS)
    print(data, flush=True)
    bench = Bench(kafka, redis, data, work)
    failures: list[str] = []
    first = [m for s in systems if (m := once(bench, s, 0, failures, check=True))]
    rounds: list[Measured] = []
    finalists = best(systems, first)
    for number in range(1, o.rounds + 1):
        order = finalists if number % 2 else finalists[::-1]
        rounds += [m for s in order if (m := once(bench, s, number, failures))]
    delays: list[dict[str, Any]] = []
    spoiled = None
    if any(m.system.startswith("touchstream") for m in first):
        spoiled = run_spoiled(bench, o.touchstream, touches, failures)
        # The identity stage comes last, as it leaves topics of its own behind.
        for settle, identity in LATENCIES if o.latency_seconds else ():
            remove_inputs(kafka.bootstrap)
            redis.flush()  # journeys of topics that are gone
            target = Target(kafka.bootstrap, redis.url, o.touchstream, work)
            try:
                delays.append(latency(target, o.latency_seconds, settle, identity))
            except RuntimeError as failed:
                failures.append(f"latency with settle {settle}: {str(failed).splitlines()[0]}")
                print(failed, file=sys.stderr, flush=True)
            else:
                print(delays[-1], flush=True)
    code = 1 if failures or any(m.faults or m.surplus for m in [*first, *rounds]) else 0
    results = Results(data, first, rounds, failures, spoiled, delays)
    write(folder_of(o), results)
    return code, results


def once(bench: Bench, s: System, number: int, failures: list[str], check: bool = False) -> Measured | None:
    """One run, printed; a failed one is noted and the benchmark goes on."""
    try:
        m = bench.run(s, number, check)
    except Failed as failed:
        failures.append(f"{s.name}, round {number}: {str(failed).splitlines()[0]}")
        print(f"{s.name}, round {number}: {failed}", file=sys.stderr, flush=True)
        return None
    print(
        f"{number} {m.system:44s} {m.rate:9,.0f} events/s {m.per_cpu:9,.0f} per CPU-s  {m.seconds:6.2f} s"
        f"  CPU client {m.client_cpu:5.2f} redis {m.redis_cpu:5.2f} broker {m.broker_cpu:5.2f}"
        f"  peak {m.client_peak_mib:5.0f} MiB  {'' if not m.faults else m.faults}",
        flush=True,
    )
    return m


def best(systems: list[System], first: list[Measured]) -> list[System]:
    """The fastest configuration of each system and output form, by the first round; stock Faust once is enough."""
    rate = {m.system: m.rate for m in first}
    groups: dict[tuple[str, bool], list[System]] = {}
    for s in systems:
        if s.name in rate and not s.limited:
            groups.setdefault((s.family, s.flat), []).append(s)
    return [max(group, key=lambda s: rate[s.name]) for group in groups.values()]


def run_spoiled(bench: Bench, command: str, touches: int, failures: list[str]) -> dict[str, Any] | None:
    """Touchstream on data with 2 % late touches and 1 % duplicates; the final view must be that of the clean data."""
    remove_inputs(bench.kafka.bootstrap)
    data: DataSet = generate(bench.kafka.bootstrap, PREFIX, touches, PARTITIONS, late=0.02, duplicates=0.01)
    again = Bench(bench.kafka, bench.redis, data, bench.work)
    try:
        m = again.run(touchstream(1, command), 0, check=True, quiet=QUIET_SECONDS)
    except Failed as failed:
        failures.append(f"late and duplicates: {str(failed).splitlines()[0]}")
        print(failed, file=sys.stderr, flush=True)
        return None
    print(m, flush=True)
    return {
        "late touches": data.late,
        "duplicate touches": data.duplicates,
        "events/s": round(m.rate),
        f"client CPU-s ({QUIET_SECONDS:.0f} quiet s at the end included)": round(m.client_cpu, 2),
        "Redis CPU-s": round(m.redis_cpu, 2),
        "records published": m.outputs,
        "records in the final view": data.flat,
        "faults": "; ".join(m.faults or ()) or "none",
        "run": asdict(m),
    }


def remove_inputs(broker: str) -> None:
    """Delete the input topics, so that the next data set begins at offset 0."""
    admin = AdminClient({"bootstrap.servers": broker})
    topics = [t for t in admin.list_topics(timeout=10).topics if t.startswith(f"{PREFIX}.")]
    for future in admin.delete_topics(topics, operation_timeout=30).values():
        future.result(30)
