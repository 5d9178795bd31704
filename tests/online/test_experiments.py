"""What an experiment shows and what is done about it: values by hand, CUPED against a regression, every verdict once."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm

from nightmarket.online.assignment import Split
from nightmarket.online.experiments import (
    Changed,
    Exposed,
    State,
    assess,
    compare,
    definition,
    judge,
    plan,
    split,
    sums,
    values,
)
from nightmarket.online.sequential import sample_size
from nightmarket.recommend.histories import Histories
from nightmarket.shop import Experiment, ShopError, parse_shop
from tests.conftest import _shop
from tests.online.shoppers import START, UTC, Crowd, second, table


def rules(**changes: Any) -> Experiment:
    made: dict[str, Any] = {"starts": START, "arms": {"control": 0.5, "new": 0.5}, "horizon_days": 1, "effect": 0.2, "days": 60, "minimum_days": 3}
    return Experiment.model_validate(made | changes)


def follow(crowd: Crowd, e: Experiment, nights: int) -> list[State]:
    """The states of night after night, each taking part as the state before says."""
    states: list[State] = []
    taken = [e.canary[0]]
    for n in range(nights):
        exposed, histories = crowd.shop(taken)
        now = START + timedelta(days=n)
        seen = exposed.at < second(now + timedelta(days=1))
        known = Exposed(exposed.unit[seen], exposed.arm[seen], exposed.at[seen])
        states.append(assess("x", e, known, histories.before(second(now + timedelta(days=1))), now, UTC, states[-1] if states else None))
        taken.append(states[-1].enrolment(e))
    return states


def test_values_by_hand() -> None:
    day = second(START)
    histories = Histories.from_table(table({
        "a": [("view", day + 10, 1, 5), ("purchase", day + 20, 2, 3), ("purchase", day + 30, 1, 4), ("return", day + 40, -1, 3), ("purchase", day + 100, 9, 9)],
        "b": [("purchase", day + 5, 1, 7), ("cart", day + 60, 1, 7)],
    }))
    codes = histories.codes_of(["a", "b", "stranger"])
    start, end = np.full(3, day + 10), np.full(3, day + 100)
    said = {m: values(histories, m, codes, start, end).tolist() for m in ("purchase", "revenue", "units", "views", "carts", "returns")}  # type: ignore[arg-type]
    # a: 2 x 3 + 1 x 4 less 1 x 3; b bought before the span, and nobody is charged for the instant at which it ends
    assert said == {"purchase": [1, 0, 0], "revenue": [7, 0, 0], "units": [3, 0, 0], "views": [1, 0, 0], "carts": [0, 1, 0], "returns": [1, 0, 0]}


def test_cuped_is_the_regression_on_the_covariate() -> None:
    """Deng et al.'s estimate with a slope pooled within arms is the arm's coefficient in y ~ arm + x."""
    rng = np.random.default_rng(2)
    arm = rng.integers(0, 2, 3000)
    x = rng.gamma(2, 3, 3000)
    y = 0.7 * x + rng.normal(0, 2, 3000) + 0.3 * arm
    found = compare(sums(arm, np.zeros(3000, np.int64), y, x, 2, 1), 1)
    oracle = sm.OLS(y, sm.add_constant(np.stack([arm, x], axis=1))).fit()
    assert found.difference[0] == pytest.approx(oracle.params[1], rel=1e-9)
    assert np.sqrt(found.variance[0]) == pytest.approx(oracle.bse[1], rel=0.01)
    assert found.treatment[0] - found.control[0] == pytest.approx(found.difference[0])
    plain = compare(sums(arm, np.zeros(3000, np.int64), y, np.zeros(3000), 2, 1), 1)
    assert plain.difference[0] == pytest.approx(y[arm == 1].mean() - y[arm == 0].mean())
    assert plain.variance[0] == pytest.approx(y[arm == 1].var(ddof=1) / (arm == 1).sum() + y[arm == 0].var(ddof=1) / (arm == 0).sum())
    assert found.variance[0] < 0.4 * plain.variance[0]


def test_a_shopper_counts_from_the_night_on_which_the_span_is_over() -> None:
    made = sums(np.array([0, 1, 1]), np.array([0, 1, 5]), np.array([1.0, 2.0, 9.0]), np.zeros(3), 2, 3)
    assert made[:, :, 0].tolist() == [[1, 0], [1, 1], [1, 1]]
    assert made[-1, 1, 1] == 2


def test_daily_peeking_keeps_the_level_on_skewed_values() -> None:
    """1,000 experiments without effect, 28 nights each, on money of which most is nothing: at most 5 % false alarms."""
    rng = np.random.default_rng(11)
    made = np.zeros((1000, 28, 2, 7))
    for arm in (0, 1):
        x = rng.lognormal(0, 1, (1000, 28, 40))
        y = np.where(rng.random((1000, 28, 40)) < 0.3, x * rng.lognormal(0, 1, (1000, 28, 40)), 0)
        made[:, :, arm] = np.stack([np.full(y.shape, 1.0), y, x, y * y, x * x, x * y, y != 0], axis=3).sum(axis=2).reshape(1000, 28, 7)
    compared = compare(np.cumsum(made, axis=1), 1)
    seen = judge(compared, 280, 0.05)
    z = np.abs(compared.difference) / np.sqrt(compared.variance)
    assert (seen.p_value[:, -1] <= 0.05).mean() <= 0.05
    assert ((z > 1.96) & compared.ready).any(axis=1).mean() > 0.15


def test_a_planted_harm_is_stopped_before_half_of_the_traffic() -> None:
    """200 canaries of 5, 20, 50 and 100 % on halves with a fifth of the purchases gone: none gets beyond a quarter, all are stopped."""
    from benchmarks.experiments import CANARY, canary

    shares, stops, _ = canary(200, 17, -0.2, 0.10, 20_000)
    assert shares.max() < 0.5 and (stops > 0).all()
    _, mistaken, fulls = canary(200, 17, 0.0, 0.10, 20_000)
    assert (fulls > 0).mean() > 0.9 and (mistaken > 0).mean() <= 0.05
    assert CANARY[-1] / 2 == 0.5


SPLIT = split("small", "x", rules())
ALIKE = {"control": 0.3, "new": 0.3}


def test_a_better_arm_wins_after_its_days() -> None:
    e = rules(minimum_days=4)
    states = follow(Crowd(SPLIT, 8, 400, {"control": 0.25, "new": 0.55}), e, 8)
    assert [s.status for s in states[:3]] == ["running"] * 3
    won = next(s for s in states if s.status == "won")
    assert won.arm == "new" and (won.night - START).days + 1 == 4
    reading = won.readings[0]
    assert reading.low is not None and reading.low > 0 and reading.change == pytest.approx(reading.treatment / reading.control - 1)
    assert states[-1].status == "won" and states[-1].enrolment(e) == 1.0


def test_a_harmful_canary_is_stopped_and_everybody_gets_the_control() -> None:
    e = rules(canary=[0.2, 0.6, 1.0], guardrails={"purchase": 0.2}, effect=0.2)
    states = follow(Crowd(SPLIT, 9, 700, {"control": 0.4, "new": 0.1}), e, 9)
    end = states[-1]
    assert (end.status, end.arm, end.step) == ("harmed", "new", 0)
    assert end.enrolment(e) == 0.0
    assert "purchase of new is worse" in end.why


def test_a_canary_rises_while_guardrails_hold_and_no_faster() -> None:
    e = rules(canary=[0.3, 1.0], step_days=2, guardrails={"purchase": 0.5})
    states = follow(Crowd(SPLIT, 9, 700, ALIKE), e, 9)
    steps = [s.step for s in states]
    assert steps == sorted(steps) and steps[0] == 0 and steps[-1] == 1
    rose = steps.index(1)
    assert rose >= 1 and states[rose].since == START + timedelta(days=rose + 1)
    held = [next(r for r in s.readings if r.role == "guardrail").excluded for s in states]
    assert held[rose]


def test_no_difference_at_the_planned_sample_and_inconclusive_at_the_end_of_days() -> None:
    e = rules(effect=0.5, minimum_days=1)
    states = follow(Crowd(SPLIT, 6, 700, ALIKE), e, 6)
    done = next(s for s in states if s.final)
    assert done.status == "no_difference" and done.plan is not None and done.plan.units is not None
    assert done.readings[0].units >= done.plan.units
    short = follow(Crowd(SPLIT, 3, 150, ALIKE), rules(effect=0.01, days=3), 3)
    assert [s.status for s in short] == ["running", "running", "inconclusive"]


def test_lost_exposures_make_it_invalid() -> None:
    exposed, histories = Crowd(SPLIT, 4, 1000, ALIKE).shop([1.0] * 4)
    kept = (exposed.arm == 0) | (np.arange(len(exposed.arm)) % 4 != 0)  # a quarter of one arm's are not logged
    state = assess("x", rules(), Exposed(exposed.unit[kept], exposed.arm[kept], exposed.at[kept]), histories, START + timedelta(days=3), UTC, None)
    assert state.status == "invalid" and "do not hold their shares" in state.why
    assert state.units["control"] == int((exposed.arm == 0).sum())


def test_fewer_returns_are_better() -> None:
    rng = np.random.default_rng(3)
    rows, units, arms = {}, [], []
    noon = second(START, 12)
    for n in range(1200):
        rows[f"u{n}"] = [("view", noon + 1, 1.0, 5.0)] + ([("return", noon + 60, -1.0, 5.0)] if rng.random() < (0.1 if n % 2 else 0.4) else [])
        units.append(f"u{n}")
        arms.append(n % 2)
    exposed = Exposed(np.array(units, object), np.array(arms), np.full(1200, noon))
    state = assess("x", rules(metric="returns", guardrails={"returns": 0.1}, minimum_days=1), exposed, Histories.from_table(table(rows)),
                   START + timedelta(days=2), UTC, None)
    assert state.status == "won"
    metric, guardrail = state.readings
    assert metric.change is not None and metric.change > 0 and metric.treatment < metric.control and guardrail.excluded and not guardrail.harm


def test_the_plan_is_made_from_what_was_before_and_kept() -> None:
    came = {f"b{n}": [("view", second(START - timedelta(days=1 + n % 7)), 1, 5.0)] + ([("purchase", second(START - timedelta(days=1 + n % 7)) + 9, 1, 5.0)]
            if n < 4 else []) for n in range(14)}
    late = {"after": [("purchase", second(START) + 1, 1, 5.0)], "long_ago": [("purchase", second(START - timedelta(days=9)), 1, 5.0)]}
    made = plan(rules(horizon_days=7, traffic=(0.0, 0.5)), Histories.from_table(table(came | late)), UTC)
    # 14 shoppers in 7 days, half of them the experiment's; 4 of 14 bought
    assert (made.daily, made.mean) == (1.0, pytest.approx(4 / 14))
    assert made.once == sample_size(4 / 14, made.deviation, 0.2, 0.05, 0.8).once
    crowd = Crowd(SPLIT, 2, 300, {"control": 0.3, "new": 0.9})
    later = Histories.from_table(table({"x": [("purchase", second(START, 5), 1, 5.0)]}))
    assert plan(rules(), later, UTC).units is None
    states = follow(crowd, rules(), 2)
    assert states[0].plan == states[1].plan and State.from_json(states[1].to_json()) == states[1]


def test_rows_after_the_night_change_nothing() -> None:
    exposed, histories = Crowd(SPLIT, 5, 300, ALIKE).shop([1.0] * 5)
    night = START + timedelta(days=2)
    early = exposed.at < second(night + timedelta(days=1))
    known = Exposed(exposed.unit[early], exposed.arm[early], exposed.at[early])
    assert assess("x", rules(), exposed, histories, night, UTC, None).readings == assess("x", rules(), known, histories, night, UTC, None).readings


def test_another_definition_is_another_experiment() -> None:
    exposed, histories = Crowd(SPLIT, 1, 200, ALIKE).shop([1.0])
    state = assess("x", rules(), exposed, histories, START, UTC, None)
    served = {"serves": {"new": "7"}}
    assert definition(rules(promote=True, **served)) == definition(rules(**served))
    with pytest.raises(Changed, match="give the new ones another name"):
        assess("x", rules(effect=0.1), exposed, histories, START + timedelta(days=1), UTC, state)


@pytest.mark.parametrize(("lines", "said"), [
    ({"arms": {"a": 0.5, "b": 0.4}}, "must be above 0 and sum to 1"),
    ({"traffic": [0.5, 0.5]}, "write an interval within 0 and 1"),
    ({"canary": [0.5, 0.2, 1]}, "write shares that rise to 1"),
    ({"canary": [0.5, 1]}, "nothing says when to go on"),
    ({"serves": {"a": "7"}}, "serves.a: no such treatment; there are b"),
    ({"serves": {"b": "newest"}}, "write the number of a registered version"),
    ({"guardrails": {"revenue": 2}}, "write the relative loss to exclude"),
    ({"metric": "smiles"}, "'purchase', 'revenue'"),
])
def test_mistakes_in_shop_yaml_are_named_with_their_line(tmp_path: Any, lines: dict[str, Any], said: str) -> None:
    import yaml

    one = {"starts": date(2026, 3, 2), "arms": {"a": 0.5, "b": 0.5}} | lines
    with pytest.raises(ShopError) as error:
        parse_shop(yaml.safe_dump(_shop(tmp_path, experiments={"colours": one}), sort_keys=False))
    assert said in str(error.value) and "line " in str(error.value)


def test_experiments_of_a_layer_must_be_apart(tmp_path: Any) -> None:
    import yaml

    one = {"starts": date(2026, 3, 2), "arms": {"a": 0.5, "b": 0.5}}

    def shop(**two: Any) -> str:
        return yaml.safe_dump(_shop(tmp_path, experiments={"first": one, "second": one | two}), sort_keys=False)

    with pytest.raises(ShopError, match=r"experiments.second.traffic: shares shoppers of the layer 'recommendations' with first"):
        parse_shop(shop())
    for apart in ({"layer": "mails"}, {"starts": date(2026, 6, 1)}):
        parse_shop(shop(**apart))
    two = {"first": one | {"traffic": [0, 0.5]}, "second": one | {"traffic": [0.5, 1]}}
    assert len(parse_shop(yaml.safe_dump(_shop(tmp_path, experiments=two), sort_keys=False)).experiments) == 2
    assert isinstance(SPLIT, Split)
