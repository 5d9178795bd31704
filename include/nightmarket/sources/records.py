"""Records of a delivered file with their positions, as Arrow batches.

CSV and JSON Lines are read record by record as text, nothing is guessed; Parquet keeps its types (nested values become
JSON text, as they do in JSON Lines). What is wrong with one record costs that record only; it is kept in quarantine:

    more or fewer fields than the header, a stray quote     malformed_row
    a quote that never closes (within 1,000 lines)          malformed_row, for its own line
    JSON that cannot be read or is no object                malformed_row
    bytes that are not text in the stated encoding          bad_encoding

Spark's Python workers import this module: it stays light.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

NIGHT, FILE, ROW, BAD, DETAIL, LINE = "__night", "__file", "__row", "__bad", "__detail", "__line"
"""Columns beside those of the source: the night it belongs to (null where a row says it itself), file name and position,
and for a record that could not be split into columns the reason, the rule it broke, and the raw text."""
READING_COLUMNS = (NIGHT, FILE, ROW, BAD, DETAIL, LINE)
READING_DDL = f"`{NIGHT}` date, `{FILE}` string, `{ROW}` long, `{BAD}` string, `{DETAIL}` string, `{LINE}` string"

_BATCH_ROWS = 16_384
_QUOTED_LINES, _QUOTED_CHARS = 1_000, 1 << 20  # a quoted field longer than this is a quote that was never closed
_WIDE, _WIDE_UNITS = ("utf-16", "utf-32"), ("16", "32")
_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # that of UTF-32-LE begins with that of UTF-16-LE
_OPEN = "a quote that never closes"


class UnreadableFile(Exception):
    """A file that looked whole could not be read to its end; raised in a Spark task, told as a refusal."""


@dataclass(frozen=True)
class Layout:
    """How the text of a source is written."""

    format: str
    delimiter: str = ","
    encoding: str = "utf-8"


@dataclass(frozen=True)
class Part:
    """What one task reads of a file: all of it, or row groups of a Parquet file that start at row `offset`."""

    path: Path
    name: str
    columns: tuple[str, ...]
    night: date | None
    groups: tuple[int, ...] = ()
    offset: int = 0


@dataclass(frozen=True)
class Record:
    """A record of text: `fields` (CSV) or `values` (JSON), or the reason why it could not be split and its raw line."""

    fields: list[str] | None = None
    values: dict[str, str | None] | None = None
    reason: str = ""
    detail: str = ""
    line: str = ""


class _Undecodable(str):
    """A line whose bytes are not text in the stated encoding; the bytes that are wrong are shown as \\x.."""


@contextmanager
def uncompressed(raw: Any, name: str) -> Iterator[Any]:
    """The plain bytes of a file; gzip is known by its name or its first two bytes."""
    stream = io.BufferedReader(raw, 1 << 18)
    if name.endswith(".gz") or stream.peek(2)[:2] == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=stream) as opened:  # type: ignore[call-overload]
            yield io.BufferedReader(opened, 1 << 18)
    else:
        yield stream


def records(stream: Any, layout: Layout, width: int | None = None) -> Iterator[Record]:
    """Records of a text file, a CSV header among them. `width`: its number of columns (None: not known yet)."""
    lines = _text_lines(stream, layout.encoding)
    return _csv_records(lines, layout.delimiter, width) if layout.format == "csv" else _json_records(lines)


def _text_lines(stream: Any, encoding: str) -> Iterator[str]:
    """Lines without their line feed and without a byte order mark; what cannot be decoded comes as _Undecodable."""
    if encoding.lower().replace("_", "-").startswith(_WIDE):
        yield from _wide_lines(stream, encoding)
        return
    first = True
    for raw in stream:
        raw = raw.removesuffix(b"\n")
        if first:
            raw, first = raw.removeprefix(b"\xef\xbb\xbf"), False
        try:
            yield raw.decode(encoding)
        except UnicodeDecodeError:
            yield _Undecodable(raw.decode("ascii", errors="backslashreplace"))


def _wide_lines(stream: Any, encoding: str) -> Iterator[str]:
    """The same where a line feed is more than one byte; what cannot be decoded becomes U+FFFD, and its line _Undecodable."""
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    mark = stream.peek(4)[:4]
    if encoding[-2:] in _WIDE_UNITS and not mark.startswith(_MARKS):
        yield _Undecodable("")  # which of its bytes comes first cannot be known
        return
    rest, end = "", False
    while not end:
        chunk = stream.read(1 << 18)
        end = not chunk
        *lines, rest = (rest + decoder.decode(chunk, end)).split("\n")
        for line in [*lines, rest] if end and rest else lines:
            text = line.removeprefix("\ufeff")
            yield _Undecodable(text) if "\ufffd" in text else text


def _csv_records(lines: Iterator[str], delimiter: str, width: int | None) -> Iterator[Record]:
    """Records of RFC 4180 text; blank lines are none."""
    waiting: deque[str] = deque()

    def more() -> str | None:
        return waiting.popleft() if waiting else next(lines, None)

    while (line := more()) is not None:
        if isinstance(line, _Undecodable):
            yield Record(reason="bad_encoding", detail="bytes are not text in the stated encoding", line=line)
            continue
        text = line.removesuffix("\r")
        if not text.strip():
            continue
        if '"' not in text:
            fields: list[str] | None = text.split(delimiter)
            problem = ""
        else:
            fields, problem = _split_quoted(text, delimiter)
            taken: list[str] = []
            whole = line
            while problem == _OPEN and len(taken) < _QUOTED_LINES and len(whole) < _QUOTED_CHARS:
                following = more()
                if following is None:
                    break
                taken.append(following)
                if isinstance(following, _Undecodable):
                    break
                whole += "\n" + following
                if '"' in following:
                    fields, problem = _split_quoted(whole.removesuffix("\r"), delimiter)
            if problem:
                waiting.extendleft(reversed(taken))  # they are records of their own
            else:
                text = whole
        if problem or fields is None:
            yield Record(reason="malformed_row", detail=problem, line=text)
        elif width is not None and len(fields) != width:
            yield Record(reason="malformed_row", detail=f"{len(fields)} fields, the header has {width}", line=text)
        elif width is not None and "\0" in text:
            yield Record(reason="malformed_row", detail="a NUL character", line=text)
        else:
            yield Record(fields=fields, line=text)


def _split_quoted(text: str, delimiter: str) -> tuple[list[str] | None, str]:
    try:
        rows = list(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error as error:
        return None, _OPEN if "unexpected end of data" in str(error) else "a quote inside a field"
    return (rows[0], "") if len(rows) == 1 else (None, "a quote inside a field")


def _json_records(lines: Iterator[str]) -> Iterator[Record]:
    """Objects of JSON Lines, scalars as the text they were written in, nested values as JSON; blank lines are none."""
    for line in lines:
        if isinstance(line, _Undecodable):
            yield Record(reason="bad_encoding", detail="bytes are not text in the stated encoding", line=line)
            continue
        if not line.strip():
            continue
        try:
            found = json.loads(line, parse_float=str, parse_int=str, parse_constant=str)
            values = {k: _json_text(v) for k, v in found.items()} if isinstance(found, dict) else None
            if values is not None and "\\u" in line:
                "".join([*values, *(v for v in values.values() if v)]).encode()
        except UnicodeEncodeError:
            yield Record(reason="bad_encoding", detail="an escaped half of a character", line=line)
        except (ValueError, RecursionError):
            yield Record(reason="malformed_row", detail="not JSON", line=line)
        else:
            if values is None:
                yield Record(reason="malformed_row", detail="not a JSON object", line=line)
            else:
                yield Record(values=values, line=line)


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


# --- as Arrow batches ------------------------------------------------------------------------------------------------------


def reading(
    tasks: list[list[Part]], types: dict[str, str], layout: Layout
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The Spark task that reads `tasks[n]` for each n it is handed: source columns of `types`, then READING_COLUMNS."""
    read = _parquet_batches if layout.format == "parquet" else _text_batches

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch.column(0).to_pylist():
                for part in tasks[task]:
                    yield from read(part, types, layout)

    return run


def _text_batches(part: Part, types: dict[str, str], layout: Layout) -> Iterator[pa.RecordBatch]:
    is_csv = layout.format == "csv"
    width = len(part.columns)
    # where each column of the frame is found in a record; None: not in this file
    own = {c.casefold(): i for i, c in enumerate(part.columns)}
    places: list[Any] = [own.get(c.casefold()) for c in types]
    if not is_csv:
        places = [None if p is None else part.columns[p] for p in places]
    nothing: Any = [None] * width if is_csv else {}
    rows: list[Any] = []
    bad: list[tuple[int, Record]] = []
    start = 0
    with part.path.open("rb", buffering=0) as raw, uncompressed(raw, part.name) as stream:
        found = records(stream, layout, width if is_csv else None)
        if is_csv:
            next(found, None)  # the header
        for record in found:
            if record.reason:
                bad.append((len(rows), record))
                rows.append(nothing)
            else:
                rows.append(record.fields if is_csv else record.values)
            if len(rows) == _BATCH_ROWS:
                yield _text_batch(part, types, places, rows, bad, start)
                start += len(rows)
                rows, bad = [], []
    if rows:
        yield _text_batch(part, types, places, rows, bad, start)


def _text_batch(
    part: Part, types: dict[str, str], places: list[Any], rows: list[Any], bad: list[tuple[int, Record]], start: int
) -> pa.RecordBatch:
    import pyarrow as pa

    text = pa.string()
    if isinstance(rows[0], dict):
        columns = [pa.nulls(len(rows), text) if p is None else pa.array([r.get(p) for r in rows], text) for p in places]
    else:
        split = list(zip(*rows, strict=True))
        columns = [pa.nulls(len(rows), text) if p is None else pa.array(split[p], text) for p in places]
    marks: list[list[str | None]] = [[None] * len(rows) for _ in range(3)]
    for place, record in bad:
        for mark, value in zip(marks, (record.reason, record.detail, record.line), strict=True):
            mark[place] = value
    return _batch(columns, types, part, start, [pa.array(m, text) for m in marks])


def _parquet_batches(part: Part, types: dict[str, str], layout: Layout) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = {c.casefold(): c for c in part.columns}
    start = part.offset
    try:
        for batch in pq.ParquetFile(part.path).iter_batches(_BATCH_ROWS, row_groups=list(part.groups)):
            data = []
            for name, ddl in types.items():
                if name.casefold() in own:
                    data.append(_as(batch.column(batch.schema.get_field_index(own[name.casefold()])), ddl))
                else:
                    data.append(pa.nulls(batch.num_rows, _arrow(ddl)))
            none = pa.nulls(batch.num_rows, pa.string())
            yield _batch(data, types, part, start, [none, none, none])
            start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise UnreadableFile(f"{part.name}: not a readable Parquet file ({str(error).splitlines()[0]}); deliver it again") from None


def _batch(data: list[pa.Array], types: dict[str, str], part: Part, start: int, marks: list[pa.Array]) -> pa.RecordBatch:
    import pyarrow as pa

    rows = len(marks[0])
    nights = pa.nulls(rows, pa.date32()) if part.night is None else pa.repeat(pa.scalar(part.night, pa.date32()), rows)
    places = pa.array(range(start, start + rows), pa.int64())
    beside = [nights, pa.repeat(pa.scalar(part.name, pa.string()), rows), places, *marks]
    return pa.RecordBatch.from_arrays([*data, *beside], names=[*types, *READING_COLUMNS])


# --- Parquet types ---------------------------------------------------------------------------------------------------------


def spark_ddl(kind: pa.DataType) -> str:
    """Spark's name for the type as which a Parquet column is delivered."""
    import pyarrow as pa

    t = pa.types
    if t.is_dictionary(kind):
        return spark_ddl(kind.value_type)
    if t.is_boolean(kind):
        return "boolean"
    if t.is_integer(kind) and not t.is_uint64(kind):
        return "long"
    if t.is_floating(kind):
        return "double"
    if t.is_date(kind):
        return "date"
    if t.is_timestamp(kind):
        return "timestamp" if kind.tz else "timestamp_ntz"
    if t.is_decimal(kind) and kind.precision <= 38 and kind.scale >= 0:
        return f"decimal({kind.precision},{kind.scale})"
    return "string"


def _arrow(ddl: str) -> pa.DataType:
    import pyarrow as pa

    if ddl.startswith("decimal("):
        precision, scale = (int(n) for n in ddl[8:-1].split(","))
        return pa.decimal128(precision, scale)
    return {
        "boolean": pa.bool_(), "long": pa.int64(), "double": pa.float64(), "date": pa.date32(), "string": pa.string(),
        "timestamp": pa.timestamp("us", tz="UTC"), "timestamp_ntz": pa.timestamp("us"),
    }[ddl]


def _as(values: pa.Array, ddl: str) -> pa.Array:
    """A Parquet column as the type that the frame gives it: nanoseconds cut to microseconds, nested values as JSON."""
    import pyarrow as pa

    t = pa.types
    if t.is_dictionary(values.type):
        values = values.dictionary_decode()
    wanted = _arrow(ddl)
    if wanted != pa.string():
        return values.cast(wanted, safe=False)
    if t.is_nested(values.type):
        return pa.array([None if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in values.to_pylist()], wanted)
    if t.is_binary(values.type) or t.is_large_binary(values.type) or t.is_fixed_size_binary(values.type):
        return pa.array([None if v is None else _bytes_text(v) for v in values.to_pylist()], wanted)
    if t.is_null(values.type):
        return pa.nulls(len(values), wanted)
    if t.is_time(values.type) or t.is_duration(values.type):
        return pa.array([None if v is None else str(v) for v in values.to_pylist()], wanted)
    if t.is_floating(values.type):
        import pyarrow.compute as pc

        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)  # blank in a number, a word in a text
    return values.cast(wanted)


def _bytes_text(value: bytes) -> str:
    """Older writers store text as plain bytes; what is no text is shown in hex."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()
