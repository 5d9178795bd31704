"""The truth table of the model gate, row by row, each outcome stated by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.evaluate.blessing import Approval, Evidence, Measured, Slice, decide
from nightmarket.shop import Blessing

RULES = Blessing(metric="ndcg@10", floor=0.05, beat=("popularity", "item_item"), margin=0.01, slice_margin=0.10,
                 slice_users=50, fairness_ratio=0.5)
NAN = math.nan


def m(value: float, low: float | None = None, high: float | None = None, users: int = 200) -> Measured:
    return Measured(value, low, high, users)


GOOD = Evidence(
    challenger="2", challenger_date=date(2026, 3, 2), data_gate="passed", metric="ndcg@10",
    measured={"ndcg@10": 0.20, "recall@20": 0.30, "mrr": 0.18}, quality=m(0.20, 0.18, 0.22),
    baselines={"popularity": m(0.10), "item_item": m(0.17)},
    ahead_of={"popularity": m(0.10, 0.08, 0.12), "item_item": m(0.03, 0.01, 0.05)},
    verified=True,
    slices=(
        Slice("country=DE", m(0.22, 0.18, 0.26), m(0.21), m(0.01, -0.01, 0.03)),
        Slice("country=FR", m(0.18, 0.14, 0.22), m(0.17), m(0.01, -0.01, 0.03)),
        Slice("history=new", m(0.15, 0.12, 0.18), m(0.15), m(0.0, -0.02, 0.02)),
        Slice("history=old", m(0.25, 0.22, 0.28), m(0.24), m(0.01, -0.01, 0.03)),
    ),
    champion="1", champion_date=date(2026, 3, 1), champion_quality=m(0.195), ahead_of_champion=m(0.005, -0.004, 0.014),
    same_holdout=True,
)
FIRST = replace(GOOD, champion=None, champion_date=None, champion_quality=None, ahead_of_champion=None, same_holdout=None,
                slices=tuple(replace(s, champion=None, difference=None) for s in GOOD.slices))

LOST = replace(GOOD, champion_quality=None, ahead_of_champion=None, same_holdout=None, unreadable="it is of format 1, this code reads 2",
               slices=FIRST.slices)
"""Nobody knows how good the champion is."""


def with_slice(*made: Slice) -> Evidence:
    return replace(GOOD, slices=made)


TABLE = [
    # name, evidence, outcome, checks that fail
    ("all good", GOOD, "promoted", []),
    ("first model, nothing serves yet", FIRST, "promoted", []),
    ("champion cannot be loaded", LOST, "promoted", []),
    ("champion cannot be loaded, worse than a baseline", replace(LOST, quality=m(0.16)), "kept", ["beats item_item"]),
    ("champion cannot be loaded, older data", replace(LOST, challenger_date=date(2026, 2, 1)), "kept", ["newer"]),
    ("data gate warned", replace(GOOD, data_gate="warned"), "promoted", []),
    ("data gate refused", replace(GOOD, data_gate="refused"), "kept", ["data_gate"]),
    ("data gate never judged", replace(GOOD, data_gate="missing"), "kept", ["data_gate"]),
    ("first, data gate refused", replace(FIRST, data_gate="refused"), "refused", ["data_gate"]),
    ("on the floor", replace(GOOD, quality=m(0.05)), "kept", ["floor", "beats popularity", "beats item_item"]),
    ("first, under the floor and the baselines", replace(FIRST, quality=m(0.04)), "refused",
     ["floor", "beats popularity", "beats item_item"]),
    ("just above floor and baselines",
     replace(FIRST, quality=m(0.0501), baselines={"popularity": m(0.05), "item_item": m(0.04)},
             ahead_of={"popularity": m(0.0001, -0.009, 0.01), "item_item": m(0.01, 0.0, 0.02)}), "promoted", []),
    ("equals a baseline", replace(GOOD, baselines={"popularity": m(0.20), "item_item": m(0.17)}), "kept", ["beats popularity"]),
    ("better than a baseline by a lucky few",
     replace(GOOD, ahead_of={"popularity": m(0.10, -0.02, 0.22), "item_item": m(0.03, 0.01, 0.05)}), "kept", ["beats popularity"]),
    ("a named baseline was not judged", replace(GOOD, baselines={"popularity": m(0.10)}), "kept", ["beats item_item"]),
    ("a baseline without paired difference", replace(GOOD, ahead_of={"popularity": m(0.1, 0.08, 0.12)}), "kept", ["beats item_item"]),
    ("worse than a baseline that nobody named",
     replace(GOOD, baselines={**GOOD.baselines, "personal_frequency": m(0.5)}), "promoted", []),
    ("not verified", replace(GOOD, verified=None), "kept", ["verified"]),
    ("verification failed", replace(GOOD, verified=False, verification="other items"), "kept", ["verified"]),
    ("first, verification failed", replace(FIRST, verified=False), "refused", ["verified"]),
    ("a metric is NaN", replace(GOOD, measured={"ndcg@10": 0.2, "mrr": NAN}), "kept", ["measured"]),
    ("a metric is infinite", replace(GOOD, measured={"ndcg@10": 0.2, "novelty@20": math.inf}), "kept", ["measured"]),
    ("nothing was measured", replace(GOOD, measured={}), "kept", ["measured"]),
    ("the metric is missing", replace(GOOD, quality=None), "kept", ["measured", "floor", "beats popularity", "beats item_item"]),
    ("the metric is NaN", replace(GOOD, quality=m(NAN), measured={"ndcg@10": NAN}), "kept",
     ["measured", "floor", "beats popularity", "beats item_item"]),
    ("first, the metric is NaN", replace(FIRST, quality=m(NAN), measured={"ndcg@10": NAN}), "refused",
     ["measured", "floor", "beats popularity", "beats item_item"]),
    ("taken out of service before", replace(GOOD, rolled_back="version 2 on 2026-03-02 by ada: complaints"), "kept", ["back_in_service"]),
    ("first, taken out of service before", replace(FIRST, rolled_back="version 2 by ada: complaints"), "refused", ["back_in_service"]),
    ("taken out of service before, and a person lets it back",
     replace(GOOD, rolled_back="version 2 by ada: complaints", approval=Approval("bo", "it was the delivery")), "promoted", []),
    ("a person lets it back, but it is worse",
     replace(GOOD, rolled_back="version 2 by ada: complaints", approval=Approval("bo", "hurry"), ahead_of_champion=m(-0.05, -0.06, -0.04)),
     "kept", ["not_worse"]),
    ("exactly at the margin", replace(GOOD, ahead_of_champion=m(0.0, -0.01, 0.01)), "promoted", []),
    ("beyond the margin", replace(GOOD, ahead_of_champion=m(0.0, -0.0101, 0.01)), "kept", ["not_worse"]),
    ("better on average, too few to say", replace(GOOD, ahead_of_champion=m(0.02, -0.05, 0.09)), "kept", ["not_worse"]),
    ("no paired difference to the champion", replace(GOOD, ahead_of_champion=None), "kept", ["not_worse"]),
    ("a difference without interval", replace(GOOD, ahead_of_champion=m(0.05)), "kept", ["not_worse"]),
    ("the champion was not judged", replace(GOOD, champion_quality=None), "kept", ["not_worse"]),
    ("the champion's metric is NaN", replace(GOOD, champion_quality=m(NAN)), "kept", ["not_worse"]),
    ("another holdout", replace(GOOD, same_holdout=False), "kept", ["same_holdout"]),
    ("unknown holdout", replace(GOOD, same_holdout=None), "kept", ["same_holdout"]),
    ("a slice lost beyond chance",
     with_slice(Slice("items=tail", m(0.08), m(0.10), m(-0.02, -0.03, -0.01))), "kept", ["slices"]),
    ("a slice lost within chance",
     with_slice(Slice("items=tail", m(0.08), m(0.10), m(-0.02, -0.05, 0.01))), "promoted", []),
    ("a slice lost a little beyond chance",
     with_slice(Slice("items=tail", m(0.095), m(0.10), m(-0.005, -0.008, -0.002))), "promoted", []),
    ("a slice lost, no interval to excuse it", with_slice(Slice("items=tail", m(0.08), m(0.10))), "kept", ["slices"]),
    ("a small slice lost", with_slice(Slice("items=tail", m(0.01, users=49), m(0.10, users=49))), "promoted", []),
    ("a slice is NaN", with_slice(Slice("items=tail", m(NAN), m(0.10))), "kept", ["slices"]),
    ("a slice the champion does not have", with_slice(Slice("items=tail", m(0.001))), "promoted", []),
    ("unfair by country",
     with_slice(Slice("country=DE", m(0.30)), Slice("country=FR", m(0.10, 0.08, 0.12))), "kept", ["fairness country"]),
    ("unfair by history, first model",
     replace(FIRST, slices=(Slice("history=old", m(0.30)), Slice("history=new", m(0.10)))), "refused", ["fairness history"]),
    ("unfair within chance",
     with_slice(Slice("country=DE", m(0.30)), Slice("country=FR", m(0.14, 0.08, 0.16))), "promoted", []),
    ("exactly fair enough", with_slice(Slice("country=DE", m(0.30)), Slice("country=FR", m(0.15))), "promoted", []),
    ("the unfair group is small",
     with_slice(Slice("country=DE", m(0.30)), Slice("country=FR", m(0.01, users=49))), "promoted", []),
    ("only one group", with_slice(Slice("country=DE", m(0.30))), "promoted", []),
    ("a group is NaN", with_slice(Slice("country=DE", m(0.30)), Slice("country=FR", m(NAN))), "kept", ["fairness country"]),
    ("unfair by a dimension that is not judged",
     with_slice(Slice("items=head", m(0.30)), Slice("items=tail", m(0.01))), "promoted", []),
    ("the same night's data", replace(GOOD, challenger_date=date(2026, 3, 1)), "promoted", []),
    ("older data", replace(GOOD, challenger_date=date(2026, 2, 28)), "kept", ["newer"]),
    ("older data, much better",
     replace(GOOD, challenger_date=date(2026, 2, 28), ahead_of_champion=m(0.1, 0.09, 0.11)), "kept", ["newer"]),
    ("the champion's night is unknown", replace(GOOD, champion_date=None), "kept", ["newer"]),
    ("older data, a person approves",
     replace(GOOD, challenger_date=date(2026, 2, 28), approval=Approval("ada", "last week's data was broken")), "promoted", []),
    ("a person's approval lifts nothing else",
     replace(GOOD, challenger_date=date(2026, 2, 28), verified=False, approval=Approval("ada", "hurry")), "kept", ["verified"]),
    ("a person's approval of a bad first model",
     replace(FIRST, quality=m(0.04), approval=Approval("ada", "hurry")), "refused", ["floor", "beats popularity", "beats item_item"]),
    ("several at once", replace(GOOD, data_gate="refused", same_holdout=False, challenger_date=date(2026, 1, 1)), "kept",
     ["data_gate", "same_holdout", "newer"]),
]


@pytest.mark.parametrize(("evidence", "outcome", "failed"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_truth_table(evidence: Evidence, outcome: str, failed: list[str]) -> None:
    decision = decide(evidence, RULES)
    assert [c.name for c in decision.failed] == failed
    assert decision.outcome == outcome


def test_every_check_has_a_row_that_fails_it_alone() -> None:
    alone = {tuple(row[3]) for row in TABLE if len(row[3]) == 1}
    names = {c.name for c in decide(GOOD, RULES).checks} - {"floor"}  # below the floor it is also below a baseline
    assert {(n,) for n in names} <= alone


def test_the_floor_alone() -> None:
    rules = RULES.model_copy(update={"floor": 0.2, "beat": ()})
    assert [c.name for c in decide(GOOD, rules).failed] == ["floor"]


def test_a_decision_explains_itself() -> None:
    decision = decide(replace(GOOD, challenger_date=date(2026, 2, 28)), RULES)
    assert decision.why == "failed newer"
    (check,) = decision.failed
    assert check.observed == "2026-02-28 against 2026-03-01"
    assert "--approve" in check.required
    said = decision.to_json()
    assert (said["outcome"], said["champion"], said["challenger"]) == ("kept", "1", "2")
    assert decide(GOOD, RULES).why == "passed all 12 checks"


def test_a_champion_that_cannot_be_loaded_is_told_of() -> None:
    decision = decide(LOST, RULES)
    assert decision.why == "passed all 10 checks; champion 1 cannot be loaded (it is of format 1, this code reads 2), so the baselines alone were compared with"
    assert "without_champion" in {c.name for c in decision.checks} and not {"same_holdout", "not_worse", "slices"} & {c.name for c in decision.checks}
    assert "not_worse" in {c["name"] for c in decide(GOOD, RULES).to_json()["checks"]} and "note" not in decide(GOOD, RULES).to_json()


_NUMBERS = st.one_of(st.just(NAN), st.just(math.inf), st.floats(-1, 1))
_MEASURED = st.one_of(
    st.none(), st.builds(Measured, _NUMBERS, st.one_of(st.none(), _NUMBERS), st.one_of(st.none(), _NUMBERS), st.integers(0, 100))
)
_SLICES = st.lists(
    st.builds(Slice, st.sampled_from(["country=A", "country=B", "history=new", "items=tail"]),
              _MEASURED.filter(lambda x: x is not None), _MEASURED, _MEASURED), max_size=4,
).map(tuple)
_EVIDENCE = st.builds(
    Evidence, challenger=st.just("2"), challenger_date=st.dates(date(2026, 1, 1), date(2026, 1, 5)),
    data_gate=st.sampled_from(["passed", "warned", "refused", "missing"]), metric=st.just("ndcg@10"),
    measured=st.dictionaries(st.sampled_from(["ndcg@10", "mrr"]), _NUMBERS), quality=_MEASURED,
    baselines=st.dictionaries(st.sampled_from(["popularity", "item_item"]), _MEASURED.filter(lambda x: x is not None)),
    ahead_of=st.dictionaries(st.sampled_from(["popularity", "item_item"]), _MEASURED.filter(lambda x: x is not None)),
    verified=st.sampled_from([True, False, None]), slices=_SLICES, champion=st.sampled_from([None, "1"]),
    champion_date=st.one_of(st.none(), st.dates(date(2026, 1, 1), date(2026, 1, 5))), champion_quality=_MEASURED,
    ahead_of_champion=_MEASURED, same_holdout=st.sampled_from([True, False, None]),
    approval=st.sampled_from([None, Approval("ada", "why")]), rolled_back=st.sampled_from(["", "version 2 by ada: complaints"]),
)


@given(evidence=_EVIDENCE)
def test_nothing_is_promoted_past_a_failed_check(evidence: Evidence) -> None:
    decision = decide(evidence, RULES)
    assert (decision.outcome == "promoted") == (not decision.failed)
    assert decision.outcome != "kept" or evidence.champion is not None
    assert decision.outcome != "refused" or evidence.champion is None
    if decision.outcome == "promoted":
        assert evidence.data_gate in ("passed", "warned") and evidence.verified is True
        assert evidence.quality is not None and evidence.quality.value > RULES.floor
        assert not evidence.rolled_back or evidence.approval is not None
        if evidence.champion is not None and evidence.approval is None:
            assert evidence.champion_date is not None and evidence.challenger_date >= evidence.champion_date


@given(evidence=_EVIDENCE, breakage=st.sampled_from(["data_gate", "verified", "floor", "measured"]))
def test_breaking_one_more_thing_never_promotes(evidence: Evidence, breakage: str) -> None:
    broken = {
        "data_gate": replace(evidence, data_gate="refused"), "verified": replace(evidence, verified=False),
        "floor": replace(evidence, quality=m(RULES.floor)), "measured": replace(evidence, measured={"mrr": NAN}),
    }[breakage]
    assert decide(broken, RULES).outcome != "promoted"
