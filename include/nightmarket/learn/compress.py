"""Smaller models: int8 and float16 weights, pruning, quantised tables; what each costs, and whether the gate may let it through.

A SavedModel made here keeps its weights small on disk and in memory and widens them when it is asked: tables row by row, the rest
whole. LiteRT (TFLite) files are made by TensorFlow's converter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from nightmarket.evaluate.bootstrap import Interval, difference
from nightmarket.learn.layers import RowTable, keras, rows_stored_as, tf
from nightmarket.learn.optimizer import is_table

Precision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class Quantised:
    """A matrix as int8 with a scale a row (or a column): value = code x scale. Symmetric, 0 stays 0."""

    codes: np.ndarray
    """int8."""
    scale: np.ndarray
    """float32, 1 along the axes that share it."""

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scale.nbytes

    def values(self) -> np.ndarray:
        return self.codes.astype(np.float32) * self.scale


def quantise(values: np.ndarray, axis: int) -> Quantised:
    """int8 codes -127 … 127; one scale for each place along `axis`. No value is off by more than half a scale."""
    others = tuple(n for n in range(values.ndim) if n != axis % values.ndim)
    largest = np.abs(values).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / 127.0, 1.0).astype(np.float32)
    return Quantised(np.clip(np.rint(values / scale), -127, 127).astype(np.int8), scale)


def prune(model: Any, share: float) -> float:
    """Sets the smallest `share` (0 … 1) of each kernel's weights to 0, in place, and returns the share of all weights that is 0.

    Magnitude pruning (Han et al. 2015). Tables and biases are left alone.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share {share}: 0 or more and below 1")
    zero = total = 0
    for weight in model.trainable_variables:
        values = weight.numpy()
        if values.ndim >= 2 and not is_table(weight):
            order = np.argsort(np.abs(values), axis=None, kind="stable")[: int(share * values.size)]
            values.reshape(-1)[order] = 0.0
            weight.assign(values)
        zero += int((values == 0).sum())
        total += values.size
    return zero / max(total, 1)


class Compact(tf.Module):  # type: ignore[name-defined]
    """A model for serving whose weights are kept small; `serve` maps inputs by name to the output. Made by `compact`."""

    def __init__(self, model: Any, kept: list[tuple[Any, ...]]):
        """`kept`: (weight of the model, what it is kept as, and its scale if that is int8)."""
        super().__init__()
        self.stored = [part for parts in kept for part in parts[1:]]
        widened = {id(parts[0]) for parts in kept}
        self.others = [w.value for w in model.variables if id(w) not in widened]
        names = {i.name: tf.TensorSpec((None, *i.shape[1:]), i.dtype, name=i.name) for i in model.inputs}

        # the model is no attribute: it would be saved too, beside its small weights
        def answer(inputs: Mapping[str, Any]) -> Any:
            wide = [(parts[0], tf.cast(parts[1], tf.float32) * (parts[2] if len(parts) == 3 else 1.0)) for parts in kept]
            with keras.StatelessScope(state_mapping=wide):
                return model(inputs, training=False)

        self.serve = tf.function(answer, input_signature=[names])

    @property
    def nbytes(self) -> int:
        return sum(int(np.prod(v.shape)) * v.dtype.size for v in (*self.stored, *self.others))


def compact(model: Any, precision: Precision) -> Compact:
    """The model with its weights kept in `precision`. int8 has a scale a row in tables, one an output elsewhere; biases stay float32."""
    small = model if precision == "float32" else keras.models.clone_model(
        model, clone_function=lambda layer: (
            rows_stored_as(layer, precision) if isinstance(layer, RowTable) else layer.__class__.from_config(layer.get_config())))
    if small is not model:
        for new, old in zip(small.layers, model.layers, strict=True):
            if isinstance(old, RowTable):
                new.fill(old.table.numpy())
            else:
                new.set_weights(old.get_weights())
    kept: list[tuple[Any, ...]] = []
    tables = {id(w) for layer in small.layers if isinstance(layer, RowTable) for w in layer.weights}
    for weight in small.variables:
        if precision == "float32" or id(weight) in tables or "float" not in weight.dtype:
            continue
        values = weight.numpy()
        if precision == "float16":
            kept.append((weight, tf.Variable(values.astype(np.float16), trainable=False)))
        elif values.ndim >= 2:
            codes = quantise(values, -1)
            kept.append((weight, tf.Variable(codes.codes, trainable=False), tf.Variable(codes.scale, trainable=False)))
    return Compact(small, kept)


def save(model: Any, folder: Path, precision: Precision) -> int:
    """Writes a SavedModel with signature 'serve' and returns its bytes on disk."""
    made = compact(model, precision)
    tf.saved_model.save(made, str(folder), signatures={"serve": made.serve})
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def lite(model: Any, precision: Precision) -> bytes:
    """A LiteRT (TFLite) file: int8 has its weights in int8 and computes in float32 between them (dynamic range)."""
    with TemporaryDirectory() as folder:  # from a SavedModel weights become constants; from a function they stay unset variables
        save(model, Path(folder), "float32")
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serve"])
        return _converted(converter, precision)


def _converted(converter: Any, precision: Precision) -> bytes:
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def lite_runner(content: bytes) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """A function of inputs by name to the output, one thread."""
    interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
    wanted = interpreter.get_input_details()
    output = interpreter.get_output_details()[0]["index"]

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        for detail in wanted:
            name = detail["name"].split(":")[0].removeprefix("serve_")
            values = inputs[name].astype(detail["dtype"], copy=False)
            if tuple(detail["shape"]) != values.shape:
                interpreter.resize_tensor_input(detail["index"], values.shape)
        interpreter.allocate_tensors()
        for detail in wanted:
            name = detail["name"].split(":")[0].removeprefix("serve_")
            interpreter.set_tensor(detail["index"], inputs[name].astype(detail["dtype"], copy=False))
        interpreter.invoke()
        return interpreter.get_tensor(output).copy()

    return run


def latency(answer: Callable[[], object], repeats: int = 50) -> tuple[float, float]:
    """(median, 99th percentile) seconds of a call, after three that are not timed."""
    took = []
    for n in range(repeats + 3):
        started = time.perf_counter()
        answer()
        if n >= 3:
            took.append(time.perf_counter() - started)
    return float(np.median(took)), float(np.quantile(took, 0.99))


@dataclass(frozen=True)
class Verdict:
    """Whether a compressed model may stand in for the original."""

    passed: bool
    lost: Interval
    """Original less compressed, of a quality that is better when higher; over the same shoppers."""
    allowed: float
    text: str


def may_replace(original: np.ndarray, compressed: np.ndarray, allowed: float, resamples: int = 400, seed: int = 17) -> Verdict:
    """For the model gate: refuses a compressed model that may lose more than `blessing.compression_loss`.

    `original` and `compressed` (users,): quality of each shopper's list, higher is better, the same shoppers in the same order. It
    passes where the upper end of the paired 95 % interval of the loss is at most `allowed` (non-inferiority: few shoppers must
    show more), and every quality is a number.
    """
    whole = np.isfinite(original).all() and np.isfinite(compressed).all()
    lost = difference(original, compressed, resamples, seed)
    passed = bool(whole and lost.high <= allowed)
    said = "is within" if passed else "may exceed" if whole else "cannot be compared with"
    return Verdict(passed, lost, allowed, f"The smaller model loses {lost} of the original's quality; that {said} the {allowed:g} "
                                          f"that blessing.compression_loss allows.")
