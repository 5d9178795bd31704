"""The stated robust rule for outliers: a value beyond median + k x 1.4826 MAD of log1p, by item.

Median and MAD are of log1p because quantities and prices spread by factors. An item with fewer than `MINIMUM_ROWS` values
in the group says too little about itself: then the statistics of all items of the group hold. The scale is never below
`MINIMUM_SCALE`, or an item always bought once would make two of it an outlier: at k = 12 a value within a factor of twenty
of the median always passes. 1.4826 makes the MAD of a normal distribution its standard deviation (Rousseeuw and Croux,
"Alternatives to the Median Absolute Deviation", 1993).
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

MINIMUM_ROWS = 20
MINIMUM_SCALE = 0.25
MAD_TO_SIGMA = 1.4826


def _bound(median: Column, mad: Column, mads: float) -> Column:
    return F.expm1(median + F.lit(mads) * F.greatest(F.lit(MAD_TO_SIGMA) * mad, F.lit(MINIMUM_SCALE)))


def bounds(values: DataFrame, column: str, group: Sequence[str], mads: float, minimum_rows: int = 1) -> DataFrame:
    """Largest ordinary value by `group`: columns of `group` and `bound`, for groups with at least `minimum_rows` values.

    Values must be at least 0; nulls do not count. Quantiles are exact, so the result does not depend on the order of rows.
    """
    logs = values.where(F.col(column).isNotNull()).select(*group, F.log1p(F.col(column).cast("double")).alias("__log"))
    centre = logs.groupBy(*group).agg(F.expr("percentile(__log, 0.5)").alias("__median"), F.count("*").alias("__rows"))
    centre = centre.where(F.col("__rows") >= minimum_rows).drop("__rows")
    spread = (
        logs.join(F.broadcast(centre), list(group)) if group else logs.crossJoin(F.broadcast(centre))
    ).groupBy(*group, "__median").agg(F.expr("percentile(abs(__log - __median), 0.5)").alias("__mad"))
    return spread.select(*group, _bound(F.col("__median"), F.col("__mad"), mads).alias("bound"))


def with_bound(rows: DataFrame, values: DataFrame, column: str, group: Sequence[str], mads: float, name: str) -> DataFrame:
    """`rows` with `name`: the bound of `column` for the row's item, else for its `group`; null where neither has values.

    `values` are the rows that the statistics are of; both frames have `item_id` and the columns of `group`.
    """
    by_item = bounds(values, column, [*group, "item_id"], mads, MINIMUM_ROWS).withColumnRenamed("bound", "__own")
    of_all = bounds(values, column, group, mads).withColumnRenamed("bound", "__all")
    joined = rows.join(F.broadcast(by_item), [*group, "item_id"], "left")
    joined = joined.join(F.broadcast(of_all), list(group) if group else F.lit(True), "left")
    return joined.withColumn(name, F.coalesce("__own", "__all")).drop("__own", "__all")
