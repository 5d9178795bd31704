"""`jobs.screen_features`, and what other models leave out: on silver rows by hand, as of a night and no later."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs import aggregate, feedback, screen_features
from nightmarket.contracts import (
    DAILY_SALES,
    EVENTS,
    FEATURES,
    ORDERS,
    QUALITY,
    REVIEWS,
    SCREENING_DECISIONS,
    SCREENING_FEATURES,
    USERS,
    Dataset,
)
from nightmarket.lake import Lake
from nightmarket.shop import Settings

pytestmark = [pytest.mark.spark, pytest.mark.timeout(1800)]
D1 = date(2026, 1, 12)
D2, D3, D4 = (D1 + timedelta(days=n) for n in (1, 2, 3))


def at(day: date, hour: int = 12) -> datetime:
    return datetime(day.year, day.month, day.day, hour, tzinfo=timezone.utc)


def silver(dataset: Dataset, night: date, **values: Any) -> dict[str, Any]:
    return dict.fromkeys(dataset.column_names) | {"delivered_on": night, "source_file": "f", "source_row": 0} | values


def order(key: str, night: date, **changes: Any) -> dict[str, Any]:
    return silver(ORDERS, night, **({"order_id": key, "user_id": "u1", "order_ts": at(night), "amount": Decimal("10"), "currency": "GBP", "line_count": 1,
                                     "payment_method": "card", "card_id": "c1", "device_id": "d1", "country": "GB", "order_date": night,
                                     "is_cancellation": False} | changes))


def event(key: str, night: date, **changes: Any) -> dict[str, Any]:
    values = {"event_id": key, "event_ts": at(night), "event_type": "purchase", "user_id": "u1", "item_id": "A", "quantity": 1, "unit_price": Decimal("2"),
              "currency": "GBP", "order_id": f"o-{key}", "country": "GB", "is_outlier": False, "filled": [], "event_date": night, "revenue": Decimal("2")}
    return silver(EVENTS, night, **(values | changes))


def publish(settings: Settings, dataset: Dataset, rows: list[dict[str, Any]], night: date, **notes: Any) -> None:
    with Lake(settings.places.lake).writer(dataset, [night]) as writer:
        writer.stage_arrow(night, pa.Table.from_pylist([{**r, **({"source_row": n} if "source_row" in r else {})} for n, r in enumerate(rows)], dataset.arrow_schema()))
        writer.publish(night, inputs=[], settings="s", code="c", notes=notes or None)


def deliver(settings: Settings, night: date, orders: list[dict[str, Any]], reviews: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
    users = [silver(USERS, night, user_id="u2", signed_up_at=at(night, 1), country="FR", device_id="d1")] if night == D2 else []
    for dataset, rows in ((ORDERS, orders), (REVIEWS, reviews), (EVENTS, events), (USERS, users)):
        publish(settings, dataset, rows, night)
    publish(settings, QUALITY, [], night, verdict="passed", from_date=str(night))


def described(settings: Settings, night: date) -> tuple[dict[tuple[str, str], dict[str, Any]], dict[str, Any]]:
    partition = Lake(settings.places.lake).at(SCREENING_FEATURES, night)
    kinds = partition.manifest.notes["kinds"]
    rows = partition.arrow().to_pylist()
    return {(r["kind"], r["id"]): r | dict(zip(kinds[r["kind"]]["values"], r["values"], strict=True)) for r in rows}, kinds


def run(settings: Settings, night: date, *more: str) -> int:
    return screen_features.main(["--shop", str(settings.file), "--run-date", str(night), *more])


@pytest.mark.soak
def test_a_night_is_described_as_of_its_end(spark: Any, settings: Settings) -> None:
    first = [order("o1", D1), order("o2", D1, order_ts=at(D1, 15), user_id="u2", card_id="c2", amount=Decimal("90"), country="FR")]
    deliver(settings, D1, first, [], [event("e1", D1, order_id="o1"), event("e2", D1, user_id="u2", order_id="o2", event_ts=at(D1, 15))])
    text = "Best kettle ever, truly the best kettle"
    reviews = [silver(REVIEWS, D2, review_id=f"r{n}", user_id=f"u{n}", item_id="A", review_ts=at(D2, 9 + n), rating=5, text=text, text_normalised=text, language="en")
               for n in (1, 2)]
    # o1's verdict came in D2's delivery; it is known from then on
    deliver(settings, D2, [order("o1", D2, order_ts=at(D1), is_fraud=True, label_known_at=at(D2, 9), order_date=D1), order("o3", D2, device_id="d1", card_id="c3", user_id="u3")],
            reviews, [])
    assert run(settings, D1) == 0 and run(settings, D2) == 0
    one, _ = described(settings, D1)
    two, kinds = described(settings, D2)
    assert set(one) == {("order", "o1"), ("order", "o2"), ("brushing", "A/2026-01-12")}
    assert one["order", "o1"]["is_bad"] is None and two["order", "o1"]["is_bad"] is True and two["order", "o1"]["known_at"] == at(D2, 9)
    # o2 shares o1's device: it was the second of it that day, by another shopper
    assert two["order", "o2"]["device.rows.1d"] == 2 and two["order", "o2"]["device.different.shopper"] == 2 and two["order", "o1"]["device.different.shopper"] == 1
    # o3 comes after the verdict about o1, o2 came before it
    assert two["order", "o3"]["device.known_bad.ever"] == 1 and two["order", "o2"]["device.known_bad.ever"] == 0
    assert two["order", "o3"]["group.known_bad"] == 0, "groups are those of the day before: the verdict is of today"
    assert two["order", "o3"]["entities"][kinds["order"]["entities"].index("device")] == "d1" and "ip" not in kinds["order"]["entities"]
    assert two["review", "r1"]["copies"] == 0 and two["review", "r2"]["copies"] == 1 and two["review", "r2"]["deviation"] == 0
    assert two["account", "u2"]["at"] == at(D2, 1) and two["brushing", "A/2026-01-12"]["lines.1d"] == 2
    assert {k: r["first_night"] for k, r in two.items() if k[0] == "order"} == {("order", "o1"): D1, ("order", "o2"): D1, ("order", "o3"): D2}
    # what has come since changes nothing in D1's partition
    before = Lake(settings.places.lake).at(SCREENING_FEATURES, D1).manifest
    assert run(settings, D1, "--force") == 0
    assert Lake(settings.places.lake).at(SCREENING_FEATURES, D1).manifest.digest == before.digest
    # an analyst's verdict counts before the shop's own, from the night it came in
    assert feedback.main(["--shop", str(settings.file), "--run-date", str(D2), "--verdict", "order:o1=good", "--by", "Ada"]) == 0
    assert run(settings, D2) == 0
    assert described(settings, D2)[0]["order", "o1"]["is_bad"] is False


def decisions(settings: Settings, night: date, **decided: str) -> None:
    rows = [dict.fromkeys(SCREENING_DECISIONS.column_names) | {
        "kind": "account" if k.startswith("u") else "order", "id": k.replace("_", "-"), "at": at(night), "score": 0.9, "decision": d, "reasons": ["x"], "rule": "cost",
        "threshold": 0.1, "block_threshold": 0.8, "model_name": "m", "model_version": "1"} for k, d in decided.items()]
    publish(settings, SCREENING_DECISIONS, rows, night)


@pytest.mark.soak
def test_what_is_blocked_is_left_out_from_the_next_night_on_and_comes_back(spark: Any, settings: Settings) -> None:
    base = ["--shop", str(settings.file), "--run-date"]

    def sold(night: date) -> list[tuple[str, int]]:
        rows = Lake(settings.places.lake).at(DAILY_SALES, night).arrow().to_pylist()
        return sorted((r["item_id"], r["units_sold"]) for r in rows)

    def bought(night: date) -> dict[str, list[str]]:
        return {r["user_id"]: r["item_ids"] for r in Lake(settings.places.lake).at(FEATURES, night).arrow().to_pylist()}

    deliver(settings, D1, [], [], [event("a", D1), event("ring", D1, item_id="R", user_id="u9", quantity=50), event("c", D1, user_id="u8", item_id="C")])
    decisions(settings, D1, o_ring="block", u8="block")
    assert aggregate.main([*base, str(D1)]) == 0
    # the night itself was put together before it was screened
    assert sold(D1) == [("A", 1), ("C", 1), ("R", 50)] and set(bought(D1)) == {"u1", "u8", "u9"}
    deliver(settings, D2, [], [], [event("b", D2), event("late", D2, item_id="C", user_id="u8")])
    decisions(settings, D2, o_ring="allow")
    assert aggregate.main([*base, str(D2)]) == 0
    assert sold(D2) == [("A", 1), ("C", -1), ("R", -50)] and set(bought(D2)) == {"u1"}
    deliver(settings, D3, [], [], [])
    assert aggregate.main([*base, str(D3)]) == 0
    assert sold(D3) == [("R", 50)] and set(bought(D3)) == {"u1", "u9"}
    # a night that is run again sees what it saw
    before = Lake(settings.places.lake).at(FEATURES, D2).manifest.digest, Lake(settings.places.lake).at(DAILY_SALES, D2).manifest.digest
    decisions(settings, D3, o_a="block")
    assert aggregate.main([*base, str(D2), "--force"]) == 0
    assert before == (Lake(settings.places.lake).at(FEATURES, D2).manifest.digest, Lake(settings.places.lake).at(DAILY_SALES, D2).manifest.digest)


def test_a_planted_ring_lifts_a_product_only_without_screening(spark: Any, settings: Settings) -> None:
    from nightmarket.evaluate.protocol import Holdout
    from nightmarket.recommend import baselines
    from nightmarket.recommend.histories import Histories, seconds

    honest = [event(f"h{u}-{i}", D1, user_id=f"u{u}", item_id=i, order_id=f"oh{u}-{i}") for u in range(12) for n, i in enumerate("ABCDE") if u % (n + 1) == 0]
    ring = [event(f"r{n}", D1, user_id=f"x{n}", item_id="R", order_id=f"ring-{n}") for n in range(15)]
    deliver(settings, D1, [], [], honest + ring)
    for night in (D2, D3):
        deliver(settings, night, [], [], [])
    base = ["--shop", str(settings.file), "--run-date"]

    def first_three(night: date) -> list[str]:
        """What everyone is shown: the popular, as the recommender counts it from the night's histories."""
        assert aggregate.main([*base, str(night)]) == 0
        table = Lake(settings.places.lake).at(FEATURES, night).arrow()
        held = Histories.from_table(table)
        moment = Holdout.of(night, 1, settings.zone).end
        ranked = baselines.rank("popularity", baselines.Bought(held, float(seconds(moment))), np.array([0]), 3, np.ones(len(held.item_ids), bool))
        return [held.item_ids[i] for i in ranked[0]]

    assert "R" in first_three(D2), "unscreened the ring buys it into the first three"
    decisions(settings, D2, **{f"ring_{n}": "block" for n in range(15)})
    assert "R" not in first_three(D3)
