"""Server processes that end with this one: how the embedded servers and those of the tests are run.

A `Child` holds one end of a pipe that its process watches as standard input. It closes when this process
stops the server or dies in whatever way, kill -9 included, and then the server ends too.
"""

import contextlib
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from streams.errors import ConnectError

HOST = "127.0.0.1"
# The embedded servers are up in well under a second; a crowded two-core machine was seen to need two.
START_TIMEOUT_S = 20.0
# Longer than the keeper's own grace, so that it has ended the server before it is ended itself.
STOP_TIMEOUT_S = 15.0
# Systems give outgoing connections ports from 32768 (Linux) or 49152 on.
PORTS = (16_384, 32_768)
PORT_TRIES = 100
# Between two looks at a server which has no line to say that it is up.
POLL_S = 0.005
LOG_TAIL_BYTES = 2_000

KEEPER = Path(__file__).with_name("keeper.py")


def redis_command(binary: Path, port: int, folder: str) -> list[str]:
    """Command line of a Redis or Valkey server as this project needs it: `noeviction`, nothing saved.

    A server loads the dump that it finds in its folder even if it saves none, hence a file name of its own.
    """
    settings = {
        "bind": HOST,
        "port": str(port),
        "dir": folder,
        "dbfilename": f"touchstream-{uuid.uuid4().hex}.rdb",
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
    }
    return [str(binary), *(part for name, value in settings.items() for part in (f"--{name}", value))]


def free_port() -> int:
    """A port of 127.0.0.1 which nobody listened on a moment ago; another process may take it at any time.

    From below those that the system gives to outgoing connections: clients that try again and again to reach a
    server that is down would else take its port, or connect to themselves. Raises ConnectError where none is free.
    """
    for port in random.SystemRandom().sample(range(*PORTS), PORT_TRIES):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    where = f"{HOST}:{PORTS[0]}-{PORTS[1] - 1}"
    raise ConnectError("T390", "no free port", where, f"{PORT_TRIES} ports were tried and all were taken")


class Child:
    """A server process that ends with this one. Its log is kept aside and quoted when it fails to start."""

    def __init__(self, name: str, command: Sequence[str], process: "subprocess.Popen[bytes]", log: BinaryIO) -> None:
        self.name, self.command, self.process, self.log = name, command, process, log
        self.pid = process.pid

    @classmethod
    @contextlib.contextmanager
    def started(cls, name: str, command: Sequence[str], cwd: Path | None = None) -> "Iterator[Child]":
        """Run a command which itself ends when its standard input closes; stopped on leaving the block."""
        with tempfile.TemporaryFile() as log:
            # A session of its own: Ctrl-C must reach the servers last, through us, not from the terminal.
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                cwd=cwd,
            )
            child = cls(name, command, process, log)
            try:
                yield child
            finally:
                child.stop()

    @classmethod
    @contextlib.contextmanager
    def kept(cls, name: str, command: Sequence[str], cwd: Path | None = None) -> "Iterator[Child]":
        """Run any server under the keeper, which lends it the habit of ending with its parent."""
        with cls.started(name, [sys.executable, "-I", "-S", str(KEEPER), *command], cwd) as child:
            child.pid = int(child.first_line(START_TIMEOUT_S))
            yield child

    def first_line(self, timeout_s: float) -> str:
        """What the process prints first. Raises ConnectError when it ends, or stays silent, before that."""
        stdout = self.process.stdout
        assert stdout is not None
        deadline, text = time.monotonic() + timeout_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not text.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self.failed(f"it did not say within {timeout_s:g} s that it is up")
                part = os.read(stdout.fileno(), 1)
                if not part:
                    raise self.failed("it ended while starting")
                text += part
        return text.decode().strip()

    def await_redis(self, port: int, timeout_s: float) -> None:
        """Return once this very server, and no other at the same port, answers; else raise ConnectError."""
        mine = f"process_id:{self.pid}\r\n".encode()
        deadline = time.monotonic() + timeout_s
        while mine not in _redis_info(port):
            if self.process.poll() is not None:
                raise self.failed("it ended while starting")
            if time.monotonic() > deadline:
                raise self.failed(f"it did not answer within {timeout_s:g} s")
            time.sleep(POLL_S)

    def kill(self) -> None:
        """End the server as a power cut would, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT_S)

    def stop(self) -> None:
        """End it: ask, wait, and in the end kill. Fine to call when it is gone already."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        # Closing is enough unless a fork of ours holds the pipe too.
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def failed(self, why: str) -> ConnectError:
        """The error block for a server that did not come up, with the end of its log."""
        where = " ".join(self.command)
        return ConnectError("T390", f"the {self.name} did not start", where, f"{why}\n{self._tail()}".strip())

    def _tail(self) -> str:
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - LOG_TAIL_BYTES))
        return self.log.read().decode(errors="replace").strip()


def _redis_info(port: int) -> bytes:
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(b"INFO server\r\n")
            return connection.recv(8192)
    except OSError:
        return b""
