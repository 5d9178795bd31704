"""Clean events.

Values first: text tidied, event types by their customary names, countries by alias and default, currencies converted,
signs set (returns are negative, whatever the shop writes; a purchase of a negative quantity becomes a return where
`split_returns` says so). Then the rules, the first that a row breaks is its reason:

    exact_duplicate        every delivered column equals another row of the night; the last is kept
    missing_required       the key, event_ts, event_type or item_id is missing or blank
    unknown_event_type     not a view, cart, purchase or return under any customary name
    not_a_product          item_id matches one of `not_products` (whole, whatever the case)
    from_the_future        event_ts more than `max_future_minutes` after the end of the night's day in the shop's zone
    too_old                event_ts more than `oldest_days` before the beginning of that day
    unknown_currency       neither the shop's currency nor one with an exchange rate
    zero_or_negative_price a purchase or return that costs nothing or less: gifts, write-offs, adjustments
    unit_price_out_of_range
    quantity_zero          a cart, purchase or return of nothing
    negative_quantity      a view or cart of less than nothing; a purchase too, where `split_returns` is off
    quantity_out_of_range
    superseded             a newer version of the key came in the same night

`filled` names what was missing and filled: `quantity` (1, or -1 for a return; 0 units of a view are as good as none said),
`country` (`default_country`), `currency` (the shop's). Missing shoppers, orders, sessions and prices stay null: null says
"not known". `is_outlier` flags a quantity or price beyond the rule of `clean.outliers`, with the statistics of the night's own
good rows only: nothing later, nothing earlier, so that a night gives the same flags whenever it is run.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
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
    not_a_product,
    part,
    too_old,
    with_raw,
)
from nightmarket.clean.outliers import with_bounds
from nightmarket.clean.values import converted, country, currency, event_type, identifier, is_foreign, local_date, tidy
from nightmarket.contracts import EVENT_TYPES, EVENTS, RAW_EVENTS
from nightmarket.shop import CleanRules


def clean_events(bronze: DataFrame, rules: CleanRules, zone: str, home: str) -> Cleaned:
    """Silver events of all nights in `bronze`. `zone` is the shop's IANA time zone, `home` its currency."""
    frame = _values(with_raw(bronze, RAW_EVENTS), rules, home)
    judged = judge(frame, RAW_EVENTS, _rules(rules, zone))
    rows = good(judged)
    is_traded = F.col("event_type").isin("purchase", "return")
    rows = rows.withColumn("event_date", local_date(F.col("event_ts"), zone)).withColumn(
        "revenue",
        F.when(is_traded, (F.col("quantity").cast("decimal(10,0)") * F.col("unit_price")).cast("decimal(28,8)"))
        .otherwise(F.lit(0).cast("decimal(28,8)")),
    )
    return part(judged, _flagged(rows, rules.outlier_mads), EVENTS)


def _values(frame: DataFrame, rules: CleanRules, home: str) -> DataFrame:
    """The clean values, `filled`, and `__foreign` for a currency without a rate. Each step reads what the one before made."""
    words = ("user_id", "order_id", "session_id", "referrer", "device_id", "ip_address")
    said_currency = currency(F.col("currency"))
    code = F.coalesce(said_currency, F.lit(home))
    frame = frame.withColumns({
        "event_id": tidy(F.col("event_id")),
        "item_id": tidy(F.col("item_id")),
        **{name: identifier(F.col(name)) for name in words},
        "event_type": event_type(F.col("event_type")),
        "country": country(F.col("country"), rules.country_aliases),
        "__no_currency": said_currency.isNull(),
        "__foreign": is_foreign(code, rules.exchange_rates, home),
        "unit_price": converted(F.col("unit_price"), code, rules.exchange_rates, home),
        "currency": F.lit(home),
    })
    kind, said = F.col("event_type"), F.col("quantity")
    no_quantity = said.isNull() | ((kind == "view") & (said == 0))
    counted = F.when(no_quantity, F.lit(1)).otherwise(said).cast("long")
    goes_back = kind == "return"
    if rules.split_returns:
        goes_back = goes_back | ((kind == "purchase") & F.coalesce(said < 0, F.lit(False)))
    no_country = F.col("country").isNull() & F.lit(rules.default_country is not None)
    filled = {"country": no_country, "currency": F.col("__no_currency"), "quantity": no_quantity}
    return frame.withColumns({
        "country": F.coalesce("country", F.lit(rules.default_country)),
        "event_type": F.when(goes_back, F.lit("return")).otherwise(kind),
        "quantity": F.when(goes_back, -F.abs(counted)).otherwise(counted),
        "filled": F.array_compact(F.array(*[F.when(missed, F.lit(name)) for name, missed in filled.items()])),
    }).drop("__no_currency")


def _rules(rules: CleanRules, zone: str) -> list[Rule]:
    kind, quantity, price = F.col("event_type"), F.col("quantity"), F.col("unit_price")
    traded = kind.isin("purchase", "return")
    beyond_money = price.isNull() & F.col("__raw.unit_price").isNotNull()
    price_bounds = in_bounds(RAW_EVENTS, "unit_price")
    return [
        exact_duplicate(RAW_EVENTS),
        *missing(RAW_EVENTS),
        Rule("unknown_event_type", "event_type: not one of " + ", ".join(EVENT_TYPES), ~kind.isin(*EVENT_TYPES)),
        not_a_product(rules),
        from_the_future("event_ts", rules, zone),
        too_old("event_ts", rules, zone),
        Rule("unknown_currency", "currency: no exchange rate", F.col("__foreign")),
        Rule("zero_or_negative_price", "unit_price: not above 0", traded & (price <= 0)),
        Rule(price_bounds.reason, price_bounds.detail, beyond_money | F.coalesce(price_bounds.broken, F.lit(False))),
        Rule("quantity_zero", "quantity: 0", quantity == 0),
        Rule("negative_quantity", "quantity: below 0", (kind != "return") & (quantity < 0)),
        in_bounds(RAW_EVENTS, "quantity"),
    ]


def _flagged(rows: DataFrame, mads: float) -> DataFrame:
    """`is_outlier` by item and night; views have no quantity to speak of."""
    units = F.when(F.col("event_type") != "view", F.abs("quantity"))
    values = {"__most_units": units, "__highest_price": F.col("unit_price")}
    many = units > F.col("__most_units")
    dear = F.col("unit_price") > F.col("__highest_price")
    flag = F.coalesce(many, F.lit(False)) | F.coalesce(dear, F.lit(False))
    return with_bounds(rows, values, ["delivered_on"], mads).withColumn("is_outlier", flag)
