"""The frozen holdout and its slices, on histories small enough to read."""

from __future__ import annotations

from datetime import date, datetime, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from nightmarket.evaluate import slices
from nightmarket.evaluate.protocol import Holdout, Trial
from nightmarket.recommend.histories import Histories
from tests.recommend.synthetic import features, history, moment

SPAN = Holdout(moment(50), moment(60))


def trial(*rows: dict, span: Holdout = SPAN) -> Trial:
    return Trial.of(Histories.from_table(features(list(rows))), span)


def test_days_are_those_of_the_shop() -> None:
    found = Holdout.of(date(2026, 3, 30), 2, ZoneInfo("Europe/London"))  # the clocks go forward on the 29th
    assert found.cut == datetime(2026, 3, 29, 0, 0, tzinfo=timezone.utc)
    assert found.end == datetime(2026, 3, 30, 23, 0, tzinfo=timezone.utc)


def test_only_shoppers_with_purchases_on_both_sides_are_judged() -> None:
    found = trial(
        history("both", [(1, "purchase", "a"), (55, "purchase", "a")]),
        history("before", [(1, "purchase", "b")]),
        history("after", [(55, "purchase", "a")]),
        history("looked", [(1, "view", "a"), (55, "purchase", "a")]),
        history("too late", [(1, "purchase", "a"), (60, "purchase", "a")]),
    )
    assert found.histories.user_ids[found.users].tolist() == ["both"]
    assert found.truth.toarray().tolist() == [[True, False]]


def test_the_cut_belongs_to_the_holdout_and_the_end_does_not() -> None:
    found = trial(history("u", [(49.999, "purchase", "a"), (50, "purchase", "b"), (59.999, "purchase", "a")]),
                  history("v", [(1, "purchase", "b"), (60, "purchase", "b")]))
    assert found.histories.user_ids[found.users].tolist() == ["u"]
    assert found.truth.toarray().tolist() == [[True, True]]


def test_items_first_seen_in_the_holdout_are_not_asked_for() -> None:
    found = trial(history("u", [(1, "purchase", "a"), (55, "purchase", "new")]),
                  history("v", [(1, "purchase", "a"), (55, "purchase", "a"), (56, "purchase", "new")]))
    assert found.histories.user_ids[found.users].tolist() == ["v"]
    assert found.allowed.tolist() == [True, False]


def test_digest_is_of_the_question_alone() -> None:
    rows = [history("u", [(1, "purchase", "a"), (55, "purchase", "a")]), history("v", [(1, "purchase", "a")])]
    assert trial(*rows).digest == trial(*reversed(rows)).digest
    other = [history("u", [(1, "purchase", "a"), (55, "purchase", "a"), (56, "purchase", "b")]), history("v", [(1, "purchase", "b")])]
    assert trial(*rows).digest != trial(*other).digest
    assert trial(*rows).digest != trial(*rows, span=Holdout(moment(50), moment(61))).digest


def test_slices_by_history_country_and_catalogue() -> None:
    rows = [history(f"new{n}", [(1, "purchase", "a"), (1.01, "purchase", "b"), (55, "purchase", "a")], "FR") for n in range(3)]
    rows += [history("light", [(1, "purchase", "a"), (2, "purchase", "c"), (55, "purchase", "c")], "DE")]
    rows += [history("old", [(d, "purchase", "a") for d in range(5)] + [(55, "purchase", "b"), (55.1, "purchase", "a")], "FR")]
    found = trial(*rows)
    by_user = slices.of_users(found, minimum=2)
    names = found.histories.user_ids[found.users]
    assert {k: names[v].tolist() for k, v in by_user.items()} == {
        "history=new": ["new0", "new1", "new2"], "history=light": ["light"], "history=established": ["old"],
        "country=FR": ["new0", "new1", "new2", "old"],  # Germany has one shopper only
    }
    # 13 purchases before the cut: a 9, b 3, c 1. a alone is more than half
    by_item = slices.of_items(found)
    assert by_item["items=head"].sum() == 4
    assert np.flatnonzero(by_item["items=tail"].toarray().any(axis=1)).tolist() == [0, 4]


@pytest.mark.parametrize("days", [1, 28])
def test_holdout_has_as_many_days(days: int) -> None:
    found = Holdout.of(date(2026, 2, 1), days, ZoneInfo("UTC"))
    assert (found.end - found.cut).days == days
