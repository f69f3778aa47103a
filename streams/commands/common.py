"""What the commands share: options, printing, and the way from options to settings.

Nothing heavy is imported at the top of any command module: `touchstream --help` has to answer at once.
"""

import json
import sys
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from streams.settings import Settings

T = TypeVar("T")
Config = Annotated[
    str | None,
    typer.Option("--config", "-c", metavar="FILE", help="Settings file; default touchstream.toml."),
]
Broker = Annotated[str | None, typer.Option(metavar="URL", help="Kafka, as kafka://host:9092;kafka://other:9092.")]
Redis = Annotated[str | None, typer.Option(metavar="URL", help="Redis or Valkey, as redis://host:6379/0.")]
Prefix = Annotated[str | None, typer.Option(metavar="NAME", help="First part of all topic names.")]
Assign = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, as attribution.lookback=90d. Repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the workers have done it.")]
Deadline = Annotated[str, typer.Option(metavar="DURATION", help="How long to wait.")]
DEADLINE = "60s"
Partitions = Annotated[
    int | None,
    typer.Option(metavar="N", help="Partitions of topics to be created; default as they have, or 4."),
]


def settings_from(config: str | None, assign: Sequence[str] | None = None, **given: str | int | None) -> "Settings":
    """Settings with the command line on top. Keyword names are dotted paths with `__`: `kafka__broker`."""
    from streams.settings import load_settings  # noqa: PLC0415
    from streams.settings_sources import parse_assignment  # noqa: PLC0415

    overrides: dict[str, Any] = dict(parse_assignment(each) for each in assign or ())
    overrides |= {path.replace("__", "."): value for path, value in given.items() if value is not None}
    return load_settings(config, overrides)


def wait_s(wait: bool, deadline: str) -> float | None:
    """Seconds that `--wait` and `--deadline` ask for; None for not at all. Raises UsageError."""
    from models.durations import parse_duration  # noqa: PLC0415
    from streams.errors import UsageError  # noqa: PLC0415

    try:
        return parse_duration(deadline) / 1000 if wait else None
    except ValueError as error:
        raise UsageError("T118", "this is no duration", f"--deadline {deadline}", str(error)) from error


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end. asyncio is loaded only here: it takes longer than all of --help."""
    import asyncio  # noqa: PLC0415

    return asyncio.run(work)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_rows(rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns on stdout, without colour or frames, so that the output can be cut and searched."""
    table = [[str(cell) for cell in row] for row in rows]
    if not table:
        return
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]) - 1)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        typer.echo("  ".join([*cells, row[-1]]).rstrip())


def say(text: str) -> None:
    """A line for people, on stderr, so that results on stdout stay clean."""
    print(text, file=sys.stderr, flush=True)


def one_line(values: Mapping[str, Any]) -> str:
    """`touches 10 · conversions 2`: the summary line of a run."""
    return " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
