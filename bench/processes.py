"""Children of the harness: started in a session of their own, watched for CPU and memory, ended by their pids."""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from bench.jars import ROOT

SAMPLE_SECONDS = 0.25
HISTORY_MAX = 4_000  # samples, a quarter of an hour
STOP_SECONDS = 10.0


class Child:
    """One started process with its log file and the sampler of its process tree."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        self.started = time.time()
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self.usage = Usage(self.process.pid)

    def said(self, word: str) -> list[str] | None:
        """Fields after `word` in the first line of the log that begins with it, or None; [] where nothing follows."""
        with self.log.open(errors="replace") as lines:
            for line in lines:
                fields = line.split()
                if fields and fields[0] == word:
                    return fields[1:]
        return None

    def tail(self, lines: int = 15) -> str:
        """The end of the log, for the error that names this child."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Ask, wait, then kill the tree; every pid comes from this child's own tree."""
        self.usage.close()
        tree = self.usage.tree()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(tree, timeout=STOP_SECONDS)
        for process in alive:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(alive, timeout=STOP_SECONDS)
        self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """End the tree at once: what it measured is already on paper."""
        self.usage.close()
        for process in self.usage.tree():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(STOP_SECONDS)


class Usage:
    """CPU seconds and peak memory of a process tree, sampled four times a second.

    A process that ended between two samples keeps its last seen figure, so at most one sample of it is lost.
    Memory is the sum of resident set sizes: pages shared by forked processes count once for each.
    """

    def __init__(self, pid: int) -> None:
        self.root = psutil.Process(pid)
        self.started = time.time()
        self.cpu_by_pid: dict[int, float] = {}
        self.peak_bytes = 0
        self._history: deque[tuple[float, float]] = deque(maxlen=HISTORY_MAX)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def tree(self) -> list[psutil.Process]:
        """The root and all its descendants that still run."""
        try:
            return [self.root, *self.root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def sample(self) -> float:
        """Take a sample now; CPU seconds of the tree since it was started."""
        resident = 0
        with self._lock:
            for process in self.tree():
                try:
                    times = process.cpu_times()
                    resident += process.memory_info().rss
                except (psutil.NoSuchProcess, psutil.ZombieProcess):
                    continue
                self.cpu_by_pid[process.pid] = times.user + times.system
            self.peak_bytes = max(self.peak_bytes, resident)
            total = sum(self.cpu_by_pid.values())
            self._history.append((time.time(), total))
            return total

    def at(self, moment: float) -> float:
        """CPU seconds of the tree at `moment` (epoch seconds), between the samples before and after it in proportion.

        The sample after it alone would leave out up to a quarter of a second, a tenth of a short run.
        """
        with self._lock:
            samples = [(self.started, 0.0), *self._history]
        behind = next((i for i, (taken, _) in enumerate(samples) if taken >= moment), None)
        if not behind:
            return samples[-1 if behind is None else 0][1]
        (before, low), (after, high) = samples[behind - 1 : behind + 1]
        return low + (high - low) * (moment - before) / (after - before)

    def reset_peak(self) -> None:
        """Forget the peak so far: servers outlive the runs that they are measured for."""
        with self._lock:
            self.peak_bytes = 0

    def close(self) -> None:
        """End the sampling thread."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.sample()
