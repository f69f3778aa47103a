"""What a Redis held a while ago: a dump of a moment, and the way back to it."""

from redis import Redis

Snapshot = dict[bytes, bytes]

# In one step of Redis, so that no half of a batch is in it.
SNAPSHOT = """
local found = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
  found[#found + 1] = key
  found[#found + 1] = redis.call('DUMP', key)
end
return found
"""


def snapshot(redis: "Redis") -> Snapshot:
    """Every key of the database, at one moment."""
    found: list[bytes] = redis.eval(SNAPSHOT, 0, "*")
    return dict(zip(found[::2], found[1::2], strict=True))


def roll_back(redis: "Redis", kept: Snapshot) -> None:
    """Put the database back to the snapshot, at one moment."""
    with redis.pipeline(transaction=True) as pipeline:
        pipeline.flushall()
        for key, value in kept.items():
            pipeline.restore(key, 0, value)
        pipeline.execute()
