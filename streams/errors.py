"""What can go wrong in the shell, as one block for people: code, what, where, why, fix.

    TouchstreamError
    ├── UsageError         T1xx  exit 2   the command line asks for something that cannot be
    │   └── SettingsError  T12x  exit 2   a setting is unknown or has a value that cannot be
    ├── RunFailed          T2xx  exit 1   a finding, or a run that ended badly
    ├── ConnectError       T3xx  exit 3   Kafka or Redis does not answer, or a configured port is taken
    └── UnexpectedError    T900  exit 1   a defect of ours, wrapped at the edge of the command

Bad *input records* never come here: they are outcomes (`dead letters`), not exceptions.
"""

import os
import sys
import traceback
from collections.abc import Iterable

EXIT_FINE, EXIT_FINDING, EXIT_USAGE, EXIT_CONNECT = 0, 1, 2, 3
EXIT_RESTART = 75  # a worker that has lost its partitions and wants to be started again
REDIS_FIX = "see that Redis or Valkey runs there, or set redis.url (--redis redis://host:6379/0)"


class TouchstreamError(Exception):
    """An error that knows its block. `where`, `why` and `fix` may be empty; then their line is left out."""

    exit_code = EXIT_FINDING

    def __init__(
        self,
        code: str,
        what: str,
        where: str = "",
        why: str = "",
        fix: str = "",
        *,
        exit_code: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {what}")
        self.code, self.what, self.where, self.why, self.fix = code, what, where, why, fix
        if exit_code is not None:
            self.exit_code = exit_code

    def as_dict(self) -> dict[str, str]:
        """The block as plain data, for `--json`."""
        return {part: getattr(self, part) for part in ("code", "what", "where", "why", "fix")}

    @property
    def blocks(self) -> "tuple[TouchstreamError, ...]":
        """The single errors in this one; settings report everything that is wrong at once."""
        return (self,)


class UsageError(TouchstreamError):
    """The command line asks for something that cannot be."""

    exit_code = EXIT_USAGE


class SettingsError(UsageError):
    """One or more wrong settings; `blocks` has them all, in the order of the file."""

    def __init__(self, code: str, what: str, where: str = "", why: str = "", fix: str = "") -> None:
        super().__init__(code, what, where, why, fix)
        self.others: tuple[TouchstreamError, ...] = ()

    @classmethod
    def of(cls, errors: "Iterable[SettingsError]") -> "SettingsError":
        """The first error, carrying the others. At least one is needed."""
        first, *rest = errors
        first.others = tuple(rest)
        return first

    @property
    def blocks(self) -> tuple[TouchstreamError, ...]:
        return (self, *self.others)


class RunFailed(TouchstreamError):
    """A finding, or a run that ended badly."""

    exit_code = EXIT_FINDING


class ConnectError(TouchstreamError):
    """Kafka or Redis does not answer, or a configured port is taken."""

    exit_code = EXIT_CONNECT

    @classmethod
    def of_redis(cls, where: str, error: BaseException) -> "ConnectError":
        """The block for a Redis at `where` (its URL without the password) that does not answer."""
        return cls("T302", "Redis does not answer", where, str(error) or type(error).__name__, REDIS_FIX)


class UnexpectedError(TouchstreamError):
    """A defect of ours: whatever no other block describes."""

    @classmethod
    def wrap(cls, error: BaseException) -> "UnexpectedError":
        """One block for any exception; `where` is the innermost line of code, the trace stays out."""
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
        why = f"{type(error).__name__}: {error}".strip().rstrip(":")
        fix = "run again with TOUCHSTREAM_DEBUG=1 for the full trace, and report it"
        return cls("T900", "something went wrong that should not", where, why, fix)


def debugging() -> bool:
    """Whether the user asked for full traces."""
    return os.environ.get("TOUCHSTREAM_DEBUG", "") not in ("", "0")


def colour_wanted() -> bool:
    """Colour goes to a terminal, unless NO_COLOR is set to anything (no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and sys.stderr.isatty()


def render(error: TouchstreamError, colour: bool | None = None) -> str:
    """The block, or blocks, as text without a newline at the end."""
    painted = colour_wanted() if colour is None else colour
    return "\n\n".join(_block(each, painted) for each in error.blocks)


def _block(error: TouchstreamError, colour: bool) -> str:
    head = f"error[{error.code}]"
    lines = [f"\033[1;31m{head}\033[0m {error.what}" if colour else f"{head} {error.what}"]
    for name in ("where", "why", "fix"):
        text = str(getattr(error, name))
        if text:
            lines.append(f"{name:>7}: " + text.replace("\n", "\n" + " " * 9))
    return "\n".join(lines)
