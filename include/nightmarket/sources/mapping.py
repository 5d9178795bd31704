"""Other people's columns to the contract's: the expressions of shop.yaml, then types, then what cannot be typed.

`plan()` proves the expressions on the columns that were delivered before any row is read; `typed()` is the frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightmarket.command import Refused
from nightmarket.contracts import Dataset
from nightmarket.protect.keys import Keyring
from nightmarket.protect.masking import mask_column
from nightmarket.shop import Mapping as Mapped
from nightmarket.shop import Settings, ShopError
from nightmarket.sources import casts
from nightmarket.sources.files import BAD, DETAIL, FILE, LINE, NIGHT, READING_COLUMNS, ROW

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

REASON, RECORD = "__reason", "__record"
LINEAGE = ("delivered_on", "source_file", "source_row")

_UNSTEADY = re.compile(
    r"\b(rand|randn|random|uuid|shuffle|now|current_timestamp|current_date|current_time|localtimestamp|curdate"
    r"|unix_timestamp\s*\(\s*\)|monotonically_increasing_id|spark_partition_id|input_file_name|current_user|version)\b(?=\s*\()",
    re.IGNORECASE,
)


class _MissingColumn(Exception):
    """An expression names a column that is not there."""

    def __init__(self, column: str):
        super().__init__(column)
        self.column = column


@dataclass(frozen=True)
class MappingPlan:
    """A mapping that resolves. `absent`: contract columns left null because a source column they need is nowhere."""

    contract: Dataset
    mapping: Mapped
    zone: str
    file: str
    absent: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, str]:
        return {c: e for c, e in self.mapping.columns.items() if c not in self.absent}


def plan(
    spark: SparkSession, settings: Settings, contract: Dataset, types: Mapping[str, str],
    headers: Mapping[str, Sequence[str]], seen_before: bool,
) -> tuple[MappingPlan, dict[str, dict[str, str]]]:
    """Proves the mapping of `contract` against the delivered columns.

    `types` are all source columns with their Spark types, `headers` the columns of each file by its name. Returns the plan
    and, by file, what it lacks: {contract column: source column}. A required column that a file cannot fill raises Refused;
    so does any that no delivery of the shop ever had (`seen_before` false), as ShopError: then the mapping is wrong.
    """
    entity = contract.name
    mapping = settings.shop.datasets[entity]
    where = f"datasets.{entity}"
    empty = _empty(spark, types)
    required = {*contract.required, *(c.name for c in contract.columns if not c.nullable)}
    there = ", ".join(types) or "none"
    absent: list[str] = []
    lacking: dict[str, dict[str, str]] = {}

    def prove(frame: DataFrame, expression: str, at: str, grouped: bool = False) -> None:
        if found := _UNSTEADY.search(expression):
            raise ShopError(settings.file, [f"{at}: {found[1]}() gives another answer every night; a night must give the "
                                            f"same rows when it runs again. Remove it"])
        _resolve(frame, expression, settings, at, there, grouped, mapping.group_by)

    def absence(error: _MissingColumn, at: str, name: str, files: Iterable[str]) -> None:
        if name in required:
            raise Refused(
                f"{', '.join(sorted(files)[:3])}: no column {error.column!r}, which {at} needs; there are {there}. "
                f"Deliver the column, or change {at} in {settings.file.name}"
            )

    for name, expression in mapping.columns.items():
        at = f"{where}.columns.{name}"
        try:
            prove(empty, expression, at, bool(mapping.group_by))
        except _MissingColumn as error:
            absence(error, at, name, headers)
            if not seen_before:
                raise ShopError(settings.file, [f"{at}: no source column {error.column!r}; there are {there}. "
                                                f"Correct the expression or remove it"]) from None
            absent.append(name)
            for file in headers:
                lacking.setdefault(file, {})[name] = error.column
    for what, expressions in (("where", [mapping.where] if mapping.where else []), ("group_by", list(mapping.group_by))):
        for expression in expressions:
            try:
                prove(empty, expression, f"{where}.{what}")
            except _MissingColumn as error:
                raise Refused(f"{', '.join(sorted(headers)[:3])}: no column {error.column!r}, which {where}.{what} needs; there are "
                              f"{there}. Deliver the column, or change {where}.{what} in {settings.file.name}") from None
    everything = {c.casefold() for c in types}
    kinds: dict[frozenset[str], list[str]] = {}
    for file, header in headers.items():
        kinds.setdefault(frozenset(c.casefold() for c in header), []).append(file)
    for header, files in kinds.items():
        if header >= everything:
            continue
        poorer = _empty(spark, {c: t for c, t in types.items() if c.casefold() in header})
        for name, expression in mapping.columns.items():
            if name in absent:
                continue
            at = f"{where}.columns.{name}"
            try:
                prove(poorer, expression, at, bool(mapping.group_by))
            except _MissingColumn as error:
                absence(error, at, name, files)
                for file in files:
                    lacking.setdefault(file, {})[name] = error.column
    return MappingPlan(contract, mapping, settings.shop.time_zone, str(settings.file), tuple(absent)), lacking


def _empty(spark: SparkSession, types: Mapping[str, str]) -> DataFrame:
    columns = [f"CAST(NULL AS {t}) AS `{c.replace('`', '``')}`" for c, t in types.items()]
    return spark.range(0).selectExpr(*columns, *(f"CAST(NULL AS string) AS `{c}`" for c in READING_COLUMNS))


def _resolve(
    frame: DataFrame, expression: str, settings: Settings, at: str, there: str, grouped: bool, keys: Sequence[str]
) -> None:
    from pyspark.errors import AnalysisException, ParseException
    from pyspark.sql import functions as F

    try:
        chosen = frame.groupBy(*[F.expr(k) for k in keys]).agg(F.expr(expression)) if grouped else frame.select(F.expr(expression))
        chosen.schema  # noqa: B018 (a Connect client resolves only when asked)
    except ParseException as error:
        raise ShopError(settings.file, [f"{at}: {expression!r} is not a Spark SQL expression: {_first_line(error)}"]) from None
    except AnalysisException as error:
        if (error.getCondition() or "").startswith("UNRESOLVED_COLUMN"):
            name = (error.getMessageParameters() or {}).get("objectName", "").strip("`")
            raise _MissingColumn(name) from None
        raise ShopError(settings.file, [f"{at}: {expression!r}: {_first_line(error)}. Source columns: {there}"]) from None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")


def typed(frame: DataFrame, made: MappingPlan, keyring: Keyring) -> DataFrame:
    """One row for each delivered record (after `where` and `group_by`): the contract's columns, typed and protected,
    `__reason` (struct of reason and detail; null where the row is good) and `__record` (encrypted; null where it is good).

    A record that could not be split keeps its raw text as the record; any other its source columns as JSON.
    """
    from pyspark.sql import functions as F

    contract, mapping = made.contract, made.mapping
    malformed = F.col(BAD).isNotNull()
    if mapping.where:
        frame = frame.where(malformed | F.coalesce(F.expr(mapping.where).cast("boolean"), F.lit(False)))
    source = [c for c in frame.columns if c not in READING_COLUMNS]
    mapped = [F.expr(e).alias(f"m_{c}") for c, e in made.columns.items()]
    if mapping.group_by:
        # a malformed record is a group of its own, so that one reading serves both
        alone = F.when(malformed, F.struct(FILE, ROW)).alias("__alone")
        groups = [F.expr(k).alias(f"__group_{i}") for i, k in enumerate(mapping.group_by)]
        first = F.min(F.struct(F.col(FILE), F.col(ROW))).alias("__first")
        frame = frame.groupBy(NIGHT, alone, *groups).agg(
            *mapped, first, *(F.min(c).alias(c) for c in (BAD, DETAIL, LINE))
        )
        frame = frame.withColumn(FILE, F.col("__first")[FILE]).withColumn(ROW, F.col("__first")[ROW])
        raw = F.to_json(F.struct(*[F.col(f"m_{c}").alias(c) for c in made.columns]))
    else:
        raw = F.col("__raw")
        frame = frame.select(*[F.col(c) for c in READING_COLUMNS], *mapped,
                             F.to_json(F.struct(*[F.col(_quoted(c)) for c in source])).alias("__raw"))
    kinds = {f.name: f.dataType for f in frame.schema.fields}
    required = {*contract.required, *(c.name for c in contract.columns if not c.nullable)} & set(made.mapping.columns)

    values: dict[str, Column] = {}
    problems: list[Column] = [F.when(F.col(BAD).isNotNull(), F.struct(F.col(BAD).alias("reason"), F.col(DETAIL).alias("detail")))]
    for column in contract.columns:
        name = column.name
        if name in LINEAGE:
            continue
        if name not in made.columns:
            values[name] = _unmapped(name).cast(column.type)
            continue
        given, kind = F.col(f"m_{name}"), kinds[f"m_{name}"]
        read = casts.convert(given, kind, column, made.zone, mapping.timestamp_formats, mapping.decimal_comma)
        values[name] = read
        blank = casts.is_blank(given, kind)
        problems.append(F.when(~blank & read.isNull(), _problem(f"bad_{name}", f"{name}: cannot be read as {column.type}")))
        if name in required:
            problems.append(F.when(blank, _problem(f"missing_{name}", f"{name}: required and blank")))
    typed_frame = frame.select(
        *[v.alias(n) for n, v in values.items()],
        F.col(NIGHT).alias("delivered_on"), F.col(FILE).alias("source_file"), F.col(ROW).alias("source_row"),
        F.coalesce(*problems).alias(REASON), F.coalesce(F.col(LINE), raw).alias(RECORD),
    )
    return _protected(typed_frame, contract, made.columns, keyring)


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"


def _problem(reason: str, detail: str) -> Column:
    from pyspark.sql import functions as F

    return F.struct(F.lit(reason).alias("reason"), F.lit(detail).alias("detail"))


def _unmapped(name: str) -> Column:
    """What a column holds that the shop does not map: an event's key is made from its file and row, a quantity is one."""
    from pyspark.sql import functions as F

    if name == "event_id":
        return F.substring(F.sha2(F.concat_ws("\0", F.col(FILE), F.col(ROW).cast("string")), 256), 1, 32)
    if name == "quantity":
        return F.lit(1)
    return F.lit(None)


def _protected(frame: DataFrame, contract: Dataset, mapped: Iterable[str], keyring: Keyring) -> DataFrame:
    """Personal columns pseudonymised, encrypted or masked; records of rejected rows encrypted, of good rows dropped."""
    from pyspark.sql import functions as F

    chosen = []
    for column in contract.columns:
        value = F.col(column.name)
        if column.name in mapped and column.personal == "pseudonym":
            value = keyring.pseudonym_column(value, column.name)
        elif column.name in mapped and column.personal == "encrypt":
            value = keyring.encrypt_column(value, F.lit(f"{contract.name}.{column.name}"))
        elif column.name in mapped and column.personal == "free_text":
            value = mask_column(value)
        chosen.append(value.alias(column.name))
    at = F.concat_ws("\0", F.lit(contract.name), F.col("source_file"), F.col("source_row").cast("string"))
    record = F.when(F.col(REASON).isNotNull(), F.coalesce(F.col(RECORD), F.lit("")))
    return frame.select(*chosen, F.col(REASON), keyring.encrypt_column(record, at).alias(RECORD))
