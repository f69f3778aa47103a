"""Runs a server that must not outlive whoever started it: `python -I -S keeper.py COMMAND …`.

The parent holds the other end of this process's standard input. When that closes, because the parent
stopped the server or died in whatever way (kill -9 included), the server is ended. Standard library only,
because it runs without site-packages: that keeps its start at some ten milliseconds.

It prints the server's pid as one line, sends the server's own output to standard error, and ends with the
server's exit code (128 + signal where a signal ended it).
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

# How long the server may take to end by itself; Apache Kafka's orderly stop is the slowest, about 2 s.
GRACE_S = 10.0
PR_SET_PDEATHSIG = 1


def main(command: Sequence[str]) -> int:
    """Start `command`, wait until it or standard input ends, and return its exit code."""
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        preexec_fn=_end_with_keeper_on_linux,  # noqa: PLW1509 - safe: there are no threads yet
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.terminate())
    print(server.pid, flush=True)
    threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
    code = server.wait()
    return code if code >= 0 else 128 - code


def _end_with_parent(server: "subprocess.Popen[bytes]") -> None:
    while os.read(0, 4096):
        pass  # what the parent writes is of no interest, only that it is there
    server.terminate()
    try:
        server.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()


def _end_with_keeper_on_linux() -> None:
    """Covers a keeper that is itself killed. Elsewhere there is no such call, and that case stays open."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
