"""The generator: which record comes next. The same seed, start and calls give the same records, byte for byte."""

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any, Literal, NamedTuple

from msgspec.json import encode

from streams.world.malformed import malformed
from streams.world.origins import Origins
from streams.world.people import DEAL_TOUCHES, Deal, Shopper, Step, new_deal, new_shopper, step_ms

TopicKind = Literal["touches", "conversions"]
Expected = Literal["ok", "duplicate", "late", "dead"]

# Shares of all records. The rest are the touches and conversions of journeys that go their way.
DEAD = 0.003
DUPLICATES = 0.01
LATE = 0.02
RESTATED = 0.004
RETRACTED = 0.002
BUSINESS = 0.12

PEOPLE_MIN = 10
# Records and conversions that may be repeated, corrected or touched late: the newest of each, which is plenty.
SENT_MAX = 2_000
SOLD_MAX = 4_000
# A touch is late only when its conversion was sent so long ago that no settling time still waits for it.
LATE_AFTER_MS = 3_000
DRAWS_MAX = 4
LATE_BACK_MS = (60_000, 6 * 3_600_000)
# Journeys under way: a shopper's takes about this long at the rate that was asked for, a deal's rather less.
JOURNEY_SECONDS = 30
JITTER_MS = 1_500
CURRENCIES = ("USD",) * 14 + ("EUR", "EUR", "GBP", "JPY", "CHF", "BRL")
ZONES = (UTC, timezone(timedelta(hours=2)), timezone(timedelta(hours=-5, minutes=-30)))


class Record(NamedTuple):
    """A record to send, and what should become of it."""

    topic_kind: TopicKind
    key: bytes | None
    value: bytes | None
    expected: Expected


@dataclass(slots=True)
class Sold:
    """A conversion with a value that was sent. `final` once it was retracted."""

    conversion_id: str
    person_id: str
    account_id: str
    occurred_ms: int
    sent_ms: int
    currency: str
    final: bool = False


class World:
    """A world of at most `people` shoppers and a quarter as many accounts; all that it remembers is bounded.

    `rate` (records a second) only sets how many journeys are under way at a time. `start_ms` goes into all ids,
    so that a second run on the same topics makes new events rather than duplicates. The key is the person's id,
    or the account's where there is one, if `journey` is "account".
    """

    def __init__(
        self,
        seed: int,
        people: int = 20_000,
        rate: float = 200.0,
        start_ms: int = 0,
        *,
        journey: Literal["person", "account"] = "person",
    ) -> None:
        if people < PEOPLE_MIN:
            raise ValueError(f"people must be at least {PEOPLE_MIN}, not {people}")
        self._rng = Random(seed)
        self._origins = Origins(self._rng)
        self._run = f"{start_ms:x}-{seed:x}"
        self._people, self._accounts = people, max(2, people // 4)
        self._by_account = journey == "account"
        self._made = self._deals_made = 0
        self._waiting: deque[Record] = deque()
        self._sent: deque[Record] = deque(maxlen=SENT_MAX)
        self._sold: deque[Sold] = deque(maxlen=SOLD_MAX)
        self._last_ms: dict[int, int] = {}  # of a shopper, or of an account as -1 - number
        self._busy: set[int] = set()
        self._shoppers = [self._shopper() for _ in range(max(1, min(people // 2, int(rate * JOURNEY_SECONDS))))]
        deals = max(1, min(self._accounts // 2, int(rate * BUSINESS * JOURNEY_SECONDS / 10)))
        self._deals = [self._deal() for _ in range(deals)]

    def next_batch(self, now_ms: int, count: int) -> list[Record]:
        """The next `count` records in sending order, as if it were `now_ms` (epoch milliseconds)."""
        records: list[Record] = []
        while len(records) < count:
            records.append(self._waiting.popleft() if self._waiting else self._next(now_ms))
        return records

    def _next(self, now_ms: int) -> Record:
        draw = self._rng.random()
        for share, make in ((DEAD, self._dead), (DUPLICATES, self._duplicate), (LATE, self._late),
                            (RESTATED, self._restated), (RETRACTED, self._retracted)):  # fmt: skip
            if draw < share:
                return make(now_ms) or self._journey(now_ms)
            draw -= share
        return self._journey(now_ms)

    def _journey(self, now_ms: int) -> Record:
        """One step of somebody's journey."""
        record = self._business(now_ms) if self._rng.random() < BUSINESS else self._shopping(now_ms)
        self._sent.append(record)
        return record

    def _shopping(self, now_ms: int) -> Record:
        """The next touch of a shopper under way, or the purchase at the end; then somebody else starts."""
        place = self._rng.randrange(len(self._shoppers))
        shopper = self._shoppers[place]
        person, at_ms = f"p-{shopper.number:07d}", self._moment(shopper.number, now_ms)
        if not shopper.left:
            self._replace(place)
            return self._sale(person, "", at_ms, now_ms, kind="order", worth=self._rng.lognormvariate(4.0, 0.7))
        shopper.made, shopper.left = shopper.made + 1, shopper.left - 1
        fields = self._origins.draw(self._rng, late=shopper.made > shopper.left)
        if not (shopper.left or shopper.buys):
            self._replace(place)
        return self._touch(person, "", at_ms, fields)

    def _business(self, now_ms: int) -> Record:
        """The next step of a deal under way; a deal that is over gives its place to another account."""
        place = self._rng.randrange(len(self._deals))
        deal = self._deals[place]
        step: Step = deal.steps[deal.done]
        at_ms = max(step_ms(deal, now_ms), self._last_ms.get(-1 - deal.account, 0) + 1)
        self._last_ms[-1 - deal.account] = at_ms
        deal.done += 1
        account = f"acct-{deal.account:05d}"
        person = f"{account}-c{step.contact}"
        if deal.done == len(deal.steps):
            self._busy.discard(-1 - deal.account)
            self._deals[place] = self._deal()
        if step.stage:
            worth = self._rng.lognormvariate(9.8, 0.8) if step.stage == "order" else 0.0
            return self._sale(person, account, at_ms, now_ms, kind=step.stage, worth=worth)
        kind, channel, source, medium = DEAL_TOUCHES[step.touch]
        fields = {"type": kind, "channel": channel, "source": source, "medium": medium}
        return self._touch(person, account, at_ms, {**fields, "campaign": f"abm {step.touch} Q{deal.number % 4 + 1}"})

    def _late(self, now_ms: int) -> Record | None:
        """A touch from before a conversion that was sent already."""
        sold = self._some_sold(now_ms)
        if sold is None:
            return None
        at_ms = sold.occurred_ms - self._rng.randint(*LATE_BACK_MS)
        fields = self._origins.draw(self._rng, late=True)
        return self._touch(sold.person_id, sold.account_id, at_ms, fields)._replace(expected="late")

    def _restated(self, now_ms: int) -> Record | None:
        """A conversion's value changes, as when a part of an order is sent back."""
        sold = self._some_sold(now_ms)
        if sold is None:
            return None
        return self._correction(sold, now_ms, "restate", self._rng.lognormvariate(3.6, 0.7))

    def _retracted(self, now_ms: int) -> Record | None:
        """An order is cancelled, once and for all."""
        sold = self._some_sold(now_ms)
        if sold is None:
            return None
        sold.final = True
        return self._correction(sold, now_ms, "retract", None)

    def _duplicate(self, _now_ms: int) -> Record | None:
        """A record that was sent before, byte for byte: a producer's retry."""
        return self._rng.choice(self._sent)._replace(expected="duplicate") if self._sent else None

    def _dead(self, now_ms: int) -> Record:
        person = f"p-{self._rng.randrange(self._people):07d}"
        first, *more = (
            Record(bad.topic_kind, bad.key, bad.value, "dead")  # type: ignore[arg-type]
            for bad in malformed(self._rng, self._name("x"), person, now_ms)
        )
        self._waiting.extend(more)
        return first

    def _some_sold(self, now_ms: int) -> Sold | None:
        """A conversion with a value, sent a while ago and not retracted; None where draws find no such one."""
        for _ in range(DRAWS_MAX if self._sold else 0):
            sold = self._rng.choice(self._sold)
            if not sold.final and now_ms - sold.sent_ms >= LATE_AFTER_MS:
                return sold
        return None

    def _touch(self, person: str, account: str, at_ms: int, fields: dict[str, Any]) -> Record:
        event = {"event_id": self._name("t"), "person_id": person, "occurred_at": self._time(at_ms), **fields}
        if account:
            event["account_id"] = account
        return Record("touches", self._key(person, account), encode(event), "ok")

    def _sale(self, person: str, account: str, at_ms: int, now_ms: int, *, kind: str, worth: float) -> Record:
        """A conversion. A fifth of all values are JSON numbers, the others text; some name no currency."""
        currency = self._rng.choice(CURRENCIES)
        sold = Sold(self._name("c"), person, account, at_ms, now_ms, currency)
        event: dict[str, Any] = {"conversion_id": sold.conversion_id, "person_id": person, "type": kind}
        event["occurred_at"] = self._time(at_ms)
        if worth:
            self._sold.append(sold)
            event["value"] = self._money(worth, currency)
            if currency != "USD" or self._rng.random() < 0.8:
                event["currency"] = currency
        if account:
            event["account_id"] = account
        return Record("conversions", self._key(person, account), encode(event), "ok")

    def _correction(self, sold: Sold, now_ms: int, action: str, worth: float | None) -> Record:
        """A restate or retract, with an event_id of its own, so that sending it twice is a duplicate."""
        event: dict[str, Any] = {"conversion_id": sold.conversion_id, "person_id": sold.person_id}
        event |= {"event_id": self._name("r"), "action": action, "occurred_at": self._time(now_ms)}
        if worth is not None:
            event["value"] = self._money(worth, sold.currency)
        if sold.account_id:
            event["account_id"] = sold.account_id
        record = Record("conversions", self._key(sold.person_id, sold.account_id), encode(event), "ok")
        self._sent.append(record)
        return record

    def _key(self, person: str, account: str) -> bytes:
        return (account if account and self._by_account else person).encode()

    def _name(self, kind: str) -> str:
        """A new id, unlike any other of this run and of other runs."""
        self._made += 1
        return f"{kind}-{self._run}-{self._made}"

    def _money(self, worth: float, currency: str) -> str | float:
        """Whole yen, cents elsewhere; never below the smallest unit."""
        if currency == "JPY":
            return str(max(1, int(worth * 150)))
        cents = max(1, int(worth * 100))
        return cents / 100 if cents % 5 == 0 else f"{cents // 100}.{cents % 100:02d}"

    def _time(self, at_ms: int) -> int | str:
        """Epoch milliseconds, or RFC 3339 in some zone for a third."""
        draw = self._rng.random()
        if draw < 0.67:
            return at_ms
        return datetime.fromtimestamp(at_ms / 1000, ZONES[int(draw * 100) % 3]).isoformat(timespec="milliseconds")

    def _moment(self, number: int, now_ms: int) -> int:
        """An event time shortly before now, after everything this shopper did before."""
        at_ms = max(now_ms - self._rng.randrange(JITTER_MS), self._last_ms.get(number, 0) + 1)
        self._last_ms[number] = at_ms
        return at_ms

    def _replace(self, place: int) -> None:
        self._busy.discard(self._shoppers[place].number)
        self._shoppers[place] = self._shopper()

    def _shopper(self) -> Shopper:
        """Somebody who is not under way. Low numbers come back often: repeat buyers."""
        number = int(self._people * self._rng.random() ** 1.7)
        while number in self._busy:
            number = (number + 1) % self._people
        self._busy.add(number)
        return new_shopper(self._rng, number)

    def _deal(self) -> Deal:
        """A deal of the account that waited longest, so that the weeks before it are free of other deals.

        Only when every account has had one do accounts return, and then their touches lie close together.
        """
        self._deals_made += 1
        while -1 - self._deals_made % self._accounts in self._busy:
            self._deals_made += 1
        self._busy.add(-1 - self._deals_made % self._accounts)
        return new_deal(self._rng, self._deals_made % self._accounts, self._deals_made // self._accounts)
