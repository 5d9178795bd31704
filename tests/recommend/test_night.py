"""The parts of a night's training and answers, on a shop small enough to count by hand; nothing comes from the future."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nightmarket.recommend import lists as listing
from nightmarket.recommend import ranker, strangers, training
from nightmarket.recommend.baselines import Bought
from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.causes import Causes
from nightmarket.recommend.earlier import pairs_at
from nightmarket.recommend.histories import DAY, PURCHASE, Histories, seconds
from nightmarket.recommend.signals import Signals
from tests.recommend import synthetic
from tests.recommend.synthetic import history, moment

ROWS = [
    history("ann", [(1, "purchase", "tea"), (11, "purchase", "tea"), (15, "purchase", "cup"), (31, "purchase", "tea"), (38, "view", "pot")], "DE"),
    history("bob", [(11, "purchase", "tea"), (11, "purchase", "cup"), (38, "purchase", "pot"), (39, "cart", "cup")], "FR"),
    history("cem", [(39, "purchase", "pot")], "FR"),
]
TITLES = {"tea": "Green tea", "cup": "Tea cup", "pot": "Iron pot"}
CUP, POT, TEA = 0, 1, 2
ANN, BOB, CEM = 0, 1, 2


def held(*more: dict) -> Histories:
    return Histories.from_table(synthetic.features([*ROWS, *more]))


def signals(*more: dict, as_of: float = 40) -> Signals:
    events = strangers.added(held(*more))
    catalogue = Catalogue.of(events.item_ids, synthetic.catalogue(["cup", "pot", "tea", "new"], TITLES))
    return Signals(pairs_at(events, float(seconds(moment(as_of))), PURCHASE), catalogue, training.groups_of(events))


def block(made: Signals, users: list[int], allowed: np.ndarray | None = None) -> listing.Block:
    return next(listing.blocks(made, made.past, np.array(users), 3, np.ones(made.items, bool) if allowed is None else allowed, repeats=True))


def test_strangers_stand_behind_the_shoppers_one_a_country() -> None:
    events = strangers.added(held())
    assert events.user_ids.tolist() == ["ann", "bob", "cem", "DE", "FR", "*"]
    assert strangers.codes(events) == {"DE": 3, "FR": 4, None: 5}
    assert training.groups_of(events).codes[:, 0].tolist() == [0, 1, 1, 0, 1, -1]


def test_strangers_get_a_list_for_everyone_and_one_for_every_country() -> None:
    made = signals()
    table = strangers.table(made, Causes(made, made.past, clock=True), 2, made.seen).to_pylist()
    assert [(r["audience"], r["audience_id"], r["rank"]) for r in table] == [
        ("everyone", "*", 1), ("everyone", "*", 2), ("country", "DE", 1), ("country", "DE", 2), ("country", "FR", 1), ("country", "FR", 2)]
    assert table[0]["item_id"] == "pot"  # two sales in the last two days
    assert table[4]["item_id"] == "pot" and table[4]["reason"] == "popular where country is FR"
    for first, second in zip(table[::2], table[1::2], strict=True):
        assert first["score"] >= second["score"]


def test_reasons_say_what_the_histories_show() -> None:
    made = signals()
    found = block(made, [ANN, BOB, CEM])
    told = Causes(made, made.past, clock=True).of(found, np.where(found.items >= 0, np.arange(3), -1))
    said = {(u, int(i)): t for u, row in enumerate(found.items) for i, t in zip(row[row >= 0], told[u], strict=True)}
    assert said[ANN, TEA] == "bought 3 times, last on 2026-02-01"
    assert said[ANN, CUP] == "bought on 2026-01-16"
    assert said[ANN, POT] == "looked at on 2026-02-08, not bought yet"
    assert said[CEM, POT] == "bought on 2026-02-09"
    assert "Iron pot" in said[CEM, CUP] or said[CEM, CUP] == "bought by shoppers whose history is most like yours"


def test_days_of_reasons_are_those_of_the_shop() -> None:
    made = signals(history("eve", [(30.98, "purchase", "cup")], "DE"))  # 23:31 UTC
    found = block(made, [3], np.array([True, False, False]))
    for zone, day in (("UTC", "2026-01-31"), ("Asia/Shanghai", "2026-02-01")):
        assert Causes(made, made.past, True, zone).of(found, np.zeros((1, 1), int)) == [[f"bought on {day}"]]


def test_what_comes_after_the_moment_changes_nothing() -> None:
    late = history("ann2", [(40, "purchase", "tea"), (41, "purchase", "tea")], "DE")
    one, other = block(signals(), [ANN, BOB]), block(signals(late), [ANN, BOB + 1])
    assert np.array_equal(one.items, other.items)
    moved = np.abs(one.features - other.features).max(axis=(0, 1))
    names = listing.names(PURCHASE, signals().names, ("country",))
    # one more shopper is known by name, and rarity is relative to how many there are
    rarity = ("alike", "lately", "together", "newest")
    assert not [n for n, a in zip(names, moved, strict=True) if a > 1e-6 and not n.startswith(rarity)]


def test_labels_are_what_was_done_within_the_window() -> None:
    events = held()
    made = signals(as_of=30)
    found = block(made, [ANN, BOB])
    did = training.labels(events.between(float(seconds(moment(30))), float(seconds(moment(40)))), found, made.catalogue)
    at = {(u, int(i)): did[u, n].tolist() for u, row in enumerate(found.items) for n, i in enumerate(row) if i >= 0}
    # each of the three has a category of its own
    assert at[ANN, TEA] == [False, False, True, False, True] and at[ANN, CUP] == [False] * 5
    assert at[BOB, CUP] == [False, True, False, False, False] and at[BOB, TEA] == [False] * 5
    assert training.behaviours_of(events, made.catalogue) == ("view", "cart", "purchase", "next_category")


def test_a_return_and_the_next_category_are_labels_too() -> None:
    rows = [
        history("ann", [(1, "purchase", "tea"), (5, "view", "cup"), (32, "purchase", "cup"), (33, "return", "cup"), (34, "purchase", "tea")]),
        history("bob", [(2, "purchase", "cup"), (6, "purchase", "pot")]),
    ]
    events = strangers.added(Histories.from_table(synthetic.features(rows)))
    made = Signals(pairs_at(events, float(seconds(moment(30))), PURCHASE),
                   replace(Catalogue.of(events.item_ids, synthetic.catalogue(["cup", "pot", "tea"], TITLES)),
                           categories=np.array(["kitchen", "kitchen", "food"], dtype=object)), training.groups_of(events))
    found = block(made, [ANN, BOB])
    did = training.labels(events.between(float(seconds(moment(30))), float(seconds(moment(40)))), found, made.catalogue)
    at = {(u, int(i)): did[u, n].tolist() for u, row in enumerate(found.items) for n, i in enumerate(row) if i >= 0}
    # ann's next purchase day brings a cup, which is kitchen, as a pot is; the tea comes on a later day
    assert at[ANN, CUP] == [False, False, True, True, True]
    assert at[ANN, POT] == [False, False, False, False, True]
    assert at[ANN, TEA] == [False, False, True, False, False]
    assert not any(any(d) for (u, _), d in at.items() if u == BOB)
    assert training.behaviours_of(events, made.catalogue) == ("view", "purchase", "return", "next_category")


def test_sampled_shoppers_stand_for_all_others() -> None:
    rows = [history(f"u{n:02d}", [(1, "purchase", "a"), *([(30, "purchase", "a")] if n < 8 else [])]) for n in range(40)]
    events = Histories.from_table(synthetic.features(rows))
    cut = float(seconds(moment(20)))
    users, weights = training.sample_users(events.before(cut), events.between(cut, cut + 20 * DAY), 1, 100)
    assert set(range(8)) < set(users.tolist()) and len(users) == 8 + 2
    assert weights[users < 8].tolist() == [1.0] * 8 and weights[users >= 8].tolist() == [16.0, 16.0]  # 2 for 32
    users, weights = training.sample_users(events.before(cut), events.between(cut, cut + 20 * DAY), 1, 4)
    assert (users < 8).sum() == 4 and (weights[users >= 8] == 16.0).all()  # each buyer stands for 2, each other for 32, relative to a buyer


def test_cuts_leave_the_fit_window_and_a_history() -> None:
    assert training.cut_times(0.0, 100 * DAY, 20) == [30 * DAY, 40 * DAY, 50 * DAY, 60 * DAY, 70 * DAY, 80 * DAY]
    assert training.cut_times(0.0, 30 * DAY, 20) == [10 * DAY]
    assert training.cut_times(0.0, 15 * DAY, 20) == []


def test_baselines_count_buyers_once() -> None:
    bought = Bought(held(), float(seconds(moment(40))))
    assert bought.buyers.tolist() == [2, 2, 2] and bought.shoppers == 3


@pytest.mark.tensorflow
def test_the_sampled_loss_is_that_of_the_whole_list_on_average() -> None:
    from nightmarket.learn.strategy import tensorflow

    tf = tensorflow()
    rng = np.random.default_rng(3)
    shape = ranker.RankerShape(5, 40, hidden=(8,), members=1, sampled=20)
    labels = np.zeros((4, 40, len(ranker.TASKS)), np.float32)
    labels[:, :2] = 1.0
    labels[:, 2:20, ranker.TASKS.index("next_category")] = 1.0  # so many that they are drawn like the others
    listed = np.ones((4, 40), np.float32)
    listed[:, 36:] = 0.0
    batch = {"features": rng.normal(size=(4, 40, 5)).astype(np.float32), "labels": labels, "listed": listed, "present": np.ones((4, len(ranker.TASKS)), np.float32)}
    batch = {k: tf.constant(v) for k, v in batch.items()}
    task = ranker.RankingTask(shape, np.zeros(5, np.float32), np.ones(5, np.float32))
    import keras

    keras.utils.set_random_seed(1)
    model = task.build()
    whole = task.valid_losses(model, batch).numpy()
    drawn = np.mean([task.losses(model, batch, tf.constant(n, tf.int64)).numpy() for n in range(60)], axis=0)
    np.testing.assert_allclose(drawn, whole, rtol=0.04)  # the softmax's part is a little below: the logarithm of a mean


@pytest.mark.tensorflow
@pytest.mark.parametrize("architecture", ["shared_bottom", "mmoe", "ple"])
def test_each_way_of_sharing_answers_alike_from_disk(architecture: ranker.Architecture, tmp_path: Path) -> None:
    import keras

    shape = ranker.RankerShape(5, 6, hidden=(8, 4), members=3, architecture=architecture)
    model = ranker.build(shape, np.zeros(5, np.float32), np.ones(5, np.float32))
    features = np.random.default_rng(2).normal(size=(2, 6, 5)).astype(np.float32)
    answer = ranker.scorer(model)(features)
    assert answer.shape == (2, 6, ranker.OUTPUTS) and model.output_shape[2] == (3 if architecture == "shared_bottom" else 1)
    # a candidate's answer is its own: the others of its list do not matter
    np.testing.assert_allclose(ranker.scorer(model)(features[:, ::-1])[:, ::-1], answer, rtol=1e-5)
    model.save(tmp_path / "ranker.keras")
    again = keras.models.load_model(tmp_path / "ranker.keras", compile=False, safe_mode=True)
    np.testing.assert_allclose(ranker.scorer(again)(features), answer, rtol=1e-6)
