"""Clean shoppers. Personal columns arrive as pseudonyms or encrypted and pass as they are.

Rules, first reason wins: exact_duplicate, missing_required, from_the_future (signed up after the night), superseded.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nightmarket.clean.judging import Cleaned, exact_duplicate, from_the_future, good, judge, missing, part, with_raw
from nightmarket.clean.values import country, country_code, identifier
from nightmarket.contracts import RAW_USERS, USERS
from nightmarket.shop import CleanRules


def clean_users(bronze: DataFrame, rules: CleanRules, zone: str, home: str) -> Cleaned:
    """Silver users of all nights in `bronze`. `home` is not used: shoppers have no prices."""
    frame = with_raw(bronze, RAW_USERS).withColumn("country", country(F.col("country"), rules.country_aliases))
    frame = frame.withColumn("ip_country", country_code(F.col("ip_country"), rules.country_aliases))
    for name in ("user_id", "age_group", "income_group", "referrer"):
        frame = frame.withColumn(name, identifier(F.col(name)))
    judged = judge(frame, RAW_USERS, [
        exact_duplicate(RAW_USERS), *missing(RAW_USERS), from_the_future("signed_up_at", rules, zone),
    ])
    return part(judged, good(judged), USERS)
