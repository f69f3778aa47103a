"""How long a partition tries again: pauses that grow, and an end."""

import asyncio
import time

PAUSE_S = 0.05
PAUSE_MAX_S = 2.0


class Patience:
    """Failures that follow one another within `limit_s` are one outage, and no outage may last longer than that."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since_s = self._last_s = float("-inf")
        self._pause_s = PAUSE_S

    async def wait(self, cause: Exception) -> None:
        """Pause after a failure, longer each time; raise it where the outage has lasted too long."""
        now_s = time.monotonic()
        if now_s - self._last_s > self._limit_s:
            self._since_s, self._pause_s = now_s, PAUSE_S
        elif now_s - self._since_s > self._limit_s:
            raise cause
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)
        self._last_s = time.monotonic()
