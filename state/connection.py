"""Connections to Redis: fast packing of long commands, and each wait and retry with a limit of our own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import hiredis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

CONNECTIONS_MAX = 32  # one a partition of a worker at a time; more partitions than that wait for their turn


# A piece of a command: one word; or each key of a mapping behind this prefix; or, with None, each of its values.
Part = bytes | tuple[bytes | None, Mapping[bytes, bytes]]
Pack = Callable[[Sequence[Part]], bytes]


class Packed(str):
    """The name of a command that is packed already: passed on as 50,000 arguments, it costs as much as Redis' part."""

    __slots__ = ("data",)
    data: bytes

    def __new__(cls, data: bytes, name: str) -> "Packed":
        """`data`: the whole command as the server reads it, its `name` included."""
        packed = super().__new__(cls, name)
        packed.data = data
        return packed


def pack(parts: Sequence[Part]) -> bytes:
    """A command as the server reads it."""
    packed: bytes = hiredis.pack_command(tuple(_words(parts)))  # type: ignore[arg-type]
    return packed


def _words(parts: Sequence[Part]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        start, found = part
        if start is None:
            yield from found.values()
        else:
            yield from [start + key for key in found]


class _Packing:
    """Packs in C: redis-py's own packer costs 0.5 µs an argument, more than Redis needs to read it."""

    def pack_command(self, *args: Any) -> list[bytes]:
        name = args[0]
        if isinstance(name, Packed):
            return [name.data]
        if isinstance(name, str) and " " in name:  # redis-py writes `SCRIPT FLUSH` and its like as one argument
            args = (*name.split(), *args[1:])
        return [hiredis.pack_command(args)]


class _Tcp(_Packing, Connection):
    """redis://"""


class _Tls(_Packing, SSLConnection):
    """rediss://"""


class _Unix(_Packing, UnixDomainSocketConnection):
    """unix://"""


def connect(url: str, timeout_s: float) -> "Redis":
    """Return a client for the one server at a `redis://`, `rediss://` or `unix://` URL; nothing is sent yet.

    `timeout_s` bounds connecting, each read and each write. redis-py's own repeats (10 by default in its
    newer versions) are off: a repeat is the store's decision, which knows that its scripts can bear it.
    Raises ValueError for a URL that redis-py does not understand.
    """
    return client_of(options_of(url, timeout_s))


def options_of(url: str, timeout_s: float) -> dict[str, Any]:
    """The options of each connection to this URL, its class among them; see `connect`."""
    kwargs: dict[str, Any] = dict(parse_url(url))
    kinds: dict[object, type] = {SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}
    kind = kinds.get(kwargs.pop("connection_class", None), _Tcp)
    settings: dict[str, Any] = {
        "connection_class": kind,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "max_connections": CONNECTIONS_MAX,
        # It would be sent as CLIENT SETINFO, which is one more right to grant, and of no use to the product.
        "driver_info": None,
    }
    return {**settings, **kwargs}


def client_of(options: dict[str, Any]) -> "Redis":
    """A client with a pool of its own; who finds all connections in use waits as long as for an answer."""
    extra: dict[str, Any] = {
        "timeout": options["socket_timeout"],
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    return Redis(connection_pool=BlockingConnectionPool(**{**extra, **options}))
