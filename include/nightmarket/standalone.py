"""What the commands that run alone on somebody's own file share: arguments, tables in and out, one clear error, exit codes.

`python -m jobs.recommend`, `jobs.forecast` and `jobs.screen` need no shop.yaml, no lake and no Airflow. Exit codes are those
of all jobs (`nightmarket.command`): 0 done, 1 fault, 2 usage (arguments, a missing file or column), 3 refused (the rows
themselves cannot be worked with).
"""

from __future__ import annotations

import argparse
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nightmarket import log as logs
from nightmarket.command import EPILOG, UsageError, guarded

if TYPE_CHECKING:
    import pyarrow as pa

BUDGETS = ("fast", "balanced", "best")


def parser(name: str, doc: str) -> argparse.ArgumentParser:
    """The arguments that every such command takes."""
    p = argparse.ArgumentParser(
        prog=f"python -m jobs.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG,
    )
    p.add_argument("--seed", type=int, default=17, metavar="N", help="same inputs, same seed: same output (default: 17)")
    p.add_argument("--verbose", action="store_true", help="more lines, and tracebacks")
    return p


def main(name: str, p: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int | None],
         argv: Sequence[str] | None = None) -> int:
    """Runs one such command and returns its exit code. `run` returns the number of rows it wrote, for the log."""
    try:
        args = p.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    started = time.monotonic()

    def body(peak_mb: Callable[[], float]) -> None:
        rows = run(args)
        logs.logger(name).info(logs.said("done", rows=rows, seconds=round(time.monotonic() - started, 1),
                                         peak_memory_mb=round(peak_mb())))

    return guarded(name, args.verbose, body)


def read(path: Path, argument: str, required: Iterable[str] = ()) -> pa.Table:
    """The table of a Parquet file or folder, CSV or JSON Lines file (gzip too), told by its name; anything else is Parquet.

    Raises UsageError that names the argument, the file and the columns: a file that is not there or cannot be read, and
    `required` columns that it lacks.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    if not path.exists():
        raise UsageError(f"{argument} {path}: no such file")
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith((".csv", ".tsv")):
            tab = pyarrow.csv.ParseOptions(delimiter="\t" if name.endswith(".tsv") else ",")
            table = pyarrow.csv.read_csv(path, parse_options=tab)
        elif name.endswith((".jsonl", ".ndjson")):
            with pa.input_stream(path, compression="gzip" if path.name.endswith(".gz") else None) as stream:
                table = pyarrow.json.read_json(stream)
        else:
            table = pyarrow.parquet.read_table(path)
    except (pa.ArrowInvalid, pa.ArrowTypeError, EOFError, OSError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{argument} {path}: cannot be read: {told}. Write Parquet, or name it .csv, .tsv or .jsonl (.gz)") from None
    missing = [c for c in required if c not in table.column_names]
    if missing:
        raise UsageError(f"{argument} {path}: no column {', '.join(missing)}; it has {', '.join(table.column_names) or 'none'}")
    twice = sorted({c for c in table.column_names if table.column_names.count(c) > 1})
    if twice:
        raise UsageError(f"{argument} {path}: column {', '.join(twice)} is there twice; rename one")
    return table


def check_out(path: Path) -> None:
    """Raises UsageError where --out cannot be written; asked before the work, not after it."""
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: no folder {path.parent}; make it first")
    if path.is_dir():
        raise UsageError(f"--out {path}: is a folder; name a file")


def write(table: pa.Table, path: Path) -> None:
    """Writes Parquet, or CSV where the name says so; readers see the old file or the whole new one.

    Raises UsageError where the folder does not exist.
    """
    import pyarrow.csv
    import pyarrow.parquet

    check_out(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        if path.suffix == ".csv":
            pyarrow.csv.write_csv(table, temporary)
        else:
            pyarrow.parquet.write_table(table, temporary, compression="zstd")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
