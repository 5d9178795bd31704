"""The shop's series as a family: which are forecast by themselves, which borrow, and how they add up.

Nodes are the total, the categories, the countries, every item with enough days of sales, and what is left of each category. An item
with fewer sales, or none yet, is a share of its category's rest: its own daily rate, drawn to the category's by the days it has been
on sale. Items and rests add up to categories, categories to the total, countries to the total; forecasts are made so by minimum trace
with a diagonal covariance, solved through these few constraints (Wickramasuriya et al. 2019; Di Fonzo & Girolimetto 2022), whose
number is that of the categories and not of the items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sparse

from nightmarket.forecast.explaining import holiday, holiday_code
from nightmarket.forecast.series import Panel

LEVELS = ("total", "category", "country", "item", "rest")
TOTAL, REST = "*", "rest"
_PRIOR_DAYS = 28.0
"""Days on sale that the category's rate is worth to an item's own."""
_GONE_DAYS = 28
"""Days out of stock after which an item counts as given up: it sells nothing."""


@dataclass(frozen=True)
class Small:
    """Items that borrow from their category's rest."""

    ids: tuple[str, ...]
    rest: np.ndarray
    """(m,) row of `Family.panel` of each one's rest."""
    rate: np.ndarray
    """(m,) expected units a day."""
    spread: np.ndarray
    """(m,) variance of a day's units over their mean, of the category's small items together; 1 at least."""


@dataclass(frozen=True)
class Family:
    """Nodes in the order total, categories, countries, items, rests; `panel.ids` are 'level/key'."""

    panel: Panel
    constraints: Any
    """(c, n) scipy.sparse.csr_matrix; coherent forecasts give 0: each category less its items and rest, the total less the categories,
    the total less the countries."""
    small: Small
    category: tuple[str | None, ...]
    """(n,) of items and rests; None at the other levels."""
    stocked_out: frozenset[str]
    """Items that could not be bought on the night."""

    @property
    def levels(self) -> np.ndarray:
        """(n,) str."""
        return np.array([str(i).partition("/")[0] for i in self.panel.ids])

    @property
    def keys(self) -> tuple[str, ...]:
        """(n,) series_id of each node."""
        return tuple(str(i).partition("/")[2] for i in self.panel.ids)


def family(rows: pa.Table, horizon: int, minimum_sales: int, holidays: str | None) -> Family:
    """The family of a night from the daily rows of gold.sales_series. `holidays`: the shop's country, as `holiday_code` has it.

    Raises ValueError where there are no rows.
    """
    rows = rows.filter(pc.equal(rows["freq"], "D"))
    if not rows.num_rows:
        raise ValueError("no series")
    days = rows["sale_date"].to_numpy().astype("M8[D]")
    first, last = days.min(), days.max()
    length = int((last - first).astype(int)) + 1
    names, codes = _coded(pc.binary_join_element_wise(rows["level"], rows["series_id"], "/"))
    categories_of, category = _coded(pc.fill_null(rows["category"], ""))
    at = (days - first).astype(int)
    demand = np.full((len(names), length), np.nan)
    demand[codes, at] = rows["demand"].to_numpy(zero_copy_only=False).astype(float)
    out = np.zeros((len(names), length), bool)
    out[codes, at] = rows["stocked_out"].to_numpy(zero_copy_only=False).astype(bool)
    begun = np.full(len(names), length)
    np.minimum.at(begun, codes, at)
    unknown = np.zeros(length, bool)
    total = names.index(f"total/{TOTAL}")
    unknown[:] = np.isnan(demand[total])
    _given_up(demand, out, unknown)
    of = np.zeros(len(names), int)
    of[codes] = category
    place = {lv: np.array([i for i, n in enumerate(names) if n.startswith(f"{lv}/")], int) for lv in ("category", "country", "item")}
    items = place["item"]
    groups = np.array(categories_of, dtype=object)[of[items]]
    sells = (np.nan_to_num(demand[items]) > 0).sum(axis=1) >= minimum_sales
    kept, tiny = items[sells], items[~sells]
    categories = sorted(set(groups))
    rests, rest_y = [], []
    for c in categories:
        mine = items[~sells & (groups == c)]
        if len(mine):
            rests.append(c)
            rest_y.append(np.where(unknown, np.nan, np.nansum(demand[mine], axis=0)))
    order = [total, *place["category"], *place["country"], *kept]
    ids = [*(names[i] for i in order), *(f"{REST}/{c}" for c in rests)]
    y = np.concatenate([demand[order], np.array(rest_y).reshape(len(rests), length)])
    for i, row in enumerate(y[len(order):]):
        row[: begun[items[~sells & (groups == rests[i])]].min(initial=length)] = np.nan
    known, columns = _holidays(np.array(ids), first, length + horizon, length, holidays)
    ends = np.full(len(ids), last, "M8[D]")
    panel = Panel(tuple(ids), "D", ends, y, known, columns, (False,) * len(columns))
    belongs = (*(None,) * (1 + len(place["category"]) + len(place["country"])), *(str(g) for g in groups[sells]), *rests)
    ended = frozenset(names[i].partition("/")[2] for i in items if out[i, -1])
    return Family(panel, _constraints(ids, belongs), _small(demand, names, tiny, groups[~sells], rests, len(order)), belongs, ended)


def _coded(texts: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Sorted distinct texts, and of each row the place of its text among them."""
    values = pc.unique(texts)
    values = values.take(pc.sort_indices(values))
    return values.to_pylist(), pc.index_in(texts, values).to_numpy().astype(int)


def _given_up(demand: np.ndarray, out: np.ndarray, unknown: np.ndarray) -> None:
    """An item out of stock for longer than `_GONE_DAYS`, and still so, sells nothing from then on."""
    length = out.shape[1]
    for i in np.flatnonzero(out[:, -1]):
        inside = np.flatnonzero(~out[i])
        start = int(inside[-1]) + 1 if len(inside) else 0
        if length - start > _GONE_DAYS:
            later = np.arange(start + _GONE_DAYS, length)
            demand[i, later[~unknown[later]]] = 0.0


def _holidays(ids: np.ndarray, first: np.datetime64, total: int, length: int, country: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """(n, T + H, 1) 1.0 on public holidays, and its name; no column where history has none, for nothing can be learnt of it."""
    dates = first + np.arange(total)
    flags = {code: holiday(dates, code).astype(float) for code in {holiday_code(country), *(
        holiday_code(i.partition("/")[2]) for i in ids if i.startswith("country/"))} if code}
    nothing = np.zeros(total)
    own = holiday_code(country)
    made = np.stack([flags.get((holiday_code(i.partition("/")[2]) if i.startswith("country/") else own) or "", nothing) for i in ids])
    if not made[:, :length].any():
        return np.zeros((len(ids), total, 0)), ()
    return made[:, :, None], ("holiday",)


def _constraints(ids: Sequence[str], belongs: Sequence[str | None]) -> Any:
    row, column, value = [], [], []
    count = 0

    def add(one: int, others: Sequence[int]) -> None:
        nonlocal count
        row.extend([count] * (1 + len(others)))
        column.extend([one, *others])
        value.extend([1.0, *([-1.0] * len(others))])
        count += 1

    at = {lv: [i for i, n in enumerate(ids) if n.startswith(f"{lv}/")] for lv in LEVELS}
    bottom = [*at["item"], *at["rest"]]
    if at["category"]:
        parts: dict[str, list[int]] = {}
        for i in bottom:
            parts.setdefault(str(belongs[i]), []).append(i)
        for i in at["category"]:
            add(i, parts.get(ids[i].partition("/")[2], []))
        add(at["total"][0], at["category"])
    else:
        add(at["total"][0], bottom)
    if at["country"]:
        add(at["total"][0], at["country"])
    return sparse.csr_matrix((value, (row, column)), shape=(count, len(ids)))


def _small(demand: np.ndarray, names: Sequence[str], tiny: np.ndarray, groups: np.ndarray, rests: Sequence[str], offset: int) -> Small:
    ids = tuple(names[i].partition("/")[2] for i in tiny)
    rest = np.array([offset + rests.index(g) for g in groups], int)
    y = demand[tiny]
    seen = np.isfinite(y)
    sold, days = np.where(seen, y, 0.0).sum(axis=1), seen.sum(axis=1)
    rate, spread = np.zeros(len(tiny)), np.ones(len(tiny))
    for g in np.unique(rest):
        mine = rest == g
        usual = sold[mine].sum() / max(days[mine].sum(), 1)
        rate[mine] = (sold[mine] + _PRIOR_DAYS * usual) / (days[mine] + _PRIOR_DAYS)
        own = np.where(seen[mine], (np.nan_to_num(y[mine]) - rate[mine][:, None]) ** 2, 0.0).sum()
        spread[mine] = max(1.0, own / max(seen[mine].sum() * usual, 1e-9)) if usual > 0 else 1.0
    return Small(ids, rest, rate, spread)


def reconciled(tree: Family, base: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """(n, H) coherent, non-negative forecasts nearest to `base` (n, H), where a node gives way by its error variance (n,)."""
    c = tree.constraints
    variance = np.maximum(variance, 1e-9)
    weighed = c @ sparse.diags(variance)
    gap = c @ base
    moved = base - weighed.T @ np.linalg.lstsq((weighed @ c.T).toarray(), gap, rcond=None)[0]
    return added_up(tree, np.maximum(moved, 0.0))


def coherent(tree: Family, base: np.ndarray, variance: np.ndarray, how: str) -> np.ndarray:
    """(n, H) coherent, non-negative forecasts: `minimum_trace` as `reconciled`, `bottom_up` the sums of items and rests."""
    return added_up(tree, np.maximum(base, 0.0)) if how == "bottom_up" else reconciled(tree, base, variance)


def added_up(tree: Family, made: np.ndarray) -> np.ndarray:
    """(n, H): items and rests as they are, categories and total their sums, countries scaled to the total."""
    out = made.copy()
    levels = tree.levels
    bottom = (levels == "item") | (levels == REST)
    total = made[bottom].sum(axis=0)
    for i in np.flatnonzero(levels == "category"):
        out[i] = made[[j for j in np.flatnonzero(bottom) if tree.category[j] == tree.keys[i]]].sum(axis=0)
    out[0] = total
    countries = levels == "country"
    if countries.any():
        size = made[countries].sum(axis=0)
        share = np.where(size > 0, made[countries] / np.where(size > 0, size, 1.0), 1.0 / countries.sum())
        out[countries] = share * total
    return out


@dataclass(frozen=True)
class Pennies:
    """Forecasts as people read them, in hundredths of a unit; they add up exactly."""

    nodes: np.ndarray
    """(n, H) int64; of rests the sum of their small items."""
    small: np.ndarray
    """(m, H) int64."""


def pennies(tree: Family, made: np.ndarray) -> Pennies:
    """Rounds coherent (n, H) forecasts so that sums of rounded numbers agree: the lowest series by largest remainders, sums follow."""
    small = tree.small
    horizon = made.shape[1]
    split = np.zeros((len(small.ids), horizon))
    for r in np.unique(small.rest):
        mine = small.rest == r
        share = small.rate[mine] / small.rate[mine].sum() if small.rate[mine].sum() > 0 else np.full(mine.sum(), 1 / mine.sum())
        split[mine] = share[:, None] * made[r][None, :]
    levels = tree.levels
    own = np.flatnonzero(levels == "item")
    low = np.concatenate([made[own], split]) * 100.0
    target = np.round(low.sum(axis=0)).astype(np.int64)
    counted = _largest_remainders(low, target)
    nodes = np.zeros(made.shape, np.int64)
    nodes[own] = counted[: len(own)]
    np.add.at(nodes, small.rest, counted[len(own):])
    bottom = [i for i in range(len(levels)) if levels[i] in ("item", REST)]
    for i in np.flatnonzero(levels == "category"):
        nodes[i] = nodes[[j for j in bottom if tree.category[j] == tree.keys[i]]].sum(axis=0)
    nodes[0] = target
    countries = np.flatnonzero(levels == "country")
    if len(countries):
        nodes[countries] = _largest_remainders(made[countries] * 100.0, target)
    return Pennies(nodes, counted[len(own):])


def _largest_remainders(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(k, H) int64 nearest to non-negative (k, H) values of which each column sums to the (H,) target, no further than rounding from it."""
    whole = np.floor(values).astype(np.int64)
    short = target - whole.sum(axis=0)
    order = np.argsort(-(values - whole), axis=0, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(len(values))[:, None], order.shape), axis=0)
    return whole + (rank < short[None, :])


def last_day(tree: Family) -> date:
    day: date = tree.panel.ends[0].astype("M8[D]").item()
    return day
