"""Redis Cluster: which primary has a partition's slot, and a command sent there, wherever the slot has gone meanwhile.

redis-py knows the nodes, learns of new ones and holds the connections. The sending is here, because its own works
out the slot of each of the thousands of keys of a save, needs the right to `COMMAND`, repeats by rules of its own,
and may send ASKING on another connection than the command that it is for.
"""

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, NodesManager
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    RedisClusterException,
    SlotNotCoveredError,
    TimeoutError,
)

from state.connection import CONNECTIONS_MAX, client_of

REDIRECTS_MAX = 5  # a slot that moves gives one or two; more means that nodes disagree, and waiting helps better


class Cluster:
    """The primaries of a Redis Cluster. `options` are those of a connection, with the first node's host and port.

    Every error of redis-py's own cluster tree comes out as ConnectionError, ClusterDownError or TryAgainError, which
    the store repeats: a failover takes a while, and a slot under migration refuses commands over several keys.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._nodes = self._beginning()
        self._stale, self._failed = True, ""
        self._places = asyncio.Semaphore(CONNECTIONS_MAX)  # redis-py would raise where all connections are in use

    async def call(self, key: bytes, *args: Any) -> Any:
        """Send a command, all of whose keys share the slot of `key`, to the primary of that slot."""
        async with self._places:
            await self._refresh()
            slot = key_slot(key)
            node, asking = self._primary(slot), False
            for _ in range(REDIRECTS_MAX):
                try:
                    return await (_ask(node, *args) if asking else node.execute_command(*args))
                except MovedError as moved:
                    node, asking = await self._moved(moved, slot, node), False
                except AskError as ask:
                    node, asking = self._named(ask.host or node.host, ask.port), True
                except (ConnectionError, TimeoutError, ClusterDownError, OSError):
                    self._forget(node)
                    raise
            self._forget(node)
            raise ClusterDownError(f"slot {slot} was handed on {REDIRECTS_MAX} times")

    def place(self, key: bytes) -> str:
        """The name of the node that has the slot of `key`, as far as known; "" where none does."""
        try:
            return str(self._nodes.get_node_from_slot(key_slot(key)).name)
        except (SlotNotCoveredError, KeyError):
            return ""

    async def primaries(self) -> list[tuple[str, "Redis"]]:
        """A client of its own for each primary, with its name; the caller closes them."""
        await self._refresh()
        nodes = self._nodes.get_nodes_by_server_type("primary")
        return [(n.name, client_of({**self._options, "host": n.host, "port": n.port})) for n in nodes]

    async def close(self) -> None:
        """Let go of all connections."""
        await _close(self._nodes)

    def _beginning(self) -> NodesManager:
        """All that is known at first: the node of the URL. The hosts of the others come from the cluster."""
        shared = {name: value for name, value in self._options.items() if name not in ("host", "port", "db")}
        first = ClusterNode(self._options.get("host", "localhost"), self._options.get("port", 6379), **shared)
        return NodesManager([first], require_full_coverage=False, connection_kwargs=shared)

    def _forget(self, node: ClusterNode) -> None:
        """Ask for the nodes anew before the next command, this one last: it may be dead, or alone."""
        self._stale, self._failed = True, node.name

    async def _refresh(self) -> None:
        if not self._stale:
            return
        nodes = self._nodes
        try:
            await nodes.initialize(last_failed_node_name=self._failed or None)
        except RedisClusterException as error:
            if nodes is self._nodes:
                # No node that was known answers: they may have other addresses now, so begin at the URL again.
                self._nodes = self._beginning()
                await _close(nodes)
            cause = error.__cause__
            if isinstance(cause, AuthenticationError | AuthorizationError):
                raise cause from error
            raise ConnectionError(str(error)) from error
        self._stale = False

    def _primary(self, slot: int) -> ClusterNode:
        try:
            return self._nodes.get_node_from_slot(slot)
        except (SlotNotCoveredError, KeyError) as error:
            self._stale = True
            raise ClusterDownError(f"no node serves slot {slot}") from error

    async def _moved(self, moved: MovedError, slot: int, asked: ClusterNode) -> ClusterNode:
        moved.host = moved.host or asked.host  # a cluster that does not tell its hosts means the same one
        await self._nodes.move_slot(moved)
        return self._primary(slot)

    def _named(self, host: str, port: int) -> ClusterNode:
        found = self._nodes.get_node(host=host, port=port)
        if found is None:
            self._stale = True
            raise ClusterDownError(f"{host}:{port} is not a node of the cluster yet")
        return found


async def _close(nodes: NodesManager) -> None:
    await nodes.aclose()
    await nodes.aclose("startup_nodes")


async def _ask(node: ClusterNode, *args: Any) -> Any:
    """Send a command to the node that a slot is moving to; ASKING counts for the next command of its connection."""
    connection = node.acquire_connection()
    try:
        for command in (("ASKING",), args):
            await connection.send_packed_command(connection.pack_command(*command))
            answer = await connection.read_response()
        return answer
    finally:
        node.release(connection)
