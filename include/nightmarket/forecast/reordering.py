"""How much to order: the demand over the lead time that is met with a given probability."""

from __future__ import annotations

import numpy as np

from nightmarket.forecast.forecaster import Forecast


def demand_quantile(made: Forecast, lead: int, service: float) -> np.ndarray:
    """(n,) quantile `service` (0 to 1) of the sum of the first `lead` periods, from what sums of that length missed at past origins.

    Errors of neighbouring days go together, so they are summed first and then ranked; a series' quantile is drawn to that of all
    by the origins it has. Raises ValueError for a lead time outside the horizon or a service level outside (0, 1).
    """
    horizon = made.mean.shape[1]
    if not 1 <= lead <= horizon:
        raise ValueError(f"a lead time of {lead} periods; forecasts reach 1 to {horizon}")
    if not 0 < service < 1:
        raise ValueError(f"a service level of {service}; give a share between 0 and 1, as in 0.95")
    expected = made.mean[:, :lead].sum(axis=1)
    test = made.backtest
    missed = test.actual[:-1, :, :lead] - made.combined[:-1, :, :lead]
    sums = np.where(np.isfinite(missed).all(axis=2), missed.sum(axis=2), np.nan)  # (o, n)
    unit = test.scale * np.sqrt(lead)
    scaled = sums / unit[None, :]
    every = scaled[np.isfinite(scaled)]
    if not len(every):
        from scipy.stats import norm

        return np.maximum(expected + norm.ppf(service) * unit, 0.0)
    size = np.where(np.isfinite(scaled), np.abs(scaled), 0.0).sum(axis=0)
    count = np.isfinite(scaled).sum(axis=0)
    usual = np.abs(every).mean()
    own = (size + 4 * usual) / (count + 4)  # mean absolute miss, drawn to the usual
    standard = (scaled / own[None, :])[np.isfinite(scaled)]
    return np.maximum(expected + np.quantile(standard, service) * own * unit, 0.0)
