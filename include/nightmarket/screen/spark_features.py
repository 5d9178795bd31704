"""The features of `features` as a Spark job: DataFrame in, DataFrame out, nothing collected.

Each row goes once to the bucket of each of its entities, and a bucket is described by the very functions of `features`: the past of
an entity is what its features are made of, so a bucket lacks nothing. Sums are of 64-bit integers, so the buckets' number and order
change no bit. What needs all rows of a kind, groups of linked entities and the share of bad ones, is numbers (about 80 bytes a row) and is
followed in one task a kind. All kinds are described in one pass: plans cost more than rows do.

Definitions are those where labels follow: every night knows the labels of the night before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from nightmarket.screen import features
from nightmarket.screen.features import HOUR, Recipe
from nightmarket.screen.parts import Matrix
from nightmarket.screen.table import Rows
from nightmarket.screen.windows import DAY, Moments

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

GROUP = ("group.members", "group.known_bad")
_FLOATS = pa.list_(pa.float32())


def names(recipe: Recipe) -> list[str]:
    """Names of the values that `build` makes, in their order."""
    made = [*recipe.numbers, *(f"hours_since.{n}" for n in recipe.elapsed), "hour", "weekday"]
    for entity in recipe.entities:
        made += _of_entity(_nobody(recipe), recipe, entity).names
    return made + (list(GROUP) if recipe.graph else [])


def build(frame: DataFrame, recipes: Mapping[str, Recipe], buckets: int = 4) -> DataFrame:
    """`frame` with `values` (array of float, named by `names`, NaN where unknown).

    `frame` has kind (a key of `recipes`), row_id, at (long, microseconds), label (double, null unknown), known_at (long), and lists in the order of
    the kind's recipe: entities and categories (string, null for none), numbers and leading (double), elapsed (double, seconds). Categories
    describe habits; they are no values of their own. `buckets`: how many parts the entities' rows are described in; each must fit into a
    task. Raises ValueError for a recipe whose labels do not follow.
    """
    from pyspark.sql import functions as F

    if not all(r.follow for r in recipes.values()):
        raise ValueError("Spark's features are those of a night, whose labels follow: make the recipe with follow=True")
    which = F.array_position(F.array(*[F.lit(k) for k in recipes]), F.col("kind")).cast("int") - 1
    bare = frame.select(which.alias("subject"), "row_id", "at", F.coalesce("label", F.lit(float("nan"))).alias("label"), F.coalesce("known_at", F.lit(0)).alias("known_at"),
                        _hashed("entities").alias("keys"), F.transform("leading", _known).alias("leading"), _hashed("categories").alias("habits"))
    given = list(recipes.values())
    links = bare.select("subject", "row_id", "at", "label", "known_at", "keys").groupBy("subject").applyInArrow(
        _linking(given), "subject int, row_id long, share double, groups array<float>")
    each = bare.join(links, ["subject", "row_id"]).select("*", F.posexplode("keys").alias("which", "key"))
    bucket = F.pmod(F.xxhash64("subject", "which", F.when(F.col("key") == 0, F.col("row_id")).otherwise(F.col("key"))), F.lit(buckets))
    parts = each.withColumn("bucket", bucket).drop("key").groupBy("bucket").applyInArrow(
        _describing(given), "subject int, row_id long, which int, values array<float>")
    ordered = F.sort_array(F.collect_list(F.struct("which", "values")))
    found = parts.groupBy("subject", "row_id").agg(F.flatten(F.transform(ordered, lambda part: part["values"])).alias("__rest"))
    own = F.concat("numbers", F.transform("elapsed", lambda seconds: seconds / 3600), F.array(F.col("at") % DAY / HOUR, ((F.floor(F.col("at") / DAY) + 3) % 7).cast("double")))
    values = F.concat(F.transform(own, lambda v: _known(v).cast("float")), F.coalesce("__rest", F.array().cast("array<float>")))
    return frame.withColumn("subject", which).join(found, ["subject", "row_id"], "left").withColumn("values", values).drop("subject", "__rest")


def _known(column: Column) -> Column:
    """NaN where it is null or infinite, as a float would say."""
    from pyspark.sql import functions as F

    return F.when(F.abs(column.cast("float")) != float("inf"), column).otherwise(F.lit(float("nan")))


def _hashed(column: str) -> Column:
    """Hashes (long) of a list's words; 0 for none."""
    from pyspark.sql import functions as F

    return F.transform(column, lambda word: F.when(word.isNull(), F.lit(0).cast("long")).otherwise(F.xxhash64(word)))


def _nobody(recipe: Recipe) -> Rows:
    return Rows.bare(np.zeros(1, np.int64), {e: np.full(1, -1, np.int64) for e in recipe.entities}, np.full(1, np.nan), np.zeros(1, np.int64),
                     {n: np.full(1, np.nan) for n in recipe.leading}, {c: (np.full(1, -1, np.int64), []) for c in recipe.categories})


def _of_entity(rows: Rows, recipe: Recipe, entity: str, share: np.ndarray | None = None) -> Matrix:
    made = Matrix()
    made.extend(features.of_entity(rows, recipe, entity, Moments(rows.times, rows.times)))
    made.extend(features.risk(rows, replace(recipe, entities=(entity,)), np.zeros(len(rows)) if share is None else share))
    return made


def _describing(recipes: list[Recipe]) -> Callable[[pa.Table], pa.Table]:
    """The function of a bucket: rows of its entities in, their `values` out."""

    def describe(given: pa.Table) -> pa.Table:
        subject, which, at, row = (given[c].to_numpy() for c in ("subject", "which", "at", "row_id"))
        order = np.lexsort((row, at, which, subject))
        given = given.take(pa.array(order))
        subject, which = subject[order], which[order]
        edges = np.flatnonzero((np.diff(subject) != 0) | (np.diff(which) != 0)) + 1
        made = []
        for start, end in zip([0, *edges], [*edges, len(order)], strict=True):
            part, recipe, place = given.slice(start, end - start), recipes[subject[start]], int(which[start])
            made.append(_listed(_values(part, recipe, place)))
        return pa.table({"subject": given["subject"], "row_id": given["row_id"], "which": given["which"], "values": pa.chunked_array(made, _FLOATS)})

    return describe


def _values(part: pa.Table, recipe: Recipe, place: int) -> np.ndarray:
    """(n, f) float32 of the rows of one kind beside those that share their entity at `place`, and after the last entity the groups'."""
    keys, habits = _array(part["keys"], len(recipe.entities)), _array(part["habits"], len(recipe.categories))
    leading, there = _array(part["leading"], len(recipe.leading)), np.flatnonzero(keys[:, place] != 0)
    columns = {c: part[c].to_numpy()[there] for c in ("at", "label", "known_at", "share")}
    rows = Rows.bare(columns["at"], {e: _codes(keys[there, i]) for i, e in enumerate(recipe.entities)}, columns["label"], columns["known_at"],
                     {n: leading[there, i] for i, n in enumerate(recipe.leading)}, {c: (_codes(habits[there, i]), []) for i, c in enumerate(recipe.categories)})
    found = _of_entity(rows, recipe, recipe.entities[place], columns["share"]).array()
    values = np.full((len(part), found.shape[1]), np.nan, np.float32)
    values[there] = found
    if place == len(recipe.entities) - 1 and recipe.graph:
        values = np.hstack([values, _array(part["groups"], len(GROUP))])
    return values


def _linking(recipes: list[Recipe]) -> Callable[[pa.Table], pa.Table]:
    """The function of a kind: the share of bad labels known at each row's moment, and the groups that its entities are in."""

    def link(given: pa.Table) -> pa.Table:
        from nightmarket.screen.graph import groups

        recipe = recipes[given["subject"][0].as_py()]
        given = given.take(pa.array(np.lexsort((given["row_id"].to_numpy(), given["at"].to_numpy()))))
        at, label, known_at = (given[c].to_numpy() for c in ("at", "label", "known_at"))
        share = features.shares(Rows.bare(at, {}, label, known_at), recipe)
        found = np.empty((len(at), 0), np.float32)
        if recipe.graph:
            keys = _array(given["keys"], len(recipe.entities))
            entities = [_codes(keys[:, i]) for i, e in enumerate(recipe.entities) if not _within(e, recipe)]
            found = np.column_stack(groups(at, entities, label == 1, known_at)).astype(np.float32)
        return pa.table({"subject": given["subject"], "row_id": given["row_id"], "share": share, "groups": _listed(found)})

    return link


def _within(entity: str, recipe: Recipe) -> bool:
    """Whether an entity is a part of another, such as an address of its network: it would link nothing anew."""
    return any(features.contains(entity, other) and len(other) < len(entity) for other in recipe.entities)


def _codes(keys: np.ndarray) -> np.ndarray:
    """(n,) dense codes of hashes, -1 for none."""
    distinct, codes = np.unique(keys, return_inverse=True)
    return np.where(keys == 0, -1, codes).astype(np.int64) if len(distinct) else np.empty(0, np.int64)


def _array(lists: pa.ChunkedArray, width: int) -> np.ndarray:
    """(n, width) of lists of one length."""
    flat = lists.combine_chunks().flatten()
    return np.asarray(flat).reshape(len(lists), width)


def _listed(values: np.ndarray) -> pa.ListArray:
    """Rows of (n, f) as lists."""
    n, width = values.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32) * width), pa.array(values.ravel(), pa.float32()))
