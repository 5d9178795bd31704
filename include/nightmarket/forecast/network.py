"""One neural network of all series (TensorFlow, MirroredStrategy): a residual dense encoder over the recent past and all that is
known of the future, with quantiles of every horizon as outputs (after TiDE, Das et al. 2023), trained on the pinball loss."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nightmarket.forecast.series import Panel
from nightmarket.learn.inputs import Examples, Field, write_examples
from nightmarket.learn.loop import Plan, Trainer
from nightmarket.learn.strategy import Placement, place, tensorflow

QUANTILES = (0.1, 0.5, 0.9)
_LOOKBACK = {"D": 56, "W": 30, "MS": 36}
_BATCH = 256


@dataclass(frozen=True)
class Shape:
    """Sizes of the tensors of one example."""

    lookback: int
    horizon: int
    columns: int
    """Calendar and known columns of each date."""

    def fields(self) -> tuple[Field, ...]:
        return (
            Field("past", "float32", (self.lookback, 2)), Field("around", "float32", (self.lookback + self.horizon, self.columns)),
            Field("size", "float32"), Field("target", "float32", (self.horizon,)), Field("known", "float32", (self.horizon,)),
        )


class QuantileTask:
    """What one replica sees: windows in, pinball loss out."""

    def __init__(self, shape: Shape, width: int = 128):
        self.shape, self.width = shape, width

    @property
    def name(self) -> str:
        return "forecast_network"

    def build(self) -> Any:
        """keras.Model of {past (b, L, 2), around (b, L + H, c), size (b,)} → (b, H, quantiles), rising over quantiles."""
        import keras
        from keras import layers

        s = self.shape
        past = keras.Input((s.lookback, 2), name="past")
        around = keras.Input((s.lookback + s.horizon, s.columns), name="around")
        size = keras.Input((), name="size")
        seen = layers.Dense(4, activation="relu")(around)
        joined = layers.Concatenate()([layers.Flatten()(past), layers.Flatten()(seen), layers.Reshape((1,))(size)])
        hidden = layers.Dense(self.width, activation="relu")(joined)
        for _ in range(2):
            step = layers.Dense(self.width, activation="relu")(layers.LayerNormalization()(hidden))
            hidden = layers.Add()([hidden, layers.Dropout(0.1)(layers.Dense(self.width)(step))])
        decoded = layers.Reshape((s.horizon, 8))(layers.Dense(s.horizon * 8, activation="relu")(hidden))
        ahead = layers.Concatenate()([decoded, seen[:, s.lookback :]])
        ahead = layers.Dense(32, activation="relu")(ahead)
        out = layers.Dense(len(QUANTILES), dtype="float32")(ahead)
        middle, steps = out[:, :, :1], keras.ops.softplus(out[:, :, 1:])
        rising = layers.Concatenate()([middle, middle + steps[:, :, :1], middle + steps[:, :, :1] + steps[:, :, 1:]])
        return keras.Model([past, around, size], rising)

    def losses(self, model: Any, batch: dict[str, Any], step: Any) -> Any:
        """(batch,) mean pinball loss over quantiles and known horizons."""
        tf = tensorflow()
        quantiles = tf.constant(QUANTILES, tf.float32)
        made = model([batch["past"], batch["around"], batch["size"]], training=True)
        error = batch["target"][:, :, None] - made
        pinball = tf.reduce_mean(tf.maximum(quantiles * error, (quantiles - 1.0) * error), axis=-1)
        known = batch["known"]
        return tf.reduce_sum(pinball * known, axis=1) / tf.maximum(tf.reduce_sum(known, axis=1), 1.0)


@dataclass(frozen=True)
class Windows:
    """Examples at (origins, series), flattened in that order."""

    columns: dict[str, np.ndarray]
    level: np.ndarray
    """(examples,) what values were divided by."""


def shape_of(panel: Panel) -> Shape:
    """The window that fits the panel's history."""
    lookback = int(np.clip(min(_LOOKBACK[panel.freq], int(np.median(panel.lengths())) // 3), 4, None))
    return Shape(lookback, panel.horizon, 5 + len(panel.names) + 1)


def windows(panel: Panel, masked: np.ndarray, shut: np.ndarray, origins: np.ndarray, shape: Shape) -> Windows:
    """Windows before and after each origin (periods known); targets are NaN-free with `known` 0 where they are unknown."""
    n = len(masked)
    dates = panel.dates()
    year = (dates - dates.astype("M8[Y]").astype("M8[D]")).astype(np.int64) / 365.25 * 2 * np.pi
    week = ((dates.astype(np.int64) + 3) % 7) / 7 * 2 * np.pi
    known = np.nan_to_num(panel.known)
    spread = np.maximum(known.reshape(-1, known.shape[2]).std(axis=0), 1e-6) if known.shape[2] else np.ones(0)
    around = np.concatenate([np.stack([np.sin(year), np.cos(year), np.sin(week), np.cos(week), np.cos(2 * week), shut.astype(float)], -1), known / spread], axis=2)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("past", "around", "size", "target", "known")}
    levels = []
    for o in origins:
        past = masked[:, o - shape.lookback : o]
        seen = np.isfinite(past)
        level = np.where(seen.any(axis=1), np.where(seen, np.abs(np.nan_to_num(past)), 0.0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1), 0.0)
        level = np.where(level > 0, level, 1.0)
        parts["past"].append(np.stack([np.clip(np.nan_to_num(past) / level[:, None], -20, 20), seen.astype(float)], -1))
        parts["around"].append(around[:, o - shape.lookback : o + shape.horizon])
        parts["size"].append(np.log1p(level) / 10.0)
        ahead = np.full((n, shape.horizon), np.nan)
        there = masked[:, o : o + shape.horizon]
        ahead[:, : there.shape[1]] = there
        parts["target"].append(np.clip(np.nan_to_num(ahead) / level[:, None], -20, 20))
        parts["known"].append(np.isfinite(ahead).astype(float))
        levels.append(level)
    columns = {name: np.concatenate(p).astype(np.float32) for name, p in parts.items()}
    return Windows(columns, np.concatenate(levels))


def fit(made: Windows, shape: Shape, seed: int, epochs: int = 12, placement: Placement | None = None) -> Any:
    """The trained keras.Model. Deterministic for a seed on the same devices."""
    placement = placement or place()
    useful = made.columns["known"].sum(axis=1) > 0
    with tempfile.TemporaryDirectory() as folder:
        path = write_examples(Path(folder), "windows", {k: v[useful] for k, v in made.columns.items()})
        examples = Examples((path,), shape.fields(), _BATCH, seed=seed)
        trainer = Trainer(QuantileTask(shape), placement, _BATCH, 1.0, seed, weight_decay=1e-4)
        trainer.fit(examples, None, Plan(epochs=epochs, learning_rate=2e-3, patience=epochs, warmup_steps=20))
    return trainer.model


def predict(model: Any, made: Windows) -> np.ndarray:
    """(examples, H, quantiles) on the scale of y."""
    out = [
        np.asarray(model([made.columns[k][low : low + 4096] for k in ("past", "around", "size")], training=False))
        for low in range(0, len(made.level), 4096)
    ]
    return np.concatenate(out) * made.level[:, None, None]
