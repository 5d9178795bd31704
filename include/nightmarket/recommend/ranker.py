"""The multi-task ranking head over pair features: a ranking score and a probability for each behaviour.

Outputs share a bottom (Caruana 1997), mix experts by a gate each (MMoE, Ma et al. 2018), or mix shared experts with one of their own
(PLE of one level, Tang et al. 2020). The ranking score learns listwise: softmax cross-entropy of the items bought
among all candidates of the list (ListNet, Cao et al. 2007). Each behaviour's logit learns by binary cross-entropy, so that its
sigmoid is a probability. With a shared bottom, several independently initialised members share the input and are averaged: an ensemble at
the price of one pass over the data. With gates, as many experts take their place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nightmarket.learn.inputs import Field
from nightmarket.learn.strategy import tensorflow
from nightmarket.learn.transfer import apart_in_chance, apart_in_order

TASKS = ("view", "cart", "purchase", "return", "next_category")
"""The behaviours, in the order of the logits after the ranking score. The first four are the shopper's towards the candidate itself;
next_category is whether the next purchase day has a product of the candidate's category."""
OUTPUTS = 1 + len(TASKS)
_SHARES = (1.0, 1.0, 1.0, 1.0, 0.1)
"""Of each behaviour in the loss: a category is bought from ten times as often as one of its products, and may not drown these."""
Architecture = Literal["shared_bottom", "mmoe", "ple"]
_CLIP = 6.0  # standard deviations: one wild count must not decide


@dataclass(frozen=True)
class RankerShape:
    """What the network is built from; saved beside its weights."""

    features: int
    list_size: int
    hidden: tuple[int, ...] = (96, 48)
    members: int = 4
    architecture: Architecture = "shared_bottom"
    sampled: int = 0
    """Candidates of each list that a step of learning looks at, drawn anew each time; 0: all of them."""


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
    """keras.Model: features (batch, L, F) float32 -> (batch, L, members, 1 + tasks) float32 logits; one member with gates."""
    tensorflow()
    import keras

    inputs = keras.Input((None, shape.features), name="features")
    x = keras.layers.Normalization(axis=-1, mean=mean, variance=np.square(deviation), name="standardise", dtype="float32")(inputs)
    x = keras.ops.clip(x, -_CLIP, _CLIP)
    shared = _bottom(keras, x, shape, shape.members, "bottom")
    if shape.architecture == "shared_bottom":
        logits = keras.layers.EinsumDense("blmf,mfh->blmh", (None, shape.members, OUTPUTS), bias_axes="mh", dtype="float32", name="heads")(shared)
        return keras.Model(inputs, logits, name="ranker")
    own = shape.architecture == "ple"
    gates = keras.layers.EinsumDense("blf,foe->bloe", (None, OUTPUTS, shape.members + own), bias_axes="oe", activation="softmax", name="gates")(x)
    mixed = keras.ops.einsum("bleh,bloe->bloh", shared, gates[..., : shape.members])
    if own:
        mixed = mixed + _bottom(keras, x, shape, OUTPUTS, "own") * gates[..., shape.members :]
    logits = keras.layers.EinsumDense("bloh,oh->blo", (None, OUTPUTS), bias_axes="o", dtype="float32", name="heads")(mixed)
    return keras.Model(inputs, keras.ops.expand_dims(logits, 2), name="ranker")


def _bottom(keras: Any, x: Any, shape: RankerShape, members: int, name: str) -> Any:
    """(batch, L, members, last width) of (batch, L, F)."""
    equation = "blf,mfh->blmh"
    for n, width in enumerate(shape.hidden):
        x = keras.layers.EinsumDense(
            equation, (None, members, width), bias_axes="mh", activation="gelu", name=f"{name}_{n}", kernel_initializer="he_normal")(x)
        equation = "blmf,mfh->blmh"
    return x


@dataclass(frozen=True)
class RankingTask:
    """learn.loop.Task of the ranking head."""

    shape: RankerShape
    mean: np.ndarray
    deviation: np.ndarray
    behaviour_weight: float = 0.2
    """Of all behaviours' cross-entropies together, against 1 of the listwise loss."""
    seed: int = 17
    name: str = "ranker"

    def build(self) -> Any:
        return build(self.shape, self.mean, self.deviation)

    def losses(self, model: Any, batch: dict[str, Any], step: Any) -> Any:
        """(batch,) listwise loss of purchases (0 for a list without one) plus weighted cross-entropies of present behaviours.

        Of a long list all candidates with a behaviour of their own and a sample of the others are looked at; the others weigh what they stand for
        (importance sampling), in the softmax as in the cross-entropies.
        """
        tf = tensorflow()
        features, labels, listed = batch["features"], batch["labels"], batch["listed"]
        if not 0 < self.shape.sampled < self.shape.list_size:
            return self._losses(tf, model(features, training=True), labels, listed, listed, batch["present"])
        did = tf.reduce_max(labels[..., : TASKS.index("next_category")], axis=2) * listed
        drawn = tf.random.stateless_uniform(tf.shape(listed), tf.stack([tf.constant(self.seed, tf.int64), tf.cast(step, tf.int64)]))
        kept = tf.math.top_k(drawn + did - 2.0 * (1.0 - listed), self.shape.sampled).indices
        others = tf.reduce_sum(listed - did, axis=1)
        features, labels, listed, did = (tf.gather(t, kept, batch_dims=1) for t in (features, labels, listed, did))
        each = tf.math.divide_no_nan(others, tf.reduce_sum(listed - did, axis=1))
        return self._losses(tf, model(features, training=True), labels, listed, did + (listed - did) * each[:, None], batch["present"])

    def valid_losses(self, model: Any, batch: dict[str, Any]) -> Any:
        """The same over whole lists."""
        return self._losses(tensorflow(), model(batch["features"], training=False), batch["labels"], batch["listed"], batch["listed"], batch["present"])

    def _losses(self, tf: Any, logits: Any, labels: Any, listed: Any, weight: Any, present: Any) -> Any:
        """`weight` (batch, L): how many candidates one stands for."""
        logits = tf.cast(logits, tf.float32)
        bought = labels[:, :, TASKS.index("purchase")]
        scores = tf.where(listed[:, :, None] > 0, logits[..., 0] + tf.math.log(tf.maximum(weight, 1e-6))[:, :, None], -1e9)
        share = tf.math.divide_no_nan(bought, tf.reduce_sum(bought, axis=1, keepdims=True))
        listwise = -tf.reduce_mean(tf.reduce_sum(share[:, :, None] * tf.nn.log_softmax(scores, axis=1), axis=1), axis=-1)
        cross = tf.nn.sigmoid_cross_entropy_with_logits(tf.broadcast_to(labels[:, :, None, :], tf.shape(logits[..., 1:])), logits[..., 1:])
        each = tf.reduce_mean(cross, axis=2) * (listed * weight)[:, :, None]
        # a candidate weighs the same whichever list it is in: probabilities must hold over all of them
        behaviours = tf.reduce_sum(each, axis=1) / float(self.shape.list_size)
        return listwise + 20.0 * self.behaviour_weight * tf.reduce_sum(behaviours * present * tf.constant(_SHARES), axis=1)


@dataclass(frozen=True)
class TaughtTask:
    """learn.loop.Task of a student: (1 - share) x its own loss + share x its distance from the teacher's answers (Hinton et al. 2015).

    A batch also has teacher (L, 1 + tasks): logits whose softmax over the list is what the teacher expects to be bought, and those of
    the behaviours. The order is softened by the temperature; the behaviours are not, their sigmoids are to stay probabilities.
    """

    own: RankingTask
    share: float
    temperature: float
    name: str = "student_ranker"

    def build(self) -> Any:
        return self.own.build()

    def losses(self, model: Any, batch: dict[str, Any], step: Any) -> Any:
        return self._losses(model(batch["features"], training=True), batch)

    def valid_losses(self, model: Any, batch: dict[str, Any]) -> Any:
        return self._losses(model(batch["features"], training=False), batch)

    def _losses(self, logits: Any, batch: dict[str, Any]) -> Any:
        tf = tensorflow()
        listed, own = batch["listed"], self.own
        logits = tf.cast(logits, tf.float32)
        mine = own._losses(tf, logits, batch["labels"], listed, listed, batch["present"])
        told = tf.broadcast_to(batch["teacher"][:, :, None, :], tf.shape(logits))
        said, expected = (tf.where(listed[:, :, None] > 0, v[..., 0], -1e9) for v in (logits, told))
        order = tf.reduce_mean(apart_in_order(tf, said, expected, self.temperature), axis=-1)
        apart = apart_in_chance(tf, logits[..., 1:], told[..., 1:])
        behaviours = tf.reduce_sum(tf.reduce_mean(apart, axis=2) * listed[:, :, None], axis=1) / float(own.shape.list_size)
        distance = order + 20.0 * own.behaviour_weight * tf.reduce_sum(behaviours * batch["present"] * tf.constant(_SHARES), axis=1)
        return (1.0 - self.share) * mine + self.share * distance


def scorer(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """A function of features (n, L, F) to (n, L, 1 + tasks) float32: ranking score and logits, averaged over members."""
    tf = tensorflow()

    @tf.function(input_signature=[tf.TensorSpec((None, None, model.input_shape[-1]), tf.float32)])
    def answer(part: Any) -> Any:
        return tf.reduce_mean(tf.cast(model(part, training=False), tf.float32), axis=2)

    traced = answer.get_concrete_function()

    def score(features: np.ndarray, block: int = 256) -> np.ndarray:
        parts = [traced(tf.constant(features[n : n + block])).numpy() for n in range(0, len(features), block)]
        return np.concatenate(parts) if parts else np.zeros((0, features.shape[1], OUTPUTS), np.float32)

    return score
