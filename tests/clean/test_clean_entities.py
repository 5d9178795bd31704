"""Items, users, orders and reviews: each rule and value by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from nightmarket.clean import cleaner
from nightmarket.contracts import clean_of
from nightmarket.shop import CleanRules

pytestmark = pytest.mark.spark
RULES = CleanRules(
    not_products=("POST",), exchange_rates={"EUR": 0.85}, country_aliases={"UK": "GB"}, cancellations=("C.*",), oldest_days=400,
)
NIGHT = date(2026, 1, 15)
END = datetime(2026, 1, 16, tzinfo=timezone.utc)
D = Decimal
Case = tuple[dict[str, Any], "str | dict[str, Any]"]
"""Changes to a plain row, and the reason of its rejection or the values that it must get."""

ITEMS: list[Case] = [
    ({"title": " CafÃ©  Mug\x07 ", "category": "Kitchen\u00a0", "brand": "ÃœbergroÃŸ"},
     {"title": "Café Mug", "title_normalised": "café mug", "category": "Kitchen"}),
    ({"title": "ＡＢＣ ﬁne"}, {"title": "ＡＢＣ ﬁne", "title_normalised": "abc fine"}),
    ({"title": " "}, {"title": None, "title_normalised": None}),
    ({"language": "EN-gb"}, {"language": "en"}),
    ({"language": "Deutsch"}, {"language": "de"}),
    ({"language": "zh_Hans_CN"}, {"language": "zh"}),
    ({"language": "Klingon"}, {"language": None}),
    ({"list_price": D("10"), "currency": "EUR"}, {"list_price": D("8.5"), "currency": "GBP"}),
    ({"list_price": None, "currency": "XXX"}, {"list_price": None, "currency": "GBP"}),
    ({"list_price": D("10"), "currency": "XXX"}, "unknown_currency"),
    ({"list_price": D("0")}, {"list_price": D("0")}),
    ({"list_price": D("-1")}, "list_price_out_of_range"),
    ({"item_id": "post"}, "not_a_product"),
    ({"item_id": "\t"}, "missing_required"),
    ({"item_id": " A\u200b1 "}, {"item_id": "A1"}),
]
USERS: list[Case] = [
    ({"country": "uk", "email": "p1:k:abc", "full_name": "e1:k:abc"}, {"country": "GB", "email": "p1:k:abc", "full_name": "e1:k:abc"}),
    ({"country": "none", "age_group": " 25-34", "referrer": "(none)"}, {"country": None, "age_group": "25-34", "referrer": None}),
    ({"ip_country": "uk"}, {"ip_country": "GB"}),
    ({"user_id": "NaN"}, "missing_required"),
    ({"signed_up_at": END + timedelta(hours=2)}, "from_the_future"),
    ({"signed_up_at": datetime(1999, 1, 1, tzinfo=timezone.utc)}, {"signed_up_at": datetime(1999, 1, 1)}),
]
ORDERS: list[Case] = [
    ({"order_id": "C536379", "amount": D("5")}, {"is_cancellation": True}),
    ({"order_id": "536379", "amount": D("-5")}, {"is_cancellation": False, "order_date": NIGHT}),
    ({"payment_method": "Credit Card"}, {"payment_method": "credit_card"}),
    ({"amount": D("10"), "currency": "EUR"}, {"amount": D("8.5"), "currency": "GBP"}),
    ({"currency": "XXX"}, "unknown_currency"),
    ({"amount": None, "currency": "XXX"}, {"amount": None}),
    ({"ip_country": " de"}, {"ip_country": "DE"}),
    ({"ip_country": "Deutschland"}, {"ip_country": None}),
    ({"amount": D("-10000000.01")}, "amount_out_of_range"),
    ({"line_count": -1}, "line_count_out_of_range"),
    ({"order_ts": END + timedelta(hours=2)}, "from_the_future"),
    ({"order_ts": END - timedelta(days=402)}, "too_old"),
    ({"is_fraud": True}, {"is_fraud": True, "label_known_at": datetime(2026, 1, 16)}),  # told by this night, not before
    ({"is_fraud": False, "label_known_at": END - timedelta(days=1)}, {"label_known_at": datetime(2026, 1, 15)}),
    ({"label_known_at": END}, {"is_fraud": None, "label_known_at": None}),
]
REVIEWS: list[Case] = [
    ({"text": "ItÃ¢â‚¬â„¢s\n\tgood", "title": " Nice "}, {"text": "It’s good", "text_normalised": "It’s good", "title": "Nice"}),
    ({"text": "Ｇｏｏｄ", "language": "eng"}, {"text": "Ｇｏｏｄ", "text_normalised": "Good", "language": "en"}),
    ({"text": None, "rating": 3}, {"text": None, "rating": 3}),
    ({"text": " ", "title": None, "rating": None}, "empty_review"),
    ({"rating": 0}, "rating_out_of_range"),
    ({"rating": 6}, "rating_out_of_range"),
    ({"item_id": "POST"}, "not_a_product"),
    ({"review_ts": END + timedelta(hours=2)}, "from_the_future"),
    ({"review_ts": END - timedelta(days=402)}, "too_old"),
    ({"is_fake": True}, {"label_known_at": datetime(2026, 1, 16)}),
]
CASES = {"items": ITEMS, "users": USERS, "orders": ORDERS, "reviews": REVIEWS}


@pytest.fixture(scope="module", params=CASES)
def judged(request: pytest.FixtureRequest, bronze: Callable[..., Any]) -> tuple[str, dict[int, Any], dict[int, str]]:
    entity = request.param
    cleaned = cleaner(entity)(bronze(entity, [changes for changes, _ in CASES[entity]]), RULES, "Europe/London", "GBP")
    cleaned.judged.persist()
    assert [(f.name, f.dataType) for f in cleaned.rows.schema] == [(f.name, f.dataType) for f in clean_of(entity).spark_schema()]
    good = {r["source_row"]: r for r in cleaned.rows.collect()}
    return entity, good, {r["source_row"]: r["reason"] for r in cleaned.rejected.collect()}


def test_reasons_and_values(judged: tuple[str, dict[int, Any], dict[int, str]]) -> None:
    entity, good, rejected = judged
    assert len(good) + len(rejected) == len(CASES[entity])
    for n, (changes, want) in enumerate(CASES[entity]):
        if isinstance(want, str):
            assert rejected.get(n) == want, changes
        else:
            assert n in good, (changes, rejected.get(n))
            assert {name: good[n][name] for name in want} == want, changes


def test_without_a_pattern_a_negative_amount_is_a_cancellation(bronze: Callable[..., Any]) -> None:
    rules = RULES.model_copy(update={"cancellations": ()})
    rows = cleaner("orders")(bronze("orders", [{"amount": D(-1)}, {"amount": D(0)}, {"amount": None}]), rules, "UTC", "GBP").rows
    assert [r["is_cancellation"] for r in rows.orderBy("source_row").collect()] == [True, False, False]


def test_one_row_a_key_and_night(bronze: Callable[..., Any]) -> None:
    early, late = datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 2, tzinfo=timezone.utc)
    rows = cleaner("items")(bronze("items", [
        {"item_id": "A", "title": "new", "updated_at": late}, {"item_id": "A", "title": "old", "updated_at": early},
        {"item_id": "B"}, {"item_id": "B"}, {"item_id": "A", "title": "next", "delivered_on": NIGHT + timedelta(days=1)},
    ]), RULES, "UTC", "GBP")
    assert sorted((r["item_id"], r["title"], r["source_row"]) for r in rows.rows.collect()) == [
        ("A", "new", 0), ("A", "next", 4), ("B", "Kettle", 3),
    ]
    assert {r["source_row"]: r["reason"] for r in rows.rejected.collect()} == {1: "superseded", 2: "exact_duplicate"}
