"""Clean reviews.

Headline and text are repaired and tidied, `text_normalised` is the text in NFKC; languages become ISO 639-1. A verdict
without the time it became known counts from the end of the night that delivered it. Rules, first reason wins:

    exact_duplicate, missing_required, not_a_product, from_the_future, too_old, rating_out_of_range,
    empty_review (neither stars nor a word), superseded
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
from nightmarket.clean.text import text_forms
from nightmarket.clean.values import identifier, label_known_at, language, tidy
from nightmarket.contracts import RAW_REVIEWS, REVIEWS
from nightmarket.shop import CleanRules


def clean_reviews(bronze: DataFrame, rules: CleanRules, zone: str, home: str) -> Cleaned:
    """Silver reviews of all nights in `bronze`. `home` is not used: reviews have no prices."""
    frame = with_raw(bronze, RAW_REVIEWS)
    for name in ("review_id", "item_id"):
        frame = frame.withColumn(name, tidy(F.col(name)))
    for name in ("user_id", "order_id"):
        frame = frame.withColumn(name, identifier(F.col(name)))
    frame = frame.withColumn("language", language(F.col("language"))).withColumn(
        "label_known_at", label_known_at(F.col("is_fake"), zone)
    )
    says_nothing = F.col("rating").isNull() & tidy(F.col("title")).isNull() & tidy(F.col("text")).isNull()
    judged = judge(frame, RAW_REVIEWS, [
        exact_duplicate(RAW_REVIEWS),
        *missing(RAW_REVIEWS),
        not_a_product(rules),
        from_the_future("review_ts", rules, zone),
        too_old("review_ts", rules, zone),
        in_bounds(RAW_REVIEWS, "rating"),
        Rule("empty_review", "rating, title, text: all missing", says_nothing),
    ])
    rows = good(judged).withColumn("__text", text_forms(F.col("text"), lower=False))
    rows = (
        rows.withColumn("title", text_forms(F.col("title"), lower=False)["shown"])
        .withColumn("text", F.col("__text.shown"))
        .withColumn("text_normalised", F.col("__text.compared"))
    )
    return part(judged, rows, REVIEWS)
