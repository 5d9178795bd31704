"""Clean products.

Titles, categories and brands are repaired and tidied, `title_normalised` is the title in NFKC and lower case, languages become
ISO 639-1 (null where they are no language), prices are converted to the shop's currency. Rules, first reason wins:

    exact_duplicate, missing_required, not_a_product, unknown_currency (only where there is a price),
    list_price_out_of_range, superseded
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nightmarket.clean.judging import (
    Cleaned,
    Rule,
    exact_duplicate,
    good,
    in_bounds,
    judge,
    missing,
    not_a_product,
    part,
    with_raw,
)
from nightmarket.clean.text import text_forms
from nightmarket.clean.values import converted, currency, is_foreign, language, tidy
from nightmarket.contracts import ITEMS, RAW_ITEMS
from nightmarket.shop import CleanRules


def clean_items(bronze: DataFrame, rules: CleanRules, zone: str, home: str) -> Cleaned:
    """Silver items of all nights in `bronze`."""
    frame = with_raw(bronze, RAW_ITEMS)
    code = F.coalesce(currency(F.col("currency")), F.lit(home))
    has_price = F.col("__raw.list_price").isNotNull()
    frame = (
        frame.withColumn("item_id", tidy(F.col("item_id")))
        .withColumn("language", language(F.col("language")))
        .withColumn("__foreign", is_foreign(code, rules.exchange_rates, home) & has_price)
        .withColumn("list_price", converted(F.col("list_price"), code, rules.exchange_rates, home))
        .withColumn("currency", F.lit(home))
    )
    bounds = in_bounds(RAW_ITEMS, "list_price")
    beyond_money = F.col("list_price").isNull() & has_price
    judged = judge(frame, RAW_ITEMS, [
        exact_duplicate(RAW_ITEMS),
        *missing(RAW_ITEMS),
        not_a_product(rules),
        Rule("unknown_currency", "currency: no exchange rate", F.col("__foreign")),
        Rule(bounds.reason, bounds.detail, beyond_money | F.coalesce(bounds.broken, F.lit(False))),
    ])
    rows = good(judged).withColumn("__title", text_forms(F.col("title"), lower=True))
    for name in ("category", "brand"):
        rows = rows.withColumn(name, text_forms(F.col(name), lower=False)["shown"])
    rows = rows.withColumn("title", F.col("__title.shown")).withColumn("title_normalised", F.col("__title.compared"))
    return part(judged, rows, ITEMS)
