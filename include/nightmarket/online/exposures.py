"""The exposure log: who was shown which arm, and when. Written by whatever serves, taken in every night.

A line is a JSON object `{"experiment", "unit", "arm", "at"}` (`at` ISO 8601 with zone) in a file of `<root>/exposures/` whose name
begins with the day, `2026-03-01*.jsonl`. Writers append whole lines; several may write beside each other, each to a file of its own.
Only the first exposure of a shopper counts, so a line may safely be written at every show.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa

from nightmarket.contracts import EXPOSURES
from nightmarket.lake import Lake
from nightmarket.lake.partitions import QUARANTINE
from nightmarket.online.assignment import Split
from nightmarket.online.experiments import Exposed

_SKEW = timedelta(hours=1)
"""A server's clock may be so far ahead."""


def files_of(folder: Path, day: date) -> list[Path]:
    """The day's files, in a stable order."""
    return sorted(folder.glob(f"{day}*.jsonl")) if folder.is_dir() else []


@dataclass(frozen=True)
class Taken:
    """A day's log: lines = the sum of `shows` over rows + rejected."""

    rows: pa.Table
    rejected: pa.Table
    lines: int


def take(files: Iterable[Path], splits: Mapping[str, Split], night: date, end: datetime, sealed: Callable[[str, str], str]) -> Taken:
    """First exposures of the day's files, and lines that cannot be believed, each with its reason.

    unreadable: no JSON object with the four fields; unknown_experiment; wrong_arm: not the one that the split gives the unit;
    from_the_future: after `end` of the night. `sealed(text, context)` encrypts a rejected line.
    """
    first: dict[tuple[str, str], tuple[str, datetime, int]] = {}
    rejected, lines = [], 0
    for file in files:
        for n, raw in enumerate(file.read_bytes().splitlines()):
            lines += 1
            line = raw.decode("utf-8", "replace")
            reason, said = _read(line, splits, end)
            if said is None:
                rejected.append({"reason": reason, "detail": None, "source_file": file.name, "source_row": n, "delivered_on": night,
                                 "record": sealed(line, f"{file.name}:{n}")})
                continue
            experiment, unit, arm, at = said
            _, earliest, shows = first.get((experiment, unit), (arm, at, 0))
            first[experiment, unit] = (arm, min(earliest, at), shows + 1)
    rows = [{"experiment": e, "unit_id": u, "arm": a, "exposed_at": at, "shows": shows} for (e, u), (a, at, shows) in sorted(first.items())]
    return Taken(pa.Table.from_pylist(rows, EXPOSURES.arrow_schema()), pa.Table.from_pylist(rejected, QUARANTINE.arrow_schema()), lines)


def _read(line: str, splits: Mapping[str, Split], end: datetime) -> tuple[str, tuple[str, str, str, datetime] | None]:
    """(reason of rejection, None) or ("", what the line says)."""
    try:
        told = json.loads(line)
        experiment, unit, arm = (told[k] for k in ("experiment", "unit", "arm"))
        at = datetime.fromisoformat(str(told["at"]).replace("Z", "+00:00"))
    except (ValueError, KeyError, TypeError):
        return "unreadable", None
    if not all(isinstance(v, str) and v for v in (experiment, unit, arm)) or at.tzinfo is None:
        return "unreadable", None
    if experiment not in splits:
        return "unknown_experiment", None
    if splits[experiment].arm(unit) != arm:
        return "wrong_arm", None
    if at > end + _SKEW:
        return "from_the_future", None
    return "", (experiment, unit, arm, at.astimezone(timezone.utc))


def exposed(lake: Lake, experiment: str, arms: list[str], first: date, night: date) -> Exposed:
    """First exposures of an experiment's shoppers over the nights from `first` to `night`, sorted by shopper."""
    tables = [p.arrow(["experiment", "unit_id", "arm", "exposed_at"]) for p in lake.window(EXPOSURES, first, night)]
    if not tables:
        return Exposed(np.empty(0, object), np.empty(0, np.int64), np.empty(0))
    rows = pa.concat_tables(tables).to_pandas()
    rows = rows[rows["experiment"] == experiment].sort_values(["unit_id", "exposed_at"], kind="stable").drop_duplicates("unit_id")
    at = rows["exposed_at"].astype("int64").to_numpy() / 1e6  # microseconds
    place = {a: n for n, a in enumerate(arms)}
    return Exposed(rows["unit_id"].to_numpy(object), rows["arm"].map(place).to_numpy(np.int64), at)
