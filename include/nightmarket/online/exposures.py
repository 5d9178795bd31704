"""The exposure log: who was shown which arm, and when. Written by whatever serves, taken in every night.

A line is a JSON object `{"experiment", "unit", "arm", "at"}` (`at` ISO 8601 with zone) in a file of `<root>/exposures/` whose name
begins with the day, `2026-03-01*.jsonl`. Writers append whole lines; several may write beside each other, each to a file of its own.
Only the first exposure of a shopper counts, so a line may safely be written at every show.

`items`, the list that was shown, and `propensity`, the chance that it was that list, may be added by who knows them; then experiments that are
to come can be judged before they begin (`online.before`). A line of these with `unit` and `at` alone is a show outside any experiment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nightmarket.contracts import EXPOSURES, SHOWN
from nightmarket.lake import Lake
from nightmarket.lake.partitions import QUARANTINE
from nightmarket.online.assignment import Split
from nightmarket.online.before import Shown
from nightmarket.online.experiments import Exposed

_SKEW = timedelta(hours=1)
"""A server's clock may be so far ahead."""


def files_of(folder: Path, day: date) -> list[Path]:
    """The day's files, in a stable order."""
    return sorted(folder.glob(f"{day}*.jsonl")) if folder.is_dir() else []


@dataclass(frozen=True)
class Taken:
    """A day's log: lines = the sum of `shows` over rows + rejected + plain."""

    rows: pa.Table
    shown: pa.Table
    """Rows of gold.shown: each shopper's first list."""
    rejected: pa.Table
    lines: int
    plain: int
    """Lines of shows outside any experiment."""


@dataclass(frozen=True)
class _Line:
    unit: str
    at: datetime
    experiment: str = ""
    """Empty for a show outside any."""
    arm: str = ""
    items: tuple[str, ...] = ()
    propensity: float | None = None


def take(files: Iterable[Path], splits: Mapping[str, Split], night: date, end: datetime, sealed: Callable[[str, str], str]) -> Taken:
    """First exposures of the day's files, and lines that cannot be believed, each with its reason.

    unreadable: no JSON object with the four fields, or with `items` that are none; unknown_experiment; wrong_arm: not the one that the split gives the unit;
    from_the_future: after `end` of the night. `sealed(text, context)` encrypts a rejected line.
    """
    first: dict[tuple[str, str], tuple[str, datetime, int]] = {}
    shown: dict[str, _Line] = {}
    rejected, lines, plain = [], 0, 0
    for file in files:
        for n, raw in enumerate(file.read_bytes().splitlines()):
            lines += 1
            line = raw.decode("utf-8", "replace")
            reason, said = _read(line, splits, end)
            if said is None:
                rejected.append({"reason": reason, "detail": None, "source_file": file.name, "source_row": n, "delivered_on": night,
                                 "record": sealed(line, f"{file.name}:{n}")})
                continue
            if said.items and (said.unit not in shown or said.at < shown[said.unit].at):
                shown[said.unit] = said
            if not said.experiment:
                plain += 1
                continue
            _, earliest, shows = first.get((said.experiment, said.unit), (said.arm, said.at, 0))
            first[said.experiment, said.unit] = (said.arm, min(earliest, said.at), shows + 1)
    rows = [{"experiment": e, "unit_id": u, "arm": a, "exposed_at": at, "shows": shows} for (e, u), (a, at, shows) in sorted(first.items())]
    seen = [{"unit_id": u, "shown_at": s.at, "items": list(s.items), "propensity": s.propensity} for u, s in sorted(shown.items())]
    return Taken(pa.Table.from_pylist(rows, EXPOSURES.arrow_schema()), pa.Table.from_pylist(seen, SHOWN.arrow_schema()),
                 pa.Table.from_pylist(rejected, QUARANTINE.arrow_schema()), lines, plain)


def _read(line: str, splits: Mapping[str, Split], end: datetime) -> tuple[str, _Line | None]:
    """(reason of rejection, None) or ("", what the line says)."""
    try:
        told = json.loads(line)
        at = datetime.fromisoformat(str(told["at"]).replace("Z", "+00:00"))
        said = _Line(told["unit"], at, told.get("experiment", ""), told.get("arm", ""), tuple(told.get("items", ())), told.get("propensity"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "unreadable", None
    names = [said.unit, *said.items, *([said.experiment, said.arm] if said.experiment or said.arm or not said.items else [])]
    if not all(isinstance(v, str) and v for v in names) or at.tzinfo is None or not _is_chance(said.propensity):
        return "unreadable", None
    if said.experiment and said.experiment not in splits:
        return "unknown_experiment", None
    if said.experiment and splits[said.experiment].arm(said.unit) != said.arm:
        return "wrong_arm", None
    if at > end + _SKEW:
        return "from_the_future", None
    return "", replace(said, at=at.astimezone(timezone.utc))


def _is_chance(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1)


def shown(lake: Lake, days: Sequence[date]) -> Shown:
    """First shows of these days' shoppers whose chance is known, sorted by shopper."""
    found: dict[str, dict[str, Any]] = {}
    for day in sorted(days):
        for row in lake.at(SHOWN, day).arrow().to_pylist():
            if row["propensity"] is not None:
                found.setdefault(row["unit_id"], row)
    rows = [found[u] for u in sorted(found)]
    return Shown(np.array([r["unit_id"] for r in rows], object), np.array([r["shown_at"].timestamp() for r in rows], float),
                 [tuple(r["items"]) for r in rows], np.array([r["propensity"] for r in rows], float))


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
