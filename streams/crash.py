"""Crash points: named places at which a test lets the process die, or stand still, as if by accident.

`TOUCHSTREAM_CRASH=published:3` kills the process with SIGKILL at the third passing of `published`;
`TOUCHSTREAM_CRASH=published:3:stop` stops it with SIGSTOP, as a machine that is suspended would. Unset, a crash point
is one call of an empty function.
"""

import os
import signal
from collections.abc import Callable

VARIABLE = "TOUCHSTREAM_CRASH"

# In the order in which a partition passes them.
CRASH_POINTS = ("claim_producer", "claim_store", "decided", "sent", "published", "saved")


def crash_point() -> Callable[[str], None]:
    """The function to call at each crash point, as the environment asks."""
    wanted = os.environ.get(VARIABLE)
    return _Crash(wanted) if wanted else _nothing


def _nothing(name: str) -> None:
    """What a crash point does outside of tests."""


class _Crash:
    def __init__(self, wanted: str) -> None:
        self._name, _, rest = wanted.partition(":")
        count, _, how = rest.partition(":")
        self._left = int(count or 1)
        self._signal = signal.SIGSTOP if how == "stop" else signal.SIGKILL
        if self._name not in CRASH_POINTS:
            raise ValueError(f"{VARIABLE}: {self._name!r} is none of {', '.join(CRASH_POINTS)}")

    def __call__(self, name: str) -> None:
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), self._signal)
