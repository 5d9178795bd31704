"""Looks for strings in every byte of a folder, through Parquet, gzip and mail encodings."""

from __future__ import annotations

import email
import gzip
from collections.abc import Iterable, Iterator
from email import policy
from pathlib import Path


def find(folder: Path, needles: Iterable[str], skip: Iterable[str] = ()) -> dict[str, list[str]]:
    """Needle -> files of `folder` in which it occurs. Folders named in `skip` (relative) are left out."""
    wanted = [(n, n.encode()) for n in sorted(set(needles)) if n]
    left_out = [folder / s for s in skip]
    hits: dict[str, list[str]] = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        if any(out in file.parents for out in left_out):
            continue
        for content in _contents(file):
            for name, needle in wanted:
                if needle in content:
                    hits.setdefault(name, []).append(str(file.relative_to(folder)))
    return hits


def _contents(file: Path) -> Iterator[bytes]:
    yield file.read_bytes()
    if file.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.ParquetFile(file).read()
        for column in table.columns:
            flat = column.combine_chunks()
            while pa.types.is_list(flat.type):
                flat = flat.flatten()
            if pa.types.is_string(flat.type) or pa.types.is_large_string(flat.type):
                yield "\n".join(v for v in flat.to_pylist() if v is not None).encode()
    elif file.suffix == ".gz":
        yield gzip.decompress(file.read_bytes())
    elif file.suffix == ".eml":
        message = email.message_from_bytes(file.read_bytes(), policy=policy.default)
        for part in message.walk():
            if not part.is_multipart():
                yield part.get_payload(decode=True) or b""
