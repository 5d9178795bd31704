"""What a night's screening says of itself, by hand: drift, thresholds, verdicts against decisions, what became of alerts."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest

from nightmarket.contracts import SCREENING_DECISIONS
from nightmarket.lake import Lake
from nightmarket.screen.blocklist import BLOCK, Action, Entry
from nightmarket.screen.deciding import drifted, make, stability
from nightmarket.screen.decisions import Costs
from nightmarket.screen.judging import cut_of, judge, trials
from nightmarket.screen.monitoring import reviewed, worse
from nightmarket.screen.screener import Described, Screener
from nightmarket.screen.screening import Options
from nightmarket.shop import Settings
from tests.screen.nights import ENTITIES, NAMES, NIGHT, described, end_of, orders, put

NOTES: dict[str, Any] = {"kinds": {"order": {"values": NAMES, "entities": ENTITIES, "categories": ["payment"]}}}
OPTIONS = Options(folds=3, seeds=1)
COSTS = {"order": Costs(100, 5, 50, 20)}


@pytest.fixture(scope="module")
def given() -> dict[str, Described]:
    return Described.of(orders(), NOTES)


@pytest.fixture(scope="module")
def screener(given: dict[str, Described]) -> Screener:
    return Screener.learn(given, end_of(NIGHT), OPTIONS)


def decided(given: dict[str, Described], screener: Screener, before: dict[tuple[str, str], str], entries: Any = None) -> dict[str, dict[str, Any]]:
    made = make(given, screener, before, end_of(NIGHT).isoformat(), COSTS, OPTIONS, entries or {}, "screener", "1")
    return {r["id"]: r for r in made.table.to_pylist()}


def test_stability_by_hand() -> None:
    rng = np.random.default_rng(1)
    same = rng.random(5000)
    assert stability(same, rng.random(5000)) < 0.02 and stability(same, same + 0.5) > 1
    assert stability(np.zeros(0), same) == 0.0 and np.isfinite(stability(np.zeros(9), np.ones(9)))


def test_the_features_that_moved_most_are_named() -> None:
    rng = np.random.default_rng(2)
    before = rng.random((500, 4))
    now = np.column_stack([rng.random(200), rng.random(200) + 0.3, rng.random(200) + 2, rng.random(200) + 9])
    found = drifted(("hour", "amount", "device.rows.1d", "device.rows.ever"), before, now)
    assert list(found) == ["device.rows.1d", "amount", "hour"] and found["device.rows.1d"] > found["amount"] > 0.25 > found["hour"]


def test_drift_is_told_of_the_nights_rows(given: dict[str, Described], screener: Screener) -> None:
    """A night on which everybody pays nine times as much, of a shop with enough rows in two days."""
    table = orders(days=40, a_day=40)
    late = pa.compute.greater_equal(table["at"], pa.scalar(end_of(NIGHT) - timedelta(days=2), table["at"].type)).to_pylist()
    values = [[v[0] * 9, *v[1:]] if new else v for v, new in zip(table["values"].to_pylist(), late, strict=True)]
    moved = table.set_column(table.column_names.index("values"), "values", pa.array(values, table["values"].type))
    same, dear = (make(Described.of(t, NOTES), screener, {}, end_of(NIGHT).isoformat(), COSTS, OPTIONS, {}, "screener", "1").feature_drift["order"] for t in (table, moved))
    assert next(iter(dear)) == "amount" and dear["amount"] > 1 > 0.25 > same.get("amount", 0.0)


def test_a_verdict_that_contradicts_is_decided_again(given: dict[str, Described], screener: Screener) -> None:
    rows = given["order"]
    bad, good = (str(rows.ids[rows.label == c][0]) for c in (1, 0))
    unknown = str(rows.ids[np.isnan(rows.label)][0])
    before = {("order", str(i)): "allow" for i in rows.ids} | {("order", good): "block", ("order", unknown): "block"}
    made = decided(given, screener, before)
    wrong = {str(i) for i in rows.ids[rows.label == 1]}
    assert set(made) == wrong | {good}, "what was allowed and is bad, and what was blocked and is good"
    assert (made[bad]["decision"], made[bad]["rule"], made[good]["decision"]) == ("block", "verdict", "allow")


def test_an_entry_of_the_blocklist_blocks_what_it_names(given: dict[str, Described], screener: Screener) -> None:
    rows = given["order"]
    at = next(i for i in range(len(rows) - 1, 0, -1) if np.isnan(rows.label[i]) and int(rows.ids[i][1:]) % 10)
    device = str(rows.entities["device"][at])
    entry = Entry(Action(end_of(NIGHT) - timedelta(days=3), "device", device, BLOCK, "Ada", "case 7"))
    row = decided(given, screener, {}, {("device", device): entry})[str(rows.ids[at])]
    assert (row["decision"], row["rule"]) == ("block", "blocklist") and row["reasons"][0] == "its device is on the blocklist since 2026-04-08, by Ada: case 7"
    assert decided(given, screener, {})[str(rows.ids[at])]["rule"] == "cost"


def test_capacity_bounds_what_is_looked_at(given: dict[str, Described], screener: Screener) -> None:
    few = make(given, screener, {}, end_of(NIGHT).isoformat(), {"order": Costs(1000, 0.1, 2000, 0)}, OPTIONS, {}, "screener", "1").table
    looked = [r for r in few.to_pylist() if r["decision"] == "review" and r["at"] >= end_of(NIGHT) - timedelta(days=28)]
    assert not looked, "nobody has time to look at any"


def test_feedback_changes_the_next_model(given: dict[str, Described]) -> None:
    """A new kind of fraud, by invoice and of middling amounts: known only through the analysts' verdicts."""
    rows = given["order"]
    new = np.array([rows.categories["payment"][i] == "invoice" and int(k[1:]) % 10 != 0 for i, k in enumerate(rows.ids)])
    label = rows.label.copy()
    told = new & (rows.times < rows.times.max() - 3 * 86_400_000_000)
    label[told] = 1.0
    taught = {"order": replace(rows, label=label, known_at=np.where(told, rows.times + 3_600_000_000, rows.known_at))}
    late = np.flatnonzero(new & (rows.times >= rows.times.max() - 3 * 86_400_000_000))
    before, after = (Screener.learn(g, end_of(NIGHT), OPTIONS).parts["order"].ask(rows, late, OPTIONS).score.mean() for g in (given, taught))
    assert after > before + 0.3


def test_a_cut_leaves_verdicts_on_either_side(given: dict[str, Described]) -> None:
    end = end_of(NIGHT)
    assert cut_of(given, end, 28) == end - timedelta(days=28)
    # verdicts take seven days: the last five have none
    assert cut_of(given, end, 5) < end - timedelta(days=7)
    assert cut_of(Described.of(orders(labelled=False), NOTES), end, 28) == end - timedelta(days=28)


def test_who_is_judged_does_not_know_the_holdouts_verdicts(given: dict[str, Described]) -> None:
    """Held-out labels turned round change the measured precision, never a score."""
    end = end_of(NIGHT)
    cut = cut_of(given, end, 28)
    model = Screener.learn(given, cut, OPTIONS)
    found = trials(given, cut, end, COSTS, 1)
    one = judge(found, {"challenger": (None, model)}, cut, OPTIONS, 50)
    turned = {"order": replace(given["order"], label=np.where(given["order"].times >= round(cut.timestamp() * 1e6), 1 - given["order"].label, given["order"].label))}
    other = judge(trials(turned, cut, end, COSTS, 1), {"challenger": (None, model)}, cut, OPTIONS, 50)
    np.testing.assert_array_equal(one.scores["order"]["challenger"], other.scores["order"]["challenger"])
    ahead = one.differences["chance"]["all"]["average_precision"]
    assert ahead.low > 0 and one.table["challenger"]["all"]["average_precision"].value > other.table["challenger"]["all"]["average_precision"].value
    assert one.trials[0].digest != other.trials[0].digest
    assert one.simple == {"order": "chance"} and one.table["strongest_simple"] == one.table["chance"], "too few bad rows to tell a good baseline from a lucky one"


def test_the_strongest_simple_way_is_to_be_beaten_where_verdicts_are_many(given: dict[str, Described]) -> None:
    many = Described.of(orders(a_day=30), NOTES)
    end = end_of(NIGHT)
    cut = cut_of(many, end, 28)
    found = trials(many, cut, end, COSTS, 1)
    assert int(found[0].label.sum()) >= 20
    made = judge(found, {"challenger": (None, Screener.learn(many, cut, OPTIONS))}, cut, OPTIONS, 50)
    value = {n: made.table[n]["kind=order"]["average_precision"].value for n in made.table}
    best = max((n for n in value if n not in ("challenger", "strongest_simple")), key=lambda n: value[n])
    assert made.simple == {"order": best} and value["strongest_simple"] == value[best] > value["chance"]
    assert made.differences["strongest_simple"] == made.differences[best]
    # of who says probabilities, how far they are off: over the holdout's rows, each bin's mean against its share of bad ones
    model = Screener.learn(many, cut, OPTIONS).parts["order"]
    rows, label = found[0].index, found[0].label
    blind = replace(many["order"], label=np.where(np.isin(np.arange(len(many["order"])), rows), np.nan, many["order"].label))
    said = model.ask(blind, rows, OPTIONS).probability
    off = sum(abs(said[b].mean() - label[b].mean()) * b.sum() for k in range(15) for b in [(said * 15).astype(int) == k] if b.any()) / len(rows)
    told = made.table["challenger"]["all"]["calibration_loss"]
    assert told.value == pytest.approx(off) and told.low is not None and told.high is not None and told.low <= told.high
    assert "calibration_loss" not in made.table["strongest_simple"]["all"], "a rank is no probability"


def test_average_precision_is_scikit_learns(given: dict[str, Described]) -> None:
    from sklearn.metrics import average_precision_score

    from nightmarket.screen.judging import Trial, _samples

    rng = np.random.default_rng(3)
    label, score = (rng.random(200) < 0.2).astype(float), rng.integers(0, 9, 200) / 9  # with ties
    found = _samples(Trial(given["order"], np.arange(200), label, 20), score, 50, 1)["average_precision"]
    assert found[0] == pytest.approx(average_precision_score(label, score), abs=1e-12) and len(found) == 51


def test_what_became_of_alerts(settings: Settings) -> None:
    table = orders()
    described(settings, table)
    known = [r for r in table.to_pylist() if r["is_bad"] is not None]
    bad, good = ([r for r in known if r["is_bad"] is b] for b in (True, False))
    night = NIGHT - timedelta(days=3)
    said = [(bad[0], "block", "cost"), (bad[1], "review", "cost"), (good[0], "review", "cost"), (bad[2], "allow", "cost"), (bad[3], "block", "verdict")]
    rows = [{"kind": "order", "id": r["id"], "at": datetime(2026, 4, 7, tzinfo=timezone.utc), "score": 0.5, "probability": None, "decision": d, "reasons": [], "rule": rule,
             "threshold": 0.1, "block_threshold": 0.9, "model_name": "m", "model_version": "1"} for r, d, rule in said]
    put(settings, SCREENING_DECISIONS, pa.Table.from_pylist(rows, SCREENING_DECISIONS.arrow_schema()), night)
    found = reviewed(settings, Lake(settings.places.lake), NIGHT)
    assert found == {"order": {"alerts": 3, "bad": 2, "missed": 1, "precision": 0.6667}}


def test_a_version_whose_alerts_are_worse_than_those_before_it_is_said(settings: Settings) -> None:
    """Of version 1's alerts 32 of 40 are bad ones, of version 2's 15 of 40: Fisher's one-sided p is below 0.001."""
    table = orders()
    rows = [r for r in table.to_pylist() if r["is_bad"] is not None]
    bad, good = ([r for r in rows if r["is_bad"] is b] for b in (True, False))
    assert len(bad) >= 20
    described(settings, table)
    for version, of_bad, said in (("1", 0.8, None), ("2", 0.375, "of its alerts about order were bad ones, 0.8")):
        night = NIGHT - timedelta(days=3 - int(version))
        hits = round(of_bad * 20)
        alerts = [*bad[:hits], *good[:20 - hits], *bad[:hits], *good[20:40 - hits]]
        kept = [{"kind": "order", "id": r["id"], "at": datetime(2026, 4, 7, tzinfo=timezone.utc), "score": 0.5, "probability": None, "decision": "review",
                 "reasons": [], "rule": "cost", "threshold": 0.1, "block_threshold": 0.9, "model_name": "m", "model_version": version} for r in alerts]
        put(settings, SCREENING_DECISIONS, pa.Table.from_pylist(kept, SCREENING_DECISIONS.arrow_schema()), night)
        found = worse(settings, Lake(settings.places.lake), NIGHT, version)
        assert found is None if said is None else found is not None and said in found, (found, len(bad), len(good))
    assert worse(settings, Lake(settings.places.lake), NIGHT, "1") is None, "the one before did better"
