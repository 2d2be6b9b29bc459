"""A log: the tables of one folder, pinned when they are opened and cut at what is committed in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from lab.cuts import find_cuts
from lab.erased import ERASED, as_replayed
from lab.pictures import over_time
from lab.show import html_block, html_table, plural
from service.archive import tables
from service.archive.schemas import SCHEMAS

if TYPE_CHECKING:
    from lab.compare import Comparison
    from lab.funnel import Funnel
    from lab.imported import ImportReport
    from lab.replay import Run
    from lab.send import SendReport
    from lab.verify import Verification
    from service.engine import Rulebook

# effects before their causes, so that the cause of every effect that was pinned can be pinned too
_PIN_ORDER = ("attempts", "decisions", "hits", "postbacks", "rulebooks")
_AMOUNT = pl.Decimal(38, 9)  # 18 digits before and 9 after the point: every amount that the engine accepts


class LabError(Exception):
    """Something a person gave the lab cannot be used. One line that names the thing, the value and the remedy.

    >>> lab.open("no/such/folder")
    Traceback (most recent call last):
    lab.log.LabError: no/such/folder does not exist; give the folder that holds the tables, such as var/tables
    """

    status = 2  # exit status of a command that ends with it


def open(
    path: str | Path | Sequence[str | Path], as_of: str | date | datetime | None = None, format: str | None = None,
    map: str | Path | Mapping[str, Any] | None = None,
) -> Log:  # fmt: skip
    """Open the tables of a folder as a `Log`, or, with a format, a foreign log: an access log, CSV or Parquet.

    format, map: as `lab.importing.import_log` takes them, with path; `log.imported` is its report. The tables made of such
    a log are temporary; `backtrack import` keeps them. as_of: leave out the hits that came later by log time, and all that
    follows from them: a moment (UTC if it names no zone) or a day, which is included. What became of the earlier postbacks
    stays, however late.
    Raises LabError if there is no such folder, if it holds no tables, or a table of another version.

    >>> lab.open("datasets/tables", as_of="2026-03-02")
    Log datasets/tables: 1,748 hits of 3 clients in 4 partitions, 2026-03-02 00:05 to 2026-03-02 23:59 UTC
    """
    if format is not None:
        from lab.opened import open_foreign  # late: nobody else waits for it

        return open_foreign(path, format, map, as_of)
    if map is not None or not isinstance(path, str | Path):
        raise LabError('a foreign log needs its format too: lab.open("access.log", format="combined", map=...)')
    return open_tables(path, as_of)


def open_tables(path: str | Path, as_of: str | date | datetime | None = None) -> Log:
    """Open the tables of a folder; see `open`."""
    root, until = Path(path), _moment(as_of)
    if root.is_file():
        raise LabError(
            f"{root} is a file; the lab opens folders of tables: backtrack import FORMAT {root} --out DIR, "
            f'or lab.open("{root}", format="combined")'
        )
    if not root.is_dir():
        raise LabError(f"{root} does not exist; give the folder that holds the tables, such as var/tables")
    try:
        files = {name: tables.files(root, name) for name in _PIN_ORDER}
        erased = tables.erased(tables.open_table(root, "hits"))
    except tables.TableError as error:
        raise LabError(str(error)) from error
    if not any((root / name / "_delta_log").is_dir() for name in tables.TABLES):
        raise LabError(f"{root} holds no tables; expected folders such as {root / 'hits'}")
    return Log(root, files, until, erased)


class Log:
    """The tables of a folder as they were when it was opened; nothing that is written later shows up in it.

    Each partition ends at its cut: the last entry that is committed in all tables; `cuts` has partition, seq, time and
    `beyond`, the number of hits that follow it. A table that was never written, as in an imported log, cuts nothing.
    `erased` is the number of hits whose person was erased. `hits`, `decisions`, `postbacks`, `attempts` and `rulebooks` are
    lazy Polars frames in the columns of service/archive/schemas.py, in no particular order of rows.

    >>> log.hits.collect_schema().names()[:5]
    ['day', 'partition', 'epoch', 'seq', 'time']
    >>> log.cuts.columns
    ['partition', 'seq', 'time', 'beyond']
    >>> log.erased
    0
    """

    def __init__(self, root: Path, files: dict[str, list[str]], as_of: datetime | None = None, erased: int = 0) -> None:
        self.path = root
        self.as_of = as_of
        self.erased = erased
        self.imported: ImportReport | None = None  # of a foreign log that was opened directly
        self.kept: object = None  # its temporary folder, which goes with the last log that shows it
        self.batch_rows = 10_000  # how many rows are Python values at the same time
        self._files = files
        self.cuts = self._find_cuts()

    def files(self, name: str) -> list[str]:
        """The pinned Parquet files of a table, or those that their rows were merged into meanwhile.

        They are not cut: filter by `cuts`, or use the frames.

        >>> len(log.files("hits")) > 0
        True
        """
        if name not in self._files:
            raise LabError(f"there is no table {name!r}; the tables are {', '.join(tables.TABLES)}")
        if not all(Path(path).exists() for path in self._files[name]):
            # merged into others or blanked; the rows are there
            self._files[name] = tables.files(self.path, name)
            self.erased = tables.erased(tables.open_table(self.path, "hits"))
        return list(self._files[name])

    @property
    def hits(self) -> pl.LazyFrame:
        """All entries: hits, and rulebooks taking effect (`kind`).

        >>> log.hits.select("time", "kind", "route", "path", "query").collect().columns
        ['time', 'kind', 'route', 'path', 'query']
        """
        return self._scan("hits").filter(self._before_cut())

    @property
    def decisions(self) -> pl.LazyFrame:
        """What the engine said about each hit; of an erased one, what it says now: rejected, `erased`.

        >>> log.decisions.filter(verdict="rejected").select("reason", "detail").collect().columns
        ['reason', 'detail']
        """
        found = self._scan("decisions").filter(self._before_cut())
        return as_replayed(found) if self.erased else found

    @property
    def postbacks(self) -> pl.LazyFrame:
        """The promises of the decisions; those of erased hits are left out.

        >>> log.postbacks.filter(state="withheld").select(pl.col("recipient").unique()).collect().item()
        'affiliate:quiet'
        """
        found = self._scan("postbacks").filter(self._before_cut())
        return found.filter(pl.col("state") != ERASED) if self.erased else found

    @property
    def attempts(self) -> pl.LazyFrame:
        """Every try to deliver those postbacks, however late, and the tries that belong to no known promise.

        >>> log.attempts.select("number", "result", "status", "duration_us").collect().columns
        ['number', 'result', 'status', 'duration_us']
        """
        found = self._scan("attempts").join(self.beyond, on="postback_id", how="anti")
        return found.filter(pl.col("verb") != ERASED) if self.erased else found

    @property
    def beyond(self) -> pl.LazyFrame:
        """`postback_id` of the promises that are stored already but lie beyond the cut.

        >>> log.beyond.collect().height
        1162
        """
        return self._scan("postbacks").filter(~self._before_cut()).select("postback_id")

    @property
    def rulebooks(self) -> pl.LazyFrame:
        """Every text that was ever published.

        >>> log.rulebooks.select("time", "rulebook_id", "text", "source").collect().columns
        ['time', 'rulebook_id', 'text', 'source']
        """
        return self._scan("rulebooks")

    @property
    def events(self) -> pl.LazyFrame:
        """Accepted events that are no tests, for funnels.

        Columns: client, visitor, time, partition, seq, event, affiliate ("" if none), hit_id, txid (null if none),
        amount (decimal, null if none), currency (null if none), params (own and remembered, name to value).
        `(partition, seq)` is the true order; times may be equal.

        >>> log.events.filter(event="sale").select("client", "amount", "currency").collect().columns
        ['client', 'amount', 'currency']
        """
        field = pl.col("fields").map.get
        return self.decisions.filter(pl.col("verdict") == "accepted", ~pl.col("test")).select(
            "client", "visitor", "time", "partition", "seq", "event", "affiliate", "hit_id",
            field("txid").alias("txid"), field("amount").cast(_AMOUNT).alias("amount"),
            field("currency").alias("currency"), "params",
        )  # fmt: skip

    def gaps(self) -> pl.DataFrame:
        """Missing entries: partition, epoch, missing_from, missing_to (sequence numbers, both included).

        An empty frame proves that within each epoch no entry is missing between the first and the last one here.

        >>> log.gaps().is_empty()
        True
        """
        entries = self.hits.select("partition", "epoch", "seq").collect().sort("partition", "epoch", "seq")
        before = pl.col("seq").shift(1).over("partition", "epoch")
        return (
            entries.with_columns(missing_from=before + 1, missing_to=pl.col("seq") - 1)
            .filter(pl.col("missing_from") <= pl.col("missing_to"))
            .drop("seq")
        )

    def rows(self, name: str, partition: int, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Rows of hits, decisions or postbacks of one partition in log order, made one batch at a time.

        columns: only these; all if None.

        >>> next(log.rows("hits", 3, ["seq", "kind"]))
        {'seq': 1, 'kind': 'rulebook'}
        """
        frame: pl.LazyFrame = getattr(self, name)
        order = ["seq", "n"] if name == "postbacks" else ["seq"]
        wanted = list(SCHEMAS[name].names) if columns is None else list(columns)
        chosen = frame.filter(pl.col("partition") == partition).sort(order).select(wanted).collect()
        for batch in chosen.iter_slices(self.batch_rows):
            yield from batch.iter_rows(named=True)

    def summary(self) -> pl.DataFrame:
        """Per client ("" for hits that name no known one): hits, accepted, rejected, duplicate, engine_error,
        visitors, firings, first and last (log time). Tests are counted as hits, not as visitors or firings.

        >>> log.summary()["client"].to_list()
        ['', 'acme', 'bolt', 'cozy']
        >>> log.summary().columns[:5]
        ['client', 'hits', 'accepted', 'rejected', 'duplicate']
        """
        verdict, real = pl.col("verdict"), ~pl.col("test")
        return (
            self.decisions.group_by("client")
            .agg(
                pl.len().alias("hits"),
                *(
                    (verdict == name).sum().alias(name)
                    for name in ("accepted", "rejected", "duplicate", "engine_error")
                ),
                pl.col("visitor").filter(real, pl.col("visitor") != "").n_unique().alias("visitors"),
                pl.col("fired").list.len().filter(real).sum().alias("firings"),
                pl.col("time").min().alias("first"),
                pl.col("time").max().alias("last"),
            )
            .sort("client")
            .collect()
        )

    def refresh(self) -> Log:
        """The same folder as it is now.

        >>> log.refresh().path == log.path
        True
        """
        newer = open_tables(self.path, self.as_of)
        newer.imported, newer.kept = self.imported, self.kept
        return newer

    def replay(
        self,
        rules: str | Path | Rulebook | None = None,
        progress: Callable[[int, int], None] | None = None,
        engine: str = "reference",
        full: bool = True,
    ) -> Run:
        """Decide the log again: see `lab.replay.replay`, and for engine="set" and `full` `lab.sets.replay`.

        >>> log.replay().digest == log.digest()
        True
        """
        if engine == "set":
            from lab.sets import replay as replay_by_sets  # late: the command line should not wait for DuckDB

            return replay_by_sets(self, rules, full)
        if engine != "reference":
            raise LabError(f"there is no engine {engine!r}; the engines are reference and set")
        from lab.replay import replay

        return replay(self, rules, progress)

    def compare(
        self,
        before: str | Path | Rulebook | None,
        after: str | Path | Rulebook | None,
        engine: str = "reference",
        progress: Callable[[int, int], None] | None = None,
        noise: bool | None = None,
    ) -> Comparison:
        """What a second rulebook changes on the same hits: see `lab.compare.compare`.

        >>> log.compare("datasets/rules.toml", "datasets/rules-next.toml", noise=False).equal
        False
        """
        from lab.compare import compare

        return compare(self, before, after, engine, progress, noise)

    def verify(
        self, received: str | Path | None = None, rules: str | Path | Rulebook | None = None, **how: Any
    ) -> Verification:
        """What should have been sent against what was sent: see `lab.verify.verify`, also for format, recipient, columns,
        late_us and engine.

        >>> log.verify().ok
        True
        """
        from lab.verify import verify

        return verify(self, received, rules, **how)

    def send(self, to: str, **how: Any) -> SendReport:
        """Send the requests to a staging service, marked as tests: see `lab.send.send`, also for speed, gap_cap_s, limit,
        dry_run, run and production.

        >>> log.send(to="http://127.0.0.1:8700", limit=20, dry_run=True).dry
        True
        """
        from lab.send import send

        return send(self, to, **how)

    def digest(self) -> str:
        """The digest of the stored decisions with their postbacks: see `lab.digest`.

        >>> len(log.digest())
        64
        """
        from lab.digest import stored_digest

        return stored_digest(self)

    def funnel(self, *steps: str, **how: Any) -> Funnel:
        """How visitors move through the steps: see `lab.funnel.funnel`, also for within, by, mode and so on.

        >>> log.funnel("click", "registration", within="30d").steps
        ('click', 'registration')
        """
        from lab.funnel import funnel

        return funnel(self, *steps, **how)

    def __repr__(self) -> str:
        counts = self._counts()
        span = f", {counts['first']:%Y-%m-%d %H:%M} to {counts['last']:%Y-%m-%d %H:%M} UTC" if counts["hits"] else ""
        return (
            f"Log {self.path}: {plural(counts['hits'], 'hit')} of {plural(counts['clients'], 'client')} "
            f"in {plural(counts['partitions'], 'partition')}{span}{self._beyond_text()}"
        )

    def _repr_html_(self) -> str:
        decided = self.decisions.select("time", good=pl.col("verdict") == "accepted")
        picture = over_time("Hits over time; what was not accepted on top", decided)
        return html_block(repr(self), picture, html_table(self.summary()))

    def _beyond_text(self) -> str:
        beyond = int(self.cuts["beyond"].sum())
        return f", and {plural(beyond, 'newer hit')} not yet committed in all tables" if beyond else ""

    def _counts(self) -> dict[str, Any]:
        counts = self.hits.filter(pl.col("kind") == "hit").select(
            pl.len().alias("hits"), pl.col("partition").n_unique().alias("partitions"),
            pl.col("time").min().alias("first"), pl.col("time").max().alias("last"),
        )  # fmt: skip
        clients = self.decisions.filter(pl.col("client") != "").select(pl.col("client").n_unique())
        return counts.collect().row(0, named=True) | {"clients": clients.collect().item()}

    def _scan(self, name: str) -> pl.LazyFrame:
        schema = pl.Schema(pl.DataFrame(SCHEMAS[name].empty_table()).schema)
        files = self.files(name)
        if not files:
            return pl.LazyFrame(schema=schema)
        scanned = pl.scan_parquet(files, hive_partitioning=True, hive_schema={"day": pl.String}, glob=False)
        return scanned.select(list(schema))

    def _find_cuts(self) -> pl.DataFrame:
        entries = self._scan("hits").select("partition", "seq", "time", "kind")
        if self.as_of is not None:
            entries = entries.filter(pl.col("time") <= self.as_of)
        written = {name: self._scan(name) if self._files[name] else None for name in ("decisions", "postbacks")}
        return find_cuts(entries, written["decisions"], written["postbacks"])

    def _before_cut(self) -> pl.Expr:
        return pl.col("seq") <= self._cut_of("seq").fill_null(-1)

    def _cut_of(self, column: str) -> pl.Expr:
        """The cut of the row's partition, null if the partition has none."""
        return pl.col("partition").replace_strict(
            self.cuts["partition"], self.cuts[column], default=None, return_dtype=self.cuts.schema[column]
        )


def given_log(given: object) -> Log:
    """The log that was given. Raises LabError for anything else, such as the path of one."""
    if not isinstance(given, Log):
        raise LabError(f'{given!r} is no log; open one first: lab.open("var/tables")')
    return given


def _moment(as_of: str | date | datetime | None) -> datetime | None:
    """The last moment that counts. Raises LabError for a text that is no moment."""
    if as_of is None:
        return None
    try:
        value = as_of if isinstance(as_of, date) else date.fromisoformat(as_of) if len(as_of) == 10 else None
        moment = value if value is not None else datetime.fromisoformat(str(as_of))
    except (TypeError, ValueError):
        raise LabError(f"as_of {as_of!r} is no moment; write 2026-11-23 or 2026-11-23T09:47:17") from None
    if not isinstance(moment, datetime):
        return datetime.combine(moment + timedelta(days=1), time(), UTC) - timedelta(microseconds=1)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
