"""Tables and queries of a database, through SQLAlchemy in chunks or Spark's JDBC reader.

Values arrive as text, as those of a CSV file do: numbers in full, times in ISO 8601 (with their offset where the column has a
time zone), nested values as JSON. So the same mapping reads a table and its extract alike.

`slice_by` picks the rows of a night by their date in the shop's zone (a column without a time zone is the shop's clock); rows
without a date belong to the first night of the table. A column of text is read whole, because text cannot be compared
as time. `snapshot` takes the whole table. Rows are put in order (by `slice_by`, then by all columns as text), so that a row's
position, and the digest of a night, are the same whenever the same rows are read.

Rows are staged as Parquet in a folder that only its owner can read, under landing, and removed when the job ends.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from datetime import time as clock
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from zoneinfo import ZoneInfo

from nightmarket.command import Night, Refused
from nightmarket.contracts import Dataset
from nightmarket.shop import Settings, ShopError, SqlSource
from nightmarket.sources import casts
from nightmarket.sources.delivery import Delivery, snapshot_nights
from nightmarket.sources.files import Inspected

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from sqlalchemy import ColumnElement, Connection, Select

_CHUNK_ROWS = 10_000
_MILLISECONDS_FROM = 100_000_000_000  # an epoch number from here on counts milliseconds: as seconds it would be the year 5138


@dataclass(frozen=True)
class Scratch:
    """Where rows of a database wait for Spark; one folder a job, for its owner only."""

    folder: Path

    @classmethod
    @contextmanager
    def of(cls, settings: Settings) -> Iterator[Scratch]:
        base = settings.places.landing / ".sql"
        for left in base.glob("*") if base.is_dir() else ():
            if time.time() - left.stat().st_mtime > 86_400:  # of a job that was killed
                shutil.rmtree(left, ignore_errors=True)
        made = cls(base / uuid.uuid4().hex[:12])
        try:
            yield made
        finally:
            shutil.rmtree(made.folder, ignore_errors=True)

    def file(self, reader: str, night: date) -> Path:
        for folder in (self.folder.parent, self.folder, self.folder / reader):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.folder / reader / f"{night}.parquet"


class _Table(Protocol):
    """What a night needs of a database."""

    columns: tuple[str, ...]

    def values(self, column: str) -> Iterable[Any]:
        """The smallest value of a column; all distinct ones where it is text."""

    def rows(self, column: str | None, low: Any, high: Any, undated: bool) -> Iterator[Sequence[Any]]:
        """Rows in their order: all, or those with low <= column < high (and null where `undated`). low None: all."""


def fetch(
    night: Night, name: str, source: SqlSource, contract: Dataset, scratch: Scratch
) -> tuple[Delivery, dict[date, list[Inspected]]]:
    """The rows of the nights, staged as one file each. Raises Refused where a night has none and the source says
    `on_missing: refuse`, ShopError where database, table or column cannot be found or the driver is missing."""
    with _connected(night.settings, name, source) as table:
        if source.snapshot:
            due = snapshot_nights(source, night.dates, night.lake, contract)
            everything = ((min(due), row) for row in table.rows(None, None, None, False)) if due else iter(())
            whole = _stage(everything, table.columns, scratch, contract.name, _title(name, source))
            found = {n: whole.get(min(due), []) if n in due else [] for n in night.dates}
            not_due = set(night.dates) - due
        else:
            found, not_due = _slices(night, name, source, contract, table, scratch), set()
    missing = {n for n in night.dates if not found[n] and n not in not_due}
    if missing and source.on_missing == "refuse":
        raise Refused(f"{contract.name}: {_title(name, source)} has no rows for the night of {min(missing)}; wait for them, or say "
                      f"`on_missing: empty` where nights without rows are normal")
    return Delivery({n: [] for n in night.dates}, missing=missing, not_due=not_due), found


def _title(name: str, source: SqlSource) -> str:
    return name if source.table.lstrip().startswith("(") else source.table


# --- one night's rows ------------------------------------------------------------------------------------------------------


def _slices(
    night: Night, name: str, source: SqlSource, contract: Dataset, table: _Table, scratch: Scratch
) -> dict[date, list[Inspected]]:
    column, zone = source.slice_by or "", night.settings.zone
    if column not in table.columns:
        raise ShopError(night.settings.file, [f"sources.{name}.slice_by: {_title(name, source)} has no column {column!r}; "
                                              f"it has {', '.join(table.columns)}"])
    values = [v for v in table.values(column) if v is not None]
    dated = sorted(d for v in values if (d := _day(v, zone)) is not None)
    if not dated:
        return {n: [] for n in night.dates}
    first = dated[0]
    bounds = _bounds(values[0], min(night.dates), max(night.dates), zone)
    place = table.columns.index(column)

    def by_night() -> Iterator[tuple[date, Sequence[Any]]]:
        for row in table.rows(column, *bounds, undated=first in night.dates):
            day = _day(row[place], zone) or first
            if night.from_date <= day <= night.run_date:
                yield day, row

    staged = _stage(by_night(), table.columns, scratch, contract.name, _title(name, source))
    return {n: staged.get(n, []) for n in night.dates}


def _day(value: Any, zone: ZoneInfo) -> date | None:
    instant = None if casts.is_blank(value) else casts.read_timestamp(value, zone)
    return instant.astimezone(zone).date() if instant else None


def _bounds(like: Any, first: date, last: date, zone: ZoneInfo) -> tuple[Any, Any]:
    """The nights as values that compare with a column whose values are like `like`; (None, None) for text."""
    after = last + timedelta(days=1)
    if isinstance(like, datetime):
        own = zone if like.tzinfo else None
        return datetime.combine(first, clock.min, own), datetime.combine(after, clock.min, own)
    if isinstance(like, date):
        return first, after
    if isinstance(like, (int, float, Decimal)) and not isinstance(like, bool):
        scale = 1000 if abs(Decimal(like)) >= _MILLISECONDS_FROM else 1
        low, high = (int(datetime.combine(d, clock.min, zone).timestamp()) * scale for d in (first, after))
        return low, high
    return None, None


def _stage(
    rows: Iterator[tuple[date, Sequence[Any]]], columns: Sequence[str], scratch: Scratch, reader: str, title: str
) -> dict[date, list[Inspected]]:
    """A file for each night that has rows, as if it had been delivered under the name `title`."""
    files: dict[date, _Staged] = {}
    try:
        for night, row in rows:
            if night not in files:
                files[night] = _Staged(scratch.file(reader, night), columns)
            files[night].add(row)
    finally:
        for file in files.values():
            file.close()
    return {n: [f.inspected(title)] for n, f in files.items()}


class _Staged:
    """The rows of one night as text in a Parquet file, digested on the way."""

    def __init__(self, path: Path, columns: Sequence[str]):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path, self._columns = path, tuple(columns)
        self._schema = pa.schema([(c, pa.string()) for c in columns])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: list[list[str | None]] = []
        self._seen = hashlib.sha256(json.dumps(self._columns).encode())

    def add(self, row: Sequence[Any]) -> None:
        texts = [as_text(v) for v in row]
        self._seen.update(json.dumps(texts).encode() + b"\n")
        self._waiting.append(texts)
        if len(self._waiting) >= _CHUNK_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            split = list(zip(*self._waiting, strict=True))
            self._writer.write_table(pa.table([pa.array(c, pa.string()) for c in split], schema=self._schema))
            self._waiting = []

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def inspected(self, title: str) -> Inspected:
        state = self._path.stat()
        types = dict.fromkeys(self._columns, "string")
        return Inspected(title, self._path, self._seen.hexdigest(), state.st_size, self._columns, types, state.st_mtime_ns)


def as_text(value: Any) -> str | None:
    """A database value as a CSV file would have it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw.hex()
    if isinstance(value, (list, dict, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str, sort_keys=True)
    return casts.read_string(value)


# --- databases -------------------------------------------------------------------------------------------------------------


@contextmanager
def _connected(settings: Settings, name: str, source: SqlSource) -> Iterator[_Table]:
    url = settings.secret(source.url).decode().strip()
    if source.engine == "spark":
        yield _SparkTable(settings, name, source, url)
        return
    import sqlalchemy as sa

    try:
        engine = sa.create_engine(url)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError):
        # the error may quote the URL, and with it a password
        raise ShopError(settings.file, [f"sources.{name}.url: the secret {source.url!r} is no SQLAlchemy URL whose driver is installed; "
                                        f"write one such as postgresql+psycopg://user:password@host/database"]) from None
    try:
        with engine.connect() as connection:
            yield _SqlTable(settings, name, source, connection)
    finally:
        engine.dispose()


class _SqlTable:
    """A table or query through SQLAlchemy; reads in chunks with a cursor of the server where the driver has one."""

    def __init__(self, settings: Settings, name: str, source: SqlSource, connection: Connection):
        import sqlalchemy as sa

        self._connection = connection.execution_options(stream_results=True, max_row_buffer=_CHUNK_ROWS)
        described = source.table.strip()
        if described.startswith("("):
            self._source: Any = sa.text(f"{described} AS delivered")
        else:
            schema, _, table = described.rpartition(".")
            self._source = sa.table(table, schema=schema or None)
        try:
            self.columns = tuple(connection.execute(sa.select(sa.text("*")).select_from(self._source).where(sa.false())).keys())
        except (sa.exc.ProgrammingError, sa.exc.OperationalError, sa.exc.NoSuchTableError) as error:
            if getattr(error, "connection_invalidated", False):
                raise
            why = str(error.orig if isinstance(error, sa.exc.DBAPIError) else error).splitlines()[0]
            raise ShopError(settings.file, [f"sources.{name}.table: cannot be read ({why}); correct the table or the query"]) from None

    def _select(self, *columns: Any) -> Select:
        import sqlalchemy as sa

        return sa.select(*columns).select_from(self._source)

    def values(self, column: str) -> Iterable[Any]:
        import sqlalchemy as sa

        asked: ColumnElement = sa.column(column)
        smallest = self._connection.execute(self._select(sa.func.min(asked))).scalar()
        if isinstance(smallest, str):
            return [v for (v,) in self._connection.execute(self._select(asked).distinct())]
        return [smallest]

    def rows(self, column: str | None, low: Any, high: Any, undated: bool) -> Iterator[Sequence[Any]]:
        import sqlalchemy as sa

        asked = self._select(*[sa.column(c) for c in self.columns])
        if column is not None and low is not None:
            value: ColumnElement = sa.column(column)
            within = sa.and_(value >= sa.bindparam("low", low), value < sa.bindparam("high", high))
            asked = asked.where(sa.or_(within, value.is_(None)) if undated else within)
        first: list[Any] = [sa.column(column)] if column else []
        asked = asked.order_by(*first, *[sa.cast(sa.column(c), sa.String) for c in self.columns if c != column])
        for chunk in self._connection.execute(asked).partitions(_CHUNK_ROWS):
            yield from chunk


class _SparkTable:
    """A table or query through Spark's JDBC reader, for databases whose driver jar is on Spark's class path."""

    def __init__(self, settings: Settings, name: str, source: SqlSource, url: str):
        from pyspark.errors import PySparkException

        from nightmarket.spark import session

        described = source.table.strip()
        spark = session(settings, "nightmarket-ingest")
        try:
            options = {"url": url, "dbtable": f"{described} delivered" if described.startswith("(") else described,
                       "fetchsize": str(_CHUNK_ROWS), "preferTimestampNTZ": "true"}
            self._frame: DataFrame = spark.read.format("jdbc").options(**options).load()
            self.columns = tuple(self._frame.columns)
        except Exception as error:
            text = str(error)
            if not url.startswith("jdbc:"):
                why = f"the secret {source.url!r} is no JDBC URL; write one such as jdbc:postgresql://host/database?user=…&password=…"
            elif "No suitable driver" in text or "ClassNotFoundException" in text:
                why = "Spark has no driver for it on its class path; add the jar to spark.jars, or use `engine: sqlalchemy`"
            elif isinstance(error, PySparkException) or type(error).__name__ == "Py4JJavaError":
                why = f"{source.table!r} cannot be read; correct the table, the query or the secret {source.url!r}"
            else:
                raise
            raise ShopError(settings.file, [f"sources.{name}: {why}"]) from None

    def values(self, column: str) -> Iterable[Any]:
        from pyspark.sql import functions as F

        asked = F.col(f"`{column}`")
        if self._kind(column) == "string":
            return [r[0] for r in self._frame.select(asked).distinct().collect()]
        row = self._frame.agg(F.min(asked).alias("oldest")).select(self._as_text(F.col("oldest"), column)).first()
        text = row[0] if row else None
        if text is None or not self._kind(column).startswith(("timestamp", "date")):
            return [None if text is None else Decimal(text)]
        read = casts.read_timestamp(text, timezone.utc)
        return [read.replace(tzinfo=None) if read and self._kind(column) != "timestamp" else read]

    def _kind(self, column: str) -> str:
        return self._frame.schema[column].dataType.typeName()

    def _as_text(self, value: Any, column: str) -> Any:
        """Text of a value; an instant keeps its offset, which it would lose on its way into Python."""
        from pyspark.sql import functions as F

        if self._kind(column) == "timestamp":
            return F.date_format(value, "yyyy-MM-dd HH:mm:ss.SSSSSS'+00:00'")
        return value.cast("string")

    def rows(self, column: str | None, low: Any, high: Any, undated: bool) -> Iterator[Sequence[Any]]:
        from pyspark.sql import functions as F

        frame = self._frame
        if column is not None and low is not None:
            value = F.col(f"`{column}`")
            kind = self._frame.schema[column].dataType
            within = (value >= F.lit(str(low)).cast(kind)) & (value < F.lit(str(high)).cast(kind))
            frame = frame.where(within | value.isNull() if undated else within)
        texts = [self._as_text(F.col(f"`{c}`"), c).alias(c) for c in self.columns]
        order = [f"`{column}`"] if column else []
        ordered = frame.select(*texts).orderBy(*order, *[f"`{c}`" for c in self.columns if c != column])
        yield from ordered.toLocalIterator()
