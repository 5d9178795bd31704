"""Small models: sizes and errors of quantised weights by hand, what is pruned, files that answer like the original, the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.tensorflow


@given(seed=st.integers(0, 1000), rows=st.integers(1, 20), dim=st.integers(1, 9))
def test_no_value_is_off_by_more_than_half_a_scale(seed: int, rows: int, dim: int) -> None:
    from nightmarket.learn.compress import quantise

    values = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    made = quantise(values, 0)
    assert (np.abs(made.values() - values) <= made.scale / 2 + 1e-6).all()
    assert made.nbytes == rows * dim + 4 * rows  # against 4 x rows x dim


def test_codes_by_hand() -> None:
    from nightmarket.learn.compress import quantise

    made = quantise(np.array([[0.0, 127.0, -63.4], [0.0, 0.0, 0.0]], np.float32), 0)
    assert made.codes.tolist() == [[0, 127, -63], [0, 0, 0]] and made.scale.ravel().tolist() == [1.0, 1.0]


def model(rows: int = 2000) -> Any:
    from nightmarket.learn.layers import RowTable, keras

    keras.utils.set_random_seed(5)
    ids, x = keras.Input((3,), dtype="int32", name="ids"), keras.Input((4,), name="x")
    table = keras.layers.Flatten()(RowTable(rows, 16, 0.3)(ids))
    hidden = keras.layers.Dense(32, activation="relu")(keras.layers.Concatenate()([table, x]))
    return keras.Model({"ids": ids, "x": x}, keras.layers.Dense(1)(hidden))


def rows(n: int = 50) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"ids": rng.integers(0, 2000, (n, 3)).astype(np.int32), "x": rng.normal(size=(n, 4)).astype(np.float32)}


def test_pruning_takes_the_smallest_of_each_kernel() -> None:
    from nightmarket.learn.compress import prune

    made = model(50)
    kernel = made.layers[-1].kernel
    kernel.assign(np.arange(1, 33, dtype=np.float32)[:, None] * np.where(np.arange(32) % 2, 1, -1)[:, None])
    table = made.trainable_variables[0].numpy()
    prune(made, 0.5)
    assert (kernel.numpy()[:, 0] == 0).tolist() == [True] * 16 + [False] * 16
    assert np.array_equal(made.trainable_variables[0].numpy(), table)
    with pytest.raises(ValueError, match="below 1"):
        prune(made, 1.0)


def test_files_are_smaller_and_answer_alike(tmp_path: Path) -> None:
    import tensorflow as tf

    from nightmarket.learn.compress import lite, lite_runner, save

    made, asked = model(), rows()
    wanted = made(asked).numpy()
    size, close = {}, {"float32": 1e-5, "float16": 5e-3, "int8": 5e-2}
    for precision, near in close.items():
        size[precision] = save(made, tmp_path / precision, precision)  # type: ignore[arg-type]
        loaded = tf.saved_model.load(str(tmp_path / precision))  # held: its variables go with it
        answer = loaded.signatures["serve"](**{k: tf.constant(v) for k, v in asked.items()})
        assert next(iter(answer.values())).numpy() == pytest.approx(wanted, abs=near), precision
        file = lite(made, precision)  # type: ignore[arg-type]
        size[f"lite {precision}"] = len(file)
        assert lite_runner(file)(asked) == pytest.approx(wanted, abs=near), precision
    # 2,000 rows of 16: 128,000 bytes in float32, 64,000 in float16, 32,000 + 8,000 in int8
    assert size["float32"] - size["float16"] > 60_000 and size["float16"] - size["int8"] > 15_000
    assert size["lite float16"] < 0.6 * size["lite float32"] and size["lite int8"] < 0.4 * size["lite float32"]


def test_the_gate_refuses_what_may_lose_too_much() -> None:
    from nightmarket.learn.compress import may_replace

    quality = np.random.default_rng(3).uniform(size=400)
    assert may_replace(quality, quality, 0.0).passed
    lost = may_replace(quality, quality - 0.02, 0.01)
    assert not lost.passed and lost.lost.value == pytest.approx(0.02) and "may exceed the 0.01" in lost.text
    assert may_replace(quality, quality - 0.02, 0.03).passed
    noisy = quality + np.random.default_rng(4).normal(0, 0.5, 400)
    assert not may_replace(quality, noisy, 0.001).passed  # too few to say
    assert not may_replace(quality, np.where(np.arange(400) == 7, np.nan, quality), 1.0).passed
