"""Figures into `RESULTS.md` and JSON: medians and ranges, ratios within each round, and what they were measured on."""

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import cost
from bench.cost import Cost, spread
from bench.generate import DataSet
from bench.measure import Measured

HEAD = (
    "| system | rounds | events/s | events per CPU-s, client + Redis | client CPU-s | Redis CPU-s | broker CPU-s"
    " | all CPU-µs an event | peak MiB, client / Redis | s with start-up |\n|---|---|---|---|---|---|---|---|---|---|\n"
)


def machine() -> dict[str, str]:
    """Processor, memory and versions; nothing that names the machine itself."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "processor": f"{cpu.group(1) if cpu else platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{int(memory.group(1)) / 2**20:.0f} GiB" if memory else "unknown",
        "system": _os_name(),
        "Python": platform.python_version(),
        "Java": _first_line(["java", "-version"]),
        "Redis": _first_line(["redis-server", "--version"]).split(" sha")[0],
        "Apache Kafka, Kafka Streams": _pom("kafka_streams", "kafka-streams"),
        "Flink": f"{_pom('flink', 'flink-streaming-java')}, connector {_pom('flink', 'flink-connector-kafka')}",
        "Quix Streams": _pinned("quixstreams"),
        "Faust": version("faust-streaming"),
        "aiokafka": version("aiokafka"),
    }


def _os_name() -> str:
    found = re.search(r'PRETTY_NAME="(.+)"', Path("/etc/os-release").read_text())
    return f"{found.group(1) if found else platform.system()}, Linux {platform.release().split('-')[0]}"


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return (done.stdout or done.stderr).splitlines()[0]


def _pom(peer: str, artifact: str) -> str:
    text = (Path(__file__).parent / "peers" / peer / "pom.xml").read_text()
    found = re.findall(rf"<artifactId>{artifact}</artifactId>\s*<version>([^<]+)", text)
    if not found:
        raise ValueError(f"{artifact} is not in the pom of {peer}")
    return str(found[-1])  # the project's own name may be the same, and stands first


def _pinned(name: str) -> str:
    text = (Path(__file__).parent / "peers" / "quix-requirements.txt").read_text()
    found = re.search(rf"^{name}==(.+)$", text, re.MULTILINE)
    return found.group(1) if found else "unknown"


def table(runs: Sequence[Measured]) -> str:
    """One row a system, fastest first."""
    by_name = _by_name(runs)
    fastest = sorted(by_name, key=lambda n: -statistics.median(r.rate for r in by_name[n]))
    return HEAD + "".join(_row(n, by_name[n]) for n in fastest)


def _row(name: str, runs: list[Measured]) -> str:
    def cell(of: Callable[[Measured], float], digits: int = 0) -> str:
        return spread([of(r) for r in runs], digits)

    return (
        f"| `{name}` | {len(runs)} | {cell(lambda r: r.rate)} | {cell(lambda r: r.per_cpu)}"
        f" | {cell(lambda r: r.client_cpu, 1)} | {cell(lambda r: r.redis_cpu, 1)}"
        f" | {cell(lambda r: r.broker_cpu, 1)}"
        f" | {cell(lambda r: (r.client_cpu + r.redis_cpu + r.broker_cpu) / r.events * 1e6, 1)}"
        f" | {max(r.client_peak_mib for r in runs):,.0f} / {max(r.redis_peak_mib for r in runs):,.0f}"
        f" | {cell(lambda r: r.seconds_with_start, 1)} |\n"
    )


def ratios(runs: Sequence[Measured], ours: str) -> str:
    """Touchstream over each other system, taken within each round: machine drift falls out."""
    by_name = _by_name(runs)
    lines = ["| " + ours + " over | events/s | events per CPU-s, client + Redis |\n|---|---|---|\n"]
    base = {r.round: r for r in by_name.get(ours, [])}
    for name, others in by_name.items():
        pairs = [(base[r.round], r) for r in others if r.round in base]
        if name == ours or not pairs:
            continue
        wall = spread([a.rate / b.rate for a, b in pairs], 2)
        cpu = spread([a.per_cpu / b.per_cpu for a, b in pairs], 2)
        lines.append(f"| `{name}` | {wall} | {cpu} |\n")
    return "".join(lines) if len(lines) > 1 else ""


def _by_name(runs: Sequence[Measured]) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = {}
    for r in runs:
        found.setdefault(r.system, []).append(r)
    return found


@dataclass(frozen=True)
class Results:
    """All that one benchmark measured; `failures` are runs that gave no measurement."""

    data: DataSet
    first: list[Measured]
    rounds: list[Measured]
    failures: list[str]
    late_and_duplicates: dict[str, Any] | None
    latency: list[dict[str, Any]]
    identity: list[Cost] = field(default_factory=list)


def write(directory: Path, results: Results, where: dict[str, str] | None = None) -> None:
    """`RESULTS.md` and `results.json` in `directory`, from measurements only; `where`: as `machine` gave it then."""
    directory.mkdir(parents=True, exist_ok=True)
    where = where or machine()
    content = {"machine": where, **asdict(results)}
    (directory / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    (directory / "RESULTS.md").write_text("\n".join(part for part in _parts(where, results) if part))


def rewrite(directory: Path, identity: Sequence[Cost] = (), latency: Sequence[dict[str, Any]] = ()) -> None:
    """The results in `directory` with a part that was measured again; all else stays as it was measured then."""
    content = json.loads((directory / "results.json").read_text())
    where = content.pop("machine")
    runs = {name: [Measured(**run) for run in content.pop(name)] for name in ("first", "rounds")}
    costs = [Cost(**cost) for cost in content.pop("identity")]
    again = {_case(each): each for each in latency}
    kept = [again.pop(_case(each), each) for each in content.pop("latency")]
    results = Results(
        DataSet(**content.pop("data")),
        identity=list(identity) or costs,
        latency=[*kept, *again.values()],
        **runs,
        **content,
    )
    write(directory, results, where)


def _case(latency: dict[str, Any]) -> tuple[str, bool]:
    return latency["settle"], latency.get("identity stage", False)


def _parts(where: dict[str, str], r: Results) -> list[str]:
    ours = sorted({m.system for m in r.rounds if m.system.startswith("touchstream")})
    return [
        "# Benchmark results\n\nWritten by `bench/run.py`; method and settings: `bench/README.md`.\n",
        "\n".join(f"- {k}: {v}" for k, v in where.items()) + "\n",
        f"{r.data.touches:,} touches, {r.data.conversions:,} conversions, 4 partitions, five attribution models;"
        f" {r.data.flat:,} flat or {r.data.grouped:,} grouped output records.\n",
        "## Rounds, interleaved: median (range)\n\n" + table(r.rounds) if r.rounds else "",
        *("## Ratios within a round\n\n" + t for t in (ratios(r.rounds, o) for o in ours) if t),
        "## First round: every configuration once\n\n" + table(r.first) if r.first else "",
        _proof([*r.first, *r.rounds]),
        "## 2 % late touches, 1 % duplicates\n\n" + _pairs(r.late_and_duplicates) if r.late_and_duplicates else "",
        "## Latency, open loop\n\n" + "\n".join(_pairs(x) for x in r.latency) if r.latency else "",
        _identity(r.identity),
        "## Runs without a measurement\n\n" + "\n".join(f"- {f}" for f in r.failures) + "\n" if r.failures else "",
    ]


def _identity(costs: list[Cost]) -> str:
    """The same events without the identity stage and with it."""
    if not costs:
        return ""
    events = f"{costs[0].events:,} events a run, one worker of each stage; what the cases are: `bench/README.md`.\n\n"
    return "## Identity stage\n\n" + events + cost.table(costs) + "\n" + cost.verdict(costs)


def _proof(runs: list[Measured]) -> str:
    checked = {r.system: r.faults for r in runs if r.faults is not None}
    if not checked:
        return ""
    bad = [f"- `{name}`: {'; '.join(faults)}\n" for name, faults in checked.items() if faults]
    extra = [f"- `{r.system}`, round {r.round}: {r.surplus} records too many\n" for r in runs if r.surplus]
    good = f"Output read again after the clock: {len(checked)} configurations checked, {len(bad)} with faults.\n"
    return "## Checked sums\n\n" + good + "".join(bad + extra)


def _pairs(values: dict[str, Any]) -> str:
    shown = {k: v for k, v in values.items() if not isinstance(v, dict)}
    return "| | |\n|---|---|\n" + "".join(f"| {k} | {v} |\n" for k, v in shown.items())
