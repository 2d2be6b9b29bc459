"""Bots by their own name, and what browsers fetch ahead."""

from __future__ import annotations

import pytest

from service.intake.agents import is_ahead, is_bot

MOBILE = (
    "Mozilla/5.0 (Linux; Android 14; {}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36"
)


@pytest.mark.parametrize(
    "agent",
    [
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
        "AdsBot-Google (+http://www.google.com/adsbot.html)",
        "Mediapartners-Google",
        "Mozilla/5.0 (compatible; Yahoo! Slurp; http://help.yahoo.com/help/us/ysearch/slurp)",
        "Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)",
        "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
        "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
        "TelegramBot (like TwitterBot)",
        "WhatsApp/2.23.20.0",
        "ia_archiver",
        "GPTBot/1.2",
        "Screaming Frog SEO Spider/19.0",
        MOBILE.format("Nexus 5X") + " (compatible; Googlebot/2.1)",
    ],
)
def test_what_calls_itself_a_bot_is_one(agent: str) -> None:
    assert is_bot(agent)


@pytest.mark.parametrize(
    "agent",
    [
        "",
        MOBILE.format("Pixel 9"),
        MOBILE.format("CUBOT X18 Plus"),
        MOBILE.format("SM-G991B") + " [FBAN/FB4A;FBAV/400.0]",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/142.0.0.0 Safari/537.36",
        "curl/8.5.0",
        "python-requests/2.32",
        "Botany/1.0",
        "\udcff\x00",
    ],
)
def test_people_telephones_and_scripts_are_none(agent: str) -> None:
    assert not is_bot(agent)


@pytest.mark.parametrize(
    ("name", "value", "ahead"),
    [
        (b"sec-purpose", b"prefetch", True),
        (b"sec-purpose", b"prefetch;prerender", True),
        (b"sec-purpose", b"prefetch;anonymous-client-ip", True),
        (b"purpose", b"Prefetch", True),
        (b"x-purpose", b"preview", True),
        (b"x-moz", b"prefetch", True),
        (b"sec-purpose", b"", False),
        (b"purpose", b"navigate", False),
        (b"x-other", b"prefetch", False),
    ],
)
def test_what_is_fetched_ahead_says_so(name: bytes, value: bytes, ahead: bool) -> None:
    assert is_ahead({name: value, b"accept": b"*/*"}) is ahead
