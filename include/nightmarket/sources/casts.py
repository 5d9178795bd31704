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

Scalars are read by plain functions, columns by reading each distinct value once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from nightmarket.contracts.model import Column

if TYPE_CHECKING:
    import pyarrow as pa

_TRUE, _FALSE = frozenset({"true", "t", "yes", "y", "1", "1.0"}), frozenset({"false", "f", "no", "n", "0", "0.0"})
_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?(?: ?(Z|z|UTC|[+-]\d\d(?::?\d\d)?))?)?", re.ASCII
)
_SECONDS = re.compile(r"-?\d{9,11}(?:\.\d+)?", re.ASCII)
_MILLISECONDS = re.compile(r"-?\d{12,14}(?:\.0+)?", re.ASCII)
_CODE = re.compile(r"^([(]?[+-]?)[A-Za-z]{3}(?=[\d.,+-])|(?<=[\d.,])[A-Za-z]{3}([)]?)$")
_GROUPING = dict.fromkeys(map(ord, " \t\u00a0\u202f\u2009'’"))  # blanks that group thousands, Swiss apostrophes
_SIGNS = re.compile(r"[$¢£¤¥֏؋৲৳૱௹฿៛\u20a0-\u20cf﷼﹩＄￠￡￥￦元円]")
_POINT = re.compile(r"[+-]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_COMMA = re.compile(r"[+-]?(?:(?:\d{1,3}(?:\.\d{3})+|\d+)(?:,\d*)?|,\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_EXACT = Context(prec=400, rounding=ROUND_HALF_UP)  # wide enough that no digit is lost before the stated rounding
_WHOLE_BOUNDS = {"long": (-(2**63), 2**63 - 1), "int": (-(2**31), 2**31 - 1)}


def is_blank(value: Any) -> bool:
    """Whether a delivered value says nothing."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, float) and math.isnan(value))


def read_timestamp(value: Any, zone: tzinfo) -> datetime | None:
    """An instant in UTC; None where `value` is none."""
    if isinstance(value, datetime):
        return _utc(value, zone)
    if isinstance(value, date):
        return _utc(datetime(value.year, value.month, value.day), zone)  # noqa: DTZ001 (the zone is given beside it)
    if isinstance(value, bool):
        return None
    text = (format(Decimal(repr(value)), "f") if isinstance(value, float) and math.isfinite(value) else str(value)).strip()
    try:
        if match := _ISO.fullmatch(text):
            year, month, day, hour, minute, second, fraction, offset = match.groups()
            micros = int(fraction[:6].ljust(6, "0")) if fraction else 0
            clock = datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), micros)  # noqa: DTZ001
            return _utc(clock if offset is None else clock.replace(tzinfo=_offset(offset)), zone)
        if _SECONDS.fullmatch(text):
            return _EPOCH + int(Decimal(text) * 1_000_000) * _MICROSECOND
        if _MILLISECONDS.fullmatch(text):
            return _EPOCH + int(Decimal(text) * 1_000) * _MICROSECOND
    except (ValueError, OverflowError):
        return None
    return None


def _utc(value: datetime, zone: tzinfo) -> datetime | None:
    try:
        return (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(timezone.utc)
    except OverflowError:
        return None


def _offset(text: str) -> timezone:
    if text in ("Z", "z", "UTC"):
        return timezone.utc
    digits = text[1:].replace(":", "").ljust(4, "0")
    ahead = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-ahead if text[0] == "-" else ahead)


def read_number(value: Any, decimal_comma: bool = False) -> Decimal | None:
    """The exact number that was written; None where `value` is none, or not finite."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, Decimal)):
        return Decimal(value)
    if isinstance(value, float):
        return Decimal(repr(value)) if math.isfinite(value) else None
    if not isinstance(value, str):
        return None
    text = _SIGNS.sub("", value).translate(_GROUPING).strip()
    text = _CODE.sub(r"\1\2", text)
    if text.startswith("(") and text.endswith(")"):
        text = "-" + text[1:-1]
    elif text.endswith("-"):
        text = "-" + text[:-1]
    if not (_COMMA if decimal_comma else _POINT).fullmatch(text):
        return None
    return Decimal(text.replace(".", "").replace(",", ".") if decimal_comma else text.replace(",", ""))


def read_decimal(value: Any, precision: int, scale: int, decimal_comma: bool = False) -> Decimal | None:
    """The number rounded half up to `scale` digits; None where it is none or needs more than `precision` digits."""
    number = read_number(value, decimal_comma)
    if number is None or number.adjusted() > precision:
        return None
    try:
        rounded = number.quantize(Decimal(1).scaleb(-scale), context=_EXACT)
    except InvalidOperation:
        return None
    return rounded if len(rounded.as_tuple().digits) <= precision or rounded == 0 else None


def read_whole(value: Any, kind: str, decimal_comma: bool = False) -> int | None:
    """A whole number within the bounds of `kind` (long or int); None where it is none."""
    number = read_number(value, decimal_comma)
    if number is None or number.adjusted() > 20 or number != number.to_integral_value(context=_EXACT):
        return None
    low, high = _WHOLE_BOUNDS[kind]
    return whole if low <= (whole := int(number)) <= high else None


def read_boolean(value: Any) -> bool | None:
    """True or False; None where `value` says neither."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    return True if text in _TRUE else False if text in _FALSE else None


def read_string(value: Any) -> str:
    """Text as it is; other types as they are written in ISO 8601, JSON or decimal notation."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def reader(column: Column, zone: tzinfo, decimal_comma: bool) -> Callable[[Any], Any]:
    """The function that reads one value as the contract's column; it returns None for what cannot be read."""
    if column.type == "timestamp":
        return lambda v: read_timestamp(v, zone)
    if column.type.startswith("decimal"):
        precision, scale = (int(n) for n in column.type[8:-1].split(","))
        return lambda v: read_decimal(v, precision, scale, decimal_comma)
    if column.type in _WHOLE_BOUNDS:
        return lambda v: read_whole(v, column.type, decimal_comma)
    if column.type == "boolean":
        return read_boolean
    if column.type == "string":
        return read_string
    raise ValueError(f"{column.name}: no delivery can be read as {column.type}")


def convert(values: pa.Array, read: Callable[[Any], Any], wanted: pa.DataType) -> tuple[pa.Array, pa.Array, pa.Array]:
    """A column read value by distinct value: what was read (null where blank or unreadable), which were blank, which
    were not blank and could not be read."""
    import pyarrow as pa

    coded = values.dictionary_encode() if not pa.types.is_dictionary(values.type) else values
    distinct = coded.dictionary.to_pylist()
    blank = [is_blank(v) for v in distinct]
    found = [None if b else read(v) for v, b in zip(distinct, blank, strict=True)]
    bad = [not b and f is None for b, f in zip(blank, found, strict=True)]
    at = coded.indices
    return (
        pa.array(found, wanted).take(at),
        pa.array(blank, pa.bool_()).take(at).fill_null(True),
        pa.array(bad, pa.bool_()).take(at).fill_null(False),
    )
