"""The event loop of a worker: uvloop, which lets go of TLS connections at once.

uvloop waits up to 30 s for the other side to say goodbye before it closes a TLS connection, and aiokafka waits for the
close. Apache Kafka often does not say it, so every second start of a worker stood still until a deadline passed
(https://github.com/MagicStack/uvloop/issues/471). Nothing is lost by not waiting: whoever closes has had its answers.
"""

from typing import Any

import uvloop

GOODBYE_S = 0.1


class Loop(uvloop.Loop):
    """uvloop's own, but for the wait above."""

    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        """As every event loop's."""
        if kwargs.get("ssl"):
            kwargs.setdefault("ssl_shutdown_timeout", GOODBYE_S)
        return await super().create_connection(*args, **kwargs)
