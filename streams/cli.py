"""The command `touchstream`: which commands there are, and how each way to end becomes an exit code.

Exit codes: 0 fine, 1 a finding or failed run, 2 usage or configuration, 3 cannot connect. Errors are one block
on stderr (`streams.errors`); a full trace is printed only with TOUCHSTREAM_DEBUG=1.
"""

import logging
import os
import sys
import traceback
from collections.abc import Sequence

import typer

from streams.commands import config, dead_letters, explain, forget, identity, journey, records, topics, work
from streams.errors import EXIT_FINE, TouchstreamError, UnexpectedError, UsageError, debugging, render

INTERRUPTED = 130  # 128 + SIGINT, what a shell expects of a program that Ctrl-C ended


def build_app() -> typer.Typer:
    """The command tree. Plain help: it is as good to read, can be cut, and is there 100 ms sooner."""
    app = typer.Typer(
        name="touchstream",
        help="Real-time marketing attribution on Kafka and Redis: exact credits, exactly once.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback(invoke_without_command=True)(_top)
    for command in (work.demo, work.run, work.replay, work.simulate, work.doctor, records.channel):
        app.command()(command)
    app.command()(explain.explain)
    app.command()(journey.journey)
    app.command()(forget.forget)
    app.add_typer(identity.app, name="identity")
    app.add_typer(topics.app, name="topics")
    app.add_typer(dead_letters.app, name="dead-letters")
    app.add_typer(config.app, name="config")
    app.add_typer(records.schema_app, name="schema")
    return app


def _top(version: bool = typer.Option(False, "--version", help="Print the version and end.")) -> None:
    if version:
        from importlib.metadata import version as installed  # noqa: PLC0415

        typer.echo(f"touchstream {installed('touchstream')}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; whatever goes wrong becomes one block on stderr."""
    # A broker that is away is told in our own block; workers set up handlers, which still get all of it.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    try:
        code = build_app()(args=arguments, prog_name="touchstream", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else EXIT_FINE
    except TouchstreamError as error:
        return _end(error)
    except typer.TyperException as error:
        return _end(_usage(error))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone, as `| head` does. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FINE
    except Exception as error:
        return _end(UnexpectedError.wrap(error))


def _usage(error: typer.TyperException) -> UsageError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "touchstream"
    return UsageError("T100", error.format_message(), command, "", f"{command} --help")


def _end(error: TouchstreamError) -> int:
    print(render(error), file=sys.stderr)
    if debugging():
        traceback.print_exc()
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
