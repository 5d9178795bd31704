"""The training loop: a task says what to learn on one replica, this says how long, how fast, and how to survive a kill.

Gradients are summed over replicas, then clipped by their global norm, so the update is the same on one replica or many. Several
steps run within one call of the compiled graph, which takes its batches itself. After
epochs (and every `checkpoint_steps` within one) all that the next step depends on is written to `folder` and moved into
place by one rename; a run started again after SIGKILL continues there and ends with the same weights, bit by bit.
"""

from __future__ import annotations

import json
import math
import os
import time
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from nightmarket import log as logs
from nightmarket.learn.inputs import WEIGHT, Examples
from nightmarket.learn.strategy import Placement, tensorflow

_LOG = logs.logger("learn")
_FLOAT16_SCALE = 2.0**12
_GROW_AFTER = 1000  # finite float16 steps before the loss scale doubles
_SAVE_SECONDS = 5.0  # of epochs that are over sooner, not each is worth a checkpoint
_STEPS_A_CALL = 16  # of the compiled graph: what Python costs is shared by them


class Diverged(RuntimeError):
    """The loss is not a number. The message says at which step, and what to change."""


class Task(Protocol):
    """What is learnt, as one replica sees it; knows nothing of strategies."""

    @property
    def name(self) -> str: ...

    def build(self) -> Any:
        """The keras.Model, built. Called under the strategy and the dtype policy."""

    def losses(self, model: Any, batch: dict[str, Any], step: Any) -> Any:
        """(batch,) float32 loss of each example, unweighted. `step` is the global step, for seeded sampling.

        A task whose network behaves otherwise while it learns (dropout) also has `valid_losses(model, batch)`, for validation.
        """


@dataclass(frozen=True)
class Plan:
    """How to train."""

    epochs: int
    learning_rate: float
    patience: int
    """Epochs without improvement before stopping; looks at validation where there is one, else runs all epochs."""
    warmup_steps: int = 0
    """With it the rate falls as a cosine afterwards; without, it is constant."""
    checkpoint_steps: int = 0
    """Also within epochs, every so many steps; 0: only between epochs."""
    minimum_improvement: float = 1e-4


@dataclass
class Progress:
    """What a checkpoint remembers beside the weights."""

    epoch: int = 0
    step: int = 0
    """Batches of this epoch already learnt from."""
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    best: float = math.inf
    best_epoch: int = -1
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """A task on a placement: model, optimiser and compiled steps, made once and used for one fit or several in a row."""

    def __init__(
        self, task: Task, placement: Placement, batch_size: int, clip_norm: float, seed: int, weight_decay: float = 0.0, *,
        rows: Literal["adam", "adagrad"] = "adam", accumulate: int = 1, xla: bool = False,
    ):
        """`rows`: how tables are updated (`learn.optimizer`). `accumulate`: each step's batch is worked through in so many parts
        one after another, whose gradients are summed, for batches that memory would not hold at once. `xla`: losses and gradients
        are compiled by XLA; a task whose tensors change their shape from step to step cannot be.

        Raises ValueError for a global batch that replicas and parts cannot share equally.
        """
        self.tf = tensorflow()
        import keras

        from nightmarket.learn.optimizer import AdamW

        if batch_size % placement.replicas:
            raise ValueError(f"batch_size {batch_size} cannot be shared by {placement.replicas} replicas; use a multiple")
        if batch_size // placement.replicas % accumulate:
            raise ValueError(f"a replica's batch of {batch_size // placement.replicas} has no {accumulate} equal parts; use a multiple")
        self.task, self.placement, self.batch_size, self.clip_norm = task, placement, batch_size, clip_norm
        self._accumulate, self._xla = accumulate, xla
        self._half = placement.precision == "mixed_float16"
        keras.utils.set_random_seed(seed)
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(placement.precision)
        try:
            with placement.strategy.scope():
                self.model = task.build()
                self._learnt = list(self.model.trainable_variables)
                self._optimizer = AdamW(self._learnt, weight_decay, rows)
                self._scale = self.tf.Variable(_FLOAT16_SCALE if self._half else 1.0, trainable=False)
                self._good = self.tf.Variable(0, trainable=False, dtype=self.tf.int64)
        finally:
            keras.config.set_dtype_policy(policy)
        self._frozen: frozenset[str] = frozenset()
        self._compile()

    def _compile(self) -> None:
        tf = self.tf
        self._train_steps = tf.function(self._train_some, reduce_retracing=True)
        self._valid_steps = tf.function(self._valid_some, reduce_retracing=True)
        self._gradients = tf.function(self._plain_gradients, jit_compile=True) if self._xla else self._plain_gradients

    def freeze(self, paths: Iterable[str]) -> None:
        """From now on the weights with these paths stay as they are; all others learn. Raises ValueError for an unknown path."""
        wanted = frozenset(paths)
        unknown = wanted - {v.path for v in self._learnt}
        if unknown:
            raise ValueError(f"{self.task.name}: no weight {', '.join(sorted(unknown))} to freeze")
        if wanted != self._frozen:
            self._frozen = wanted
            self._compile()

    @property
    def _variables(self) -> list[Any]:
        """All that the next step depends on."""
        return [*self.model.variables, *self._optimizer.variables, self._scale, self._good]

    def fit(self, train: Examples, valid: Examples | None, plan: Plan, folder: Path | None = None) -> list[dict[str, float]]:
        """Trains from the weights at hand, leaves the best ones in `model`, and returns the epochs' losses.

        `folder` keeps checkpoints; the same call with the same folder continues, or returns at once where it had finished.
        Raises Diverged for a loss or gradient that is not finite.
        """
        state = Progress()
        best = [v.numpy() for v in self.model.variables]
        if folder is not None and (found := _restore(folder, plan)) is not None:
            state, values, best = found
            for variable, value in zip(self._variables, values, strict=True):
                variable.assign(value)
            _LOG.info(logs.said("resumed", task=self.task.name, epoch=state.epoch, step=state.step))
        weight = _weight(train)
        saved = time.monotonic()
        # one data set for all epochs: what making one costs is paid once
        batches = iter(self._distributed(train, state.epoch, state.step, plan.epochs - state.epoch)) if not state.finished and state.epoch < plan.epochs else None
        while not state.finished and state.epoch < plan.epochs:
            while (count := _steps_until(train.steps, state.step, plan.checkpoint_steps if folder is not None else 0)) > 0:
                first = state.epoch * train.steps + state.step
                # always of one length: another would be another graph to trace
                rates = np.zeros(_STEPS_A_CALL, np.float32)
                rates[:count] = [_rate(plan, train.steps, first + n) for n in range(count)]
                answered = self._train_steps(batches, self.tf.constant(rates), self.tf.constant(count))
                for loss, finite in zip(*(v.numpy().tolist() for v in answered), strict=True):
                    if not math.isfinite(loss) or (not self._half and not finite):
                        raise Diverged(
                            f"{self.task.name}: the {'gradient' if math.isfinite(loss) else 'loss'} is not a number at epoch "
                            f"{state.epoch + 1}, step {state.step + 1}; lower model.learning_rate ({plan.learning_rate:g}) or "
                            f"model.clip_norm ({self.clip_norm:g}), or use model.precision: float32"
                        )
                    state.loss_sum += loss
                    state.step += 1
                if folder is not None and plan.checkpoint_steps and state.step % plan.checkpoint_steps == 0:
                    _save(folder, plan, state, self._variables, best)
            line = {"loss": state.loss_sum / weight}
            watch = -float(state.epoch)  # without validation every epoch counts as better
            if valid is not None:
                watch = self.evaluate(valid)
                line["valid_loss"] = watch
            state.history.append(line)
            if watch < state.best - plan.minimum_improvement:
                state.best, state.best_epoch = watch, state.epoch
                best = [v.numpy() for v in self.model.variables]
            state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
            state.finished = state.epoch >= plan.epochs or state.epoch - 1 - state.best_epoch >= plan.patience
            _LOG.info(logs.said("epoch", task=self.task.name, epoch=state.epoch, of=plan.epochs, **line))
            if folder is not None and (state.finished or time.monotonic() - saved >= _SAVE_SECONDS):
                _save(folder, plan, state, self._variables, best)
                saved = time.monotonic()
        for variable, value in zip(self.model.variables, best, strict=True):
            variable.assign(value)
        return state.history

    def evaluate(self, examples: Examples) -> float:
        """Mean loss over the examples, by their weights."""
        batches, total = iter(self._distributed(examples, 0)), 0.0
        for first in range(0, examples.steps, _STEPS_A_CALL):
            count = min(_STEPS_A_CALL, examples.steps - first)
            total += sum(self._valid_steps(batches, self.tf.constant(count)).numpy().tolist())
        return total / _weight(examples)

    def _distributed(self, examples: Examples, epoch: int, skip: int = 0, epochs: int = 1) -> Any:
        return self.shared(examples.dataset(self.tf, epoch, skip, epochs))

    def shared(self, batches: Any) -> Any:
        """A tf.data.Dataset of global batches as each replica gets its share of them."""
        alone = self.placement.replicas == 1  # then a batch is its own share, and need not be cut
        return batches if alone else self.placement.strategy.experimental_distribute_dataset(batches)

    def _train_some(self, batches: Any, rates: Any, count: Any) -> tuple[Any, Any]:
        """Steps on the next `count` batches at the first of `rates`; their summed losses (count,) and whether each was finite (count,)."""
        tf = self.tf
        losses, fine = tf.TensorArray(tf.float32, count), tf.TensorArray(tf.bool, count)
        for n in tf.range(count):
            loss, finite = self._train(next(batches), rates[n])
            losses, fine = losses.write(n, loss), fine.write(n, finite)
        return losses.stack(), fine.stack()

    def _valid_some(self, batches: Any, count: Any) -> Any:
        tf = self.tf
        losses = tf.TensorArray(tf.float32, count)
        for n in tf.range(count):
            losses = losses.write(n, self._valid(next(batches)))
        return losses.stack()

    def _train(self, batch: dict[str, Any], rate: Any) -> tuple[Any, Any]:
        tf, strategy = self.tf, self.placement.strategy
        losses, finite = strategy.run(self._replica_step, args=(batch, rate))
        total = strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)
        all_finite = strategy.reduce(tf.distribute.ReduceOp.SUM, finite, axis=None) > 0.5
        if self._half:
            good = tf.where(all_finite, self._good + 1, 0)
            grown = tf.where(good >= _GROW_AFTER, self._scale * 2.0, self._scale)
            self._scale.assign(tf.where(all_finite, grown, tf.maximum(1.0, self._scale / 2.0)))
            self._good.assign(tf.where(good >= _GROW_AFTER, tf.zeros_like(good), good))
        return total, all_finite

    def _plain_gradients(self, batch: dict[str, Any], step: Any, scale: Any) -> tuple[Any, list[Any]]:
        """(sum of weighted losses, gradients of what learns) of a part of the batch; a table's gradient stays IndexedSlices."""
        tf = self.tf
        from nightmarket.learn.optimizer import is_table

        with tf.GradientTape() as tape:
            each = tf.cast(self.task.losses(self.model, batch, step), tf.float32) * batch[WEIGHT]
            loss = tf.reduce_sum(each)
            scaled = loss / float(self.batch_size) * scale
        learning = [v for v in self._learnt if v.path not in self._frozen]
        found = tape.gradient(scaled, [v.value for v in learning])
        gradients = []
        for variable, gradient in zip(learning, found, strict=True):
            if gradient is None:
                gradient = tf.zeros(variable.shape, variable.dtype)
            if not (is_table(variable) and isinstance(gradient, tf.IndexedSlices)):
                gradient = tf.convert_to_tensor(gradient)
            gradients.append(gradient)
        return loss, gradients

    def _accumulated(self, batch: dict[str, Any], step: Any, scale: Any) -> tuple[Any, list[Any]]:
        """The same, the batch in `accumulate` parts one after another."""
        tf, parts = self.tf, self._accumulate
        if parts == 1:
            return self._gradients(batch, step, scale)
        total: Any = None
        summed: list[Any] = []
        for n in range(parts):
            waits = [] if total is None else [g.values if isinstance(g, tf.IndexedSlices) else g for g in summed]
            with tf.control_dependencies(waits):  # or all parts would be worked on, and kept in memory, at once
                part = {k: tf.identity(_part(v, n, parts)) for k, v in batch.items()}
            loss, found = self._gradients(part, step, scale)
            total = loss if total is None else total + loss
            summed = found if not summed else [_plus(tf, a, b) for a, b in zip(summed, found, strict=True)]
        return total, summed

    def _replica_step(self, batch: dict[str, Any], rate: Any) -> tuple[Any, Any]:
        """One replica's share of a step: (sum of weighted losses, its share of 'the update was finite')."""
        tf, replicas = self.tf, self.placement.replicas
        loss, gradients = self._accumulated(batch, tf.convert_to_tensor(self._optimizer.step), tf.convert_to_tensor(self._scale))
        gradients = [_each_row_once(tf, g) for g in gradients]
        if replicas > 1:
            gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            gradients = [_each_row_once(tf, g) for g in gradients]
        norm = tf.linalg.global_norm(gradients) / self._scale
        finite = tf.math.is_finite(norm)
        factor = tf.where(finite, tf.minimum(1.0, self.clip_norm / (norm + 1e-12)), 0.0) / self._scale

        def clipped(values: Any) -> Any:
            # an overflow of float16 is a scale too high, not a diverged model: this step learns nothing
            return (tf.where(finite, values, tf.zeros_like(values)) if self._half else values) * factor

        ready = iter([tf.IndexedSlices(clipped(g.values), g.indices, g.dense_shape) if isinstance(g, tf.IndexedSlices) else clipped(g)
                      for g in gradients])
        self._optimizer.apply([None if v.path in self._frozen else next(ready) for v in self._learnt], rate)
        return loss, tf.cast(finite, tf.float32) / replicas

    def _valid(self, batch: dict[str, Any]) -> Any:
        tf, strategy = self.tf, self.placement.strategy

        def one(part: dict[str, Any]) -> Any:
            judged = getattr(self.task, "valid_losses", None)
            found = judged(self.model, part) if judged is not None else self.task.losses(self.model, part, tf.constant(0, tf.int64))
            each = tf.cast(found, tf.float32)
            return tf.reduce_sum(each * part[WEIGHT])

        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(one, args=(batch,)), axis=None)


def _steps_until(steps: int, done: int, checkpoint_steps: int) -> int:
    """How many steps the next call takes: no further than the epoch's end or the next checkpoint."""
    count = min(_STEPS_A_CALL, steps - done)
    return min(count, checkpoint_steps - done % checkpoint_steps) if checkpoint_steps else count


def _part(values: Any, n: int, parts: int) -> Any:
    size = values.shape[0] // parts
    return values[n * size : (n + 1) * size]


def _plus(tf: Any, one: Any, other: Any) -> Any:
    if isinstance(one, tf.IndexedSlices):
        return tf.IndexedSlices(tf.concat([one.values, other.values], 0), tf.concat([one.indices, other.indices], 0), one.dense_shape)
    return one + other


def _each_row_once(tf: Any, gradient: Any) -> Any:
    """IndexedSlices with the gradients of one row summed; a tensor as it is."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    ids, place = tf.unique(gradient.indices)
    return tf.IndexedSlices(tf.math.unsorted_segment_sum(gradient.values, place, tf.size(ids)), ids, gradient.dense_shape)


def _rate(plan: Plan, steps: int, step: int) -> float:
    """Learning rate of a step: linear warm-up, then a cosine to a twentieth over all epochs; constant without warm-up."""
    if not plan.warmup_steps:
        return plan.learning_rate
    total = max(1, plan.epochs * steps)
    warm = min(plan.warmup_steps, max(1, total // 2))
    if step < warm:
        return plan.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    return plan.learning_rate * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))


def _weight(examples: Examples) -> float:
    """Sum of the example weights of an epoch, read from the weight column alone."""
    import pyarrow.parquet as pq

    total = 0.0
    for file in examples.files:
        for batch in pq.ParquetFile(file).iter_batches(columns=[WEIGHT]):
            total += float(np.sum(batch.column(0).to_numpy(zero_copy_only=False), dtype=np.float64))
    if total <= 0:
        raise ValueError(f"{', '.join(f.name for f in examples.files)}: no example has a weight above 0; there is nothing to learn")
    return total


def _save(folder: Path, plan: Plan, state: Progress, variables: list[Any], best: list[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"v{n}": v.numpy() for n, v in enumerate(variables)} | {f"b{n}": v for n, v in enumerate(best)}
    said = json.dumps({"progress": asdict(state), "plan": asdict(plan)})
    temporary = folder / f".checkpoint.{os.getpid()}.npz"
    with temporary.open("wb") as out:
        np.savez(out, said=np.frombuffer(said.encode(), np.uint8), **arrays)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(folder / "checkpoint.npz")


def _restore(folder: Path, plan: Plan) -> tuple[Progress, list[np.ndarray], list[np.ndarray]] | None:
    """The last checkpoint of this very plan; None where there is none (another plan's is of no use)."""
    path = folder / "checkpoint.npz"
    try:
        with np.load(path, allow_pickle=False) as held:
            said = json.loads(held["said"].tobytes())
            if said["plan"] != asdict(plan):
                return None
            values = [held[f"v{n}"] for n in range(sum(k.startswith("v") for k in held.files))]
            best = [held[f"b{n}"] for n in range(sum(k.startswith("b") for k in held.files))]
    except FileNotFoundError:
        return None
    except (zipfile.BadZipFile, KeyError, ValueError) as broken:
        _LOG.warning(logs.said("checkpoint_unreadable", path=str(path), why=str(broken)))
        return None
    return Progress(**said["progress"]), values, best
