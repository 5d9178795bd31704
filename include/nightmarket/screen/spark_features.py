"""The features of `features` as a Spark job: DataFrame in, DataFrame out, nothing collected.

Each row goes once to the bucket of each of its entities, and a bucket is described by the very functions of `features`: the past of
an entity is what its features are made of, so a bucket lacks nothing. Sums are of 64-bit integers, so the buckets' number and order
change no bit. Groups of linked entities need all links; those are numbers (40 bytes a row and two entities) and are followed in one task.

Definitions are those where labels follow: every night knows the labels of the night before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nightmarket.screen import features
from nightmarket.screen.features import HOUR, Matrix, Recipe
from nightmarket.screen.table import Rows
from nightmarket.screen.windows import DAY, Moments

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import Column, DataFrame

GROUP = ("group.members", "group.known_bad")


def names(recipe: Recipe) -> list[str]:
    """Names of the values that `build` makes, in their order."""
    made = [*recipe.numbers, *(f"hours_since.{n}" for n in recipe.elapsed), "hour", "weekday"]
    for entity in recipe.entities:
        made += _of_entity(_nobody(recipe), recipe, entity).names
    return made + (list(GROUP) if recipe.graph else [])


def build(frame: DataFrame, recipe: Recipe, buckets: int = 4) -> DataFrame:
    """`row_id` and `values` (array of float, named by `names`, NaN where unknown) of each row.

    `frame` has row_id, at (long, microseconds), label (double, null unknown), known_at (long), the recipe's entities (string, null for
    none), numbers (double), categories (string) and elapsed (double, seconds). Categories describe habits; they are no values of their
    own. `buckets`: how many parts the entities' rows are described in; each must fit into a task. Raises ValueError for a recipe whose
    labels do not follow.
    """
    from pyspark.sql import functions as F

    if not recipe.follow:
        raise ValueError("Spark's features are those of a night, whose labels follow: make the recipe with follow=True")
    frame = frame.withColumn("known_at", F.coalesce("known_at", F.lit(0)))
    needed = ["row_id", "at", "label", "known_at", "share", *(f"`{c}`" for c in (*recipe.entities, *recipe.leading, *recipe.categories))]
    asked = frame.join(_share(frame), "row_id").select(*needed)
    which = F.explode(F.array(*[F.struct(F.lit(i).alias("which"), F.col(f"`{e}`").alias("key")) for i, e in enumerate(recipe.entities)]))
    each = asked.select("*", which.alias("__of")).where("__of.key IS NOT NULL").select("*", F.col("__of.which").alias("which"))
    bucket = F.pmod(F.xxhash64("__of.which", "__of.key"), F.lit(buckets))
    kind = "row_id long, which int, values array<float>"
    plain = replace(recipe, graph=False)
    parts = each.withColumn("bucket", bucket).drop("__of").groupBy("bucket").applyInPandas(_describing(plain), kind)
    if recipe.graph:
        links = [F.xxhash64(F.lit(i), f"`{e}`").alias(f"n{i}") if not _within(e, recipe) else None for i, e in enumerate(recipe.entities)]
        nodes = [F.when(F.col(f"`{e}`").isNotNull(), link).alias(f"n{i}") for i, (e, link) in enumerate(zip(recipe.entities, links, strict=True))
                 if link is not None]
        bare = frame.select("row_id", "at", F.coalesce(F.col("label") == 1, F.lit(False)).alias("bad"), "known_at", *nodes)
        parts = parts.unionByName(bare.groupBy(F.lit(0).alias("all")).applyInPandas(_grouping(len(recipe.entities)), kind))
    found = parts.groupBy("row_id").agg(F.map_from_entries(F.collect_list(F.struct("which", "values"))).alias("__found"))
    widths = [len(_of_entity(_nobody(recipe), recipe, e)) for e in recipe.entities] + ([len(GROUP)] if recipe.graph else [])
    hours = F.col("at") % DAY / HOUR
    own: list[Column] = [*(F.col(f"`{n}`") for n in recipe.numbers), *(F.col(f"`{n}`") / 3600 for n in recipe.elapsed), hours,
                         (F.floor(F.col("at") / DAY) + 3) % 7]
    first = F.array(*[F.coalesce(_finite(c.cast("float")), F.lit(float("nan")).cast("float")) for c in own])
    unknown = F.lit(float("nan")).cast("float")
    rest = [F.coalesce(F.col("__found")[i], F.array_repeat(unknown, w)) for i, w in enumerate(widths)]
    return frame.join(found, "row_id", "left").select("row_id", F.concat(first, *rest).alias("values"))


def _finite(column: Column) -> Column:
    from pyspark.sql import functions as F

    return F.when(F.abs(column) != float("inf"), column)


def _within(entity: str, recipe: Recipe) -> bool:
    """Whether an entity is a part of another, such as an address of its network: it would link nothing anew."""
    return any(features.contains(entity, other) and len(other) < len(entity) for other in recipe.entities)


def _nobody(recipe: Recipe) -> Rows:
    return Rows.bare(np.zeros(1, np.int64), {e: np.full(1, -1, np.int64) for e in recipe.entities}, np.full(1, np.nan), np.zeros(1, np.int64),
                     {n: np.full(1, np.nan) for n in recipe.leading}, {c: (np.full(1, -1, np.int64), []) for c in recipe.categories})


def _of_entity(rows: Rows, recipe: Recipe, entity: str, share: np.ndarray | None = None) -> Matrix:
    made = Matrix()
    made.extend(features.of_entity(rows, recipe, entity, Moments(rows.times, rows.times)))
    known = features.risk(rows, replace(recipe, entities=(entity,)), np.zeros(len(rows)) if share is None else share)
    for name, values in known.items():
        made.add(name, values)
    return made


def _describing(recipe: Recipe):  # type: ignore[no-untyped-def]
    """The function of a bucket: rows of its entities in, `row_id`, `which` (entity) and `values` out, as pandas."""

    def describe(given: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        made = []
        for which, part in given.sort_values(["which", "at", "row_id"]).groupby("which", sort=True):
            entities = {e: pd.factorize(part[e])[0].astype(np.int64) for e in recipe.entities}
            categories: dict[str, tuple[np.ndarray, list[str]]] = {c: (pd.factorize(part[c])[0].astype(np.int64), []) for c in recipe.categories}
            rows = Rows.bare(part["at"].to_numpy(np.int64), entities, part["label"].to_numpy(np.float64), part["known_at"].to_numpy(np.int64),
                             {n: part[n].to_numpy(np.float64) for n in recipe.leading}, categories)
            values = _of_entity(rows, recipe, recipe.entities[int(which)], part["share"].to_numpy(np.float64)).array()
            made.append(pd.DataFrame({"row_id": part["row_id"].to_numpy(), "which": np.int32(which), "values": list(values)}))
        return pd.concat(made)

    return describe


def _grouping(which: int):  # type: ignore[no-untyped-def]
    def group(given: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        from nightmarket.screen.graph import groups

        given = given.sort_values(["at", "row_id"])
        entities = [pd.factorize(given[c])[0].astype(np.int64) for c in given.columns if c.startswith("n")]
        members, known = groups(given["at"].to_numpy(np.int64), entities, given["bad"].to_numpy(bool), given["known_at"].to_numpy(np.int64))
        values = list(np.column_stack([members, known]).astype(np.float32))
        return pd.DataFrame({"row_id": given["row_id"].to_numpy(), "which": np.int32(which), "values": values})

    return group


def _share(frame: DataFrame) -> DataFrame:
    """row_id and the share of bad among the labels that became known in the 30 days before its moment.

    Labels are rows of their own at the moment they became known, told half a microsecond after it: so a row at t sees those known before
    t and no other. This window has no key, so it is one task: of moments, not of rows, and it spills where they do not fit.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    labels = frame.where(F.col("label").isNotNull()).groupBy((F.col("known_at") * 2 + 1).alias("moment")).agg(
        F.count(F.lit(1)).alias("n"), F.sum((F.col("label") == 1).cast("long")).alias("bad"))
    moments = frame.select((F.col("at") * 2).alias("moment")).distinct().withColumn("asked", F.lit(True))
    month = Window.orderBy("moment").rangeBetween(-60 * DAY, 0)
    share = F.coalesce(F.sum("bad").over(month), F.lit(0)) / F.greatest(F.coalesce(F.sum("n").over(month), F.lit(0)), F.lit(1))
    told = labels.unionByName(moments, allowMissingColumns=True).select("moment", "asked", share.alias("share")).where("asked").drop("asked")
    return frame.select("row_id", (F.col("at") * 2).alias("moment")).join(told, "moment").select("row_id", "share")

