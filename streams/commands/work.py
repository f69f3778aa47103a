"""`touchstream demo|run|replay|simulate|doctor`: the commands that need servers."""

import dataclasses
from typing import Annotated, Any, Literal

import typer

from streams.commands.common import (
    AsJson,
    Assign,
    Broker,
    Config,
    Prefix,
    Redis,
    one_line,
    print_json,
    say,
    settings_from,
    wait_for,
)

Input = typer.Option(metavar="FILE", help="Records, one JSON object a line: .ndjson, .ndjson.gz or -.")
Rate = Annotated[float, typer.Option(min=1.0, metavar="N", help="Records a second.")]
Seed = Annotated[int, typer.Option(metavar="N", help="The same seed gives the same journeys.")]
Seconds = Annotated[float | None, typer.Option(min=0.0, metavar="S", help="Stop after so many seconds.")]


def demo(
    *,
    rate: Rate = 2000.0,
    seed: Seed = 7,
    seconds: Seconds = None,
    credit_limit: Annotated[
        int | None, typer.Option("--credits", min=1, metavar="N", help="Stop after so many credits.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines in place of the live view.")] = False,
    config: Config = None,
    assign: Assign = None,
) -> int:
    """Watch credits of made-up journeys come in.

    Starts a broker, Valkey, a worker and a generator; Ctrl-C ends and removes them all.
    """
    from streams.demo import demo as run_demo  # noqa: PLC0415
    from streams.options import DemoOptions  # noqa: PLC0415

    settings = settings_from(config, assign)
    options = DemoOptions(
        settings,
        config=config,
        rate=rate,
        seed=seed,
        seconds=seconds,
        credits=credit_limit,
        plain=plain,
    )
    return run_demo(options)


def run(
    *,
    broker: Broker = None,
    redis: Redis = None,
    prefix: Prefix = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", min=1, metavar="N", help="Worker processes; default 1.")
    ] = None,
    republish: Annotated[
        bool, typer.Option("--republish", help="Start though store and offsets are gone: every credit comes again.")
    ] = False,
    config: Config = None,
    assign: Assign = None,
) -> int:
    """Credit conversions until SIGTERM or Ctrl-C; the second of them ends at once.

    Supervises worker processes, and starts one again that asks for it.
    """
    from streams.supervisor import run as supervise  # noqa: PLC0415

    settings = settings_from(
        config,
        assign,
        kafka__broker=broker,
        kafka__prefix=prefix,
        redis__url=redis,
        processing__workers=workers,
        processing__republish=republish or None,
    )
    return int(supervise(settings, settings.processing.workers))


def replay(
    *,
    touches: Annotated[str, Input],
    conversions: Annotated[str, Input],
    credits_out: Annotated[str, typer.Option("--credits", metavar="OUT", help="Where credits go; - is stdout.")],
    identities: Annotated[str | None, Input] = None,
    costs: Annotated[str | None, Input] = None,
    dead_letters: Annotated[str | None, typer.Option(metavar="OUT", help="Where refused records go.")] = None,
    view: Annotated[
        Literal["final", "log"],
        typer.Option(help="final: the highest revisions, sorted; log: everything as published."),
    ] = "final",
    broker: Broker = None,
    redis: Redis = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep topics and keys of this replay.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if there are dead letters.")] = False,
    config: Config = None,
    assign: Assign = None,
    as_json: AsJson = False,
) -> int:
    """Credit files of records and write the credits.

    They go through the same topics, agents and state as with `run`, on servers of their own unless told
    otherwise.
    """
    from streams.options import STREAM, ReplayOptions  # noqa: PLC0415
    from streams.replay import replay as run_replay  # noqa: PLC0415

    _refuse_one_stdin(touches, conversions, identities, costs)
    settings = settings_from(config, assign, kafka__broker=broker, redis__url=redis)
    options = ReplayOptions(
        settings,
        touches,
        conversions,
        credits_out,
        identities=identities,
        costs=costs,
        dead_letters=dead_letters,
        view=view,
        broker=broker,
        redis=redis,
        keep=keep,
    )
    summary = plain(run_replay(options))
    # The summary is a result, but where credits go to stdout it must not stand between them.
    streamed = STREAM in (credits_out, dead_letters)
    if as_json and not streamed:
        print_json(summary)
    else:
        (say if streamed else typer.echo)(one_line(summary))
    return 1 if strict and summary["dead_letters"] else 0


def _refuse_one_stdin(*files: str | None) -> None:
    from streams.errors import UsageError  # noqa: PLC0415
    from streams.options import STREAM  # noqa: PLC0415

    if files.count(STREAM) > 1:
        fix = "give all but one as files"
        raise UsageError("T112", "only one input can be stdin", "replay", "stdin can be read once", fix)


def simulate(
    *,
    broker: Broker = None,
    prefix: Prefix = None,
    rate: Annotated[float, typer.Option(min=0.1, metavar="N", help="Records a second.")] = 200.0,
    seed: Seed = 7,
    people: Annotated[int, typer.Option(min=10, metavar="N", help="Shoppers under way at most.")] = 20_000,
    seconds: Seconds = None,
    count: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after so many records.")] = None,
    config: Config = None,
    assign: Assign = None,
    as_json: AsJson = False,
) -> int:
    """Send made-up journeys to any broker.

    Repeat buyers, duplicates, late and malformed records among them. Ends with Ctrl-C unless a limit is given.
    """
    from streams.simulate import simulate as run_simulate  # noqa: PLC0415

    settings = settings_from(config, assign, kafka__broker=broker, kafka__prefix=prefix)
    sent: dict[str, int] = {}
    work = run_simulate(
        settings.kafka.broker,
        settings.kafka.prefix,
        rate,
        seed,
        people,
        duration=seconds,
        count=count,
        on_progress=sent.update,
        journey=settings.attribution.journey,
        client_options=settings.kafka.client_options(),
    )
    try:
        sent.update(wait_for(work))
    except KeyboardInterrupt:  # the usual end without a limit; what was last confirmed is told
        if seconds is not None or count is not None:
            raise
    if as_json:
        print_json(sent)
    else:
        typer.echo(one_line(sent))
    return 0


def doctor(
    *,
    broker: Broker = None,
    redis: Redis = None,
    prefix: Prefix = None,
    config: Config = None,
    assign: Assign = None,
    as_json: AsJson = False,
) -> int:
    """Check Kafka, Redis and the topics.

    Exit code 1 if anything fails, 3 if nothing can be reached.
    """
    from streams.doctor import examine, exit_code  # noqa: PLC0415

    settings = settings_from(config, assign, kafka__broker=broker, kafka__prefix=prefix, redis__url=redis)
    found = wait_for(examine(settings))
    if as_json:
        print_json({"ok": exit_code(found) == 0, "checks": [check.as_dict() for check in found]})
    else:
        for check in found:
            typer.echo(check.line())
    return exit_code(found)


def plain(summary: Any) -> dict[str, Any]:
    """A summary as a dictionary, whether it is a named tuple, a dataclass or a dictionary already."""
    if isinstance(summary, dict):
        return summary
    if dataclasses.is_dataclass(summary) and not isinstance(summary, type):
        return dataclasses.asdict(summary)
    return dict(summary._asdict())
