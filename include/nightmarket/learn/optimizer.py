"""AdamW whose tables are updated row by row: a step costs what its batch holds, not what the vocabulary is.

Dense weights: Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019), one fused kernel a weight. Tables
(`learn.layers.RowTable`) by one of

* "adam": lazy Adam: moments and weights of the batch's rows alone. Two more tables of the same size are kept. Where a batch asks
  for every row it is Adam itself;
* "adagrad": row-wise Adagrad (Duchi et al. 2011; one accumulator a row, as in Naumov et al. 2019): one number a row is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from nightmarket.learn.layers import TABLE, tf

Rows = Literal["adam", "adagrad"]
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-7
_NEVER_DECAYED = ("bias", "norm", "gamma", "beta", "log_variances")


class AdamW:
    """Slots of a model's weights and the update of one step. Made under the strategy's scope."""

    def __init__(self, weights: Sequence[Any], weight_decay: float = 0.0, rows: Rows = "adam"):
        """`weights`: keras.Variables, in the order in which `apply` gets their gradients."""
        self.weights, self.weight_decay, self.rows = list(weights), weight_decay, rows
        self.step = tf.Variable(0, trainable=False, dtype=tf.int64, name="step")
        self._slots: list[tuple[Any, ...]] = []
        for weight in self.weights:
            if is_table(weight) and rows == "adagrad":
                self._slots.append((tf.Variable(tf.zeros(weight.shape[0]), trainable=False, name="squares"),))
            else:
                self._slots.append(tuple(tf.Variable(tf.zeros(weight.shape), trainable=False, name=n) for n in ("mean", "square")))

    @property
    def variables(self) -> list[Any]:
        return [self.step, *(slot for slots in self._slots for slot in slots)]

    def apply(self, gradients: Sequence[Any], rate: Any) -> None:
        """One step down `gradients`, called on every replica with the same gradients: sums over all of them, clipped.

        A gradient is a tensor, tf.IndexedSlices with each row once (tables only), or None for a weight that stays as it is.
        `rate` () float32 is the learning rate.
        """
        tf.distribute.get_replica_context().merge_call(self._everywhere, args=(list(gradients), rate))

    def _everywhere(self, strategy: Any, gradients: list[Any], rate: Any) -> None:
        self.step.assign_add(1)
        count = tf.cast(self.step, tf.float32)
        for weight, slots, gradient in zip(self.weights, self._slots, gradients, strict=True):
            if gradient is None:
                continue
            decay = self.weight_decay if not any(n in weight.name for n in _NEVER_DECAYED) else 0.0
            sparse = isinstance(_first(strategy, gradient), tf.IndexedSlices)
            if is_table(weight) and self.rows == "adagrad":
                update = _adagrad_rows if sparse else _adagrad_dense
            else:
                update = _adam_rows if sparse else _adam_dense
            strategy.extended.update(weight.value, update, args=(gradient, slots, rate, count, decay))


def is_table(weight: Any) -> bool:
    return weight.name == TABLE


def _first(strategy: Any, value: Any) -> Any:
    return strategy.experimental_local_results(value)[0]


def _adam_dense(weight: Any, gradient: Any, slots: Any, rate: Any, count: Any, decay: float) -> None:
    mean, square = slots
    if decay:
        weight.assign_sub(weight * (rate * decay))
    tf.raw_ops.ResourceApplyAdam(
        var=weight.handle, m=mean.handle, v=square.handle, beta1_power=tf.pow(_BETA_1, count), beta2_power=tf.pow(_BETA_2, count),
        lr=rate, beta1=_BETA_1, beta2=_BETA_2, epsilon=_EPSILON, grad=gradient)


def _adam_rows(weight: Any, gradient: Any, slots: Any, rate: Any, count: Any, decay: float) -> None:
    ids, moved = gradient.indices, gradient.values
    mean, square = slots
    m = tf.raw_ops.ResourceGather(resource=mean.handle, indices=ids, dtype=tf.float32) * _BETA_1 + moved * (1.0 - _BETA_1)
    v = tf.raw_ops.ResourceGather(resource=square.handle, indices=ids, dtype=tf.float32) * _BETA_2 + tf.square(moved) * (1.0 - _BETA_2)
    tf.raw_ops.ResourceScatterUpdate(resource=mean.handle, indices=ids, updates=m)
    tf.raw_ops.ResourceScatterUpdate(resource=square.handle, indices=ids, updates=v)
    size = rate * tf.sqrt(1.0 - tf.pow(_BETA_2, count)) / (1.0 - tf.pow(_BETA_1, count))
    change = size * m / (tf.sqrt(v) + _EPSILON)
    _subtract(weight, ids, change, rate * decay if decay else None)


def _adagrad_rows(weight: Any, gradient: Any, slots: Any, rate: Any, count: Any, decay: float) -> None:
    ids, moved = gradient.indices, gradient.values
    squares = tf.raw_ops.ResourceGather(resource=slots[0].handle, indices=ids, dtype=tf.float32)
    squares = squares + tf.reduce_mean(tf.square(moved), axis=1)
    tf.raw_ops.ResourceScatterUpdate(resource=slots[0].handle, indices=ids, updates=squares)
    _subtract(weight, ids, moved * (rate / (tf.sqrt(squares) + _EPSILON))[:, None], rate * decay if decay else None)


def _adagrad_dense(weight: Any, gradient: Any, slots: Any, rate: Any, count: Any, decay: float) -> None:
    slots[0].assign_add(tf.reduce_mean(tf.square(gradient), axis=1))
    weight.assign_sub(weight * (rate * decay) + gradient * (rate / (tf.sqrt(slots[0]) + _EPSILON))[:, None])


def _subtract(weight: Any, ids: Any, change: Any, decay: Any) -> None:
    if decay is not None:
        change = change + decay * tf.raw_ops.ResourceGather(resource=weight.handle, indices=ids, dtype=tf.float32)
    tf.raw_ops.ResourceScatterSub(resource=weight.handle, indices=ids, updates=change)
