"""Several tasks learnt together: shared bottom, MMoE or PLE, a funnel over the entire space, weights that are learnt.

* shared bottom (Caruana 1997): one network, a small tower a task;
* MMoE (Ma et al. 2018): several expert networks, each task mixes them by a softmax gate over the input;
* PLE (Tang et al. 2020): experts that all tasks share and experts of each task's own, in levels; a task's gate sees the shared ones
  and its own.

A funnel (ESMM, Ma et al. 2018): a task that comes `after` another learns its probability given the earlier one, and its loss is
taken on the product of both, over all rows: nothing is learnt on the selected few who got that far alone. Task weights are learnt
as homoscedastic uncertainty (Kendall, Gal & Cipolla 2018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from nightmarket.learn.inputs import Examples, Field, write_examples
from nightmarket.learn.loop import Plan, Trainer
from nightmarket.learn.strategy import Placement, tensorflow
from nightmarket.learn.tabular import Encoder, input_layers

Kind = Literal["binary", "number", "classes"]
Architecture = Literal["shared_bottom", "mmoe", "ple"]
LOG_VARIANCES = "log_variances"
"""Name of the layer whose weight (tasks,) is the logarithm of each task's variance."""


@dataclass(frozen=True)
class Target:
    """One task. Labels: 0 or 1, a number, or a class 0 … classes - 1; NaN where a row has none."""

    name: str
    kind: Kind = "binary"
    after: str | None = None
    """An earlier binary task without which this one cannot happen."""
    classes: int = 2

    @property
    def width(self) -> int:
        return self.classes if self.kind == "classes" else 1


@dataclass(frozen=True)
class Shape:
    """What the network is built from."""

    architecture: Architecture = "mmoe"
    dim: int = 8
    hidden: tuple[int, ...] = (128, 64)
    """Widths of an expert (or the shared bottom)."""
    tower: int = 32
    experts: int = 4
    """Of MMoE; of PLE, the shared ones, with half as many a task."""
    levels: int = 2
    """Of PLE."""
    dropout: float = 0.2


@dataclass(frozen=True)
class Fit:
    """How it is trained."""

    epochs: int = 40
    batch_size: int = 256
    learning_rate: float = 1e-3
    patience: int = 4
    weight_decay: float = 1e-2
    clip_norm: float = 5.0
    seed: int = 17


def check(targets: Sequence[Target]) -> None:
    """Raises ValueError for tasks that do not fit each other, naming them."""
    names = [t.name for t in targets]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"task {', '.join(twice)} is there twice; rename one")
    for n, target in enumerate(targets):
        if target.after is not None:
            if target.after not in names[:n]:
                raise ValueError(f"task {target.name} comes after {target.after!r}, which is not an earlier task; list that first")
            if target.kind != "binary" or targets[names.index(target.after)].kind != "binary":
                raise ValueError(f"task {target.name} after {target.after}: a funnel is of binary tasks")


def build(encoder: Encoder, targets: Sequence[Target], shape: Shape) -> Any:
    """keras.Model: the encoder's fields -> (batch, sum of widths) float32 logits, tasks side by side in their order."""
    from nightmarket.learn.layers import TaskWeights, keras

    inputs, row = input_layers(encoder, shape.dim)
    row = keras.layers.Dropout(shape.dropout, name="row_dropout", seed=1)(row)
    seen = _bodies(keras, row, len(targets), shape)
    heads = []
    for target, body in zip(targets, seen, strict=True):
        x = keras.layers.Dense(shape.tower, activation="relu", name=f"tower_{target.name}")(body)
        heads.append(keras.layers.Dense(target.width, dtype="float32", name=f"head_{target.name}")(x))
    logits = heads[0] if len(heads) == 1 else keras.layers.Concatenate(name="logits", dtype="float32")(heads)
    return keras.Model(inputs, TaskWeights(len(targets), name=LOG_VARIANCES, dtype="float32")(logits), name="tasks")


def _bodies(keras: Any, row: Any, tasks: int, shape: Shape) -> list[Any]:
    """What each task's tower reads: (batch, width) a task."""
    if shape.architecture == "shared_bottom":
        x = row
        for n, width in enumerate(shape.hidden):
            x = keras.layers.Dense(width, activation="relu", kernel_initializer="he_normal", name=f"bottom_{n}")(x)
            x = keras.layers.Dropout(shape.dropout, name=f"bottom_dropout_{n}", seed=2 + n)(x)
        return [x] * tasks
    if shape.architecture == "mmoe":
        experts = _experts(keras, row, shape.experts, shape, "expert")
        return [_mixed(keras, experts, _gate(keras, row, shape.experts, f"gate_{t}"), f"mix_{t}") for t in range(tasks)]
    shared, own = row, [row] * tasks
    for level in range(shape.levels):
        few = max(1, shape.experts // 2)
        common = _experts(keras, shared, shape.experts, shape, f"level{level}_shared")
        each = [_experts(keras, own[t], few, shape, f"level{level}_task{t}") for t in range(tasks)]
        own = [
            _mixed(keras, keras.layers.Concatenate(axis=1, name=f"level{level}_seen{t}")([common, each[t]]),
                   _gate(keras, own[t], shape.experts + few, f"level{level}_gate{t}"), f"level{level}_mix{t}")
            for t in range(tasks)]
        if level < shape.levels - 1:
            everything = keras.layers.Concatenate(axis=1, name=f"level{level}_seen")([common, *each])
            shared = _mixed(keras, everything, _gate(keras, shared, shape.experts + few * tasks, f"level{level}_gate"), f"level{level}_mix")
    return own


def _experts(keras: Any, row: Any, count: int, shape: Shape, name: str) -> Any:
    """(batch, count, hidden[-1])."""
    x, equation = row, "bf,efh->beh"
    for n, width in enumerate(shape.hidden):
        x = keras.layers.EinsumDense(equation, (count, width), bias_axes="eh", activation="relu", kernel_initializer="he_normal",
                                     name=f"{name}_{n}")(x)
        x = keras.layers.Dropout(shape.dropout, name=f"{name}_dropout_{n}", seed=2 + n)(x)
        equation = "bef,efh->beh"
    return x


def _gate(keras: Any, row: Any, experts: int, name: str) -> Any:
    """(batch, experts) that sum to 1."""
    return keras.layers.Dense(experts, activation="softmax", name=name)(row)


def _mixed(keras: Any, experts: Any, gate: Any, name: str) -> Any:
    """(batch, width): experts (batch, E, width) weighted by gate (batch, E)."""
    return keras.layers.Dot(axes=1, name=name)([gate, experts])


def probabilities(logits: np.ndarray, targets: Sequence[Target], scales: Mapping[str, tuple[float, float]]) -> dict[str, np.ndarray]:
    """What is said by task: binary (n,) probability over all rows (a funnel's product), number (n,), classes (n, C)."""
    out: dict[str, np.ndarray] = {}
    start = 0
    for target in targets:
        part = logits[:, start : start + target.width].astype(np.float64)
        start += target.width
        if target.kind == "binary":
            out[target.name] = 1.0 / (1.0 + np.exp(-part[:, 0]))
            if target.after is not None:
                out[target.name] = out[target.name] * out[target.after]
        elif target.kind == "number":
            mean, deviation = scales[target.name]
            out[target.name] = part[:, 0] * deviation + mean
        else:
            part = np.exp(part - part.max(axis=1, keepdims=True))
            out[target.name] = part / part.sum(axis=1, keepdims=True)
    return out


def task_losses(tf: Any, logits: Any, labels: Any, labelled: Any, targets: Sequence[Target]) -> list[Any]:
    """(batch,) loss of each task: cross-entropy (of the funnel's product), or half the squared error; 0 where unlabelled."""
    losses, start = [], 0
    log_chance: dict[str, Any] = {}
    for n, target in enumerate(targets):
        part, label = logits[:, start : start + target.width], labels[:, n]
        start += target.width
        if target.kind == "binary":
            said = tf.math.log_sigmoid(part[:, 0])
            if target.after is None:
                each = tf.nn.sigmoid_cross_entropy_with_logits(label, part[:, 0])
            else:
                said = said + log_chance[target.after]
                # log(1 - p) from log p; p is kept a little below 1
                each = -(label * said + (1.0 - label) * tf.math.log(-tf.math.expm1(tf.minimum(said, -1e-6))))
            log_chance[target.name] = said
        elif target.kind == "number":
            each = 0.5 * tf.square(part[:, 0] - label)
        else:
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(label, tf.int32), part)
        losses.append(each * labelled[:, n])
    return losses


def weighted(tf: Any, losses: Sequence[Any], log_variances: Any) -> Any:
    """(batch,) sum over tasks of loss x exp(-s) + s / 2, with s = log of the task's variance (Kendall et al. 2018, eq. 7 and 10)."""
    return tf.add_n([loss * tf.exp(-log_variances[n]) + 0.5 * log_variances[n] for n, loss in enumerate(losses)])


@dataclass(frozen=True)
class Together:
    """learn.loop.Task of one network for all targets."""

    encoder: Encoder
    targets: tuple[Target, ...]
    shape: Shape
    name: str = "tasks"

    def build(self) -> Any:
        return build(self.encoder, self.targets, self.shape)

    def losses(self, model: Any, batch: dict[str, Any], step: Any) -> Any:
        return self._losses(model, batch, training=True)

    def valid_losses(self, model: Any, batch: dict[str, Any]) -> Any:
        return self._losses(model, batch, training=False)

    def _losses(self, model: Any, batch: dict[str, Any], training: bool) -> Any:
        tf = tensorflow()
        logits = tf.cast(model({f.name: batch[f.name] for f in self.encoder.fields()}, training=training), tf.float32)
        each = task_losses(tf, logits, batch["labels"], batch["labelled"], self.targets)
        if len(self.targets) == 1:
            return each[0]
        return weighted(tf, each, tf.convert_to_tensor(model.get_layer(LOG_VARIANCES).log_variances))


@dataclass(frozen=True)
class Network:
    """A trained network with what turns rows into answers."""

    model: Any
    encoder: Encoder
    targets: tuple[Target, ...]
    scales: dict[str, tuple[float, float]]
    history: list[dict[str, float]]

    @property
    def task_weights(self) -> dict[str, float]:
        """exp(-s) of each task: how much its loss counts; 1 for a single one."""
        if len(self.targets) == 1:
            return {self.targets[0].name: 1.0}
        return dict(zip((t.name for t in self.targets), np.exp(-self.model.get_layer(LOG_VARIANCES).log_variances.numpy()).tolist(), strict=True))

    def predict(self, encoded: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return probabilities(logits_of(self.model, encoded), self.targets, self.scales)


def logits_of(model: Any, encoded: Mapping[str, np.ndarray], block: int = 4096) -> np.ndarray:
    """(n, sum of widths) float32."""
    tf = tensorflow()
    answer = tf.function(lambda part: model(part, training=False), reduce_retracing=True)
    rows = len(next(iter(encoded.values())))
    return np.concatenate([
        np.asarray(answer({k: tf.constant(v[n : n + block]) for k, v in encoded.items()})) for n in range(0, rows, block)])


def scales_of(labels: Mapping[str, np.ndarray], targets: Sequence[Target]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the numbers among the labels."""
    out = {}
    for target in targets:
        if target.kind == "number":
            values = labels[target.name][np.isfinite(labels[target.name])]
            out[target.name] = (float(values.mean()), float(values.std()) or 1.0)
    return out


def examples(
    folder: Path, name: str, encoder: Encoder, encoded: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], targets: Sequence[Target],
    scales: Mapping[str, tuple[float, float]], batch_size: int, seed: int | None,
) -> Examples:
    """Writes encoded rows and labels as Parquet and returns them as training examples."""
    columns = []
    for target in targets:
        mean, deviation = scales.get(target.name, (0.0, 1.0))
        columns.append((labels[target.name].astype(np.float64) - mean) / deviation)
    wide = np.stack(columns, axis=1).astype(np.float32)
    labelled = np.isfinite(wide)
    file = write_examples(folder, name, {**encoded, "labels": np.where(labelled, wide, 0.0), "labelled": labelled.astype(np.float32)}, 4096)
    fields = (*encoder.fields(), Field("labels", "float32", (len(targets),)), Field("labelled", "float32", (len(targets),)))
    return Examples((file,), fields, batch_size, 65_536, seed)


def learn(
    encoder: Encoder, encoded: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], targets: Sequence[Target], learners: np.ndarray,
    watchers: np.ndarray, shape: Shape, how: Fit, placement: Placement,
) -> Network:
    """Trains one network on the rows of mask `learners` (n,), stopped early by those of `watchers`."""
    check(targets)
    scales = scales_of({k: v[learners] for k, v in labels.items()}, targets)
    task = Together(encoder, tuple(targets), shape)
    trainer = Trainer(task, placement, how.batch_size, how.clip_norm, how.seed, how.weight_decay)
    with TemporaryDirectory() as folder:
        sets = [
            examples(Path(folder), name, encoder, {k: v[mask] for k, v in encoded.items()}, {k: v[mask] for k, v in labels.items()},
                     targets, scales, how.batch_size, seed)
            for name, mask, seed in (("train", learners, how.seed), ("valid", watchers, None))]
        history = trainer.fit(sets[0], sets[1], Plan(how.epochs, how.learning_rate, how.patience))
    return Network(trainer.model, encoder, tuple(targets), scales, history)
