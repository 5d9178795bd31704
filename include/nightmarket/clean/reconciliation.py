"""Does everything that was delivered add up? Recounted from the Parquet files, not taken from the manifests' word.

For each dataset and night: every bronze row is, by file and row, in silver or in silver's quarantine and not in both; rows
and totals of bronze are those of the rows kept and the rows rejected; a kept row whose total changed says why (a filled
quantity, a sign set, a converted currency); and the manifests say what was counted. Rows that bronze itself rejected are
encrypted: they are counted, their totals are those that ingestion wrote down.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket.clean.accounts import products, read, records, sum_columns, total, written
from nightmarket.contracts import Dataset, clean_of, raw_of
from nightmarket.lake import Lake, Partition, days

PLACE = ("source_file", "source_row")
_SHOWN = 5  # nights named in a message; the rest is counted


@dataclass
class Line:
    """Rows and their totals."""

    rows: int = 0
    totals: dict[str, Decimal] = field(default_factory=dict)

    def add(self, rows: int, totals: dict[str, Decimal]) -> None:
        self.rows += rows
        for name, value in totals.items():
            self.totals[name] = self.totals.get(name, Decimal(0)) + value


@dataclass
class Account:
    """One dataset over a range of nights."""

    raw: Dataset
    nights: int
    bronze: Line = field(default_factory=Line)
    clean: Line = field(default_factory=Line)
    refused: dict[str, Line] = field(default_factory=dict)
    """Rejected by ingestion, by reason; totals only in `refused_totals`."""
    refused_totals: dict[str, Decimal] = field(default_factory=dict)
    rejected: dict[str, Line] = field(default_factory=dict)
    """Rejected by cleaning, by reason, as delivered."""
    changed: dict[str, Line] = field(default_factory=dict)
    """What cleaning added to the totals of the rows it kept, by cause."""
    cancelled: Line = field(default_factory=Line)
    """Lines of cancelled orders among the delivered, where the shop says how such orders are called."""
    problems: list[str] = field(default_factory=list)

    @property
    def delivered(self) -> Line:
        line = Line(self.bronze.rows + sum(refused.rows for refused in self.refused.values()), dict(self.bronze.totals))
        line.add(0, self.refused_totals)
        return line

    @property
    def accounted(self) -> Line:
        """Clean, less what cleaning changed, and everything rejected: must be what was delivered."""
        line = Line(self.clean.rows, dict(self.clean.totals))
        for change in self.changed.values():
            line.add(0, {name: -value for name, value in change.totals.items()})
        for rejected in (*self.rejected.values(), *self.refused.values()):
            line.add(rejected.rows, rejected.totals)
        line.add(0, self.refused_totals)
        return line

    def finish(self) -> Account:
        delivered, accounted = self.delivered, self.accounted
        if delivered.rows != accounted.rows:
            self.problems.append(f"{self.raw.name}: {delivered.rows} rows delivered, {accounted.rows} clean and quarantined")
        for name, value in delivered.totals.items():
            other = accounted.totals.get(name, Decimal(0))
            if value != other:
                self.problems.append(f"{self.raw.name}: {name} delivered {written(value)}, clean and quarantined {written(other)}")
        return self


def reconcile(lake: Lake, entity: str, first: date, last: date, cancellations: Sequence[str] = ()) -> Account:
    """The account of an entity over the nights from `first` to `last`. What does not add up is in `problems`."""
    raw, clean = raw_of(entity), clean_of(entity)
    account = Account(raw, 0)
    is_cancelled = re.compile("|".join(f"(?:{p})" for p in cancellations), re.IGNORECASE) if cancellations else None
    absent: dict[str, list[date]] = {}
    for day in days(first, last):
        delivered, cleaned = lake.manifest(raw, day), lake.manifest(clean, day)
        if delivered is None or cleaned is None:
            absent.setdefault("ingest" if delivered is None else "clean", []).append(day)
            continue
        account.nights += 1
        bronze, silver = Partition(lake, raw, delivered), Partition(lake, clean, cleaned)
        if [i.digest for i in cleaned.inputs] != [delivered.digest]:
            account.problems.append(f"{clean.id} of {day} was made from another delivery than the one that is there; "
                                    f"run `python -m jobs.clean --run-date {day}`")
        _night(account, bronze, silver, is_cancelled)
    for step, nights in absent.items():
        named = ", ".join(map(str, nights[:_SHOWN])) + (f" and {len(nights) - _SHOWN} more" if len(nights) > _SHOWN else "")
        account.problems.append(f"{entity}: no {'bronze' if step == 'ingest' else 'silver'} partition of {named}; run `python -m jobs.{step}`")
    return account.finish()


def _night(account: Account, bronze: Partition, silver: Partition, is_cancelled: re.Pattern[str] | None) -> None:
    raw, day = account.raw, bronze.run_date
    needed = sum_columns(raw)
    own = [c for c in ("order_id",) if is_cancelled and c in raw.column_names and raw.name == "events"]
    money = [c for c in ("currency",) if needed and c in raw.column_names]
    filled = [c for c in ("filled",) if c in silver.dataset.column_names]
    # the files as they are: `Partition.arrow` would refuse those that are not what their manifest says
    before = read(bronze.files, [*PLACE, *needed, *money, *own], raw.arrow_schema())
    after = read(silver.files, [*PLACE, *needed, *money, *filled], silver.dataset.arrow_schema())
    refused, rejected = bronze.quarantine(), silver.quarantine()

    _said(account, bronze, before.num_rows, refused)
    _said(account, silver, after.num_rows, rejected)
    for reason, rows in _counts(refused).items():
        account.refused.setdefault(reason, Line()).add(rows, {})
    for expression in raw.sums if refused.num_rows else ():
        said = bronze.manifest.sums.get(f"quarantined: {expression}", "0")
        account.refused_totals[expression] = account.refused_totals.get(expression, Decimal(0)) + _decimal(said)

    account.bronze.add(before.num_rows, {e: total(before, e) for e in raw.sums})
    account.clean.add(after.num_rows, {e: total(after, e) for e in raw.sums})
    for reason in sorted(_counts(rejected)):
        rows = rejected.filter(pc.equal(rejected["reason"], reason))
        values = records(rows["record"].to_pylist(), raw, needed) if needed else None
        account.rejected.setdefault(reason, Line()).add(rows.num_rows, {e: total(values, e) for e in raw.sums} if values else {})
    if own and is_cancelled:
        known = pc.unique(before["order_id"]).to_pylist()
        names = pa.array([k for k in known if k is not None and is_cancelled.fullmatch(k.strip())], pa.string())
        lines = before.filter(pc.is_in(before["order_id"], names))
        account.cancelled.add(lines.num_rows, {e: total(lines, e) for e in raw.sums})

    kept_before, kept_after = _matched(account, day, before, after, rejected)
    if raw.sums:
        _changes(account, day, kept_before, kept_after)


def _said(account: Account, partition: Partition, rows: int, quarantine: pa.Table) -> None:
    manifest, at = partition.manifest, f"{partition.dataset.id} of {partition.run_date}"
    if manifest.rows_out != rows:
        account.problems.append(f"{at}: the manifest says {manifest.rows_out} rows, its files hold {rows}")
    if manifest.quarantined != _counts(quarantine):
        account.problems.append(f"{at}: the manifest says {manifest.quarantined} quarantined, its files hold {_counts(quarantine)}")


def _counts(quarantine: pa.Table) -> dict[str, int]:
    counted = pc.value_counts(quarantine["reason"]).to_pylist()
    return dict(sorted((c["values"], c["counts"]) for c in counted))


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} in a manifest's sums is not a number; run the step that wrote it again") from None


def _matched(account: Account, day: date, before: pa.Table, after: pa.Table, rejected: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Kept rows as delivered and as cleaned, in one order, by file and row. Notes rows that are nowhere, twice, or new."""
    name = account.raw.name
    delivered, kept, refused = (t.select(list(PLACE)).to_pandas() for t in (before, after, rejected))
    for what, frame in (("bronze", delivered), ("silver and its quarantine", pd.concat([kept, refused]))):
        twice = int(frame.duplicated(list(PLACE)).sum())
        if twice:
            account.problems.append(f"{name} of {day}: {twice} rows are twice in {what}")
    either = pd.concat([kept, refused]).drop_duplicates(list(PLACE))
    found = delivered.merge(either, on=list(PLACE), how="outer", indicator=True)["_merge"].value_counts()
    for side, what in (("left_only", "delivered and in neither silver nor its quarantine"), ("right_only", "clean or quarantined and never delivered")):
        if found.get(side, 0):
            account.problems.append(f"{name} of {day}: {found[side]} rows are {what}")
    delivered["i"], kept["j"] = np.arange(len(delivered)), np.arange(len(kept))
    pairs = delivered.merge(kept, on=list(PLACE))
    return before.take(pa.array(pairs["i"])), after.take(pa.array(pairs["j"]))


def _changes(account: Account, day: date, before: pa.Table, after: pa.Table) -> None:
    """Adds up by cause how much the totals of kept rows were changed. A change without a cause is a problem, and is not
    added to `changed`, so that the totals miss it too."""
    if not before.num_rows:
        return
    causes: dict[str, pa.ChunkedArray] = {}
    if "filled" in after.column_names:
        lists = after["filled"].to_pylist()
        causes["filled"] = pa.chunked_array([pa.array(["quantity" in filled for filled in lists], pa.bool_())])
    if "currency" in after.column_names:
        causes["converted"] = pc.fill_null(pc.not_equal(before["currency"], after["currency"]), False)
    if "quantity" in after.column_names:
        causes["sign set"] = pc.fill_null(pc.equal(after["quantity"], pc.negate(before["quantity"])), False)
    differences = {e: pc.subtract(*(_zero_for_null(products(t, e)) for t in (after, before))) for e in account.raw.sums}
    changed = {e: pc.not_equal(d, pa.scalar(Decimal(0), d.type)) for e, d in differences.items()}
    explained = pa.chunked_array([pa.array(np.zeros(before.num_rows, bool))])
    for cause, holds in causes.items():
        chosen = {e: pc.and_not(pc.and_(changed[e], holds), explained) for e in changed}
        amounts = {e: pc.sum(differences[e].filter(c)).as_py() or Decimal(0) for e, c in chosen.items()}
        rows = int(np.logical_or.reduce([c.to_numpy() for c in chosen.values()]).sum())
        if rows:
            account.changed.setdefault(cause, Line()).add(rows, amounts)
        explained = pc.or_(explained, holds)
    for expression, is_changed in changed.items():
        unexplained = int(pc.sum(pc.and_not(is_changed, explained)).as_py() or 0)
        if unexplained:
            account.problems.append(f"{account.raw.name} of {day}: {expression} of {unexplained} kept rows is not what was delivered")


def _zero_for_null(values: pa.ChunkedArray) -> pa.ChunkedArray:
    wide = values.cast(pa.decimal256(60, values.type.scale))
    return pc.fill_null(wide, pa.scalar(Decimal(0), wide.type))


def table(accounts: Iterable[Account]) -> str:
    """The accounts as text for a terminal: one block a dataset, a line for each place a row can be."""
    return "\n\n".join(_block(a) for a in accounts)


def _block(account: Account) -> str:
    names = list(account.raw.sums)
    lines: list[tuple[str, Line, bool]] = [("delivered", account.delivered, True)]
    lines += [(f"  quarantined by ingest: {r}", x, False) for r, x in sorted(account.refused.items())]
    lines += [("bronze", account.bronze, True)]
    lines += [(f"  quarantined by clean: {r}", x, True) for r, x in sorted(account.rejected.items())]
    lines += [("silver", account.clean, True)]
    lines += [(f"  of it changed by cleaning: {c}", x, True) for c, x in sorted(account.changed.items())]
    lines += [("silver as delivered + quarantined", account.accounted, True)]
    if account.cancelled.rows:
        lines += [("lines of cancelled orders, in bronze", account.cancelled, True)]
    heads = ["rows", *("value" if n == "quantity * unit_price" else n for n in names)]
    cells = [
        [label, f"{line.rows:,}", *(_grouped(line.totals.get(n, Decimal(0))) if has_totals else "" for n in names)]
        for label, line, has_totals in lines
    ]
    title = f"{account.raw.name}, {account.nights} nights"
    widths = [max(len(title), *(len(c[0]) for c in cells))]
    widths += [max(len(h), *(len(c[i + 1]) for c in cells)) for i, h in enumerate(heads)]
    rows = [[title, *heads], *cells]
    text = ["  ".join([r[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(r[1:], widths[1:], strict=True))]).rstrip() for r in rows]
    text.insert(1, "-" * len(max(text, key=len)))
    return "\n".join([*text, "adds up" if not account.problems else "DOES NOT ADD UP"])


def _grouped(value: Decimal) -> str:
    text = f"{value:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
