"""Delivered files: is each one whole, what columns has it, and all of them as one Spark frame.

What is wrong with a whole file refuses the night and names file and remedy (what is wrong with one record: see `records`):

    empty (0 bytes, or nothing inside the gzip)             refused
    gzip that is cut off, damaged, or none at all           refused
    Parquet that cannot be read                             refused
    header undecodable, blank, or with a name twice         refused
    another delimiter than the shop's                       refused, saying which one it looks like
    header only                                             no rows, which is fine
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nightmarket.command import Refused
from nightmarket.shop import FilesSource
from nightmarket.sources.records import (
    READING_COLUMNS,
    READING_DDL,
    Layout,
    Part,
    reading,
    records,
    spark_ddl,
    uncompressed,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar", "^": "a caret"}
_MOST_TASKS = 32
"""Of one reading: enough to keep a dozen cores busy, few enough that small files share a task."""


@dataclass(frozen=True)
class Inspected:
    """A file that is whole. `columns` are its source columns; `types` their Spark DDL types (text formats: string)."""

    name: str
    """Path below the drop folder, as quarantine and manifest show it."""
    path: Path
    digest: str
    """SHA-256 of its bytes."""
    bytes: int
    columns: tuple[str, ...]
    types: dict[str, str] = field(default_factory=dict)
    mtime_ns: int = 0


def layout_of(source: FilesSource) -> Layout:
    return Layout(source.format, source.delimiter, source.encoding)


def inspect(path: Path, name: str, layout: Layout) -> Inspected:
    """Reads the file once: digest, integrity of the gzip, header. Raises Refused with the remedy."""
    state = path.stat()
    if state.st_size == 0:
        raise Refused(f"{name}: the file is empty (0 bytes); deliver it again, with a header if there is nothing to tell")
    if layout.format == "parquet":
        types = _parquet_types(path, name)
        return Inspected(name, path, digest(path), state.st_size, tuple(types), types, state.st_mtime_ns)
    with path.open("rb") as raw:
        hashing = _Hashing(raw)
        try:
            with uncompressed(hashing, name) as stream:
                columns = _csv_header(stream, name, layout) if layout.format == "csv" else _json_keys(stream, name, layout)
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
    seen = hashlib.sha256()
    with path.open("rb") as raw:
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


def _csv_header(stream: Any, name: str, layout: Layout) -> tuple[str, ...]:
    first = next(records(stream, layout), None)
    if first is None:
        raise Refused(f"{name}: the file holds nothing, not even a header; deliver it again")
    if first.reason == "bad_encoding" or "\0" in first.line:
        raise Refused(f"{name}: the header is not {layout.encoding} text; set the source's `encoding` "
                      f"(utf-8, utf-16, cp1252, latin-1, …) or deliver {layout.encoding}")
    if first.fields is None:
        raise Refused(f"{name}: the header cannot be read ({first.detail}); mend its quotes")
    header = [f.strip() for f in first.fields]
    if any("\r" in h for h in header):
        raise Refused(f"{name}: lines end in a carriage return alone; deliver line feeds")
    if len(header) == 1:
        for other, called in _DELIMITERS.items():
            if other != layout.delimiter and other in header[0]:
                raise Refused(f"{name}: one column only, but the header looks separated by {called} ({other!r}), not by "
                              f"{layout.delimiter!r}; set the source's `delimiter` or deliver {layout.delimiter!r}")
    if not any(header):
        raise Refused(f"{name}: the header names no column; deliver it again with a header")
    columns = tuple(h or f"_c{i}" for i, h in enumerate(header))
    _no_name_twice(columns, name)
    return columns


def _json_keys(stream: Any, name: str, layout: Layout) -> tuple[str, ...]:
    keys: dict[str, None] = {}
    anything = False
    for record in records(stream, layout):
        anything = True
        keys.update(dict.fromkeys(record.values or ()))
    if not anything:
        raise Refused(f"{name}: the file holds nothing; deliver it again, or set `on_missing: empty` and deliver no file")
    _no_name_twice(tuple(keys), name)
    return tuple(keys)


def _parquet_types(path: Path, name: str) -> dict[str, str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.ParquetFile(path).schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise Refused(f"{name}: not a readable Parquet file ({str(error).splitlines()[0]}); deliver it again") from None
    _no_name_twice(tuple(schema.names), name)
    return {f.name: spark_ddl(f.type) for f in schema}


def _no_name_twice(columns: tuple[str, ...], name: str) -> None:
    folded = [c.casefold() for c in columns]
    twice = sorted({c for c in columns if folded.count(c.casefold()) > 1})
    if twice:
        raise Refused(f"{name}: column names appear more than once (case does not count): {', '.join(twice)}; rename them")
    taken = [c for c in columns if c in READING_COLUMNS]
    if taken:
        raise Refused(f"{name}: the names {', '.join(READING_COLUMNS)} are kept for reading; rename {', '.join(taken)}")


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


def read(spark: SparkSession, files: Iterable[tuple[Inspected, date | None]], layout: Layout) -> DataFrame:
    """All records of the files, with the nights they belong to: source columns, then READING_COLUMNS."""
    chosen = list(files)
    types = reading_types(f for f, _ in chosen)
    tasks = _balanced([p for f, night in chosen for p in _parts(f, night, layout)])
    schema = ", ".join([*(f"`{c.replace('`', '``')}` {t}" for c, t in types.items()), READING_DDL])
    numbers = spark.range(0, len(tasks), 1, len(tasks))
    return numbers.mapInArrow(reading([[p for p, _ in task] for task in tasks], types, layout), schema)


def _parts(file: Inspected, night: date | None, layout: Layout) -> Iterator[tuple[Part, int]]:
    """What can be read apart, each with its size in bytes."""
    if layout.format != "parquet":
        yield Part(file.path, file.name, file.columns, night), file.bytes
        return
    import pyarrow.parquet as pq

    metadata = pq.ParquetFile(file.path).metadata
    offset = 0
    for group in range(metadata.num_row_groups):
        chunk = metadata.row_group(group)
        yield Part(file.path, file.name, file.columns, night, (group,), offset), chunk.total_byte_size
        offset += chunk.num_rows


def _balanced(parts: list[tuple[Part, int]]) -> list[list[tuple[Part, int]]]:
    """Largest first to the emptiest task, so that one big file does not wait behind small ones."""
    tasks: list[list[tuple[Part, int]]] = [[] for _ in range(max(1, min(_MOST_TASKS, len(parts))))]
    load = [0] * len(tasks)
    for part, size in sorted(parts, key=lambda p: (-p[1], p[0].name, p[0].groups)):
        emptiest = load.index(min(load))
        tasks[emptiest].append((part, size))
        load[emptiest] += size + 65_536
    return tasks
