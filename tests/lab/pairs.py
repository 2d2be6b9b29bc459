"""Random rulebooks with random logs, for whoever compares two evaluators. Seeded, small, and as odd as people are.

A pair is one client with its triggers and its hits. Several pairs share a rulebook and a log, each in a partition of its
own, so that a run costs once what it would cost each time. In them: ties, pauses beyond what is remembered, unicode and
control characters, missing values, huge and odd numbers, repeated parameters, aliases, shared devices, absorbed visitors,
conflicts, duplicates, tests and what they mint, caps at their edge, forms, JSON, broken requests, refusals, hits without a
decoded map.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from urllib.parse import quote

import lab
from lab.log import Log
from service.archive import tables
from service.archive.schemas import hit_row, table
from service.engine import Entry, Hit, Rulebook, load
from service.engine.parse import parameters

START_US = 1_772_409_600_000_000
DAY_US = 86_400_000_000
EVENTS = ("click", "registration", "login", "sale", "sale", "sale", "a/b:c.d-e")
NUMBERS = ("0", "-0", "20", "20.0", "19.999999999", "007", "-5.5", "999999999999999999.999999999",
           "1000000000000000000", "1e3",
           "1_0", " 7", "٣", "12,5", "5.", ".5", "+1", "0.1234567890")  # fmt: skip
TEXTS = ("DE", "AT", "de", "", "größe", "東京", "🎯", "a b", "a'b", 'q"\\', "x\ny", "\x01", "z\x00z", "%41", "{x}", "null",
         "é",
         "e\u0301", "\uffff", "\U0010ffff", "20", "20.00")  # fmt: skip
NO_IDS = ("null", "{click_id}", "{{x}}", "#x#", "%x%", "${a}", "[b]", "-", "0", "{a}b", "$")
NAMES = ("country", "sub1", "sub2", "affiliate", "txid", "currency", "uid", "ts", "amount", "first.sub1", "first.country",
         "last.sale.amount", "last.click.affiliate", "param.odd", "param.zz", "affiliate_click_id",
         "click_id", "test")  # fmt: skip


def rulebook_text(random: Random, clients: Sequence[str]) -> str:
    """A rulebook of these clients with one to four triggers each."""
    parts = [_affiliate(random, name, clients) for name in ("best", "hub", "quiet")]
    number = 0
    for client in clients:
        parts.append(_client(random, client))
        for _ in range(random.randint(1, 4)):
            number += 1
            parts.append(_trigger(random, client, f"t{number}"))
    return "\n".join(parts)


def _client(random: Random, name: str) -> str:
    aliases = random.choice(("", 'aliases = { subid = "click_id", cid = "click_id", order = "txid", who = "uid" }'))
    return f"""
[client.{name}]
params = ["country", "sub1", "sub2"]
{aliases}
remember = "{random.choice(("90d", "3d", "1h"))}"
click_window = "{random.choice(("30d", "2d", "10m"))}"
attribution = "{random.choice(("last_click", "first_click"))}"
webhook = "{random.choice(("https://c.example/in", _template(random, ("uid", "first.sub1", "txid", "visitor"))))}"
{random.choice(("", 'test_webhook = "https://t.example/?e={event}&x={country}"'))}
"""


def _affiliate(random: Random, name: str, clients: Sequence[str]) -> str:
    if name == "quiet":
        return "[affiliate.quiet]"
    template = random.choice(("https://a.example/in", _template(random, ("sub1", "affiliate_click_id", "param.zz"))))
    special = random.choice(
        ("", f'[affiliate.{name}.for.{random.choice(clients)}]\nwebhook = "https://s.example/{{amount!}}"')
    )
    return f'[affiliate.{name}]\nwebhook = "{template}"\n{special}'


def _template(random: Random, names: Sequence[str]) -> str:
    forms = ("{%s}", "{%s|raw}", "{%s|default:n-a}", "{%s|sha256}", "{%s!}")
    macros = "&".join(f"k={random.choice(forms) % name}" for name in random.sample(names, 2))
    fixed = "i={postback_id}&s={payout}{payout_currency}&t={time|%Y-%m-%d}&l={last.sale.ts}"
    return f"https://x.example/p?{macros}&{fixed}"


def _trigger(random: Random, client: str, name: str) -> str:
    lines = ["[[trigger]]", f'name = "{name}"', f'client = "{client}"', f'on = "{random.choice(EVENTS)}"']
    if random.random() < 0.4:
        lines.append(f"after = {json.dumps(random.choices(EVENTS, k=random.randint(1, 3)))}")
        if random.random() < 0.5:
            lines.append(f'within = "{random.choice(("1h", "1d", "3d"))}"')
    if random.random() < 0.7:
        lines.append(f"when = {json.dumps(condition(random), ensure_ascii=False)}")
    if random.random() < 0.2:
        lines.append(f"sample = {random.randint(1, 99)}")
    if random.random() < 0.4:
        lines.append('once = "visitor"')
    if random.random() < 0.4:
        per, every = random.choice(("affiliate", "trigger")), random.choice(("hour", "day", "month", "total"))
        lines.append(f'cap = {{ per = "{per}", every = "{every}", count = {random.randint(1, 3)} }}')
    payout = random.choice(("", 'payout = { fixed = "2.5", currency = "JPY" }',
                            'payout = { percent = "7.5", of = "amount" }',
                            'payout = { percent = "33.333", of = "sub1", currency = "KWD" }'))  # fmt: skip
    lines.append(payout)
    lines.append("to = " + random.choice(('["client"]', '["affiliate"]', '["affiliate", "client"]')))
    lines.append(random.choice(("", "", "", "", "paused = true", "from = 2026-03-03", "until = 2026-03-04T12:00:00Z")))
    return "\n".join(lines)


def condition(random: Random, depth: int = 0) -> str:
    """A condition of the language, nested up to three deep."""
    draw = random.random()
    if depth < 3 and draw < 0.45:
        parts = [condition(random, depth + 1) for _ in range(2)]
        return random.choice((f"({parts[0]} and {parts[1]})", f"({parts[0]} or {parts[1]})", f"not ({parts[0]})"))
    name, event = random.choice(NAMES), json.dumps(random.choice(EVENTS))
    sign = random.choice(("==", "!=", "<", "<=", ">", ">="))
    number = random.choice(("0", "1", "2", "20", "-5.5", "19.999999999", "999999999999999999", "1h", "1d"))
    word = _text(random)
    return random.choice((
        f"{name} {sign} {number}", f"{name} {sign} {word}", f"{name} {sign} {random.choice(NAMES)}", f"exists({name})",
        f"{name} in [{word}, {number}, {_text(random)}]", f"count({event}) {sign} {number}",
        f"since({event}) {sign} {number}", f"{number} {sign} count({event})", f"count({event}) {sign} {name}",
        f"{word} {sign} {name}",
        f"{name} matches {random.choice(PATTERNS)}", f"count({event}) in [0, 2]", f"since({event}) {sign} {name}",
    ))  # fmt: skip


PATTERNS = ('"^(DE|AT)$"', '"(?i)^de"', '"\\\\d"', '"."', '"^.$"', '"[^a-z]"', '"ö|é"', '"\\\\pL+$"', '""')


def _text(random: Random) -> str:
    value = random.choice([text for text in TEXTS if all(char >= " " for char in text)])
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def hits(random: Random, client: str, partition: int, count: int) -> list[Entry]:
    """The hits of one client: times never fall, often stand still, and sometimes leap."""
    entries: list[Entry] = []
    time_us = START_US
    clicks: list[str] = []
    for seq in range(1, count + 1):
        time_us += random.choice((0, 0, 1, 999_999, 60_000_000, 600_000_000, 3_600_000_000, 3_600_000_000, DAY_US // 2))
        time_us += 3 * DAY_US if random.random() < 0.03 else 0
        hit_id = f"{partition:016x}{seq:016x}"
        entries.append(Entry(partition, 1, seq, time_us, _hit(random, client, hit_id, time_us, clicks)))
    return entries


def _hit(random: Random, client: str, hit_id: str, time_us: int, clicks: list[str]) -> Hit:
    refusal = "event_not_allowed" if random.random() < 0.01 else ""
    if random.random() < 0.25:
        clicks.append(hit_id)
        affiliate = random.choice(("best", "hub", "quiet", "nobody", "best%20x", "b%FF", "%E6%9D%B1"))
        path = random.choice(
            (f"/c/{client}/{affiliate}",) * 8 + (f"/c/{client}/{affiliate}/", f"/c/{client}", f"/c//{affiliate}")
        )
        pairs = [("test", "1")] if random.random() < 0.06 else []
        pairs += _pairs(random, clicks) if random.random() < 0.8 else []
        return Hit(hit_id, time_us, "c", "GET", path.encode(), _encode(pairs), refusal=refusal)
    pairs = [
        ("client", client if random.random() < 0.97 else "nobody"),
        ("event", random.choice((*EVENTS, *EVENTS, *EVENTS, "no event"))),
    ]
    pairs += _identifiers(random, clicks) + _pairs(random, clicks)
    pairs += [("test", "1")] if random.random() < 0.04 else []
    route = random.choice(("e", "e", "e", "e", "e.gif"))
    draw = random.random()
    if draw < 0.1:
        body = json.dumps(dict(pairs), ensure_ascii=random.random() < 0.5).encode()
        return Hit(hit_id, time_us, route, "POST", b"/e", b"", body, "application/json", refusal=refusal)
    if draw < 0.2:
        return Hit(hit_id, time_us, route, "POST", b"/e", _encode(pairs[:3]), _encode(pairs[3:]), refusal=refusal)
    query = _encode(pairs) + (b"&x=%FF" if random.random() < 0.03 else b"")
    flags = ("signed",) if random.random() < 0.2 else ()
    return Hit(hit_id, time_us, route, "GET", b"/e", query, refusal=refusal, flags=flags)


def _identifiers(random: Random, clicks: list[str]) -> list[tuple[str, str]]:
    """Few people on few devices: who meets whom is left to chance."""
    pairs = []
    if random.random() < 0.35:
        pairs.append((random.choice(("uid", "uid", "who")), random.choice((f"u{random.randint(1, 5)}",) * 6 + NO_IDS)))
    if random.random() < 0.5:
        pairs.append(("tag_id", random.choice((f"t{random.randint(1, 9)}",) * 9 + NO_IDS)))
    if random.random() < 0.4 and clicks:
        pairs.append(
            (random.choice(("click_id", "subid", "cid")), random.choice((*clicks[-3:], *NO_IDS[:2], "own-click")))
        )
    return pairs


def _pairs(random: Random, clicks: list[str]) -> list[tuple[str, str]]:
    """Custom and reserved parameters, now and then one twice."""
    choices = (
        ("country", random.choice(TEXTS)), ("sub1", random.choice((*TEXTS, *NUMBERS))), ("sub2", random.choice(TEXTS)),
        ("amount", random.choice(NUMBERS[:8] if random.random() < 0.95 else NUMBERS)),
        ("currency", random.choice(("EUR", "jpy", "Kwd", "€") if random.random() < 0.1 else ("EUR", "USD"))),
        (random.choice(("txid", "order")), f"x{random.randint(1, 5)}"), ("ts", random.choice(NUMBERS)),
        (random.choice(("zz", "odd", "payout", "time", "affiliate_click_id")), random.choice(TEXTS)),
        ("affiliate", random.choice(("best", "hub", "nobody"))), ("sub1", random.choice(TEXTS)),
        ("click_id", random.choice(clicks or ["own-click"])) if random.random() < 0.1 else ("sub2", "x"),
    )  # fmt: skip
    return [pair for pair in choices if random.random() < 0.4]


def _encode(pairs: Sequence[tuple[str, str]]) -> bytes:
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs).encode()


def pairs(root: Path, seed: int, count: int, length: int = 40) -> tuple[Log, Rulebook]:
    """So many pairs, each of `length` hits, stored below root as the archive stores them."""
    random = Random(seed)
    clients = [f"c{number}" for number in range(count)]
    rulebook = load(rulebook_text(random, clients))
    entries = [entry for number, name in enumerate(clients) for entry in hits(random, name, number, length)]
    rows = [hit_row(entry, parameters(entry.hit) if random.random() < 0.97 else {}) for entry in entries if entry.hit]
    tables.append(root, "hits", table("hits", rows), tables.open_table(root, "hits"))
    return lab.open(root), rulebook
