"""From a trained shop, category or task to another, and from a large network to a small one.

What transfers is how content and behaviour speak, not who an item is: words, prices by quantile and categories are encoded by the
same hash functions everywhere, so weights of the same name and shape mean the same. Four ways are tried beside training from
scratch, and the validation rows of the target decide; where none is better beyond chance, nothing is transferred.

* frozen     what reads the row is kept, towers and heads learn
* gradual    first that, then the experts too, then everything (Howard & Ruder 2018), each at half the rate of before
* full       everything goes on learning from the source's weights
* joint      source and target rows together, the target's weighing as much as the source's

Distillation (Hinton, Vinyals & Dean 2015): a student learns the teacher's answers beside the labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from nightmarket import log as logs
from nightmarket.evaluate.bootstrap import Interval, difference
from nightmarket.learn.inputs import Examples, Field
from nightmarket.learn.loop import Plan, Trainer
from nightmarket.learn.multitask import (
    Fit,
    Network,
    Shape,
    Target,
    Together,
    examples,
    logits_of,
    scales_of,
    task_losses,
)
from nightmarket.learn.strategy import Placement, tensorflow
from nightmarket.learn.tabular import Encoder
from nightmarket.learn.tasks import row_losses

_LOG = logs.logger("learn")
Way = Literal["scratch", "frozen", "gradual", "full", "joint"]
WAYS: tuple[Way, ...] = ("frozen", "gradual", "full", "joint")
_READS = ("piecewise_linear", "number_embedding", "categories_table", "words_table")
_LEARNS = ("tower_", "head_", "log_variances")


@dataclass(frozen=True)
class Data:
    """Rows of one shop: encoded fields, labels (n,) by task with NaN for none, and which rows validate."""

    encoded: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    validation: np.ndarray


@dataclass(frozen=True)
class Transferred:
    """What came of it. Losses are means over tasks on the judging half of the target's validation rows; lower is better."""

    way: Way
    """'scratch' where validation says that nothing of the source helps."""
    network: Network
    losses: dict[str, float]
    gain: Interval
    """Loss from scratch less that of the best other way, paired by row. Above zero: the transfer helps beyond chance."""
    copied: tuple[str, ...]
    """Paths of the weights that were taken over."""


def transfer(
    source: Network, source_data: Data | None, target: Data, encoder: Encoder, targets: Sequence[Target], shape: Shape, how: Fit,
    placement: Placement, ways: Sequence[Way] = WAYS, resamples: int = 400,
) -> Transferred:
    """Tries each way beside 'scratch' and keeps what the target's validation rows say is best.

    `encoder`: of the target, made with the same columns and sizes as the source's. `source_data` (its fields encoded by `encoder`)
    is needed for 'joint' alone. Raises ValueError where nothing of the source fits.
    """
    half = np.cumsum(target.validation) % 2 == 0
    watchers, judges = target.validation & half, target.validation & ~half
    found: dict[Way, tuple[Network, np.ndarray]] = {}
    copied: tuple[str, ...] = ()
    for way in ("scratch", *(w for w in ways if w != "joint" or source_data is not None)):
        network, taken = _train(way, source, source_data, target, watchers, encoder, targets, shape, how, placement)  # type: ignore[arg-type]
        copied = copied or taken
        found[way] = (network, _row_means(network, target, judges, targets))  # type: ignore[index]
    if not copied and any(w in ("frozen", "gradual", "full") for w in ways):
        raise ValueError("no weight of the source has the name and shape of one of the target's; use the same columns, sizes and shape")
    losses = {w: float(values.mean()) for w, (_, values) in found.items()}
    best = min((w for w in found if w != "scratch"), key=lambda w: losses[w])
    gain = difference(found["scratch"][1], found[best][1], resamples, how.seed)
    way = best if gain.low > 0 else "scratch"
    _LOG.info(logs.said("transferred", way=way, best=best, gain=str(gain)))
    return Transferred(way, found[way][0], losses, gain, copied)  # type: ignore[arg-type]


def take_over(model: Any, source: Any) -> tuple[str, ...]:
    """Copies the weights of the same path and shape from `source` to `model` and returns their paths."""
    theirs = {v.path: v for v in source.variables}
    taken = []
    for variable in model.variables:
        other = theirs.get(variable.path)
        if other is not None and tuple(other.shape) == tuple(variable.shape):
            variable.assign(other.numpy())
            taken.append(variable.path)
    return tuple(taken)


def _train(
    way: Way, source: Network, source_data: Data | None, target: Data, watchers: np.ndarray, encoder: Encoder, targets: Sequence[Target],
    shape: Shape, how: Fit, placement: Placement,
) -> tuple[Network, tuple[str, ...]]:
    learners = ~target.validation
    scales = scales_of({k: v[learners] for k, v in target.labels.items()}, targets)
    trainer = Trainer(Together(encoder, tuple(targets), shape), placement, how.batch_size, how.clip_norm, how.seed, how.weight_decay)
    copied = take_over(trainer.model, source.model) if way in ("frozen", "gradual", "full") else ()
    with TemporaryDirectory() as folder:
        def made(name: str, data: Data, rows: np.ndarray, seed: int | None, weight: float = 1.0) -> Examples:
            encoded = {k: v[rows] for k, v in data.encoded.items()}
            if weight != 1.0:
                encoded["weight"] = np.full(int(rows.sum()), weight, np.float32)
            return examples(Path(folder), name, encoder, encoded, {k: v[rows] for k, v in data.labels.items()}, targets, scales,
                            how.batch_size, seed)

        train, valid = made("train", target, learners, how.seed), made("valid", target, watchers, None)
        if way == "joint":
            assert source_data is not None
            theirs = ~source_data.validation
            more = made("source", source_data, theirs, how.seed, learners.sum() / max(theirs.sum(), 1))
            train = replace(train, files=(*train.files, *more.files))
        history: list[dict[str, float]] = []
        for frozen, rate in _stages(way, trainer.model, how.learning_rate):
            trainer.freeze(frozen)
            history += trainer.fit(train, valid, Plan(how.epochs, rate, how.patience))
        trainer.freeze(())
    return Network(trainer.model, encoder, tuple(targets), scales, history), copied


def _stages(way: Way, model: Any, rate: float) -> list[tuple[list[str], float]]:
    """(paths that stay as they are, learning rate) of each stage."""
    paths = [v.path for v in model.trainable_variables]
    body = [p for p in paths if not any(part in p for part in _LEARNS)]
    reads = [p for p in paths if any(part in p for part in _READS)]
    if way == "frozen":
        return [(body, rate)]
    if way == "gradual":
        return [(body, rate), (reads, rate / 2), ([], rate / 4)]
    return [([], rate / 2 if way == "full" else rate)]


def _row_means(network: Network, data: Data, rows: np.ndarray, targets: Sequence[Target]) -> np.ndarray:
    """(rows,) mean over tasks of each row's loss; numbers in units of their standard deviation."""
    said = network.predict({k: v[rows] for k, v in data.encoded.items()})
    each = []
    for t in targets:
        unit = network.scales[t.name][1] ** 2 if t.kind == "number" else 1.0
        each.append(row_losses(t, said[t.name], np.asarray(data.labels[t.name], np.float64)[rows]) / unit)
    wide = np.stack(each, axis=1)
    known = np.isfinite(wide)
    return np.where(known, wide, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)


# --- from a large network to a small one ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Taught:
    """learn.loop.Task of a student: (1 - share) x its labels' loss + share x T² x distance from the teacher's answers at T."""

    student: Together
    share: float
    temperature: float
    name: str = "student"

    def build(self) -> Any:
        return self.student.build()

    def losses(self, model: Any, batch: dict[str, Any], step: Any) -> Any:
        return self._losses(model, batch, training=True)

    def valid_losses(self, model: Any, batch: dict[str, Any]) -> Any:
        return self._losses(model, batch, training=False)

    def _losses(self, model: Any, batch: dict[str, Any], training: bool) -> Any:
        tf = tensorflow()
        logits = tf.cast(model({f.name: batch[f.name] for f in self.student.encoder.fields()}, training=training), tf.float32)
        own = tf.add_n(task_losses(tf, logits, batch["labels"], batch["labelled"], self.student.targets))
        return (1.0 - self.share) * own + self.share * distance(tf, logits, batch["teacher"], self.student.targets, self.temperature)


def distance(tf: Any, logits: Any, teacher: Any, targets: Sequence[Target], temperature: float) -> Any:
    """(batch,) T² x cross-entropy of the softened answers, less the teacher's own entropy; half the squared error for numbers."""
    out, start = [], 0
    for t in targets:
        part, told = logits[:, start : start + t.width], teacher[:, start : start + t.width]
        start += t.width
        if t.kind == "number":
            out.append(0.5 * tf.square(part[:, 0] - told[:, 0]))
        elif t.kind == "binary":
            out.append(apart_in_chance(tf, part[:, 0], told[:, 0], temperature))
        else:
            out.append(apart_in_order(tf, part, told, temperature))
    return tf.add_n(out)


def apart_in_order(tf: Any, logits: Any, teacher: Any, temperature: float, axis: int = 1) -> Any:
    """T² x Kullback-Leibler divergence of the student's softmax over `axis` at temperature T from the teacher's; without that axis."""
    said, told = (tf.nn.log_softmax(v / temperature, axis=axis) for v in (logits, teacher))
    return temperature**2 * tf.reduce_sum(tf.exp(told) * (told - said), axis=axis)


def apart_in_chance(tf: Any, logits: Any, teacher: Any, temperature: float = 1.0) -> Any:
    """The same of each sigmoid, of the shape of `logits`."""
    soft = tf.sigmoid(teacher / temperature)
    cross, own = (tf.nn.sigmoid_cross_entropy_with_logits(soft, v / temperature) for v in (logits, teacher))
    return temperature**2 * (cross - own)


def distil(
    teachers: Sequence[Network], data: Data, targets: Sequence[Target], shape: Shape, how: Fit, placement: Placement, share: float = 0.7,
    temperature: float = 2.0,
) -> Network:
    """A student of `shape` that learns the mean answer of the teachers (one encoder, the same targets) beside the labels."""
    encoder = teachers[0].encoder
    half = np.cumsum(data.validation) % 2 == 0
    told = np.mean([logits_of(t.model, data.encoded) for t in teachers], axis=0)
    scales = teachers[0].scales
    task = Taught(Together(encoder, tuple(targets), shape), share, temperature)
    trainer = Trainer(task, placement, how.batch_size, how.clip_norm, how.seed, how.weight_decay)
    with TemporaryDirectory() as folder:
        sets = []
        for name, rows, seed in (("train", ~data.validation, how.seed), ("valid", data.validation & half, None)):
            plain = examples(Path(folder), name, encoder, {**{k: v[rows] for k, v in data.encoded.items()}, "teacher": told[rows]},
                             {k: v[rows] for k, v in data.labels.items()}, targets, scales, how.batch_size, seed)
            sets.append(replace(plain, fields=(*plain.fields, Field("teacher", "float32", (told.shape[1],)))))
        history = trainer.fit(sets[0], sets[1], Plan(how.epochs, how.learning_rate, how.patience))
    return Network(trainer.model, encoder, tuple(targets), dict(scales), history)
