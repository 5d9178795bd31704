"""A fitted forecaster as it is kept: what it forecast on its night, reaching far enough for the nights it will serve, and the weights
and backtest errors from which it is adjusted, reconciled, ordered from, and, where its reach ends, applied to new sales.

    <folder>/config.json       made_on, reach, intervals, budget, seed, quarantined
    <folder>/parts/00000.npz   arrays of some of the series; a chunk that a failing series split is several parts
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from nightmarket import log as logs
from nightmarket.evaluate import bootstrap
from nightmarket.forecast import reordering, spread
from nightmarket.forecast.adjusting import adjust
from nightmarket.forecast.diagnosis import Diagnosis
from nightmarket.forecast.family import Family, last_day
from nightmarket.forecast.forecaster import Backtest, Forecast, Weights, fallback
from nightmarket.forecast.spread import Quarantined
from nightmarket.shop import Forecasting

log = logs.logger("forecast")
_TRUST_DAYS = 28.0
_MOST_BIAS = 3.0


@dataclass(frozen=True)
class Piece:
    """Forecasts of some nodes; `made.backtest.forecasts` is empty, for candidates' own forecasts are not kept."""

    ids: tuple[str, ...]
    made: Forecast

    def save(self, file: Path) -> None:
        np.savez_compressed(file, **arrays(self))

    @classmethod
    def load(cls, file: Any) -> Piece:
        with np.load(file, allow_pickle=False) as held:
            return piece(held)


def arrays(part: Piece) -> dict[str, Any]:
    """The piece as named arrays without objects."""
    made, test, found = part.made, part.made.backtest, part.made.diagnosis
    out: dict[str, Any] = {
        "ids": np.array(part.ids, np.str_), "mean": made.mean, "model": np.array(made.model, np.str_), "combined": made.combined, "weights": made.weights,
        "names": np.array(test.names, np.str_), "origins": test.origins, "actual": test.actual, "shut": test.shut, "scale": test.scale, "root": test.root,
    }
    out |= {f"diagnosis/{f.name}": np.asarray(getattr(found, f.name)) for f in fields(found)}
    for level, (low, high) in made.bounds.items():
        out |= {f"low/{level}": low, f"high/{level}": high}
    return out


def piece(held: Mapping[str, np.ndarray]) -> Piece:
    """What `arrays` made arrays of."""
    mean, names, origins = held["mean"], tuple(str(n) for n in held["names"]), held["origins"]
    empty = np.zeros((0, len(origins), *mean.shape))
    test = Backtest(origins, names, empty, held["actual"], held["shut"], held["scale"], held["root"])
    # kept before its season was told: nothing is decided by it any more
    told: dict[str, Any] = {"season": np.full(len(mean), np.nan), "seasonal": np.ones(len(mean), bool)}
    told |= {f.name: held[f"diagnosis/{f.name}"] for f in fields(Diagnosis) if f"diagnosis/{f.name}" in held}
    found = Diagnosis(**{**told, "kind": tuple(str(k) for k in told["kind"])})
    levels = sorted(int(k.partition("/")[2]) for k in held if k.startswith("low/"))
    bounds = {level: (held[f"low/{level}"], held[f"high/{level}"]) for level in levels}
    made = Forecast(mean, bounds, tuple(str(m) for m in held["model"]), found, held["combined"], test, held["weights"])
    return Piece(tuple(str(i) for i in held["ids"]), made)


@dataclass(frozen=True)
class Fitted:
    """See the module's docstring."""

    made_on: date
    """The last day it has seen."""
    reach: int
    """Days that it forecast."""
    intervals: tuple[int, ...]
    budget: str
    seed: int
    pieces: tuple[Piece, ...]
    quarantined: tuple[Quarantined, ...]

    def save(self, folder: Path) -> None:
        (folder / "parts").mkdir(parents=True)
        for n, part in enumerate(self.pieces):
            part.save(folder / "parts" / f"{n:05d}.npz")
        (folder / "config.json").write_text(json.dumps({
            "made_on": self.made_on.isoformat(), "reach": self.reach, "intervals": self.intervals, "budget": self.budget, "seed": self.seed,
            "quarantined": {str(q.series_id): q.reason for q in self.quarantined},
        }, indent=1, sort_keys=True), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Fitted:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        pieces = tuple(Piece.load(f) for f in sorted((folder / "parts").glob("*.npz")))
        return cls(date.fromisoformat(said["made_on"]), said["reach"], tuple(said["intervals"]), said["budget"], said["seed"], pieces,
                   tuple(Quarantined(k, v) for k, v in sorted(said["quarantined"].items())))

    def learnt(self) -> Weights:
        """All weights over all candidates' names."""
        names = tuple(dict.fromkeys(n for p in self.pieces for n in p.made.backtest.names))
        rows: dict[Any, np.ndarray] = {}
        for part in self.pieces:
            at = [names.index(n) for n in part.made.backtest.names]
            for i, weight in zip(part.ids, part.made.weights, strict=True):
                row = np.zeros(len(names))
                row[at] = weight
                rows[i] = row
        return Weights(names, rows)

    def diagnosed(self) -> dict[str, int]:
        """How many series are of each kind, have a season, have a lasting change of level, and have outliers."""
        found = [p.made.diagnosis for p in self.pieces]
        kinds = Counter(kind for d in found for kind in d.kind)
        return {**dict(sorted(kinds.items())), "with a season": sum(int((d.seasonal & np.isfinite(d.season)).sum()) for d in found), "with a break": sum(int((d.breaks >= 0).sum()) for d in found),
                "with outliers": sum(int((d.outliers > 0).sum()) for d in found)}


def fit(tree: Family, rules: Forecasting, parts: Iterable[spread.Part]) -> Fitted:
    """The forecaster of `parts`, which are forecasts of the family's nodes over `reach_of` days."""
    pieces: list[Piece] = []
    failed: list[Quarantined] = []
    for part in parts:
        pieces.append(Piece(tuple(str(i) for i in part.panel.ids), part.made))
        failed += part.quarantined
    return Fitted(last_day(tree), reach_of(rules), rules.intervals, rules.budget, rules.seed, tuple(pieces), tuple(failed))


def reach_of(rules: Forecasting) -> int:
    """Days that a fit forecasts: the horizon, and the days until the next fit."""
    return rules.horizon + rules.refit_days


@dataclass(frozen=True)
class Answer:
    """Forecasts of a night for every node of a family, before they are made to add up."""

    mean: np.ndarray
    """(n, horizon)"""
    bounds: dict[int, tuple[np.ndarray, np.ndarray]]
    model: tuple[str, ...]
    variance: np.ndarray
    """(n,) mean squared backtest error."""
    wanted: np.ndarray
    """(n,) units that meet the demand of the lead time at the service level."""
    how: str
    """fresh, adjusted or applied."""
    quarantined: tuple[Quarantined, ...]
    shift: np.ndarray
    """(n,) what the night's errors moved the level by; 0 where it was not adjusted."""


def answer(fitted: Fitted, tree: Family, rules: Forecasting) -> Answer:
    """What the forecaster says on the night of the family: as made, adjusted by what came since, or its weights applied to the sales of
    the night where its reach has ended. Nodes that it does not know are forecast with its usual weights.

    Raises ValueError for a night before the one it was made on.
    """
    horizon = rules.horizon
    seen = (last_day(tree) - fitted.made_on).days
    if seen < 0:
        raise ValueError(f"the forecaster of {fitted.made_on} has seen days after {last_day(tree)}")
    n = tree.panel.size
    place = {i: row for row, i in enumerate(tree.panel.ids)}
    mean, variance, wanted, shift = np.full((n, horizon), np.nan), np.zeros(n), np.zeros(n), np.zeros(n)
    bounds = {level: (np.zeros((n, horizon)), np.zeros((n, horizon))) for level in fitted.intervals}
    model = [""] * n

    def put(rows: np.ndarray, own: np.ndarray, made: Forecast) -> None:
        """Takes rows `own` of `made` as nodes `rows`."""
        mean[rows] = made.mean[own, :horizon]
        variance[rows] = variance_of(made)[own]
        wanted[rows] = reordering.demand_quantile(made, rules.lead_days, rules.service_level)[own]
        for level in bounds:
            for end in (0, 1):
                bounds[level][end][rows] = made.bounds[level][end][own, :horizon]
        for row, i in zip(rows, own, strict=True):
            model[row] = made.model[i]

    reaches = seen + horizon <= fitted.reach
    if reaches:
        for part in fitted.pieces:
            own = np.array([k for k, i in enumerate(part.ids) if i in place], int)
            if not len(own):
                continue
            rows = np.array([place[part.ids[k]] for k in own], int)
            made = part.made
            if seen:
                actual = np.full((len(part.ids), seen), np.nan)
                actual[own] = tree.panel.y[rows, -seen:]
                moved = adjust(made, actual)
                shift[rows] = moved.shift[own]
                made = replace(made, mean=moved.mean, bounds=moved.bounds)
            put(rows, own, unbiased(part.ids, made))
    left = np.flatnonzero(np.isnan(mean).all(axis=1))
    failed = list(fitted.quarantined) if reaches else []
    if len(left):
        budget = "fast" if reaches else fitted.budget
        for rows in ([left] if len(left) <= rules.chunk else np.array_split(left, -(-len(left) // rules.chunk))):
            done = 0
            for some in spread.guarded(tree.panel.cut(0, horizon).take(rows), fitted.intervals, budget, fitted.seed, fitted.learnt()):
                put(rows[done : done + some.panel.size], np.arange(some.panel.size), unbiased(some.panel.ids, some.made))
                done += some.panel.size
                failed += some.quarantined
    largest = np.nanmax(np.abs(np.nan_to_num(tree.panel.y)), axis=1)
    wild = np.flatnonzero(~np.isfinite(mean).all(axis=1) | (np.nan_to_num(np.abs(mean), nan=np.inf).max(axis=1) > rules.multiple * largest + 1e-9))
    if len(wild):
        put(wild, np.arange(len(wild)), fallback(tree.panel.cut(0, horizon).take(wild), fitted.intervals))
        shift[wild] = 0.0
        for i in wild:
            failed.append(Quarantined(tree.panel.ids[i], f"forecast above {rules.multiple:g} times the largest day of its history, or none"))
            log.warning(logs.said("quarantined", series=tree.panel.ids[i], reason=failed[-1].reason))
    return Answer(mean, bounds, tuple(model), variance, wanted, "fresh" if not seen else "adjusted" if reaches else "applied", tuple(failed), shift)


def unbiased(ids: Sequence[str], made: Forecast) -> Forecast:
    """Point forecasts times what backtests sold for each unit they forecast; intervals stay where they were calibrated.

    The point that backtests choose for a series that sells rarely lies below its mean. Sums of such points come out low, and adding up
    rests on unbiased forecasts. The ratio of a series is drawn to that of its level by the days it was tested on, and bounded.
    """
    test, levels = made.backtest, np.array([str(i).partition("/")[0] for i in ids])
    use = np.isfinite(test.actual[:-1]) & ~test.shut[:-1]
    sold = np.where(use, np.nan_to_num(test.actual[:-1]), 0.0).sum(axis=(0, 2))
    said = np.where(use, made.combined[:-1], 0.0).sum(axis=(0, 2))
    days = float(test.origins[-1] - test.origins[0]) if len(test.origins) > 1 else 0.0
    trust = days / (days + _TRUST_DAYS)
    ratio = np.ones(len(ids))
    for level in np.unique(levels):
        mine = levels == level
        usual = sold[mine].sum() / said[mine].sum() if said[mine].sum() > 0 and sold[mine].sum() > 0 else 1.0
        own = np.where(said[mine] > 0, sold[mine] / np.where(said[mine] > 0, said[mine], 1.0), usual)
        ratio[mine] = np.clip(trust * own + (1 - trust) * usual, 1 / _MOST_BIAS, _MOST_BIAS)
    return replace(made, mean=made.mean * ratio[:, None], combined=made.combined * ratio[None, :, None])


def variance_of(made: Forecast) -> np.ndarray:
    """(n,) mean squared error at backtest origins; the squared scale where there was none."""
    test = made.backtest
    use = np.isfinite(test.actual[:-1]) & ~test.shut[:-1]
    count = use.sum(axis=(0, 2))
    squared = np.where(use, np.nan_to_num(test.actual[:-1]) - made.combined[:-1], 0.0) ** 2
    return np.where(count > 0, squared.sum(axis=(0, 2)) / np.maximum(count, 1), test.scale**2)


@dataclass(frozen=True)
class Since:
    """How a forecaster did on the days since it was made, over the nodes that sold anything of note."""

    seen: int
    ids: tuple[str, ...]
    came: np.ndarray
    """(k,) mean absolute scaled error on those days."""
    usual: np.ndarray
    """(k,) the same of its backtests, as many days ahead."""
    kind: tuple[str, ...]

    def drifted(self, ratio: float, resamples: int, seed: int) -> bool:
        """Whether errors are more than `ratio` times the usual ones, beyond chance (95 % interval over nodes); three days at least."""
        if self.seen < 3 or len(self.came) < 3:
            return False
        return bootstrap.mean(self.came - ratio * self.usual, resamples, seed).low > 0


def since(fitted: Fitted, tree: Family) -> Since:
    """Errors of the days between the fit and the night of the family."""
    seen = (last_day(tree) - fitted.made_on).days
    place = {i: row for row, i in enumerate(tree.panel.ids)}
    ids: list[str] = []
    came: list[float] = []
    usual: list[float] = []
    kind: list[str] = []
    ahead = min(seen, fitted.reach)
    for part in fitted.pieces:
        test = part.made.backtest
        back = _error(test.actual[:-1, :, :ahead], part.made.combined[:-1, :, :ahead], test.shut[:-1, :, :ahead], (0, 2)) / test.scale
        for k, i in enumerate(part.ids):
            if i not in place or ahead < 1:
                continue
            y = tree.panel.y[place[i], tree.panel.length - seen : tree.panel.length - seen + ahead]
            error = _error(y, part.made.mean[k, :ahead], test.shut[-1, k, :ahead], (0,)) / test.scale[k]
            if np.isfinite(error) and np.isfinite(back[k]):
                ids.append(i)
                came.append(float(error))
                usual.append(float(back[k]))
                kind.append(part.made.diagnosis.kind[k])
    return Since(seen, tuple(ids), np.array(came), np.array(usual), tuple(kind))


def _error(actual: np.ndarray, made: np.ndarray, shut: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    """Mean absolute error over `axis` where something is known and open; NaN where nothing is."""
    use = np.isfinite(actual) & ~shut
    count = use.sum(axis=axis)
    off = np.where(use, np.abs(np.nan_to_num(actual) - made), 0.0).sum(axis=axis)
    out: np.ndarray = np.where(count > 0, off / np.maximum(count, 1), np.nan)
    return out


def why_anew(fitted: Fitted | None, tree: Family, rules: Forecasting, same_settings: bool, same_code: bool) -> str | None:
    """Why the night fits a new forecaster; None where the one there is only adjusted."""
    if fitted is None:
        return "no champion"
    age = (last_day(tree) - fitted.made_on).days
    if not same_settings:
        return "other settings"
    if not same_code:
        return "other code"
    if age >= rules.refit_days:
        return f"age of {age} days"
    known = {i for p in fitted.pieces for i in p.ids}
    recent = np.nansum(np.nan_to_num(tree.panel.y[:, -28:]), axis=1)
    new = [k for k, i in enumerate(tree.panel.ids) if i not in known]
    if recent[new].sum() > 0.05 * max(recent[0], 1e-9):
        return f"{len(new)} series that it does not know"
    if since(fitted, tree).drifted(rules.drift, rules.bootstrap, rules.seed):
        return "drift"
    return None

