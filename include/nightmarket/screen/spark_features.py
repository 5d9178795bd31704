"""The features of `features` as Spark windows: DataFrame in, DataFrame out, nothing collected.

The definitions are those of `features.build` where labels follow (every night knows the labels of the night before), without groups, and
a test holds the two equal. Sums are of 64-bit integers in both, so they are equal to the last bit before they are divided.

Rows without a value in an entity column are given a partition each: one partition of all rows without a device would not fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightmarket.screen.features import _SMOOTHING as SMOOTHING
from nightmarket.screen.features import AMOUNT_WINDOWS, HOUR, RISK_WINDOWS, WINDOWS, Recipe
from nightmarket.screen.windows import DAY, Fixed

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, WindowSpec

_UNKNOWN = float("nan")


def build(frame: DataFrame, recipe: Recipe, values: dict[str, list[str]]) -> DataFrame:
    """Features of each row, named as in `features`, beside its `row_id`.

    `frame` has row_id, at (long, microseconds), label (double, null unknown), known_at (long), the recipe's entities (string, null
    for none), numbers (double, null or NaN unknown), categories (string) and elapsed (double, seconds). `values`: what the codes
    of the recipe's categories stand for.
    """
    from pyspark.sql import functions as F

    if not recipe.follow or recipe.graph:
        raise ValueError("Spark's features are those of a night, whose labels follow, without groups: make the recipe with follow=True, graph=False")
    hours = (F.col("at") % DAY) / HOUR
    keyed = frame
    for entity in recipe.entities:
        keyed = keyed.withColumn(_key(entity), F.coalesce(F.concat(F.lit("v"), F.col(f"`{entity}`")), F.concat(F.lit("n"), F.col("row_id").cast("string"))))
    made: dict[str, Column] = {}
    for name in recipe.numbers:
        made[name] = _known(F.col(f"`{name}`"))
    for name in recipe.elapsed:
        made[f"hours_since.{name}"] = F.col(f"`{name}`") / 3600
    for name, order in recipe.categories.items():
        ranks = F.create_map(*[F.lit(v) for i, code in enumerate(order) for v in (values[name][code], float(min(i, 254)))])
        made[f"category.{name}"] = ranks[F.col(f"`{name}`")]
    made["hour"], made["weekday"] = hours, (F.floor(F.col("at") / DAY) + 3) % 7
    keyed = keyed.withColumn("__daypart", F.floor(hours / 6).cast("string"))
    for entity in recipe.entities:
        keyed = _entity(keyed, entity, recipe, made)
    plain = keyed.select("row_id", *[_told(c).alias(n) for n, c in made.items()])
    for entity in recipe.entities:
        plain = plain.join(_risk(keyed, entity), "row_id", "left")
    return plain


def _key(entity: str) -> str:
    return f"__key_{entity}"


def _known(column: Column) -> Column:
    from pyspark.sql import functions as F

    return F.when(column.isNotNull() & ~F.isnan(column) & (F.abs(column) != float("inf")), column)


def _told(column: Column) -> Column:
    from pyspark.sql import functions as F

    return F.coalesce(column.cast("double"), F.lit(_UNKNOWN))


def _window(keys: list[str], window: int | None) -> WindowSpec:
    from pyspark.sql import Window

    return Window.partitionBy(*keys).orderBy("at").rangeBetween(Window.unboundedPreceding if window is None else -window, 0)


def _entity(frame: DataFrame, entity: str, recipe: Recipe, made: dict[str, Column]) -> DataFrame:
    """Adds helper columns to the frame where a window looks at another's result, and the entity's features to `made`."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    key, there = _key(entity), F.col(f"`{entity}`").isNotNull()
    over = {label: _window([key], window) for label, window in WINDOWS.items()}
    rows = {label: F.count(F.lit(1)).over(w) for label, w in over.items()}
    for label, count in rows.items():
        made[f"{entity}.rows.{label}"] = F.when(there, count)
    before = Window.partitionBy(key).orderBy("at").rangeBetween(Window.unboundedPreceding, -1)
    same = F.count(F.lit(1)).over(Window.partitionBy(key).orderBy("at").rangeBetween(0, 0))
    previous = F.when(same > 1, F.col("at")).otherwise(F.max("at").over(before))
    made[f"{entity}.hours_since_last"] = F.when(there, (F.col("at") - previous) / HOUR)
    age = (F.col("at") - F.min("at").over(over["ever"])) / DAY
    made[f"{entity}.days_known"] = F.when(there, age)
    usual = (rows["30d"] - rows["1d"]) / F.least(F.greatest(age - 1, F.lit(1.0)), F.lit(29.0))
    made[f"{entity}.velocity"] = F.when(there, rows["1d"] / (usual + 0.5))
    for number in recipe.leading:
        frame = _amounts(frame, entity, number, recipe.scales[number], made)
    for habit, column in {"daypart": "__daypart", **{c: c for c in recipe.categories}}.items():
        pair = F.count(F.lit(1)).over(_window([key, f"`{column}`"], None))
        known = there & F.col(f"`{column}`").isNotNull()
        made[f"{entity}.habit.{habit}"] = F.when(known & (rows["ever"] > 1), (pair - 1) / (rows["ever"] - 1))
    for other in [b for a, b in recipe.pairs if a == entity]:
        first = f"__first_{entity}_{other}"
        order = Window.partitionBy(key, _key(other)).orderBy("at", "row_id")
        frame = frame.withColumn(first, (there & F.col(f"`{other}`").isNotNull() & (F.row_number().over(order) == 1)).cast("long"))
        made[f"{entity}.with.{other}"] = F.when(there & F.col(f"`{other}`").isNotNull(), F.count(F.lit(1)).over(_window([key, _key(other)], None)))
        made[f"{entity}.different.{other}"] = F.when(there, F.sum(first).over(over["ever"]))
        for label in ("1d", "7d"):
            made[f"{entity}.new.{label}.{other}"] = F.when(there, F.sum(first).over(over[label]))
    return frame


def _fixed(column: Column, scale: Fixed) -> Column:
    from pyspark.sql import functions as F

    top = 2.0**scale.bits
    return F.when(column.isNotNull(), F.rint(_within(column, top) / scale.step).cast("long"))


def _within(column: Column, top: float) -> Column:
    """A known value held within ±top; `least` and `greatest` pass over nulls, so the caller keeps those apart."""
    from pyspark.sql import functions as F

    return F.greatest(F.least(column, F.lit(top)), F.lit(-top))


def _amounts(frame: DataFrame, entity: str, number: str, scale: Fixed, made: dict[str, Column]) -> DataFrame:
    from pyspark.sql import functions as F

    key, there = _key(entity), F.col(f"`{entity}`").isNotNull()
    own, square, ordinary = (f"__{kind}_{entity}_{number}" for kind in ("own", "square", "ordinary"))
    unit = 2.0 ** (scale.bits - 10)
    value = _known(F.col(f"`{number}`"))
    size = _within(value / unit, 1024.0)
    frame = frame.withColumn(own, _fixed(value, scale)).withColumn(square, F.when(value.isNotNull(), F.rint(size * size * 2**16).cast("long")))

    def totals(label: str, column: str, chosen: Column | None = None) -> tuple[Column, Column]:
        """(sum, count) of a long column over a window, the rows `chosen` only."""
        window = _window([key], WINDOWS[label])
        counted = F.col(f"`{column}`") if chosen is None else F.when(chosen, F.col(f"`{column}`"))
        return F.coalesce(F.sum(counted).over(window), F.lit(0)), F.count(counted).over(window)

    def mean(label: str, chosen: Column | None, apart: Column) -> tuple[Column, Column]:
        """(mean, count) of the other rows."""
        total, n = totals(label, own, chosen)
        others = F.when(there, n).otherwise(0) - apart.cast("int")
        return F.when(others > 0, (total - F.when(apart, F.col(f"`{own}`")).otherwise(0)).cast("double") * scale.step / others), others

    def spread(chosen: Column | None, apart: Column, level: Column, others: Column) -> Column:
        total, _ = totals("ever", square, chosen)
        left = (total - F.when(apart, F.col(f"`{square}`")).otherwise(0)).cast("double")
        return F.sqrt(F.greatest(left / 2**16 * unit**2 / F.when(others > 0, others) - level * level, F.lit(0.0)))

    # kept as columns: written out in each expression that needs them, one plan would hold hundreds of windows
    has, level, others = (f"__{kind}_{entity}_{number}" for kind in ("has", "level", "others"))
    expected, counted = mean("ever", None, value.isNotNull())
    frame = frame.withColumn(has, value.isNotNull()).withColumn(level, expected).withColumn(others, counted)
    far = F.when(F.col(f"`{others}`") >= 3, F.abs(value - F.col(f"`{level}`")) > 2.5 * F.abs(F.col(f"`{level}`"))).otherwise(False)
    frame = frame.withColumn(ordinary, F.coalesce(value.isNotNull() & ~far, F.lit(False)))
    width, count, calm, narrow = (f"__{kind}_{entity}_{number}" for kind in ("width", "count", "calm", "narrow"))
    mild, usual, seen = F.col(f"`{ordinary}`"), F.col(f"`{calm}`"), F.col(f"`{count}`")
    expected, counted = mean("ever", mild, mild)
    frame = frame.withColumn(calm, expected).withColumn(count, counted)
    frame = frame.withColumn(width, spread(None, F.col(f"`{has}`"), F.col(f"`{level}`"), F.col(f"`{others}`")))
    frame = frame.withColumn(narrow, spread(mild, mild, usual, seen))
    for label in AMOUNT_WINDOWS:
        total, n = totals(label, own)
        made[f"{entity}.mean.{label}.{number}"] = F.when(there & (n > 0), total.cast("double") * scale.step / n)
        if label == "1d":
            made[f"{entity}.sum.1d.{number}"] = F.when(there, total.cast("double") * scale.step).otherwise(0.0)
        if label in ("30d", "ever"):
            expected = mean(label, None, value.isNotNull())[0] if label != "ever" else F.col(f"`{level}`")
            made[f"{entity}.ratio.{label}.{number}"] = F.when(there & (F.abs(expected) > 1e-12), value / expected)
    deviation = F.col(f"`{width}`") + 0.05 * F.abs(F.col(f"`{level}`")) + 1e-9
    made[f"{entity}.distance.{number}"] = F.when(there & (F.col(f"`{others}`") >= 3), (value - F.col(f"`{level}`")) / deviation)
    made[f"{entity}.ratio.usual.{number}"] = F.when(there & (F.abs(usual) > 1e-12), value / usual)
    made[f"{entity}.distance.usual.{number}"] = F.when(there & (seen >= 3), (value - usual) / (F.col(f"`{narrow}`") + 0.05 * F.abs(usual) + 1e-9))
    largest = F.max(own).over(_window([key], None)).cast("double") * scale.step
    made[f"{entity}.of_largest.{number}"] = F.when(there & (largest > 0), value / largest)
    return frame


def _risk(frame: DataFrame, entity: str) -> DataFrame:
    """row_id and the entity's features of known labels.

    Labels are rows of their own at the moment they became known, told half a microsecond after it: so a row at t sees those
    known before t and no other.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    key = _key(entity)
    labels = frame.where(F.col("label").isNotNull()).select(
        F.lit(None).cast("long").alias("row_id"), F.col(key).alias("key"), (F.col("known_at") * 2 + 1).alias("moment"), F.col("at").alias("happened"),
        (F.col("label") == 1).cast("long").alias("bad"))
    order = Window.partitionBy("key").orderBy("moment", "happened", "bad")
    goods = F.sum(1 - F.col("bad")).over(order.rowsBetween(Window.unboundedPreceding, 0))
    labels = labels.withColumn("streak", goods)
    within = Window.partitionBy("key", "streak").orderBy("moment", "happened", "bad")
    labels = labels.withColumn("length", F.sum("bad").over(within.rowsBetween(Window.unboundedPreceding, 0)))
    labels = labels.withColumn("since", F.first(F.when(F.col("bad") == 1, F.col("happened")), ignorenulls=True).over(within.rowsBetween(Window.unboundedPreceding, 0)))
    labels = labels.withColumn("last", F.row_number().over(order))
    asked = frame.where(F.col(f"`{entity}`").isNotNull()).select("row_id", F.col(key).alias("key"), (F.col("at") * 2).alias("moment"), F.col("at").alias("asked"))
    both = labels.unionByName(asked, allowMissingColumns=True)

    def over(window: int | None) -> WindowSpec:
        return Window.partitionBy("key").orderBy("moment").rangeBetween(Window.unboundedPreceding if window is None else -2 * window, 0)

    overall = _overall(frame)
    made: dict[str, Column] = {}
    for label, window in RISK_WINDOWS.items():
        bad, known = F.coalesce(F.sum("bad").over(over(window)), F.lit(0)), F.count("bad").over(over(window))
        made[f"{entity}.known_bad.{label}"] = bad
        if label != "1d":
            made[f"__known.{label}"] = known
    newest = F.max(F.struct("last", "length", "since")).over(over(None))
    for name, value in (("bad", 1), ("good", 0)):
        made[f"{entity}.days_since_{name}"] = (F.col("asked") - F.max(F.when(F.col("bad") == value, F.col("happened"))).over(over(None))) / DAY
    made[f"{entity}.days_bad_streak"] = F.when(newest["length"] > 0, (F.col("asked") - newest["since"]) / DAY)
    made[f"{entity}.bad_streak"] = F.coalesce(newest["length"], F.lit(0))
    told = both.select("row_id", "moment", *[c.alias(n) for n, c in made.items()]).where(F.col("row_id").isNotNull())
    # rows without the entity know nothing of it, and their risk is the overall one
    told = frame.select("row_id", (F.col("at") * 2).alias("moment")).join(told.drop("moment"), "row_id", "left").join(overall, "row_id", "left")
    columns = []
    for name in made:
        if name.startswith("__known."):
            label = name.removeprefix("__known.")
            bad, known = F.coalesce(F.col(f"`{entity}.known_bad.{label}`"), F.lit(0)), F.coalesce(F.col(f"`{name}`"), F.lit(0))
            columns.append(((bad + SMOOTHING * F.col("__overall")) / (known + SMOOTHING)).alias(f"{entity}.risk.{label}"))
        elif ".known_bad." in name or name.endswith(".bad_streak"):
            columns.append(F.coalesce(F.col(f"`{name}`").cast("double"), F.lit(0.0)).alias(name))
        else:
            columns.append(_told(F.col(f"`{name}`")).alias(name))
    return told.select("row_id", *columns)


def _overall(frame: DataFrame) -> DataFrame:
    """row_id and the share of bad among the labels that became known in the 30 days before its moment.

    This window has no key, so it is one task: of moments, not of rows, and it spills where they do not fit.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    labels = frame.where(F.col("label").isNotNull()).groupBy((F.col("known_at") * 2 + 1).alias("moment")).agg(
        F.count(F.lit(1)).alias("n"), F.sum((F.col("label") == 1).cast("long")).alias("bad"))
    moments = frame.select((F.col("at") * 2).alias("moment")).distinct().withColumn("asked", F.lit(True))
    month = Window.orderBy("moment").rangeBetween(-60 * DAY, 0)
    share = F.coalesce(F.sum("bad").over(month), F.lit(0)) / F.greatest(F.coalesce(F.sum("n").over(month), F.lit(0)), F.lit(1))
    told = labels.unionByName(moments, allowMissingColumns=True).select("moment", "asked", share.alias("__overall")).where("asked").drop("asked")
    return frame.select("row_id", (F.col("at") * 2).alias("moment")).join(told, "moment").drop("moment")
