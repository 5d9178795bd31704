"""The multi-task ranking head: one shared bottom over pair features, a ranking score and a probability for each behaviour.

Shared-bottom multi-task learning (Caruana 1997). The ranking score learns listwise: softmax cross-entropy of the items bought
among all candidates of the list (ListNet, Cao et al. 2007). Each behaviour's logit learns by binary cross-entropy, so that its
sigmoid is a probability. Several independently initialised members share the input and are averaged: an ensemble at the price
of one pass over the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nightmarket.learn.inputs import Field
from nightmarket.learn.strategy import tensorflow

TASKS = ("view", "cart", "purchase")
"""The behaviours, in the order of the logits after the ranking score."""
OUTPUTS = 1 + len(TASKS)
_CLIP = 6.0  # standard deviations: one wild count must not decide


@dataclass(frozen=True)
class RankerShape:
    """What the network is built from; saved beside its weights."""

    features: int
    list_size: int
    hidden: tuple[int, ...] = (96, 48)
    members: int = 4


def input_fields(shape: RankerShape) -> tuple[Field, ...]:
    """The examples of training: one row a shopper's list.

    features (L, F); labels (L, tasks) 0 or 1; listed (L,) 1 for a candidate, 0 for padding; present (tasks,) 1 where the shop tells
    of the behaviour at all.
    """
    length = shape.list_size
    return (
        Field("features", "float32", (length, shape.features)), Field("labels", "float32", (length, len(TASKS))),
        Field("listed", "float32", (length,)), Field("present", "float32", (len(TASKS),)),
    )


def build(shape: RankerShape, mean: np.ndarray, deviation: np.ndarray) -> Any:
    """keras.Model: features (batch, L, F) float32 -> (batch, L, members, 1 + tasks) float32 logits."""
    tensorflow()
    import keras

    inputs = keras.Input((None, shape.features), name="features")
    x = keras.layers.Normalization(axis=-1, mean=mean, variance=np.square(deviation), name="standardise", dtype="float32")(inputs)
    x = keras.ops.clip(x, -_CLIP, _CLIP)
    equation = "blf,mfh->blmh"
    for n, width in enumerate(shape.hidden):
        x = keras.layers.EinsumDense(
            equation, (None, shape.members, width), bias_axes="mh", activation="gelu", name=f"bottom_{n}",
            kernel_initializer="he_normal",
        )(x)
        equation = "blmf,mfh->blmh"
    logits = keras.layers.EinsumDense(equation, (None, shape.members, OUTPUTS), bias_axes="mh", dtype="float32", name="heads")(x)
    return keras.Model(inputs, logits, name="ranker")


@dataclass(frozen=True)
class RankingTask:
    """learn.loop.Task of the ranking head."""

    shape: RankerShape
    mean: np.ndarray
    deviation: np.ndarray
    behaviour_weight: float = 0.2
    """Of all behaviours' cross-entropies together, against 1 of the listwise loss."""
    name: str = "ranker"

    def build(self) -> Any:
        return build(self.shape, self.mean, self.deviation)

    def losses(self, model: Any, batch: dict[str, Any], step: Any) -> Any:
        """(batch,) listwise loss of purchases (0 for a list without one) plus weighted cross-entropies of present behaviours."""
        tf = tensorflow()
        logits = tf.cast(model(batch["features"], training=True), tf.float32)
        listed = batch["listed"][:, :, None]
        bought = batch["labels"][:, :, TASKS.index("purchase")]
        scores = tf.where(listed > 0, logits[..., 0], -1e9)
        share = tf.math.divide_no_nan(bought, tf.reduce_sum(bought, axis=1, keepdims=True))
        listwise = -tf.reduce_mean(tf.reduce_sum(share[:, :, None] * tf.nn.log_softmax(scores, axis=1), axis=1), axis=-1)
        labels = tf.broadcast_to(batch["labels"][:, :, None, :], tf.shape(logits[..., 1:]))
        cross = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits[..., 1:])
        each = tf.reduce_mean(cross, axis=2) * listed
        # a candidate weighs the same whichever list it is in: probabilities must hold over all of them
        behaviours = tf.reduce_sum(each, axis=1) / float(self.shape.list_size)
        present = batch["present"]
        return listwise + 20.0 * self.behaviour_weight * tf.reduce_sum(behaviours * present, axis=1)


def scorer(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """A function of features (n, L, F) to (n, L, 1 + tasks) float32: ranking score and logits, averaged over members."""
    tf = tensorflow()

    @tf.function(input_signature=[tf.TensorSpec((None, None, model.input_shape[-1]), tf.float32)])
    def answer(part: Any) -> Any:
        return tf.reduce_mean(tf.cast(model(part, training=False), tf.float32), axis=2)

    def score(features: np.ndarray, block: int = 256) -> np.ndarray:
        parts = [answer(tf.constant(features[n : n + block])).numpy() for n in range(0, len(features), block)]
        return np.concatenate(parts) if parts else np.zeros((0, features.shape[1], OUTPUTS), np.float32)

    return score
