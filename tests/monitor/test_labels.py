"""Labels against what was expected of them: exact chances, quiet nights of the demo shop, and nights whose labels are turned round."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.monitor import drift
from nightmarket.screen.screening import Options, screen
from nightmarket.screen.table import Asked
from nightmarket.shop import Drift
from tests.monitor import quiet

RULES = Drift()
DAYS = range(30, 90)


@given(st.lists(st.tuples(st.floats(0.001, 0.999), st.booleans()), min_size=1, max_size=8))
def test_the_chance_is_that_of_all_cases_counted(labels: list[tuple[float, bool]]) -> None:
    """By enumeration: the probability of everything that speaks as much for labels turned round."""
    p = np.clip([q for q, _ in labels], drift.CERTAIN, 1 - drift.CERTAIN)
    bad = np.array([b for _, b in labels])
    speaks = np.rint(np.log(p / (1 - p)) / 0.05)
    (found,) = drift.contradicted(bad, p, 100, RULES)
    seen = np.where(bad, -speaks, speaks).sum()
    chance = sum(math.prod(q if b else 1 - q for q, b in zip(p, case, strict=True))
                 for case in itertools.product((False, True), repeat=len(p)) if np.where(case, -speaks, speaks).sum() >= seen)
    assert found.p_value == pytest.approx(chance) and found.statistic == pytest.approx(seen * 0.05)
    assert found.effect == pytest.approx(np.abs(bad - p).mean())


def test_labels_that_came_as_expected_are_seldom_an_alarm() -> None:
    """4,000 nights of one to five labels drawn with the very chances that were said: at most as many alarms as the level allows."""
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(4_000):
        p = rng.beta(0.3, 2.0, rng.integers(1, 6))
        found = drift.judged(drift.contradicted(rng.random(len(p)) < p, p, 100, RULES), RULES, drift.CONCEPTS)
        alarms += found[0].drifted
    assert alarms <= 4_000 * RULES.false_discoveries / drift.CONCEPTS
    good = drift.contradicted(np.zeros(4, bool), np.full(4, 0.02), 100, RULES)
    flipped = drift.contradicted(np.ones(2, bool), np.full(2, 0.02), 100, RULES)
    assert not drift.judged(good, RULES)[0].drifted and drift.judged(flipped, RULES)[0].drifted
    assert flipped[0].p_value == pytest.approx(0.02**2) and drift.contradicted(np.zeros(0, bool), np.zeros(0), 9, RULES) == []
    one = drift.judged(drift.contradicted(np.array([True, False, False, False]), np.full(4, 0.004), 100, RULES), RULES)[0]
    assert one.p_value < 0.025 and not one.drifted, "a surprise among four labels is a fraud that nobody saw coming"


def test_a_screener_that_was_always_wrong_is_no_drift() -> None:
    """What it says is held against the window's labels: turned round before, turned round tonight."""
    rng = np.random.default_rng(5)
    said = rng.beta(0.3, 2.0, 400)
    right, wrong = rng.random(400) < said, rng.random(400) < 1 - said
    asked = np.array([0.02, 0.3, 0.9])
    assert drift.expect(asked, said, right) == pytest.approx(asked, abs=0.08)
    told = drift.expect(asked, said, wrong)
    assert np.ptp(told) < 0.2, "what says nothing is worth no more than the share of bad ones"
    assert told.mean() == pytest.approx(wrong.mean(), abs=0.1)


def labels(day: int) -> dict[str, pd.DataFrame]:
    """What the demo shop learns on a day: id and bad of orders and reviews."""
    return quiet.labels(quiet.delivered(day))


def alarm(day: int, said: dict[str, float], turned: bool = False) -> bool:
    now = {kind: rows.assign(bad=rows["bad"] ^ turned) for kind, rows in labels(day).items()}
    past = {kind: pd.concat([labels(d)[kind] for d in range(day - 28, day)]) for kind in now}
    return any(f.drifted for f in drift.judged(drift.labels(now, past, {"order": said}, RULES), RULES, drift.CONCEPTS))


def test_without_a_screener_three_labels_turned_round_are_an_alarm(record_property: Callable[[str, object], None]) -> None:
    """By the share of bad labels alone, which rings and campaigns make uneven: one night as it is, the 52nd, has two bad labels of two."""
    assert [d for d in DAYS if alarm(d, {})] in ([], [52])
    enough = [d for d in DAYS if sum(map(len, labels(d).values())) >= 3]
    caught = [d for d in enough if alarm(d, {}, turned=True)]
    record_property("caught", f"{len(caught)} of {len(enough)}")
    assert len(enough) >= 30 and len(caught) >= 0.75 * len(enough)


@pytest.fixture(scope="module")
def said() -> dict[str, float]:
    """What the demo's screener, taught on day 99 with the labels of then, says of each order of the 88 days after."""
    columns = ["order_id", "placed_at", "user_id", "card", "device", "ip", "address", "amount", "line_count", "payment_method", "country"]
    rows = pd.concat([quiet.delivered(d)["orders"].assign(day=d) for d in range(188)])
    known = {key: bad for day in range(100) for key, bad in labels(day)["order"].itertuples(index=False)}
    rows = rows[rows["amount"] > 0].drop_duplicates("order_id")
    train, new = rows[rows["day"] < 100], rows[rows["day"] >= 100]
    train = train.assign(is_fraud=[known.get(k) for k in train["order_id"]])
    entities = ("user_id", "card", "device", "ip", "address")
    made = screen(pa.Table.from_pandas(train[[*columns, "is_fraud"]], preserve_index=False), pa.Table.from_pandas(new[columns], preserve_index=False),
                  Asked("order_id", "placed_at", "is_fraud", None, entities, (), ()), Options(threads=1, reasons_for=1, folds=3, seeds=1), int(2e15))
    return dict(zip(new["order_id"], made.table["probability"].to_pylist(), strict=True))


def test_with_the_demos_screener_one_label_turned_round_is_an_alarm(said: dict[str, float], record_property: Callable[[str, object], None]) -> None:
    """On each of 60 nights that brings a label of an order, one or more. As they are, one night is an alarm: four reviews at once, all of a
    campaign, of which nobody had said anything."""
    days = range(128, 188)
    brought = [d for d in days if len(labels(d)["order"])]
    assert len(brought) >= 45 and sum(len(labels(d)["order"]) == 1 for d in brought) >= 10
    assert [d for d in days if alarm(d, said)] in ([], [169])
    missed = [d for d in brought if not alarm(d, said, turned=True)]
    record_property("missed", str(missed))
    assert len(missed) <= 0.05 * len(brought), missed
