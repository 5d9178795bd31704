"""Other people's columns to the contract's: the expressions of shop.yaml, then types, then what cannot be typed.

`plan()` proves the expressions on the columns that were delivered before any row is read; `typed()` is the frame.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from nightmarket.command import Refused
from nightmarket.contracts import Dataset
from nightmarket.protect.keys import Keyring
from nightmarket.shop import Mapping as Mapped
from nightmarket.shop import Settings, ShopError
from nightmarket.sources import casts
from nightmarket.sources.ip_ranges import Ranges
from nightmarket.sources.records import BAD, DETAIL, FILE, LINE, NIGHT, READING_COLUMNS, ROW
from nightmarket.sources.typed import REASON, RECORD, typing

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_UNSTEADY = re.compile(
    r"\b(rand|randn|random|uuid|shuffle|now|curdate|monotonically_increasing_id|spark_partition_id|input_file_name"
    r"|current_timestamp|current_date|current_time|localtimestamp|current_user|user|session_user|unix_timestamp(?=\s*\(\s*\)))\s*\(",
    re.IGNORECASE,
)
"""Functions whose answer differs from run to run."""
_BARE = re.compile(r"\b(current_timestamp|current_date|current_time|localtimestamp|current_user|user|session_user)\b(?!\s*[(.])", re.IGNORECASE)
"""Names that Spark takes for such functions, without brackets, where there is no column of that name."""
_TEXT = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")


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
    _prove_formats(spark, settings, where, mapping.timestamp_formats)
    required = {*contract.required, *(c.name for c in contract.columns if not c.nullable)}
    there = ", ".join(types) or "none"
    absent: list[str] = []
    lacking: dict[str, dict[str, str]] = {}

    def prove(frame: DataFrame, expression: str, at: str, grouped: bool = False) -> None:
        code = _TEXT.sub(" ", expression)
        if found := _UNSTEADY.search(code):
            raise ShopError(settings.file, [f"{at}: {found[1]}() gives another answer every night; a night must give the "
                                            f"same rows when it runs again. Remove it"])
        known = {c.casefold() for c in frame.columns}
        for bare in _BARE.findall(code):
            if bare.casefold() not in known:
                raise _MissingColumn(bare)
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
    conditions = [(f"{where}.where", mapping.where)] if mapping.where else []
    conditions += [(f"{where}.group_by", key) for key in mapping.group_by]

    def prove_conditions(frame: DataFrame, files: Iterable[str]) -> None:
        for at, expression in conditions:
            try:
                prove(frame, expression, at)
            except _MissingColumn as error:
                raise Refused(f"{', '.join(sorted(files)[:3])}: no column {error.column!r}, which {at} needs; there are {there}. "
                              f"Deliver the column, or change {at} in {settings.file.name}") from None

    prove_conditions(empty, headers)
    everything = {c.casefold() for c in types}
    alike: dict[frozenset[str], list[str]] = {}
    for file, header in headers.items():
        alike.setdefault(frozenset(c.casefold() for c in header), []).append(file)
    for folded, files in alike.items():
        if folded >= everything:
            continue
        poorer = _empty(spark, {c: t for c, t in types.items() if c.casefold() in folded})
        prove_conditions(poorer, files)
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


def _prove_formats(spark: SparkSession, settings: Settings, where: str, formats: Sequence[str]) -> None:
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    for pattern in formats:
        try:
            spark.range(1).select(F.to_timestamp(F.lit("none"), pattern)).collect()
        except PySparkException as error:
            raise ShopError(settings.file, [f"{where}.timestamp_formats: {pattern!r} is not a Spark datetime pattern "
                                            f"({_first_line(error)}); write one such as dd/MM/yyyy HH:mm"]) from None


def _empty(spark: SparkSession, types: Mapping[str, str]) -> DataFrame:
    columns = [f"CAST(NULL AS {t}) AS `{c.replace('`', '``')}`" for c, t in types.items()]
    return spark.range(0).selectExpr(*columns, *(f"CAST(NULL AS string) AS `{c}`" for c in READING_COLUMNS))


def _resolve(
    frame: DataFrame, expression: str, settings: Settings, at: str, there: str, grouped: bool, keys: Sequence[str]
) -> None:
    from pyspark.errors import AnalysisException, ParseException
    from pyspark.sql import functions as F

    # Spark's client also logs each question that has no answer; here they are only questions
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    try:
        chosen = frame.groupBy(*[F.expr(k) for k in keys]).agg(F.expr(expression)) if grouped else frame.select(ROW, F.expr(expression))
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


def typed(frame: DataFrame, made: MappingPlan, keyring: Keyring, ranges: Ranges | None = None) -> DataFrame:
    """One row for each delivered record (after `where` and `group_by`): the contract's columns, typed and protected,
    `__reason` and `__detail` (null where the row is good) and `__record` (encrypted; null where it is good).

    A record that could not be split keeps its raw text as the record, any other its source columns (or, grouped, what
    they were grouped to) as JSON. Of several reasons the first in the contract's order of columns counts. `ranges` tell the
    countries of IP addresses, where the contract has a place for them.
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
        told = [F.min(c).alias(c) for c in (BAD, DETAIL, LINE)]
        grouped = frame.groupBy(NIGHT, alone, *groups).agg(*mapped, first, *told)
        beside = [F.col(NIGHT), F.col("__first")[FILE].alias(FILE), F.col("__first")[ROW].alias(ROW), *map(F.col, (BAD, DETAIL, LINE))]
        ready = grouped.select(*beside, *[F.col(f"m_{c}") for c in made.columns])
    else:
        raw = [F.col(_quoted(c)).alias(f"r_{i}") for i, c in enumerate(source)]
        ready = frame.select(*[F.col(c) for c in READING_COLUMNS], *mapped, *raw)
    kinds = {f.name: f.dataType.typeName() for f in ready.schema.fields}
    plain = [F.to_json(F.col(c)).alias(c) if kinds[c] in ("array", "map", "struct", "variant") else F.col(c) for c in ready.columns]
    shaped = [
        F.coalesce(*[_formatted(F.col(f"m_{c.name}"), p, made.zone) for p in mapping.timestamp_formats]).alias(f"f_{c.name}")
        for c in contract.columns
        if mapping.timestamp_formats and c.type == "timestamp" and kinds.get(f"m_{c.name}") == "string"
    ]
    names = [f"m_{c}" for c in made.columns] if mapping.group_by else [f"r_{i}" for i in range(len(source))]
    titles = list(made.columns) if mapping.group_by else source
    task = typing(contract, tuple(made.columns), dict(zip(names, titles, strict=True)), keyring, made.zone, mapping.decimal_comma, ranges)
    schema = f"{contract.ddl()}, `{REASON}` string, `{DETAIL}` string, `{RECORD}` string"
    return ready.select(*plain, *shaped).mapInArrow(task, schema)


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"


_ZONE_LETTERS = set("VzOXxZ")


def _formatted(value: Column, pattern: str, zone: str) -> Column:
    """Text in one of the shop's own timestamp formats as an instant; null where it is in another."""
    from pyspark.sql import functions as F

    parsed = F.try_to_timestamp(F.trim(value), F.lit(pattern))
    outside_quotes = "".join(pattern.split("'")[::2])
    return parsed if _ZONE_LETTERS & set(outside_quotes) else F.to_utc_timestamp(parsed, zone)


def day_of(value: Column, kind: str, zone: str, formats: Sequence[str]) -> Column:
    """The day of a timestamp of any kind in the shop's zone; null where it cannot be read. `kind` is the type that Spark gives the value:
    an instant is taken as one, a time without zone is the shop's clock."""
    from pyspark.sql import functions as F

    if kind == "timestamp":  # Python would be handed it without its zone
        return F.to_date(F.from_utc_timestamp(value, zone))
    if kind in ("timestamp_ntz", "date"):
        return F.to_date(value)
    readers = [_formatted(value.cast("string"), pattern, zone) for pattern in formats]

    @F.udf("date", useArrow=False)
    def day(given: Any) -> date | None:
        own = ZoneInfo(zone)
        instant = None if casts.is_blank(given) else casts.read_timestamp(given, own)
        return instant.astimezone(own).date() if instant else None

    return F.coalesce(*[F.to_date(F.from_utc_timestamp(r, zone)) for r in readers], day(value))
