"""The training loop: a task says what to learn on one replica, this says how long, how fast, and how to survive a kill.

Gradients are summed over replicas, then clipped by their global norm, so the update is the same on one replica or many. After
every epoch (and every `checkpoint_steps` within one) all that the next step depends on is written to `folder` and moved into
place by one rename; a run started again after SIGKILL continues there and ends with the same weights, bit by bit.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nightmarket import log as logs
from nightmarket.learn.inputs import WEIGHT, Examples
from nightmarket.learn.strategy import Placement, tensorflow

_LOG = logs.logger("learn")
_FLOAT16_SCALE = 2.0**12
_GROW_AFTER = 1000  # finite float16 steps before the loss scale doubles


class Diverged(RuntimeError):
    """The loss is not a number. The message says at which step, and what to change."""


class Task(Protocol):
    """What is learnt, as one replica sees it; knows nothing of strategies."""

    @property
    def name(self) -> str: ...

    def build(self) -> Any:
        """The keras.Model, built. Called under the strategy and the dtype policy."""

    def losses(self, model: Any, batch: dict[str, Any], step: Any) -> Any:
        """(batch,) float32 loss of each example, unweighted. `step` is the global step, for seeded sampling."""


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

    def __init__(self, task: Task, placement: Placement, batch_size: int, clip_norm: float, seed: int, weight_decay: float = 0.0):
        """Raises ValueError for a global batch that replicas cannot share equally."""
        self.tf = tensorflow()
        import keras

        if batch_size % placement.replicas:
            raise ValueError(f"batch_size {batch_size} cannot be shared by {placement.replicas} replicas; use a multiple")
        self.task, self.placement, self.batch_size, self.clip_norm = task, placement, batch_size, clip_norm
        self._half = placement.precision == "mixed_float16"
        keras.utils.set_random_seed(seed)
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(placement.precision)
        try:
            with placement.strategy.scope():
                self.model = task.build()
                self._optimizer = keras.optimizers.AdamW(1e-3, weight_decay=weight_decay)
                self._optimizer.exclude_from_weight_decay(var_names=["bias", "norm", "gamma", "beta"])
                self._optimizer.build(self.model.trainable_variables)
                self._scale = self.tf.Variable(_FLOAT16_SCALE if self._half else 1.0, trainable=False)
                self._good = self.tf.Variable(0, trainable=False, dtype=self.tf.int64)
        finally:
            keras.config.set_dtype_policy(policy)
        self._train_step = self.tf.function(self._train, reduce_retracing=True)
        self._valid_step = self.tf.function(self._valid, reduce_retracing=True)

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
        while not state.finished and state.epoch < plan.epochs:
            for batch in self._distributed(train, state.epoch, state.step):
                self._optimizer.learning_rate.assign(_rate(plan, train.steps, state.epoch * train.steps + state.step))
                loss, finite = self._train_step(batch)
                lost = float(loss)
                if not math.isfinite(lost) or (not self._half and not bool(finite)):
                    raise Diverged(
                        f"{self.task.name}: the {'gradient' if math.isfinite(lost) else 'loss'} is not a number at epoch "
                        f"{state.epoch + 1}, step {state.step + 1}; lower model.learning_rate ({plan.learning_rate:g}) or "
                        f"model.clip_norm ({self.clip_norm:g}), or use model.precision: float32"
                    )
                state.loss_sum += lost
                state.step += 1
                if folder is not None and plan.checkpoint_steps and state.step % plan.checkpoint_steps == 0:
                    _save(folder, plan, state, self._variables, best)
            line = {"loss": state.loss_sum / weight}
            watch = -float(state.epoch)  # without validation every epoch counts as better
            if valid is not None:
                watch = sum(float(self._valid_step(b)) for b in self._distributed(valid, 0)) / _weight(valid)
                line["valid_loss"] = watch
            state.history.append(line)
            if watch < state.best - plan.minimum_improvement:
                state.best, state.best_epoch = watch, state.epoch
                best = [v.numpy() for v in self.model.variables]
            state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
            state.finished = state.epoch >= plan.epochs or state.epoch - 1 - state.best_epoch >= plan.patience
            _LOG.info(logs.said("epoch", task=self.task.name, epoch=state.epoch, of=plan.epochs, **line))
            if folder is not None:
                _save(folder, plan, state, self._variables, best)
        for variable, value in zip(self.model.variables, best, strict=True):
            variable.assign(value)
        return state.history

    def _distributed(self, examples: Examples, epoch: int, skip: int = 0) -> Any:
        return self.placement.strategy.experimental_distribute_dataset(examples.dataset(self.tf, epoch, skip))

    def _train(self, batch: dict[str, Any]) -> tuple[Any, Any]:
        tf, strategy = self.tf, self.placement.strategy
        losses, finite = strategy.run(self._replica_step, args=(batch,))
        total = strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)
        all_finite = strategy.reduce(tf.distribute.ReduceOp.SUM, finite, axis=None) > 0.5
        if self._half:
            good = tf.where(all_finite, self._good + 1, 0)
            grown = tf.where(good >= _GROW_AFTER, self._scale * 2.0, self._scale)
            self._scale.assign(tf.where(all_finite, grown, tf.maximum(1.0, self._scale / 2.0)))
            self._good.assign(tf.where(good >= _GROW_AFTER, tf.zeros_like(good), good))
        return total, all_finite

    def _replica_step(self, batch: dict[str, Any]) -> tuple[Any, Any]:
        """One replica's share of a step: (sum of weighted losses, its share of 'the update was finite')."""
        tf, replicas, model = self.tf, self.placement.replicas, self.model
        with tf.GradientTape() as tape:
            each = tf.cast(self.task.losses(model, batch, self._optimizer.iterations.value), tf.float32) * batch[WEIGHT]
            loss = tf.reduce_sum(each)
            scaled = loss / float(self.batch_size) * self._scale
        watched = [v.value for v in model.trainable_variables]
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(scaled, watched, unconnected_gradients="zero")]
        if replicas > 1:
            gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        norm = tf.linalg.global_norm(gradients) / self._scale
        finite = tf.math.is_finite(norm)
        # the optimiser sums over replicas once more: each hands in its share of the clipped sum
        factor = tf.where(finite, tf.minimum(1.0, self.clip_norm / (norm + 1e-12)), 0.0) / self._scale / replicas
        if self._half:  # an overflow is a scale too high, not a diverged model: this step learns nothing
            gradients = [tf.where(finite, g, tf.zeros_like(g)) for g in gradients]
        self._optimizer.apply_gradients([(g * factor, v) for g, v in zip(gradients, model.trainable_variables, strict=True)])
        return loss, tf.cast(finite, tf.float32) / replicas

    def _valid(self, batch: dict[str, Any]) -> Any:
        tf, strategy = self.tf, self.placement.strategy

        def one(part: dict[str, Any]) -> Any:
            each = tf.cast(self.task.losses(self.model, part, tf.constant(0, tf.int64)), tf.float32)
            return tf.reduce_sum(each * part[WEIGHT])

        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(one, args=(batch,)), axis=None)


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
