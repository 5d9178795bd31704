"""Clean values as Spark expressions: identifiers, places, languages, money, the edges of a night."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal

from pyspark.sql import Column
from pyspark.sql import functions as F

from nightmarket.contracts import EVENT_TYPES

MONEY = "decimal(18,4)"
RATE = "decimal(17,11)"
"""18,4 times 17,11 still fits Spark's 38 digits, so a conversion is exact until its one rounding."""

_SAYS_NOTHING = ("null", "(null)", "none", "(none)", "nan", "n/a", "#n/a", "undefined", "unknown", "-")
"""Words that exports write for a missing identifier or label. 'NA' is not among them: it is Namibia."""

_TYPE_ALIASES = {
    "view": ("views", "viewed", "page_view", "pageview", "product_view", "product_viewed", "view_item", "item_view",
             "detail_view", "click", "clicks", "impression_click"),
    "cart": ("carts", "add_to_cart", "addtocart", "added_to_cart", "add_cart", "cart_add", "basket", "add_to_basket"),
    "purchase": ("purchases", "purchased", "buy", "bought", "order", "ordered", "sale", "sold", "transaction", "checkout"),
    "return": ("returns", "returned", "refund", "refunded", "cancel", "cancelled", "canceled", "cancellation", "chargeback"),
}
_CURRENCY_SIGNS = {"£": "GBP", "€": "EUR", "¥": "JPY", "₹": "INR", "₽": "RUB", "₩": "KRW", "₺": "TRY", "₪": "ILS"}
"""Signs of one currency only in practice; $ and kr are many."""
_LANGUAGES = {
    "english": "en", "eng": "en", "german": "de", "deutsch": "de", "deu": "de", "ger": "de", "french": "fr", "français": "fr",
    "fra": "fr", "fre": "fr", "spanish": "es", "español": "es", "spa": "es", "italian": "it", "italiano": "it", "ita": "it",
    "portuguese": "pt", "português": "pt", "por": "pt", "dutch": "nl", "nederlands": "nl", "nld": "nl", "dut": "nl",
    "chinese": "zh", "中文": "zh", "zho": "zh", "chi": "zh", "japanese": "ja", "日本語": "ja", "jpn": "ja", "jp": "ja",
    "russian": "ru", "rus": "ru", "polish": "pl", "pol": "pl", "turkish": "tr", "tur": "tr", "arabic": "ar", "ara": "ar",
}


def tidy(column: Column) -> Column:
    """One space between words, no control or invisible characters, none at the ends; null where nothing is left."""
    plain = F.regexp_replace(column, r"\x1b\[[0-9;]*[A-Za-z]", "")
    spaced = F.regexp_replace(plain, r"[\s\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\u0085]+", " ")
    visible = F.trim(F.regexp_replace(spaced, r"[\p{Cc}\p{Cf}]", ""))
    return F.when(visible != "", visible)


def identifier(column: Column) -> Column:
    """A key or label; null where it is one of the words that exports write for nothing."""
    cleaned = tidy(column)
    return F.when(~F.lower(cleaned).isin(*_SAYS_NOTHING), cleaned)


def looked_up(column: Column, table: Mapping[str, str]) -> Column:
    """`table[column]`, null where it is not in the table."""
    if not table:
        return F.lit(None).cast("string")
    entries = F.create_map(*[F.lit(x) for pair in sorted(table.items()) for x in pair])
    return F.element_at(entries, column)


def event_type(column: Column) -> Column:
    """One of EVENT_TYPES, whatever its case, separators or customary name; else as delivered, for the rule to reject."""
    word = F.regexp_replace(F.lower(tidy(column)), r"[\s.-]+", "_")
    aliases = {alias: kind for kind, names in _TYPE_ALIASES.items() for alias in names} | {t: t for t in EVENT_TYPES}
    return F.coalesce(looked_up(word, aliases), word)


def country(column: Column, aliases: Mapping[str, str]) -> Column:
    """The country by its canonical name. Aliases ignore case; an alias to '' says that the shop does not know."""
    cleaned = identifier(column)
    mapped = F.coalesce(looked_up(F.lower(cleaned), {k.strip().lower(): v for k, v in aliases.items()}), cleaned)
    return F.when(mapped != "", mapped)


def country_code(column: Column, aliases: Mapping[str, str]) -> Column:
    """ISO 3166 alpha-2 in capitals; null where it is none."""
    code = F.upper(country(column, aliases))
    return F.when(code.rlike("^[A-Z]{2}$"), code)


def language(column: Column) -> Column:
    """ISO 639-1, from codes with regions ('en-GB') and customary names; null where it is neither."""
    word = F.lower(identifier(column))
    main = F.split(word, "[-_]")[0]
    return F.coalesce(looked_up(word, _LANGUAGES), looked_up(main, _LANGUAGES), F.when(main.rlike("^[a-z]{2}$"), main))


def currency(column: Column) -> Column:
    """ISO 4217 in capitals; a sign that only one currency uses becomes its code."""
    word = F.upper(identifier(column))
    return F.coalesce(looked_up(word, _CURRENCY_SIGNS), word)


def is_foreign(code: Column, rates: Mapping[str, float], home: str) -> Column:
    """True for a currency without a rate."""
    return ~code.isin(home, *sorted(k.upper() for k in rates))


def converted(amount: Column, code: Column, rates: Mapping[str, float], home: str) -> Column:
    """`amount` in the shop's currency: times the rate, rounded once, half up, to four decimals. Null without a rate."""
    result = F.when(code == home, amount)
    for name, rate in sorted(rates.items()):
        exact = Decimal(str(rate)).quantize(Decimal("1e-11"), ROUND_HALF_UP)
        result = result.when(code == name.upper(), F.round(amount * F.lit(exact).cast(RATE), 4).cast(MONEY))
    return result


def night_start(delivered_on: Column, zone: str) -> Column:
    """The instant at which the night's day begins in the shop's zone, in UTC."""
    return F.to_utc_timestamp(delivered_on.cast("timestamp"), zone)


def night_end(delivered_on: Column, zone: str) -> Column:
    """The instant at which the night's day is over in the shop's zone, in UTC; a day may have 23 or 25 hours."""
    return F.to_utc_timestamp(F.date_add(delivered_on, 1).cast("timestamp"), zone)


def local_date(moment: Column, zone: str) -> Column:
    """The day of an instant in the shop's zone."""
    return F.to_date(F.from_utc_timestamp(moment, zone))


def label_known_at(label: Column, zone: str) -> Column:
    """When a label became known: as delivered, else the end of the night that delivered it; null without a label."""
    told = F.coalesce(F.col("label_known_at"), night_end(F.col("delivered_on"), zone))
    return F.when(label.isNotNull(), told)
