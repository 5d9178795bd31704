"""Series as models read them: one row a series, one column a period, the last column its last period.

Input is a long table (series_id, ds, y and known columns). Stated rules mend what can be mended, each with a report line that
names series; what cannot is refused with the series, the date and the remedy:

- rows out of order are sorted; rows of one series and date that say the same are one row; ones that differ are refused
- a missing y (null, NaN) and a missing date are unknown, not zero; but a series that never records a zero and lacks a tenth of
  its dates or more is a list of sales: what it does not list is zero, and it runs to the last date of the file; a series that is
  complete but for one gap (a shop being rebuilt) is no list
- before a gap of more than two years history is dropped; older than `HISTORY` periods too
- an infinite y, a date off the calendar (a month that does not start on the 1st, weeks on two weekdays), or two frequencies in
  one series are refused
- known columns must be there for every forecast date; text is read as categories
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket.command import Refused, UsageError

Freq = Literal["D", "W", "MS"]
SEASON: dict[str, int] = {"D": 7, "W": 52, "MS": 12}
"""Periods of the main season."""
YEAR: dict[str, float] = {"D": 365.25, "W": 365.25 / 7, "MS": 12.0}
HISTORY: dict[str, int] = {"D": 1826, "W": 522, "MS": 600}
"""Periods of history that are looked at: five, ten and fifty years."""
LONGEST_GAP: dict[str, int] = {"D": 730, "W": 104, "MS": 24}
_NAMED = 5  # offenders named in a message
_AROUND = 30  # periods that must be listed around a gap for it to be one


@dataclass(frozen=True)
class Panel:
    """n series of T periods, right-aligned: column T-1 is each series' own last period."""

    ids: tuple[Any, ...]
    freq: Freq
    ends: np.ndarray
    """(n,) datetime64[D]: date of column T-1."""
    y: np.ndarray
    """(n, T) float64; NaN before the first period and where unknown."""
    known: np.ndarray
    """(n, T + H, k) float64: covariates known in advance; NaN where unknown (in history only)."""
    names: tuple[str, ...] = ()
    """Names of the k known columns."""
    categories: tuple[bool, ...] = ()
    """Which of them were text."""

    @property
    def season(self) -> int:
        return SEASON[self.freq]

    @property
    def size(self) -> int:
        return len(self.ids)

    @property
    def length(self) -> int:
        return self.y.shape[1]

    @property
    def horizon(self) -> int:
        return self.known.shape[1] - self.y.shape[1]

    def dates(self) -> np.ndarray:
        """(n, T + H) datetime64[D]: of history and forecasts."""
        return step(self.ends[:, None], np.arange(1 - self.length, self.horizon + 1)[None, :], self.freq)

    def cut(self, back: int, horizon: int | None = None) -> Panel:
        """The panel as it was `back` periods ago; known columns stay known for `horizon` periods from there."""
        keep = self.length - back
        horizon = self.horizon if horizon is None else horizon
        if keep < 1 or back < 0 or horizon > self.horizon + back:
            raise ValueError(f"cannot go {back} periods back of {self.length} and {horizon} ahead")
        return replace(self, ends=step(self.ends, -back, self.freq), y=self.y[:, :keep], known=self.known[:, : keep + horizon])

    def take(self, rows: np.ndarray | Sequence[int]) -> Panel:
        """Some of the series."""
        rows = np.asarray(rows)
        return replace(self, ids=tuple(self.ids[i] for i in rows), ends=self.ends[rows], y=self.y[rows], known=self.known[rows])

    def lengths(self) -> np.ndarray:
        """(n,) periods from the first known value on."""
        known = np.isfinite(self.y)
        return np.where(known.any(axis=1), self.length - known.argmax(axis=1), 0)


@dataclass(frozen=True)
class Mended:
    """What a rule did to how many series, some of them by name."""

    rule: str
    count: int
    series: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {self.count - len(self.series)} more" if self.count > len(self.series) else ""
        return f"{self.rule}: {', '.join(self.series)}{more}"


@dataclass
class _Report:
    lines: list[Mended] = field(default_factory=list)

    def add(self, rule: str, names: Sequence[Any]) -> None:
        if len(names):
            self.lines.append(Mended(rule, len(names), tuple(str(n) for n in names[:_NAMED])))


def step(dates: np.ndarray, periods: np.ndarray | int, freq: Freq) -> np.ndarray:
    """`dates` moved by whole periods."""
    if freq == "MS":
        return (dates.astype("M8[M]") + periods).astype("M8[D]")
    return dates + np.asarray(periods) * (7 if freq == "W" else 1)


def position(dates: np.ndarray, freq: Freq) -> np.ndarray:
    """int64 count of periods since a fixed one; dates of one series lie on one grid."""
    if freq == "MS":
        return dates.astype("M8[M]").astype(np.int64)
    days = dates.astype("M8[D]").astype(np.int64)
    return np.floor_divide(days, 7) if freq == "W" else days


def read_panel(sales: pa.Table, freq: Freq, horizon: int, known: Sequence[str] = (), future: pa.Table | None = None,
               where: str = "--sales", where_future: str = "--future") -> tuple[Panel, list[Mended]]:
    """The panel of a long table, and what was mended on the way.

    Raises UsageError for columns that are missing or of the wrong kind, Refused for rows that no rule mends.
    """
    report = _Report()
    if not sales.num_rows:
        raise Refused(f"{where}: no rows; give at least one series_id, ds, y")
    ids, codes = _ids(sales, where)
    dates = _days(sales, where, ids, codes, report)
    y = _numbers(sales, "y", where, ids, codes, dates)
    infinite = np.isinf(y)
    if infinite.any():
        raise Refused(f"{where}: y is infinite: {_at(ids, codes, dates, infinite)}; correct it or leave it empty")
    _on_grid(dates, freq, ids, codes, where)
    report.add("no y given, taken as unknown", _names(ids, codes[np.isnan(y)]))
    report.add("negative y kept as returns; forecasts may be negative", _names(ids, codes[y < 0]))
    columns, levels = _known(sales, future, known, where, where_future)
    order = np.lexsort((dates, codes))
    moved = np.zeros(len(order), bool)
    moved[1:] = (codes[1:] == codes[:-1]) & (dates[1:] < dates[:-1])
    report.add("dates out of order, sorted", _names(ids, codes[moved]))
    codes, dates, y, columns = codes[order], dates[order], y[order], columns[order]
    same = np.r_[False, (codes[1:] == codes[:-1]) & (dates[1:] == dates[:-1])]
    if same.any():
        later = np.flatnonzero(same)
        differ = ~((y[later] == y[later - 1]) | (np.isnan(y[later]) & np.isnan(y[later - 1])))
        if differ.any():
            wrong = np.zeros(len(y), bool)
            wrong[later[differ]] = True
            raise Refused(f"{where}: two rows of one series and date differ: {_at(ids, codes, dates, wrong)}; add them up or drop one")
        report.add("the same row twice, taken once", _names(ids, codes[same]))
        codes, dates, y, columns = codes[~same], dates[~same], y[~same], columns[~same]
    _one_frequency(ids, codes, dates, freq, where)
    at = position(dates, freq)
    first, last, lists = _extent(codes, at, y, len(ids), int(at.max()), freq, report, ids)
    length = int((last - first).max()) + 1
    matrix = np.full((len(ids), length), np.nan)
    covariates = np.full((len(ids), length + horizon, len(known)), np.nan)
    column = length - 1 - (last[codes] - at)
    inside = (at >= first[codes]) & (column >= 0)
    matrix[codes[inside], column[inside]] = y[inside]
    covariates[codes[inside], column[inside]] = columns[inside]
    begun = np.arange(length)[None, :] >= (length - 1 - (last - first))[:, None]
    matrix[lists[:, None] & begun & np.isnan(matrix)] = 0.0
    unknown = (np.isnan(matrix) & begun).sum(axis=1)
    report.add("missing dates taken as unknown", [ids[i] for i in np.flatnonzero(unknown > 0)])
    newest = np.zeros(len(ids), "M8[D]")
    newest[codes] = dates  # sorted: the last date of a series wins
    ends = step(newest, last - position(newest, freq), freq)
    panel = Panel(tuple(ids), freq, ends, matrix, covariates, tuple(known), tuple(bool(v) for v in levels))
    if known and future is not None:
        panel = _with_future(panel, future, levels, where_future)
    return panel, report.lines


def _ids(table: pa.Table, where: str) -> tuple[list[Any], np.ndarray]:
    column = table["series_id"].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise Refused(f"{where}: series_id is missing in row {row + 1} and {column.null_count - 1} more; give every row its series")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values = pc.unique(column)
    values = values.take(pc.sort_indices(values))
    codes = pc.index_in(column, values).to_numpy(zero_copy_only=False).astype(np.int64)
    return values.to_pylist(), codes


def _days(table: pa.Table, where: str, ids: list[Any], codes: np.ndarray, report: _Report) -> np.ndarray:
    """(rows,) datetime64[D]: the local day where ds carries a zone."""
    column = table["ds"]
    if column.null_count:
        gone = column.is_null().to_numpy()
        raise Refused(f"{where}: ds is missing in {column.null_count} rows, of series {', '.join(map(str, _names(ids, codes[gone])[:_NAMED]))}; give every row its date")
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        try:
            column = pc.strptime(column.cast(pa.string()), "%Y-%m-%d", "s")
        except pa.ArrowInvalid as error:
            raise UsageError(f"{where}: ds cannot be read as a date: {error}; write YYYY-MM-DD") from None
        kind = column.type
    if pa.types.is_date(kind):
        return column.cast(pa.date32()).to_numpy().astype("M8[D]")
    if not pa.types.is_timestamp(kind):
        raise UsageError(f"{where}: ds is {kind}; give dates or timestamps")
    local = pc.local_timestamp(column) if kind.tz else column
    stamps = local.cast(pa.timestamp("s"), safe=False).to_numpy()
    days = stamps.astype("M8[D]")
    report.add("times of day dropped from ds", _names(ids, codes[stamps != days.astype(stamps.dtype)]))
    return days


def _numbers(table: pa.Table, name: str, where: str, ids: list[Any], codes: np.ndarray, dates: np.ndarray) -> np.ndarray:
    column = table[name]
    try:
        return column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"{where}: column {name} is {column.type}: {error}; give numbers") from None


def _on_grid(dates: np.ndarray, freq: Freq, ids: list[Any], codes: np.ndarray, where: str) -> None:
    if freq == "MS":
        off = dates != dates.astype("M8[M]").astype("M8[D]")
        if off.any():
            raise Refused(f"{where}: a month starts on its 1st: {_at(ids, codes, dates, off)}; write the first day of each month, or another --freq")
    if freq == "W":
        weekday = (dates.astype(np.int64) + 3) % 7
        _, first = np.unique(codes, return_index=True)
        off = weekday != weekday[first][codes]
        if off.any():
            raise Refused(f"{where}: weeks on two weekdays: {_at(ids, codes, dates, off)}; give each week's row the same weekday, or use --freq D")


def _one_frequency(ids: list[Any], codes: np.ndarray, dates: np.ndarray, freq: Freq, where: str) -> None:
    """Refuses series whose dates are regular, but not at `freq`, in all or in a part of them."""
    if freq == "MS":
        return
    apart: Any = np.diff(dates.astype(np.int64))
    inside = codes[1:] == codes[:-1]
    start_of_month = dates == dates.astype("M8[M]").astype("M8[D]")
    monthly = inside & start_of_month[1:] & start_of_month[:-1] & (apart >= 28) & (apart <= 31)
    if freq == "W":
        monthly = inside & (apart >= 28) & (apart <= 31) & (apart % 7 == 0)
    weekly = inside & (apart == 7) & (freq == "D")
    for found, said, right in ((monthly, "months", "MS"), (weekly, "weeks", "W")):
        total = np.bincount(codes[1:][inside], minlength=len(ids))
        hits = np.bincount(codes[1:][found], minlength=len(ids))
        tight = np.bincount(codes[1:][inside & (apart == (7 if freq == "W" else 1))], minlength=len(ids))
        # all of the series at another frequency, or a part of it beside a part at this one
        wrong = (hits >= 6) & ((hits == total) | ((hits + tight >= total - 2) & (tight >= 6) & (hits * 10 >= tight)))
        if freq == "W":
            wrong = (hits >= 6) & (hits == total)
        if wrong.any():
            names = ", ".join(str(ids[i]) for i in np.flatnonzero(wrong)[:_NAMED])
            part = "" if (hits == total)[wrong].all() else " in a part of its history"
            raise Refused(f"{where}: dates lie {said} apart{part}, not at --freq {freq}: {names}; use --freq {right}, or one frequency a series")


def _extent(codes: np.ndarray, at: np.ndarray, y: np.ndarray, n: int, newest: int, freq: Freq, report: _Report,
            ids: list[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and last position of each series, and which are lists of sales."""
    known = np.isfinite(y)
    starts = np.searchsorted(codes, np.arange(n))
    stops = np.searchsorted(codes, np.arange(n), side="right")
    first, last = at[starts].copy(), at[stops - 1].copy()
    span = last - first + 1
    zeros = np.bincount(codes, (y == 0).astype(float), n)
    lists = (zeros == 0) & (span - (stops - starts) >= 0.1 * span) & (span > 1)
    apart = np.r_[0, np.diff(at)]
    apart[starts] = 0
    longest = np.maximum.reduceat(apart, starts) - 1
    around = stops - starts >= _AROUND
    lists &= ~around | (span - longest - (stops - starts) >= 0.1 * (span - longest))
    gap = apart - 1 > LONGEST_GAP[freq]
    dropped = np.zeros(n, bool)
    for row in np.flatnonzero(gap):  # rare; sorted, so the last gap wins
        first[codes[row]], dropped[codes[row]] = at[row], True
    report.add(f"history before a gap of more than {LONGEST_GAP[freq]} periods dropped", [ids[i] for i in np.flatnonzero(dropped)])
    last = np.where(lists & (newest - last <= LONGEST_GAP[freq]), newest, last)
    # inside a list a short span after a dropped gap may be complete again
    inside = at >= first[codes]
    present = np.bincount(codes[inside], minlength=n)
    lists &= (last - first + 1 - present) >= 0.1 * (last - first + 1)
    long = last - first + 1 > HISTORY[freq]
    report.add(f"only the last {HISTORY[freq]} periods are looked at", [ids[i] for i in np.flatnonzero(long)])
    first = np.where(long, last - HISTORY[freq] + 1, first)
    report.add("a list of sales: dates that it does not list are zero", [ids[i] for i in np.flatnonzero(lists)])
    empty = np.bincount(codes, known & (at >= first[codes]), n) == 0
    if empty.any():
        names = ", ".join(str(ids[i]) for i in np.flatnonzero(empty)[:_NAMED])
        raise Refused(f"no y is known in the history of {int(empty.sum())} series: {names}; leave them out or give them values")
    return first, last, lists


def _known(sales: pa.Table, future: pa.Table | None, known: Sequence[str], where: str, where_future: str) -> tuple[np.ndarray, list[list[str]]]:
    """(rows, k) float64 of the known columns, and the categories of each that is text."""
    if not known:
        return np.zeros((sales.num_rows, 0)), []
    if future is None:
        raise UsageError(f"--known-columns {','.join(known)}: their values on the forecast dates are needed; give --future")
    levels = [_levels([t[c] for t in (sales, future)]) for c in known]
    columns = [_column(sales, c, v, where) for c, v in zip(known, levels, strict=True)]
    return np.stack(columns, -1), levels


def _text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)


def _levels(columns: list[pa.ChunkedArray]) -> list[str]:
    if not any(_text(c.type) for c in columns):
        return []
    return sorted({str(v) for c in columns for v in pc.unique(c.cast(pa.string())).to_pylist() if v is not None})


def _column(table: pa.Table, name: str, levels: list[str], where: str) -> np.ndarray:
    column = table[name]
    if levels:
        codes = pc.index_in(column.cast(pa.string()), pa.array(levels))
        return codes.cast(pa.float64()).to_numpy().astype(np.float64)
    try:
        values = column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UsageError(f"{where}: known column {name} is {column.type}; give numbers, booleans or text") from None
    if np.isinf(values).any():
        raise Refused(f"{where}: known column {name} is infinite in {int(np.isinf(values).sum())} rows; correct it")
    return values


def _with_future(panel: Panel, future: pa.Table, levels: list[list[str]], where: str) -> Panel:
    ids, codes = _ids(future, where) if future.num_rows else ([], np.zeros(0, np.int64))
    dates = _days(future, where, ids, codes, _Report()) if future.num_rows else np.zeros(0, "M8[D]")
    values = np.stack([_column(future, c, v, where) for c, v in zip(panel.names, levels, strict=True)], -1)
    index = {name: i for i, name in enumerate(panel.ids)}
    rows = np.array([index.get(i, -1) for i in ids], np.int64)[codes] if len(ids) else np.zeros(0, np.int64)
    mine = rows >= 0
    rows, dates, values = rows[mine], dates[mine], values[mine]
    ahead = position(dates, panel.freq) - position(panel.ends, panel.freq)[rows]
    wanted = (ahead >= 1) & (ahead <= panel.horizon)
    known = panel.known.copy()
    known[rows[wanted], panel.length - 1 + ahead[wanted]] = values[wanted]
    gone = np.isnan(known[:, panel.length :])
    if gone.any():
        i, at, k = (int(v) for v in np.argwhere(gone)[0])
        day = step(panel.ends[i : i + 1], at + 1, panel.freq)[0]
        more = int(gone.any(axis=-1).sum()) - 1
        raise Refused(f"{where}: no {panel.names[k]} for series {panel.ids[i]} on {day}"
                      f"{f' and {more} more rows' if more else ''}; every series needs each known column on all {panel.horizon} forecast dates")
    return replace(panel, known=known)


def _names(ids: list[Any], codes: np.ndarray) -> list[Any]:
    return [ids[i] for i in np.unique(codes)]


def _at(ids: list[Any], codes: np.ndarray, dates: np.ndarray, wrong: np.ndarray) -> str:
    rows = np.flatnonzero(wrong)
    named = ", ".join(f"series {ids[codes[r]]} on {dates[r]}" for r in rows[:_NAMED])
    return named + (f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "")
