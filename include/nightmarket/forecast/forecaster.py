"""From a panel to forecasts: candidates, rolling-origin backtests, combination, intervals.

Everything is chosen inside the history that the panel holds: backtest origins lie before its end, and what a candidate knows at
an origin is what was known then. Rows after the end are never there, so they can change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nightmarket import log as logs
from nightmarket.forecast import arima, boosted, combining, intermittent, intervals, regression, seasonal, smoothing
from nightmarket.forecast.closed import closed
from nightmarket.forecast.diagnosis import Diagnosis, diagnose
from nightmarket.forecast.series import SEASON, YEAR, Panel

log = logs.logger("forecast")
_MANY = 20_000
"""Known values from which those models are made anew: below, a fit costs as much as all the rest."""
_TRAINING = 60
"""Origins that a model across series learns from at most."""
_FEW = 60_000
"""Backtest residuals below which weights are learnt again without each origin, for honest intervals."""


@dataclass(frozen=True)
class Budget:
    """What a budget buys."""

    origins: int
    """Backtest origins at most."""
    learner: tuple[int, int, float, int]
    """Rows, trees, rate, leaves of the boosted model."""
    losses: int
    """Boosted models: 1 for absolute loss, 2 for squared loss too."""
    least: int
    """Known values below which no boosted model is fitted: it costs as much as a hundred short series do otherwise."""
    stages: int = 1
    """How often models that learn across series are made anew in the course of the backtests, where series are many or long."""
    thorough: bool = False
    """Whether ARIMA and the network run."""


BUDGETS = {
    "fast": Budget(6, (60_000, 120, 0.07, 15), 1, 2000),
    "balanced": Budget(8, (120_000, 300, 0.03, 15), 2, 200, 3),
    "best": Budget(10, (400_000, 600, 0.02, 31), 2, 200, 3, thorough=True),
}


@dataclass(frozen=True)
class Backtest:
    """What each candidate forecast at past origins, and what happened."""

    origins: np.ndarray
    """(o,) periods known at each, ascending; the last one is the end of history."""
    names: tuple[str, ...]
    """Candidates."""
    forecasts: np.ndarray
    """(candidates, o, n, H); NaN where a candidate does not apply. The last origin's are the forecasts proper."""
    actual: np.ndarray
    """(o, n, H) y; NaN where unknown and at the last origin."""
    shut: np.ndarray
    """(o, n, H) bool: closed days."""
    scale: np.ndarray
    """(n,) mean absolute seasonal difference of history: what errors are divided by."""
    root: np.ndarray
    """(n,) root mean squared seasonal difference over `scale`, 1 at least."""


@dataclass(frozen=True)
class Forecast:
    """Forecasts of a panel."""

    mean: np.ndarray
    """(n, H) point forecasts."""
    bounds: dict[int, tuple[np.ndarray, np.ndarray]]
    """Level in percent → (n, H) lower and upper."""
    model: tuple[str, ...]
    """(n,) what each was made of."""
    diagnosis: Diagnosis
    combined: np.ndarray
    """(o, n, H) the combination at every backtest origin; the last is `mean`."""
    backtest: Backtest
    weights: np.ndarray
    """(n, candidates)."""


@dataclass(frozen=True)
class Weights:
    """Weights learnt before, to combine with again."""

    names: tuple[str, ...]
    """Candidates."""
    rows: Mapping[Any, np.ndarray]
    """id → (candidates,)."""

    def table(self, ids: Sequence[Any], names: Sequence[str]) -> np.ndarray:
        """(n, names): of each id its own, of an unknown one the mean of all; a candidate that was not there then gets none."""
        usual = np.mean(list(self.rows.values()), axis=0) if self.rows else np.ones(len(self.names))
        own = np.stack([self.rows.get(i, usual) for i in ids])
        out = np.stack([own[:, self.names.index(k)] if k in self.names else np.zeros(len(own)) for k in names], -1)
        total = out.sum(axis=1, keepdims=True)
        return np.where(total > 0, out / np.where(total > 0, total, 1.0), 1.0 / len(names))


def forecast(panel: Panel, levels: tuple[int, ...] = (80, 95), budget: str = "balanced", seed: int = 17, weights: Weights | None = None) -> Forecast:
    """Point forecasts and central intervals of every series, `panel.horizon` periods ahead; weights are learnt unless given."""
    shut = closed(panel)
    found = diagnose(panel, shut)
    plan = BUDGETS[budget]
    with logs.stage(log, "backtest", series=panel.size) as told:
        test = backtest(panel, shut, found, plan, seed)
        told["origins"], told["candidates"] = len(test.origins) - 1, ",".join(test.names)
    if weights is not None:
        return combination(panel, found, test, weights.table(panel.ids, test.names), levels)
    # few residuals: weights that have seen them make them look smaller than they are
    few = len(test.origins) > 2 and np.prod(test.actual.shape) <= _FEW
    return combination(panel, found, test, combining.weights(test, found.rare), levels, combining.held_out(test, found.rare) if few else None)


def combination(panel: Panel, found: Diagnosis, test: Backtest, weight: np.ndarray, levels: tuple[int, ...], unseen: np.ndarray | None = None) -> Forecast:
    """The forecast that (n, candidates) `weight` makes of a backtest, with its intervals; those from the errors of `unseen` (o, n, H)
    combinations at past origins, where they are given."""
    nonnegative = np.nanmin(panel.y, axis=1, initial=np.inf) >= 0

    def bounded(values: np.ndarray) -> np.ndarray:
        held = np.where(test.shut, 0.0, values)
        return np.where(nonnegative[None, :, None], np.maximum(held, 0.0), held)

    combined = bounded(combining.combine(test, weight))  # (o, n, H)
    idle = ~np.any(np.nan_to_num(panel.y) != 0, axis=1)  # never sold anything: nothing to forecast from
    combined[-1, idle] = 0.0
    judged = combined if unseen is None else np.concatenate([bounded(unseen)[:-1], combined[-1:]])
    mean, bounds = combined[-1], intervals.conformal(test, judged, levels, nonnegative)
    bounds = {level: (np.where(idle[:, None], 0.0, low), np.where(idle[:, None], 0.0, high)) for level, (low, high) in bounds.items()}
    return Forecast(mean, bounds, _said(test.names, weight, idle), found, combined, test, weight)


def fallback(panel: Panel, levels: tuple[int, ...] = (80, 95)) -> Forecast:
    """Seasonal naive with intervals as wide as seasons differ: for series that nothing else can be done with."""
    shut = closed(panel)
    end = np.array([panel.length], np.int64)
    made = _naive(panel, np.where(shut[:, : panel.length], np.nan, panel.y), end)
    gone = shut[None, :, panel.length :]
    test = Backtest(end, ("seasonal_naive",), made[None], np.full_like(made, np.nan), gone, *scale_of(panel))
    combined = np.where(gone, 0.0, made)
    nonnegative = np.nanmin(panel.y, axis=1, initial=np.inf) >= 0
    bounds = intervals.conformal(test, combined, levels, nonnegative)
    return Forecast(combined[-1], bounds, ("seasonal_naive",) * panel.size, diagnose(panel, shut), combined, test, np.ones((panel.size, 1)))


def _said(names: tuple[str, ...], weights: np.ndarray, idle: np.ndarray) -> tuple[str, ...]:
    out = []
    for w, nothing in zip(weights, idle, strict=True):
        order = [i for i in np.argsort(-w, kind="stable") if w[i] >= 0.05]
        out.append("zero" if nothing else " + ".join(names[i] for i in order) if order else names[int(np.argmax(w))])
    return tuple(out)


def origins_of(panel: Panel, most: int) -> np.ndarray:
    """Backtest origins and the end: a part of a season or horizon apart, so long as half of the history lies before the first."""
    horizon, length = panel.horizon, panel.length
    typical = int(np.median(panel.lengths()))
    room = typical - horizon - max(4, min(typical // 2, 2 * SEASON[panel.freq]))
    if room < 0 or most < 1:
        return np.array([length], np.int64)
    apart = max(1, horizon // 3)
    if panel.freq == "W":  # a year of weeks, where there is one: in summer a method without a season looks good
        apart = max(apart, min(-(-SEASON["W"] // most), room // max(most - 1, 1)))
    if panel.freq == "D" and apart > 3:
        apart = max(7, apart // 7 * 7) + 1  # origins on all weekdays
    count = min(room // apart + 1, most)
    return np.array([length - horizon - apart * k for k in range(count - 1, -1, -1)] + [length], np.int64)


@dataclass(frozen=True)
class Stage:
    """Origins at which models across series know the same."""

    until: int
    """Periods that they know."""
    asked: np.ndarray
    """Origins that they forecast from, none below `until`."""


def _stages(origins: np.ndarray, most: int) -> list[Stage]:
    """The backtests in up to `most` parts that follow one another, two origins each at least, and the forecast proper."""
    past = origins[:-1]
    parts = np.array_split(past, max(1, min(most, len(past) // 2))) if len(past) else []
    return [Stage(int(part[0]), part) for part in parts] + [Stage(int(origins[-1]), origins[-1:])]


def _grid(panel: Panel, least: int) -> np.ndarray:
    """Origins that models across series may learn from, ascending: a sixth of the horizon apart, days so far that `_TRAINING` of them reach
    back through all of history (a third of the horizon at most), and never on one weekday alone."""
    last, apart = panel.length - panel.horizon, max(1, panel.horizon // 6)
    if panel.freq == "D":
        room = int(np.median(panel.lengths())) - panel.horizon - least
        apart = int(np.clip(room // _TRAINING, apart, max(apart, panel.horizon // 3)))
        apart += apart % 7 == 0
    return np.arange(last, least, -apart, dtype=np.int64)[::-1]


def backtest(panel: Panel, shut: np.ndarray, found: Diagnosis, plan: Budget, seed: int) -> Backtest:
    """Every candidate at every origin."""
    n, horizon, length = panel.size, panel.horizon, panel.length
    season = SEASON[panel.freq]
    masked = np.where(shut[:, :length], np.nan, panel.y)
    origins = origins_of(panel, plan.origins)
    least = season // 4 if panel.freq == "W" else max(2 * season, 8)
    grid = _grid(panel, least)
    stages = _stages(origins, plan.stages if np.isfinite(masked).sum() >= _MANY else 1)
    lessons = [grid[grid <= stage.until - horizon][-_TRAINING:] for stage in stages]
    every = np.unique(np.concatenate([*lessons, origins]))
    statistical = _statistical(panel, masked, found, every, stages)
    place = {int(o): i for i, o in enumerate(every)}
    names, values = list(statistical), [statistical[k][[place[int(o)] for o in origins]] for k in statistical]
    if plan.losses > 1:
        made = _decomposed(panel, masked, found, every, origins)
        if made is not None:
            names.append("stl")
            values.append(made)
    learner = boosted.Learner(*plan.learner, seed=seed)
    if len(lessons[0]) >= 4 and np.isfinite(masked).sum() >= plan.least:
        hints = np.stack([statistical[k] for k in statistical], -1)  # (every, n, H, m)
        for name, objective in (("boosted", "regression_l1"), ("boosted_mean", "regression"))[: plan.losses]:
            # a model that is judged has seen nothing after the first origin that it forecasts from
            values.append(np.concatenate([
                _boost(panel, masked, shut, fitted, stage.asked, hints, place, learner, objective) for stage, fitted in zip(stages, lessons, strict=True)
            ]))
            names.append(name)
    if plan.thorough:
        if n <= arima.MOST:
            names.append("arima")
            values.append(arima.forecasts(panel, masked, origins))
        if len(lessons[0]) >= 8 and np.isfinite(masked).sum() >= 2000:
            names.append("network")
            values.append(_network(panel, masked, shut, lessons[0], lessons[-1], origins, seed))
    at = origins[:, None] + np.arange(horizon)[None, :]
    inside = at < length
    actual = np.where(inside[:, None, :], panel.y[:, np.minimum(at, length - 1)].transpose(1, 0, 2), np.nan)
    gone = shut[:, np.minimum(at, length + horizon - 1)].transpose(1, 0, 2)
    return Backtest(origins, tuple(names), np.stack(values), actual, gone, *scale_of(panel))


def scale_of(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """(n,) mean absolute seasonal difference, else mean absolute difference, else mean size, else 1; and the root mean squared one over it."""
    out, root = np.full(panel.size, np.nan), np.ones(panel.size)
    for lag in (panel.season, 1):
        if panel.length > lag:
            apart = np.abs(panel.y[:, lag:] - panel.y[:, :-lag])
            count = np.isfinite(apart).sum(axis=1)
            mean = np.nansum(apart, axis=1) / np.maximum(count, 1)
            fits = ~np.isfinite(out) & (count >= 3) & (mean > 0)
            square = np.sqrt(np.nansum(apart**2, axis=1) / np.maximum(count, 1))
            out, root = np.where(fits, mean, out), np.where(fits, np.maximum(square / np.where(mean > 0, mean, 1.0), 1.0), root)
    size = np.nanmean(np.abs(panel.y), axis=1)
    return np.where(np.isfinite(out), out, np.where(size > 0, size, 1.0)), root


def _boost(panel: Panel, masked: np.ndarray, shut: np.ndarray, fitted: np.ndarray, asked: np.ndarray, hints: np.ndarray, place: dict[int, int],
           learner: boosted.Learner, objective: str) -> np.ndarray:
    steps = np.arange(1, panel.horizon + 1)
    per = max(1, -(-len(fitted) * panel.size * len(steps) // (2 * learner.rows)))
    # of many rows some, at each origin other horizons: one choice for all would leave weekdays out
    chosen = (steps[:: per][None, :] + (np.arange(len(fitted)) % per)[:, None] - 1) % panel.horizon + 1  # (fitted, some)
    until = int(fitted[-1]) + panel.horizon
    seen = np.where(np.arange(masked.shape[1]) < until, masked, np.nan)
    told = np.take_along_axis(hints[[place[int(o)] for o in fitted]], chosen[:, None, :, None] - 1, axis=2)
    train = boosted.rows(panel, seen, shut, fitted, told, chosen)
    model = boosted.fit(train, learner, objective=objective)
    test = boosted.rows(panel, masked, shut, asked, hints[[place[int(o)] for o in asked]], steps)
    return boosted.predict(model, test).reshape(len(asked), panel.size, panel.horizon)


def _network(panel: Panel, masked: np.ndarray, shut: np.ndarray, training: np.ndarray, late: np.ndarray, origins: np.ndarray, seed: int) -> np.ndarray:
    """(origins, n, H) medians of the network, learnt before the first backtest origin and again from all history."""
    from nightmarket.forecast import network

    shape = network.shape_of(panel)
    out = np.full((len(origins), panel.size, panel.horizon), np.nan)
    for fitted, asked in ((training, origins[:-1]), (late, origins[-1:])):
        fitted = fitted[fitted >= shape.lookback]
        if not len(asked) or not len(fitted):
            continue
        until = int(fitted[-1]) + panel.horizon
        seen = np.where(np.arange(masked.shape[1]) < until, masked, np.nan)
        model = network.fit(network.windows(panel, seen, shut, fitted, shape), shape, seed)
        made = network.predict(model, network.windows(panel, masked, shut, asked, shape))[:, :, network.QUANTILES.index(0.5)]
        out[[list(origins).index(o) for o in asked]] = made.reshape(len(asked), panel.size, panel.horizon)
    return out


def _statistical(panel: Panel, masked: np.ndarray, found: Diagnosis, every: np.ndarray, stages: list[Stage]) -> dict[str, np.ndarray]:
    """name → (every, n, H) forecasts at each origin, from what was known there."""
    n, horizon, length = panel.size, panel.horizon, panel.length
    season = SEASON[panel.freq]
    out = {"seasonal_naive": _naive(panel, masked, every)}
    z, positive, size = _eased(masked)
    short = season if panel.lengths().max() >= 2.5 * season else 1
    design = regression.design(panel)
    logged = np.where(positive[:, None], z, np.nan)
    scaled = masked / size
    # effects are learnt from what is known where a stage begins; what boosted models learn from before the first is forecast with its effects
    views: list[tuple[np.ndarray, np.ndarray]] = []
    for k, stage in enumerate(stages):
        mine = (every >= stage.until if k else np.ones(len(every), bool)) & (every < stages[k + 1].until if k + 1 < len(stages) else True)
        views.append((regression.fit(design.x[:, : stage.until], z[:, : stage.until], 2 * YEAR[panel.freq]), mine))
    trends = panel.freq != "D"
    for name, logs_too, adjusted in (("smoothing", False, False), ("smoothing_log", True, False), ("regression", None, True)):
        if logs_too and not positive.any():
            continue
        if adjusted:
            made = np.full((len(every), n, horizon), np.nan)
            for coefficients, mine in views:
                effect = regression.predict(design.x[:, :, 2:], coefficients[:, 2:])
                paths = _bank(z - effect[:, :length], 1, trends, every[mine], horizon)
                at = every[mine][:, None] + np.arange(horizon)[None, :]
                made[mine] = paths + effect[:, at].transpose(1, 0, 2)
            made = _back(made, positive, size)
        elif logs_too:
            made = np.exp(np.minimum(_bank(logged, short, trends, every, horizon), 50.0))
        else:
            made = _bank(scaled, short, trends, every, horizon) * size[None]
        out[name] = made
    lag = round(YEAR[panel.freq] / SEASON[panel.freq]) * SEASON[panel.freq]
    steady = np.flatnonzero(found.steady(length, lag))
    if panel.freq != "MS" and panel.lengths().max() >= 1.25 * lag and len(steady):
        made = np.full((len(every), n, horizon), np.nan)
        made[:, steady] = seasonal.last_year(z[steady], lag, every, horizon)
        out["last_year"] = _back(made, positive, size)
    if panel.freq == "W":
        out["mean"] = _year_mean(masked, SEASON["W"], every, horizon)
        out["median"] = _year_median(masked, SEASON["W"], every, horizon)
    if found.rare.any():
        rows = np.flatnonzero(found.rare)
        for name, method in (("croston_sba", intermittent.croston_sba), ("tsb", intermittent.tsb), ("adida", intermittent.adida)):
            made = np.full((len(every), n, horizon), np.nan)
            made[:, rows] = method(masked[rows], every)[:, :, None]
            out[name] = made
    return out


def _decomposed(panel: Panel, masked: np.ndarray, found: Diagnosis, every: np.ndarray, origins: np.ndarray) -> np.ndarray | None:
    """(origins, n, H) of `seasonal.stl` where a series has a season, on logs where it is positive; None where none has or is long enough."""
    rows = np.flatnonzero(found.seasonal)
    if panel.lengths().max() <= 2 * SEASON[panel.freq] or not len(rows):
        return None
    z, positive, size = _eased(masked)
    made = np.full((len(origins), panel.size, panel.horizon), np.nan)
    made[:, rows] = seasonal.stl(z[rows], SEASON[panel.freq], panel.freq != "D", every, origins, panel.horizon)
    return _back(made, positive, size)


def _eased(masked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, T) logs of series that are positive throughout, others over their mean size; (n,) which are; (n, 1) sizes."""
    size = np.nanmean(np.abs(masked), axis=1, keepdims=True)
    size = np.where(np.isfinite(size) & (size > 0), size, 1.0)
    positive = np.nanmin(np.where(np.isfinite(masked), masked, np.inf), axis=1) > 0
    logged = np.where(np.isfinite(masked), np.log(np.where(masked > 0, masked, 1.0)), np.nan)
    return np.where(positive[:, None], logged, masked / size), positive, size


def _back(made: np.ndarray, positive: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(…, n, H) forecasts of what `_eased` made, on the scale of y."""
    return np.where(positive[None, :, None], np.exp(np.minimum(made, 50.0)), made * size[None])


def _bank(z: np.ndarray, season: int, trends: bool, every: np.ndarray, horizon: int) -> np.ndarray:
    """(every, n, H): the bank's members averaged by their errors over the whole horizon at the origins before."""
    settings = smoothing.bank(season, trends)
    out = np.empty((len(every), len(z), horizon))
    block = max(1, 40_000_000 // (len(settings) * len(every) * horizon))
    for low in range(0, len(z), block):
        part = z[low : low + block]
        paths = smoothing.run(part, season, settings, every, horizon).values
        out[:, low : low + block] = combining.sequential(paths, part, every, horizon)
    return out


def _year_mean(masked: np.ndarray, width: int, every: np.ndarray, horizon: int) -> np.ndarray:
    """(every, n, H) mean of what is known of the last `width` periods; NaN where nothing is."""
    sums = [np.concatenate([np.zeros((len(masked), 1)), np.cumsum(v, axis=1)], axis=1) for v in (np.nan_to_num(masked), np.isfinite(masked).astype(float))]
    total, count = ((t[:, every] - t[:, np.maximum(every - width, 0)]).T for t in sums)
    return np.repeat(np.where(count > 0, total / np.maximum(count, 1), np.nan)[:, :, None], horizon, axis=2)


def _year_median(masked: np.ndarray, width: int, every: np.ndarray, horizon: int) -> np.ndarray:
    """(every, n, H) median of what is known of the last `width` periods; NaN where nothing is."""
    rows = np.arange(len(masked))
    out = np.full((len(every), len(masked)), np.nan)
    for i, o in enumerate(every):
        held = np.sort(masked[:, max(o - width, 0) : o], axis=1)  # unknown ones last
        count = np.isfinite(held).sum(axis=1)
        if held.shape[1]:
            out[i] = (held[rows, np.maximum(count - 1, 0) // 2] + held[rows, np.minimum(count // 2, held.shape[1] - 1)]) / 2
            out[i][count == 0] = np.nan
    return np.repeat(out[:, :, None], horizon, axis=2)


def _naive(panel: Panel, masked: np.ndarray, every: np.ndarray) -> np.ndarray:
    """(every, n, H) seasonal naive: the newest known value of the same season, two seasons before it at most, else the mean so far."""
    season = SEASON[panel.freq]
    sums, counts = (np.cumsum(v, axis=1) for v in (np.nan_to_num(masked), np.isfinite(masked)))
    last = np.maximum(every - 1, 0)
    mean = np.where(every > 0, sums[:, last] / np.maximum(counts[:, last], 1), 0.0)
    steps = np.arange(panel.horizon)
    newest = every[:, None] + steps[None, :] - season * (steps[None, :] // season + 1)
    out = np.full((len(masked), len(every), panel.horizon), np.nan)
    for back in range(3):
        column = newest - season * back
        value = np.where((column >= 0)[None], masked[:, np.maximum(column, 0)], np.nan)
        out = np.where(np.isfinite(out), out, value)
    out = np.where(np.isfinite(out), out, mean[:, :, None])
    return out.transpose(1, 0, 2)
