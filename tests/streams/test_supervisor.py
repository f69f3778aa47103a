"""The supervisor with worker processes that do nothing but end as they are told."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from subprocess import PIPE
from typing import Any

import pytest

from streams import supervisor
from streams.settings import Settings

WAIT_S = 30.0
ONE_STAGE = Settings.model_validate({"identity": {"enabled": False}})


class Workers:
    """Stands in for `spawn`: the n-th start runs the n-th program, the last one from then on."""

    def __init__(self, *programs: str) -> None:
        self.programs = list(programs)
        self.started: list[subprocess.Popen[bytes]] = []
        self.numbers: list[tuple[str, int]] = []
        self.enough = threading.Event()
        self.wanted = len(programs)

    def __call__(
        self, settings: Settings, number: int = 0, log_level: str = "INFO", stage: str = "credit", **popen: Any
    ) -> Any:
        program = self.programs[min(len(self.started), len(self.programs) - 1)]
        process = subprocess.Popen([sys.executable, "-c", program], **popen)
        self.started.append(process)
        self.numbers.append((stage, number))
        if len(self.started) >= self.wanted:
            self.enough.set()
        return process


DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
WAITS = "import signal; signal.pause()"
ENDS_75 = "raise SystemExit(75)"
ENDS_4 = "raise SystemExit(4)"
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(workers: Workers, count: int = 1, settings: Settings = ONE_STAGE) -> int:
        monkeypatch.setattr(supervisor, "spawn", workers)
        monkeypatch.setattr(supervisor, "PAUSE_S", 0.01)
        running = supervisor.Supervisor(settings, count)
        over = threading.Event()

        def ask() -> None:
            if workers.enough.wait(WAIT_S) and not over.is_set():
                signal.raise_signal(signal.SIGTERM)

        asker = threading.Thread(target=ask)
        asker.start()
        try:
            return running.run()
        finally:
            over.set()
            workers.enough.set()
            asker.join()

    return run


def test_a_worker_that_asks_for_it_or_was_killed_is_started_again(run: Callable[..., int]) -> None:
    """Exit 75 and death by a signal lead to a new start; SIGTERM ends the whole with 0."""
    workers = Workers(ENDS_75, KILLED, WAITS)
    assert run(workers) == 0
    assert [p.returncode for p in workers.started] == [75, -signal.SIGKILL, -signal.SIGTERM]


def test_any_other_end_of_a_worker_ends_all(run: Callable[..., int]) -> None:
    """The exit code becomes the supervisor's, and the other workers are stopped."""
    workers = Workers(WAITS, ENDS_4)
    workers.wanted = 1_000
    assert run(workers, count=2) == 4
    assert [p.returncode for p in workers.started] == [-signal.SIGTERM, 4]


def test_each_stage_has_so_many_workers(run: Callable[..., int]) -> None:
    """Both stages run beside each other, and no two workers have the same number, which their ports follow from."""
    workers = Workers(*[WAITS] * 4)
    assert run(workers, count=2, settings=Settings()) == 0
    assert workers.numbers == [("credit", 0), ("credit", 1), ("identity", 2), ("identity", 3)]


def test_the_second_signal_ends_everything_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that do not end when asked are killed, and the exit code tells the signal, as a shell would."""
    workers = Workers(DEAF)
    monkeypatch.setattr(supervisor, "spawn", lambda *args, **popen: workers(*args, **{**popen, "stdout": PIPE}))
    running = supervisor.Supervisor(ONE_STAGE, 1)

    def ask() -> None:
        assert workers.enough.wait(WAIT_S)
        worker = workers.started[0]
        assert worker.stdout is not None
        worker.stdout.readline()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)

    asker = threading.Thread(target=ask)
    asker.start()
    code = running.run()
    asker.join()
    # Which of two pending signals is handled last is the interpreter's choice.
    assert code in {128 + signal.SIGTERM, 128 + signal.SIGINT}
    assert workers.started[0].returncode == -signal.SIGKILL
