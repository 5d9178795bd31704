"""Keras layers that the learners share. Importing this module starts TensorFlow."""

from __future__ import annotations

from itertools import pairwise
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

    def __init__(self, rows: int, dim: int, deviation: float | None = None, stored: str = "float32", **kwargs: Any):
        """`stored`: float32 learns; float16, or int8 with a scale a row, is a trained table for serving alone (see `fill`)."""
        super().__init__(**kwargs)
        self.rows, self.dim, self.stored = rows, dim, stored
        self.deviation = dim**-0.5 if deviation is None else deviation

    def build(self, input_shape: Any = None) -> None:
        learns = self.stored == "float32"
        self.table = self.add_weight(
            shape=(self.rows, self.dim), name=TABLE, dtype=self.stored, autocast=False, trainable=learns,
            initializer=keras.initializers.RandomNormal(stddev=self.deviation) if learns else "zeros")
        if self.stored == "int8":
            self.scale = self.add_weight(shape=(self.rows, 1), name="scale", dtype="float32", autocast=False, trainable=False)

    def fill(self, values: Any) -> None:
        """Takes trained rows (rows, dim) float32, in the type that this table stores."""
        from nightmarket.learn.compress import quantise

        if self.stored == "int8":
            made = quantise(values, 0)
            self.table.assign(made.codes)
            self.scale.assign(made.scale)
        else:
            self.table.assign(values.astype(self.stored))

    def call(self, ids: Any) -> Any:
        rows = tf.cast(local(self.table).sparse_read(ids), self.compute_dtype)
        return rows * tf.cast(local(self.scale).sparse_read(ids), self.compute_dtype) if self.stored == "int8" else rows

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (*input_shape, self.dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rows": self.rows, "dim": self.dim, "deviation": self.deviation, "stored": self.stored}


def rows_stored_as(layer: RowTable, stored: str) -> RowTable:
    """An empty table like `layer`, for serving."""
    return RowTable.from_config({**layer.get_config(), "stored": stored})


@keras.saving.register_keras_serializable("nightmarket")
class PiecewiseLinear(keras.layers.Layer):
    """(b, N) float32 -> (b, N, bins + 1): the share of each bin of its column that a value has passed, and 1 if missing.

    Columns with fewer bins than the widest are filled up with zeros. Source: Gorishniy, Rubachev & Babenko 2022.
    """

    def __init__(self, edges: list[list[float]], **kwargs: Any):
        """`edges`: by column, increasing, at least two."""
        super().__init__(**kwargs)
        self.edges = edges
        wide = max(len(e) for e in edges) - 1
        self._low = [[*e[:-1], *[0.0] * (wide - len(e) + 1)] for e in edges]
        self._span = [[b - a for a, b in pairwise(e)] + [1.0] * (wide - len(e) + 1) for e in edges]
        self._there = [[1.0] * (len(e) - 1) + [0.0] * (wide - len(e) + 1) for e in edges]

    def call(self, values: Any) -> Any:
        values = tf.cast(values, tf.float32)
        missing = tf.cast(tf.math.is_nan(values), tf.float32)
        known = tf.where(tf.math.is_nan(values), tf.zeros_like(values), values)[:, :, None]
        passed = tf.clip_by_value((known - tf.constant(self._low)) / tf.constant(self._span), 0.0, 1.0) * tf.constant(self._there)
        passed = passed * (1.0 - missing)[:, :, None]
        return tf.cast(tf.concat([passed, missing[:, :, None]], axis=2), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (*input_shape, len(self._low[0]) + 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "edges": self.edges}


@keras.saving.register_keras_serializable("nightmarket")
class TaskWeights(keras.layers.Layer):
    """Passes logits on as they are and holds `log_variances` (tasks,), by which the tasks' losses are weighed."""

    def __init__(self, tasks: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.tasks = tasks

    def build(self, input_shape: Any) -> None:
        self.log_variances = self.add_weight(shape=(self.tasks,), name="log_variances", initializer="zeros", trainable=self.tasks > 1)

    def call(self, logits: Any) -> Any:
        return logits

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tasks": self.tasks}


def local(variable: Any) -> Any:
    """The tf.Variable of a keras.Variable on this replica: a mirrored one can only be read whole, its parts also by rows."""
    held = variable.value
    if not isinstance(held, tf.distribute.DistributedValues):
        return held
    parts = tuple(held.values)  # one a replica of this process
    context = tf.distribute.get_replica_context()
    replica = None if context is None else tf.get_static_value(context.replica_id_in_sync_group)
    return parts[int(replica or 0) % len(parts)]
