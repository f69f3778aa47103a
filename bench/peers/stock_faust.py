"""Faust as its tutorial shows it: typed records, one Redis call an event, `send` for each output. For information.

One attribution model (linear), at-least-once, nothing that makes conversions wait for their touches. Not the same work
as the others: it says what Faust's own hot path costs, which is why Touchstream does not use it. Ends by itself after
LIMIT events. Settings come by environment: BROKER, REDIS, TOUCHES, CONVERSIONS, OUTPUT, GROUP, LIMIT, DATADIR.
"""

import itertools
import json
import os
import time

import faust
from redis.asyncio import Redis

LIMIT = int(os.environ.get("LIMIT", "60000"))
app = faust.App(
    os.environ["GROUP"],
    broker="kafka://" + os.environ["BROKER"],
    topic_partitions=4,
    web_enabled=False,
    store="memory://",
    datadir=os.environ["DATADIR"],
    consumer_auto_offset_reset="earliest",
    topic_disable_leader=True,
)


class Touch(faust.Record, serializer="json"):
    """As produced."""

    event_id: str
    person_id: str
    occurred_at: int
    channel: str
    campaign: str
    source: str
    medium: str
    content: str
    url: str


class Conversion(faust.Record, serializer="json"):
    """As produced."""

    conversion_id: str
    person_id: str
    occurred_at: int
    type: str
    value: str
    currency: str


touches = app.topic(os.environ["TOUCHES"], value_type=Touch)
conversions = app.topic(os.environ["CONVERSIONS"], value_type=Conversion)
output = app.topic(os.environ["OUTPUT"], value_serializer="json", key_type=str)
redis = Redis.from_url(os.environ["REDIS"])
counter = itertools.count(1)


def tick() -> None:
    """Count one event; say when the first and the last one came."""
    count = next(counter)
    if count in (1, LIMIT):
        word = "first-fetch" if count == 1 else "limit"
        os.write(1, f"\n{word} {int(time.time() * 1000)} {count}\n".encode())


@app.agent(touches)
async def on_touch(stream: faust.StreamT[Touch]) -> None:
    """Append to the person's list."""
    async for t in stream:
        await redis.rpush("n:" + t.person_id, json.dumps([t.event_id, t.occurred_at, t.channel, t.campaign]))
        tick()


@app.agent(conversions)
async def on_conversion(stream: faust.StreamT[Conversion]) -> None:
    """Read the list and share evenly."""
    async for c in stream:
        journey = [json.loads(x) for x in await redis.lrange("n:" + c.person_id, 0, -1)]
        if journey:
            credits = [{"touch_id": t[0], "share": 1 / len(journey)} for t in journey]
            value = {"conversion_id": c.conversion_id, "attribution_model": "linear", "credits": credits}
            await output.send(key=c.conversion_id, value=value)
        tick()


if __name__ == "__main__":
    app.main()
