"""One delivered file: is it whole, what columns has it, and its records with their positions.

CSV and JSON Lines are read record by record as text, nothing is guessed; Parquet keeps its types (nested values become
JSON text, as they do in JSON Lines). What is wrong with a whole file refuses the night and names file and remedy:

    empty (0 bytes, or nothing inside the gzip)             refused
    gzip that is cut off, damaged, or none at all           refused
    Parquet that cannot be read                             refused
    header undecodable, blank, or with a name twice         refused
    another delimiter than the shop's                       refused, saying which one it looks like
    header only                                             no rows, which is fine

What is wrong with one record costs that record only; it is kept in quarantine with a reason:

    more or fewer fields than the header, a stray quote     malformed_row
    a quote that never closes (within 1,000 lines)          malformed_row, for its own line
    JSON that cannot be read or is no object                malformed_row
    bytes that are not text in the stated encoding          bad_encoding
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nightmarket.command import Refused
from nightmarket.shop import FilesSource

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

NIGHT, FILE, ROW, BAD, DETAIL, LINE = "__night", "__file", "__row", "__bad", "__detail", "__line"
"""Columns beside those of the source: the night it belongs to (null where a row says it itself), file name and position,
and for a record that could not be split into columns the reason, the rule it broke, and the raw text."""
READING_COLUMNS = (NIGHT, FILE, ROW, BAD, DETAIL, LINE)

_BATCH_ROWS = 16_384
_QUOTED_LINES, _QUOTED_CHARS = 1_000, 1 << 20  # a quoted field longer than this is a quote that was never closed
_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar", "^": "a caret"}
_WIDE = ("utf-16", "utf-32")


class UnreadableFile(Exception):
    """A file that looked whole could not be read to its end; raised in a Spark task, told as a refusal."""


@dataclass(frozen=True)
class Inspected:
    """A file that is whole. `columns` are its source columns; `types` the Arrow types of a Parquet file's."""

    name: str
    """Path below the drop folder, as quarantine and manifest show it."""
    path: Path
    digest: str
    """SHA-256 of its bytes."""
    bytes: int
    columns: tuple[str, ...]
    types: dict[str, str] = field(default_factory=dict)
    """Spark DDL type by column; string for text formats."""
    mtime_ns: int = 0


# --- is it whole? ----------------------------------------------------------------------------------------------------------


def inspect(path: Path, name: str, source: FilesSource) -> Inspected:
    """Reads the file once: digest, integrity of the gzip, header. Raises Refused with the remedy."""
    state = path.stat()
    if state.st_size == 0:
        raise Refused(f"{name}: the file is empty (0 bytes); deliver it again, with a header if there is nothing to tell")
    if source.format == "parquet":
        columns, types = _parquet_columns(path, name)
        return Inspected(name, path, digest(path), state.st_size, columns, types, state.st_mtime_ns)
    with path.open("rb") as raw:
        hashing = _Hashing(raw)
        try:
            with _plain(hashing, name) as stream:
                columns = _csv_header(stream, name, source) if source.format == "csv" else _json_keys(stream, name, source)
                while stream.read(1 << 20):
                    pass
        except EOFError:
            raise Refused(f"{name}: the gzip is cut off; deliver the file again, whole") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise Refused(f"{name}: not a sound gzip file ({error}); deliver it again, or name it without .gz") from None
        while hashing.read(1 << 20):
            pass
        seen = hashing.hexdigest()
    return Inspected(name, path, seen, state.st_size, columns, dict.fromkeys(columns, "string"), state.st_mtime_ns)


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(raw)


def _digest(raw: BinaryIO) -> str:
    seen = hashlib.sha256()
    while chunk := raw.read(1 << 20):
        seen.update(chunk)
    return seen.hexdigest()


class _Hashing(io.RawIOBase):
    """Passes bytes on and digests them, so that one pass over a file serves digest, gzip check and header."""

    def __init__(self, raw: BinaryIO):
        self._raw = raw
        self._seen = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._raw.read(len(buffer))
        self._seen.update(chunk)
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def hexdigest(self) -> str:
        return self._seen.hexdigest()


@contextmanager
def _plain(raw: Any, name: str) -> Iterator[Any]:
    """The uncompressed bytes of a file; gzip is known by its name or its first two bytes."""
    stream = io.BufferedReader(raw, 1 << 18)
    if name.endswith(".gz") or stream.peek(2)[:2] == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=stream) as opened:  # type: ignore[call-overload]
            yield io.BufferedReader(opened, 1 << 18)
    else:
        yield stream


def _csv_header(stream: Any, name: str, source: FilesSource) -> tuple[str, ...]:
    first = next(_csv_records(_text_lines(stream, source.encoding), source.delimiter, None), None)
    if first is None:
        raise Refused(f"{name}: the file holds nothing, not even a header; deliver it again")
    if first.reason == "bad_encoding" or any("\0" in f for f in first.fields or [first.line]):
        raise Refused(f"{name}: the header is not {source.encoding} text; set the source's `encoding` "
                      f"(utf-8, utf-16, cp1252, latin-1, …) or deliver {source.encoding}")
    if first.fields is None:
        raise Refused(f"{name}: the header cannot be read ({first.detail}); mend its quotes")
    header = [f.strip() for f in first.fields]
    if any("\r" in h for h in header):
        raise Refused(f"{name}: lines end in a carriage return alone; deliver line feeds")
    if len(header) == 1:
        for other, called in _DELIMITERS.items():
            if other != source.delimiter and other in header[0]:
                raise Refused(f"{name}: one column only, but the header looks separated by {called} ({other!r}), not by "
                              f"{source.delimiter!r}; set the source's `delimiter` or deliver {source.delimiter!r}")
    columns = tuple(h or f"_c{i}" for i, h in enumerate(header))
    if not any(header):
        raise Refused(f"{name}: the header names no column; deliver it again with a header")
    _no_name_twice(columns, name)
    return columns


def _json_keys(stream: Any, name: str, source: FilesSource) -> tuple[str, ...]:
    keys: dict[str, None] = {}
    anything = False
    for record in _json_records(_text_lines(stream, source.encoding)):
        anything = True
        keys.update(dict.fromkeys(record.values or ()))
    if not anything:
        raise Refused(f"{name}: the file holds nothing; deliver it again, or set `on_missing: empty` and deliver no file")
    _no_name_twice(tuple(keys), name)
    return tuple(keys)


def _no_name_twice(columns: tuple[str, ...], name: str) -> None:
    folded = [c.casefold() for c in columns]
    twice = sorted({c for c in columns if folded.count(c.casefold()) > 1})
    if twice:
        raise Refused(f"{name}: column names appear more than once (case does not count): {', '.join(twice)}; rename them")
    taken = [c for c in columns if c in READING_COLUMNS]
    if taken:
        raise Refused(f"{name}: the names {', '.join(READING_COLUMNS)} are kept for reading; rename {', '.join(taken)}")


def _parquet_columns(path: Path, name: str) -> tuple[tuple[str, ...], dict[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.ParquetFile(path).schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise Refused(f"{name}: not a readable Parquet file ({str(error).splitlines()[0]}); deliver it again") from None
    columns = tuple(schema.names)
    _no_name_twice(columns, name)
    return columns, {f.name: _ddl(f.type) for f in schema}


# --- its records -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Record:
    """A record of text: `fields` (CSV) or `values` (JSON), or the reason why it could not be split and its raw line."""

    fields: list[str] | None = None
    values: dict[str, str | None] | None = None
    reason: str = ""
    detail: str = ""
    line: str = ""


class _Undecodable(str):
    """A line whose bytes are not text in the stated encoding; the bytes that are wrong are shown as \\x.."""


def _text_lines(stream: Any, encoding: str) -> Iterator[str]:
    """Lines without their line feed and without a byte order mark; what cannot be decoded comes as _Undecodable."""
    if encoding.lower().replace("_", "-").startswith(_WIDE):
        # a line feed is more than one byte here; undecodable ones become U+FFFD
        try:
            for line in io.TextIOWrapper(stream, encoding, errors="replace", newline="\n"):
                text = line.removesuffix("\n").removeprefix("\ufeff")
                yield _Undecodable(text) if "\ufffd" in text else text
        except UnicodeError:  # no byte order mark where the codec needs one
            yield _Undecodable("")
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


def _csv_records(lines: Iterator[str], delimiter: str, width: int | None) -> Iterator[_Record]:
    """Records of RFC 4180 text; blank lines are none. `width` is the number of columns (None: the header is being read)."""
    waiting: deque[str] = deque()

    def more() -> str | None:
        return waiting.popleft() if waiting else next(lines, None)

    while (line := more()) is not None:
        if isinstance(line, _Undecodable):
            yield _Record(reason="bad_encoding", detail="bytes are not text in the stated encoding", line=line)
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
            yield _Record(reason="malformed_row", detail=problem, line=text)
        elif width is not None and len(fields) != width:
            yield _Record(reason="malformed_row", detail=f"{len(fields)} fields, the header has {width}", line=text)
        elif width is not None and "\0" in text:
            yield _Record(reason="malformed_row", detail="a NUL character", line=text.replace("\0", "\\0"))
        else:
            yield _Record(fields=fields, line=text)


_OPEN = "a quote that never closes"


def _split_quoted(text: str, delimiter: str) -> tuple[list[str] | None, str]:
    try:
        rows = list(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error as error:
        return None, _OPEN if "unexpected end of data" in str(error) else "a quote inside a field"
    return (rows[0], "") if len(rows) == 1 else (None, "a quote inside a field")


def _json_records(lines: Iterator[str]) -> Iterator[_Record]:
    """Objects of JSON Lines, scalars as the text they were written in, nested values as JSON; blank lines are none."""
    for line in lines:
        if isinstance(line, _Undecodable):
            yield _Record(reason="bad_encoding", detail="bytes are not text in the stated encoding", line=line)
            continue
        if not line.strip():
            continue
        try:
            found = json.loads(line, parse_float=str, parse_int=str, parse_constant=str)
            values = {k: _json_text(v) for k, v in found.items()} if isinstance(found, dict) else None
            if values is not None and "\\u" in line:
                "".join([*values, *(v for v in values.values() if v)]).encode()
        except UnicodeEncodeError:
            yield _Record(reason="bad_encoding", detail="an escaped half of a character", line=line)
        except (ValueError, RecursionError):
            yield _Record(reason="malformed_row", detail="not JSON", line=line)
        else:
            if values is None:
                yield _Record(reason="malformed_row", detail="not a JSON object", line=line)
            else:
                yield _Record(values=values, line=line)


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


# --- as a Spark frame ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """What one Spark task reads of a file; `groups` are row groups of a Parquet file and `offset` the row it starts at."""

    file: Inspected
    night: date | None
    groups: tuple[int, ...] = ()
    offset: int = 0


def reading_types(files: Iterable[Inspected]) -> dict[str, str]:
    """Spark DDL type of each source column over all files, in order of appearance: string where files disagree."""
    types: dict[str, str] = {}
    named: dict[str, str] = {}  # files may differ in the case of a name; Spark does not
    for file in files:
        for column in file.columns:
            known = named.setdefault(column.casefold(), column)
            new = file.types[column]
            old = types.setdefault(known, new)
            if old != new:
                types[known] = "double" if {old, new} == {"long", "double"} else "string"
    return types


def read(spark: SparkSession, files: Iterable[tuple[Inspected, date | None]], source: FilesSource) -> DataFrame:
    """All records of the files, with the nights they belong to: source columns, then READING_COLUMNS."""
    chosen = list(files)
    types = reading_types(f for f, _ in chosen)
    parts = [p for f, night in chosen for p in _parts(f, night, source)]
    tasks = _balanced(parts, 4 * int(spark.conf.get("spark.sql.shuffle.partitions") or 8))
    schema = ", ".join([f"`{c.replace('`', '``')}` {t}" for c, t in types.items()]
                       + [f"`{NIGHT}` date", f"`{FILE}` string", f"`{ROW}` long",
                          f"`{BAD}` string", f"`{DETAIL}` string", f"`{LINE}` string"])
    return spark.range(0, len(tasks), 1, len(tasks)).mapInArrow(_task(tasks, types, source), schema)


def _parts(file: Inspected, night: date | None, source: FilesSource) -> Iterator[Part]:
    if source.format != "parquet":
        yield Part(file, night)
        return
    import pyarrow.parquet as pq

    metadata = pq.ParquetFile(file.path).metadata
    offset = 0
    for group in range(metadata.num_row_groups):
        yield Part(file, night, (group,), offset)
        offset += metadata.row_group(group).num_rows


def _balanced(parts: list[Part], most: int) -> list[list[Part]]:
    """Parts over at most `most` tasks, largest first to the emptiest, so that one big file does not wait behind small ones."""
    tasks: list[list[Part]] = [[] for _ in range(max(1, min(most, len(parts))))]
    load = [0] * len(tasks)
    for part in sorted(parts, key=lambda p: (-p.file.bytes, p.file.name, p.groups)):
        emptiest = load.index(min(load))
        tasks[emptiest].append(part)
        load[emptiest] += part.file.bytes + 65_536
    return tasks


def _task(
    tasks: list[list[Part]], types: dict[str, str], source: FilesSource
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch.column(0).to_pylist():
                for part in tasks[task]:
                    yield from (_parquet_batches if source.format == "parquet" else _text_batches)(part, types, source)

    return run


def _text_batches(part: Part, types: dict[str, str], source: FilesSource) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    file = part.file
    width = len(file.columns)
    own = {c.casefold(): i for i, c in enumerate(file.columns)}
    rows: list[Any] = []
    bad: list[tuple[int, str, str, str]] = []  # place in the batch, reason, detail, line
    start = 0

    def flush() -> pa.RecordBatch:
        if source.format == "csv":
            columns = list(zip(*rows, strict=True)) if rows else [()] * width
            data = [pa.array(columns[own[c.casefold()]], pa.string()) if c.casefold() in own else pa.nulls(len(rows), pa.string())
                    for c in types]
        else:
            names = {c: file.columns[own[c.casefold()]] for c in types if c.casefold() in own}
            data = [pa.array([r.get(names[c]) for r in rows], pa.string()) if c in names else pa.nulls(len(rows), pa.string())
                    for c in types]
        marks: list[list[str | None]] = [[None] * len(rows) for _ in range(3)]
        for place, *told in bad:
            for mark, value in zip(marks, told, strict=True):
                mark[place] = value
        return _batch(data, types, part.night, file.name, start, len(rows), [pa.array(m, pa.string()) for m in marks])

    with path_stream(file) as stream:
        lines = _text_lines(stream, source.encoding)
        if source.format == "csv":
            header, records = True, _csv_records(lines, source.delimiter, width)
        else:
            header, records = False, _json_records(lines)
        nothing: Any = (None,) * width if source.format == "csv" else {}
        for record in records:
            if header:
                header = False
                continue
            if record.reason:
                bad.append((len(rows), record.reason, record.detail, record.line))
                rows.append(nothing)
            else:
                rows.append(record.fields if source.format == "csv" else record.values)
            if len(rows) == _BATCH_ROWS:
                yield flush()
                start += len(rows)
                rows, bad = [], []
    if rows:
        yield flush()


@contextmanager
def path_stream(file: Inspected) -> Iterator[Any]:
    """The uncompressed bytes of a file that was inspected."""
    with file.path.open("rb", buffering=0) as raw, _plain(raw, file.name) as stream:
        yield stream


def _parquet_batches(part: Part, types: dict[str, str], source: FilesSource) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = part.file
    own = {c.casefold(): c for c in file.columns}
    start = part.offset
    try:
        for batch in pq.ParquetFile(file.path).iter_batches(_BATCH_ROWS, row_groups=list(part.groups)):
            data = []
            for name, ddl in types.items():
                if name.casefold() in own:
                    data.append(_as(batch.column(batch.schema.get_field_index(own[name.casefold()])), ddl))
                else:
                    data.append(pa.nulls(batch.num_rows, _arrow(ddl)))
            none = pa.nulls(batch.num_rows, pa.string())
            yield _batch(data, types, part.night, file.name, start, batch.num_rows, [none, none, none])
            start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise UnreadableFile(f"{file.name}: not a readable Parquet file ({str(error).splitlines()[0]}); deliver it again") from None


def _batch(
    data: list[pa.Array], types: dict[str, str], night: date | None, name: str, start: int, rows: int, marks: list[pa.Array]
) -> pa.RecordBatch:
    import numpy as np
    import pyarrow as pa

    nights = pa.nulls(rows, pa.date32()) if night is None else pa.repeat(pa.scalar(night, pa.date32()), rows)
    beside = [nights, pa.repeat(pa.scalar(name, pa.string()), rows), pa.array(np.arange(start, start + rows, dtype=np.int64)), *marks]
    return pa.RecordBatch.from_arrays([*data, *beside], names=[*types, *READING_COLUMNS])


def _ddl(kind: pa.DataType) -> str:
    """Spark's name for an Arrow type as `_as` delivers it."""
    import pyarrow as pa

    t = pa.types
    if t.is_dictionary(kind):
        return _ddl(kind.value_type)
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
    if t.is_decimal(kind) and kind.precision <= 38:
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
    return values.cast(wanted)


def _bytes_text(value: bytes) -> str:
    """Older writers store text as plain bytes; what is no text is shown in hex."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()
