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
    clip_norm: float
    patience: int
    """Epochs without improvement before stopping; looks at validation where there is one, else runs all epochs."""
    seed: int
    weight_decay: float = 0.0
    warmup_steps: int = 0
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


def fit(
    task: Task, train: Examples, valid: Examples | None, plan: Plan, placement: Placement, folder: Path | None = None,
    start: Any = None,
) -> tuple[Any, list[dict[str, float]]]:
    """Trains `task` and returns (model with the best weights, epochs' losses).

    `start` is a model whose weights training begins from. `folder` keeps checkpoints; the same call with the same folder
    continues, or returns at once where it had finished. Raises Diverged for a loss that is not finite, ValueError for a batch
    that replicas cannot share equally.
    """
    tf = tensorflow()
    import keras

    if train.batch_size % placement.replicas:
        raise ValueError(f"batch_size {train.batch_size} cannot be shared by {placement.replicas} replicas; use a multiple")
    keras.utils.set_random_seed(plan.seed)
    strategy = placement.strategy
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(placement.precision)
    try:
        with strategy.scope():
            model = task.build()
            if start is not None:
                model.set_weights(start.get_weights())
            rate: Any = plan.learning_rate
            total = max(1, plan.epochs * train.steps)
            if plan.warmup_steps:
                rate = keras.optimizers.schedules.CosineDecay(
                    0.0, total, alpha=0.05, warmup_target=plan.learning_rate, warmup_steps=min(plan.warmup_steps, total // 2))
            optimizer = keras.optimizers.AdamW(rate, weight_decay=plan.weight_decay)
            optimizer.exclude_from_weight_decay(var_names=["bias", "norm", "gamma", "beta"])
            optimizer.build(model.trainable_variables)
            scale = tf.Variable(_FLOAT16_SCALE if placement.precision == "mixed_float16" else 1.0, trainable=False)
            good = tf.Variable(0, trainable=False, dtype=tf.int64)
    finally:
        keras.config.set_dtype_policy(policy)
    variables = [*model.variables, *optimizer.variables]
    extra = [scale, good]
    stride = float(train.batch_size)
    half = placement.precision == "mixed_float16"

    def replica_step(batch: dict[str, Any]) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            each = tf.cast(task.losses(model, batch, optimizer.iterations.value), tf.float32) * batch[WEIGHT]
            loss = tf.reduce_sum(each)
            scaled = loss / stride * scale
        watched = [v.value for v in model.trainable_variables]
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(scaled, watched, unconnected_gradients="zero")]
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients) if placement.replicas > 1 else gradients
        norm = tf.linalg.global_norm(gradients) / scale
        finite = tf.math.is_finite(norm)
        # the optimizer sums over replicas once more: each hands in its share of the clipped sum
        factor = tf.where(finite, tf.minimum(1.0, plan.clip_norm / (norm + 1e-12)), 0.0) / scale / placement.replicas
        if half:  # an overflow is a scale too high, not a diverged model: this step learns nothing
            gradients = [tf.where(finite, g, tf.zeros_like(g)) for g in gradients]
        optimizer.apply_gradients([(g * factor, v) for g, v in zip(gradients, model.trainable_variables, strict=True)])
        return loss, tf.cast(finite, tf.float32) / placement.replicas

    @tf.function(reduce_retracing=True)
    def train_step(batch: dict[str, Any]) -> tuple[Any, Any]:
        losses, finite = strategy.run(replica_step, args=(batch,))
        total_loss = strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)
        all_finite = strategy.reduce(tf.distribute.ReduceOp.SUM, finite, axis=None) > 0.5
        if half:
            good.assign(tf.where(all_finite, good + 1, 0))
            grown = tf.where(good >= _GROW_AFTER, scale * 2.0, scale)
            scale.assign(tf.where(all_finite, grown, tf.maximum(1.0, scale / 2.0)))
            good.assign(tf.where(good >= _GROW_AFTER, tf.zeros_like(good), good))
        return total_loss, all_finite

    @tf.function(reduce_retracing=True)
    def valid_step(batch: dict[str, Any]) -> Any:
        def one(part: dict[str, Any]) -> Any:
            each = tf.cast(task.losses(model, part, tf.constant(0, tf.int64)), tf.float32)
            return tf.reduce_sum(each * part[WEIGHT])

        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(one, args=(batch,)), axis=None)

    def distributed(examples: Examples, epoch: int, skip: int = 0) -> Any:
        return strategy.experimental_distribute_dataset(examples.dataset(tf, epoch, skip))

    state = Progress()
    best = [v.numpy() for v in model.variables]
    if folder is not None and (found := _restore(folder, plan)) is not None:
        state, values, best = found
        for variable, value in zip([*variables, *extra], values, strict=True):
            variable.assign(value)
        _LOG.info(logs.said("resumed", task=task.name, epoch=state.epoch, step=state.step))
    weight = _weight(train)
    while not state.finished and state.epoch < plan.epochs:
        for batch in distributed(train, state.epoch, state.step):
            loss, finite = train_step(batch)
            lost = float(loss)
            if not math.isfinite(lost) or (not half and not bool(finite)):
                raise Diverged(
                    f"{task.name}: the {'loss' if not math.isfinite(lost) else 'gradient'} is not a number at epoch "
                    f"{state.epoch + 1}, step {state.step + 1}; lower model.learning_rate ({plan.learning_rate:g}) or "
                    f"model.clip_norm ({plan.clip_norm:g}), or use model.precision: float32"
                )
            state.loss_sum += lost
            state.step += 1
            if folder is not None and plan.checkpoint_steps and state.step % plan.checkpoint_steps == 0:
                _save(folder, plan, state, [*variables, *extra], best)
        line = {"loss": state.loss_sum / weight}
        watch = -float(state.epoch)  # without validation every epoch counts as better
        if valid is not None:
            watch = sum(float(valid_step(b)) for b in distributed(valid, 0)) / _weight(valid)
            line["valid_loss"] = watch
        state.history.append(line)
        if watch < state.best - plan.minimum_improvement:
            state.best, state.best_epoch = watch, state.epoch
            best = [v.numpy() for v in model.variables]
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        state.finished = state.epoch >= plan.epochs or state.epoch - 1 - state.best_epoch >= plan.patience
        _LOG.info(logs.said("epoch", task=task.name, epoch=state.epoch, of=plan.epochs, **line))
        if folder is not None:
            _save(folder, plan, state, [*variables, *extra], best)
    for variable, value in zip(model.variables, best, strict=True):
        variable.assign(value)
    return model, state.history


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
