"""GA4's default channel group: eighteen rules and the AI assistants, the first match wins.

Source: Google Analytics help, "Default channel group", for web traffic. Text is compared casefolded. Rules
are numbered, so that the one that fired can be named: `ga4:4 Paid Search`.
"""

import re
from typing import NamedTuple

from models.channel_data.sources import source_category
from models.text import fold_text

DISPLAY = frozenset(("display", "banner", "expandable", "interstitial", "cpm"))
SOCIAL = frozenset(("social", "social-network", "social-media", "sm", "social network", "social media"))
REFERRAL = frozenset(("referral", "app", "link"))
EMAIL = frozenset(("email", "e-mail", "e_mail", "e mail"))
UNSET = frozenset(("(not set)", "(none)", ""))

# `^(.*(([^a-df-z]|^)shop|shopping).*)$`, as a search: "shop" at a word's start, or after an e as in "eshop".
SHOP_CAMPAIGN = re.compile(r"(?:[^a-df-z]|^)shop|shopping")


class Rule(NamedTuple):
    """One rule of the group: the channel that it gives, and its number."""

    channel: str
    number: str


def is_paid(medium: str) -> bool:
    """GA4's `^(.*cp.*|ppc|retargeting|paid.*)$` on a casefolded medium."""
    return "cp" in medium or medium in ("ppc", "retargeting") or medium.startswith("paid")


def classify(source: str, medium: str, campaign: str) -> Rule:
    """The rule that a touch falls under; absent text is `""`. What fits nowhere is `Unassigned`."""
    source, medium, campaign = fold_text(source), fold_text(medium), fold_text(campaign)
    if source == "(direct)" and medium in UNSET:
        return Rule("Direct", "1")
    if "cross-network" in campaign:
        return Rule("Cross-network", "2")
    category = source_category(source)
    shop = category == "shopping" or SHOP_CAMPAIGN.search(campaign) is not None
    return (
        _paid(category, medium, shop=shop)
        or _organic(category, medium, shop=shop)
        or _by_medium(source, medium)
        or Rule("Unassigned", "-")
    )


def _paid(category: str, medium: str, *, shop: bool) -> Rule | None:
    """Rules 3 to 8: the paid channels, with display among them because `cpm` is a paid medium too."""
    paid = is_paid(medium)
    if paid and shop:
        return Rule("Paid Shopping", "3")
    if paid and category == "search":
        return Rule("Paid Search", "4")
    if paid and category == "social":
        return Rule("Paid Social", "5")
    if paid and category == "video":
        return Rule("Paid Video", "6")
    if medium in DISPLAY:
        return Rule("Display", "7")
    return Rule("Paid Other", "8") if paid else None


def _organic(category: str, medium: str, *, shop: bool) -> Rule | None:
    """Rules 8b to 12: what the kind of the source decides."""
    if medium == "ai-assistant" or category == "ai":
        return Rule("AI Assistant", "8b")
    if shop:
        return Rule("Organic Shopping", "9")
    if category == "social" or medium in SOCIAL:
        return Rule("Organic Social", "10")
    if category == "video" or "video" in medium:
        return Rule("Organic Video", "11")
    return Rule("Organic Search", "12") if category == "search" or medium == "organic" else None


def _by_medium(source: str, medium: str) -> Rule | None:
    """Rules 13 to 18: what the medium alone decides, or a source that is one."""
    if medium in REFERRAL:
        return Rule("Referral", "13")
    if source in EMAIL or medium in EMAIL:
        return Rule("Email", "14")
    if medium == "affiliate":
        return Rule("Affiliates", "15")
    if medium == "audio":
        return Rule("Audio", "16")
    if "sms" in (source, medium):
        return Rule("SMS", "17")
    push = medium.endswith("push") or "mobile" in medium or "notification" in medium or source == "firebase"
    return Rule("Mobile Push Notifications", "18") if push else None
