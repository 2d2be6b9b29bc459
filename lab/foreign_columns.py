"""What `foreign.hit_of` makes of one request, for a block of requests at once: event, made-up parameters, own parameters.

All of it follows from what is asked, who asks or where they come from, so it is made once per distinct one. A value that
needs no escaping is taken as it is; any other goes through the very functions that `hit_of` uses. Tests hold the two to the
same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote_plus

import polars as pl
from polars.exceptions import ComputeError

from lab.coded import Coded
from lab.foreign import _BUILT_IN, _FEED_QUERY, _TAKEN, Naming, host_of, own_query, text_of
from service.engine import Hit
from service.engine.parse import MAX_NAME, MAX_VALUE, parameters

_SAFE = r"^[A-Za-z0-9_.~/-]*$"
_PLAIN_TEXT = r"^[!-$&-~]*$"  # ASCII without `%` and blanks
_LONG = 6_000  # bytes of a query that might end up over the engine's limit
_MANY = 80  # parameters


def with_hit(
    coded: Coded, naming: Naming, client: str, aliases: Iterable[str] = (), tags: Tags | None = None
) -> Coded:  # fmt: skip
    """Lines in the columns of `blocks.SCHEMA` in those of `placing.WIDE`.

    aliases: names of own parameters that the client reads as reserved ones. A hit with one is left to the engine: it may
    be somebody else than its address and user agent say.
    """
    people, origins = coded.parts["person"], coded.parts["origin"]
    host = _referrer_host(origins["referrer"])
    said = pl.lit("&referrer_host=") + each(host, _quote, _SAFE)
    return Coded(coded.lines, {
        "request": _requests(coded.parts["request"], naming, client, list(aliases)),
        "person": people.with_columns((tags or Tags()).of(people)).with_columns(who=pl.col("tag").hash()),
        "origin": origins.select(
            "referrer", referrer_host=pl.when(host != "").then(host),
            said=pl.when(host != "").then(said).otherwise(pl.lit("")),
        ),
    })  # fmt: skip


def _requests(frame: pl.DataFrame, naming: Naming, client: str, aliases: list[str]) -> pl.DataFrame:
    """Distinct requests with what is made of them."""
    frame = frame.with_columns(_paths(frame["path"]).alias("path_text"), _own(frame["query"]).alias("own"))
    frame = frame.with_columns(
        event=_events(frame, naming), path_text=frame["path_text"].str.slice(0, MAX_VALUE),
        status=pl.col("status").cast(pl.String), host=pl.col("host").str.slice(0, MAX_VALUE),
    ).with_row_index("_row")  # fmt: skip
    frame = frame.join(_pairs(frame["own"]), on="_row", how="left", maintain_order="left")
    odd = pl.col("unsure").fill_null(False) | (pl.col("own").bin.size() > _LONG)
    if aliases:
        named = pl.col("keys").list.set_intersection(pl.lit(pl.Series([aliases]))).list.len() > 0
        odd = odd | named.fill_null(False)
    return frame.select(
        "method", "path", "event", "path_text", "status", *_query(frame, client), pl.col("keys", "values").fill_null([]),
        client=pl.lit(client), host=pl.when(pl.col("host") != "").then("host"), unsure=odd,
    )  # fmt: skip


class Tags:
    """The tag id of each request: a pair of address and user agent once, told apart by 64 bits of hash.

    It remembers so many of the latest, for all threads.
    """

    def __init__(self, many: int = 300_000) -> None:
        self._many = many
        self._known = pl.DataFrame(schema={"who": pl.UInt64, "tag": pl.String})

    def of(self, frame: pl.DataFrame) -> pl.Series:
        """The column tag."""
        whose = frame.select("address", "user_agent", who=pl.col("address").hash(1) ^ pl.col("user_agent").hash(2))
        known = self._known  # another thread may put a newer one in its place meanwhile; either will do
        found = whose.join(known, on="who", how="left", maintain_order="left")
        if not found["tag"].null_count():
            return found["tag"]
        new = _tagged(found.filter(pl.col("tag").is_null()).unique("who"))
        self._known = pl.concat([known.tail(self._many), new])
        both = found.join(new, on="who", how="left", maintain_order="left", suffix="_new")
        return both.select(pl.coalesce("tag", "tag_new")).to_series()


def _tagged(whose: pl.DataFrame) -> pl.DataFrame:
    """who, tag: as `foreign.visitor_tag` says it."""
    said = whose.select(pl.concat_str("address", "user_agent", separator="\n").cast(pl.Binary)).to_series().to_list()
    digests = pl.Series([hashlib.sha256(one).digest() for one in said], dtype=pl.Binary)
    return whose.select("who", tag=digests.bin.encode("hex").str.slice(0, 32))


def _query(frame: pl.DataFrame, client: str) -> list[pl.Series]:
    """before, between and after: with a tag id behind the first and a referrer's host before the last they are the query

    that an intake request would have: `client=a&event=pageview&tag_id=...&path=/a&status=200&method=GET`.
    """
    path, host = each(frame["path_text"], _quote, _SAFE), each(frame["host"], _quote, _SAFE)
    method, event = each(frame["method"], _quote, _SAFE), each(frame["event"], _quote, _SAFE)
    there = pl.col("own").bin.size() > 0
    return frame.select(
        before=pl.lit(f"client={_quote(client)}&event=") + event + pl.lit("&tag_id="),
        between=pl.lit("&path=") + path + pl.lit("&status=") + pl.col("status") + pl.lit("&method=") + method,
        after=pl.when(host != "").then(pl.lit("&host=") + host).otherwise(pl.lit("")).cast(pl.Binary)
        + pl.when(there).then(pl.lit(b"&") + pl.col("own")).otherwise(pl.lit(b"")),
    ).get_columns()  # fmt: skip


def _quote(text: str) -> str:
    return quote_plus(text, safe="/")


def each(column: pl.Series, change: Callable[[str], str], unless: str) -> pl.Series:
    """The column with the values changed that do not match a pattern, each distinct one once."""
    odd = column.filter(~column.str.contains(unless)).unique()
    if odd.is_empty():
        return column
    return column.replace(odd, pl.Series([change(value) for value in odd], dtype=pl.String))


def _texts(column: pl.Series, change: Callable[[bytes], str]) -> pl.Series:
    """Bytes as text: what is plain as it is, each other distinct value by the function."""
    text = _utf8(column)
    plain = text.str.contains(_PLAIN_TEXT).fill_null(False)
    if plain.all():
        return text
    odd = column.filter(~plain).unique()
    changed = pl.DataFrame({"_odd": odd, "_text": pl.Series([change(value) for value in odd], dtype=pl.String)})
    frame = pl.DataFrame({"_odd": column, "_plain": text}).join(changed, on="_odd", how="left", maintain_order="left")
    return frame.select(pl.coalesce("_text", "_plain")).to_series()


def _utf8(column: pl.Series) -> pl.Series:
    """Bytes as text, null where they are no UTF-8."""
    try:
        return column.cast(pl.String)
    except ComputeError:  # hardly ever, and then once per block
        return pl.Series(column.name, [_decoded_text(value) for value in column], dtype=pl.String)


def _decoded_text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _paths(column: pl.Series) -> pl.Series:
    return _texts(column, text_of)


def _own(column: pl.Series) -> pl.Series:
    """The own query as bytes, as `own_query` makes it."""
    names = "|".join(sorted(_TAKEN))
    needs = rf"(?:^|&)(?:q_)*(?:{names})(?:=|&|$)|^&|&&|&$|\+"
    text = _utf8(column)
    plain = (text.str.contains(_PLAIN_TEXT) & ~text.str.contains(needs)).fill_null(False)
    if plain.all():
        return column
    odd = column.filter(~plain).unique()
    changed = pl.DataFrame({"_odd": odd, "_own": pl.Series([own_query(value) for value in odd], dtype=pl.Binary)})
    frame = pl.DataFrame({"_odd": column}).join(changed, on="_odd", how="left", maintain_order="left")
    return frame.select(pl.coalesce("_own", "_odd")).to_series()


def _referrer_host(column: pl.Series) -> pl.Series:
    known = column.unique()
    hosts = pl.Series([host_of(value)[:MAX_VALUE] for value in known], dtype=pl.String)
    return column.replace_strict(known, hosts, return_dtype=pl.String).alias("referrer_host")


def _events(frame: pl.DataFrame, naming: Naming) -> pl.Series:
    """The event of each request: by columns where only the built-in rules ask, else each distinct request once."""
    asked = frame.select("method", "path_text", "status", _feeds(frame["query"]).alias("feed"))
    known = asked.select("path_text").unique()
    if naming.own or known["path_text"].str.contains(r"[^\x00-\x7f]|\n").any():  # `$` of Python matches before a break
        keys = asked.unique()
        named = [naming.event_named(path, method, status, feed) for method, path, status, feed in keys.iter_rows()]
        told = keys.with_columns(event=pl.Series(named, dtype=pl.String))
        return asked.join(told, on=asked.columns, how="left", maintain_order="left")["event"]
    told = known.with_columns(named=_by_path())
    return asked.join(told, on="path_text", how="left", maintain_order="left").select(_built_in()).to_series()


def _feeds(queries: pl.Series) -> pl.Series:
    """Whether a query asks for a feed."""
    asks = _utf8(queries).str.contains(_feed_pattern())
    if not asks.null_count():
        return asks
    return pl.Series([_FEED_QUERY.search(query) is not None for query in queries], dtype=pl.Boolean)


def _feed_pattern() -> str:
    return "(?i)" + _FEED_QUERY.pattern.decode()


def _by_path() -> pl.Expr:
    path, named = pl.col("path_text"), pl.lit("pageview")
    for name, pattern in reversed(_BUILT_IN):
        named = pl.when(path.str.contains("(?i)" + pattern.pattern)).then(pl.lit(name)).otherwise(named)
    return named


def _built_in() -> pl.Expr:
    """The event by status, method, feed, and `named`, what the path says."""
    status, method = pl.col("status"), pl.col("method")
    return (
        pl.when(status >= 400).then(pl.lit("error"))
        .when(method.is_in(["POST", "PUT", "PATCH", "DELETE"])).then(pl.lit("submit"))
        .when(~method.is_in(["GET", "HEAD"]) | (status < 200)).then(pl.lit("other"))
        .when(pl.col("feed")).then(pl.lit("feed"))
        .otherwise(pl.col("named"))
    )  # fmt: skip


def _pairs(own: pl.Series) -> pl.DataFrame:
    """_row, keys, values, unsure of the rows whose own query says anything: decoded, empty ones left out, no name twice."""
    rows = pl.DataFrame({"own": own}).with_row_index("_row").filter(pl.col("own") != b"")
    rows = rows.with_columns(text=_utf8(rows["own"]))
    odd = ~pl.col("text").str.contains("^[!-$&-*,-~]*$").fill_null(False)
    parts = (
        rows.filter(~odd)
        .with_columns(pl.col("text").str.split("&").alias("part"))
        .explode("part")
        .select("_row", pl.col("part").str.splitn("=", 2).struct.rename_fields(["key", "value"]).alias("pair"))
        .unnest("pair")
        .filter(pl.col("key") != "", pl.col("value").fill_null("") != "")
    )
    plain = parts.group_by("_row", maintain_order=True).agg(
        pl.col("key").alias("keys"), pl.col("value").alias("values"),
        ((pl.col("key").str.len_chars().max() > MAX_NAME) | (pl.col("value").str.len_chars().max() > MAX_VALUE)
         | (pl.len() > _MANY)).alias("unsure"), (pl.col("key").n_unique() < pl.len()).alias("twice"),
    )  # fmt: skip
    again = plain.filter("twice").select("_row").join(rows, on="_row").select("_row", "own")
    slow = [
        (row, *_decoded(query)) for row, query in pl.concat([again, rows.filter(odd).select("_row", "own")]).iter_rows()
    ]
    texts = pl.List(pl.String)
    schema: dict[str, Any] = {"_row": pl.UInt32, "keys": texts, "values": texts, "unsure": pl.Boolean}
    return pl.concat([plain.filter(~pl.col("twice")).drop("twice"), pl.DataFrame(slow, schema=schema, orient="row")])


def _decoded(own: bytes) -> tuple[list[str], list[str], bool]:
    found = parameters(Hit("", 0, "import", "GET", b"/", own))
    return list(found), list(found.values()), not found or len(found) > _MANY
