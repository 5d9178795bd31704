"""What is counted of a shop small enough to count by hand, and that nothing comes from the future."""

from __future__ import annotations

import numpy as np
import pytest

from nightmarket.recommend import candidates, features, reasons, strangers
from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.evidence import Evidence
from nightmarket.recommend.histories import Histories, seconds
from tests.recommend import synthetic
from tests.recommend.synthetic import history, moment

ROWS = [
    history("ann", [(1, "purchase", "tea"), (11, "purchase", "tea"), (15, "purchase", "cup"), (31, "purchase", "tea"), (38, "view", "pot")], "DE"),
    history("bob", [(11, "purchase", "tea"), (11, "purchase", "cup"), (38, "purchase", "pot"), (39, "cart", "cup")], "FR"),
    history("cem", [(39, "purchase", "pot")], "FR"),
]
TITLES = {"tea": "Green tea", "cup": "Tea cup", "pot": "Iron pot"}


def evidence(*more: dict, as_of: float = 40) -> Evidence:
    held = Histories.from_table(synthetic.features([*ROWS, *more]))
    items = synthetic.catalogue(["cup", "pot", "tea", "new"], TITLES)
    return Evidence.of(held, Catalogue.of(held.item_ids, items), float(seconds(moment(as_of))))


CUP, POT, TEA = 0, 1, 2
ANN, BOB, CEM = 0, 1, 2


def test_personal_counts_and_intervals_by_hand() -> None:
    e = evidence()
    assert e.personal[-1].toarray().tolist() == [[1, 0, 3], [1, 1, 1], [0, 1, 0]]
    # ann's tea: 10 and 20 days apart
    assert e.own_interval.toarray()[ANN, TEA] == 15
    assert e.last_bought.toarray()[ANN, TEA] == pytest.approx(1 / (1 + 9))
    # newest basket 1, the one before 1/2, the one before that 1/3
    assert e.baskets_since.toarray()[ANN].tolist() == pytest.approx([1 / 2, 0, 1])
    assert e.shopper["purchase_days"].tolist() == [4, 2, 1]
    assert e.shopper["days_since_purchase"].tolist() == [9, 2, 1]
    assert e.shopper["mean_gap"][:2].tolist() == [10, 27]
    assert e.buyers.tolist() == [2, 2, 2]
    # 2 of tea's 4 occasions were repeats; 2 of all 8, weighing 10
    assert e.repeat_share[TEA] == pytest.approx((2 + 10 * 2 / 8) / (4 + 10))
    assert e.repeat_interval[TEA] == pytest.approx(np.exp(np.log([10.0, 20.0]).mean()))


def test_next_basket_is_directed() -> None:
    follows = evidence().next_basket.toarray()
    assert follows[CUP, POT] > 0  # bob: cup, then pot
    assert follows[POT].sum() == 0  # nobody bought anything after the pot


def test_neighbours_are_never_oneself() -> None:
    near = evidence().neighbours(np.arange(3)).toarray()
    assert np.diag(near).tolist() == [0, 0, 0]
    assert near[CEM, BOB] > near[CEM, ANN]  # both bought the pot; ann only looked at it


def test_country_popularity_is_of_the_country() -> None:
    e = evidence()
    names, _ = e.country_codes
    assert names.tolist() == ["DE", "FR"]
    assert e.country_popularity[0, POT] == 0
    assert e.country_popularity[1, POT] == pytest.approx(2 ** (-2 / 30) + 2 ** (-1 / 30), rel=1e-6)


def test_candidates_are_distinct_allowed_and_within_the_limit() -> None:
    e = evidence()
    found = candidates.propose(e, np.arange(3), 2, np.array([True, False, True]))
    for row in found.items:
        listed = row[row >= 0].tolist()
        assert len(listed) == len(set(listed)) <= 2
        assert POT not in listed
    # both are first in some list; equal places go to the smaller code
    assert found.items[ANN].tolist() == [CUP, TEA]
    assert found.places["personal"][ANN].tolist() == [0.5, 1.0]


def test_features_have_names_and_are_finite() -> None:
    e = evidence()
    made = features.assemble(e, candidates.propose(e, np.arange(3), 3, np.ones(3, bool)))
    assert made.shape == (3, 3, len(features.names()))
    assert len(set(features.names())) == len(features.names())
    assert np.isfinite(made).all()


def test_a_feature_is_what_its_name_says() -> None:
    e = evidence()
    found = candidates.propose(e, np.arange(3), 3, np.ones(3, bool))
    made = features.assemble(e, found)
    at = {n: i for i, n in enumerate(features.names())}
    tea, pot = (int(np.flatnonzero(found.items[ANN] == i)[0]) for i in (TEA, POT))
    assert made[ANN, tea, at["bought_ever"]] == pytest.approx(np.log1p(24))
    assert made[ANN, tea, at["basket_rate"]] == 0.75
    assert made[ANN, tea, at["due_own"]] == pytest.approx(np.log(10 / 16))
    assert made[ANN, pot, at["ever_bought"]] == 0
    assert made[ANN, pot, at["last_viewed"]] == pytest.approx(1 / 3)
    assert made[ANN, pot, at["due_item"]] == 0


def test_what_comes_after_the_moment_changes_nothing() -> None:
    late = history("dan", [(40, "purchase", "new"), (41, "purchase", "tea")], "DE")
    before, after = evidence(), evidence(late)
    place = [int(np.flatnonzero(after.histories.item_ids == i)[0]) for i in before.histories.item_ids]
    allowed_before = np.ones(3, bool)
    allowed_after = np.bincount(after.histories.item, minlength=after.histories.items) > 0
    assert allowed_after.sum() == 3
    one = candidates.propose(before, np.arange(3), 3, allowed_before)
    other = candidates.propose(after, np.arange(3), 3, allowed_after)
    assert np.array_equal(np.array(place)[one.items], other.items)
    apart = np.abs(features.assemble(before, one) - features.assemble(after, other)).max(axis=(0, 1))
    # one more shopper is known by name; rarity is relative to how many there are
    moved = {n for n, a in zip(features.names(), apart, strict=True) if a > 1e-6}
    assert not {n for n in moved if n.startswith(("bought", "sold", "last", "due", "popular", "item_", "country", "in_country"))}


def test_reasons_say_what_the_histories_show() -> None:
    e = evidence()
    found = candidates.propose(e, np.arange(3), 3, np.ones(3, bool))
    told = reasons.Reasons(e).of(found, np.tile(np.arange(3), (3, 1)))
    said = {(u, int(i)): t for u, row in enumerate(found.items) for i, t in zip(row, told[u], strict=True)}
    assert said[ANN, TEA] == "bought 3 times, last on 2026-02-01"
    assert said[ANN, CUP] == "bought on 2026-01-16"
    assert said[ANN, POT] == "looked at on 2026-02-08"
    assert said[BOB, CUP] == "put in the cart on 2026-02-09, bought before on 2026-01-12"
    assert said[CEM, POT] == "bought on 2026-02-09"
    cause = said[CEM, CUP]
    assert "Iron pot" in cause or cause in ("bought by shoppers whose purchases are most like yours", "popular in FR this month"), cause


def test_days_of_reasons_are_those_of_the_shop() -> None:
    late = evidence(history("eve", [(30.98, "purchase", "cup")], "DE"))  # 23:31 UTC
    found = candidates.propose(late, np.array([3]), 1, np.array([True, False, False]))
    assert reasons.Reasons(late, "UTC").of(found, np.zeros((1, 1), int)) == [["bought on 2026-01-31"]]
    assert reasons.Reasons(late, "Asia/Shanghai").of(found, np.zeros((1, 1), int)) == [["bought on 2026-02-01"]]


def test_strangers_get_a_list_for_everyone_and_one_for_every_country() -> None:
    e = evidence()
    table = strangers.table(e, reasons.Reasons(e), 2).to_pylist()
    assert [(r["audience"], r["audience_id"], r["rank"]) for r in table] == [
        ("everyone", "*", 1), ("everyone", "*", 2), ("country", "DE", 1), ("country", "DE", 2), ("country", "FR", 1), ("country", "FR", 2)]
    assert table[0]["item_id"] == "pot"  # two sales in the last two days
    assert table[4]["reason"] == "popular in FR this month"
    for first, second in zip(table[::2], table[1::2], strict=True):
        assert first["score"] >= second["score"]


def test_a_catalogue_of_other_items_is_refused() -> None:
    held = Histories.from_table(synthetic.features(ROWS))
    with pytest.raises(ValueError, match="catalogue of 1 items, histories of 3; align it first"):
        Evidence.of(held, Catalogue.of(["cup"], synthetic.catalogue(["cup"])), 0.0)
