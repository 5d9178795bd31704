"""What of the lake is watched: hits and live quality by hand, a published night, and that nothing of later nights is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from jobs import drift as drift_job
from nightmarket.contracts import (
    DRIFT,
    EVALUATION,
    EVENTS,
    FEATURES,
    ORDERS,
    QUALITY,
    RECOMMENDATIONS,
    SCREENING_DECISIONS,
    Dataset,
)
from nightmarket.lake import Lake
from nightmarket.monitor import watch
from nightmarket.monitor.drift import CONCEPTS, judged
from nightmarket.shop import Settings
from tests.registry.nights import D


def put(settings: Settings, dataset: Dataset, night: date, rows: Sequence[dict[str, Any]], **notes: Any) -> None:
    blank = dict.fromkeys(dataset.column_names)
    with Lake(settings.places.lake).writer(dataset, [night]) as writer:
        writer.stage_arrow(night, pa.Table.from_pylist([blank | r for r in rows], schema=dataset.arrow_schema()))
        writer.publish(night, inputs=[], settings="s", code="c", notes=notes)


def events(settings: Settings, night: date, bought: Sequence[tuple[str | None, str]], verdict: str = "passed") -> None:
    """Purchases of a night by (shopper, item)."""
    noon = datetime.combine(night, time(12), timezone.utc)
    put(settings, EVENTS, night, [{
        "event_id": f"{night}-{n}", "event_ts": noon, "event_type": "purchase", "user_id": user, "item_id": item, "quantity": 1,
        "unit_price": Decimal("2.5"), "event_date": night, "is_outlier": False, "filled": [], "delivered_on": night, "source_file": "f", "source_row": n,
    } for n, (user, item) in enumerate(bought)])
    put(settings, QUALITY, night, [], verdict=verdict, from_date=str(night))


def published(settings: Settings, night: date, lists: dict[str, list[str]], version: str = "1", trained_on: date | None = None) -> None:
    put(settings, RECOMMENDATIONS, night, [
        {"audience": "user", "audience_id": user, "rank": n + 1, "item_id": item, "score": 1.0 - n / 10, "reason": "r", "model_name": "recommender",
         "model_version": version} for user, items in lists.items() for n, item in enumerate(items)],
        model_version=version, trained_on=str(trained_on or night))


def test_hits_of_yesterdays_list(settings: Settings) -> None:
    published(settings, D(0), {"u1": ["a", "b"], "u2": ["c"], "u3": ["d"]})
    events(settings, D(1), [("u1", "b"), ("u1", "b"), ("u1", "z"), ("u2", "z"), ("u9", "c"), (None, "d")])
    assert watch.found_again(Lake(settings.places.lake), D(1)) == (1, 2), "u1 found b, u2 nothing; u9 has no list, a stranger none"
    assert watch.found_again(Lake(settings.places.lake), D(0)) == (0, 0)


def test_live_quality_by_hand(make_settings: Any) -> None:
    settings = make_settings(model={"holdout_days": 2, "bootstrap": 50})
    published(settings, D(0), {"u1": ["a", "b", "c"], "u2": ["d", "a"], "u3": ["a"]}, trained_on=D(0))
    put(settings, EVALUATION, D(0), [{"model": "challenger", "slice": "all", "metric": "ndcg@10", "value": 0.4},
                                     {"model": "popularity", "slice": "all", "metric": "ndcg@10", "value": 0.1}])
    put(settings, FEATURES, D(0), [
        {"user_id": u, "item_ids": items, "event_types": [kind] * len(items), "event_times": [0] * len(items), "quantities": [1.0] * len(items),
         "unit_prices": [1.0] * len(items)} for u, items, kind in (("u1", ["a", "b"], "purchase"), ("u2", ["c", "d"], "purchase"), ("u3", ["a"], "view"))])
    events(settings, D(1), [("u1", "b"), ("u1", "new")])
    events(settings, D(2), [("u2", "a"), ("u2", "c"), ("u3", "a"), ("u1", "b")])
    found = watch.live_quality(settings, Lake(settings.places.lake), D(2))
    # u1 bought b, second in the list; 'new' had never been seen. u2 bought a, second in the list, and c. u3 had never bought
    first = (1 / math.log2(3)) / 1
    second = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    assert found is not None
    assert (found.value, found.promise, found.users) == (pytest.approx((first + second) / 2), 0.4, 2)
    assert found.low <= found.value <= found.high
    assert watch.live_quality(settings, Lake(settings.places.lake), D(1)) is None, "nothing was published two nights before"


@pytest.fixture
def shop(settings: Settings) -> Settings:
    """Six weeks of 40 purchases a night at the same price; the last night at thrice that."""
    for n in range(-42, 1):
        events(settings, D(n), [(f"u{i}", f"i{i % 8}") for i in range(40 + (D(n).weekday() * 3))])
    return settings


def test_a_night_is_watched_and_published_once(shop: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--shop", str(shop.file), "--run-date", str(D(0))]
    lake = Lake(shop.places.lake)
    assert drift_job.main(argv) == 0
    first = lake.manifest(DRIFT, D(0))
    assert first is not None and first.notes["drifted"] == [] and first.rows_out > 3
    assert {i.name for i in first.inputs} >= {f"silver.events/{D(-28)}", f"silver.events/{D(0)}"}
    assert f"silver.events/{D(-29)}" not in {i.name for i in first.inputs}
    assert drift_job.main(argv) == 0 and lake.manifest(DRIFT, D(0)) == first, "current"
    events(shop, D(1), [("u1", "i1")])
    assert drift_job.main(argv) == 0 and lake.manifest(DRIFT, D(0)) == first, "what comes after changes nothing"


def test_a_poisoned_night_is_caught(shop: Settings) -> None:
    rows = Lake(shop.places.lake).at(EVENTS, D(0)).arrow().to_pylist()
    put(shop, EVENTS, D(0), [{**r, "unit_price": Decimal("7.5")} for r in rows])
    assert drift_job.main(["--shop", str(shop.file), "--run-date", str(D(0))]) == 0
    made = Lake(shop.places.lake).manifest(DRIFT, D(0))
    assert made is not None and "events.price_to_usual" in made.notes["drifted"] and "events.rows" not in made.notes["drifted"]


def test_a_refused_night_is_not_compared_and_not_a_reference(shop: Settings) -> None:
    events(shop, D(-7), [("u1", "i1")], verdict="refused")
    assert D(-7) not in watch.window(Lake(shop.places.lake), shop, D(0))
    events(shop, D(0), [("u1", "i1")], verdict="refused")
    assert drift_job.main(["--shop", str(shop.file), "--run-date", str(D(0))]) == 3


def test_predictions_of_another_version_are_not_compared_by_score(shop: Settings) -> None:
    lists = {f"u{n}": [f"i{(n + k) % 8}" for k in range(5)] for n in range(60)}
    for n in (-3, -2, -1):
        published(shop, D(n), lists, "1")
    published(shop, D(0), lists, "2")
    lake = Lake(shop.places.lake)
    past = watch.window(lake, shop, D(0))
    category_of = {f"i{n}": "even" if n % 2 == 0 else "odd" for n in range(8)}
    assert [h.feature for h in watch.predictions(shop, lake, D(0), past, category_of)] == ["recommendations.category"]
    published(shop, D(0), lists, "1")
    found = watch.predictions(shop, lake, D(0), past, category_of)
    assert {h.feature for h in found} == {"recommendations.score", "recommendations.category"} and all(h.p_value > 0.9 for h in found)
    assert D(0) + timedelta(days=1) not in past


def labelled(settings: Settings, night: date, labels: dict[str, bool]) -> None:
    put(settings, ORDERS, night, [{"order_id": key, "user_id": key, "is_fraud": bad, "is_cancellation": False, "amount": Decimal("9.5")}
                                  for key, bad in labels.items()])


def decided(settings: Settings, night: date, said: dict[str, float], rule: str = "cost", version: str = "1") -> None:
    noon = datetime.combine(night, time(12), timezone.utc)
    put(settings, SCREENING_DECISIONS, night, [{"kind": "order", "id": key, "at": noon, "score": p, "probability": p, "rule": rule, "reasons": []}
                                               for key, p in said.items()], model_version=version)


def test_one_label_that_contradicts_the_screening_is_an_alarm_in_its_night(shop: Settings) -> None:
    """The screener said 0.01 of an order that its label calls bad; without its word one bad label among the window's is nothing."""
    lake = Lake(shop.places.lake)
    decided(shop, D(-42), {f"o{n}": 0.95 if n % 9 == 0 else 0.01 for n in range(-28, 1)})
    for n in range(-28, 0):
        labelled(shop, D(n), {f"o{n}": n % 9 == 0})
    past = watch.window(lake, shop, D(0))

    def alarm() -> bool:
        found = judged(watch.labels(shop, lake, D(0), past), shop.shop.drift, CONCEPTS)
        return any(f.drifted for f in found)

    labelled(shop, D(0), {"o-1": True})
    assert alarm()
    (found,) = watch.labels(shop, lake, D(0), past)
    assert (found.kind, found.feature, found.rows_now, found.rows_before, found.now) == ("concept", "quality.labels", 1, 28, "1 of 1 labels bad")
    labelled(shop, D(0), {"o-1": False})
    assert not alarm()
    labelled(shop, D(0), {"o0": True})
    assert not alarm(), "it said so"
    labelled(shop, D(0), {"new": True})
    assert not alarm(), "it had not been asked, and one label in nine is bad"
    labelled(shop, D(0), {"new": True, "newer": True, "newest": True})
    assert alarm(), "three at once are more than chance"
    assert drift_job.main(["--shop", str(shop.file), "--run-date", str(D(0))]) == 0
    made = lake.manifest(DRIFT, D(0))
    assert made is not None and "quality.labels" in made.notes["drifted"]
    assert f"gold.screening_decisions/{D(-42)}" in {i.name for i in made.inputs}


def test_what_was_decided_knowing_the_label_or_later_is_no_expectation(shop: Settings) -> None:
    lake = Lake(shop.places.lake)
    decided(shop, D(-3), {"a": 0.9}, rule="verdict")
    decided(shop, D(-2), {"a": 0.2, "b": 0.3})
    decided(shop, D(-1), {"a": 0.4})
    decided(shop, D(0), {"c": 0.5})
    assert watch._said(shop, lake, D(0)) == {"order": {"a": 0.2, "b": 0.3}}


def test_scores_of_screening_are_compared_among_those_of_one_version(shop: Settings) -> None:
    lake = Lake(shop.places.lake)
    for n in (-3, -2, -1):
        decided(shop, D(n), {f"{n}-{i}": i / 50 for i in range(50)})
    decided(shop, D(0), {f"0-{i}": 0.5 + i / 100 for i in range(50)})
    past = watch.window(lake, shop, D(0))
    (found,) = watch.decisions(shop, lake, D(0), past)
    assert (found.kind, found.feature, found.rows_now, found.rows_before) == ("prediction", "screening_decisions.order", 50, 150)
    assert judged([found], shop.shop.drift)[0].drifted
    decided(shop, D(0), {f"0-{i}": 0.5 + i / 100 for i in range(50)}, version="2")
    assert watch.decisions(shop, lake, D(0), past) == []
