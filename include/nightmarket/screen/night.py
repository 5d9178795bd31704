"""What is screened in a night, as Spark frames out of the clean tables: orders, accounts, reviews, and products' days (brushing).

A row tells of its own moment only; what came before it, its entities' rows and verdicts tell (`spark_features`). Verdicts count where
they were known by the night: an analyst's before the shop's own, the shop's before a shopper's report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from functools import reduce
from typing import TYPE_CHECKING

from nightmarket.contracts import EVENTS, ORDERS, REVIEWS, USERS, Dataset
from nightmarket.lake import newest
from nightmarket.screen.features import Recipe
from nightmarket.screen.windows import DAY, Fixed

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

ORDER, ACCOUNT, REVIEW, BRUSHING = "order", "account", "review", "brushing"


@dataclass(frozen=True)
class Subject:
    """One kind of thing that is screened, and the columns of its frame beside id, at, first_night, stake, label, known_at, text."""

    kind: str
    entities: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    leading: tuple[str, ...] = ()
    """Numbers with histories of their own."""
    categories: tuple[str, ...] = ()
    elapsed: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    linked: bool = False
    """Whether groups of linked entities are followed."""
    text: bool = False
    optional: tuple[str, ...] = ()
    """Numbers and categories that a shop may do without: left out, as entities are, where no row has them."""


def _both(one: str, *others: str) -> tuple[tuple[str, str], ...]:
    return tuple(p for o in others for p in ((one, o), (o, one)))


SUBJECTS = (
    Subject(ORDER, ("shopper", "card", "device", "ip", "address"), ("amount", "lines", "abroad", "ip_abroad"), ("amount",),
            ("payment", "country", "ip_country"), ("signed_up",), _both("shopper", "card", "device", "ip", "address"), linked=True,
            optional=("ip_abroad", "ip_country")),
    Subject(ACCOUNT, ("device", "phone", "mail", "address", "country", "ip"), ("ip_abroad",), categories=("referrer", "ip_country"), linked=False,
            optional=("ip_abroad", "ip_country")),
    Subject(REVIEW, ("shopper", "product"), ("rating", "deviation", "bought", "copies", "other_language"), (), ("language",), ("ordered", "signed_up"),
            _both("shopper", "product"), text=True),
    Subject(BRUSHING, ("product",), ("lines.1d", "lines.7d", "burst", "buyers.7d", "lines_a_buyer", "first_time", "fresh_accounts", "linked_buyers",
                                     "praise.30d", "praise_unbought.30d", "returns.30d", "concert")),
)


@dataclass(frozen=True)
class Tables:
    """Silver rows of all nights up to the night, and verdicts that came in by then."""

    orders: DataFrame
    users: DataFrame
    reviews: DataFrame
    events: DataFrame
    feedback: DataFrame
    night: date
    zone: ZoneInfo
    history_days: int
    label_delay_days: float = 0.0
    good_after_days: float | None = None

    @property
    def end(self) -> datetime:
        """Where the night's day is over: what is known then is known."""
        return datetime.combine(self.night + timedelta(days=1), time(), self.zone).astimezone(timezone.utc)

    @property
    def first(self) -> datetime:
        return datetime.combine(self.night - timedelta(days=self.history_days - 1), time(), self.zone).astimezone(timezone.utc)


def frame_of(tables: Tables) -> DataFrame:
    """All that is screened, as one frame: rows of the last `history_days` days up to the night's end.

    kind, id, row_id (long), at and known_at (long, microseconds), first_night, stake, label (double, null unknown), text, and the columns of the
    row's subject as lists, in its order: entities (string), numbers, leading and elapsed (double), categories (string). One frame, and computed
    when this returns: it is plans, their number and length, that a night of few rows spends its time on, so each ends where it is used twice.
    """
    from pyspark.sql import functions as F

    accounts = _newest(tables.users, USERS).localCheckpoint()
    verdicts = _verdicts(tables)
    orders = _orders(tables, accounts, verdicts).localCheckpoint()
    reviews = _reviews(tables, accounts, orders, verdicts).localCheckpoint()
    made = {ORDER: orders, ACCOUNT: _accounts(tables, accounts, orders, reviews, verdicts), REVIEW: reviews,
            BRUSHING: _brushing(tables, accounts, orders, reviews, verdicts)}
    within = (F.col("at") >= _micros(tables.first)) & (F.col("at") < _micros(tables.end))
    parts = [made[s.kind].where(within).select(
        F.lit(s.kind).alias("kind"), "id", F.xxhash64("id").alias("row_id"), "at", "first_night", "stake", "label", "known_at", "text",
        _list(s.entities, "string").alias("entities"), _list(s.numbers, "double").alias("numbers"), _list(s.leading, "double").alias("leading"),
        _list(s.elapsed, "double").alias("elapsed"), _list(s.categories, "string").alias("categories")) for s in SUBJECTS]
    return reduce(lambda one, other: one.unionByName(other), parts).localCheckpoint()


def _list(columns: Sequence[str], kind: str) -> Column:
    from pyspark.sql import functions as F

    return F.array(*[F.col(f"`{c}`").cast(kind) for c in columns]).cast(f"array<{kind}>")


def recipes_of(frame: DataFrame, end: datetime) -> dict[str, tuple[Recipe, int]]:
    """By kind, the recipe of a night and the number of rows: scales of the leading numbers. Entities that no row has are left out, optional
    numbers and categories too, and kinds without rows."""
    import numpy as np
    from pyspark.sql import functions as F

    asked: list[Column] = [F.count(F.lit(1)).alias("rows")]
    asked += [F.count(F.get("entities", F.lit(i))).alias(f"e{i}") for i in range(max(len(s.entities) for s in SUBJECTS))]
    asked += [F.count(F.get(c, F.lit(i))).alias(f"{c}{i}") for c in ("numbers", "categories")
              for i in sorted({i for s in SUBJECTS for i, n in enumerate(getattr(s, c)) if n in s.optional})]
    asked += [F.percentile(F.abs(F.get("leading", F.lit(i))), 0.99).alias(f"n{i}") for i in range(max(len(s.leading) for s in SUBJECTS))]
    found = {r["kind"]: r for r in frame.groupBy("kind").agg(*asked).collect()}
    made: dict[str, tuple[Recipe, int]] = {}
    for subject in SUBJECTS:
        told = found.get(subject.kind)
        if told is None:
            continue
        entities = tuple(e for i, e in enumerate(subject.entities) if told[f"e{i}"])
        scales = {n: Fixed.around(np.array([told[f"n{i}"]])) for i, n in enumerate(subject.leading) if told[f"n{i}"] is not None}
        numbers, categories = (tuple(n for i, n in enumerate(getattr(subject, c)) if n not in subject.optional or told[f"{c}{i}"])
                               for c in ("numbers", "categories"))
        pairs = tuple(p for p in subject.pairs if set(p) <= set(entities))
        recipe = Recipe(entities, numbers, tuple(scales), scales, {c: [] for c in categories}, subject.elapsed, pairs, True,
                        _micros(end), 30 * DAY, subject.linked and len(entities) > 1)
        made[subject.kind] = recipe, int(told["rows"])
    return made


def narrowed(frame: DataFrame, recipes: Mapping[str, Recipe]) -> DataFrame:
    """`frame` with the entities, numbers and categories that the recipes have, and no other."""
    from pyspark.sql import functions as F

    kept: dict[str, Column] = {}
    for subject in SUBJECTS:
        recipe = recipes.get(subject.kind)
        for column, all_, some, kind in (
            ("entities", subject.entities, recipe.entities, "string"), ("numbers", subject.numbers, recipe.numbers, "double"),
            ("leading", subject.leading, recipe.leading, "double"), ("categories", subject.categories, tuple(recipe.categories), "string"),
        ) if recipe else ():
            if all_ != some:
                chosen = F.array(*[F.get(column, F.lit(i)) for i, n in enumerate(all_) if n in some]).cast(f"array<{kind}>")
                kept[column] = F.when(F.col("kind") == subject.kind, chosen).otherwise(kept.get(column, F.col(column)))
    return frame.withColumns(kept) if kept else frame


def _micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


def _at(column: str) -> Column:
    from pyspark.sql import functions as F

    return F.unix_micros(F.col(column))


def _newest(rows: DataFrame, dataset: Dataset) -> DataFrame:
    """The newest state of each key, with the night that first delivered it."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    return newest(rows.withColumn("first_night", F.min("delivered_on").over(Window.partitionBy(*dataset.primary_key))), dataset)


def _verdicts(tables: Tables) -> DataFrame:
    """kind, id, and the newest verdict of an analyst and of a shopper that came in by the night: (known_at, is_bad), null for none."""
    from pyspark.sql import functions as F

    said = F.struct(_at("known_at").alias("known_at"), "is_bad")
    known = tables.feedback.where(_at("known_at") < _micros(tables.end))
    return known.groupBy("kind", "id").agg(*[F.max(F.when(F.col("source") == s, said)).alias(f"__{s}") for s in ("analyst", "shopper")])


def _judged(frame: DataFrame, kind: str, tables: Tables, verdicts: DataFrame) -> DataFrame:
    """`frame` (with the shop's own said_bad and said_at, micros or null) with label and known_at, where known by the night."""
    from pyspark.sql import functions as F

    known_at = F.greatest(F.coalesce("said_at", "at"), F.col("at") + int(tables.label_delay_days * DAY))
    own = F.when(F.col("said_bad").isNotNull() & (known_at < _micros(tables.end)), F.struct(known_at.alias("known_at"), F.col("said_bad").alias("is_bad")))
    mine = verdicts.where(F.col("kind") == kind).drop("kind")
    first = F.coalesce("__analyst", own, "__shopper")
    labels = {"label": first["is_bad"].cast("double"), "known_at": F.greatest(first["known_at"], "at")}
    return frame.join(mine, "id", "left").withColumns(labels).drop("said_bad", "said_at", "__analyst", "__shopper")


def _orders(tables: Tables, accounts: DataFrame, verdicts: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    rows = _newest(tables.orders, ORDERS).where(~F.col("is_cancellation"))
    who = accounts.select("user_id", F.col("country").alias("__home"), _at("signed_up_at").alias("__signed_up"))
    since = (_at("order_ts") - F.col("__signed_up")) / 1e6
    said_bad, said_at = F.col("is_fraud"), _at("label_known_at")
    if tables.good_after_days is not None:
        patience = int(tables.good_after_days * DAY)
        said_at = F.when(F.col("is_fraud").isNotNull(), said_at).otherwise(_at("order_ts") + patience)
        said_bad = F.coalesce(said_bad, F.lit(False))
    abroad = (F.col("country") != F.col("__home")).cast("double")
    outside = _outside("ip_country", "country", "__home").alias("ip_abroad")
    made = rows.join(who, "user_id", "left").select(
        F.col("order_id").alias("id"), _at("order_ts").alias("at"), F.col("amount").cast("double").alias("stake"),
        F.col("user_id").alias("shopper"), F.col("card_id").alias("card"), F.col("device_id").alias("device"), F.col("ip_address").alias("ip"),
        F.col("shipping_address").alias("address"), F.col("amount").cast("double").alias("amount"), F.col("line_count").cast("double").alias("lines"),
        abroad.alias("abroad"), outside, "ip_country",
        F.col("payment_method").alias("payment"), "country", F.when(since >= 0, since).alias("signed_up"), F.lit(None).cast("string").alias("text"),
        said_bad.alias("said_bad"), said_at.alias("said_at"), "first_night",
    )
    return _judged(made, ORDER, tables, verdicts)


def _outside(code: str, *others: str) -> Column:
    """1 where a country is none of the others, 0 where it is one, null where it or all of them are unknown. Codes are compared with codes only."""
    from pyspark.sql import functions as F

    told = [F.when(F.col(o).rlike("^[A-Z]{2}$"), F.col(code) == F.col(o)) for o in others]
    return 1 - F.greatest(*[t.cast("double") for t in told], F.lit(None).cast("double"))


def _accounts(tables: Tables, accounts: DataFrame, orders: DataFrame, reviews: DataFrame, verdicts: DataFrame) -> DataFrame:
    """An account is bad from its first bad order or review on, good from its first good one while it has none."""
    from pyspark.sql import functions as F

    done = orders.select("shopper", "label", "known_at").unionByName(reviews.select("shopper", "label", "known_at")).where("label IS NOT NULL")
    said = done.groupBy(F.col("shopper").alias("user_id")).agg(
        (F.max("label") == 1).alias("said_bad"), F.min(F.when(F.col("label") == 1, F.col("known_at"))).alias("__bad_at"), F.min("known_at").alias("__any_at"))
    rows = accounts.where(F.col("signed_up_at").isNotNull()).join(said, "user_id", "left")
    text = F.lit(None).cast("string")
    made = rows.select(
        F.col("user_id").alias("id"), _at("signed_up_at").alias("at"), F.lit(None).cast("double").alias("stake"), F.col("device_id").alias("device"),
        F.col("phone").alias("phone"), F.col("email").alias("mail"), F.col("address").alias("address"), "country", F.col("ip_address").alias("ip"),
        _outside("ip_country", "country").alias("ip_abroad"), "ip_country", "referrer", text.alias("text"),
        "said_bad", F.coalesce("__bad_at", "__any_at").alias("said_at"), "first_night",
    )
    return _judged(made, ACCOUNT, tables, verdicts)


def _reviews(tables: Tables, accounts: DataFrame, orders: DataFrame, verdicts: DataFrame) -> DataFrame:
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    rows = _newest(tables.reviews, REVIEWS)
    before = Window.partitionBy("item_id").orderBy("at").rangeBetween(Window.unboundedPreceding, -1)
    usual = Window.partitionBy("item_id").orderBy("at").rangeBetween(Window.unboundedPreceding, 0)
    who = accounts.select("user_id", _at("signed_up_at").alias("__signed_up"))
    bought = orders.select(F.col("id").alias("order_id"), F.col("at").alias("__ordered"))
    rows = rows.withColumn("at", _at("review_ts")).join(who, "user_id", "left").join(bought, "order_id", "left")
    speaks = F.count("language").over(usual)
    pair = Window.partitionBy("item_id", "language").orderBy("at").rangeBetween(Window.unboundedPreceding, 0)
    made = rows.select(
        F.col("review_id").alias("id"), "at", F.lit(None).cast("double").alias("stake"), F.col("user_id").alias("shopper"), F.col("item_id").alias("product"),
        F.col("rating").cast("double").alias("rating"), (F.col("rating") - F.avg("rating").over(before)).alias("deviation"),
        F.col("order_id").isNotNull().cast("double").alias("bought"),
        F.when(F.col("language").isNotNull(), 1 - F.count("review_id").over(pair) / speaks).alias("other_language"), "language",
        _after(F.col("at") - F.col("__ordered")).alias("ordered"), _after(F.col("at") - F.col("__signed_up")).alias("signed_up"),
        F.coalesce("text_normalised", "text").alias("text"), F.col("is_fake").alias("said_bad"), _at("label_known_at").alias("said_at"), "first_night",
    )
    made = made.join(_copies(made), "id", "left")
    return _judged(made, REVIEW, tables, verdicts)


def _after(elapsed: Column) -> Column:
    from pyspark.sql import functions as F

    return F.when(elapsed >= 0, elapsed / 1e6)


def _copies(reviews: DataFrame) -> DataFrame:
    """id and how many near-copies of its text there were before it, null without a text."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    written = reviews.where(F.length(F.trim(F.coalesce("text", F.lit("")))) > 0).select("id", "at", "text")
    each = written.mapInArrow(_banded, "id string, at long, band string")
    past = Window.partitionBy("band").orderBy("at").rangeBetween(Window.unboundedPreceding, 0)
    counted = each.select("id", (F.count("id").over(past) - 1).cast("double").alias("n"))
    return counted.groupBy("id").agg(F.max("n").alias("copies"))


def _banded(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows of id, at, text as one row a band of their MinHash signature: texts that share a band are near-copies."""
    import numpy as np
    import pyarrow as pa

    from nightmarket.screen.texts import signatures

    for batch in batches:
        signed, there = signatures([t or "" for t in batch.column("text").to_pylist()])
        kept = batch.select(["id", "at"]).take(pa.array(np.flatnonzero(there)))
        for band in range(signed.shape[1]):
            keys = [f"{band}:{row.tobytes().hex()}" for row in signed[there, band]]
            yield pa.RecordBatch.from_arrays([*kept.columns, pa.array(keys, pa.string())], ["id", "at", "band"])


def _brushing(tables: Tables, accounts: DataFrame, orders: DataFrame, reviews: DataFrame, verdicts: DataFrame) -> DataFrame:
    """One row a product and day with sales, as of the day's end: do its buyers buy, praise and return in concert?"""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    zone = str(tables.zone)
    day = F.datediff(F.col("day"), F.lit("1970-01-01").cast("date"))
    buys, returns = F.col("event_type") == "purchase", F.col("event_type") == "return"
    events = newest(tables.events.select(*_needed()), EVENTS).where(buys | returns)
    # rows of nobody are each their own, so that they are not one huge part
    whose = Window.partitionBy(F.coalesce("user_id", F.concat(F.lit("\0"), "event_id")))
    first = F.when(F.col("user_id").isNotNull(), F.min(F.when(buys, F.col("event_ts"))).over(whose))
    who = accounts.select("user_id", "signed_up_at")
    pairs = orders.where("device IS NOT NULL AND shopper IS NOT NULL").groupBy("device", "shopper").agg(F.min("at").alias("__since"))
    shared = pairs.groupBy("device").agg(F.get(F.sort_array(F.collect_list("__since")), F.lit(1)).alias("__shared_at"))
    linked = orders.select(F.col("id").alias("order_id"), "device", F.col("label").alias("__label"), F.col("known_at").alias("__known")).join(
        shared.where("__shared_at IS NOT NULL"), "device", "left").drop("device")
    lines = events.withColumn("__first", first).join(who, "user_id", "left").join(linked, "order_id", "left").select(
        "item_id", F.col("event_date").alias("day"), buys.alias("buys"), returns.alias("returns"), "user_id", "revenue", "delivered_on",
        (F.col("event_ts") == F.col("__first")).cast("double").alias("first_time"),
        (F.datediff("event_ts", "signed_up_at") < 14).cast("double").alias("fresh"),
        (F.coalesce("__shared_at", F.lit(2**62)) <= F.unix_micros("event_ts")).cast("double").alias("linked"), "__label", "__known")
    praise = reviews.where("rating >= 5").select(
        F.col("product").alias("item_id"), F.to_date(F.from_utc_timestamp(F.timestamp_micros("at"), zone)).alias("day"), F.lit(1).alias("praise"),
        (F.col("bought") == 0).cast("long").alias("unbought"))

    def of_sales(column: Column) -> Column:
        return F.when(F.col("buys"), column)

    whole = lines.unionByName(praise, allowMissingColumns=True).groupBy("item_id", "day").agg(
        F.sum(F.col("buys").cast("long")).alias("lines"), F.size(F.collect_set(of_sales(F.col("user_id")))).alias("buyers"),
        F.sum(of_sales(F.col("revenue"))).cast("double").alias("stake"), F.avg(of_sales(F.col("first_time"))).alias("first_time"),
        F.avg(of_sales(F.col("fresh"))).alias("fresh_accounts"), F.avg(of_sales(F.col("linked"))).alias("linked_buyers"),
        F.sum(of_sales((F.col("__label") == 1).cast("long"))).alias("bad"), F.count(of_sales(F.col("__label"))).alias("known"),
        F.max(of_sales(F.col("__known"))).alias("known_at"), F.min(of_sales(F.col("delivered_on"))).alias("first_night"),
        F.sum(F.col("returns").cast("long")).alias("returns"), F.sum("praise").alias("praise"), F.sum("unbought").alias("unbought")).withColumn("__day", day)
    counts = ("lines", "buyers", "returns", "praise", "unbought")
    whole = whole.fillna(0, list(counts))

    def last(days: int, column: str) -> Column:
        return F.sum(column).over(Window.partitionBy("item_id").orderBy("__day").rangeBetween(1 - days, 0)).cast("double")

    week, month, sales = last(7, "lines"), last(30, "praise"), last(30, "lines")
    whole = whole.select(
        "*", F.col("lines").cast("double").alias("lines.1d"), week.alias("lines.7d"), (week / ((last(35, "lines") - week) / 4 + 0.5)).alias("burst"),
        last(7, "buyers").alias("buyers.7d"), (F.col("lines") / F.greatest("buyers", F.lit(1))).alias("lines_a_buyer"), month.alias("praise.30d"),
        last(30, "unbought").alias("praise_unbought.30d"), last(30, "returns").alias("returns.30d"),
        # all three at once: the geometric mean of sales, praise and returns is zero where one of them is missing
        F.cbrt(sales * month * last(30, "returns")).alias("concert"))
    midnight = F.to_utc_timestamp(F.date_add("day", 1).cast("timestamp"), zone)
    most = (F.col("bad") >= 2) & (F.col("bad") * 2 >= F.col("lines"))
    said = F.when(most, True).when((F.col("known") == F.col("lines")) & (F.col("bad") == 0), False)
    made = whole.where("lines > 0").select(
        F.concat_ws("/", "item_id", F.col("day").cast("string")).alias("id"), (F.unix_micros(midnight) - 1).alias("at"), "stake",
        F.col("item_id").alias("product"), *[f"`{n}`" for n in SUBJECTS[3].numbers], F.lit(None).cast("string").alias("text"),
        said.alias("said_bad"), F.col("known_at").alias("said_at"), "first_night")
    return _judged(made, BRUSHING, tables, verdicts)


def _needed() -> tuple[str, ...]:
    order = (*EVENTS.version_by, "delivered_on", "source_file", "source_row")
    return (*EVENTS.primary_key, *order, "event_ts", "event_date", "event_type", "user_id", "item_id", "order_id", "revenue")
