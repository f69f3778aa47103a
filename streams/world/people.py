"""Who acts in the made-up world: shoppers who buy within minutes, and accounts that take weeks to decide."""

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

DAY_MS = 86_400_000
CONTACTS_MAX = 5
# Touches of a shopper's journey, geometric: one more with this chance, so four on average.
ANOTHER_TOUCH = 0.75
SHOPPER_TOUCHES_MAX = 40
SHOPPER_BUYS = 0.35
DEAL_DAYS = (8, 75)
# The marketing and sales contacts of a deal: type, channel, source, medium. Each is drawn as likely.
DEAL_TOUCHES = (
    ("visit", "Paid Search", "google", "cpc"),
    ("visit", "Organic Search", "google.com", "organic"),
    ("visit", "AI Assistant", "perplexity.ai", "ai-assistant"),
    ("visit", "Paid Social", "linkedin", "paid_social"),
    ("email", "Email", "marketo", "email"),
    ("webinar", "Webinar", "on24", "webinar"),
    ("event", "Event", "trade fair", "event"),
    ("sales_call", "Sales", "crm", "call"),
    ("direct_mail", "Direct Mail", "print", "post"),
    ("content", "Referral", "analyst.example", "referral"),
)
DEAL_STAGES = ("lead", "opportunity", "order")


@dataclass(slots=True)
class Shopper:
    """A shopper on the way: how many touches were made and are still to come, and whether a purchase ends it."""

    number: int
    made: int
    left: int
    buys: bool


class Step(NamedTuple):
    """One step of a deal: a touch (its row in DEAL_TOUCHES) or a stage that was reached, and its contact."""

    contact: int
    touch: int
    stage: str


@dataclass(slots=True)
class Deal:
    """A deal under way. Its first step lies `span_ms` before its last, which is now."""

    account: int
    number: int
    span_ms: int
    steps: list[Step]
    done: int = 0


def new_shopper(rng: Random, number: int) -> Shopper:
    """A journey of one touch or more."""
    touches = 1
    while touches < SHOPPER_TOUCHES_MAX and rng.random() < ANOTHER_TOUCH:
        touches += 1
    return Shopper(number, 0, touches, rng.random() < SHOPPER_BUYS)


def new_deal(rng: Random, account: int, number: int) -> Deal:
    """Six to sixteen touches of up to five contacts; lead and opportunity on the way, often an order at the end.

    The first contact is the buyer, who makes most touches and all conversions: most systems know one name.
    """
    contacts = rng.randint(2, CONTACTS_MAX)
    steps = [
        Step(max(0, rng.randrange(-contacts, contacts)), rng.randrange(len(DEAL_TOUCHES)), "")
        for _ in range(rng.randint(6, 16))
    ]
    steps.insert(rng.randint(1, 3), Step(0, -1, "lead"))
    steps.insert(rng.randint(5, len(steps)), Step(0, -1, "opportunity"))
    if rng.random() < 0.6:
        steps.append(Step(0, -1, "order"))
    return Deal(account, number, int(rng.uniform(*DEAL_DAYS) * DAY_MS), steps)


def step_ms(deal: Deal, now_ms: int) -> int:
    """Event time of the deal's next step: evenly spread over its span, the last one now."""
    return now_ms - deal.span_ms * (len(deal.steps) - 1 - deal.done) // max(1, len(deal.steps) - 1)
