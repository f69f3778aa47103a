"""The worker's event loop and TLS connections whose other side never says goodbye."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streams.loop import Loop
from tests.support.certificates import Authority
from tests.support.servers import MissingServer

# A fence well below the 30 s that uvloop waits of itself.
DEADLINE_S = 15.0


@contextmanager
def silent_server(context: ssl.SSLContext) -> Iterator[int]:
    """The port of a server that shakes hands with one client, and then neither reads nor closes until the end."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            accepted, _ = listening.accept()
            with context.wrap_socket(accepted, server_side=True):
                over.wait(2 * DEADLINE_S)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            over.set()
            thread.join(DEADLINE_S)


def test_a_connection_is_closed_though_the_other_side_says_nothing(tmp_path: Path) -> None:
    """A TLS connection that is closed is gone while the server still holds its end and has not answered."""
    try:
        authority = Authority(tmp_path)
    except MissingServer as error:
        pytest.skip(str(error))
    certificate = authority.server("server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.cert, certificate.key)
    trusting = ssl.create_default_context(cafile=authority.ca)

    async def connect_and_close(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        writer.close()
        async with asyncio.timeout(DEADLINE_S):
            # It is given up, so it may be called an error; what counts is that the wait is over.
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    with silent_server(context) as port, asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(connect_and_close(port))
