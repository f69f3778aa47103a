"""Where touches come from: GA4 rules, click ids, utm parameters and referrers, as one flat list of cases."""

from typing import Any

import pytest
from hypothesis import given, note, seed
from hypothesis import strategies as st

from models.channel import CACHED_CHARS_MAX, CLICK_IDS, PARAMS_MAX, Origin, enrich
from models.channel_data.sources import CATEGORIES, registrable, source_category, source_table

SHOP = "https://shop.example/p/1"

CASES: list[tuple[dict[str, Any], str, str]] = [
    # What the producer sent: source, medium, campaign, judged by GA4's rules in their order.
    ({"source": "(direct)", "medium": "(none)"}, "Direct", "ga4:1 Direct"),
    ({"source": "(direct)", "medium": "(not set)"}, "Direct", "ga4:1 Direct"),
    ({"source": "(Direct)", "medium": "(None)"}, "Direct", "ga4:1 Direct"),
    ({"source": "(direct)", "medium": "cpc"}, "Paid Other", "ga4:8 Paid Other"),
    ({"source": "direct", "medium": "none"}, "Unassigned", "ga4:- Unassigned"),
    (
        {"source": "google", "medium": "cpc", "campaign": "Q3 Cross-Network"},
        "Cross-network",
        "ga4:2 Cross-network",
    ),
    ({"source": "amazon", "medium": "cpc"}, "Paid Shopping", "ga4:3 Paid Shopping"),
    (
        {"source": "google", "medium": "cpc", "campaign": "Shopping | DE"},
        "Paid Shopping",
        "ga4:3 Paid Shopping",
    ),
    (
        {"source": "google", "medium": "cpc", "campaign": "eshop_brand"},
        "Paid Shopping",
        "ga4:3 Paid Shopping",
    ),
    ({"source": "google", "medium": "cpc", "campaign": "shop"}, "Paid Shopping", "ga4:3 Paid Shopping"),
    ({"source": "google", "medium": "cpc", "campaign": "workshop"}, "Paid Search", "ga4:4 Paid Search"),
    ({"source": "google", "medium": "cpc"}, "Paid Search", "ga4:4 Paid Search"),
    ({"source": "Google", "medium": "PPC"}, "Paid Search", "ga4:4 Paid Search"),
    ({"source": "bing", "medium": "paidsearch"}, "Paid Search", "ga4:4 Paid Search"),
    ({"source": "duckduckgo.com", "medium": "retargeting"}, "Paid Search", "ga4:4 Paid Search"),
    ({"source": "facebook", "medium": "paid_social"}, "Paid Social", "ga4:5 Paid Social"),
    ({"source": "ig", "medium": "cpm"}, "Paid Social", "ga4:5 Paid Social"),
    ({"source": "linkedin.com", "medium": "cpc"}, "Paid Social", "ga4:5 Paid Social"),
    ({"source": "youtube.com", "medium": "cpv cpm"}, "Paid Video", "ga4:6 Paid Video"),
    ({"source": "netflix", "medium": "paid"}, "Paid Video", "ga4:6 Paid Video"),
    ({"source": "taboola", "medium": "cpm"}, "Display", "ga4:7 Display"),
    ({"source": "dv360", "medium": "Banner"}, "Display", "ga4:7 Display"),
    ({"source": "portal", "medium": "interstitial"}, "Display", "ga4:7 Display"),
    ({"source": "taboola", "medium": "cpc"}, "Paid Other", "ga4:8 Paid Other"),
    ({"source": "chatgpt.com", "medium": "cpc"}, "Paid Other", "ga4:8 Paid Other"),
    ({"source": "chatgpt.com", "medium": "referral"}, "AI Assistant", "ga4:8b AI Assistant"),
    ({"source": "perplexity"}, "AI Assistant", "ga4:8b AI Assistant"),
    ({"source": "acme", "medium": "ai-assistant"}, "AI Assistant", "ga4:8b AI Assistant"),
    ({"source": "ebay.de", "medium": "referral"}, "Organic Shopping", "ga4:9 Organic Shopping"),
    (
        {"source": "blog", "medium": "post", "campaign": "shop-launch"},
        "Organic Shopping",
        "ga4:9 Organic Shopping",
    ),
    ({"source": "facebook", "medium": "post"}, "Organic Social", "ga4:10 Organic Social"),
    ({"source": "acme", "medium": "Social-Media"}, "Organic Social", "ga4:10 Organic Social"),
    ({"source": "t.co", "medium": "referral"}, "Organic Social", "ga4:10 Organic Social"),
    ({"source": "vimeo", "medium": "referral"}, "Organic Video", "ga4:11 Organic Video"),
    ({"source": "acme", "medium": "video-embed"}, "Organic Video", "ga4:11 Organic Video"),
    ({"source": "google"}, "Organic Search", "ga4:12 Organic Search"),
    ({"source": "acme", "medium": "organic"}, "Organic Search", "ga4:12 Organic Search"),
    ({"source": "partner.example", "medium": "referral"}, "Referral", "ga4:13 Referral"),
    ({"source": "partner", "medium": "App"}, "Referral", "ga4:13 Referral"),
    ({"source": "newsletter", "medium": "e-mail"}, "Email", "ga4:14 Email"),
    ({"source": "Email", "medium": "newsletter"}, "Email", "ga4:14 Email"),
    ({"source": "awin", "medium": "affiliate"}, "Affiliates", "ga4:15 Affiliates"),
    ({"source": "spotify", "medium": "audio"}, "Audio", "ga4:16 Audio"),
    ({"source": "twilio", "medium": "sms"}, "SMS", "ga4:17 SMS"),
    ({"source": "sms"}, "SMS", "ga4:17 SMS"),
    (
        {"source": "braze", "medium": "web-push"},
        "Mobile Push Notifications",
        "ga4:18 Mobile Push Notifications",
    ),
    ({"source": "firebase", "medium": "x"}, "Mobile Push Notifications", "ga4:18 Mobile Push Notifications"),
    ({"source": "acme", "medium": "flyer"}, "Unassigned", "ga4:- Unassigned"),
    ({"campaign": "only-a-campaign"}, "Unassigned", "ga4:- Unassigned"),
    # What its url says.
    ({"url": f"{SHOP}?utm_source=google&utm_medium=cpc"}, "Paid Search", "utm → ga4:4 Paid Search"),
    ({"url": f"{SHOP}?UTM_Source=Newsletter&UTM_Medium=E%2DMail"}, "Email", "utm → ga4:14 Email"),
    (
        {"url": f"{SHOP}?utm_source=x&utm_medium=social+network"},
        "Organic Social",
        "utm → ga4:10 Organic Social",
    ),
    ({"url": f"{SHOP}?utm_source=&utm_medium=%20"}, "Direct", "ga4:1 Direct"),
    ({"url": f"{SHOP}#?utm_source=google&utm_medium=cpc"}, "Direct", "ga4:1 Direct"),
    ({"url": f"{SHOP}?utm_source=%FF%FE&utm_medium=email"}, "Email", "utm → ga4:14 Email"),
    ({"url": "?utm_source=google"}, "Organic Search", "utm → ga4:12 Organic Search"),
    (
        {"source": "google", "url": f"{SHOP}?utm_source=x&utm_medium=cpc"},
        "Paid Search",
        "utm → ga4:4 Paid Search",
    ),
    # Click ids win over utm and referrer where they disagree.
    ({"url": f"{SHOP}?gclid=a"}, "Paid Search", "click-id:gclid → ga4:4 Paid Search"),
    ({"url": f"{SHOP}?gad_source=1"}, "Paid Search", "click-id:gad_source → ga4:4 Paid Search"),
    ({"url": f"{SHOP}?gclid=&utm_source=sms"}, "SMS", "utm → ga4:17 SMS"),
    (
        {"url": f"{SHOP}?utm_source=news&utm_medium=email&wbraid=1"},
        "Paid Search",
        "click-id:wbraid → ga4:4 Paid Search",
    ),
    (
        {"url": f"{SHOP}?gclid=a&utm_campaign=shopping"},
        "Paid Shopping",
        "click-id:gclid → ga4:3 Paid Shopping",
    ),
    ({"url": f"{SHOP}?dclid=a"}, "Display", "click-id:dclid → ga4:7 Display"),
    ({"url": f"{SHOP}?msclkid=a"}, "Paid Search", "click-id:msclkid → ga4:4 Paid Search"),
    ({"url": f"{SHOP}?ttclid=a"}, "Paid Social", "click-id:ttclid → ga4:5 Paid Social"),
    ({"url": f"{SHOP}?li_fat_id=a"}, "Paid Social", "click-id:li_fat_id → ga4:5 Paid Social"),
    ({"url": f"{SHOP}?twclid=a"}, "Paid Social", "click-id:twclid → ga4:5 Paid Social"),
    ({"url": f"{SHOP}?rdt_cid=a"}, "Paid Social", "click-id:rdt_cid → ga4:5 Paid Social"),
    ({"url": f"{SHOP}?ScCid=a"}, "Paid Social", "click-id:sccid → ga4:5 Paid Social"),
    ({"url": f"{SHOP}?epik=a"}, "Paid Social", "click-id:epik → ga4:5 Paid Social"),
    ({"url": f"{SHOP}?yclid=a"}, "Paid Search", "click-id:yclid → ga4:4 Paid Search"),
    ({"url": f"{SHOP}?mc_cid=a"}, "Email", "click-id:mc_cid → ga4:14 Email"),
    ({"url": f"{SHOP}?mc_cid=a&gclid=b"}, "Paid Search", "click-id:gclid → ga4:4 Paid Search"),
    (
        {"url": f"{SHOP}?gclid=a", "referrer": "https://t.co/x"},
        "Paid Search",
        "click-id:gclid → ga4:4 Paid Search",
    ),
    (
        {"source": "news", "medium": "email", "url": f"{SHOP}?gclid=a"},
        "Paid Search",
        "click-id:gclid → ga4:4 Paid Search",
    ),
    ({"url": f"{SHOP}?fbclid=a"}, "Organic Social", "click-id:fbclid → ga4:10 Organic Social"),
    ({"url": f"{SHOP}?fbclid=a&utm_medium=email"}, "Email", "utm → ga4:14 Email"),
    ({"url": f"{SHOP}?fbclid=a", "referrer": "https://x.example/"}, "Referral", "referrer → ga4:13 Referral"),
    # Referrers count where source and medium are unknown.
    ({"referrer": "https://www.google.co.uk/"}, "Organic Search", "referrer → ga4:12 Organic Search"),
    (
        {"referrer": "https://de.search.yahoo.com/search?p=x"},
        "Organic Search",
        "referrer → ga4:12 Organic Search",
    ),
    (
        {"referrer": "android-app://com.google.android.googlequicksearchbox/"},
        "Organic Search",
        "referrer → ga4:12 Organic Search",
    ),
    ({"referrer": "https://mail.google.com/mail/u/0"}, "Referral", "referrer → ga4:13 Referral"),
    ({"referrer": "https://gemini.google.com/app"}, "AI Assistant", "referrer → ga4:8b AI Assistant"),
    ({"referrer": "https://www.perplexity.ai/search"}, "AI Assistant", "referrer → ga4:8b AI Assistant"),
    ({"referrer": "https://l.facebook.com/l.php?u=x"}, "Organic Social", "referrer → ga4:10 Organic Social"),
    ({"referrer": "https://old.reddit.com/r/x"}, "Organic Social", "referrer → ga4:10 Organic Social"),
    ({"referrer": "https://m.youtube.com/watch"}, "Organic Video", "referrer → ga4:11 Organic Video"),
    ({"referrer": "https://www.amazon.co.jp/dp/1"}, "Organic Shopping", "referrer → ga4:9 Organic Shopping"),
    ({"referrer": "https://aws.amazon.com/"}, "Referral", "referrer → ga4:13 Referral"),
    ({"referrer": "news.partner.example/post"}, "Referral", "referrer → ga4:13 Referral"),
    ({"url": SHOP, "referrer": "https://blog.shop.example/a"}, "Direct", "ga4:1 Direct"),
    ({"url": "https://a.co.uk/", "referrer": "https://b.co.uk/"}, "Referral", "referrer → ga4:13 Referral"),
    ({"referrer": "-"}, "Direct", "ga4:1 Direct"),
    ({"referrer": "http://localhost:3000/"}, "Direct", "ga4:1 Direct"),
    ({"referrer": "about:blank"}, "Direct", "ga4:1 Direct"),
    ({"source": "sms", "referrer": "https://google.com/"}, "SMS", "ga4:17 SMS"),
    ({}, "Direct", "ga4:1 Direct"),
    ({"channel": " ", "source": "  "}, "Direct", "ga4:1 Direct"),
    ({"channel": "Webinar", "url": f"{SHOP}?gclid=a"}, "Webinar", "given"),
]


@pytest.mark.parametrize(("fields", "channel", "rule"), CASES, ids=[str(fields) for fields, *_ in CASES])
def test_each_origin_has_the_channel_and_the_rule_of_the_table(fields: dict[str, Any], channel: str, rule: str) -> None:
    """Every case of the flat list falls under the channel and the rule that stand beside it."""
    origin = enrich(**fields)
    assert (origin.channel, origin.rule) == (channel, rule)


ORIGINS: list[tuple[dict[str, Any], Origin]] = [
    (
        {"url": f"{SHOP}?utm_source=%20Fr%C3%BChling+&utm_medium=email&utm_campaign=Z%65e&utm_content=c&utm_term=a+b"},
        Origin("Email", "Frühling", "email", "Zee", "c", "a b", "utm → ga4:14 Email"),
    ),
    (
        {"url": f"{SHOP}?utm_campaign=u%CC%88&utm_source=mail", "source": "", "term": " t "},
        Origin("Unassigned", "mail", None, "ü", None, "t", "utm → ga4:- Unassigned"),
    ),
    (
        {"url": f"{SHOP}?utm_source=news&utm_medium=email&utm_campaign=c&gclid=1"},
        Origin("Paid Search", "google", "cpc", "c", None, None, "click-id:gclid → ga4:4 Paid Search"),
    ),
    (
        {"url": f"{SHOP}?utm_source=Google&utm_medium=ppc&gclid=1"},
        Origin("Paid Search", "Google", "ppc", None, None, None, "click-id:gclid → ga4:4 Paid Search"),
    ),
    (
        {"url": f"{SHOP}?utm_source=weekly&utm_medium=email&mc_cid=1"},
        Origin("Email", "weekly", "email", None, None, None, "click-id:mc_cid → ga4:14 Email"),
    ),
    (
        {"source": "news", "medium": "email", "campaign": "mine", "url": f"{SHOP}?utm_campaign=c&gclid=1"},
        Origin("Paid Search", "news", "email", "mine", None, None, "click-id:gclid → ga4:4 Paid Search"),
    ),
    (
        {"referrer": "https://user@WWW.Bing.com:443/search?q=x"},
        Origin("Organic Search", "bing.com", "organic", None, None, None, "referrer → ga4:12 Organic Search"),
    ),
    (
        {"channel": "Webinar"},
        Origin("Webinar", None, None, None, None, None, "given"),
    ),
    (
        {"channel": "Partner", "url": f"{SHOP}?utm_source=a&gclid=1", "referrer": "https://b.example/"},
        Origin("Partner", "a", None, None, None, None, "given"),
    ),
    ({}, Origin("Direct", "(direct)", "(none)", None, None, None, "ga4:1 Direct")),
]


@pytest.mark.parametrize(("fields", "origin"), ORIGINS)
def test_absent_fields_are_filled_and_sent_ones_stay(fields: dict[str, Any], origin: Origin) -> None:
    """Fields that were sent stay; absent ones come clean from click id, utm or referrer."""
    assert enrich(**fields) == origin


SEED = 20261121
TEXT = st.none() | st.text(max_size=60) | st.sampled_from([" ", "google", "(direct)", "%", "%E4", "\0", "\ud800"])
WORDS = st.sampled_from(["http", "://", "?", "&", "=", "#", "%", "+", "@", ":", ".", "www.", "google", ".co", ".uk"])
TAGS = st.sampled_from([*CLICK_IDS, "utm_source=", "utm_medium=", "utm_campaign=", "fbclid=1", "&", "?", "%C3%"])
URL = TEXT | st.lists(st.text(max_size=5) | WORDS | TAGS, max_size=20).map("".join)


@seed(SEED)
@given(st.tuples(TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, URL, URL))
def test_any_text_has_a_channel_and_a_given_one_is_kept(fields: tuple[str | None, ...]) -> None:
    """Whatever the text, nothing raises, no channel is blank, and a channel that was sent is the channel."""
    note(f"seed {SEED}")
    origin = enrich(*fields)
    assert origin.channel.strip()
    assert origin.rule
    if fields[0] and fields[0].strip():
        assert (origin.channel, origin.rule) == (enrich(channel=fields[0]).channel, "given")
    assert all(text is None or text == text.strip() != "" for text in origin[1:6])


@seed(SEED)
@given(TEXT, TEXT, URL, URL)
def test_case_and_outer_blanks_do_not_move_a_channel(
    source: str | None, medium: str | None, url: str | None, referrer: str | None
) -> None:
    """Source and medium in capitals, with blanks around them, give the same channel."""
    note(f"seed {SEED}")
    fields = {"url": url, "referrer": referrer}
    loud = [f" {text.upper()}\t" if text else text for text in (source, medium)]
    quiet = [text.upper().lower() if text else text for text in (source, medium)]
    assert (
        enrich(source=loud[0], medium=loud[1], **fields).channel
        == enrich(source=quiet[0], medium=quiet[1], **fields).channel
    )


def test_a_channel_that_was_sent_is_trimmed_and_composed_but_never_derived() -> None:
    """A sent channel is the record's own text but for outer blanks and Unicode composition."""
    assert enrich(channel=" Pru\u0308fung ", url=f"{SHOP}?gclid=1").channel == "Prüfung"


def test_arguments_too_long_for_the_cache_give_the_same_origin() -> None:
    """Beyond the cache's bound the same rules hold; beyond the parameters' bound a url says nothing."""
    long = f"{SHOP}?{'a=1&' * (CACHED_CHARS_MAX // 8)}utm_source=google&utm_medium=cpc"
    beyond = f"{SHOP}?{'a=1&' * PARAMS_MAX}utm_source=google&utm_medium=cpc"
    assert len(long) < CACHED_CHARS_MAX < len(long) * 2
    assert enrich(url=long).channel == enrich(url=long, referrer="x" * CACHED_CHARS_MAX).channel == "Paid Search"
    assert enrich(url=beyond).channel == "Direct"


@pytest.mark.parametrize(
    ("source", "category"),
    [
        ("google", "search"), ("www.google.com.br", "search"), ("docs.google.com", ""),
        ("google.example", ""),
        ("fr.ask.com", "search"), ("news.google.fr", "search"), ("web.telegram.org", "social"),
        ("x", "social"),
        ("netflix.com", "video"), ("smile.amazon.de", "shopping"), ("amazon.com.au", "shopping"),
        ("platform.openai.com", "ai"), ("notfacebook.com", ""), ("facebook.com.evil.example", ""), ("", ""),
        (".", ""), ("a." * 500, ""), ("github.com", "social"),
    ],
)  # fmt: skip
def test_sources_have_the_category_of_their_list(source: str, category: str) -> None:
    """Names and hosts are found exactly, by country, and below a host unless it is a search engine."""
    assert source_category(source) == category


def test_the_lists_are_clean_and_our_own_names_win() -> None:
    """Every entry is folded, has no www. and no path, and a category of the known ones or none."""
    table = source_table()
    assert len(table) > 800
    assert set(table.values()) == {*CATEGORIES, ""}
    assert all(host == host.casefold().strip() and not host.startswith("www.") for host in table)
    assert not [host for host in table if "/" in host or " " in host]
    assert table["youtube.com"] == "video"


@pytest.mark.parametrize(
    ("host", "owner"),
    [("a.b.example.com", "example.com"), ("example.com", "example.com"), ("x.shop.co.uk", "shop.co.uk"),
     ("shop.co.uk", "shop.co.uk"), ("10.0.0.1", "10.0.0.1"), ("blog.foo.de", "foo.de"), ("", "")],
)  # fmt: skip
def test_one_owner_registers_the_last_labels(host: str, owner: str) -> None:
    """The registrable part is two labels, three under a country's second level, and a whole IP address."""
    assert registrable(host) == owner
