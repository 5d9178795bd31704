"""How a row is judged: stated rules in a stated order, the first that it breaks is its reason.

A cleaner normalises a night's bronze rows, judges them, and parts them into silver rows and rejected ones. Nothing is
dropped: every delivered row is in exactly one of the two. Each rule sees the rows of one night (`delivered_on`) only, so
many nights cleaned together give what the same nights give one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from nightmarket.clean.values import night_end, night_start
from nightmarket.contracts import QUARANTINE_COLUMNS, Dataset
from nightmarket.shop import CleanRules

LINEAGE = ("delivered_on", "source_file", "source_row")
MADE_KEY = "row:"
"""Keys that ingestion makes from file and row start like this; they say where a row was, not what it is."""
_JSON = {"timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"}
_SUPERSEDED = ("superseded", "a newer version of the key came in the same night")


@dataclass(frozen=True)
class Rule:
    """A row for which `broken` is true is rejected as `reason`; `detail` names column and rule, never the value."""

    reason: str
    detail: str
    broken: Column


@dataclass(frozen=True)
class Cleaned:
    """What cleaning made of bronze rows."""

    rows: DataFrame
    """Columns of the silver contract."""
    rejected: DataFrame
    """QUARANTINE_COLUMNS; `record` is the bronze row as JSON, without its nulls."""
    judged: DataFrame
    """Both before they part. Whoever writes both should persist this one, or everything is computed twice."""


def with_raw(bronze: DataFrame, raw: Dataset) -> DataFrame:
    """The contract's columns, and the row as delivered in `__raw`, so that they can be overwritten by clean values."""
    picked = bronze.select(*[F.col(c) for c in raw.column_names])
    return picked.withColumn("__raw", F.struct(*raw.column_names))


def is_repeated(raw: Dataset) -> Column:
    """True for a row whose whole content came again later in the same night; the last by file and row is kept.

    Content is every delivered column. A key made by ingestion counts only with the digest of the delivered line that it
    carries, `row:<digest>:<file>:<row>`, because two rows always differ in place; without a digest it does not count.
    """
    key = raw.primary_key[0]
    content: list[Column] = [F.col(f"__raw.{c}") for c in raw.column_names if c not in (*LINEAGE, key)]
    made = F.regexp_extract(F.col(f"__raw.{key}"), f"^{MADE_KEY}([^:]*):", 1)
    identity = F.when(F.col(f"__raw.{key}").startswith(MADE_KEY), made).otherwise(F.col(f"__raw.{key}"))
    same = Window.partitionBy("delivered_on", identity, *content)
    return F.row_number().over(same.orderBy(F.desc("source_file"), F.desc("source_row"))) > 1


def exact_duplicate(raw: Dataset) -> Rule:
    return Rule("exact_duplicate", "every delivered column equals another row of the night", is_repeated(raw))


def missing(raw: Dataset) -> list[Rule]:
    """Keys and required columns that are null, or were blank once tidied."""
    columns = dict.fromkeys((*raw.primary_key, *raw.required))
    return [Rule("missing_required", f"{c}: missing", F.col(c).isNull()) for c in columns]


def not_a_product(rules: CleanRules) -> Rule:
    """Lines about postage, fees, vouchers: item_id as a whole matches one of the shop's expressions, whatever the case."""
    broken = F.lit(False)
    for pattern in rules.not_products:
        broken = broken | F.col("item_id").rlike(f"(?i)^(?:{pattern})$")
    return Rule("not_a_product", "item_id: matches not_products", broken)


def from_the_future(moment: str, rules: CleanRules, zone: str) -> Rule:
    """Later than the end of the night's day in the shop's zone by more than `max_future_minutes`."""
    latest = night_end(F.col("delivered_on"), zone) + F.make_interval(mins=F.lit(rules.max_future_minutes))
    return Rule("from_the_future", f"{moment}: after the night it came in", F.col(moment) > latest)


def too_old(moment: str, rules: CleanRules, zone: str) -> Rule:
    """Earlier than the beginning of the night's day in the shop's zone by more than `oldest_days`."""
    oldest = night_start(F.date_sub("delivered_on", rules.oldest_days), zone)
    return Rule("too_old", f"{moment}: more than {rules.oldest_days} days before the night", F.col(moment) < oldest)


def in_bounds(raw: Dataset, column: str) -> Rule:
    """The contract's hard bounds of a column."""
    bounds = raw.column(column)
    low, high = bounds.minimum, bounds.maximum
    broken = F.lit(False)
    if low is not None:
        broken = broken | (F.col(column) < F.lit(low))
    if high is not None:
        broken = broken | (F.col(column) > F.lit(high))
    return Rule(f"{column}_out_of_range", f"{column}: outside {low:g} to {high:g}", broken)


def judge(frame: DataFrame, raw: Dataset, rules: Sequence[Rule]) -> DataFrame:
    """Adds `__reason`, `__detail` (null for good rows) and `__record` (null for good rows); takes `__raw` away.

    After all `rules`, good rows of one key and night compete: the newest stays, in the order of the contract's
    `version_by` (nulls first), file and row; the others are `superseded`. Only good rows compete, so that a rejected
    correction leaves the version before it, within a night as between nights.
    """
    verdict = F.lit(None).cast("struct<reason:string,detail:string>")
    for rule in reversed(rules):
        said = F.struct(F.lit(rule.reason).alias("reason"), F.lit(rule.detail).alias("detail"))
        verdict = F.when(F.coalesce(rule.broken, F.lit(False)), said).otherwise(verdict)
    versions = Window.partitionBy("delivered_on", F.col("__verdict").isNull(), *raw.primary_key)
    newest = [F.col(c).desc_nulls_last() for c in (*raw.version_by, "source_file", "source_row")]
    judged = frame.withColumn("__verdict", verdict).withColumn("__place", F.row_number().over(versions.orderBy(*newest)))
    older = F.col("__verdict").isNull() & (F.col("__place") > 1)
    superseded = F.struct(F.lit(_SUPERSEDED[0]).alias("reason"), F.lit(_SUPERSEDED[1]).alias("detail"))
    final = F.when(older, superseded).otherwise(F.col("__verdict"))
    return (
        judged.withColumn("__final", final)
        .withColumns({
            "__reason": F.col("__final.reason"),
            "__detail": F.col("__final.detail"),
            "__record": F.when(F.col("__final").isNotNull(), F.to_json("__raw", _JSON)),
        })
        .drop("__raw", "__verdict", "__final", "__place")
    )


def good(judged: DataFrame) -> DataFrame:
    return judged.where(F.col("__reason").isNull())


def rejected(judged: DataFrame) -> DataFrame:
    """Rejected rows with QUARANTINE_COLUMNS."""
    named = judged.where(F.col("__reason").isNotNull()).select(
        F.col("__reason").alias("reason"), F.col("__detail").alias("detail"), "source_file", "source_row", "delivered_on",
        F.col("__record").alias("record"),
    )
    return named.select(*[c.name for c in QUARANTINE_COLUMNS])


def part(judged: DataFrame, rows: DataFrame, clean: Dataset) -> Cleaned:
    """`rows` are the good rows with all silver columns, of whatever close type; they are cast to the contract's."""
    typed = rows.select(*[F.col(c.name).cast(c.type).alias(c.name) for c in clean.columns])
    return Cleaned(typed, rejected(judged), judged)
