"""What training costs: ratios taken in one process, in turns, so that a busy machine slows both sides alike.

Events of a made-up shop (Zipf-like shoppers and items, a click that depends on both); the model is a click model with a table of
shoppers, one of items and a small network.

  python benchmarks/training.py throughput     learn.loop against plain `model.fit` over `from_tensor_slices`: rows a second and quality
  python benchmarks/training.py inputs         a step with real input against the same step on one cached batch
  python benchmarks/training.py options        XLA, accumulation and half precision against none of them
  python benchmarks/training.py memory         peak memory against the number of events, a process each (10 million with --full)
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nightmarket.evaluate.bootstrap import quantiles
from nightmarket.learn.inputs import Examples, Field, write_examples
from nightmarket.learn.loop import Plan, Trainer
from nightmarket.learn.strategy import place, tensorflow

SMALL = 6
"""Columns of few values beside shopper and item."""
NUMBERS = 8
FIELDS = (Field("user", "int32"), Field("item", "int32"), Field("small", "int32", (SMALL,)), Field("numbers", "float32", (NUMBERS,)),
          Field("clicked", "float32"))
BATCH = 1024
DIM = 32


def events(rows: int, vocabulary: int, seed: int) -> dict[str, np.ndarray]:
    """Columns of `rows` events; the same shoppers and items whatever the seed."""
    tastes = np.random.default_rng(1)
    user_taste, item_taste = tastes.normal(size=(vocabulary, 4)), tastes.normal(size=(vocabulary, 4))
    appeal = tastes.normal(size=vocabulary)
    rng = np.random.default_rng(seed)
    user = np.minimum((vocabulary ** rng.random(rows)).astype(np.int64), vocabulary - 1)
    item = np.minimum((vocabulary ** rng.random(rows)).astype(np.int64), vocabulary - 1)
    small = rng.integers(0, 20, (rows, SMALL))
    numbers = rng.normal(size=(rows, NUMBERS))
    logit = (user_taste[user] * item_taste[item]).sum(axis=1) + appeal[item] + 0.5 * numbers[:, 0] - 0.3 * np.abs(numbers[:, 1]) - 1.0
    return {"user": user.astype(np.int32), "item": item.astype(np.int32), "small": small.astype(np.int32),
            "numbers": numbers.astype(np.float32), "clicked": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)}


class Clicks:
    """learn.loop.Task of the click model; `table` makes the layer that looks rows up."""

    name = "clicks"

    def __init__(self, vocabulary: int, table: Callable[[int, int], Any] | None = None):
        self.vocabulary, self.table = vocabulary, table

    def build(self) -> Any:
        import keras

        from nightmarket.learn.layers import RowTable

        make = self.table or (lambda rows, dim: RowTable(rows, dim, 0.05))
        user, item = keras.Input((), dtype="int32", name="user"), keras.Input((), dtype="int32", name="item")
        small, numbers = keras.Input((SMALL,), dtype="int32", name="small"), keras.Input((NUMBERS,), name="numbers")
        u, i = make(self.vocabulary, DIM)(user), make(self.vocabulary, DIM)(item)
        few = keras.layers.Flatten()(keras.layers.Embedding(20, 4)(small))
        x = keras.layers.Concatenate()([u, i, u * i, few, numbers])
        x = keras.layers.Dense(64, activation="relu")(x)
        x = keras.layers.Dense(32, activation="relu")(x)
        return keras.Model([user, item, small, numbers], keras.layers.Dense(1, dtype="float32")(x)[:, 0])

    def losses(self, model: Any, batch: dict[str, Any], step: Any) -> Any:
        tf = tensorflow()
        logits = model([batch[k] for k in ("user", "item", "small", "numbers")], training=True)
        return tf.nn.sigmoid_cross_entropy_with_logits(batch["clicked"], logits)


def files_of(folder: Path, rows: int, vocabulary: int, seed: int, block: int = 500_000) -> tuple[Path, ...]:
    return tuple(
        write_examples(folder, f"{seed}-{n:04d}", events(min(block, rows - first), vocabulary, seed * 1000 + n), 4096)
        for n, first in enumerate(range(0, rows, block)))


def log_losses(model: Any, columns: dict[str, np.ndarray]) -> np.ndarray:
    """(rows,) log loss of each event."""
    tf = tensorflow()
    logits = np.concatenate([
        model([columns[k][n : n + 8192] for k in ("user", "item", "small", "numbers")], training=False).numpy()
        for n in range(0, len(columns["user"]), 8192)])
    return tf.nn.sigmoid_cross_entropy_with_logits(columns["clicked"], logits).numpy()


def paired(values: np.ndarray, seed: int = 17) -> str:
    """Mean with its 95 % bootstrap interval."""
    rng = np.random.default_rng(seed)
    means = np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(400)])
    low, high = quantiles(means)
    return f"{values.mean():.4f} [{low:.4f}, {high:.4f}]"


def ratio(one: list[float], other: list[float], seed: int = 17) -> str:
    """Median of one over median of other, with its 95 % bootstrap interval over the turns."""
    a, b = np.array(one), np.array(other)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(a), (2000, len(a)))
    low, high = quantiles(np.median(a[draws], axis=1) / np.median(b[draws], axis=1))
    return f"{np.median(a) / np.median(b):.2f} [{low:.2f}, {high:.2f}]"


def throughput(rows: int, vocabularies: tuple[int, ...], epochs: int) -> None:
    import keras

    tf = tensorflow()
    for vocabulary in vocabularies:
        train, test = events(rows, vocabulary, 2), events(rows // 4, vocabulary, 3)
        with tempfile.TemporaryDirectory() as folder:
            files = (write_examples(Path(folder), "train", train, 4096),)
            found: dict[str, tuple[list[float], np.ndarray]] = {}
            plain = Clicks(vocabulary, lambda n, d: keras.layers.Embedding(n, d, keras.initializers.RandomNormal(stddev=0.05))).build()
            plain.compile(optimizer=keras.optimizers.Adam(1e-3), loss=keras.losses.BinaryCrossentropy(from_logits=True))
            inputs = tuple(train[k] for k in ("user", "item", "small", "numbers"))
            slices = tf.data.Dataset.from_tensor_slices((inputs, train["clicked"])).shuffle(16_384, seed=1).batch(BATCH).prefetch(2)
            ours = {
                rule: Trainer(Clicks(vocabulary), place(1, "float32"), BATCH, 1e9, seed=3, rows=rule) for rule in ("adam", "adagrad")
            }
            examples = Examples(files, FIELDS, BATCH, 16_384, seed=1)
            seconds: dict[str, list[float]] = {"model.fit": [], **{k: [] for k in ours}}
            for _ in range(epochs + 1):  # the first compiles, and is not timed
                started = time.monotonic()
                plain.fit(slices, epochs=1, verbose=0)
                seconds["model.fit"].append(time.monotonic() - started)
                for rule, trainer in ours.items():
                    started = time.monotonic()
                    trainer.fit(examples, None, Plan(1, 1e-3 if rule == "adam" else 3e-2, 1))
                    seconds[rule].append(time.monotonic() - started)
            found = {"model.fit": (seconds["model.fit"], log_losses(plain, test)),
                     **{k: (seconds[k], log_losses(t.model, test)) for k, t in ours.items()}}
        base = found["model.fit"]
        print(f"\nvocabulary {vocabulary:,} + {vocabulary:,} rows of {DIM}, {rows:,} events, batch {BATCH}, {epochs + 1} epochs")
        for name, (took, losses) in found.items():
            print(f"  {name:10} {rows / np.median(took[1:]):>10,.0f} events/s; throughput ratio {ratio(base[0][1:], took[1:])}; "
                  f"log loss {paired(losses)}, minus model.fit's {paired(losses - base[1])}")


def _turns(trainers: dict[str, tuple[Trainer, Iterator[Any]]], steps: int, turns: int) -> dict[str, list[float]]:
    rates = np.full(16, 1e-3, np.float32)
    took: dict[str, list[float]] = {k: [] for k in trainers}
    for turn in range(turns + 1):
        for name, (trainer, batches) in trainers.items():
            started = time.monotonic()
            for _ in range(steps // 16):
                trainer._train_steps(batches, tensorflow().constant(rates), tensorflow().constant(16))
            if turn:
                took[name].append((time.monotonic() - started) / steps)
    return took


def inputs(rows: int, turns: int) -> None:
    tf = tensorflow()
    for vocabulary in (20_000, 200_000):
        with tempfile.TemporaryDirectory() as folder:
            examples = Examples(files_of(Path(folder), rows, vocabulary, 2), FIELDS, BATCH, 16_384, seed=1)
            trainer = Trainer(Clicks(vocabulary), place(1, "float32"), BATCH, 1.0, seed=3)
            some = list(zip(range(8), examples.batches(), strict=False))
            cached = iter(trainer.shared(tf.data.Dataset.from_tensors(some[0][1]).repeat()))
            memory = tf.data.Dataset.from_tensor_slices({k: np.stack([b[k] for _, b in some]) for k in some[0][1]}).repeat()
            held = iter(trainer.shared(memory))
            real = iter(trainer.shared(examples.dataset(tf)))
            steps = 64
            turns = min(turns, examples.steps // steps - 2)
            took = _turns({"cached": (trainer, cached), "eight cached": (trainer, held), "real": (trainer, real)}, steps, turns)
            print(f"vocabulary {vocabulary:,}: " + ", ".join(f"{k} {np.median(v) * 1e3:.2f} ms a step" for k, v in took.items())
                  + f"; real / cached {ratio(took['real'], took['cached'])}, real / eight cached {ratio(took['real'], took['eight cached'])}")


def options(turns: int) -> None:
    tf = tensorflow()
    vocabulary = 20_000
    batch = {k: v[:BATCH] for k, v in events(BATCH, vocabulary, 2).items()} | {"weight": np.ones(BATCH, np.float32)}
    made = {
        "plain": Trainer(Clicks(vocabulary), place(1, "float32"), BATCH, 1.0, 3),
        "xla": Trainer(Clicks(vocabulary), place(1, "float32"), BATCH, 1.0, 3, xla=True),
        "accumulate 4": Trainer(Clicks(vocabulary), place(1, "float32"), BATCH, 1.0, 3, accumulate=4),
        "mixed_bfloat16": Trainer(Clicks(vocabulary), place(1, "mixed_bfloat16"), BATCH, 1.0, 3),
    }
    took = _turns({
        k: (t, iter(t.shared(tf.data.Dataset.from_tensors(batch).repeat())))
        for k, t in made.items()}, 64, turns)
    for name, seconds in took.items():
        print(f"{name:16} {np.median(seconds) * 1e3:6.2f} ms a step; plain / this {ratio(took['plain'], seconds)}")


def memory_of(rows: int, vocabulary: int) -> None:
    """Trains one epoch over the events and prints its own peak memory; files are written a block at a time."""
    with tempfile.TemporaryDirectory() as folder:
        files = files_of(Path(folder), rows, vocabulary, 2)
        trainer = Trainer(Clicks(vocabulary), place(1, "float32"), 4096, 1.0, seed=3, rows="adagrad")
        started = time.monotonic()
        history = trainer.fit(Examples(files, FIELDS, 4096, 65_536, seed=1), None, Plan(1, 3e-2, 1))
        took = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{rows:>11,} events, vocabulary {vocabulary:>9,}: peak {peak:,.0f} MiB, {rows / took:,.0f} events/s, loss {history[-1]['loss']:.4f}")


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("throughput", "inputs", "options", "memory"))
    p.add_argument("--rows", type=int, default=200_000)
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--vocabulary", type=int, nargs="+", default=[10_000, 200_000])
    p.add_argument("--turns", type=int, default=10)
    p.add_argument("--full", action="store_true", help="memory: 10 million events too")
    p.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args(argv)
    if args.what == "throughput":
        throughput(args.rows, tuple(args.vocabulary), args.epochs)
    elif args.what == "inputs":
        inputs(max(args.rows, 1_000_000), args.turns)
    elif args.what == "options":
        options(args.turns)
    elif args.one:
        memory_of(args.rows, args.vocabulary[0])
    else:
        sizes = [(500_000, 10_000), (2_000_000, 10_000), (500_000, 1_000_000)] + ([(10_000_000, 200_000)] if args.full else [])
        for rows, vocabulary in sizes:
            subprocess.run([sys.executable, __file__, "memory", "--one", "--rows", str(rows), "--vocabulary", str(vocabulary)], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
