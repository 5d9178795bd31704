"""From what was delivered to the contract's types, without guessing: a value that cannot be read is told, never nulled.

    blank           empty, or only blanks; NaN of a floating-point column. It is null.
    timestamp       ISO 8601 with or without time and offset; seconds (9 to 11 digits) or milliseconds (12 to 14) since
                    1970; `timestamp_formats` of the mapping, which come first. Without an offset it is a time in
                    the shop's zone: in the hour that the clocks repeat the earlier, in the hour that they skip one later.
    decimal         currency signs or codes, thousands separators, (1.50) or 1.50- for a negative, exponents;
                    `decimal_comma` swaps the roles of comma and point. Digits beyond the contract's scale are
                    rounded half up; a value beyond its precision cannot be read.
    long, int       the same, whole: 6 and 6.0 are, 6.5 is not
    boolean         true/false, t/f, yes/no, y/n, 1/0, in any case
    string          as it is
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nightmarket.contracts.model import Column as Described

if TYPE_CHECKING:
    from pyspark.sql import Column
    from pyspark.sql.types import DataType

_TRUE, _FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
_SIGNS = r"[\s\u00a0\u202f'’]|\p{Sc}"  # blanks that group thousands, Swiss apostrophes, every currency sign
_ISO = r"^\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?)?\s?(Z|z|UTC|[+-]\d{2}(?::?\d{2})?)?$"
_OFFSET = r"(Z|z|UTC|[+-]\d{2}(?::?\d{2})?)$"
_ZONE_LETTERS = set("VzOXxZ")
_INT_MAX, _LONG_MAX = 2**31 - 1, 2**63 - 1


def is_blank(value: Column, kind: DataType) -> Column:
    """Whether a delivered value says nothing: null, blank text, or NaN."""
    from pyspark.sql import functions as F
    from pyspark.sql.types import DoubleType, FloatType, StringType

    if isinstance(kind, StringType):
        return value.isNull() | (F.trim(value) == "")
    if isinstance(kind, (DoubleType, FloatType)):
        return value.isNull() | F.isnan(value)
    return value.isNull()


def convert(
    value: Column, kind: DataType, column: Described, zone: str, formats: Sequence[str] = (), decimal_comma: bool = False
) -> Column:
    """`value` of Spark type `kind` as the contract's type; null where it cannot be read (or is blank)."""
    from pyspark.sql import functions as F

    if column.type == "timestamp":
        read = _timestamp(value, kind, zone, formats)
    elif column.type.startswith("decimal"):
        read = _number(value, kind, decimal_comma, column.type)
    elif column.type in ("long", "int"):
        read = _whole(value, kind, decimal_comma, column.type)
    elif column.type == "boolean":
        read = _boolean(value, kind)
    elif column.type == "string":
        read = value.cast("string")
    else:
        raise ValueError(f"{column.name}: no delivery can be read as {column.type}")
    return F.when(~is_blank(value, kind), read)


def local_date(value: Column, zone: str) -> Column:
    """The day of an instant in the shop's zone."""
    from pyspark.sql import functions as F

    return F.to_date(F.from_utc_timestamp(value, zone))


def _timestamp(value: Column, kind: DataType, zone: str, formats: Sequence[str]) -> Column:
    from pyspark.sql import functions as F
    from pyspark.sql import types as t

    if isinstance(kind, t.TimestampType):
        return value
    if isinstance(kind, (t.TimestampNTZType, t.DateType)):
        return F.to_utc_timestamp(value.cast("timestamp"), zone)  # the session's zone is UTC: the cast keeps the clock
    text = F.trim(value.cast("decimal(38,6)").cast("string") if _is_number(kind) else value.cast("string"))
    seconds = F.when(text.rlike(r"^-?\d{9,11}(?:\.\d+)?$"), text.cast("decimal(38,6)"))
    seconds = seconds.when(text.rlike(r"^-?\d{12,14}(?:\.0+)?$"), text.cast("decimal(38,6)") / 1000)
    since_1970 = F.timestamp_micros((seconds * 1_000_000).cast("long"))
    clock = F.regexp_replace(F.regexp_replace(F.regexp_replace(text, r"\s?" + _OFFSET, ""), "T", " "), ",", ".")
    offset = F.regexp_extract(text, _OFFSET, 1)
    offset = F.when(offset.isin("", "Z", "z", "UTC"), "+00:00").otherwise(
        F.regexp_replace(F.regexp_replace(offset, r"^([+-]\d{2})$", "$1:00"), r"^([+-]\d{2})(\d{2})$", "$1:$2")
    )
    absolute = F.concat(F.regexp_replace(clock, r"^(\S{10})$", "$1 00:00:00"), offset).cast("timestamp")
    # a date alone ends in what looks like an offset (-02): an offset only counts behind a time
    has_offset = text.rlike(r"^\d{4}-\d{2}-\d{2}[T ].*" + _OFFSET)
    iso = F.when(has_offset, absolute).otherwise(
        F.to_utc_timestamp(F.regexp_replace(F.regexp_replace(text, "T", " "), ",", ".").cast("timestamp"), zone)
    )
    tries = []
    for pattern in formats:
        parsed = F.try_to_timestamp(text, F.lit(pattern))
        tries.append(parsed if _has_zone(pattern) else F.to_utc_timestamp(parsed, zone))
    return F.coalesce(*tries, F.when(seconds.isNotNull(), since_1970).when(text.rlike(_ISO), iso))


def _has_zone(pattern: str) -> bool:
    outside = "".join(pattern.split("'")[::2])  # quoted text is literal
    return bool(_ZONE_LETTERS & set(outside))


def _is_number(kind: DataType) -> bool:
    from pyspark.sql.types import NumericType

    return isinstance(kind, NumericType)


def _number_text(value: Column, decimal_comma: bool) -> Column:
    """A number's text in the one spelling that a cast reads; null where it is no number."""
    from pyspark.sql import functions as F

    text = F.regexp_replace(F.trim(value.cast("string")), _SIGNS, "")
    text = F.regexp_replace(text, r"^(\(?[+-]?)[A-Za-z]{3}(?=[\d.,+-])|(?<=[\d.,])[A-Za-z]{3}(\)?)$", "$1$2")
    text = F.regexp_replace(text, r"^\((.+)\)$", "-$1")
    text = F.regexp_replace(text, r"^(.*\d.*)-$", "-$1")
    point, comma = (",", r"\.") if decimal_comma else (r"\.", ",")
    shape = rf"^[+-]?(?:(?:\d{{1,3}}(?:{comma}\d{{3}})+|\d+)(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d{{1,3}})?$"
    plain = F.regexp_replace(text, comma, "")
    return F.when(text.rlike(shape), F.regexp_replace(plain, ",", ".") if decimal_comma else plain)


def _number(value: Column, kind: DataType, decimal_comma: bool, wanted: str) -> Column:
    from pyspark.sql.types import StringType

    return (_number_text(value, decimal_comma) if isinstance(kind, StringType) else value).cast(wanted)


def _whole(value: Column, kind: DataType, decimal_comma: bool, wanted: str) -> Column:
    from pyspark.sql import functions as F

    number = _number(value, kind, decimal_comma, "decimal(38,10)")
    most = _LONG_MAX if wanted == "long" else _INT_MAX
    return F.when((number == F.floor(number)) & (F.abs(number) <= F.lit(str(most)).cast("decimal(38,10)")), number.cast(wanted))


def _boolean(value: Column, kind: DataType) -> Column:
    from pyspark.sql import functions as F
    from pyspark.sql.types import BooleanType

    if isinstance(kind, BooleanType):
        return value
    text = F.lower(F.trim(value.cast("string")))
    return F.when(text.isin(*_TRUE), F.lit(True)).when(text.isin(*_FALSE), F.lit(False))
