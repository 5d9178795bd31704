"""Live histories by hand, the guard's table, and three strikes."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.evaluate.blessing import Evidence, Measured
from nightmarket.online.live import merge
from nightmarket.online.update import Entry, Updates, harm, judge, strikes
from nightmarket.recommend.histories import Histories
from nightmarket.shop import Blessing
from tests.online.shoppers import second, table

DAY = date(2026, 3, 2)


def event(user: str, hours: float, item: str = "i", kind: str = "purchase", country: str | None = None) -> dict[str, Any]:
    at = datetime(2026, 3, 2, tzinfo=timezone.utc) + timedelta(hours=hours)
    return {"user_id": user, "item_id": item, "event_type": kind, "event_ts": at, "quantity": 2, "unit_price": Decimal("1.5"), "country": country}


def test_live_events_join_their_shoppers_in_order_of_time() -> None:
    before = table({"a": [("view", second(DAY, 1), 1, 5.0), ("purchase", second(DAY, 9), 1, 5.0)], "z": [("view", second(DAY), 1, 5.0)]})
    after = merge(before, [event("a", 4, "late"), event("new", 5, country="FR"), event("a", 12, kind="view"), event("new", 3)])
    rows = {r["user_id"]: r for r in after.to_pylist()}
    assert list(rows) == ["a", "new", "z"]
    assert rows["a"]["item_ids"] == ["i", "late", "i", "i"] and rows["a"]["event_types"] == ["view", "purchase", "purchase", "view"]
    assert rows["a"]["event_times"] == [int(second(DAY, h)) for h in (1, 4, 9, 12)]
    assert rows["a"]["quantities"] == [1, 2, 1, 2] and rows["a"]["unit_prices"] == [5, 1.5, 5, 1.5]
    assert (rows["a"]["country"], rows["new"]["country"], rows["new"]["event_times"]) == ("DE", "FR", [int(second(DAY, h)) for h in (3, 5)])
    assert after.filter([r["user_id"] == "z" for r in after.to_pylist()]).equals(before.filter([False, True]))
    assert merge(before, []) is before
    assert Histories.from_table(after).users == 3


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 99), st.sampled_from(["view", "purchase"])), max_size=20), st.integers(0, 20))
def test_merging_loses_and_makes_nothing(events: list[tuple[str, int, str]], cut: int) -> None:
    given_ = [event(u, h, kind=k) for u, h, k in events]
    at_once = merge(merge(table({}), given_[:cut]), given_[cut:])
    whole = merge(table({}), given_)
    for made in (at_once, whole):
        found = sorted((r["user_id"], t, k) for r in made.to_pylist() for t, k in zip(r["event_times"], r["event_types"], strict=True))
        assert found == sorted((u, int(second(DAY, h)), k) for u, h, k in events)


GOOD = Measured(0.01, -0.02, 0.04, 80)
EVIDENCE = Evidence(
    challenger="2", challenger_date=DAY, data_gate="passed", metric="ndcg@10", measured={"ndcg@10": 0.3}, quality=Measured(0.3, 0.25, 0.35, 80),
    baselines={"popularity": Measured(0.1)}, ahead_of={"popularity": Measured(0.2, 0.15, 0.25)}, verified=True, champion="1", champion_date=DAY,
    champion_quality=Measured(0.29), ahead_of_champion=GOOD, same_holdout=True,
)


@pytest.mark.parametrize(("apart", "why"), [
    (GOOD, ""), (Measured(-0.009, -0.05, 0.03), ""), (Measured(-0.011, -0.05, 0.03), "by more than 0.01"),
    (Measured(-0.005, -0.008, -0.001), "worse on the newest days: "), (Measured(float("nan")), "is no number"), (None, "nobody could be asked"),
])
def test_what_harms(apart: Measured | None, why: str) -> None:
    said = harm(apart, 0.01)
    assert (why in said) if why else said == ""


def test_only_the_margin_of_the_gate_is_replaced() -> None:
    """Eighty shoppers cannot show that a loss of 0.01 is excluded; the rest of the table must hold."""
    outcome, why, decision = judge(EVIDENCE, Blessing())
    assert outcome == "accepted" and decision.outcome == "promoted" and [c.name for c in decision.failed] == ["not_worse"]
    assert "no harm on the newest days" in why
    for broken, name in ((replace(EVIDENCE, verified=False), "verified"), (replace(EVIDENCE, data_gate="refused"), "data_gate"),
                         (replace(EVIDENCE, champion_date=DAY + timedelta(days=1)), "newer")):
        outcome, why, decision = judge(broken, Blessing())
        assert outcome == "dropped" and decision.outcome == "kept" and name in why
    assert judge(replace(EVIDENCE, ahead_of_champion=Measured(-0.2, -0.3, -0.1)), Blessing())[0] == "dropped"


def entry(outcome: Any) -> Entry:
    return Entry("r", str(DAY), "1", None, outcome, "w", None, 3, "now")


def test_three_in_a_row(tmp_path: Path) -> None:
    log = Updates(tmp_path)
    assert log.entries() == [] and strikes([]) == 0
    for outcome in ("dropped", "dropped", "accepted", "dropped", "dropped", "dropped"):
        log.add(entry(outcome))
    assert [strikes(log.entries()[:n]) for n in range(1, 7)] == [1, 2, 0, 1, 2, 3]
    log.lift("Ada", date(2026, 3, 2))
    assert strikes(log.entries()) == 0, "a person who lifts the stop gives three more"
    log.add(log.entries()[0])
    assert strikes(log.entries()) == 1
