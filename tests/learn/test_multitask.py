"""Tables and tasks: encodings, gates, the funnel's product and the learnt weights, each against a number worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.learn.tabular import Encoder, Sizes, TableError, hashed, hashed_words

pytestmark = pytest.mark.tensorflow

FRAME = pd.DataFrame({
    "price": [1.0, 2.0, 3.0, np.nan] * 25, "same": 7.0, "colour": ["red", "red", "blue", None] * 25,
    "said": ["a fine warm coat indeed", "not a fine coat at all", "too small for me sadly", ""] * 25,
})


def targets(*names: str) -> list[Any]:
    from nightmarket.learn.multitask import Target

    return [Target(n) for n in names]


# --- encodings ------------------------------------------------------------------------------------------------------
def test_columns_are_told_apart_and_what_never_varies_is_left_out() -> None:
    made = Encoder.fit(FRAME, ["price", "same", "colour", "said"])
    assert (made.numbers, made.categories, made.texts) == (("price",), ("colour",), ("said",))
    # unknown is row 0, then "", blue, red
    assert made.known == ({"": 1, "blue": 2, "red": 3},) and made.rows == 4
    fields = made.encode(pd.DataFrame({"price": [2.5], "colour": ["green"], "said": [None]}))
    assert fields["categories"].tolist() == [[[0]]] and fields["words"].max() == 0
    assert Encoder.from_json(made.to_json()) == made
    with pytest.raises(TableError, match="no column size; the table has price"):
        Encoder.fit(FRAME, ["size"])
    with pytest.raises(TableError, match="no column varies"):
        Encoder.fit(FRAME, ["same"])


def test_many_values_share_rows_by_two_hashes() -> None:
    frame = pd.DataFrame({"sku": np.repeat([f"s{n}" for n in range(300)], 2)})
    made = Encoder.fit(frame, ["sku"], Sizes(table_rows=64))
    rows = made.encode(frame)["categories"]
    assert made.hashed and rows.shape == (600, 1, 2) and rows.max() < 64
    assert rows[0, 0].tolist() == list(hashed("sku=s0", 64, 2))
    # 300 values on 64 x 64 pairs: nearly all differ
    assert len(np.unique(rows[:, 0], axis=0)) > 280


@given(st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=5))
def test_words_are_hashed_alike_everywhere_and_padded(texts: list[str | None]) -> None:
    found = hashed_words(pd.Series(texts, dtype=object), 12, 1000)
    assert found.shape == (len(texts), 12) and (found >= 0).all() and (found < 1000).all()
    for row in found:
        assert (row[np.count_nonzero(row):] == 0).all()


def test_words_and_pairs_in_order() -> None:
    import zlib

    found = hashed_words(pd.Series(["Warm coat"]), 4, 1000)[0].tolist()
    assert found == [1 + zlib.crc32(t) % 999 for t in (b"warm", b"warm coat", b"coat")] + [0]


def test_piecewise_linear_by_hand() -> None:
    from nightmarket.learn.layers import PiecewiseLinear

    layer = PiecewiseLinear([[0.0, 1.0, 3.0], [0.0, 10.0]])
    out = layer(np.array([[2.0, 5.0], [-1.0, 20.0], [np.nan, 0.0]], np.float32)).numpy()
    # first column: bins 0 … 1 and 1 … 3, second one bin and one filled up; last place: missing
    assert out.tolist() == [[[1, 0.5, 0], [0.5, 0, 0]], [[0, 0, 0], [1, 0, 0]], [[0, 0, 1], [0, 0, 0]]]


# --- networks -------------------------------------------------------------------------------------------------------
def _submodel(model: Any, name: str) -> Any:
    import keras

    return keras.Model(model.inputs, model.get_layer(name).output)


def _inputs(n: int = 5) -> dict[str, np.ndarray]:
    return Encoder.fit(FRAME, ["price", "colour"]).encode(FRAME.head(n))


def test_the_gates_of_mmoe_sum_to_one_and_mix_the_experts() -> None:
    from nightmarket.learn.multitask import Shape, build

    model = build(Encoder.fit(FRAME, ["price", "colour"]), targets("a", "b"), Shape("mmoe", experts=3, hidden=(6,)))
    rows = _inputs()
    gate = _submodel(model, "gate_1")(rows).numpy()
    assert gate.shape == (5, 3) and gate.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    experts = _submodel(model, "expert_0")(rows).numpy()
    mixed = _submodel(model, "mix_1")(rows).numpy()
    assert mixed == pytest.approx(np.einsum("be,beh->bh", gate, experts), abs=1e-5)


def test_a_task_of_ple_does_not_see_the_experts_of_another() -> None:
    from nightmarket.learn.multitask import Shape, build, logits_of

    model = build(Encoder.fit(FRAME, ["price", "colour"]), targets("a", "b"), Shape("ple", experts=2, hidden=(4,), levels=1))
    rows = _inputs()
    before = logits_of(model, rows)
    kernel = model.get_layer("level0_task1_0")
    kernel.set_weights([w + 1.0 for w in kernel.get_weights()])
    after = logits_of(model, rows)
    assert np.array_equal(before[:, 0], after[:, 0]) and not np.allclose(before[:, 1], after[:, 1])
    gate = _submodel(model, "level0_gate0")(rows).numpy()
    assert gate.shape == (5, 2 + 1) and gate.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-6)


def test_the_funnel_is_the_product_over_all_rows() -> None:
    import tensorflow as tf

    from nightmarket.learn.multitask import Target, probabilities, task_losses

    funnel = [Target("cart"), Target("purchase", after="cart")]
    logits = np.array([[0.0, np.log(3.0)], [np.log(4.0), 0.0]], np.float32)  # 0.5 and 0.75; 0.8 and 0.5
    said = probabilities(logits, funnel, {})
    assert said["cart"] == pytest.approx([0.5, 0.8]) and said["purchase"] == pytest.approx([0.375, 0.4])
    labels, labelled = np.array([[1.0, 1.0], [1.0, 0.0]], np.float32), np.array([[1.0, 1.0], [0.0, 1.0]], np.float32)
    cart, purchase = (v.numpy() for v in task_losses(tf, tf.constant(logits), labels, labelled, funnel))
    assert cart == pytest.approx([-np.log(0.5), 0.0])  # the second row has no label
    assert purchase == pytest.approx([-np.log(0.375), -np.log(0.6)], rel=1e-5)


def test_uncertainty_weights_by_hand() -> None:
    import tensorflow as tf

    from nightmarket.learn.multitask import weighted

    s = np.log([0.5, 4.0]).astype(np.float32)
    found = weighted(tf, [tf.constant([1.0, 2.0]), tf.constant([8.0, 4.0])], tf.constant(s)).numpy()
    # loss / variance + log(variance) / 2
    half = 0.5 * (np.log(0.5) + np.log(4.0))
    assert found == pytest.approx([1 / 0.5 + 8 / 4 + half, 2 / 0.5 + 4 / 4 + half], rel=1e-6)


def test_tasks_that_do_not_fit_are_refused() -> None:
    from nightmarket.learn.multitask import Target, check

    with pytest.raises(ValueError, match="task a is there twice"):
        check(targets("a", "a"))
    with pytest.raises(ValueError, match="comes after 'cart', which is not an earlier task"):
        check([Target("purchase", after="cart"), Target("cart")])
    with pytest.raises(ValueError, match="a funnel is of binary tasks"):
        check([Target("cart"), Target("amount", "number", after="cart")])


# --- blending, calibrating, judging -----------------------------------------------------------------------------------
def test_losses_by_hand() -> None:
    from nightmarket.learn.multitask import Target
    from nightmarket.learn.tasks import row_losses

    assert row_losses(Target("a"), np.array([0.25, 0.25, 0.5]), np.array([1.0, 0.0, np.nan]))[:2] == pytest.approx(-np.log([0.25, 0.75]))
    assert row_losses(Target("a", "number"), np.array([3.0]), np.array([1.0])).tolist() == [4.0]
    three = Target("a", "classes", classes=3)
    assert row_losses(three, np.array([[0.2, 0.3, 0.5]]), np.array([1.0])) == pytest.approx([-np.log(0.3)])


def test_the_blend_takes_what_is_right_and_leaves_noise() -> None:
    from nightmarket.learn.multitask import Target
    from nightmarket.learn.tasks import best_weights, blended

    rng = np.random.default_rng(1)
    truth = rng.uniform(0.05, 0.95, 4000)
    label = (rng.random(4000) < truth).astype(float)
    assert best_weights(Target("a"), [truth, rng.uniform(size=4000)], label) == (1.0, 0.0)
    # mean of the logits log(3) and 0 is log(3) / 2
    mixed = blended(Target("a"), [np.array([0.75]), np.array([0.5])], (0.5, 0.5))
    assert mixed == pytest.approx(1 / (1 + np.exp(-np.log(3) / 2)))


def test_calibration_mends_what_is_too_sure_and_leaves_what_is_right() -> None:
    from nightmarket.learn.multitask import Target
    from nightmarket.learn.tasks import best_calibration, calibrate, expected_calibration_error

    rng = np.random.default_rng(2)
    truth = rng.uniform(0.02, 0.98, 3000)
    label = (rng.random(3000) < truth).astype(float)
    logit = np.log(truth / (1 - truth))
    sure = 1 / (1 + np.exp(-3 * logit))
    how = best_calibration(Target("a"), sure, label, 17)
    assert how in ("platt", "isotonic")
    mended = calibrate(how, Target("a"), sure, label)(sure)
    assert expected_calibration_error(mended, label) < 0.03 < expected_calibration_error(sure, label)
    assert best_calibration(Target("a"), truth[:20], label[:20], 17) == "none"  # too few to say


def test_expected_calibration_error_by_hand() -> None:
    from nightmarket.learn.tasks import expected_calibration_error

    # bins of two: |0.15 - 0.5| and |0.85 - 1|
    assert expected_calibration_error(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.0, 1.0, 1.0, 1.0]), 2) == pytest.approx(0.25)


def test_the_whole_is_no_worse_than_its_parts_and_answers_for_new_rows() -> None:
    from nightmarket.learn.multitask import Fit, Shape, Target
    from nightmarket.learn.strategy import place
    from nightmarket.learn.tasks import Tasks

    rng = np.random.default_rng(4)
    n = 1200
    frame = pd.DataFrame({"x": rng.normal(size=n), "z": rng.normal(size=n), "c": rng.choice(list("abc"), n)})
    cart = (frame["x"] + rng.logistic(size=n) * 0.3 > 0).to_numpy(float)
    labels = {"cart": cart, "purchase": cart * (frame["c"] == "a").to_numpy(), "amount": (frame["z"] * 2 + 5).to_numpy()}
    wanted = [Target("cart"), Target("purchase", after="cart"), Target("amount", "number")]
    made = Tasks.fit(frame, labels, wanted, ["x", "z", "c"], np.arange(n) >= 700, place(0, "float32"),
                     Shape("mmoe", 4, (16,), 8, 2, dropout=0.0), Fit(epochs=6, batch_size=64, learning_rate=5e-3), threads=1, resamples=50)
    for name, report in made.reports.items():
        assert report.losses["blend"] <= min(v for k, v in report.losses.items() if k != "blend") + 1e-9
        assert sum(report.weights.values()) == pytest.approx(1.0)
        assert report.transfer in ("negative", "positive", "none shown") and report.separated == (report.joint_minus_alone.low > 0)
        assert report.task_weight > 0, name
    said = made.predict(pd.DataFrame({"x": [2.0, -2.0], "z": [1.0, np.nan], "c": ["a", "never seen"]}))
    assert said["cart"][0] > 0.8 > 0.2 > said["cart"][1]
    assert (said["purchase"] <= said["cart"]).all()
    assert said["amount"][0] == pytest.approx(7.0, abs=0.8)
