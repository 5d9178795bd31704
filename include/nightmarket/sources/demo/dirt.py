"""Every kind of dirt that cleaning claims to handle, planted in a stated share of rows and told to the truth table.

A kind changes its row in place, or returns a row that is delivered in addition. Kinds are drawn evenly among those that a
row allows (only purchases have a quantity to spoil). The last column of the registry's comments says what cleaning owes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket.sources.demo import words
from nightmarket.sources.demo.truth import Truth

Row = dict[str, Any]


@dataclass(frozen=True)
class Night:
    """What a spoiled row may refer to."""

    zone: ZoneInfo
    delivered: datetime
    """Noon UTC of the delivered day."""


Spoil = Callable[[Row, float, Night], "Row | None"]
"""(row, a draw in [0, 1), night) -> a row to deliver in addition, or None."""


def _any(row: Row) -> bool:
    return True


@dataclass(frozen=True)
class Kind:
    name: str
    spoil: Spoil
    only: Callable[[Row], bool] = _any


def soil(entity: str, table: pa.Table, rng: np.random.Generator, share: float, night: Night, truth: Truth) -> pa.Table:
    """The table with its share of dirt. Added rows come last, as a redelivery would."""
    dirty = (rng.random(table.num_rows) < share).nonzero()[0]
    if not len(dirty):
        return table
    kinds, key = KINDS[entity], table.column_names[0]
    conditions = list(dict.fromkeys(k.only for k in kinds))
    allowed_when: dict[tuple[bool, ...], list[Kind]] = {}
    before = table.take(pa.array(dirty)).to_pylist()
    draws = rng.random((len(dirty), 2))
    after, added, names, keys = [], [], [], []
    for n, row in enumerate(before):
        holds = tuple(condition(row) for condition in conditions)
        allowed = allowed_when.get(holds)
        if allowed is None:
            allowed = allowed_when[holds] = [k for k in kinds if holds[conditions.index(k.only)]]
        kind = allowed[int(draws[n, 0] * len(allowed))]
        spoiled = dict(row)
        extra = kind.spoil(spoiled, float(draws[n, 1]), night)
        after.append(spoiled)
        if extra is not None:
            added.append(extra)
        names.append(kind.name)
        keys.append(row[key])
    mask = np.zeros(table.num_rows, dtype=bool)
    mask[dirty] = True
    for place, field in enumerate(table.schema):
        values = [r[field.name] for r in after]
        if values != [r[field.name] for r in before]:
            column = table.column(place).combine_chunks()
            table = table.set_column(place, field, pc.replace_with_mask(column, pa.array(mask), pa.array(values, field.type)))
    truth.pairs("dirt", entity, pa.array(names, pa.string()), pa.array(keys, pa.string()))
    return pa.concat_tables([table, pa.Table.from_pylist(added, schema=table.schema)]) if added else table


# --- how rows are spoiled ----------------------------------------------------------------------------------------
def _put(column: str, *values: Any) -> Spoil:
    def spoil(row: Row, u: float, night: Night) -> None:
        row[column] = values[int(u * len(values))]

    return spoil


def _text(column: str, change: Callable[[str, float], str]) -> Spoil:
    def spoil(row: Row, u: float, night: Night) -> None:
        row[column] = change(row[column], u)

    return spoil


def _known(row: Row) -> bool:
    return row["customer"] is not None


def _mojibake(text: str, u: float) -> str:
    """UTF-8 read as Windows-1252 or Latin-1; where nothing is lost on plain ASCII, an accent goes first."""
    text = text if not text.isascii() else f"{text} – Café"
    return text.encode().decode("latin-1" if u < 0.5 else "cp1252", errors="replace").replace("\x85", "…")


def _control(text: str, u: float) -> str:
    middle = max(1, len(text) // 2)
    return text[:middle] + ("\x07", "\x1b[31m", "\u200b", "\ufeff")[int(u * 4)] + text[middle:]


def _spaces(text: str, u: float) -> str:
    return ("  {}", "{} ", "\t{}  ", "\u00a0{}")[int(u * 4)].format(text)


def _emoji(text: str, u: float) -> str:
    return f"{text} {('🎁', '🔥🔥', '👩‍👩‍👧', '❤️')[int(u * 4)]}"


def _aware(value: str | datetime) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(value.replace("Z", "+00:00"))


def _like(moment: datetime, value: str | datetime) -> str | datetime:
    """The moment in the type and form of the value it replaces."""
    return moment if isinstance(value, datetime) else f"{moment.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def _moved(column: str, of: Callable[[float, Night], datetime]) -> Spoil:
    def spoil(row: Row, u: float, night: Night) -> None:
        row[column] = _like(of(u, night), row[column])

    return spoil


def _time_uk(column: str) -> Spoil:
    def spoil(row: Row, u: float, night: Night) -> None:
        row[column] = f"{_aware(row[column]).astimezone(night.zone):%d/%m/%Y %H:%M}"

    return spoil


def _time_epoch(column: str, per_second: int) -> Spoil:
    def spoil(row: Row, u: float, night: Night) -> None:
        row[column] = str(int(_aware(row[column]).timestamp()) * per_second)

    return spoil


def _time_offset(column: str) -> Spoil:
    def spoil(row: Row, u: float, night: Night) -> None:
        zone = timezone(timedelta(minutes=(-480, -300, 60, 330, 540)[int(u * 5)]))
        row[column] = _aware(row[column]).astimezone(zone).isoformat()

    return spoil


def _again(row: Row, u: float, night: Night) -> Row:
    return dict(row)


def _stale(**changes: Callable[[Any], Any]) -> Spoil:
    """The same key as it was an hour to a day before, with other values: the newer row must win."""

    def spoil(row: Row, u: float, night: Night) -> Row:
        older = {**row, **{column: change(row[column]) for column, change in changes.items()}}
        older["changed_at"] = _like(_aware(row["changed_at"]) - timedelta(hours=1 + int(u * 23)), row["changed_at"])
        return older

    return spoil


def _symbol(text: str, u: float) -> str:
    """Currency sign or code and thousands separators."""
    grouped = f"{Decimal(text):,.2f}"
    return (f"£{grouped}", f"{grouped} GBP", f"£ {grouped}")[int(u * 3)]


def _comma(text: str, u: float) -> str:
    return f"{Decimal(text):,.2f}".replace(",", " ").replace(".", ",").replace(" ", ".")


def _foreign(price: str) -> Spoil:
    """The same value in euros or dollars, at the rates of shops/demo.yaml."""

    def spoil(row: Row, u: float, night: Night) -> None:
        code, rate = (("EUR", Decimal("0.85")), ("USD", Decimal("0.80")))[int(u * 2)]
        row["ccy"], row[price] = code, str((Decimal(row[price]) / rate).quantize(Decimal("0.01")))

    return spoil


def _line(row: Row, u: float, night: Night) -> Row:
    """Postage or wrapping on the same order."""
    code, price = (("POSTAGE", "3.95"), ("GIFT_WRAP", "1.50"), ("DISCOUNT", "0.50"), ("MANUAL", "10.00"), ("BANK_CHARGES", "15.00"))[int(u * 5)]
    return {**row, "id": f"{row['id']}x", "sku": code, "qty": "1", "price": price}


def _double(text: str | None) -> str | None:
    return None if text is None else str(2 * int(text))


def _huge(row: Row, u: float, night: Night) -> None:
    row["qty"] = str(2_000 + int(u * 70_000))


def _dear(row: Row, u: float, night: Night) -> None:
    row["price"] = str((Decimal(row["price"]) * 1000).quantize(Decimal("0.01")))


def _taken_back(row: Row, u: float, night: Night) -> None:
    row["qty"] = f"-{row['qty']}"


def _contact(row: Row, u: float, night: Night) -> None:
    number = int(u * 1_000_000_000)
    contact = f"hello.{number:09d}@shopper.example" if number % 2 else f"+44 7700 9{number % 100_000:05d}"
    row["body"] = f"{row['body']} {('Write to me', 'Call me')[number % 2 == 0]}: {contact}"


def _alias(column: str) -> Spoil:
    def spoil(row: Row, u: float, night: Night) -> None:
        aliases = words.COUNTRY_ALIASES[words.COUNTRIES.index(row[column])]
        row[column] = aliases[int(u * len(aliases))]

    return spoil


def _ahead(u: float, night: Night) -> datetime:
    return night.delivered + timedelta(days=2 + int(u * 300))


def _ancient(u: float, night: Night) -> datetime:
    return night.delivered - timedelta(days=450 + int(u * 4000))


def _bought(row: Row) -> bool:
    return row["action"] == "purchase"


_BAD_TIMES = ("31/02/2026 25:61", "yesterday", "0000-00-00", "2026-13-45T99:00:00Z")
_ITEM_TIMES = ("99/99/9999 99:99", "soon")
_SHOUTED = {"page_view": "PAGE_VIEW", "add_to_cart": "Add_To_Cart", "purchase": "PURCHASE", "return": " Return "}

KINDS: dict[str, tuple[Kind, ...]] = {
    "events": (
        Kind("exact_duplicate", _again),  # one is kept
        Kind("stale_duplicate", _stale(price=lambda p: str(Decimal(p) + 1), qty=_double)),  # the newer is kept
        Kind("missing_item", _put("sku", None, "", "   ")),  # rejected
        Kind("missing_time", _put("occurred_at", None, "")),  # rejected
        Kind("missing_type", _put("action", None, "")),  # rejected
        Kind("bad_time", _put("occurred_at", *_BAD_TIMES)),  # rejected
        Kind("time_uk", _time_uk("occurred_at")),  # read, to the minute
        Kind("time_epoch_s", _time_epoch("occurred_at", 1)),  # read
        Kind("time_epoch_ms", _time_epoch("occurred_at", 1000)),  # read
        Kind("time_offset", _time_offset("occurred_at")),  # read
        Kind("price_symbol", _text("price", _symbol)),  # read
        Kind("price_decimal_comma", _text("price", _comma)),  # read
        Kind("bad_price", _put("price", "n/a", "free", "12.3.4", "-")),  # rejected
        Kind("foreign_currency", _foreign("price")),  # converted
        Kind("unknown_currency", _put("ccy", "XXX", "DOGE")),  # rejected
        Kind("whitespace", _text("sku", _spaces)),  # trimmed
        Kind("control_characters", _text("source", _control)),  # removed
        Kind("mojibake", _text("source", _mojibake)),  # mended
        Kind("emoji", _text("source", _emoji)),  # kept
        Kind("country_alias", _alias("country")),  # named by clean.country_aliases
        Kind("wrong_case", lambda row, u, night: row.update(action=_SHOUTED[row["action"]])),  # read
        Kind("unknown_type", _put("action", "wishlist", "share", "42")),  # rejected
        Kind("future_clock", _moved("occurred_at", _ahead)),  # rejected
        Kind("too_old", _moved("occurred_at", _ancient)),  # rejected
        Kind("unknown_item", _put("sku", "SKU-990001", "SKU-990002", "SKU-999999")),  # kept; the gate counts it
        Kind("unknown_user", _put("customer", "C99000001", "C99000002"), _known),  # kept; the gate counts it
        Kind("missing_user", _put("customer", None, "", "  "), _known),  # kept as a stranger
        Kind("not_a_product", _line, _bought),  # rejected
        Kind("negative_quantity", _taken_back, _bought),  # becomes a return
        Kind("zero_price", _put("price", "0", "0.00"), _bought),  # as cleaning's rule says
        Kind("outlier_quantity", _huge, _bought),  # flagged
        Kind("outlier_price", _dear, _bought),  # flagged
        Kind("bad_quantity", _put("qty", "two", "1,5,0", "NaN"), _bought),  # rejected
        Kind("missing_quantity", _put("qty", None, ""), _bought),  # filled with 1
    ),
    "items": (
        Kind("exact_duplicate", _again),
        Kind("stale_duplicate", _stale(rrp=lambda p: str(Decimal(p) + 2), stock=lambda s: "no" if s == "yes" else "yes")),
        # a product must stay known by a good row: the spoiled one comes in addition
        Kind("missing_key", lambda row, u, night: {**row, "sku": (None, "")[int(u * 2)]}),
        Kind("price_symbol", _text("rrp", _symbol)),
        Kind("price_decimal_comma", _text("rrp", _comma)),
        Kind("bad_price", lambda row, u, night: {**row, "sku": f"SKU-98{int(u * 9999):04d}", "rrp": "on request"}),
        Kind("foreign_currency", _foreign("rrp")),
        Kind("unknown_currency", lambda row, u, night: {**row, "sku": f"SKU-97{int(u * 9999):04d}", "ccy": "XXX"}),
        Kind("mojibake", _text("name", _mojibake)),
        Kind("control_characters", _text("name", _control)),
        Kind("whitespace", _text("name", _spaces)),
        Kind("emoji", _text("name", _emoji)),
        Kind("html_entity", _text("maker", lambda text, u: text.replace("&", "&amp;") + "&nbsp;")),
        Kind("bad_time", _put("listed", *_ITEM_TIMES)),
        Kind("missing_title", _put("name", None, "")),
    ),
    "users": (
        Kind("exact_duplicate", _again),
        Kind("stale_duplicate", _stale(address=lambda a: f"formerly {a}")),
        Kind("missing_key", lambda row, u, night: {**row, "customer": (None, "")[int(u * 2)]}),
        Kind("bad_mail", _text("email", lambda text, u: text.replace("@", (" at ", "@@")[int(u * 2)]))),
        Kind("shouted_mail", _text("email", lambda text, u: f" {text.upper()} ")),
        Kind("bad_phone", _text("phone", lambda text, u: text.replace(" ", ("-", "(0)")[int(u * 2)]))),
        Kind("whitespace", _text("name", _spaces)),
        Kind("control_characters", _text("name", _control)),
        Kind("mojibake", _text("address", _mojibake)),
        Kind("country_alias", _alias("country")),
        Kind("missing_country", _put("country", None, "")),
        Kind("joined_in_seconds", lambda row, u, night: row.update(joined=row["joined"] // 1000)),
    ),
    "orders": (
        Kind("exact_duplicate", _again),
        Kind("stale_duplicate", _stale(total=lambda t: t + Decimal("1.00"))),
        Kind("missing_key", lambda row, u, night: {**row, "order_no": (None, "")[int(u * 2)]}),
        Kind("missing_time", lambda row, u, night: {**row, "order_no": f"{row['order_no']}x", "placed_at": None}),
        Kind("missing_amount", _put("total", None)),
        Kind("unknown_currency", lambda row, u, night: {**row, "order_no": f"{row['order_no']}x", "ccy": "XXX"}),
        Kind("country_alias", _alias("ship_country")),
        Kind("whitespace", _text("order_no", lambda text, u: f" {text} ")),
        Kind("unknown_user", _put("customer", "C99000003")),
        Kind("future_clock", lambda row, u, night: {**row, "order_no": f"{row['order_no']}x", "placed_at": _ahead(u, night)}),
        Kind("too_old", lambda row, u, night: {**row, "order_no": f"{row['order_no']}x", "placed_at": _ancient(u, night)}),
        Kind("outlier_amount", lambda row, u, night: row.update(total=row["total"] * 1000)),
    ),
    "reviews": (
        Kind("exact_duplicate", _again),
        Kind("stale_duplicate", _stale(stars=lambda s: 6 - s)),
        Kind("missing_key", lambda row, u, night: {**row, "review": (None, "")[int(u * 2)]}),
        Kind("missing_item", _put("sku", None, "")),
        Kind("stars_out_of_range", _put("stars", 0, 9, -1)),
        Kind("bad_time", _put("written_at", *_BAD_TIMES)),
        Kind("time_uk", _time_uk("written_at")),
        Kind("time_epoch_ms", _time_epoch("written_at", 1000)),
        Kind("personal_in_text", _contact),
        Kind("mojibake", _text("body", _mojibake)),
        Kind("control_characters", _text("body", _control)),
        Kind("whitespace", _text("body", _spaces)),
        Kind("emoji", _text("body", _emoji)),
        Kind("unknown_item", _put("sku", "SKU-990003")),
        Kind("missing_text", _put("body", None, "")),
    ),
}
