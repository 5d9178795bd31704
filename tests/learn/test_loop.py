"""The training loop: clips, stops, survives a kill, refuses to go on with a NaN; two replicas learn what one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightmarket.learn.inputs import Examples, Field, write_examples

pytestmark = pytest.mark.tensorflow
HERE = Path(__file__).parent
FIELDS = (Field("x", "float32", (3,)), Field("y", "float32"))
TRUE = np.array([1.0, -2.0, 0.5], np.float32)


def data(folder: Path, rows: int = 300, batch: int = 32, name: str = "line", noise: float = 0.0, seed: int = 1) -> Examples:
    """y = TRUE . x + noise; 300 rows in batches of 32 leave a ragged one of 12."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    y = (x @ TRUE + noise * rng.normal(size=rows)).astype(np.float32)
    return Examples((write_examples(folder, name, {"x": x, "y": y}, 64),), FIELDS, batch, 128, seed=7)


class Line:
    """Least squares on one replica."""

    name = "line"

    def build(self) -> Any:
        import keras

        inputs = keras.Input((3,))
        hidden = keras.layers.Dense(4, activation="tanh")(inputs)
        return keras.Model(inputs, keras.layers.Add()([keras.layers.Dense(1)(hidden), keras.layers.Dense(1)(inputs)]))

    def losses(self, model: Any, batch: dict[str, Any], step: Any) -> Any:
        import tensorflow as tf

        return tf.square(tf.cast(model(batch["x"], training=True), tf.float32)[:, 0] - batch["y"])


class Descent:
    """Plain gradient descent, in place of the trainer's optimiser."""

    def __init__(self, model: Any):
        import tensorflow as tf

        self.weights, self.step, self.variables = model.trainable_variables, tf.constant(0, tf.int64), []

    def apply(self, gradients: list[Any], rate: Any) -> None:
        import tensorflow as tf

        def everywhere(strategy: Any, found: list[Any]) -> None:
            for weight, gradient in zip(self.weights, found, strict=True):
                strategy.extended.update(weight.value, lambda w, g: w.assign_sub(rate * g), args=(gradient,))

        tf.distribute.get_replica_context().merge_call(everywhere, args=(gradients,))


def trainer(batch: int = 32, clip: float = 1.0, precision: Any = "float32") -> Any:
    from nightmarket.learn import loop, strategy

    return loop.Trainer(Line(), strategy.place(0, precision), batch, clip, seed=3)


def plan(**changes: Any) -> Any:
    from nightmarket.learn.loop import Plan

    return Plan(**{"epochs": 4, "learning_rate": 0.05, "patience": 3, **changes})


def weights(model: Any) -> list[np.ndarray]:
    return [v.numpy() for v in model.variables]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_learns_the_line_and_repeats_itself_bit_by_bit(tmp_path: Path) -> None:
    first, again = trainer(), trainer()
    history = first.fit(data(tmp_path), None, plan(epochs=30))
    assert history[-1]["loss"] < 1e-3 < history[0]["loss"]
    again.fit(data(tmp_path), None, plan(epochs=30))
    assert same(weights(first.model), weights(again.model))


def test_a_step_is_no_longer_than_the_clipped_gradient(tmp_path: Path) -> None:
    made = trainer(batch=300, clip=0.01)
    made._optimizer = Descent(made.model)
    before = weights(made.model)
    made.fit(data(tmp_path, batch=300), None, plan(epochs=1, learning_rate=1.0))
    moved = np.sqrt(sum(float(np.square(a - b).sum()) for a, b in zip(weights(made.model), before, strict=True)))
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_stops_when_validation_gets_no_better_and_keeps_the_best(tmp_path: Path) -> None:
    made = trainer()
    valid = data(tmp_path, 64, name="noise", noise=5.0, seed=9)
    history = made.fit(data(tmp_path, 40, noise=3.0), valid, plan(epochs=60, patience=2))
    losses = [h["valid_loss"] for h in history]
    best = int(np.argmin(losses))
    assert len(history) < 60
    assert len(history) - 1 - best >= 2
    kept = np.mean([np.square(made.model(b["x"]).numpy()[:, 0] - b["y"])[b["weight"] > 0].mean() for b in valid.batches()])
    assert kept == pytest.approx(losses[best], rel=0.05)


def test_a_task_may_judge_validation_in_its_own_way(tmp_path: Path) -> None:
    made = trainer()
    made.task.valid_losses = lambda model, batch: batch["y"] * 0.0 + 2.5
    assert made.evaluate(data(tmp_path)) == pytest.approx(2.5)


def test_a_loss_that_is_no_number_raises_with_step_and_remedy(tmp_path: Path) -> None:
    from nightmarket.learn.loop import Diverged

    x = np.ones((64, 3), np.float32)
    y = np.zeros(64, np.float32)
    y[40] = np.nan
    examples = Examples((write_examples(tmp_path, "nan", {"x": x, "y": y}),), FIELDS, 32)
    with pytest.raises(Diverged, match=r"line: the loss is not a number at epoch 1, step 2; lower model.learning_rate \(0.05\)"):
        trainer().fit(examples, None, plan())


def test_a_batch_that_replicas_cannot_share_is_refused() -> None:
    from nightmarket.learn import loop, strategy

    placed = strategy.place()
    three = strategy.Placement(placed.strategy, 3, "float32")
    with pytest.raises(ValueError, match="batch_size 32 cannot be shared by 3 replicas"):
        loop.Trainer(Line(), three, 32, 1.0, seed=3)


def test_a_finished_fit_is_not_run_again_and_another_plan_starts_over(tmp_path: Path) -> None:
    first = trainer()
    history = first.fit(data(tmp_path), None, plan(), tmp_path / "kept")
    second = trainer()
    started = time.monotonic()
    assert second.fit(data(tmp_path), None, plan(), tmp_path / "kept") == history
    assert time.monotonic() - started < 2
    assert same(weights(first.model), weights(second.model))
    assert len(trainer().fit(data(tmp_path), None, plan(epochs=2), tmp_path / "kept")) == 2


def test_a_torn_checkpoint_is_said_and_training_starts_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "checkpoint.npz").write_bytes(b"PK torn")
    made = trainer()
    with caplog.at_level("WARNING"):
        assert len(made.fit(data(tmp_path), None, plan(), tmp_path / "kept")) == 4
    assert "checkpoint_unreadable" in caplog.text


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_learns_the_line_too(tmp_path: Path, precision: str) -> None:
    import keras

    made = trainer(precision=precision)
    history = made.fit(data(tmp_path), None, plan(epochs=10))
    assert history[-1]["loss"] < 0.05
    assert {v.dtype for v in made.model.variables} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"  # others' models are not changed


def test_an_overflow_of_float16_skips_the_step_and_lowers_the_scale(tmp_path: Path) -> None:
    x = np.ones((64, 3), np.float32)
    examples = Examples((write_examples(tmp_path, "huge", {"x": x, "y": np.full(64, -1e18, np.float32)}),), FIELDS, 32)
    made = trainer(precision="mixed_float16")
    before, scale = weights(made.model), float(made._scale.numpy())
    made.fit(examples, None, plan(epochs=1))
    assert same(before, weights(made.model))
    assert float(made._scale.numpy()) == scale / 4


def _run(folder: Path, *args: str, **how: Any) -> subprocess.Popen[str]:
    # a process of its own: devices are fixed once TensorFlow has started, and one is to be killed
    return subprocess.Popen([sys.executable, str(HERE / "train_line.py"), str(folder), *args], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.strip().splitlines()[-1])


def test_two_replicas_learn_what_one_does(tmp_path: Path) -> None:
    one, two = _run(tmp_path / "one", "--replicas", "1"), _run(tmp_path / "two", "--replicas", "2")
    first, second = _answer(one), _answer(two)
    assert (first["replicas"], second["replicas"]) == (1, 2)
    apart = max(np.abs(np.array(a) - np.array(b)).max() for a, b in zip(first["weights"], second["weights"], strict=True))
    assert apart < 1e-5
    moved = max(np.abs(np.array(a) - np.array(b)).max() for a, b in zip(first["weights"], first["start"], strict=True))
    assert moved > 0.1


def test_killed_and_started_again_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = _answer(_run(tmp_path / "whole"))
    folder = tmp_path / "killed"
    for at_least in (2, 9):  # killed within the first epoch, and within a later one
        process = _run(folder, "--slow", "0.05")
        marker = folder / "steps"
        deadline = time.monotonic() + 240
        while not (marker.exists() and len(marker.read_bytes()) >= at_least) and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    resumed = _answer(_run(folder))
    assert resumed["history"] == whole["history"]
    assert resumed["weights"] == whole["weights"]
    assert resumed["steps"] < whole["steps"]  # it did continue
