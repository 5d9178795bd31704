"""Keras layers that the learners share. Importing this module starts TensorFlow."""

from __future__ import annotations

from typing import Any

from nightmarket.learn.strategy import tensorflow

tf = tensorflow()
import keras  # noqa: E402 (TensorFlow is chosen as its backend first)

TABLE = "rows_by_id"
"""Name of a table's weight. The training loop updates such a weight row by row: only the rows that a batch asked for."""


@keras.saving.register_keras_serializable("nightmarket")
class RowTable(keras.layers.Layer):
    """Rows of a table by id: ids (…,) int32 in 0 … rows - 1 -> (…, dim).

    Unlike keras.layers.Embedding, only the rows asked for are read (and cast, under mixed precision), and their gradient stays
    a tf.IndexedSlices, so that the cost of a step grows with the batch and not with the table.
    """

    def __init__(self, rows: int, dim: int, deviation: float | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.rows, self.dim = rows, dim
        self.deviation = dim**-0.5 if deviation is None else deviation

    def build(self, input_shape: Any = None) -> None:
        self.table = self.add_weight(
            shape=(self.rows, self.dim), name=TABLE, dtype="float32", autocast=False,
            initializer=keras.initializers.RandomNormal(stddev=self.deviation))

    def call(self, ids: Any) -> Any:
        return tf.cast(local(self.table).sparse_read(ids), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (*input_shape, self.dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rows": self.rows, "dim": self.dim, "deviation": self.deviation}


def local(variable: Any) -> Any:
    """The tf.Variable of a keras.Variable on this replica: a mirrored one can only be read whole, its parts also by rows."""
    context = tf.distribute.get_replica_context()
    if context is None:
        return variable.value
    parts = context.strategy.experimental_local_results(variable.value)
    return parts[int(tf.get_static_value(context.replica_id_in_sync_group)) % len(parts)]
