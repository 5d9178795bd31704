"""What is learned: label delay is respected although the leak would pay, poisoned labels cost little, probabilities are what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score

from nightmarket.screen import anomaly, calibration, decisions, learners, reasons
from nightmarket.screen.calibration import expected_calibration_error
from nightmarket.screen.decisions import Costs
from nightmarket.screen.features import Recipe
from nightmarket.screen.forest import fit_forest
from nightmarket.screen.screening import Options, screen
from nightmarket.screen.table import Asked, Rows

CUT = pd.Timestamp("2026-02-25")
NOW = int(np.datetime64("2026-06-01", "us").astype(np.int64))
QUICK = Options(label_delay_days=7, folds=2, threads=1, follow_new_labels=True, reasons_for=0)
ASKED = Asked(entities=("card_id", "terminal_id"), label="is_fraud")


def scored(world: pd.DataFrame, options: Options, label: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(truth, score, probability) of the payments from the cut on; learned from `label` where it is given."""
    seen = world if label is None else world.assign(is_fraud=label)
    train, new = (pa.Table.from_pandas(seen[m], preserve_index=False) for m in (seen["paid_at"] < CUT, seen["paid_at"] >= CUT))
    made = screen(train, new, ASKED, options, NOW).table
    return world["is_fraud"].to_numpy()[(world["paid_at"] >= CUT).to_numpy()], made["score"].to_numpy(), made["probability"].to_numpy()


@pytest.fixture(scope="module")
def honest(world: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return scored(world, QUICK)


def test_the_leak_would_pay_and_is_not_taken(world: pd.DataFrame, honest: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    truth, score, _ = honest
    leaking = scored(world, replace(QUICK, label_delay_days=0))[1]
    assert average_precision_score(truth, leaking) > average_precision_score(truth, score) + 0.02
    # labels of the last 7 days before a moment are not known at it: whatever they say, the scores up to it are the same
    moment = pd.Timestamp("2026-03-08")
    hidden = (world["paid_at"] > moment - pd.Timedelta("7D")).to_numpy()
    turned = np.where(hidden, 1 - world["is_fraud"], world["is_fraud"])
    other = scored(world, QUICK, turned)[1]
    early = (world.loc[world["paid_at"] >= CUT, "paid_at"] <= moment).to_numpy()
    assert early.sum() > 1000 and (other[early] == score[early]).all() and (other[~early] != score[~early]).any()


def test_labels_help(honest: tuple[np.ndarray, np.ndarray, np.ndarray], world: pd.DataFrame) -> None:
    truth, score, probability = honest
    blind = pa.Table.from_pandas(world.drop(columns="is_fraud"), preserve_index=False)
    times = world["paid_at"].to_numpy()
    made = screen(blind.filter(pa.array(times < CUT.to_datetime64())), blind.filter(pa.array(times >= CUT.to_datetime64())),
                  Asked(entities=ASKED.entities), QUICK, NOW).table
    unlabelled = average_precision_score(truth, made["score"].to_numpy())
    # most of this world's fraud is at bad terminals and looks like any other payment
    assert average_precision_score(truth, score) > unlabelled + 0.3 and unlabelled > 1.5 * truth.mean()
    assert expected_calibration_error(probability, truth) < 0.02


def test_five_per_cent_of_poisoned_labels(world: pd.DataFrame, honest: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """One label in twenty of TRAIN is turned round: more wrong frauds than right ones."""
    truth, score, _ = honest
    wrong = (np.random.default_rng(3).random(len(world)) < 0.05) & (world["paid_at"] < CUT).to_numpy()
    poisoned = scored(world, QUICK, np.where(wrong, 1 - world["is_fraud"], world["is_fraud"]))[1]
    clean, hurt = average_precision_score(truth, score), average_precision_score(truth, poisoned)
    assert hurt > clean - 0.08, (clean, hurt)


def test_trust_doubts_labels_that_sure_predictions_deny() -> None:
    label = np.array([1, 1, 1, 0, 0, 0, 1, 0])
    log_odds = np.array([4, 3, 5, -4, -5, -3, -6, 6.0])
    weight = learners.trust(label, log_odds)
    assert weight[:6].tolist() == [1] * 6 and weight[6] < 0.2 and weight[7] < 0.2
    assert learners.trust(np.ones(3), np.zeros(3)).tolist() == [1, 1, 1]


def test_thinned_negatives_stand_for_the_rest() -> None:
    label = (np.arange(1000) < 30).astype(float)
    index, weight = learners.thinned(label, 100, 1)
    assert (label[index] == 1).sum() == 30 and weight.sum() == pytest.approx(1000) and (np.diff(index) > 0).all()


def test_negatives_that_look_bad_are_kept_and_all_stand_for_the_rest() -> None:
    label = (np.arange(20_000) < 30).astype(float)
    looks = np.where(np.arange(20_000) % 100 == 7, 2.0, -6.0)
    index, weight = learners.telling(label, looks, 1000, 1)
    kept = np.isin(np.arange(20_000), index)
    assert kept[:30].all() and (weight[index < 30] == 1).all() and len(index) == pytest.approx(1030, abs=100)
    # 200 rows look bad; 500 places go to them before all others, for these look like positives 356 times less
    assert kept[(looks > 0) & (label == 0)].all() and weight.sum() == pytest.approx(20_000, rel=0.1)
    assert learners.telling(label, looks, 19_970, 1)[1].tolist() == [1.0] * 20_000


def test_a_table_with_more_good_rows_than_are_learned_from(world: pd.DataFrame, honest: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    truth, score, _ = honest
    _, fewer, probability = scored(world, replace(QUICK, negatives=1500))
    assert average_precision_score(truth, fewer) > average_precision_score(truth, score) - 0.05
    assert expected_calibration_error(probability, truth) < 0.03


def test_rows_good_beyond_doubt_are_left_to_one_model() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 6)).astype(np.float32)
    label = (X[:, 0] + 0.3 * rng.normal(size=4000) > 2.4).astype(float)
    made = learners.fit_trees(X, label, np.ones(4000), learners.TreeSettings(rounds=60, threads=1), [1, 2, 3])
    said = np.array([m.predict(X, raw_score=True) for m in made.models])
    assert made.sure == pytest.approx(min(np.log(label.mean() / (1 - label.mean())), np.log(1 / 99)))
    sure, found = said[0] <= made.sure, made.log_odds(X)
    assert 0.5 < sure.mean() < 1 and (found[sure] == said[0][sure]).all() and np.allclose(found[~sure], said.mean(0)[~sure], atol=1e-12)
    # however many rows are asked about at once
    assert (np.concatenate([made.log_odds(X[i:i + 7]) for i in range(0, 700, 7)]) == found[:700]).all()
    one = learners.fit_trees(X, label * 0, np.ones(4000), learners.TreeSettings(rounds=2, threads=1), [1, 2])
    assert one.sure == -np.inf, "one class only: no base rate"


def test_folds_are_stretches_of_time_with_both_classes() -> None:
    rng = np.random.default_rng(0)
    times, label = np.sort(rng.integers(0, 10**6, 500)), (rng.random(500) < 0.2).astype(float)
    folds = learners.folds_of(times, label, 5, 1)
    assert (np.diff(folds) >= 0).all() and {int(label[folds == k].sum()) for k in range(5)} <= set(range(15, 26))
    same = learners.folds_of(np.zeros(500), label, 5, 1)
    assert all((label[same == k] == c).any() for k in range(5) for c in (0, 1))


def test_the_stack_finds_the_better_learner_and_calibration_the_truth() -> None:
    rng = np.random.default_rng(4)
    z = rng.normal(-2, 2, 20_000)
    label = (rng.random(len(z)) < 1 / (1 + np.exp(-z))).astype(float)
    stack = calibration.fit_stack({"good": 2 * z + 1, "noise": rng.normal(0, 3, len(z))}, label, np.ones(len(z)), {"good": 1.0, "noise": 0.0})
    assert stack.weights[0] == pytest.approx(0.5, abs=0.03) and stack.weights[1] < 0.02
    for at in (slice(None), slice(0, 600)):
        curve = calibration.fit_calibration(2 * z[at] + 1, label[at], np.ones(len(z))[at])
        said = curve.probability(2 * z + 1)
        assert expected_calibration_error(said, label) < 0.03 and (np.diff(said[np.argsort(z)]) >= 0).all()


def test_expected_calibration_error_by_hand() -> None:
    # two bins: 0.25 said and 0.5 seen of two rows, 0.9 said and 1 seen of two
    assert expected_calibration_error(np.array([0.2, 0.3, 0.9, 0.9]), np.array([0, 1, 1, 1]), bins=2) == pytest.approx(0.5 * 0.25 + 0.5 * 0.1)


def test_decisions_cost_least() -> None:
    costs = Costs(missed=100, review=5, wrongly_blocked=50)
    thresholds = decisions.by_cost(costs, np.zeros(0), np.zeros(0), 1)
    p = np.linspace(0, 1, 2001)
    cost = np.column_stack([p * costs.missed, np.full_like(p, costs.review), (1 - p) * costs.wrongly_blocked])
    best, found = cost.min(1), cost[np.arange(len(p)), thresholds.decide(p)]
    assert (found <= best + 0.05).all() and (thresholds.review, thresholds.block) == (0.05, 0.9)


@pytest.mark.parametrize("capacity", [0, 3, 50, 10_000])
def test_no_more_reviews_than_the_capacity(capacity: int) -> None:
    past = np.random.default_rng(1).beta(0.2, 2, 3000)
    thresholds = decisions.by_cost(Costs(capacity=capacity), past, np.ones(3000), 10)
    assert (thresholds.decide(past) == decisions.REVIEW).sum() <= capacity * 10
    strange = decisions.by_share(Costs(capacity=capacity), past, 10)
    assert (strange.decide(past) == decisions.REVIEW).sum() <= capacity * 10 and not (strange.decide(past) == decisions.BLOCK).any()
    if capacity == 3:
        assert (thresholds.decide(past) == decisions.REVIEW).sum() > 25, "and not many fewer"


@pytest.mark.parametrize("wrong", [{"review": 200.0}, {"missed": -1.0}, {"capacity": -5}])
def test_costs_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(ValueError):
        Costs(**wrong)


def test_the_forest_isolates_the_outlier() -> None:
    from sklearn.ensemble import IsolationForest

    rng = np.random.default_rng(6)
    X = rng.normal(0, 1, (2000, 4)).astype(np.float32)
    X[:10] += 6
    X[20, 1] = np.nan
    forest = fit_forest(X, 3)
    score = forest.score(X)
    assert set(np.argsort(-score)[:10]) == set(range(10)) and score.min() > 0.2 and score.max() < 1
    other = -IsolationForest(random_state=1).fit(np.nan_to_num(X)).score_samples(np.nan_to_num(X))
    assert np.corrcoef(score.argsort().argsort(), other.argsort().argsort())[0, 1] > 0.8
    assert forest.share(np.array([2.0]))[0] == pytest.approx(1 / 2001) and forest.share(np.array([0.0]))[0] == 1


def test_strangeness_lies_in_the_suspicious_tail_only() -> None:
    rng = np.random.default_rng(2)
    X = rng.lognormal(0, 1, (5000, 2)).astype(np.float32)
    fitted = anomaly.fit(["card.ratio.ever.amount", "hour"], X, np.arange(5000), 1)
    assert fitted.columns.tolist() == [0]
    score = fitted.alone(np.array([[0.001, 1], [1, 1], [20, 1], [500, 1], [np.nan, 1]], np.float32))
    assert score[3] > score[2] > score[1] and score[0] < score[2] and score[4] < score[2]


def test_rows_at_an_entitys_own_pace_are_not_strange() -> None:
    names = ["till.rows.1d", "till.rows.ever", "till.days_known", "till.different.card"]
    rng = np.random.default_rng(3)
    pace, known = rng.uniform(0.2, 5, 4000), rng.uniform(30, 200, 4000)
    today = rng.poisson(pace) + 1.0
    X = np.column_stack([today, today + np.round(pace * known), known, np.round(pace * known / 2) + 1]).astype(np.float32)
    fitted = anomaly.fit(names, X, np.arange(4000), 1)
    assert [names[f] for f in fitted.columns] == ["till.rows.1d", "till.different.card"], "rows ever grow by themselves"
    # by hand: 4 rows where 1 is usual (7 in the 7 days before) lie sqrt(2 (4 ln 4 - 3)) deviations out; 40 rows a day of a busy till none
    asked = np.array([[4, 11, 8, 3], [40, 4040, 101, 300], [40, 40, 0.1, 1], [1, 1, 0.1, 40]], np.float32)
    rows, different = (anomaly._beyond_pace(asked, f, fitted.paces[k], fitted.spans[k]) for k, f in enumerate(fitted.columns))
    assert rows == pytest.approx([np.sqrt(2 * (4 * np.log(4) - 3)), 0, np.sqrt(2 * (40 * np.log(40) - 39)), 0], rel=1e-5)
    assert different == pytest.approx([3 / (8 / 7), 300 / (101 / 7), 1, 40], rel=1e-5)
    score = fitted.alone(asked)
    assert score[2] > score[0] > score[1] and score[3] > score[1], "a burst and a shared new one, not the busy till"
    # the forest is asked about what it learnt from: the same figures beyond an entity's pace
    assert fitted.forest is not None
    learnt = fit_forest(np.column_stack([anomaly._beyond_pace(X, f, fitted.paces[k], fitted.spans[k]) for k, f in enumerate(fitted.columns)]).astype(np.float32), 1)
    without = replace(fitted, forest=None).alone(asked)
    deep = learnt.score(np.column_stack([rows, different]).astype(np.float32))
    assert score - without == pytest.approx(0.1 * -np.log(learnt.share(deep)) + 0.1 * deep, rel=1e-5)


def test_a_large_number_is_strange_beside_its_entitys_habit() -> None:
    rng = np.random.default_rng(4)
    usual = rng.uniform(5, 100, 5000)
    amount = usual * rng.uniform(0.5, 1.5, 5000)
    names = ["amount", "card.ratio.usual.amount"]
    X = np.column_stack([amount, amount / usual]).astype(np.float32)
    fitted = anomaly.fit(names, X, np.arange(5000), 1)
    assert fitted.owns[0].tolist() == [1] and (fitted.owns[1] == -1).all()
    score = fitted.alone(np.array([[140, 1.0], [20, 4.0], [140, 4.0], [140, np.nan]], np.float32))
    assert score[2] > score[1] > score[0] and score[3] > score[0]


def test_company_counts_where_strange_rows_follow_strange_rows() -> None:
    """Strange rows come in runs of a card; every till has some."""
    n = 4000
    rng = np.random.default_rng(5)
    times = np.arange(n, dtype=np.int64) * 3_600_000_000
    card, till = rng.integers(0, 400, n), rng.integers(0, 4, n)
    alone = np.where((card < 8) & (rng.random(n) < 0.7), 9.0, 1.0)
    rows = Rows.bare(times, {"card": card, "till": till}, np.full(n, np.nan), times)
    recipe = Recipe(("card", "till"), (), (), {}, {}, (), (), True, int(times[-1]) + 1, 30 * 86_400_000_000, False)
    ties = anomaly.ties_of(rows, recipe, alone, np.arange(n))
    assert ties[1] > 2 and ties[2:].max() < 0.3, "a card that was ever strange; no till"
    score = anomaly.in_company(rows, recipe, np.where(np.arange(n) == n - 1, 5.0, alone), ties)
    assert (score >= alone - 1e-9).all() and score[alone < 2][:-1].max() < 2.5, "company makes nothing ordinary strange"
    assert (anomaly.in_company(rows, recipe, alone, np.zeros(4)) == alone).all()


@pytest.mark.parametrize(("name", "value", "said"), [
    ("card.rows.1d", 12, "12 rows of this card in a day"), ("card.ratio.30d.amount", 7.26, "amount is 7.3 times what is usual for this card"),
    ("category.ip_country", 0, "from an IP address in US"), ("category.ip_country", 9, "from an IP address in a country seldom seen"),
    ("ip_abroad", 1, "from an IP address in another country than any that it names"), ("ip_abroad", 0, "from an IP address in a country that it names"),
    ("abroad", 0, "sent to the account's own country"), ("card.habit.ip_country", 0.1, "10% of this card's rows share its IP address's country"),
    ("hours_since.signed_up", 1 / 3600, "1 seconds after signed_up"), ("device.different.user", 9, "9 different user share this device"),
    ("terminal.bad_streak", 4, "the last 4 known rows of this terminal are bad"), ("category.country", 1, "country is FR"), ("hour", 3.5, "at 03:30 UTC"),
    ("text.body.copies", 3, "3 near-copies of body before it"), ("plain", 2.5, "plain is 2.5"), ("card.velocity", float("nan"), "card.velocity is unknown"),
])
def test_reasons_in_words(name: str, value: float, said: str) -> None:
    assert reasons.told(name, value, {"country": ["DE", "FR"], "ip_country": ["US"]}) == said


def test_top_reasons_one_a_family() -> None:
    names = ["card.rows.1d", "card.rows.7d", "card.ratio.30d.amount", "hour"]
    told = reasons.top(names, np.array([[5, 9, 3, 1.0]]), np.array([[3, 2, 1, -1.0]]), {})
    assert told == [["5 rows of this card in a day", "amount is 3.0 times what is usual for this card"]]
