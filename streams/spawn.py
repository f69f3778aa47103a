"""Starting worker processes, without importing what a worker imports."""

import base64
import pickle
import subprocess
import sys
from typing import Any

from streams.settings import Settings


def worker_command(number: int = 0, log_level: str = "INFO", stage: str = "credit") -> list[str]:
    """The command of a worker process of a stage; it waits for its settings on standard input."""
    # -P: a folder named `streams` or `models` where the user stands must not be taken for ours.
    return [sys.executable, "-P", "-m", "streams.worker", str(number), log_level, stage]


def hand_over(settings: Settings, process: "subprocess.Popen[bytes]") -> None:
    """Give a worker its settings. Its standard input stays open: when it closes, the worker ends."""
    assert process.stdin is not None
    try:
        process.stdin.write(base64.b64encode(pickle.dumps(settings)) + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it has ended already: its exit code tells why


def spawn(
    settings: Settings, number: int = 0, log_level: str = "INFO", stage: str = "credit", **popen: Any
) -> "subprocess.Popen[bytes]":
    """Start a worker process that ends when this one does."""
    process = subprocess.Popen(worker_command(number, log_level, stage), stdin=subprocess.PIPE, **popen)
    hand_over(settings, process)
    return process
