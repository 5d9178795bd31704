"""Clean orders.

`is_cancellation`: order_id matches one of `cancellations` as a whole; where the shop gives none, a negative amount says it.
A verdict without the time it became known counts from the end of the night that delivered it, never earlier. A time
without a verdict is dropped. Rules, first reason wins:

    exact_duplicate, missing_required, from_the_future, too_old, unknown_currency (only where there is an amount),
    amount_out_of_range, line_count_out_of_range, superseded
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from nightmarket.clean.judging import (
    Cleaned,
    Rule,
    exact_duplicate,
    from_the_future,
    good,
    in_bounds,
    judge,
    missing,
    part,
    too_old,
    with_raw,
)
from nightmarket.clean.values import (
    converted,
    country,
    country_code,
    currency,
    identifier,
    is_foreign,
    label_known_at,
    local_date,
    tidy,
)
from nightmarket.contracts import ORDERS, RAW_ORDERS
from nightmarket.shop import CleanRules


def clean_orders(bronze: DataFrame, rules: CleanRules, zone: str, home: str) -> Cleaned:
    """Silver orders of all nights in `bronze`."""
    frame = with_raw(bronze, RAW_ORDERS)
    for name in ("user_id", "device_id", "ip_address", "card_id", "shipping_address"):
        frame = frame.withColumn(name, identifier(F.col(name)))
    method = F.regexp_replace(F.lower(identifier(F.col("payment_method"))), r"[\s-]+", "_")
    code = F.coalesce(currency(F.col("currency")), F.lit(home))
    has_amount = F.col("__raw.amount").isNotNull()
    frame = (
        frame.withColumn("order_id", tidy(F.col("order_id")))
        .withColumn("country", country(F.col("country"), rules.country_aliases))
        .withColumn("ip_country", country_code(F.col("ip_country"), rules.country_aliases))
        .withColumn("payment_method", method)
        .withColumn("__foreign", is_foreign(code, rules.exchange_rates, home) & has_amount)
        .withColumn("amount", converted(F.col("amount"), code, rules.exchange_rates, home))
        .withColumn("currency", F.lit(home))
        .withColumn("label_known_at", label_known_at(F.col("is_fraud"), zone))
    )
    amount = in_bounds(RAW_ORDERS, "amount")
    beyond_money = F.col("amount").isNull() & has_amount
    judged = judge(frame, RAW_ORDERS, [
        exact_duplicate(RAW_ORDERS),
        *missing(RAW_ORDERS),
        from_the_future("order_ts", rules, zone),
        too_old("order_ts", rules, zone),
        Rule("unknown_currency", "currency: no exchange rate", F.col("__foreign")),
        Rule(amount.reason, amount.detail, beyond_money | F.coalesce(amount.broken, F.lit(False))),
        in_bounds(RAW_ORDERS, "line_count"),
    ])
    rows = good(judged).withColumn("order_date", local_date(F.col("order_ts"), zone))
    return part(judged, rows.withColumn("is_cancellation", is_cancellation(rules)), ORDERS)


def is_cancellation(rules: CleanRules) -> Column:
    """Whether an order takes back an earlier one; never null."""
    if not rules.cancellations:
        return F.coalesce(F.col("amount") < 0, F.lit(False))
    matches = F.lit(False)
    for pattern in rules.cancellations:
        matches = matches | F.col("order_id").rlike(f"(?i)^(?:{pattern})$")
    return matches
