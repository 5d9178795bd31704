"""Readable and writable partitions: staged writes, one atomic publication, nothing visible before it.

A partition is `<lake>/<layer>/<name>/run_date=<date>/`: a folder of rows named by its content (`v-<digest>`), with the
rejected rows in `_quarantine` inside it, and `manifest.json`, which names that folder. Publication replaces the manifest
by one rename, so a reader sees the old partition or the new one. Debris of killed writers (`.staging-*`, versions that no
manifest names) is nothing that readers look at; the next writer of the dataset removes it. Locks die with their process.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nightmarket.contracts import QUARANTINE_COLUMNS, Dataset
from nightmarket.contracts.model import Dataset as _Dataset
from nightmarket.lake.manifest import Input, Manifest

if TYPE_CHECKING:
    import numpy
    import pyarrow
    from pyspark.sql import DataFrame, SparkSession

QUARANTINE = _Dataset("quarantine", "bronze", "Rejected rows.", QUARANTINE_COLUMNS, ())
_NULL_HASH = 0x9E3779B97F4A7C15
_KEPT_VERSIONS = 2  # the published one and the one before: a reader that opened the old manifest may still be reading
_LOCKED_NIGHTS = 31  # a range of more nights locks its dataset as a whole


class LakeError(Exception):
    """The lake cannot give or take a partition; the message names it and the remedy."""


class SchemaError(LakeError):
    """Rows do not fit the contract. The message lists every discrepancy."""


class Busy(LakeError):
    """Another process is writing the partition and did not finish in time."""


@dataclass(frozen=True)
class Lake:
    """All partitions under one folder."""

    root: Path

    def at(self, dataset: Dataset, run_date: date) -> Partition:
        """The readable partition of a night. Raises LakeError where it was never published."""
        manifest = self.manifest(dataset, run_date)
        if manifest is None:
            raise LakeError(
                f"{dataset.id} of {run_date} is not published; run `python -m jobs.{_MAKER.get(dataset.id, dataset.name)} "
                f"--run-date {run_date}` first"
            )
        return Partition(self, dataset, manifest)

    def window(self, dataset: Dataset, first: date, last: date) -> list[Partition]:
        """Published partitions from `first` to `last`, both included, oldest first. May be empty."""
        return [
            Partition(self, dataset, m) for d in self.dates(dataset) if first <= d <= last and (m := self.manifest(dataset, d))
        ]

    def dates(self, dataset: Dataset) -> list[date]:
        """Nights that have a published partition, oldest first."""
        folder = self._folder(dataset)
        if not folder.is_dir():
            return []
        return sorted(date.fromisoformat(p.parent.name[9:]) for p in folder.glob("run_date=*/manifest.json"))

    def manifest(self, dataset: Dataset, run_date: date) -> Manifest | None:
        path = self._folder(dataset, run_date) / "manifest.json"
        try:
            return Manifest.from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def manifest_path(self, dataset: Dataset, run_date: date) -> Path:
        return self._folder(dataset, run_date) / "manifest.json"

    @contextmanager
    def writer(self, dataset: Dataset, dates: Sequence[date], wait_seconds: float = 900) -> Iterator[Writer]:
        """A writer that holds the partitions of `dates` alone until it is closed. Raises Busy after `wait_seconds`.

        Locks are taken in date order, so two writers of overlapping ranges cannot wait for each other.
        """
        nights = tuple(sorted(set(dates)))
        with self._held(dataset, nights, wait_seconds), _staging(self._folder(dataset)) as staging:
            for day in nights:
                self._sweep(dataset, day)
            yield Writer(self, dataset, nights, staging)

    @contextmanager
    def _held(self, dataset: Dataset, nights: Sequence[date], wait_seconds: float) -> Iterator[None]:
        deadline = time.monotonic() + wait_seconds
        # A long range locks the dataset alone, a short one shares it and locks its nights: a first load of years holds one
        # file a dataset instead of one a night, of which libraries that wait with select() stand no more than 1,024.
        alone = len(nights) > _LOCKED_NIGHTS
        wanted = [(self.root / ".locks" / dataset.id, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, nights[0] if nights else None)]
        wanted += [] if alone else [(self._folder(dataset, day) / ".lock", fcntl.LOCK_EX, day) for day in nights]
        with ExitStack() as stack:
            for path, how, day in wanted:
                path.parent.mkdir(parents=True, exist_ok=True)
                # closing releases the lock, as the death of the process would
                handle = stack.enter_context(path.open("a"))
                while not _locked(handle, how):
                    if time.monotonic() > deadline:
                        raise Busy(f"{dataset.id} of {day} is being written by another process; "
                                   f"wait for it or stop it, then run again")
                    time.sleep(0.2)
            for day in nights:
                self._folder(dataset, day).mkdir(parents=True, exist_ok=True)
            yield

    def drop(self, dataset: Dataset, run_date: date, wait_seconds: float = 900) -> None:
        """Retention: the manifest goes first, so no reader finds half a partition. Raises Busy while it is being written."""
        folder = self._folder(dataset, run_date)
        if not folder.is_dir():
            return
        with self._held(dataset, [run_date], wait_seconds):
            (folder / "manifest.json").unlink(missing_ok=True)
            for version in folder.glob("v-*"):
                shutil.rmtree(version, ignore_errors=True)

    def _folder(self, dataset: Dataset, run_date: date | None = None) -> Path:
        base = self.root / dataset.layer / dataset.name
        return base if run_date is None else base / f"run_date={run_date.isoformat()}"

    def _sweep(self, dataset: Dataset, run_date: date) -> None:
        """Removes what killed writers left of this partition, whose lock is held: versions that no manifest names but for
        the one before, and manifests that were never put into place."""
        folder = self._folder(dataset, run_date)
        named = self.manifest(dataset, run_date)
        versions = sorted(folder.glob("v-*"), key=lambda p: p.stat().st_mtime, reverse=True)
        others = [v for v in versions if named is None or v.name != named.version]
        for stale in others if named is None else others[_KEPT_VERSIONS - 1 :]:
            shutil.rmtree(stale, ignore_errors=True)
        for unfinished in folder.glob(".manifest.json.*"):
            unfinished.unlink(missing_ok=True)


@dataclass(frozen=True)
class Partition:
    """One published night of a dataset."""

    lake: Lake
    dataset: Dataset
    manifest: Manifest

    @property
    def run_date(self) -> date:
        return date.fromisoformat(self.manifest.run_date)

    @property
    def folder(self) -> Path:
        return self.lake._folder(self.dataset, self.run_date) / self.manifest.version

    @property
    def files(self) -> list[Path]:
        """Parquet files of the rows, in a stable order. Raises LakeError where the version is gone."""
        if self.manifest.rows_out and not self.folder.is_dir():
            raise LakeError(f"{self.dataset.id} of {self.run_date}: {self.manifest.version} is not there any more; the night was "
                            f"published again more than once since its manifest was read. Run the step again")
        return sorted(self.folder.glob("*.parquet"))

    def arrow(self, columns: Sequence[str] | None = None) -> pyarrow.Table:
        """All rows as an Arrow table with the contract's schema."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = self.dataset.arrow_schema()
        wanted = list(columns) if columns else schema.names
        picked = pa.schema([schema.field(n) for n in wanted])
        tables = [pq.ParquetFile(f).read(columns=wanted).select(wanted).cast(picked) for f in self.files]
        table = pa.concat_tables(tables) if tables else picked.empty_table()
        if table.num_rows != self.manifest.rows_out:
            raise LakeError(f"{self.dataset.id} of {self.run_date}: the manifest says {self.manifest.rows_out} rows, its files hold "
                            f"{table.num_rows}; run the step that makes it again with --force")
        return table

    def spark(self, spark: SparkSession) -> DataFrame:
        return read_spark(spark, [self], self.dataset)

    def quarantine(self) -> pyarrow.Table:
        """The rejected rows with their reasons."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = QUARANTINE.arrow_schema()
        files = sorted((self.folder / "_quarantine").glob("*.parquet"))
        tables = [pq.ParquetFile(f).read(columns=schema.names).select(schema.names).cast(schema) for f in files]
        return pa.concat_tables(tables) if tables else schema.empty_table()


def read_spark(spark: SparkSession, partitions: Iterable[Partition], dataset: Dataset) -> DataFrame:
    """Rows of several nights as one frame with the contract's schema; an empty frame for no partitions."""
    paths = [str(f) for p in partitions for f in p.files]
    schema = dataset.spark_schema()
    if not paths:
        return spark.createDataFrame([], schema)
    return spark.read.schema(schema).parquet(*paths)


@dataclass(frozen=True)
class Writer:
    """Stages rows for the nights it holds and publishes each by its manifest."""

    lake: Lake
    dataset: Dataset
    dates: tuple[date, ...]
    staging: Path

    def stage_spark(self, rows: DataFrame, night: str = "delivered_on", quarantine: DataFrame | None = None) -> None:
        """Writes rows (and rejected rows) of all held nights in one Spark job each; `night` is the column that says which.

        Raises SchemaError listing every column that is missing, too many or of another type.
        """
        from pyspark.sql import functions as F

        self._check(rows.schema, night)
        ordered = rows.select(*[F.col(c.name).cast(c.type).alias(c.name) for c in self.dataset.columns],
                              F.date_format(F.col(night), "yyyy-MM-dd").alias("__night"))
        self._write_spark(ordered, self.staging / "rows")
        if quarantine is not None:
            picked = quarantine.select(*[F.col(c.name).cast(c.type).alias(c.name) for c in QUARANTINE_COLUMNS],
                                       F.date_format("delivered_on", "yyyy-MM-dd").alias("__night"))
            self._write_spark(picked, self.staging / "quarantine")

    def _write_spark(self, frame: DataFrame, folder: Path) -> None:
        # one file a night however many tasks made it: nights are read far more often than written
        parts = frame.repartition(max(1, min(len(self.dates), 8)), "__night") if len(self.dates) > 1 else frame.coalesce(1)
        parts.write.mode("overwrite").partitionBy("__night").parquet(str(folder))

    def stage_arrow(self, run_date: date, rows: pyarrow.Table, quarantine: pyarrow.Table | None = None) -> None:
        """Writes rows of one night without Spark. Raises SchemaError."""
        import pyarrow.parquet as pq

        for table, dataset, kind in ((rows, self.dataset, "rows"), (quarantine, QUARANTINE, "quarantine")):
            if table is None:
                continue
            schema = dataset.arrow_schema()
            missing = [n for n in schema.names if n not in table.column_names]
            surplus = [n for n in table.column_names if n not in schema.names]
            if missing or surplus:
                raise SchemaError(_discrepancies(dataset, missing, surplus, []))
            folder = self.staging / kind / f"__night={run_date.isoformat()}"
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(table.select(schema.names).cast(schema), folder / "part-0.parquet", compression="zstd")

    def staged(self, run_date: date) -> list[Path]:
        return sorted((self.staging / "rows" / f"__night={run_date.isoformat()}").glob("*.parquet"))

    def staged_quarantine(self, run_date: date) -> list[Path]:
        return sorted((self.staging / "quarantine" / f"__night={run_date.isoformat()}").glob("*.parquet"))

    def publish(
        self,
        run_date: date,
        *,
        inputs: Iterable[Input],
        settings: str,
        code: str,
        seed: int | None = None,
        notes: dict[str, Any] | None = None,
        run_id: str = "",
        seconds: float = 0.0,
        rows_in: int | None = None,
        sums: dict[str, str] | None = None,
    ) -> Manifest:
        """Moves the staged night into place and publishes its manifest. Nothing staged is an empty partition.

        `rows_in` defaults to the rows written; where it is given, rows written plus quarantined must add up to it.
        """
        if run_date not in self.dates:
            raise LakeError(f"{self.dataset.id}: this writer does not hold {run_date}")
        rows_folder = self.staging / "rows" / f"__night={run_date.isoformat()}"
        rows_folder.mkdir(parents=True, exist_ok=True)
        rejected = self.staging / "quarantine" / f"__night={run_date.isoformat()}"
        rows, digest = content_digest(sorted(rows_folder.glob("*.parquet")), self.dataset)
        quarantined, rejected_digest = _reasons(rejected)
        if rejected.is_dir():
            rejected.replace(rows_folder / "_quarantine")
        for extra in [*rows_folder.rglob("_SUCCESS"), *rows_folder.rglob(".*.crc"), *rows_folder.rglob("._SUCCESS.crc")]:
            extra.unlink(missing_ok=True)
        full = hashlib.sha256((digest + rejected_digest).encode()).hexdigest()[:16]
        target = self.lake._folder(self.dataset, run_date)
        version = f"v-{full}"
        if (target / version).exists() and not _holds(target / version, self.dataset, digest, rejected_digest):
            # a folder of that name with other rows was damaged after it was written; readers may have it open
            version = f"{version}-{uuid.uuid4().hex[:6]}"
        if not (target / version).exists():
            # else the same rows are there already, of a rerun or of a writer killed before its manifest
            _sync_tree(rows_folder)
            rows_folder.replace(target / version)
            _sync_folder(target)
        made = Manifest(
            dataset=self.dataset.id,
            run_date=run_date.isoformat(),
            version=version,
            rows_in=rows + sum(quarantined.values()) if rows_in is None else rows_in,
            rows_out=rows,
            quarantined=quarantined,
            digest=full,
            schema=schema_digest(self.dataset),
            inputs=tuple(sorted(inputs, key=lambda i: (i.name, i.digest))),
            settings=settings,
            code=code,
            seed=seed,
            sums=sums or {},
            notes=notes or {},
            run_id=run_id,
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            seconds=round(seconds, 3),
            peak_memory_mb=peak_memory_mb(),
        )
        write_atomically(target / "manifest.json", made.to_json())
        self.lake._sweep(self.dataset, run_date)
        return made

    def _check(self, schema: Any, night: str) -> None:
        have = {f.name: f.dataType.simpleString() for f in schema.fields}
        want = {f.name: f.dataType.simpleString() for f in self.dataset.spark_schema().fields}
        surplus = [n for n in have if n not in want and n != night]
        wrong = [f"{n} is {have[n]}, not {want[n]}" for n in want if n in have and have[n] != want[n]]
        missing = [n for n in want if n not in have]
        if missing or surplus or wrong:
            raise SchemaError(_discrepancies(self.dataset, missing, surplus, wrong))


def _discrepancies(dataset: Dataset, missing: list[str], surplus: list[str], wrong: list[str]) -> str:
    parts = [f"missing: {', '.join(missing)}"] if missing else []
    parts += [f"not in the contract: {', '.join(surplus)}"] if surplus else []
    parts += wrong
    return f"{dataset.id}: rows do not fit the contract: {'; '.join(parts)}"


def content_digest(files: Sequence[Path], dataset: Dataset) -> tuple[int, str]:
    """Number of rows and an order-independent digest of them, read back from what was written.

    Each row is hashed over all columns (64-bit SipHash of pandas); the digest is the sum and the xor of the row hashes,
    so the order of rows and files does not matter and a row counted twice does.
    """
    import numpy as np
    import pyarrow.parquet as pq

    rows, total, mixed = 0, 0, 0
    names = list(dataset.column_names)
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=200_000, columns=names):
            hashed = np.zeros(batch.num_rows, dtype=np.uint64)
            for i, name in enumerate(names):
                part = _hashes(batch.column(batch.schema.get_field_index(name)))
                hashed = hashed * np.uint64(1_000_003) + part + np.uint64(i)
            rows += batch.num_rows
            total = (total + int(np.sum(hashed, dtype=np.uint64))) % 2**64
            mixed ^= int(np.bitwise_xor.reduce(hashed)) if len(hashed) else 0
    return rows, f"{rows}-{total:016x}{mixed:016x}"


def _hashes(column: pyarrow.Array) -> numpy.ndarray:
    """A 64-bit hash of each value's text, each different value hashed once; nulls hash to a value of their own."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    if pa.types.is_nested(column.type):
        texts = pa.array([None if v is None else json.dumps(v, default=str) for v in column.to_pylist()], pa.string())
    elif pa.types.is_timestamp(column.type):
        texts = column.cast(pa.int64()).cast(pa.string())
    else:
        texts = column.cast(pa.string())
    coded = texts.dictionary_encode()
    # pandas' own way to hash each value once takes strings to end at their first NUL
    known = pd.util.hash_array(np.array(coded.dictionary.to_pylist(), dtype=object), categorize=False)
    return np.append(known, np.uint64(_NULL_HASH))[coded.indices.fill_null(len(known)).to_numpy(zero_copy_only=False)].astype(np.uint64)


def _reasons(folder: Path) -> tuple[dict[str, int], str]:
    """Rejected rows by reason, and a digest of which rows and why (not of the encrypted records, which never repeat)."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    counts: dict[str, int] = {}
    rows: list[str] = []
    for file in sorted(folder.glob("*.parquet")) if folder.is_dir() else []:
        table = pq.ParquetFile(file).read(columns=["reason", "source_file", "source_row"])
        for entry in pc.value_counts(table["reason"]).to_pylist():
            counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
        rows += [f"{r}|{f}|{n}" for r, f, n in zip(*(table[c].to_pylist() for c in table.column_names), strict=True)]
    return dict(sorted(counts.items())), hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def schema_digest(dataset: Dataset) -> str:
    return hashlib.sha256(dataset.ddl().encode()).hexdigest()[:12]


def write_atomically(path: Path, text: str) -> None:
    """Readers see the old file or the new one; a crash leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Holds a lock file, made with its folder where it is missing; waits for who holds it. It is let go when the process ends, however it ends."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _sync_tree(folder: Path) -> None:
    """Rows reach the disk before the manifest that names them."""
    for path in folder.rglob("*.parquet"):
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
    for inner in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
        _sync_folder(inner)


def _sync_folder(folder: Path) -> None:
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _holds(version: Path, dataset: Dataset, digest: str, rejected_digest: str) -> bool:
    """Whether a folder holds exactly these rows and rejections. A file that cannot be read does not."""
    import pyarrow as pa

    try:
        _, kept = content_digest(sorted(version.glob("*.parquet")), dataset)
        _, kept_rejected = _reasons(version / "_quarantine")
    except (pa.ArrowException, OSError):
        return False
    return (kept, kept_rejected) == (digest, rejected_digest)


def _locked(handle: IO[str], how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _staging(base: Path) -> Iterator[Path]:
    """A scratch folder of a dataset whose lock is held while its writer lives. First removes those of dead writers."""
    base.mkdir(parents=True, exist_ok=True)
    for mark in base.glob(".staging-*.lock"):
        _remove_if_dead(mark)
    while True:
        mark = base / f".staging-{uuid.uuid4().hex[:12]}.lock"
        with mark.open("a") as handle:
            # another writer's sweep may take the mark between its making and its locking: then make another
            if not _locked(handle) or not mark.exists():
                continue
            staging = mark.with_suffix("")
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
                mark.unlink(missing_ok=True)
            return


def _remove_if_dead(mark: Path) -> None:
    try:
        with mark.open("r") as handle:
            if _locked(handle):
                shutil.rmtree(mark.with_suffix(""), ignore_errors=True)
                mark.unlink(missing_ok=True)
    except FileNotFoundError:
        return  # its writer ended just now


def peak_memory_mb() -> float:
    """Largest resident set of this process and of any child that has ended, in MiB."""
    import resource

    # ru_maxrss of a process that was forked from a larger one starts at that one's size; the kernel's own mark does not
    try:
        own = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # no Linux
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(max(own, children) / 1024, 1)


def days(first: date, last: date) -> list[date]:
    """Every date from first to last, both included."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


_MAKER = {
    **{f"bronze.{e}": "ingest" for e in ("events", "items", "users", "orders", "reviews")},
    **{f"silver.{e}": "clean" for e in ("events", "items", "users", "orders", "reviews")},
    "gold.quality": "gate", "gold.daily_sales": "aggregate", "gold.features": "aggregate", "gold.evaluation": "evaluate",
    "gold.recommendations": "publish", "gold.drift": "drift", "gold.retraining": "plan_retraining",
    "silver.live_events": "stream", "gold.exposures": "experiment", "gold.shown": "experiment", "gold.experiments": "experiment",
    "gold.sales_series": "series", "gold.forecast_evaluation": "judge_forecasts",
    "gold.forecasts": "publish_forecasts", "gold.reorders": "publish_forecasts",
    "gold.screening_feedback": "feedback", "gold.screening_features": "screen_features",
    "gold.screening_evaluation": "judge_screener", "gold.screening_decisions": "decide",
}
