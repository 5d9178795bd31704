"""Transfer helps a small target that speaks the same language, and is refused where it does not; a student learns its teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.tensorflow
GOOD, BAD = [f"good{n}" for n in range(60)], [f"bad{n}" for n in range(60)]


def shop(rows: int, seed: int, flip: bool = False) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Titles of five words; what sells has more good words than bad ones (or the other way round)."""
    rng = np.random.default_rng(seed)
    words = np.array(GOOD + BAD)[rng.integers(0, 120, (rows, 5))]
    score = np.char.startswith(words, "good").sum(axis=1) - 2.5
    label = (rng.random(rows) < 1 / (1 + np.exp(-2.5 * score * (-1 if flip else 1)))).astype(float)
    return pd.DataFrame({"title": [" ".join(w) for w in words]}), {"sold": label}


@pytest.fixture(scope="module")
def fitted() -> tuple[Any, ...]:
    """(source network, its data, encoder, targets, shape, how, placement)."""
    from nightmarket.learn.multitask import Fit, Shape, Target, learn
    from nightmarket.learn.strategy import place
    from nightmarket.learn.tabular import Encoder, Sizes
    from nightmarket.learn.transfer import Data

    sizes = Sizes(always_hashed=True, word_rows=4096, words=10)
    frame, labels = shop(2000, 1)
    encoder = Encoder.fit(frame, ["title"], sizes, texts=["title"])
    encoded, late = encoder.encode(frame), np.arange(2000) >= 1600
    targets, shape = [Target("sold")], Shape("shared_bottom", 8, (16,), 8, dropout=0.0)
    how = Fit(epochs=6, batch_size=64, learning_rate=5e-3)
    source = learn(encoder, encoded, labels, targets, ~late, late, shape, how, place(0, "float32"))
    return source, Data(encoded, labels, late), encoder, targets, shape, how, place(0, "float32")


def small(encoder: Any, flip: bool) -> Any:
    from nightmarket.learn.transfer import Data

    frame, labels = shop(560, 2, flip)
    return Data(encoder.encode(frame), labels, np.arange(560) >= 60)


def test_it_helps_a_small_shop_and_is_refused_where_it_does_not(fitted: tuple[Any, ...]) -> None:
    from nightmarket.learn.transfer import transfer

    source, theirs, encoder, targets, shape, how, placement = fitted
    helped = transfer(source, theirs, small(encoder, False), encoder, targets, shape, how, placement, ("gradual", "joint"), resamples=100)
    assert helped.way != "scratch" and helped.gain.low > 0
    assert helped.losses[helped.way] < 0.8 * helped.losses["scratch"]
    assert any("words_table" in path for path in helped.copied)
    refused = transfer(source, theirs, small(encoder, True), encoder, targets, shape, how, placement, ("frozen",), resamples=100)
    assert refused.way == "scratch" and refused.gain.high < 0


def test_frozen_layers_are_the_sources(fitted: tuple[Any, ...]) -> None:
    from nightmarket.learn.transfer import _stages, transfer

    source, _, encoder, targets, shape, how, placement = fitted
    made = transfer(source, None, small(encoder, False), encoder, targets, shape, how, placement, ("frozen",), resamples=50)
    assert set(made.losses) == {"scratch", "frozen"} and made.way == "frozen"
    for name, same in (("words_table", True), ("bottom_0", True), ("head_sold", False)):
        ours, before = made.network.model.get_layer(name).get_weights(), source.model.get_layer(name).get_weights()
        assert all(np.array_equal(a, b) for a, b in zip(ours, before, strict=True)) is same, name
    stages = _stages("gradual", source.model, 0.4)
    assert [rate for _, rate in stages] == [0.4, 0.2, 0.1]
    assert len(stages[0][0]) > len(stages[1][0]) > len(stages[2][0]) == 0


def test_distance_from_a_teacher_by_hand() -> None:
    import tensorflow as tf

    from nightmarket.learn.multitask import Target
    from nightmarket.learn.transfer import distance

    binary, three = [Target("a")], [Target("a", "classes", classes=3)]
    same = tf.constant([[1.3]])
    assert distance(tf, same, same, binary, 2.0).numpy() == pytest.approx([0.0], abs=1e-6)
    # teacher 0.5, student 0.8 at temperature 1: KL = 0.5 log(0.5 / 0.8) + 0.5 log(0.5 / 0.2)
    found = distance(tf, tf.constant([[np.log(4.0)]], tf.float32), tf.constant([[0.0]]), binary, 1.0).numpy()
    assert found == pytest.approx([0.5 * np.log(0.5 / 0.8) + 0.5 * np.log(0.5 / 0.2)], rel=1e-5)
    teacher, student = tf.math.log([[0.5, 0.25, 0.25]]), tf.math.log([[0.25, 0.5, 0.25]])
    assert distance(tf, student, teacher, three, 1.0).numpy() == pytest.approx([0.25 * np.log(2.0)], rel=1e-5)
    assert distance(tf, tf.constant([[3.0]]), tf.constant([[1.0]]), [Target("a", "number")], 2.0).numpy().tolist() == [2.0]


def test_a_lists_order_and_behaviours_are_softened_apart_by_hand() -> None:
    """The loss of a taught ranking network over a list of two candidates and a place that is empty: order at T = 2, behaviours as they are."""
    import tensorflow as tf

    from nightmarket.recommend.ranker import TASKS, RankerShape, RankingTask, TaughtTask

    shape = RankerShape(list_size=3, features=1, hidden=(2,), members=1)
    task = TaughtTask(RankingTask(shape, np.zeros(1, np.float32), np.ones(1, np.float32), behaviour_weight=0.5), 1.0, 2.0)
    tasks = len(TASKS)
    said, told = np.zeros((1, 3, 1, 1 + tasks), np.float32), np.zeros((1, 3, 1 + tasks), np.float32)
    told[0, :, 0] = [2 * np.log(3.0), 0.0, 50.0]  # at T = 2 the two are 3 to 1; the empty place counts for nothing
    told[0, 0, 1] = np.log(3.0)  # a chance of 3/4 where the student says 1/2
    batch = {"labels": tf.zeros((1, 3, tasks)), "listed": tf.constant([[1.0, 1.0, 0.0]]), "present": tf.ones((1, tasks)), "teacher": tf.constant(told)}
    apart = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    # T² for the order; the behaviours' sum over the list's 3 places, times 20 x their weight
    assert task._losses(tf.constant(said), batch).numpy() == pytest.approx([4 * apart + 20 * 0.5 * apart / 3], rel=1e-5)


def test_a_student_keeps_most_of_its_teacher(fitted: tuple[Any, ...]) -> None:
    from nightmarket.learn.multitask import Shape
    from nightmarket.learn.tasks import row_losses
    from nightmarket.learn.transfer import distil

    source, theirs, _, targets, _, how, placement = fitted
    student = distil([source], theirs, targets, Shape("shared_bottom", 4, (8,), 4, dropout=0.0), replace(how, epochs=20), placement)
    assert student.model.count_params() < 0.55 * source.model.count_params()
    late = theirs.validation
    loss = {n: row_losses(targets[0], m.predict({k: v[late] for k, v in theirs.encoded.items()})["sold"], theirs.labels["sold"][late]).mean()
            for n, m in (("teacher", source), ("student", student))}
    assert loss["student"] < loss["teacher"] + 0.05
