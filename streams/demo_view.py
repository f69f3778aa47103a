"""What `touchstream demo` shows: a bounded tally of credits as they are published, and ways to draw it."""

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

LATENCIES_MAX = 20_000  # of the last credits, for p50 and p99; about ten seconds at the default rate
KEYS_MAX = 300_000  # credits whose value is remembered so that a restatement replaces it in the sum
SHOWN_MAX = 8


class SeenCredit(msgspec.Struct):
    """The fields of a credit that the view shows."""

    conversion_id: str
    attribution_model: str
    status: str
    share: float
    value_micros: int
    currency: str
    channel: str = ""
    person_id: str = ""
    campaign: str = ""
    revision: int = 0
    additive: bool = True


@dataclass
class Tally:
    """Sums over the credits read so far. Money is that of one attribution model at its latest revisions."""

    attribution_model: str
    credits: int = 0
    dead_letters: int = 0
    restated: int = 0
    sets: int = 0
    money: dict[str, int] = field(default_factory=dict)
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES_MAX))
    last: deque[SeenCredit] = field(default_factory=lambda: deque(maxlen=SHOWN_MAX))
    _values: OrderedDict[bytes, tuple[str, int]] = field(default_factory=OrderedDict)
    _decode: msgspec.json.Decoder[SeenCredit] = field(default_factory=lambda: msgspec.json.Decoder(SeenCredit))

    def add(self, key: bytes, value: bytes | None, latency_ms: float) -> None:
        """Count one record of the credits topic; a tombstone takes its credit out of the sum."""
        known = self._values.pop(key, None)
        if known:
            self.money[known[0]] -= known[1]
        if value is None:
            return
        credit = self._decode.decode(value)
        self.credits += 1
        self.restated += known is not None
        self.latencies_ms.append(latency_ms)
        if credit.attribution_model == self.attribution_model:
            self._keep(key, credit)

    def _keep(self, key: bytes, credit: SeenCredit) -> None:
        self.last.append(credit)
        if not credit.additive:
            return
        self.money[credit.currency] = self.money.get(credit.currency, 0) + credit.value_micros
        self._values[key] = (credit.currency, credit.value_micros)
        if len(self._values) > KEYS_MAX:
            self._values.popitem(last=False)

    def percentile(self, share: float) -> float:
        """The latency in milliseconds below which that share of the last credits lies; 0 without any."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Rates:
    """Records a second, from how far a count has come between two looks."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.per_second: dict[str, float] = {}
        self._at = 0.0

    def update(self, counts: dict[str, int], now: float) -> None:
        """Take the counts of this moment; `now` is seconds of any clock that only goes forward."""
        passed = now - self._at
        if self.counts and passed > 0:
            self.per_second = {name: (n - self.counts.get(name, 0)) / passed for name, n in counts.items()}
        self.counts, self._at = dict(counts), now


def money_text(money: dict[str, int]) -> str:
    """`EUR 1,234.50 · USD 17.00`: currencies side by side, never added up."""
    shown = (f"{currency} {micros / 1e6:,.2f}" for currency, micros in sorted(money.items()))
    return " · ".join(shown) or "–"


def headline(tally: Tally, rates: Rates) -> str:
    """The state of things in one line."""
    return (
        f"touches {rates.per_second.get('touches', 0):,.0f}/s   "
        f"conversions {rates.per_second.get('conversions', 0):,.0f}/s   "
        f"credited {money_text(tally.money)} ({tally.attribution_model})   "
        f"dead letters {tally.dead_letters}   "
        f"p50 {tally.percentile(0.5):,.0f} ms   p99 {tally.percentile(0.99):,.0f} ms"
    )


def credit_row(credit: SeenCredit) -> tuple[str, ...]:
    """One line of the table of last credits."""
    value = f"{credit.currency} {credit.value_micros / 1e6:,.2f}"
    share = f"{credit.share:.0%}"
    return (
        credit.conversion_id,
        credit.person_id,
        credit.channel,
        credit.campaign,
        share,
        value,
        credit.status,
    )


COLUMNS = ("conversion", "person", "channel", "campaign", "share", "credit", "status")


def screen(tally: Tally, rates: Rates, notes: Iterable[str]) -> Any:
    """The view of a terminal: a rich renderable of figures, the last credits, and notes below."""
    from rich.console import Group  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    figures = Table.grid(padding=(0, 3))
    for name, value in _figures(tally, rates):
        figures.add_row(Text(name, style="dim"), Text(value, style="bold"))
    table = Table(*COLUMNS, title=f"last credits, {tally.attribution_model}", title_justify="left", expand=True)
    for credit in tally.last:
        table.add_row(*(Text(cell, overflow="ellipsis", no_wrap=True) for cell in credit_row(credit)))
    return Group(figures, table, *(Text(note, style="dim") for note in notes))


def _figures(tally: Tally, rates: Rates) -> Iterable[tuple[str, str]]:
    yield "touches", f"{rates.per_second.get('touches', 0):,.0f}/s"
    yield "conversions", f"{rates.per_second.get('conversions', 0):,.0f}/s"
    yield "credited", money_text(tally.money)
    yield "credits read", f"{tally.credits:,} ({tally.restated:,} restated)"
    yield "dead letters", f"{tally.dead_letters:,}"
    yield "end to end", f"p50 {tally.percentile(0.5):,.0f} ms   p99 {tally.percentile(0.99):,.0f} ms"
