"""ARIMA with regressors (statsforecast's AutoARIMA, after Hyndman & Khandakar 2008): the known columns as regressors, orders found
once before the first backtest origin, then carried forward. Seconds a series, so only the `best` budget has it.

statsmodels' SARIMAX fits the same models; the search over orders there takes minutes a series with a season of 12.
"""

from __future__ import annotations

import numpy as np

from nightmarket.forecast.series import Panel

MOST = 200
"""Series above which it is left out."""


def forecasts(panel: Panel, masked: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """(origins, n, H); NaN for a series that is too short or without variation."""
    from statsforecast.models import AutoARIMA

    n, horizon, season = panel.size, panel.horizon, panel.season
    out = np.full((len(origins), n, horizon), np.nan)
    first = int(origins[0])
    for i in range(n):
        known = np.isfinite(masked[i])
        begin = int(known.argmax())
        if first - begin < 2 * season + 8 or known[begin:first].sum() < 0.5 * (first - begin):
            continue
        at = np.arange(panel.length)
        y = np.interp(at, at[known], masked[i, known])
        x = np.nan_to_num(panel.known[i])
        moving = x[begin:first].std(axis=0) > 0 if x.shape[1] else np.zeros(0, bool)
        x = _independent(x[:, moving], begin, first)
        if np.ptp(y[begin:first]) == 0:
            continue
        model = AutoARIMA(season_length=season if season <= 12 else 1, max_p=3, max_q=3, approximation=True)
        given = x[begin:first] if x.shape[1] else None
        model.fit(y=y[begin:first], X=given)
        for j, o in enumerate(origins):
            past, ahead = (x[begin:o], x[o : o + horizon]) if x.shape[1] else (None, None)
            out[j, i] = model.forward(y=y[begin:o], h=horizon, X=past, X_future=ahead)["mean"]
    return out


def _independent(x: np.ndarray, begin: int, first: int) -> np.ndarray:
    """Columns that are not sums of the others (or constant), which a regression cannot tell apart."""
    kept: list[int] = []
    for k in range(x.shape[1]):
        trial = np.column_stack([np.ones(first - begin), x[begin:first][:, [*kept, k]]])
        if np.linalg.matrix_rank(trial) == trial.shape[1]:
            kept.append(k)
    return x[:, kept]
