"""A recommender with small weights, and whether it, or a student, may stand in for the one it was made from.

A packed network is one file: its architecture as JSON and each weight as int8 codes with scales, or as float16; narrow ones (biases,
statistics) stay float32. It is widened once, when it is loaded: smaller to keep and to move, as fast to ask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nightmarket.learn.compress import Precision, Verdict, latency, may_replace, quantise

if TYPE_CHECKING:
    from nightmarket.recommend.model import Recommender
    from nightmarket.recommend.signals import Signals

REPEATS = 30


def pack(model: Any, file: Path, precision: Precision) -> None:
    """Writes a packed network. float32 loses nothing."""
    parts: dict[str, np.ndarray] = {"architecture": np.frombuffer(model.to_json().encode(), np.uint8)}
    for n, weight in enumerate(model.weights):
        values = np.asarray(weight)
        if precision == "float32" or values.ndim < 2 or not np.issubdtype(values.dtype, np.floating):
            parts[f"w{n}"] = values
        elif precision == "float16":
            parts[f"w{n}"] = values.astype(np.float16)
        else:
            # a scale a row of a table, an output of a kernel
            made = quantise(values, 0 if "embeddings" in weight.path else -1)
            parts |= {f"w{n}": made.codes, f"s{n}": made.scale}
    np.savez_compressed(file, **parts)  # type: ignore[arg-type]


def unpack(file: Path) -> Any:
    """The keras.Model of a packed network, in float32."""
    import keras

    with np.load(file, allow_pickle=False) as held:
        model = keras.models.model_from_json(held["architecture"].tobytes().decode())
        model.set_weights([held[f"w{n}"].astype(np.float32) * held[f"s{n}"] if f"s{n}" in held.files else held[f"w{n}"].astype(weight.dtype)
                           for n, weight in enumerate(model.weights)])
    return model


ORIGINAL = "original"
"""The candidate as it was trained, among those that are compared."""


@dataclass(frozen=True)
class Compared:
    """Smaller recommenders beside the original."""

    precisions: Mapping[str, Precision]
    """Of each smaller one, by name."""
    verdicts: Mapping[str, Verdict]
    table: Mapping[str, Mapping[str, float]]
    """By name, the original's too: bytes, milliseconds of a look-up (median_ms, p99_ms), quality."""

    @property
    def serves(self) -> str:
        """The smallest in bytes of those that the gate lets stand in; the original where it lets none."""
        return min((n for n, v in self.verdicts.items() if v.passed), key=lambda n: self.table[n]["bytes"], default=ORIGINAL)

    def to_json(self) -> dict[str, Any]:
        return {"serves": self.serves, "table": {n: dict(row) for n, row in self.table.items()}, "smaller": {
            n: {"precision": self.precisions[n], "passed": v.passed, "lost": asdict(v.lost), "allowed": v.allowed, "text": v.text}
            for n, v in self.verdicts.items()}}

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(self.to_json(), indent=1, sort_keys=True), encoding="utf-8")


def compare(
    models: Mapping[str, tuple[Recommender, Path]], signals: Mapping[str, Signals], quality: Mapping[str, np.ndarray], allowed: float, resamples: int,
    seed: int,
) -> Compared:
    """The gate: by name, ORIGINAL among them, the model and its folder, its signals, and each shopper's quality (n,), the same shoppers."""
    table: dict[str, dict[str, float]] = {}
    for name, (model, folder) in models.items():
        held = signals[name]
        users = np.unique(held.past.events.user)[:1].astype(np.int64)

        def look_up(model: Recommender = model, held: Signals = held, users: np.ndarray = users) -> object:
            return list(model.rank(held, users, 20))

        median, slow = latency(look_up, REPEATS)
        table[name] = {"bytes": float(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())), "median_ms": 1e3 * median, "p99_ms": 1e3 * slow,
                       "quality": float(quality[name].mean())}
    smaller = [n for n in models if n != ORIGINAL]
    return Compared({n: models[n][0].config["precision"] for n in smaller},
                    {n: may_replace(quality[ORIGINAL], quality[n], allowed, resamples, seed) for n in smaller}, table)
