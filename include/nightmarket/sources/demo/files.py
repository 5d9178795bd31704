"""The day's files: written beside their place, compared with what is there, renamed where they differ."""

from __future__ import annotations

import filecmp
import gzip
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq


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


class Sink(ABC):
    """A file of one format, written chunk by chunk. The same chunks give the same bytes."""

    rows = 0

    @abstractmethod
    def write(self, chunk: pa.Table) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


def _opened(path: Path, target: str) -> IO[bytes]:
    if target.endswith(".gz"):
        # no name and no time in the header: the same rows are the same bytes; level 1, as speed matters more than disk here
        return _Gzip(path)  # type: ignore[return-value]
    return path.open("wb")


class _Gzip(gzip.GzipFile):
    def __init__(self, path: Path):
        self._below = path.open("wb")
        super().__init__(filename="", mode="wb", compresslevel=1, fileobj=self._below, mtime=0)

    def close(self) -> None:
        super().close()
        self._below.close()


class Csv(Sink):
    """With a header, also where there is no row."""

    def __init__(self, path: Path, target: str, schema: pa.Schema):
        self._out = _opened(path, target)
        pacsv.write_csv(schema.empty_table(), self._out)

    def write(self, chunk: pa.Table) -> None:
        buffer = pa.BufferOutputStream()
        pacsv.write_csv(chunk, buffer, pacsv.WriteOptions(include_header=False))
        self._out.write(buffer.getvalue())
        self.rows += chunk.num_rows

    def close(self) -> None:
        self._out.close()


class JsonLines(Sink):
    """One object a line, in UTF-8. No file where there is no row: without a header it could not be told from a broken one."""

    def __init__(self, path: Path, target: str, schema: pa.Schema):
        self._path, self._out = path, _opened(path, target)

    def write(self, chunk: pa.Table) -> None:
        lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in chunk.to_pylist()]
        self._out.write("".join(f"{line}\n" for line in lines).encode())
        self.rows += chunk.num_rows

    def close(self) -> None:
        self._out.close()
        if not self.rows:
            self._path.unlink()


class Parquet(Sink):
    """One row group a chunk."""

    def __init__(self, path: Path, target: str, schema: pa.Schema):
        self._out = pq.ParquetWriter(path, schema, compression="zstd")

    def write(self, chunk: pa.Table) -> None:
        if chunk.num_rows:
            self._out.write_table(chunk)
        self.rows += chunk.num_rows

    def close(self) -> None:
        self._out.close()
