"""What a command hands to the part that does the work, where that is more than settings."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from streams.settings import Settings

View = Literal["final", "log"]
STREAM = "-"  # stands for stdin where a file is read, stdout where one is written


@dataclass(frozen=True)
class ReplayOptions:
    """A replay as the command line asks for it. Files are paths or `-`.

    `broker` and `redis` are None for the embedded ones; servers named in a settings file or the environment
    are never taken, so that a replay cannot land on a production cluster by accident.
    """

    settings: "Settings"
    touches: str
    conversions: str
    credits: str
    identities: str | None = None
    costs: str | None = None
    dead_letters: str | None = None
    view: View = "final"
    broker: str | None = None
    redis: str | None = None
    keep: bool = False


@dataclass(frozen=True)
class DemoOptions:
    """A demo as the command line asks for it. `seconds` and `credits` end it; without them Ctrl-C does."""

    settings: "Settings"
    config: str | None = None
    rate: float = 2000.0
    seed: int = 7
    seconds: float | None = None
    credits: int | None = None
    partitions: int = 4
    plain: bool = False
