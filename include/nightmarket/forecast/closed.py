"""Days on which a shop is closed, told from the data: their zeros say nothing of demand."""

from __future__ import annotations

import numpy as np

from nightmarket.forecast.series import Panel

_SHARE = 0.01  # of open values that a closed kind of day may have: a stock-take, a mistake
_FEW = 6  # occurrences below which nothing is concluded


def closed(panel: Panel) -> np.ndarray:
    """(n, T + H) bool: closed in history or on a forecast date.

    A day is closed where a known column says so (one of its values always goes with zero sales), on a weekday on which the
    series (or all of the shop) practically never sells, and on a date on which a shop that otherwise sells sold nothing at all;
    such a date is expected again in the next year. Days alone have closed days; weeks and months only those that a column tells.
    """
    n, length, horizon = panel.size, panel.length, panel.horizon
    out = np.zeros((n, length + horizon), bool)
    history = slice(0, length)
    known = np.isfinite(panel.y)
    sells = known & (panel.y != 0)
    for k in range(panel.known.shape[2]):
        column = panel.known[:, :, k]
        values = np.unique(column[:, history][known & np.isfinite(column[:, history])])
        if not 2 <= len(values) <= 12:
            continue
        for value in values:
            at = column[:, history] == value
            total = int((at & known).sum())
            if total >= 3 * _FEW and (at & sells).sum() <= _SHARE * total and sells[known & ~at].mean() > 0.5:
                out |= column == value
    if panel.freq != "D":
        return out
    dates = panel.dates()
    days = dates.astype(np.int64)
    weekday = (days + 3) % 7
    free = known & ~out[:, history]
    for w in range(7):
        here = weekday == w
        at, other = free & here[:, history], free & ~here[:, history]
        recent = np.zeros_like(at)
        recent[:, -26 * 7 :] = at[:, -26 * 7 :]
        count, sold = recent.sum(axis=1), (recent & sells).sum(axis=1)
        rest = (other & sells).sum(axis=1) / np.maximum(other.sum(axis=1), 1)
        own = (count >= _FEW) & (sold <= _SHARE * count) & (rest >= 0.5)
        shop = n >= 5 and count.sum() >= 5 * _FEW and sold.sum() <= _SHARE * count.sum() and rest.mean() >= 0.1
        out |= here & (own | shop)[:, None]
    # a date on which nobody sold, though chance alone would hardly do that
    free = known & ~out[:, history]
    first = int(days[:, history][known].min())
    day = days[:, history] - first
    listed = np.bincount(day[free], minlength=1)
    sales = np.bincount(day[free & sells], minlength=len(listed))
    share = (free & sells).sum(axis=1) / np.maximum(free.sum(axis=1), 1)
    chance = np.bincount(day[free], np.log1p(-np.minimum(share, 0.99))[np.nonzero(free)[0]], len(listed))
    shut = np.flatnonzero((listed > 0) & (sales == 0) & (chance < -12.0)) + np.int64(first)
    if shut.size:
        on = shut.astype("M8[D]")
        anniversary = (on.astype("M8[M]") + 12).astype("M8[D]") + (on - on.astype("M8[M]").astype("M8[D]"))
        out |= np.isin(days, shut)
        ahead = np.zeros_like(out)
        ahead[:, length:] = np.isin(days[:, length:], anniversary.astype(np.int64))
        out |= ahead
    return out
