"""The stated robust rule for outliers: a value beyond median + k x 1.4826 MAD of log1p, by item.

Median and MAD are of log1p because quantities and prices spread by factors. An item with fewer than `MINIMUM_ROWS` values
in the group says too little about itself: then the statistics of all items of the group hold. The scale is never below
`MINIMUM_SCALE`, or an item always bought once would make two of it an outlier: at k = 12 a value within a factor of twenty
of the median always passes. 1.4826 makes the MAD of a normal distribution its standard deviation (Rousseeuw and Croux,
"Alternatives to the Median Absolute Deviation", 1993).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

MINIMUM_ROWS = 20
MINIMUM_SCALE = 0.25
MAD_TO_SIGMA = 1.4826


def with_bounds(rows: DataFrame, values: Mapping[str, Column], group: Sequence[str], mads: float) -> DataFrame:
    """`rows` with, for each named value, the largest ordinary one as a double: of the row's item, else of its `group`.

    `values` are expressions over `rows`, at least 0, null where a row does not count. `rows` has `item_id` and the columns
    of `group`; an empty group is all rows. A bound is null where nothing counts. Quantiles are exact, so neither order nor
    partitioning of the rows matters.
    """
    logs = rows.select(*group, "item_id", *[F.log1p(v.cast("double")).alias(f"__log_{n}") for n, v in values.items()])
    own = _bounds(logs, values, [*group, "item_id"], mads, MINIMUM_ROWS, "__own_")
    shared = _bounds(logs, values, group, mads, 1, "__all_")
    joined = rows.join(own, [*group, "item_id"], "left")
    joined = joined.join(F.broadcast(shared), list(group) if group else F.lit(True), "left")
    for name in values:
        joined = joined.withColumn(name, F.coalesce(f"__own_{name}", f"__all_{name}")).drop(f"__own_{name}", f"__all_{name}")
    return joined


def _bounds(
    logs: DataFrame, names: Sequence[str] | Mapping[str, Column], by: Sequence[str], mads: float, minimum_rows: int, prefix: str
) -> DataFrame:
    """Columns of `by`, and `<prefix><name>` for groups with at least `minimum_rows` values of it."""
    medians = [F.expr(f"percentile(__log_{n}, 0.5)").alias(f"__median_{n}") for n in names]
    counts = [F.count(f"__log_{n}").alias(f"__rows_{n}") for n in names]
    centre = logs.groupBy(*by).agg(*medians, *counts)
    enough = F.lit(False)
    for n in names:
        enough = enough | (F.col(f"__rows_{n}") >= minimum_rows)
    centre = centre.where(enough)
    apart = logs.join(centre, list(by)) if by else logs.crossJoin(centre)
    kept = [f"__{what}_{n}" for n in names for what in ("median", "rows")]
    spread = apart.groupBy(*by, *kept).agg(
        *[F.expr(f"percentile(abs(__log_{n} - __median_{n}), 0.5)").alias(f"__mad_{n}") for n in names]
    )
    return spread.select(*by, *[
        F.when(F.col(f"__rows_{n}") >= minimum_rows, _bound(F.col(f"__median_{n}"), F.col(f"__mad_{n}"), mads)).alias(prefix + n)
        for n in names
    ])


def _bound(median: Column, mad: Column, mads: float) -> Column:
    return F.expm1(median + F.lit(mads) * F.greatest(F.lit(MAD_TO_SIGMA) * mad, F.lit(MINIMUM_SCALE)))
