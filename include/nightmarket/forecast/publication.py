"""What a night publishes: coherent forecasts of every series, to the hundredth of a unit, and what to order by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from nightmarket.contracts import FORECASTS, REORDERS
from nightmarket.forecast import gate
from nightmarket.forecast.family import REST, Family, Pennies, coherent, last_day, pennies
from nightmarket.forecast.fitted import Answer
from nightmarket.forecast.forecaster import fallback
from nightmarket.forecast.gate import Check
from nightmarket.shop import Forecasting

BORROWED = "share of its category's rest"


@dataclass(frozen=True)
class Publication:
    """Tables of a night and the checks that they passed, or did not."""

    forecasts: pa.Table
    reorders: pa.Table
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if not c.passed)


def publication(tree: Family, said: Answer, rules: Forecasting, name: str, version: str) -> Publication:
    """Rows of gold.forecasts and gold.reorders from what a forecaster answered, and the gate's checks of them."""
    mean = coherent(tree, said.mean, said.variance, rules.coherence)
    counted = pennies(tree, mean)
    shown = counted.nodes / 100.0
    ends = _quantiles(said, shown)
    low_high = {level: (low, high) for level, low, high in ends}
    probabilities = [(100 - level) / 200 for level, _, _ in reversed(ends)] + [(100 + level) / 200 for level, _, _ in ends]
    levels, keys, small = tree.levels, tree.keys, tree.small
    own = np.flatnonzero(levels != REST)
    horizon = rules.horizon
    nodes = np.stack([*(low for _, low, _ in reversed(ends)), *(high for _, _, high in ends)], -1)  # (n, H, q)
    cents = np.concatenate([counted.nodes[own], counted.small])
    borrowed = _counts(counted.small / 100.0, small.spread[:, None], probabilities)
    quantiles = np.concatenate([nodes[own], borrowed])
    rows = [*((levels[i], keys[i], said.model[i]) for i in own), *(("item", i, BORROWED) for i in small.ids)]
    day = last_day(tree)
    dates = [day + timedelta(days=n) for n in range(1, horizon + 1)]
    count = len(rows)
    table = pa.table({
        "level": pa.array(np.repeat([r[0] for r in rows], horizon), pa.string()),
        "series_id": pa.array(np.repeat(np.array([r[1] for r in rows], object), horizon), pa.string()),
        "forecast_date": pa.array(dates * count, pa.date32()),
        "mean": pa.array([Decimal(int(c)).scaleb(-2) for c in cents.ravel()], pa.decimal128(18, 2)),
        "probabilities": pa.array([probabilities] * (count * horizon), pa.list_(pa.float64())),
        "quantiles": pa.FixedSizeListArray.from_arrays(pa.array(quantiles.ravel()), len(probabilities)).cast(pa.list_(pa.float64())),
        "model": pa.array(np.repeat(np.array([r[2] for r in rows], object), horizon), pa.string()),
        "model_name": pa.array([name] * (count * horizon)), "model_version": pa.array([version] * (count * horizon)),
    }).cast(FORECASTS.arrow_schema())
    table = table.sort_by([("level", "ascending"), ("series_id", "ascending"), ("forecast_date", "ascending")])
    return Publication(table, _reorders(tree, said, rules, counted, version), tuple(_checks(tree, rules, counted, low_high, quantiles)))


def _quantiles(said: Answer, shown: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(level, lower, upper) of the nodes, narrowest first: where backtests calibrated them, widened where the coherent point left them."""
    return [(level, np.minimum(said.bounds[level][0], shown), np.maximum(said.bounds[level][1], shown)) for level in sorted(said.bounds)]


def _counts(mean: np.ndarray, spread: np.ndarray, probabilities: Sequence[float]) -> np.ndarray:
    """(m, H, q) quantiles of counts with a mean and a variance of `spread` times it: negative binomial, Poisson where that is 1."""
    from scipy.stats import nbinom, poisson

    spread = np.broadcast_to(np.maximum(spread, 1.0), mean.shape)
    over = spread > 1.001
    out = np.zeros((*mean.shape, len(probabilities)))
    sells = mean > 0
    for k, p in enumerate(probabilities):
        many, few = sells & over, sells & ~over
        out[..., k][many] = nbinom.ppf(p, mean[many] / (spread[many] - 1.0), 1.0 / spread[many])
        out[..., k][few] = poisson.ppf(p, mean[few])
    return out


def _reorders(tree: Family, said: Answer, rules: Forecasting, counted: Pennies, version: str) -> pa.Table:
    lead, levels, small = rules.lead_days, tree.levels, tree.small
    own = np.flatnonzero(levels == "item")
    expected = np.concatenate([counted.nodes[own, :lead].sum(axis=1), counted.small[:, :lead].sum(axis=1)]) / 100.0
    # what adding up moved the expected demand by moves the quantile too
    wanted = np.maximum(said.wanted[own] + expected[: len(own)] - said.mean[own, :lead].sum(axis=1), expected[: len(own)])
    borrowed = _counts(expected[len(own) :][:, None], small.spread[:, None], [rules.service_level])[:, 0, 0]
    keys = [*(tree.keys[i] for i in own), *small.ids]
    category = [*(tree.category[i] for i in own), *(tree.category[r] for r in small.rest)]
    table = pa.table({
        "item_id": pa.array(keys, pa.string()), "category": pa.array(category, pa.string()),
        "lead_days": pa.array([lead] * len(keys), pa.int32()), "service_level": pa.array([rules.service_level] * len(keys)),
        "expected_units": pa.array(expected), "order_up_to": pa.array(np.ceil(np.concatenate([wanted, borrowed]) - 1e-9).astype(np.int64)),
        "stocked_out": pa.array([k in tree.stocked_out for k in keys]), "model_version": pa.array([version] * len(keys)),
    }).cast(REORDERS.arrow_schema())
    return table.sort_by([("item_id", "ascending")])


def _checks(tree: Family, rules: Forecasting, counted: Pennies, bounds: dict[int, tuple[np.ndarray, np.ndarray]], quantiles: np.ndarray) -> list[Check]:
    """The gate's conditions on what would be published."""
    shown = counted.nodes / 100.0
    panel = replace(tree.panel, y=np.abs(tree.panel.y))
    some = fallback(tree.panel.cut(0, rules.horizon).take([0]))
    checks = gate.check(panel, replace(some, mean=shown, bounds=bounds), rules.multiple)
    wrong = int((~np.isfinite(quantiles)).sum() + (np.diff(quantiles, axis=-1) < -1e-9).sum())
    checks.append(Check("quantiles", wrong == 0, f"{wrong} quantiles are missing, infinite or fall"))
    checks.append(check_sums(tree, counted))
    return checks


def check_sums(tree: Family, counted: Pennies) -> Check:
    """Sums of the rounded numbers themselves: no hundredth is lost."""
    levels = tree.levels
    gaps = {"countries": counted.nodes[levels == "country"].sum(axis=0) - counted.nodes[0]} if (levels == "country").any() else {}
    gaps["items"] = counted.nodes[levels == "item"].sum(axis=0) + counted.small.sum(axis=0) - counted.nodes[0]
    if (levels == "category").any():
        gaps["categories"] = counted.nodes[levels == "category"].sum(axis=0) - counted.nodes[0]
    worst = {name: int(np.abs(gap).max()) for name, gap in gaps.items()}
    return Check("coherent", not any(worst.values()), f"largest gaps to the total, in hundredths: {worst}")


def spreadsheet(publication_: Publication, folder: Path) -> list[Path]:
    """forecasts.csv and reorders.csv: a column for each quantile; a byte order mark, so that spreadsheets read UTF-8."""
    folder.mkdir(parents=True, exist_ok=True)
    table = publication_.forecasts
    flat = {c: table[c] for c in ("level", "series_id", "forecast_date", "mean")}
    if table.num_rows:
        probabilities = table["probabilities"][0].as_py()
        values = np.array(table["quantiles"].to_pylist())
        flat |= {f"q{100 * p:g}": pa.array(np.round(values[:, k], 2)) for k, p in enumerate(probabilities)}
    flat |= {c: table[c] for c in ("model", "model_name", "model_version")}
    made = []
    for name, rows in (("forecasts", pa.table(flat)), ("reorders", publication_.reorders)):
        path = folder / f"{name}.csv"
        temporary = path.with_name(f".{path.name}")
        with temporary.open("wb") as out:
            out.write(b"\xef\xbb\xbf")
            pyarrow.csv.write_csv(_safe(rows), out)
        temporary.replace(path)
        made.append(path)
    return made


def _safe(rows: pa.Table) -> pa.Table:
    """Texts that a spreadsheet would run as a formula get an apostrophe."""
    import pyarrow.compute as pc

    def plain(column: Any) -> Any:
        risky = pc.match_substring_regex(column, "^[=+@\\-\t\r]")
        return pc.if_else(risky, pc.binary_join_element_wise("'", column, ""), column)

    return pa.table({n: plain(rows[n]) if pa.types.is_string(rows[n].type) else rows[n] for n in rows.column_names})
