"""Ports for servers that start, end and start again on the same one."""

import socket

import pytest

from streams import servers
from streams.errors import ConnectError


def test_a_free_port_is_none_that_an_outgoing_connection_could_be_given() -> None:
    """Else a client that waits for its server to come back would take the server's port away."""
    port = servers.free_port()
    assert 1_024 < port < 32_768
    with socket.socket() as server:
        server.bind((servers.HOST, port))


def test_a_taken_port_is_no_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing but a taken port is left, the error says so; the same port is found once it is free again."""
    with socket.socket() as taken:
        taken.bind((servers.HOST, servers.free_port()))
        port = taken.getsockname()[1]
        monkeypatch.setattr(servers, "PORTS", (port, port + 1))
        monkeypatch.setattr(servers, "PORT_TRIES", 1)
        with pytest.raises(ConnectError) as caught:
            servers.free_port()
    assert caught.value.code == "T390"
    assert servers.free_port() == port
