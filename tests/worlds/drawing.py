"""Seeded worlds: everything comes from the seed.

A record arrives when it happened and a lag, so arrivals are shuffled, some far beyond what counts. Within these bounds,
which keep the outcome a function of the log alone:

- arrivals are distinct, so that record times order everything;
- a conversion arrives at most `allowed_lateness` after it happened, and copies before the first one may be forgotten;
- an event_id and a conversion_id belong to one person, and copies carry the ids of the first.
"""

import random
from collections.abc import Sequence

from tests.support.oracle_people import canonical
from tests.worlds import policies
from tests.worlds.world import DAY_MS, HOUR_MS, IDS, Item, Person, Record, World, ids_of

SHUFFLED_QUIET_POINTS = 10
QUIET_POINTS = 200
PEOPLE_MIN, PEOPLE_MAX = 50, 200
AWAY_MAX_MS = 7 * DAY_MS
START_MS = 1_717_200_000_000  # 2024-06-01T00:00:00Z
CHANNELS = ("Email", "email", "Paid Search", "Display", "direct", "(Direct)", "Referral")
CAMPAIGNS = ("spring", "Spring", "summer", None)
AGES_DAYS = (0, 0, 0, 1, 1, 2, 3, 5, 10, 14, 20, 30)
VALUES = ("0", "0.000001", "0.00001", "1", "7.77", "10", "99.99", "123456.654321")
LAGS_MS = (0, 0, 0, 1, 40, 900, HOUR_MS, 20 * HOUR_MS)


def draw(seed: int, *, identities: bool, byte_equal: bool = False, people: int = 0) -> World:
    """The world of a seed, of so many people, or of 50 to 200. Without `identities` everybody has one id, and nobody is
    merged.

    With `byte_equal`, what comes twice is the same twice, and no two corrections were made in the same millisecond.
    """
    rng = random.Random(f"world {seed}")
    policy = policies.draw(rng)
    # Few worlds of many people, more of few: what happens happens to one at a time.
    count = PEOPLE_MIN + int((PEOPLE_MAX + 1 - PEOPLE_MIN) * rng.random() ** 3)
    crowd = [Person(n, _ids(rng, n, identities)) for n in range(people or count)]
    world = World(seed, policy, crowd)
    span_ms = rng.choice((20, 45, 100)) * DAY_MS
    drawing = _Drawing(rng, policy, span_ms, ties=not (identities or byte_equal), altered=not byte_equal)
    for person in crowd:
        world.items += drawing.life(person)
        if identities:
            world.items += drawing.identifies(person, rng.choice(crowd))
    if not identities and not byte_equal and rng.random() < 0.5:
        world.items += drawing.forgets(crowd)
    world.items = _distinct(world.items)
    _cut(rng, world)
    return world


def shuffled(world: World, number: int) -> World:
    """The same records in another order, all after the last of them happened; nothing in it is late for anything."""
    rng = random.Random(f"shuffle {world.seed} {number}")
    settings = {**world.policy["attribution"], "allowed_lateness": "400d", "corrections": "400d"}
    other = World(world.seed, {**world.policy, "attribution": settings}, world.people)
    first_ms = max(item.record["occurred_at"] for item in world.items)
    records = rng.sample(world.items, len(world.items))
    other.items = [item._replace(arrival_ms=first_ms + place * 1_000) for place, item in enumerate(records)]
    other.cuts = sorted({*rng.sample(range(1, len(records)), SHUFFLED_QUIET_POINTS), len(records)})
    return other


def _cut(rng: random.Random, world: World) -> None:
    """Choose the quiet points: some by lot, some as a precaution, and by lot again until there are enough."""
    places = range(1, len(world.items))
    world.cuts = sorted({*rng.sample(places, QUIET_POINTS // 2), len(world.items)})
    cuts = {*world.cuts, *_precautions(world), *_pauses(world)}
    others = [place for place in places if place not in cuts]
    more = max(0, min(QUIET_POINTS - len(cuts), len(others)))
    world.cuts = sorted({*cuts, *rng.sample(others, more)})


def _pauses(world: World) -> set[int]:
    """A cut wherever much time has passed since the last: keys and records that nobody looks at for weeks expire, and
    workers that are away for so long are another matter."""
    cuts: set[int] = set()
    since_ms = world.items[0].arrival_ms
    for place, item in enumerate(world.items):
        if item.arrival_ms - since_ms > AWAY_MAX_MS:
            cuts.add(place)
            since_ms = item.arrival_ms
    return cuts


def _precautions(world: World) -> set[int]:
    """More cuts: around what may merge people, where its order among other topics' records could be told from outside,
    around what has people forgotten, and around a create that a correction waits for, as it may come by a merge.

    No topic waits for another one. So where somebody's period for corrections ends between two quiet points, a merge
    between them may be taken in before or after that end; and so may a touch that counts after it.
    """
    lateness_ms, corrections_ms, _ = policies.times_ms(world.policy)
    groups = canonical([ids_of(item.record) for item in world.items])
    ends_ms: dict[str, list[int]] = {}
    for arrival_ms, kind, record in world.items:
        if kind == "conversion":
            ends_ms.setdefault(groups[ids_of(record)[0]], []).append(arrival_ms + corrections_ms)
    cuts: set[int] = set()
    waiting: set[str] = set()
    start = 0
    for cut in world.cuts:
        part = world.items[start:cut]
        for number, item in enumerate(part, start):
            ids = ids_of(item.record)
            ends = ends_ms.get(groups[ids[0]], ())
            ending = any(part[0].arrival_ms <= end <= part[-1].arrival_ms for end in ends)
            if "action" in item.record:
                waiting.add(item.record["conversion_id"])
            is_awaited = item.record.get("conversion_id") in waiting and "action" not in item.record
            if item.kind == "forget" or is_awaited or (len(ids) > 1 and (ending or lateness_ms > corrections_ms)):
                cuts |= {number, number + 1} - {0}
        start = cut
    return cuts


def _ids(rng: random.Random, number: int, identities: bool) -> list[tuple[str, str]]:
    user = ("user_id", f"{rng.randrange(16):x}-user{number}")
    if not identities:
        return [user]
    ids = [user] if rng.random() < 0.85 else []
    ids += [("email", f"Some.Body{number}.{n}@Example.COM") for n in range(rng.choice((0, 0, 1, 1, 2)))]
    least = 0 if ids else 1
    ids += [("anonymous_id", f"{rng.randrange(16):x}-device{number}") for _ in range(max(least, rng.randrange(4)))]
    return list(dict.fromkeys(ids))


class _Drawing:
    """Draws the records of one person after the other."""

    def __init__(self, rng: random.Random, policy: Record, span_ms: int, ties: bool, altered: bool) -> None:
        self._rng = rng
        self._span_ms = span_ms
        self._ties, self._altered = ties, altered
        self._lateness_ms, self._corrections_ms, self._kept_ms = policies.times_ms(policy)
        self._number = 0

    def life(self, person: Person) -> list[Item]:
        """Touches, conversions, corrections and copies."""
        rng = self._rng
        sales = [START_MS + rng.randrange(self._span_ms) for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))]
        around = sales or [START_MS + rng.randrange(self._span_ms)]
        items = [self._touch(person, rng.choice(around)) for _ in range(rng.choice((1, 2, 3, 4, 5, 9)))]
        for sale in sales:
            items += self._sale(person, sale)
        return items + [self._copy(item) for item in items if rng.random() < 0.08]

    def identifies(self, person: Person, somebody: Person) -> list[Item]:
        """Most ids of a person are linked sooner or later; now and then one of somebody else's is, too."""
        rng = self._rng
        links = [(person.ids[n], rng.choice(person.ids[:n])) for n in range(1, len(person.ids)) if rng.random() < 0.9]
        if rng.random() < 0.03:
            links.append((rng.choice(person.ids), rng.choice(somebody.ids)))
        items = []
        for link in links:
            if link[0][0] != link[1][0]:  # an Identify has one id of a kind; others are linked through a third
                at_ms = START_MS + rng.randrange(self._span_ms)
                items.append(Item(at_ms + rng.choice(LAGS_MS), "identify", {**dict(link), "occurred_at": at_ms}))
        return items + [self._copy(item) for item in items if rng.random() < 0.1]

    def forgets(self, people: Sequence[Person]) -> list[Item]:
        """Some want to be forgotten, at any time; a few of these twice."""
        rng = self._rng
        items = []
        for person in rng.sample(people, len(people) // 10):
            at_ms = START_MS + rng.randrange(self._span_ms + self._kept_ms)
            items.append(Item(at_ms, "forget", dict(person.ids[:1])))
        return items + [self._copy(item) for item in items if rng.random() < 0.1]

    def _named(self, person: Person) -> Record:
        """The ids that a record of this person names: one, sometimes two."""
        chosen = [self._rng.choice(person.ids)]
        if self._rng.random() < 0.1:
            chosen.append(self._rng.choice(person.ids))
        return dict(chosen)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _touch(self, person: Person, near_ms: int) -> Item:
        rng = self._rng
        at_ms = near_ms - rng.choice(AGES_DAYS) * DAY_MS - rng.choice((-HOUR_MS, 0, 0, 1, HOUR_MS, 7 * HOUR_MS))
        record = {
            **self._named(person),
            "event_id": f"t{self._next()}-{person.number}",
            "occurred_at": at_ms,
            "channel": rng.choice(CHANNELS),
            "type": rng.choice(("visit", "click", "impression")),
        }
        campaign = rng.choice(CAMPAIGNS)
        if campaign:
            record["campaign"] = campaign
        late_ms = rng.randrange(self._lateness_ms * 3 // 2 + DAY_MS) if rng.random() < 0.25 else rng.choice(LAGS_MS)
        return Item(at_ms + late_ms, "touch", record)

    def _sale(self, person: Person, at_ms: int) -> list[Item]:
        rng = self._rng
        record = {
            **self._named(person),
            "conversion_id": f"c{self._next()}-{person.number}",
            "occurred_at": at_ms,
            "type": rng.choice(("conversion", "order", "lead")),
            "value": rng.choice(VALUES),
        }
        if rng.random() < 0.3:
            record["currency"] = rng.choice(("EUR", "JPY"))
        if rng.random() < 0.5:
            record["event_id"] = f"{record['conversion_id']}-created"
        late_ms = rng.randrange(self._lateness_ms + 1) if rng.random() < 0.2 else 0
        create = Item(at_ms + late_ms, "conversion", record)
        items = [create]
        if rng.random() < 0.1:
            other = {**record, "value": rng.choice(VALUES)} if self._altered else record
            items.append(Item(self._soon_after(create), "conversion", other))
        made: set[int] = set()
        count = rng.choice((0, 0, 0, 1, 1, 2, 3))
        return items + [self._correction(person, create, made) for _ in range(count)]

    def _correction(self, person: Person, create: Item, made: set[int]) -> Item:
        """After the create mostly, before it sometimes, in time or not."""
        rng = self._rng
        away_ms = rng.randrange(self._corrections_ms * 5 // 4)
        arrival_ms = create.arrival_ms + (-away_ms if rng.random() < 0.2 else away_ms)
        at_ms = arrival_ms - rng.choice((0, 0, 1, HOUR_MS))
        if made and self._ties and rng.random() < 0.3:
            at_ms = min(arrival_ms + HOUR_MS, rng.choice(sorted(made)))
        while at_ms in made and not self._ties:
            at_ms -= 1
        made.add(at_ms)
        ids = self._named(person) if rng.random() < 0.3 else {n: create.record[n] for n in IDS if n in create.record}
        record = {**ids, "conversion_id": create.record["conversion_id"], "occurred_at": at_ms}
        if rng.random() < 0.25:
            record["action"] = "retract"
        else:
            change: Record = rng.choice(({"value": rng.choice(VALUES)}, {"currency": "GBP"}))
            record |= {"action": "restate", **change}
        if rng.random() < 0.5:
            record["event_id"] = f"{record['conversion_id']}-corrected{self._next()}"
        return Item(arrival_ms, "conversion", record)

    def _copy(self, item: Item) -> Item:
        """The same once more."""
        return item._replace(arrival_ms=self._soon_after(item))

    def _soon_after(self, item: Item) -> int:
        return item.arrival_ms + 1 + self._rng.choice((0, 900, HOUR_MS, self._rng.randrange(self._kept_ms // 3)))


def _distinct(items: Sequence[Item]) -> list[Item]:
    """By arrival, no two in the same millisecond."""
    found: list[Item] = []
    last_ms = 0
    for item in sorted(items, key=lambda i: i.arrival_ms):
        last_ms = max(item.arrival_ms, last_ms + 1)
        found.append(item._replace(arrival_ms=last_ms))
    return found
