"""The truth table of the retraining decision, row by row; expected actions are stated by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.monitor.retraining import ACTIONS, Action, Evidence, Live, Order, decide
from nightmarket.shop import Retraining

RULES = Retraining(max_age_days=28, warm_starts=13, new_share=0.01, live_loss=0.2, scratch_drifts=3)
QUIET = Evidence("recommender", "passed", "i2", ("i1",), champion="1", warm=True, age_days=3, warm_starts=1, rows_learnt=10_000, rows_now=10_050)
"""A champion of three nights ago, nothing drifted, half a per cent more rows."""


def live(value: float, low: float, high: float) -> Live:
    return Live("ndcg@10", value, low, high, 0.30, 400)


TABLE: list[tuple[str, Evidence, Action, list[str]]] = [
    # name, evidence, action, names of the reasons
    ("quiet", QUIET, "skip", ["nothing_new"]),
    ("data gate refused", replace(QUIET, data_gate="refused", champion=None), "skip", ["data_gate"]),
    ("data gate missing, although ordered", replace(QUIET, data_gate="missing", order=Order("retrain", "ada", "x")), "skip", ["data_gate"]),
    ("data gate warned", replace(QUIET, data_gate="warned", drifted=("a",)), "fine_tune", ["some_drift"]),
    ("the same inputs", replace(QUIET, trained_from=("i1", "i2"), age_days=99), "skip", ["same_inputs"]),
    ("the same inputs, although ordered", replace(QUIET, trained_from=("i2",), order=Order("retrain", "ada", "x")), "skip", ["same_inputs"]),
    ("the same inputs, forced", replace(QUIET, trained_from=("i2",), forced=True), "retrain", ["forced"]),
    ("the same inputs, forced to a warm start", replace(QUIET, trained_from=("i2",), forced=True, order=Order("fine_tune", "ada", "x")),
     "fine_tune", ["ordered"]),
    ("ordered to be left alone, although much drifted", replace(QUIET, drifted=("a", "b", "c"), order=Order("skip", "ada", "sale")), "skip",
     ["ordered", "much_drift"]),
    ("ordered anew", replace(QUIET, order=Order("retrain", "ada", "new catalogue")), "retrain", ["ordered"]),
    ("ordered warm", replace(QUIET, order=Order("fine_tune", "ada", "x")), "fine_tune", ["ordered"]),
    ("ordered warm, nothing to start from", replace(QUIET, champion=None, order=Order("fine_tune", "ada", "x")), "retrain",
     ["ordered", "no_champion"]),
    ("nothing serves", replace(QUIET, champion=None), "retrain", ["no_champion"]),
    ("made with other settings", replace(QUIET, compatible=False), "retrain", ["incompatible"]),
    ("one drift", replace(QUIET, drifted=("events.country",)), "fine_tune", ["some_drift"]),
    ("two drifts", replace(QUIET, drifted=("a", "b")), "fine_tune", ["some_drift"]),
    ("three drifts", replace(QUIET, drifted=("a", "b", "c")), "retrain", ["much_drift"]),
    ("a drift, and the kind cannot start warm", replace(QUIET, warm=False, drifted=("a",)), "retrain", ["some_drift"]),
    ("live quality short beyond chance", replace(QUIET, live=live(0.20, 0.17, 0.2399)), "retrain", ["live_quality"]),
    ("live quality short, perhaps by chance", replace(QUIET, live=live(0.20, 0.15, 0.24)), "skip", ["nothing_new"]),
    ("live quality as promised", replace(QUIET, live=live(0.31, 0.28, 0.34)), "skip", ["nothing_new"]),
    ("live quality not a number", replace(QUIET, live=live(math.nan, math.nan, math.nan)), "skip", ["nothing_new"]),
    ("27 nights old", replace(QUIET, age_days=27), "skip", ["nothing_new"]),
    ("28 nights old", replace(QUIET, age_days=28), "retrain", ["age"]),
    ("12 warm starts", replace(QUIET, warm_starts=12), "skip", ["nothing_new"]),
    ("13 warm starts", replace(QUIET, warm_starts=13), "retrain", ["warm_starts"]),
    ("one per cent is new", replace(QUIET, rows_now=10_100), "fine_tune", ["new_data"]),
    ("drift and age", replace(QUIET, drifted=("a",), age_days=40), "retrain", ["age"]),
    ("everything at once", replace(QUIET, drifted=("a", "b", "c", "d"), age_days=40, live=live(0.1, 0.05, 0.15), rows_now=20_000), "retrain",
     ["much_drift", "live_quality", "age"]),
    ("drift and new data", replace(QUIET, drifted=("a",), rows_now=20_000), "fine_tune", ["some_drift", "new_data"]),
    ("a past night: fewer rows than the champion saw", replace(QUIET, rows_now=9_000, age_days=-5), "skip", ["nothing_new"]),
]


@pytest.mark.parametrize(("evidence", "action", "reasons"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_truth_table(evidence: Evidence, action: Action, reasons: list[str]) -> None:
    decision = decide(evidence, RULES)
    assert (decision.action, [r.name for r in decision.reasons]) == (action, reasons)
    assert decision.why and decision.inputs == evidence.inputs


def test_reasons_say_what_was_seen() -> None:
    why = decide(replace(QUIET, drifted=("a", "b", "c", "d", "e", "f"), live=live(0.1, 0.05, 0.15)), RULES).why
    assert why == "6 features drifted: a, b, c, d, e and 1 more; live ndcg@10 is 0.1000 [0.0500, 0.1500], promised were 0.3000"


def test_a_decision_is_told_as_json() -> None:
    said = decide(replace(QUIET, age_days=30), RULES).to_json()
    assert (said["model"], said["action"], said["reasons"][0]["name"]) == ("recommender", "retrain", "age")


_EVIDENCE = st.builds(
    Evidence, model=st.just("m"), data_gate=st.sampled_from(["passed", "warned", "refused", "missing"]), inputs=st.just("i"),
    trained_from=st.sampled_from([(), ("i",), ("j",)]), forced=st.booleans(),
    order=st.one_of(st.none(), st.builds(Order, st.sampled_from(ACTIONS), st.just("ada"), st.just("x"))), champion=st.sampled_from([None, "1"]),
    compatible=st.booleans(), warm=st.booleans(), drifted=st.lists(st.sampled_from("abcde"), max_size=5, unique=True).map(tuple),
    live=st.one_of(st.none(), st.builds(live, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))),
    age_days=st.one_of(st.none(), st.integers(-10, 60)), warm_starts=st.integers(0, 20), rows_learnt=st.one_of(st.none(), st.integers(0, 1000)),
    rows_now=st.one_of(st.none(), st.integers(0, 1000)),
)


@given(evidence=_EVIDENCE)
def test_what_always_holds(evidence: Evidence) -> None:
    decision = decide(evidence, RULES)
    assert decision.reasons and decision == decide(evidence, RULES)
    if evidence.data_gate not in ("passed", "warned"):
        assert decision.action == "skip"
    elif evidence.inputs in evidence.trained_from and not evidence.forced:
        assert decision.action == "skip", "nothing is trained twice from the same inputs"
    if decision.action == "fine_tune":
        assert evidence.warm and evidence.champion is not None and evidence.compatible
    if decision.action == "skip" and evidence.champion is None and evidence.order is None:
        assert evidence.data_gate not in ("passed", "warned") or evidence.inputs in evidence.trained_from


@given(evidence=_EVIDENCE.filter(lambda e: e.order is None and e.champion is not None), name=st.sampled_from(["z", "y"]))
def test_more_drift_never_asks_for_less(evidence: Evidence, name: str) -> None:
    more = replace(evidence, drifted=(*evidence.drifted, name))
    assert ACTIONS.index(decide(more, RULES).action) >= ACTIONS.index(decide(evidence, RULES).action)
