"""Long tables (series_id, ds, y) of the published data that forecasts are measured on. Nothing is chosen on a test window."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import online_retail
import pandas as pd

ORIGINS = 3


@dataclass(frozen=True)
class Data:
    """One benchmark: rows, and how it is judged. Origins lie one horizon apart, the last one a horizon before the end."""

    name: str
    rows: pd.DataFrame
    """series_id, ds, y and the known columns; complete calendars from each series' first date on."""
    freq: str
    horizon: int
    season: int
    known: tuple[str, ...] = ()
    group: str = ""

    @property
    def dates(self) -> pd.DatetimeIndex:
        return pd.DatetimeIndex(sorted(self.rows["ds"].unique()))

    def origins(self) -> list[pd.Timestamp]:
        """The last date of history of each origin, oldest first."""
        return [self.dates[-1 - self.horizon * back] for back in range(ORIGINS, 0, -1)]


def aus_retail(folder: Path) -> Data:
    """Monthly turnover by state and industry; series that reach the last month."""
    table = pd.read_parquet(folder / "aus_retail" / "monthly_turnover.parquet")
    rows = pd.DataFrame({
        "series_id": (table["State"] + " | " + table["Industry"]).astype(str), "ds": table["Month"].astype("datetime64[ns]"), "y": table["Turnover"].astype(float),
    })
    reach = rows.groupby("series_id")["ds"].max()
    rows = rows[rows["series_id"].isin(reach.index[reach == rows["ds"].max()])]
    return Data("aus_retail", rows.sort_values(["series_id", "ds"], ignore_index=True), "MS", 12, 12)


def uci_items(folder: Path) -> Data:
    """Daily quantities sold of the 200 items with most lines before the first origin, from their first sale on, zeros filled in."""
    sold = _sold(folder)
    days = pd.date_range(sold["ds"].min(), sold["ds"].max(), freq="D")
    before = sold[sold["ds"] <= days[-1 - ORIGINS * 28]]
    top = before.groupby("StockCode").size().nlargest(200).index
    return Data("uci_items", _daily(sold[sold["StockCode"].isin(top)], "StockCode", "Quantity", days), "D", 28, 7)


def uci_countries(folder: Path) -> Data:
    """Daily value sold by country, of those that bought on 20 days at least before the first origin."""
    sold = _sold(folder)
    sold["value"] = sold["Quantity"] * sold["UnitPrice"]
    days = pd.date_range(sold["ds"].min(), sold["ds"].max(), freq="D")
    bought = sold[sold["ds"] <= days[-1 - ORIGINS * 28]].groupby("Country")["ds"].nunique()
    return Data("uci_countries", _daily(sold[sold["Country"].isin(bought.index[bought >= 20])], "Country", "value", days), "D", 28, 7)


def departments(folder: Path) -> Data:
    """Weekly value sold by department of the Complete Journey sample (one year, weeks from Monday)."""
    lines = pd.read_parquet(folder / "complete_journey" / "transactions_sample.parquet", columns=["product_id", "sales_value", "transaction_timestamp"])
    products = pd.read_parquet(folder / "complete_journey" / "products.parquet", columns=["product_id", "department"])
    lines = lines.merge(products.dropna(), on="product_id")
    lines["ds"] = pd.to_datetime(lines["transaction_timestamp"]).dt.to_period("W-SUN").dt.start_time
    lines = lines[(lines["ds"] > lines["ds"].min()) & (lines["ds"] < lines["ds"].max())]  # whole weeks
    weeks = pd.date_range(lines["ds"].min(), lines["ds"].max(), freq="7D")
    sold = lines[lines["ds"] <= weeks[-1 - ORIGINS * 4]].groupby("department")["ds"].nunique()
    return Data("departments", _daily(lines[lines["department"].isin(sold.index[sold >= 20])], "department", "sales_value", weeks), "W", 4, 1)


def stores(series: int = 100, days: int = 900, seed: int = 7) -> Data:
    """Simulated stores with promotions known in advance, closed Sundays and holidays: shows that covariates are used, no claim rests on it."""
    rng = np.random.default_rng(seed)
    dates = pd.date_range("2013-01-01", periods=days, freq="D")
    week = (np.arange(days) // 7) % 2
    dow = dates.dayofweek.to_numpy()
    holiday = np.isin(dates.strftime("%m-%d"), ["01-01", "05-01", "10-03", "12-25", "12-26"]).astype(float)
    school = np.isin(dates.month, [7, 8]).astype(float)
    annual = 0.08 * np.sin(2 * np.pi * (dates.dayofyear.to_numpy() - 100) / 365.25) + 0.35 * np.exp(-(((dates.dayofyear.to_numpy() - 352) / 9.0) ** 2))
    frames = []
    for n in range(series):
        promo = ((week == 0) & (dow < 5) & (rng.random(days) > 0.02)).astype(float)
        profile = np.array([0.15, 0.02, -0.03, -0.02, 0.05, 0.0, 0.0]) * rng.uniform(0.5, 1.5) + rng.normal(0, 0.03, 7)
        walk = np.cumsum(rng.normal(0, 0.004, days))
        log = rng.normal(8.6, 0.4) + profile[dow] + annual * rng.uniform(0.6, 1.4) + walk + promo * rng.normal(0.33, 0.12)
        log = log + school * rng.normal(0.03, 0.02) + rng.normal(0, rng.uniform(0.07, 0.12), days)
        closed = (dow == 6) | (holiday > 0)
        frames.append(pd.DataFrame({
            "series_id": f"store {n:04d}", "ds": dates, "y": np.where(closed, 0.0, np.round(np.exp(log))),
            "promo": promo, "open": 1.0 - closed, "holiday": holiday, "school_holiday": school,
        }))
    return Data("stores", pd.concat(frames, ignore_index=True), "D", 42, 7, ("promo", "open", "holiday", "school_holiday"))


def _sold(folder: Path) -> pd.DataFrame:
    lines = online_retail.lines(folder / "online_retail")
    sold = lines[(lines["Quantity"] > 0) & (lines["UnitPrice"] > 0)].copy()
    sold["ds"] = pd.to_datetime(sold["InvoiceDate"]).dt.normalize()
    return sold


def _daily(rows: pd.DataFrame, by: str, value: str, calendar: pd.DatetimeIndex) -> pd.DataFrame:
    """Sums on the complete calendar, zeros filled in, from each series' first date on."""
    wide = rows.pivot_table(index=by, columns="ds", values=value, aggfunc="sum").reindex(columns=calendar)
    first = wide.notna().to_numpy().argmax(axis=1)
    held = wide.fillna(0.0).stack()
    long = pd.DataFrame({"series_id": held.index.get_level_values(0).astype(str), "ds": held.index.get_level_values(1), "y": held.to_numpy(float)})
    start = pd.Series(calendar[first], index=wide.index.astype(str))
    return long[long["ds"].to_numpy() >= long["series_id"].map(start).to_numpy()].reset_index(drop=True)


DATA = {f.__name__: f for f in (aus_retail, uci_items, uci_countries, departments)}
