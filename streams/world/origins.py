"""Where made-up touches come from: a table of origins, each with campaigns whose sizes follow a Zipf law.

A touch is sent in one of two ways, as in real life: by a backend that names the channel, or by a web tag that
sends the url and the referrer as they were, so that the channel must be derived.
"""

from bisect import bisect
from itertools import accumulate
from random import Random
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

CAMPAIGNS_PER_ORIGIN = 24
# The larger, the more the first campaigns take; 1.1 gives the first of 24 about three tenths.
ZIPF_EXPONENT = 1.1
SHOP = "https://shop.example"
SEASONS = ("Spring Sale", "brand", "Frühling", "retargeting 30d", "Black Friday", "new-in", "loyalty", "launch")


class Source(NamedTuple):
    """One row of the table. `early` and `late` are its weights at the start of a journey and near its end."""

    channel: str
    source: str
    medium: str
    proof: str  # the click id's parameter, or the referrer's address, or empty
    early: float
    late: float


SOURCES = (
    Source("Paid Search", "google", "cpc", "gclid", 6, 12),
    Source("Paid Search", "bing", "cpc", "msclkid", 2, 3),
    Source("Paid Shopping", "google", "cpc", "gclid", 3, 8),
    Source("Paid Social", "facebook", "paid_social", "fbclid", 12, 4),
    Source("Paid Social", "tiktok", "paid_social", "ttclid", 7, 1),
    Source("Paid Video", "youtube", "cpv paid", "", 5, 1),
    Source("Display", "google", "display", "dclid", 10, 4),
    Source("Affiliates", "awin", "affiliate", "", 2, 6),
    Source("Email", "newsletter", "email", "mc_cid", 2, 14),
    Source("SMS", "crm", "sms", "", 0.5, 3),
    Source("Mobile Push Notifications", "app", "push", "", 0.5, 4),
    Source("Organic Search", "google.com", "organic", "https://www.google.com/", 14, 10),
    Source("Organic Search", "duckduckgo.com", "organic", "https://duckduckgo.com/", 2, 1),
    Source("Organic Social", "instagram.com", "social", "https://l.instagram.com/", 8, 2),
    Source("Organic Video", "youtube.com", "referral", "https://www.youtube.com/", 3, 1),
    Source("AI Assistant", "chatgpt.com", "ai-assistant", "https://chatgpt.com/", 4, 2),
    Source("Referral", "magazine.example", "referral", "https://magazine.example/best-of", 5, 2),
    Source("Direct", "(direct)", "(none)", "", 4, 16),
)


class Template(NamedTuple):
    """An origin and campaign, ready in both ways of sending; `click_id` is the parameter that wants a value."""

    named: dict[str, str]
    tagged: dict[str, str]
    click_id: str


class Origins:
    """Draws the origin of a touch. All tables are built once: some 300 templates."""

    def __init__(self, rng: Random) -> None:
        self._templates: list[Template] = []
        early: list[float] = []
        late: list[float] = []
        for source in SOURCES:
            names = _campaigns(source, rng)
            sizes = [1 / (rank + 1) ** ZIPF_EXPONENT for rank in range(len(names))]
            for name, size in zip(names, sizes, strict=True):
                self._templates.append(_template(source, name))
                early.append(source.early * size / sum(sizes))
                late.append(source.late * size / sum(sizes))
        self._early, self._late = list(accumulate(early)), list(accumulate(late))

    def draw(self, rng: Random, *, late: bool) -> dict[str, Any]:
        """The fields of a touch that say where it came from; `late` near the end of a journey."""
        heap = self._late if late else self._early
        template = self._templates[bisect(heap, rng.random() * heap[-1])]
        draw = rng.random()
        if draw < 0.5:
            return {**template.named, "content": f"ad_{int(draw * 100)}"}
        fields = dict(template.tagged)
        if template.click_id:
            fields["url"] += f"&{template.click_id}=Cj0{rng.getrandbits(60):015x}"
        return fields


def _campaigns(source: Source, rng: Random) -> list[str]:
    """Names of the campaigns of an origin, the largest first; organic origins have none."""
    if source.proof.startswith("https:") or source.channel == "Direct":
        return [""]
    kind = "shopping" if source.channel == "Paid Shopping" else source.source
    numbers = rng.sample(range(100, 1000), CAMPAIGNS_PER_ORIGIN)
    return [f"{kind} {SEASONS[i % len(SEASONS)]} {number}" for i, number in enumerate(numbers)]


def _template(source: Source, campaign: str) -> Template:
    named = {"channel": source.channel, "source": source.source, "medium": source.medium}
    if not campaign:
        tagged = {"url": f"{SHOP}/", "referrer": source.proof} if source.proof else {"url": f"{SHOP}/account"}
        return Template(named, tagged, "")
    tags = f"utm_source={source.source}&utm_medium={quote_plus(source.medium)}&utm_campaign="
    url = f"{SHOP}/{quote(source.medium)}/landing?{tags}{quote_plus(campaign)}"
    return Template({**named, "campaign": campaign}, {"url": url}, source.proof)
