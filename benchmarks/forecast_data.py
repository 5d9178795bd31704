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


def stores(series: int = 100, days: int = 942, seed: int = 7) -> Data:
    """Simulated stores with what is known in advance (promotion, open, public and school holidays): what a chain's own file looks like.

    A promotion's lift differs by store and weekday and is weaker in December; days before and after closed ones sell more, as do the first and
    last of a month; competitors open and levels shift; errors hang together. A sixth of the stores lack half a year, some are shut for weeks, some
    open on Sundays. No claim about real shops rests on it.
    """
    rng = np.random.default_rng(seed)
    dates = pd.date_range("2013-01-01", periods=days, freq="D")
    t, dow = np.arange(days), dates.dayofweek.to_numpy()
    chain = np.where(rng.random(days // 7 + 2) < 0.08, 1, 0)  # now and then the rhythm of two weeks slips
    promo = (((t + dow[0]) // 7 + np.cumsum(chain)[(t + dow[0]) // 7]) % 2 == 0) & (dow < 5)
    fixed = {"01-01": 1, "05-01": 1, "10-03": 1, "12-25": 3, "12-26": 3}
    national = np.array([fixed.get(d, 0) for d in dates.strftime("%m-%d")])
    for easter in ("2013-03-31", "2014-04-20", "2015-04-05"):
        for shift, kind in ((-2, 2), (1, 2), (39, 1), (50, 1)):
            national[dates == pd.Timestamp(easter) + pd.Timedelta(days=shift)] = kind
    regional = [np.where(np.isin(dates.strftime("%m-%d"), extra), 1, national) for extra in ([], ["01-06"], ["11-01"], ["10-31"], ["08-15", "11-01", "01-06"])]
    school = []
    for region in range(5):
        off = np.zeros(days)
        for year in (2013, 2014, 2015):
            for start, length in ((f"{year}-01-01", 5), (f"{year}-03-25", 12), (f"{year}-06-{20 + 2 * region}", 43), (f"{year}-10-{4 + 3 * region:02d}", 13), (f"{year}-12-22", 12)):
                first = (pd.Timestamp(start) - dates[0]).days + int(rng.integers(-2, 3))
                off[max(first, 0) : max(first + length, 0)] = 1
        school.append(off * (dow < 5))
    into = dates.dayofyear.to_numpy()
    payday = 0.06 * (dates.day.to_numpy() <= 3) + 0.05 * (dates.days_in_month.to_numpy() - dates.day.to_numpy() < 2)
    december = np.exp(-(((into - 352) / 9.0) ** 2))
    shared = np.array([0.12, 0.0, -0.04, -0.03, 0.02, -0.02, 0.25])
    by_weekday = np.array([1.5, 1.1, 0.95, 0.9, 0.75, 0.0, 0.0])
    frames = []
    for n in range(series):
        region = int(rng.integers(5))
        holiday, away = regional[region], school[region]
        sundays = rng.random() < 0.03
        closed = ((dow == 6) & (not sundays)) | ((holiday > 0) & (rng.random() > 0.02))
        if rng.random() < 0.06:  # rebuilt, told as closed days
            first = int(rng.integers(60, days - 60))
            closed[first : first + int(rng.integers(10, 40))] = True
        lift = max(rng.normal(0.32, 0.12), 0.0) * by_weekday * np.exp(rng.normal(0, 0.12, 7))
        first_day = promo & ~np.r_[False, promo[:-1]]
        profile = shared * rng.uniform(0.4, 1.6) + rng.normal(0, 0.03, 7)
        annual = 0.06 * rng.uniform(0.2, 1.8) * np.sin(2 * np.pi * (into - 110) / 365.25) + 0.33 * rng.uniform(0.3, 1.7) * december
        walk = np.cumsum(rng.normal(0, 0.003, days)) + rng.normal(0.02, 0.05) * t / 365
        for _ in range(rng.poisson(0.5)):
            walk[int(rng.integers(days)) :] += rng.normal(-0.06, 0.1)
        beside = 0.07 * np.r_[closed[1:], False] * (dow != 5) + 0.09 * np.r_[False, closed[:-1]] * (dow != 0)
        error = rng.normal(0, rng.uniform(0.06, 0.11), days)
        for k in range(1, days):
            error[k] += 0.3 * error[k - 1]
        log = rng.normal(8.6, 0.4) + profile[dow] + annual + walk + promo * lift[dow] * (1 - 0.35 * december) + 0.04 * first_day
        log = log + beside * rng.uniform(0.3, 1.7) + payday * rng.uniform(0.0, 2.0) + away * rng.normal(0.03, 0.03) + error
        frame = pd.DataFrame({
            "series_id": f"store {n:04d}", "ds": dates, "y": np.where(closed, 0.0, np.round(np.exp(log))),
            "promo": promo.astype(float), "open": 1.0 - closed, "holiday": holiday.astype(float), "school_holiday": away,
        })
        if rng.random() < 0.16:
            frame = frame[(dates < "2014-07-01") | (dates > "2014-12-31")]
        frames.append(frame)
    return Data("stores", pd.concat(frames, ignore_index=True), "D", 42, 7, ("promo", "open", "holiday", "school_holiday"))


def store_departments(series: int = 120, weeks: int = 143, seed: int = 11) -> Data:
    """Simulated weekly sales of departments of a chain's stores: seasons that a department's stores share, holiday weeks that move, markdowns that
    are recorded for the last year and a half only, a drifting level, departments that hardly sell. No claim about real shops rests on it."""
    rng = np.random.default_rng(seed)
    dates = pd.date_range("2010-02-05", periods=weeks, freq="7D")
    into = 2 * np.pi * dates.dayofyear.to_numpy() / 365.25
    holidays = {"bowl": ("02-12", "02-11", "02-10"), "labor": ("09-10", "09-09", "09-07"), "thanks": ("11-26", "11-25", "11-23"), "christmas": ("12-31", "12-30", "12-28")}
    marks = {name: np.isin(dates.strftime("%Y-%m-%d"), [f"{2010 + k}-{d}" for k, d in enumerate(days)]) for name, days in holidays.items()}
    holiday = np.any(list(marks.values()), axis=0).astype(float)
    before = np.roll(marks["christmas"], -1) | (np.roll(marks["christmas"], -2))
    easter = np.isin(dates.strftime("%Y-%m-%d"), ["2010-04-02", "2011-04-22", "2012-04-06"])
    shops, kinds = 12, -(-series // 12)
    downs = []
    for _ in range(shops):
        recorded = t_from = np.arange(weeks) >= 92
        first = np.where(t_from & (rng.random(weeks) < 0.9), np.round(np.exp(rng.normal(8.3, 0.9, weeks))), 0.0)
        second = np.where(t_from & (rng.random(weeks) < 0.35 + 0.4 * before), np.round(np.exp(rng.normal(6.5, 1.5, weeks))), 0.0)
        downs.append((np.where(recorded, first, np.nan), np.where(recorded, second, np.nan)))
    frames = []
    for kind in range(kinds):
        swing, sharp = rng.gamma(1.5, 0.12), rng.gamma(1.0, 0.2)
        wave = sum(rng.normal(0, swing / k) * np.sin(k * into) + rng.normal(0, swing / k) * np.cos(k * into) for k in (1, 2, 3))
        spikes = (marks["thanks"] * rng.normal(0.5, 1) + before * rng.normal(0.8, 1) - marks["christmas"] * abs(rng.normal(0.5, 0.5))
                  + marks["bowl"] * rng.normal(0.3, 0.5) + marks["labor"] * rng.normal(0.2, 0.4) + easter * rng.normal(0.4, 0.6)) * sharp
        size, noise, lift = rng.normal(9, 1.4), rng.choice([0.04, 0.07, 0.12, 0.25, 0.5]), abs(rng.normal(0, 0.06))
        for shop in range(shops):
            if len(frames) == series:
                break
            walk = np.cumsum(rng.normal(0, 0.012, weeks)) + rng.normal(0, 0.04) * np.arange(weeks) / 52
            down = np.nan_to_num(np.log1p(downs[shop][0])) / 9
            log = size + 0.5 * np.sin(shop) + wave * rng.uniform(0.7, 1.3) + spikes * rng.uniform(0.6, 1.4) + walk + lift * down + rng.normal(0, noise, weeks)
            y = np.round(np.exp(log), 2)
            if noise == 0.5:
                y = np.where(rng.random(weeks) < 0.2, 0.0, y)
            y = np.where(rng.random(weeks) < 0.002, -np.round(rng.gamma(1, 20), 2), y)
            frames.append(pd.DataFrame({"series_id": f"{shop:02d} | {kind:02d}", "ds": dates, "y": y, "holiday": holiday,
                                        "markdown1": downs[shop][0], "markdown2": downs[shop][1]}))
    return Data("store_departments", pd.concat(frames, ignore_index=True), "W", 8, 52, ("holiday", "markdown1", "markdown2"))


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
MADE = {f.__name__: f for f in (stores, store_departments)}
