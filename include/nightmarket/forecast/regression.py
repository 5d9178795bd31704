"""Ridge regression of every series on calendar and known columns, shrunk towards what all series share.

The seasonal profile of a short series is mostly noise; the profile of its neighbours is not. Coefficients are therefore a ridge
solution centred on the pooled one (empirical Bayes), solved for all series together by normal equations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightmarket.forecast.series import YEAR, Panel


@dataclass(frozen=True)
class Design:
    """Columns of a regression for every series and date."""

    x: np.ndarray
    """(n, T + H, p) float64; column 0 is the constant."""
    known: np.ndarray
    """(p,) bool: columns made of the known ones."""
    shared: bool
    """Whether the calendar is the same for all series (all end on one date)."""


def design(panel: Panel) -> Design:
    """Constant, trend (per year, 0 at the last period), weekday and weekday-in-promotion, season of the year, known columns."""
    n, length, horizon = panel.size, panel.length, panel.horizon
    dates = panel.dates()
    total = length + horizon
    columns: list[np.ndarray] = [np.ones((n, total))]
    known: list[bool] = [False]
    periods = np.arange(total) - (length - 1)
    trend = np.minimum(periods, 0) / YEAR[panel.freq]  # held level ahead
    columns.append(np.broadcast_to(trend, (n, total)))
    known.append(False)
    longest = panel.lengths().max()
    if panel.freq == "D":
        weekday = (dates.astype(np.int64) + 3) % 7
        columns += [(weekday == w) - 1.0 / 7 for w in range(6)]
        known += [False] * 6
    if panel.freq == "MS":
        month = dates.astype("M8[M]").astype(np.int64) % 12
        if longest >= 12:
            columns += [(month == m) - 1.0 / 12 for m in range(11)]
            known += [False] * 11
        columns += list(trading_days(dates))
        known += [False] * 2
    elif longest >= 1.1 * YEAR[panel.freq]:
        phase = dates.astype(np.int64) / 365.25 * 2 * np.pi
        harmonics = 6 if panel.freq == "D" else 10
        for k in range(1, harmonics + 1):
            columns += [np.sin(k * phase), np.cos(k * phase)]
            known += [False, False]
        near = (dates - (dates.astype("M8[Y]").astype("M8[M]") + 11).astype("M8[D]")).astype(np.int64)  # days after 1 December
        columns += [np.clip(1 - np.abs(near - centre) / 7.0, 0, None) for centre in (9, 16, 22)]
        known += [False] * 3
    for k in range(panel.known.shape[2]):
        column = panel.known[:, :, k]
        values = np.unique(column[np.isfinite(column)])
        if panel.categories[k] or 2 <= len(values) <= 6:
            made = [np.where(np.isfinite(column), column == v, 0.0) for v in values[1:13]]
        else:
            middle, spread = np.nanmean(column), np.nanstd(column) or 1.0
            made = [np.nan_to_num((column - middle) / spread)]
        columns += made
        known += [True] * len(made)
        if panel.freq == "D" and len(values) == 2 and not panel.categories[k]:
            weekday = (dates.astype(np.int64) + 3) % 7
            columns += [made[0] * ((weekday == w) - 1.0 / 7) for w in range(6) if (made[0] * (weekday == w)).any()]
            known += [True] * (len(columns) - len(known))
            before = np.pad(made[0], ((0, 0), (1, 0)))[:, :-1]
            columns.append(made[0] * (1 - before))  # the first day of it
            known.append(True)
    return Design(np.stack(columns, -1), np.array(known), bool((panel.ends == panel.ends[0]).all()))


def trading_days(dates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per month: Saturdays and Sundays above their mean, and days above the mean of its kind (a leap day), both / 30."""
    months = dates.astype("M8[M]")
    first, after = months.astype("M8[D]"), (months + 1).astype("M8[D]")
    days = (after - first).astype(np.int64)
    start = (first.astype(np.int64) + 3) % 7
    weekend = sum(((days - ((w - start) % 7) + 6) // 7) for w in (5, 6))
    leap = np.where(months.astype(np.int64) % 12 == 1, days - 28.25, 0.0)
    return (weekend - days * 2 / 7) / 30.0, leap / 30.0


def fit(x: np.ndarray, z: np.ndarray, half_life: float) -> np.ndarray:
    """(n, p) coefficients of (n, T) z on (n, T, p) x where z is known; older periods weigh less (half in `half_life`).

    How far a coefficient is drawn to the pooled one follows from how much series differ in it beyond their sampling error
    (empirical Bayes, by moments); constant and trend are hardly shrunk.
    """
    n, length, p = x.shape
    weight = np.where(np.isfinite(z), 0.5 ** ((length - 1 - np.arange(length)) / half_life)[None, :], 0.0)
    target = np.nan_to_num(z)
    wx = x * weight[:, :, None]
    gram = np.matmul(wx.transpose(0, 2, 1), x)
    right = np.matmul(wx.transpose(0, 2, 1), target[:, :, None])[:, :, 0]
    mass = weight.sum(axis=1)
    spread = np.maximum(np.einsum("nt,ntp->np", weight, x**2) / np.maximum(mass, 1e-9)[:, None], 1e-4)
    # pooled: every series centred on its own mean and counted once
    share = 1.0 / np.maximum(mass, 1.0)
    own_mean = right[:, 0] / np.maximum(mass, 1e-9)
    centred = right - gram[:, :, 0] * own_mean[:, None]
    pooled = np.linalg.solve(np.einsum("npq,n->pq", gram, share) + np.diag(1e-3 * n * spread.mean(axis=0)), centred.T @ share)
    centre = np.repeat(pooled[None], n, axis=0)
    centre[:, 0] = own_mean

    def solve(penalty: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        penalty = penalty * spread
        penalty[:, :2] = [1e-2, 1.0]
        held = gram + np.einsum("np,pq->npq", penalty, np.eye(p))
        return np.linalg.solve(held, (right + penalty * centre)[:, :, None])[:, :, 0], held

    rough, held = solve(np.full((n, p), 1.0))
    noise = np.sum(weight * (target - predict(x, rough)) ** 2, axis=1) / np.maximum(mass - p / 2, 1.0)  # (n,)
    if n < 5:
        return solve(np.full((n, p), 3.0))[0]
    sampling = noise[:, None] * np.diagonal(np.linalg.inv(held), axis1=1, axis2=2)
    between = np.maximum(np.median((rough - pooled[None]) ** 2, axis=0) / 0.455 - np.median(sampling, axis=0), 0.0)  # (p,)
    # in units of the penalty: noise over variance between series, per unit of spread
    strength = noise[:, None] / np.maximum(between[None, :] * spread, 1e-12)
    return solve(np.clip(strength, 0.5, 200.0))[0]


def predict(x: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """(n, t) of (n, t, p) x."""
    return np.matmul(x, coefficients[:, :, None])[:, :, 0]
