"""The worker's web server: aiohttp on the worker's own loop.

Not Faust's web app: that comes with pages of its own (`/`, `/router`, which shows where keys live), answers a taken
port with a traceback from a service it has started already, and cannot say which port it took instead.
"""

import asyncio
import errno
import logging
from contextlib import ExitStack
from socket import AI_PASSIVE, SOCK_STREAM, create_server

from aiohttp import web

from streams.errors import ConnectError

log = logging.getLogger("touchstream.web")

PORT_DEFAULT = 6066
STOP_S = 2.0  # a scrape takes milliseconds; nobody's open connection may hold up the end of a worker


class Server:
    """A started server. `port` is the one it listens on; `moved` tells that 6066 was taken."""

    def __init__(self, runner: web.AppRunner, host: str, port: int, moved: bool) -> None:
        self._runner = runner
        self.host, self.port, self.moved = host, port, moved

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def stop(self) -> None:
        """Close the port and what is open."""
        await self._runner.cleanup()


async def serve(pages: web.Application, host: str = "127.0.0.1", port: int | None = None) -> Server:
    """Start to listen. Without a port 6066 is tried, then any free one; 0 is any free one at once.

    Raises ConnectError (exit 3) where a configured port is taken, or the host is none of this machine's.
    """
    runner = web.AppRunner(pages, access_log=None, shutdown_timeout=STOP_S)
    await runner.setup()
    try:
        server = await _listen(runner, host, port)
    except BaseException:
        await runner.cleanup()
        raise
    if server.moved:
        log.warning("port %d is taken: metrics and probes are on %s", PORT_DEFAULT, server.url)
    return server


async def _listen(runner: web.AppRunner, host: str, port: int | None) -> Server:
    wanted = PORT_DEFAULT if port is None else port
    try:
        return Server(runner, host, await _bind(runner, host, wanted), moved=False)
    except OSError as error:
        if port is not None or error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise _refused(host, wanted, error) from error
    try:
        return Server(runner, host, await _bind(runner, host, 0), moved=True)
    except OSError as error:
        raise _refused(host, 0, error) from error


async def _bind(runner: web.AppRunner, host: str, port: int) -> int:
    """Listen on all addresses of the host; gives the port of the first.

    No SO_REUSEPORT: of two workers on one port each would get half of the scrapes.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM, flags=AI_PASSIVE)
    with ExitStack() as opened:
        # Two processes that start at once may both bind a port, and only one can listen on it. uvloop would log that,
        # and go on with a server that is closed already.
        sockets = [opened.enter_context(create_server(at, family=family)) for family, _, _, _, at in found]
        opened.pop_all()
    for each in sockets:
        await web.SockSite(runner, each).start()
    return int(runner.addresses[0][1])


def _refused(host: str, port: int, error: OSError) -> ConnectError:
    return ConnectError(
        "T303",
        "the web server cannot listen",
        where=f"{host}:{port}",
        why=error.strerror or str(error),
        fix="choose another web.port (--port, TOUCHSTREAM_WEB__PORT), or leave it out to get a free one",
    )
