"""Why a forecast is what it is: level, season and each known column, as the regression of all series sees them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import lru_cache

import numpy as np

from nightmarket.forecast import regression
from nightmarket.forecast.closed import closed
from nightmarket.forecast.forecaster import Forecast
from nightmarket.forecast.series import YEAR, Panel


@dataclass(frozen=True)
class Explanation:
    """Parts of the point forecasts on open days; they add up to `Forecast.mean`."""

    level: np.ndarray
    """(n, H) what is left without the others: level and trend."""
    season: np.ndarray
    """(n, H) of the calendar: weekday, time of the year, trading days."""
    known: np.ndarray
    """(n, H) of promotions, prices and other known columns."""


def explain(panel: Panel, made: Forecast) -> Explanation:
    """The share of season and known columns by regression coefficients (in units of y); the rest of the forecast is its level."""
    shut = closed(panel)
    masked = np.where(shut[:, : panel.length], np.nan, panel.y)
    size = np.nanmean(np.abs(np.where(np.isfinite(masked), masked, np.nan)), axis=1, keepdims=True)
    size = np.where(np.isfinite(size) & (size > 0), size, 1.0)
    design = regression.design(panel)
    beta = regression.fit(design.x[:, : panel.length], masked / size, 2 * YEAR[panel.freq])
    ahead = design.x[:, panel.length :]
    of_known = np.where(design.known[None, :], beta, 0.0)
    of_season = np.where(design.known[None, :], 0.0, beta)
    of_season[:, :2] = 0.0
    open_days = ~shut[:, panel.length :]
    season = regression.predict(ahead, of_season) * size * open_days
    known = regression.predict(ahead, of_known) * size * open_days
    return Explanation(made.mean - season - known, season, known)


@lru_cache(maxsize=256)
def _calendar(country: str, year: int) -> frozenset[date]:
    import holidays

    return frozenset(holidays.country_holidays(country, years=year))


@lru_cache(maxsize=256)
def holiday_code(country: str | None) -> str | None:
    """What the `holidays` package calls a country, given its ISO 3166 code or English name; None where it does not know it."""
    import holidays

    if not country:
        return None
    for name in (country, country.replace(" ", "")):
        try:
            holidays.country_holidays(name, years=2000)
        except NotImplementedError:
            continue
        return name
    return None


def holiday(dates: np.ndarray, country: str) -> np.ndarray:
    """bool of the shape of `dates` (datetime64[D]): public holidays of a country (ISO 3166 code, as `holidays` knows it).

    Raises ValueError for a country that the package does not know.
    """
    years = np.unique(dates.astype("M8[Y]").astype(int) + 1970)
    try:
        days = sorted(d for y in years for d in _calendar(country, int(y)))
    except NotImplementedError as error:
        raise ValueError(f"no holidays are known for {country!r}: {error}; give an ISO 3166 code, as in GB") from None
    return np.isin(dates.astype("M8[D]"), np.array(days, "M8[D]"))
