"""No value leaves the place where a template puts it: hostile values, read back by a parser of each context."""

from __future__ import annotations

import json
import re
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine import TemplateError
from service.engine.templates import CONTEXTS, compile_form, compile_template
from tests.engine.test_templates import Given

README = (Path(__file__).parents[2] / "service" / "engine" / "README.md").read_text(encoding="utf-8")
TRICKY = "\"'`<>&=;:/\\%{}()$#?+ \r\n\t\0\x7f\x85\u2028\u2029\u202e\u2066é😀axuU0"
HOSTILE = [
    "</script><script>alert(1)</script>", "\"'`><img src=x onerror=alert(1)>", "a\r\nBcc: all@x.example\r\n\r\nbody", "\0",
    "\u2028alert(1)//\u2029", "\u202egnp.exe\u2066", "{", "}", "{{uid}}", "%0d%0a%00", "100%", "\\", "\\\"", "\\u0022",
    "javascript:alert(1)", "x\", \"admin\": true, \"y\": \"", "${alert(1)}", "*/ alert(1) /*", "-->", "]]>", "😀" * 1024,
    " ",    "x HTTP/1.1\r\nHost: evil.example\r\n\r\n", "&quot;", "&#34;",
]  # fmt: skip
values = pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
any_text = st.one_of(st.text(max_size=40), st.text(alphabet=TRICKY, max_size=12))


def fill(context: str, source: str, value: str) -> str:
    return compile_template(source, context).render(Given({"v": value, "w": "after"})).text


def in_url(value: str) -> None:
    target = urlsplit(fill("url", "https://x.example/p/{v}?a={v}&b={w}", value))
    assert (target.netloc, target.fragment) == ("x.example", "")
    assert unquote(target.path) == f"/p/{value}" and target.path.count("/") == 2
    assert parse_qsl(target.query, keep_blank_values=True) == [("a", value), ("b", "after")]


def in_raw_url(value: str) -> None:
    url = fill("url", "https://x.example/?a={v|raw}", value)
    assert re.fullmatch("[!-~]+", url)
    assert urlsplit(url).netloc == "x.example"


def in_json(value: str) -> None:
    text = fill("json", '{{"a": "<{v}>", "b": {v}, "{v}": [{none}, "{w}"]}}', value)
    pairs = json.loads(text, object_pairs_hook=list)
    assert pairs == [("a", f"<{value}>"), ("b", value), (value, [None, "after"])]
    assert not re.search("[<&'\u2028\u2029]", text.replace('"<', "").replace("<{", ""))


def in_mail(value: str) -> None:
    # given a mail whose subject and body are made by templates
    mail = EmailMessage(policy=policy.SMTP)
    mail["Subject"], mail["To"] = fill("text", "New: {v}.", value), "partner@x.example"
    mail.set_content(fill("text", "You: {v}\n--b--\nEnd", value))
    # when it is read as a mail program reads it
    found = message_from_bytes(mail.as_bytes(), policy=policy.default)
    # then there is no header more, no line more, and nothing that turns what is shown
    assert [name.lower() for name in found.keys()] == [name.lower() for name in mail.keys()]  # noqa: SIM118
    assert isinstance(found, EmailMessage)
    lines = found.get_content().splitlines()
    assert (len(lines), lines[1:]) == (3, ["--b--", "End"])
    assert not re.search("[\0-\x1f\u2028\u2029\u202e\u2066]", lines[0] + str(found["Subject"]))


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, {name: text or "" for name, text in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.seen.append(("comment", {"": data}))


def in_html(value: str) -> None:
    source = "<p title=\"{v}\" lang=en>Hi {v}!</p><a href='https://x.example/?a={v}' alt='{v}'>{w}</a>"
    page = Page(fill("html", source, value))
    shown = fill("text", "{v}", value)
    assert [tag for tag, _ in page.seen] == ["p", "a"]
    paragraph, link = (attributes for _, attributes in page.seen)
    assert paragraph == {"title": shown, "lang": "en"}
    assert (sorted(link), link["alt"]) == (["alt", "href"], shown)
    assert parse_qsl(urlsplit(link["href"]).query, keep_blank_values=True) == [("a", value)]
    assert page.text == f"Hi {shown}!after"


JS_CHARACTER = re.compile(r"[A-Za-z0-9]|\\u[0-9a-f]{4}")


def in_js(value: str) -> None:
    # then the literal holds letters, digits and escapes of UTF-16 units only, which say the value and nothing else
    text = fill("js", 'f(\'{v}\', "{v}", "{w}");', value)
    literal = JS_CHARACTER.pattern
    found = re.fullmatch(rf"f\('((?:{literal})*)', \"((?:{literal})*)\", \"after\"\);", text)
    assert found is not None, text
    for written in found.groups():
        units = [int(unit[2:], 16) if unit[0] == "\\" else ord(unit) for unit in JS_CHARACTER.findall(written)]
        assert b"".join(unit.to_bytes(2, "big") for unit in units).decode("utf-16-be") == value


def in_form(value: str) -> None:
    body = (
        compile_form({"a b": "<{v}&", "c": "{v}", "d": "{none}", "e": "{w}"})
        .render(Given({"v": value, "w": "after"}))
        .text
    )
    assert re.fullmatch("[!-~]+", body) and body[0] not in "{["
    assert parse_qsl(body, keep_blank_values=True) == [("a b", f"<{value}&"), ("c", value), ("d", ""), ("e", "after")]


CHECKS = {
    "form": in_form,
    "url": in_url,
    "raw url": in_raw_url,
    "json": in_json,
    "text": in_mail,
    "html": in_html,
    "js": in_js,
}


def test_every_context_is_checked() -> None:
    assert set(CONTEXTS) | {"raw url"} == set(CHECKS)


@values
@pytest.mark.parametrize("context", CHECKS)
def test_a_hostile_value_stays_in_its_place(context: str, value: str) -> None:
    CHECKS[context](value)


@pytest.mark.parametrize("context", CHECKS)
def test_any_value_stays_in_its_place(context: str) -> None:
    given(any_text)(CHECKS[context])()


@pytest.mark.parametrize("context", sorted(set(CONTEXTS) - {"url"}))
def test_raw_is_refused_outside_of_addresses(context: str) -> None:
    with pytest.raises(TemplateError, match=rf"\{{v\|raw\}}: raw is for addresses only; in {context} every value"):
        compile_template('"{v|raw}"', context)


@pytest.mark.parametrize("context", sorted(CONTEXTS))
def test_a_default_is_escaped_like_a_value(context: str) -> None:
    source = '"{none|default:a\'<\r\n}"'
    assert compile_template(source, context).render(Given({})).text == fill(context, '"{v}"', "a'<\r\n")


@pytest.mark.parametrize(
    ("context", "source", "words"),
    [
        ("json", '{{"a": "{v}"', "is no JSON once its macros are filled in"),
        ("json", '{{"a": "\\{v}"}}', "is no JSON"),
        ("json", '{{"a": 1{v}}}', "is no JSON"),
        ("js", "f({v})", "macro 1 stands outside of a string literal"),
        ("js", "f('{v}', {w})", "macro 2 stands outside"),
        ("js", "// it's {v}", "outside of a string literal"),
        ("js", "/* ' */ {v}", "outside of a string literal"),
        ("js", "f('it\\'s', {v})", "outside of a string literal"),
        ("js", "f('\n{v}')", "outside of a string literal"),
        ("js", "f(`{v}`)", "template literal"),
        ("html", "<script>f('{v}')</script>", "inside of <script>"),
        ("html", "<STYLE>{v}</STYLE>", "inside of <STYLE>"),
        ("html", "<script>1</script><script src='https://x.example/{v}'>", "inside of <script>"),
        ("html", "<p title={v}>", "inside of a tag or a comment"),
        ("html", "<p {v}>", "inside of a tag or a comment"),
        ("html", "<{v}>", "inside of a tag or a comment"),
        ("html", "<!-- {v} -->", "inside of a tag or a comment"),
        ("html", "<p onclick=\"f('{v}')\">", "the attribute onclick"),
        ("html", "<p style='{v}'>", "the attribute style"),
        ("html", "<meta content='0;url={v}'>", "the attribute content"),
        ("html", "<a href='{v}'>", "before its host is fixed"),
        ("html", "<a href='https://{v}/'>", "before its host is fixed"),
        ("html", "<a href='//{v}'>", "before its host is fixed"),
        ("html", "<a href='javascript:f(/{v}/)'>", "before its host is fixed"),
    ],
)
def test_a_macro_where_no_value_is_safe_is_refused(context: str, source: str, words: str) -> None:
    with pytest.raises(TemplateError) as caught:
        compile_template(source, context)
    assert words in str(caught.value)


def test_the_readme_shows_each_context_with_its_result() -> None:
    section = README.partition("| context |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*\| `(.*)` \|$", section, re.MULTILINE)
    assert dict(rows) == {name: fill(name, '"{v}"', 'a"<b>\nü')[1:-1] for name in CONTEXTS}
