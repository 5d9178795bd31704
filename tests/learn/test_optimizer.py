"""Row by row updates: lazy Adam by hand, Adam where every row is asked for, accumulation and XLA change nothing, rows alone move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightmarket.learn.inputs import Examples, Field, write_examples

pytestmark = pytest.mark.tensorflow
ROWS, DIM = 6, 2
FIELDS = (Field("id", "int32"), Field("y", "float32"))


class Looked:
    """Least squares on the sum of a looked-up row; `whole`: keras' own Embedding in place of the table."""

    name = "looked"

    def __init__(self, whole: bool = False):
        self.whole = whole

    def build(self) -> Any:
        import keras

        from nightmarket.learn.layers import RowTable

        ids = keras.Input((), dtype="int32")
        table = keras.layers.Embedding(ROWS, DIM, name="table") if self.whole else RowTable(ROWS, DIM, name="table")
        model = keras.Model(ids, table(ids))
        model.layers[1].set_weights([np.arange(ROWS * DIM, dtype=np.float32).reshape(ROWS, DIM) / 10.0])
        return model

    def losses(self, model: Any, batch: dict[str, Any], step: Any) -> Any:
        import tensorflow as tf

        return tf.square(tf.reduce_sum(tf.cast(model(batch["id"], training=True), tf.float32), axis=1) - batch["y"])


def data(folder: Path, ids: list[int], batch: int, name: str = "ids") -> Examples:
    columns = {"id": np.array(ids, np.int32), "y": np.full(len(ids), 3.0, np.float32)}
    return Examples((write_examples(folder, name, columns),), FIELDS, batch)


def table_after(folder: Path, ids: list[int], batch: int, epochs: int = 1, whole: bool = False, replicas: int = 0, **how: Any) -> np.ndarray:
    from nightmarket.learn.loop import Plan, Trainer
    from nightmarket.learn.strategy import place

    trainer = Trainer(Looked(whole), place(replicas, "float32"), batch, 1e9, 3, **how)
    trainer.fit(data(folder, ids, batch), None, Plan(epochs, 0.1, epochs))
    return trainer.model.layers[1].get_weights()[0]


START = np.arange(ROWS * DIM, dtype=np.float32).reshape(ROWS, DIM) / 10.0


def test_only_the_rows_of_the_batch_move(tmp_path: Path) -> None:
    after = table_after(tmp_path, [1, 1, 4, 1], 4)
    assert np.array_equal(after[[0, 2, 3, 5]], START[[0, 2, 3, 5]])
    # Adam's first step is the learning rate, against the gradient's sign: row 1 sums to 0.5 < 3, row 4 to 1.7 < 3
    assert after[[1, 4]] == pytest.approx(START[[1, 4]] + 0.1, abs=1e-5)


def test_row_wise_adagrad_by_hand(tmp_path: Path) -> None:
    after = table_after(tmp_path, [1, 1, 4, 1], 4, rows="adagrad")
    # row 1: gradient of the mean over 4 is 3 x 2 (0.5 - 3) / 4 = -3.75 in both places; squares 14.0625; step 0.1 x 3.75 / 3.75
    assert after[1] == pytest.approx(START[1] + 0.1, abs=1e-5)
    again = table_after(tmp_path, [1, 1, 4, 1], 4, epochs=2, rows="adagrad")
    # second: sum 0.7, gradient 3 x 2 (0.7 - 3) / 4 = -3.45, squares 14.0625 + 11.9025
    assert again[1] == pytest.approx(START[1] + 0.1 + 0.1 * 3.45 / np.sqrt(14.0625 + 11.9025), abs=1e-5)


def test_where_every_row_is_asked_for_it_is_adam_itself(tmp_path: Path) -> None:
    ids = list(range(ROWS)) * 2
    lazy, whole = table_after(tmp_path, ids, 6, 5), table_after(tmp_path, ids, 6, 5, whole=True)
    assert lazy == pytest.approx(whole, abs=2e-5)  # the two sum in another order


def test_dense_weights_follow_keras_adamw(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    from nightmarket.learn.loop import Plan, Trainer
    from nightmarket.learn.strategy import place

    ids = [0, 1, 2, 3]
    trainer = Trainer(Looked(whole=True), place(0, "float32"), 4, 1e9, 3, weight_decay=0.1)
    trainer.fit(data(tmp_path, ids, 4), None, Plan(4, 0.1, 4))
    weight = keras.Variable(START)
    theirs = keras.optimizers.AdamW(0.1, weight_decay=0.1)
    for _ in range(4):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(tf.reduce_sum(tf.gather(weight.value, ids), axis=1) - 3.0))
        theirs.apply([tf.convert_to_tensor(tape.gradient(loss, weight.value))], [weight])
    assert trainer.model.layers[1].get_weights()[0] == pytest.approx(weight.numpy(), abs=1e-5)


def test_accumulation_and_xla_change_nothing(tmp_path: Path) -> None:
    ids = [0, 1, 1, 2, 5, 5, 5, 3]
    plain = table_after(tmp_path, ids, 8, 3)
    assert table_after(tmp_path, ids, 8, 3, accumulate=4) == pytest.approx(plain, abs=1e-6)
    assert table_after(tmp_path, ids, 8, 3, xla=True) == pytest.approx(plain, abs=1e-6)
    with pytest.raises(ValueError, match="has no 3 equal parts"):
        table_after(tmp_path, ids, 8, accumulate=3)


def test_frozen_weights_stay(tmp_path: Path) -> None:
    from nightmarket.learn.loop import Plan, Trainer
    from nightmarket.learn.strategy import place

    trainer = Trainer(Looked(), place(0, "float32"), 4, 1e9, 3)
    trainer.freeze([trainer.model.trainable_variables[0].path])
    trainer.fit(data(tmp_path, [1, 2, 3, 4], 4), None, Plan(1, 0.1, 1))
    assert np.array_equal(trainer.model.layers[1].get_weights()[0], START)
    trainer.freeze(())
    trainer.fit(data(tmp_path, [1, 2, 3, 4], 4), None, Plan(1, 0.1, 1))
    assert not np.array_equal(trainer.model.layers[1].get_weights()[0], START)
    with pytest.raises(ValueError, match="no weight nowhere to freeze"):
        trainer.freeze(["nowhere"])
