"""Series on a complete calendar: returns, missing and closed days, stock-outs, outliers, weeks and months, by hand and against pandas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nightmarket.contracts import DAILY_SALES, ITEMS
from nightmarket.forecast.sales_series import Calendar, calendar, netted, sales_series

D1 = date(2026, 3, 2)  # a Monday


def day(n: int) -> date:
    return D1 + timedelta(days=n)


def row(n: int, item: str = "A", country: str = "GB", sold: int = 1, back: int = 0, price: str = "2") -> dict[str, Any]:
    return {"sale_date": day(n), "item_id": item, "country": country, "units_sold": sold, "units_returned": back,
            "revenue_sold": Decimal(price) * sold, "revenue_returned": Decimal(price) * back, "order_count": 1}


def test_a_calendar_tells_missing_from_closed_days() -> None:
    sums = [(day(n), "GB", 10) for n in range(28) if n % 7 != 6 and n not in (15, 16)]
    sums += [(day(16), "GB", 2), (day(17), "FR", 90)]
    nights = {day(n) for n in range(28)} - {day(15), day(16), day(18)}
    made = calendar(sums, day(-5), day(27), nights, None)
    assert made.days == tuple(day(n) for n in range(28)) and made.country == "GB"
    told = dict(zip(range(28), made.status, strict=True))
    assert [n for n, s in told.items() if s == "closed"] == [6, 13, 20, 27]
    # 15: refused, nothing else; 16: refused, a few late rows; 18: refused, but all of it came late
    assert [n for n, s in told.items() if s == "missing"] == [15, 16]
    assert calendar([(day(0), "Mordor", 5), (day(1), "Germany", 1)], day(0), day(1), nights, None).country == "Germany"
    assert calendar(sums, day(0), day(27), nights, "FR").country == "FR"


@pytest.mark.spark
def test_a_return_takes_back_the_newest_sales_before_it(spark: Any) -> None:
    rows = [row(0, sold=5), row(2, sold=3), row(3, sold=0, back=4), row(4, sold=2, back=1), row(1, "B", sold=0, back=2), row(0, country="FR", sold=7),
            row(9, sold=100)]
    made = netted(spark.createDataFrame(rows, DAILY_SALES.ddl()), day(0), day(5), 12).toPandas()
    units = {(r.item_id, r.country, r.sale_date): (r.units, r.beyond) for r in made.itertuples()}
    assert units == {("A", "GB", day(0)): (4, 0), ("A", "GB", day(2)): (0, 0), ("A", "GB", day(3)): (0, 0), ("A", "GB", day(4)): (1, 0),
                     ("A", "FR", day(0)): (7, 0), ("B", "GB", day(1)): (0, 2)}
    assert made.revenue.sum() == (5 + 3 - 4 + 2 - 1 - 2 + 7) * 2


@pytest.mark.spark
def test_returns_against_a_loop(spark: Any) -> None:
    rng = np.random.default_rng(4)
    rows = [row(n, item, sold=int(rng.integers(0, 6)), back=int(rng.integers(0, 6))) for item in "ABC" for n in range(30)]
    made = netted(spark.createDataFrame(rows, DAILY_SALES.ddl()), day(0), day(29), 12).toPandas()
    for item in "ABC":
        mine = [r for r in rows if r["item_id"] == item]
        left, expected = 0, {}
        for r in reversed(mine):
            left += r["units_returned"]
            taken = min(left, r["units_sold"])
            expected[r["sale_date"]] = r["units_sold"] - taken
            left -= taken
        found = made[made.item_id == item]
        assert dict(zip(found.sale_date, found.units, strict=True)) == expected and found.beyond.sum() == left


def item_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [dict.fromkeys(ITEMS.column_names) | {"source_file": "i", "source_row": n} | r for n, r in enumerate(rows)]


@pytest.fixture(scope="module")
def made(spark: Any) -> pd.DataFrame:
    """Five weeks: A sells daily but on closed Sundays, a missing day 8 and days 14 to 19 without stock; B twice; C is an outlier once."""
    rows = [row(n, "A", sold=4) for n in range(35) if n % 7 != 6 and n not in (8, *range(14, 20))]
    rows += [row(10, "B", "FR", sold=1, price="1.8"), row(30, "B", "FR", sold=1), *(row(n, "C", sold=2) for n in range(0, 34, 3) if n % 7 != 6)]
    rows.append(row(24, "C", sold=50_000))
    plan = Calendar(tuple(day(n) for n in range(35)), tuple("missing" if n == 8 else "closed" if n % 7 == 6 else "open" for n in range(35)), "GB",
                    ("FR", "GB"))
    items = item_rows([
        {"item_id": "A", "category": "x", "list_price": Decimal(2), "in_stock": True, "delivered_on": day(0)},
        {"item_id": "B", "category": "y", "list_price": Decimal(2), "in_stock": True, "delivered_on": day(0)},
        {"item_id": "B", "category": "x", "list_price": Decimal(2), "in_stock": False, "delivered_on": day(32)},
    ])
    sold = netted(spark.createDataFrame(rows, DAILY_SALES.ddl()), day(0), day(34), 12)
    found: pd.DataFrame = sales_series(spark, sold, spark.createDataFrame(items, ITEMS.ddl()), plan, ("category", "country")).toPandas()
    return found


@pytest.mark.spark
def test_every_series_has_every_day_from_its_first_sale(made: pd.DataFrame) -> None:
    days = made[made.freq == "D"]
    counts = days.groupby(["level", "series_id"]).size().to_dict()
    assert counts == {("total", "*"): 35, ("item", "A"): 35, ("item", "B"): 25, ("item", "C"): 35, ("category", "x"): 35, ("category", "unknown"): 35,
                      ("country", "GB"): 35, ("country", "FR"): 25}
    assert not days.duplicated(["level", "series_id", "sale_date"]).any()
    missing = days[days.sale_date == day(8)]
    assert missing.units.isna().all() and missing.demand.isna().all() and (missing.status == "missing").all()
    sunday = days[(days.sale_date == day(6)) & (days.series_id == "A")].iloc[0]
    assert (sunday.status, sunday.units, sunday.demand) == ("closed", 0, 0.0)
    for level in ("item", "category", "country"):
        mine = days[days.level == level].groupby("sale_date").units.sum(min_count=1)
        total = days[days.level == "total"].set_index("sale_date").units
        assert (mine.reindex(total.index).fillna(0) == total.fillna(0)).all()


@pytest.mark.spark
def test_stock_outs_promotions_outliers_and_holidays(made: pd.DataFrame) -> None:
    days = made[made.freq == "D"].set_index(["series_id", "sale_date"])
    # A sells on 23 of 29 open days: six without are one chance in 13,000; B's gap of 19 days is nothing strange
    assert [n for n in range(35) if days.loc[("A", day(n))].stocked_out] == list(range(14, 20))
    assert np.isnan(days.loc[("A", day(17))].demand) and days.loc[("A", day(17))].units == 0
    assert [n for n in range(10, 35) if days.loc[("B", day(n))].stocked_out] == [32, 33, 34]
    assert days.loc[("B", day(10))].on_promotion and not days.loc[("B", day(30))].on_promotion and days.loc[("B", day(20))].unit_price == 1.8
    assert days.loc[("B", day(10))].category == "x", "of the newest catalogue"
    assert days.loc[("C", day(24))].units == 50_002 and days.loc[("C", day(24))].demand < 200
    assert days.loc[("*", day(24))].demand == days.loc[("A", day(24))].demand + days.loc[("C", day(24))].demand
    easter = date(2026, 4, 3)  # Good Friday, day 32: a holiday of GB, not of France
    assert days.loc[("GB", easter)].holiday and days.loc[("*", easter)].holiday and not days.loc[("FR", easter)].holiday


@pytest.mark.spark
def test_weeks_and_months_are_whole_and_unknown_where_a_day_is(made: pd.DataFrame) -> None:
    total = made[made.level == "total"]
    weeks = total[total.freq == "W"].set_index("sale_date")
    assert sorted(weeks.index) == [day(7 * k) for k in range(5)]
    days = total[total.freq == "D"].set_index("sale_date").units
    assert np.isnan(weeks.loc[day(7)].units) and weeks.loc[day(7)].status == "missing"
    for k in (0, 2, 3, 4):
        assert weeks.loc[day(7 * k)].units == sum(days[day(7 * k + n)] for n in range(7))
    assert total[total.freq == "MS"].empty, "March began before the calendar, April is not over"


@pytest.mark.spark
def test_days_after_the_night_change_nothing(spark: Any, make_settings: Callable[..., Any]) -> None:
    rows = [row(n, item, sold=1 + n % 3) for item in "AB" for n in range(0, 20, 2)]
    plan = calendar([(r["sale_date"], "GB", r["units_sold"]) for r in rows], day(0), day(19), {day(n) for n in range(20)}, None)
    none = spark.createDataFrame([], ITEMS.ddl())

    def made(more: list[dict[str, Any]]) -> list[Any]:
        sold = netted(spark.createDataFrame(rows + more, DAILY_SALES.ddl()), day(0), day(19), 12)
        return sorted(map(tuple, sales_series(spark, sold, none, plan, ("country",)).drop("unit_price").collect()), key=str)

    assert made([row(n, "A", sold=900) for n in range(20, 30)]) == made([])
