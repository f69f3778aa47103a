"""The product as its users have it: the command in a process of its own, its exit code and what it prints.

Every run has a deadline. It is a fence against a hanging process, not a claim about speed.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ROOT / ".venv" / "bin" / "touchstream"
RUN_SECONDS = 300  # a replay of the real data on a busy machine takes a tenth of this
STOP_SECONDS = 30  # a worker that is asked to end has to commit its offsets first


@dataclass(frozen=True)
class Finished:
    """A command that has ended. `stdout` and `stderr` are text."""

    code: int
    stdout: str
    stderr: str

    def said(self) -> str:
        """Everything it printed, for a failing assertion."""
        return f"exit {self.code}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


def touchstream(
    *arguments: object,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    deadline_s: float = RUN_SECONDS,
) -> Finished:
    """Run `touchstream …` to its end; raises subprocess.TimeoutExpired when the deadline passes.

    The process leads a group of its own, so that the broker and the workers that it started end with it even
    when it has to be killed.
    """
    with _start([str(COMMAND), *map(str, arguments)], env, cwd, subprocess.PIPE, subprocess.PIPE) as process:
        try:
            stdout, stderr = process.communicate(stdin, timeout=deadline_s)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            raise
    return Finished(process.returncode, stdout, stderr)


@dataclass
class Running:
    """A command that goes on until the block ends."""

    process: "subprocess.Popen[str]"
    log: Path

    def said(self) -> str:
        """What it has printed so far, stdout and stderr together."""
        return self.log.read_text(errors="replace")

    def check_alive(self) -> None:
        """Raise AssertionError with the log if it has ended: waiting on would only hide why."""
        code = self.process.poll()
        assert code is None, f"the process ended with {code}\n{self.said()}"


@contextlib.contextmanager
def running(*arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Iterator[Running]:
    """Run `touchstream …` beside the block, then ask it to end, and kill its group if it does not."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with (
            log.open("w") as file,
            _start([str(COMMAND), *map(str, arguments)], env, cwd, file, file) as process,
        ):
            try:
                yield Running(process, log)
            except BaseException:
                print(log.read_text(errors="replace"))  # pytest shows it with the failure
                raise
            finally:
                stop(process)


def stop(process: "subprocess.Popen[str]") -> int:
    """SIGTERM, then SIGKILL for the whole group after the deadline; gives the exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _kill_group(process)
    return process.wait(STOP_SECONDS)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without settings of ours that a developer may have exported, and without colour."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOUCHSTREAM_")}
    return {**kept, "NO_COLOR": "1", **(extra or {})}


def _start(
    command: list[str], env: Mapping[str, str] | None, cwd: Path | None, out: Any, err: Any
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE if out is subprocess.PIPE else subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        text=True,
        env=clean_environment(env),
        cwd=cwd,
        start_new_session=True,
    )


def _kill_group(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Replayed:
    """A replay that has ended and the files that it wrote."""

    finished: Finished
    credits: Path
    dead_letters: Path

    def rows(self) -> list[dict[str, Any]]:
        """The credits as written; AssertionError if the replay did not end well."""
        assert self.finished.code == 0, self.finished.said()
        return [json.loads(line) for line in self.credits.read_text().splitlines()]


def replay(
    folder: Path,
    touches: Iterable[str],
    conversions: Iterable[str],
    config: str,
    *arguments: object,
    deadline_s: float = RUN_SECONDS,
) -> Replayed:
    """`touchstream replay` on these lines; `config` is the text of a touchstream.toml."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"touches": folder / "touches.ndjson", "conversions": folder / "conversions.ndjson"}
    files["touches"].write_text("".join(f"{line}\n" for line in touches))
    files["conversions"].write_text("".join(f"{line}\n" for line in conversions))
    settings, out, dead = folder / "touchstream.toml", folder / "credits.ndjson", folder / "dead.ndjson"
    settings.write_text(config)
    inputs = [part for name, path in files.items() for part in (f"--{name}", path)]
    finished = touchstream(
        "replay",
        *inputs,
        "--config",
        settings,
        "--credits",
        out,
        *arguments,
        cwd=folder,
        deadline_s=deadline_s,
    )
    return Replayed(finished, out, dead)
