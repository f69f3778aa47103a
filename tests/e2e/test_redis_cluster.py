"""The product on a Redis Cluster: the same credits, over a failover and a move of slots as well."""

import asyncio
import json
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.cluster import RedisCluster
from redis.crc import key_slot

from state import keys
from state.redis_store import RedisStore
from state.store import Lost, Unreachable, Writes
from streams import acls, embedded, topics
from streams.settings import load_settings
from tests.support import credited, oracle, product, servers, worlds

pytestmark = pytest.mark.slow
PARTITIONS = 6
MINE = b"token-mine"
APP, PASSWORD_RULE = "cluster", ">secret"
# A failover takes the node timeout, an election and a round of gossip: two seconds, more on a busy machine.
FAILOVER_S = 60.0
POLL_S = 0.02


@pytest.fixture
def cluster() -> Iterator[servers.RedisCluster]:
    """Three primaries and a replica of each, of the test's own, as it may break them."""
    try:
        servers.redis_binary()
    except servers.MissingServer as error:
        pytest.skip(str(error))
    with servers.redis_cluster(3, 3) as running:
        yield running


@pytest.fixture
def other_url(cluster: servers.RedisCluster) -> str:
    """A primary that stays while the first one is killed or gives its slots away; a user with the printed rights."""
    for node in (*cluster.primaries, *cluster.replicas):
        make_user(node)
    return cluster.primaries[1].url.replace("redis://", "redis://touchstream:secret@")


def make_user(node: servers.ClusterNode) -> None:
    """Give a node the printed user: a cluster does not hand users on, and this one forgets them when it ends."""
    settings = load_settings(None, {"kafka.prefix": APP, "redis.cluster": True}, {})
    with node.client() as client:
        client.execute_command(*(PASSWORD_RULE if word.startswith(">") else word for word in acls.redis_rule(settings)))


def refused(node: servers.ClusterNode) -> list[object]:
    """What a node has refused to any user."""
    with node.client() as client:
        return list(client.acl_log())


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + FAILOVER_S
    while not done():
        assert time.monotonic() < deadline, f"not within {FAILOVER_S:g} s: {what}"
        time.sleep(POLL_S)


def partition_of_first(cluster: servers.RedisCluster, app: str) -> int:
    """A partition whose slot the first primary has."""
    share = -(-servers.SLOTS // len(cluster.primaries))
    return next(p for p in range(1000) if key_slot(keys.prefix(app, p)) < share)


def run(broker: str, cluster: servers.RedisCluster, folder: Path, seed: int, *, meanwhile: Callable[[], None]) -> int:
    prefix = f"cluster-{uuid.uuid4().hex[:10]}"
    url = cluster.primaries[1].url
    config = folder / "touchstream.toml"
    servers_part = f'[kafka]\nbroker = "{broker}"\nprefix = "{prefix}"\n[redis]\nurl = "{url}"\ncluster = true\n'
    config.write_text(credited.ATTRIBUTION + servers_part)
    asyncio.run(topics.apply(load_settings(config, {}, {}), PARTITIONS))
    with RedisCluster.from_url(url) as store:
        spread = {store.get_node_from_key(keys.prefix(prefix, p)).name for p in range(PARTITIONS)}
        assert len(spread) > 1, "all partitions have the same node: nothing is shown"
        return credited.check_run(config, broker, store, prefix, seed, meanwhile=meanwhile)


def test_a_run_on_three_nodes_gives_the_same_credits(
    kafka: servers.ApacheKafka, cluster: servers.RedisCluster, tmp_path: Path, seed: int
) -> None:
    """Workers on Apache Kafka and a three-node cluster give the oracle's credits."""
    assert run(kafka.url, cluster, tmp_path, seed, meanwhile=lambda: None) > 0


def test_a_replay_leaves_no_key_on_any_node(
    embedded_broker: embedded.Broker, cluster: servers.RedisCluster, tmp_path: Path, seed: int
) -> None:
    """`replay --redis` on a cluster gives the oracle's credits, counts what is left there, and leaves no key."""
    world = worlds.draw(seed, people=40)
    # Nothing but the look into what is left at the end can count the second of these.
    touches = [*world.touches, *[{**world.touches[0], "person_id": "never-converts"}] * 2]
    creates = [c for c in world.conversions if "action" not in c]
    conversions = list({c["conversion_id"]: c for c in creates}.values())
    config = credited.ATTRIBUTION + "[redis]\ncluster = true\n"
    there = ("--broker", embedded_broker.url, "--redis", cluster.primaries[1].url, "--json")
    done = product.replay(tmp_path, worlds.lines(touches), worlds.lines(conversions), config, *there)
    views = done.rows(), oracle.final_view(touches, conversions, tomllib.loads(config))
    got, expected = (oracle.comparable(view, without=(*oracle.NOT_THE_ORACLES, "reason")) for view in views)
    assert expected
    assert got == expected
    unique = {(touch["person_id"], touch["event_id"]) for touch in touches}
    assert json.loads(done.finished.stdout)["duplicates"] == len(touches) - len(unique)
    infos = []
    for node in cluster.primaries:
        with node.client() as client:
            infos.append((client.dbsize(), client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)))
    assert sum(calls for _, calls in infos) > 0, "the cluster was never written to"
    assert [size for size, _ in infos] == [0, 0, 0]


def test_a_failover_costs_no_credit(
    kafka: servers.ApacheKafka, cluster: servers.RedisCluster, tmp_path: Path, seed: int
) -> None:
    """A primary killed under a running worker: its replica takes over, and no credit is lost, doubled or wrong."""

    def kill_the_first() -> None:
        cluster.primaries[0].kill()
        with cluster.primaries[1].client() as client:
            until(
                lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok" and served(client), "failover"
            )

    def served(client: "Redis") -> bool:
        dead = cluster.primaries[0].port
        return all(node["port"] != dead for node in primaries_of(client))

    assert run(kafka.url, cluster, tmp_path, seed, meanwhile=kill_the_first) > 0


def primaries_of(client: "Redis") -> list[dict[str, int]]:
    """The nodes that serve slots, as this node believes."""
    return [{"port": int(entry[2][1])} for entry in raw(client, "CLUSTER SLOTS")]


def raw(client: "Redis", command: str) -> list[list[list[bytes]]]:
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command(*command.split())
        found: list[list[list[bytes]]] = connection.read_response()
    finally:
        client.connection_pool.release(connection)
    return found


async def test_the_replica_of_a_dead_node_goes_on(cluster: servers.RedisCluster, other_url: str) -> None:
    """After a failover the replica answers with what it had; until then its partitions are at worst Unreachable."""
    partition = partition_of_first(cluster, APP)
    store = RedisStore(other_url, APP, deadline_s=5.0)
    await begin_with_a_value(store, partition)
    with cluster.primaries[0].client() as client:
        assert client.execute_command("WAIT", 1, 5_000) == 1
    cluster.primaries[0].kill()
    deadline = time.monotonic() + FAILOVER_S
    found: list[bytes | None] = []
    while not found:
        assert time.monotonic() < deadline
        try:
            found = await store.load(partition, MINE, b"1,0", [b"a"])
        except Unreachable:
            continue
    assert found == [b"1"]
    await store.close()


async def test_a_node_without_a_replica_is_unreachable_and_then_lost(
    cluster: servers.RedisCluster, other_url: str
) -> None:
    """While nobody can serve a slot it is Unreachable within the deadline; a node that comes back empty is Lost."""
    partition = partition_of_first(cluster, APP)
    store = RedisStore(other_url, APP, deadline_s=5.0)
    await begin_with_a_value(store, partition)
    cluster.replicas[0].kill()
    cluster.primaries[0].kill()
    with pytest.raises(Unreachable):
        await store.load(partition, MINE, b"1,0", [b"a"])
    cluster.primaries[0].start()
    make_user(cluster.primaries[0])
    await lost(store, partition)
    await store.close()


async def test_a_cluster_that_was_wholly_away_is_found_again(cluster: servers.RedisCluster, other_url: str) -> None:
    """With every node down all is Unreachable; when they are back, empty, the same store finds them and says Lost."""
    partition = partition_of_first(cluster, APP)
    store = RedisStore(other_url, APP, deadline_s=5.0)
    await begin_with_a_value(store, partition)
    nodes = (*cluster.replicas, *cluster.primaries)
    for node in nodes:
        node.kill()
    for _ in range(2):
        with pytest.raises(Unreachable):
            await store.load(partition, MINE, b"1,0", [b"a"])
    for node in nodes:
        node.start()
        make_user(node)
    await lost(store, partition)
    await store.close()


async def lost(store: RedisStore, partition: int) -> None:
    """Try until the store says Lost; nothing but Unreachable may come before."""
    deadline = time.monotonic() + FAILOVER_S
    while time.monotonic() < deadline:
        try:
            await store.load(partition, MINE, b"1,0", [b"a"])
        except Unreachable:
            continue
        except Lost:
            return
    raise AssertionError(f"not Lost within {FAILOVER_S:g} s")


async def begin_with_a_value(store: RedisStore, partition: int) -> None:
    await store.claim(partition, MINE)
    await store.begin(partition, MINE, b"0,0")
    await store.save(partition, MINE, b"0,0", b"1,0", Writes(appends={b"a": b"1"}))


@pytest.mark.parametrize("moved_keys", [False, True])
async def test_a_slot_that_moves_is_followed(cluster: servers.RedisCluster, other_url: str, moved_keys: bool) -> None:
    """A slot under migration answers ASK where its keys have gone and MOVED in the end; neither is an error."""
    partition = partition_of_first(cluster, APP)
    slot = key_slot(keys.prefix(APP, partition))
    store = RedisStore(other_url, APP)
    await begin_with_a_value(store, partition)
    with cluster.primaries[0].client() as source, cluster.primaries[1].client() as target:
        names = [client.execute_command("CLUSTER MYID").decode() for client in (source, target)]
        target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[0])
        source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[1])
        if moved_keys:
            for key in source.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
                source.migrate("127.0.0.1", cluster.primaries[1].port, key, 0, 5_000)
        assert await store.load(partition, MINE, b"1,0", [b"a"]) == [b"1"]
        await asyncio.gather(*(store.load(partition, MINE, b"1,0", [b"a"]) for _ in range(20)))
        if moved_keys:
            for client in (target, source):
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", names[1])
            await store.save(partition, MINE, b"1,0", b"2,0", Writes(appends={b"a": b"2", b"new": b"3"}))
            assert await store.load(partition, MINE, b"2,0", [b"a", b"new"]) == [b"12", b"3"]
            assert target.get(keys.prefix(APP, partition) + b"a") == b"12"
            await store.drop(partition, MINE)
            assert target.keys(f"{{{APP}:*") == [keys.prefix(APP, partition) + keys.OWNER]
    assert all(refused(node) == [] for node in cluster.primaries), "a command that is not printed was sent"
    await store.close()


async def test_health_names_the_node_at_fault(cluster: servers.RedisCluster, other_url: str) -> None:
    """Every primary is asked for its eviction policy, and the text says which one may forget."""
    store = RedisStore(other_url, APP)
    assert await store.health() == []
    with cluster.primaries[2].client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    (problem,) = await store.health()
    assert str(cluster.primaries[2].port) in problem
    assert "allkeys-lru" in problem
    await store.close()


async def test_a_cluster_without_slots_is_unreachable(cluster: servers.RedisCluster, other_url: str) -> None:
    """A slot that no node serves is Unreachable, not a fault to stop for: somebody may be mending it."""
    partition = partition_of_first(cluster, APP)
    slot = key_slot(keys.prefix(APP, partition))
    with cluster.primaries[0].client() as client:
        client.execute_command("CLUSTER DELSLOTS", slot)
    store = RedisStore(other_url, APP, deadline_s=5.0)
    with pytest.raises(Unreachable):
        await store.claim(partition, MINE)
    await store.close()
