"""`touchstream config check|show|schema|policies`: is the file right, what holds, what may stand there, and what counts
from when."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.commands.common import (
    AsJson,
    Assign,
    Broker,
    Config,
    Prefix,
    print_json,
    print_rows,
    settings_from,
    wait_for,
)

if TYPE_CHECKING:
    from streams.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Check and show the settings.")


@app.command()
def check(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="The file, in place of --config.")] = None,
    config: Config = None,
    assign: Assign = None,
    as_json: AsJson = False,
) -> int:
    """Read the settings and say everything that is wrong with them. Exit code 2 if anything is."""
    from streams.errors import SettingsError, render  # noqa: PLC0415

    try:
        settings = settings_from(file or config, assign)
    except SettingsError as error:
        if not as_json:
            typer.echo(render(error), err=True)
        else:
            print_json({"ok": False, "errors": [block.as_dict() for block in error.blocks]})
        return error.exit_code
    version = settings.policy().version
    if as_json:
        print_json({"ok": True, "errors": [], "policy_version": version})
    else:
        typer.echo(f"fine · policy version {version}")
    return 0


@app.command()
def show(config: Config = None, assign: Assign = None, as_json: AsJson = False) -> int:
    """Print every setting in force and where it comes from. Passwords are masked."""
    settings = settings_from(config, assign)
    rows = list(effective(settings))
    if as_json:
        print_json({path: {"value": value, "origin": origin} for path, value, origin in rows})
    else:
        print_rows((path, _text(value), origin) for path, value, origin in rows)
    return 0


@app.command()
def schema() -> int:
    """Print the JSON Schema of touchstream.toml, for editors."""
    from streams.settings import Settings  # noqa: PLC0415

    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()})
    return 0


@app.command()
def policies(
    broker: Broker = None,
    prefix: Prefix = None,
    config: Config = None,
    assign: Assign = None,
    as_json: AsJson = False,
) -> int:
    """List the policies that were announced, and from which record time each counts."""
    from models.times import format_time  # noqa: PLC0415
    from streams.policies import look  # noqa: PLC0415

    settings = settings_from(config, assign, kafka__broker=broker, kafka__prefix=prefix)
    found = wait_for(look(settings))
    rows = [
        {
            "policy_version": each.version,
            "effective_from": each.from_ms,
            "state": state,
            "policy": None if each.policy is None else each.policy.effective(),
        }
        for each, state in found
    ]
    if as_json:
        print_json(rows)
    else:
        starts = ["the beginning" if each.from_ms == 0 else format_time(each.from_ms) for each, _ in found]
        print_rows((each.version, at, state) for (each, state), at in zip(found, starts, strict=True))
    return 0


def effective(settings: "Settings") -> Iterable[tuple[str, Any, str]]:
    """(dotted path, value, origin) of each setting; what nobody set and has no default is left out."""
    for loc, value in _leaves(settings.model_dump(mode="json"), ()):
        if value is not None:
            shown = settings.redis.shown() if loc == ("redis", "url") else value
            yield ".".join(loc), shown, settings.origin(loc)


def _leaves(values: Mapping[str, Any], at: tuple[str, ...]) -> Iterable[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*at, key))
        else:
            yield (*at, key), value


def _text(value: Any) -> str:
    import json  # noqa: PLC0415

    return json.dumps(value, ensure_ascii=False)
