"""The day's files: written beside their place, compared with what is there, renamed where they differ."""

from __future__ import annotations

import filecmp
import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

Write = Callable[[Path, Iterable[pa.Table], pa.Schema], int]
"""(file, chunks, schema) -> rows written. The same chunks give the same bytes."""


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary name to write to. Afterwards the file is in place, untouched where it had these bytes already.

    Where nothing was written, or it was removed again, nothing is in place: the shop sends no such file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield temporary
        if not temporary.exists():
            target.unlink(missing_ok=True)
            return
        if target.exists() and filecmp.cmp(temporary, target, shallow=False):
            return
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _gzipped(path: Path) -> Iterator[IO[bytes]]:
    # no name and no time in the header: the same rows are the same bytes; level 1, as speed matters more than disk here
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as out:
        yield out  # type: ignore[misc]


def write_csv(path: Path, chunks: Iterable[pa.Table], schema: pa.Schema) -> int:
    """CSV with a header, also where there is no row; gzip where the name says so."""
    with _gzipped(path) if ".gz" in path.suffixes else path.open("wb") as out:
        pacsv.write_csv(schema.empty_table(), out)
        rows = 0
        for chunk in chunks:
            buffer = pa.BufferOutputStream()
            pacsv.write_csv(chunk, buffer, pacsv.WriteOptions(include_header=False))
            out.write(buffer.getvalue())
            rows += chunk.num_rows
    return rows


def write_jsonl(path: Path, chunks: Iterable[pa.Table], schema: pa.Schema) -> int:
    """One JSON object a line, in UTF-8."""
    with _gzipped(path) if ".gz" in path.suffixes else path.open("wb") as out:
        rows = 0
        for chunk in chunks:
            lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in chunk.to_pylist()]
            out.write("".join(f"{line}\n" for line in lines).encode())
            rows += chunk.num_rows
    if not rows:
        path.unlink()  # no header tells a file without rows from a broken one: no file then
    return rows


def write_parquet(path: Path, chunks: Iterable[pa.Table], schema: pa.Schema) -> int:
    """One row group a chunk."""
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as out:
        for chunk in chunks:
            out.write_table(chunk)
            rows += chunk.num_rows
    return rows
