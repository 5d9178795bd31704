"""What smaller, hashed, narrowed and transferred models cost, on published clothing reviews (is the piece recommended?).

  python benchmarks/compact.py compression    SavedModel and LiteRT in float32, float16, int8; pruned; distilled: size, latency, loss
  python benchmarks/compact.py hashing        words and categories with a row each against hashed and shared rows
  python benchmarks/compact.py reduction      all TF-IDF columns against L1 selection and principal components
  python benchmarks/compact.py transfer       from the large departments to a small one: four ways against scratch
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from nightmarket.evaluate.bootstrap import difference
from nightmarket.learn.compress import latency, lite, lite_runner, prune, save
from nightmarket.learn.multitask import Fit, Shape, Target, learn, logits_of, probabilities
from nightmarket.learn.narrow import components, cost, everything, select
from nightmarket.learn.strategy import place, tensorflow
from nightmarket.learn.tabular import Encoder, Sizes
from nightmarket.learn.tasks import row_losses
from nightmarket.learn.transfer import Data, distil, transfer
from nightmarket.shop import PROJECT

TARGETS = [Target("recommended")]
COLUMNS = ["text", "Age", "Clothing ID"]
SIZES = Sizes(word_rows=1 << 15, words=120)


def table(data: Path, rows: int) -> tuple[pd.DataFrame, np.ndarray]:
    frame = pd.read_parquet(data / "reviews" / "womens_clothing.parquet")
    frame["text"] = frame["Title"].fillna("") + " . " + frame["Review Text"].fillna("")
    frame["Clothing ID"] = frame["Clothing ID"].astype(str)
    frame = frame[frame["Department Name"].notna()].sample(frac=1.0, random_state=5)[:rows].reset_index(drop=True)
    return frame, frame["Recommended IND"].to_numpy(np.float64)


def shares(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(learners, watchers, test) masks; the rows are drawn already."""
    place_ = np.arange(rows) / rows
    return place_ < 0.6, (place_ >= 0.6) & (place_ < 0.75), place_ >= 0.75


def fitted(frame: pd.DataFrame, label: np.ndarray, sizes: Sizes, shape: Shape, how: Fit, columns: list[str] = COLUMNS) -> Any:
    learners, watchers, _ = shares(len(frame))
    encoder = Encoder.fit(frame[learners], columns, sizes, texts=("text",))
    encoded = encoder.encode(frame)
    return learn(encoder, encoded, {"recommended": label}, TARGETS, learners, watchers, shape, how, place(1, "float32")), encoded


def compression(frame: pd.DataFrame, label: np.ndarray, how: Fit) -> None:
    tf = tensorflow()
    network, encoded = fitted(frame, label, SIZES, Shape("shared_bottom", 16, (256, 128), 32), how)
    learners, _, test = shares(len(frame))
    rows = {k: v[test] for k, v in encoded.items()}
    one = {k: v[:1] for k, v in rows.items()}

    def losses(logits: np.ndarray) -> np.ndarray:
        return row_losses(TARGETS[0], probabilities(logits, TARGETS, {})["recommended"], label[test])

    base = losses(logits_of(network.model, rows))
    print(f"{'':22}{'bytes':>12}{'one row, ms (median, 99th)':>30}{'log loss':>10}  loss more than the original's")

    def line(name: str, size: int, took: tuple[float, float], found: np.ndarray) -> None:
        print(f"{name:22}{size:12,}{took[0] * 1e3:18.3f}, {took[1] * 1e3:8.3f}{found.mean():12.4f}  {difference(found, base, 400, 17)}")

    student = distil([network], Data({k: v[~test] for k, v in encoded.items()}, {"recommended": label[~test]}, ~learners[~test]), TARGETS,
                     Shape("shared_bottom", 4, (32,), 16), replace(how, epochs=3 * how.epochs), place(1, "float32"))
    pupil = learn(network.encoder, encoded, {"recommended": label}, TARGETS, learners, shares(len(frame))[1],
                  Shape("shared_bottom", 4, (32,), 16), replace(how, epochs=3 * how.epochs), place(1, "float32"))
    print(f"the student's network without a teacher: loss more {difference(losses(logits_of(pupil.model, rows)), base, 400, 17)}")
    with tempfile.TemporaryDirectory() as folder:
        for name, model in (("", network.model), ("student ", student.model)):
            for precision in ("float32", "float16", "int8"):
                size = save(model, Path(folder) / f"{name}{precision}", precision)  # type: ignore[arg-type]
                loaded = tf.saved_model.load(str(Path(folder) / f"{name}{precision}"))
                took = latency(lambda loaded=loaded: loaded.serve({k: tf.constant(v) for k, v in one.items()}))  # type: ignore[misc]
                line(f"{name}SavedModel {precision}", size, took, losses(loaded.serve({k: tf.constant(v) for k, v in rows.items()}).numpy()))
                file = lite(model, precision)  # type: ignore[arg-type]
                run = lite_runner(file)
                took = latency(lambda run=run: run(one))  # type: ignore[misc]
                line(f"{name}LiteRT {precision}", len(file), took, losses(run(rows)))
        before = network.model.get_weights()
        for share in (0.5, 0.8, 0.9):
            network.model.set_weights(before)
            zero = prune(network.model, share)
            print(f"pruned {share:.0%} of kernels ({zero:.1%} of all weights 0): loss more {difference(losses(logits_of(network.model, rows)), base, 400, 17)}")


def hashing(frame: pd.DataFrame, label: np.ndarray, how: Fit) -> None:
    base: np.ndarray | None = None
    _, _, test = shares(len(frame))
    for name, sizes in (("a row each, 65,536 words", Sizes(word_rows=1 << 16, words=120)),
                        ("hashed to 1,024, 65,536 words", Sizes(table_rows=1024, always_hashed=True, word_rows=1 << 16, words=120)),
                        ("hashed to 128, 65,536 words", Sizes(table_rows=128, always_hashed=True, word_rows=1 << 16, words=120)),
                        ("hashed to 128, 8,192 words", Sizes(table_rows=128, always_hashed=True, word_rows=1 << 13, words=120)),
                        ("hashed to 128, 1,024 words", Sizes(table_rows=128, always_hashed=True, word_rows=1 << 10, words=120))):
        network, encoded = fitted(frame, label, sizes, Shape("shared_bottom", 8, (64,), 16), how)
        said = network.predict({k: v[test] for k, v in encoded.items()})["recommended"]
        found = row_losses(TARGETS[0], said, label[test])
        base = found if base is None else base
        print(f"{name:32}{network.model.count_params():>10,} weights  log loss {found.mean():.4f}, more than the first's "
              f"{difference(found, base, 400, 17)}  ROC AUC {roc_auc_score(label[test], said):.4f}")


def reduction(frame: pd.DataFrame, label: np.ndarray) -> None:
    learners, watchers, test = shares(len(frame))
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True).fit(frame["text"][learners])
    x = words.transform(frame["text"])
    base: np.ndarray | None = None
    for how, width in (("all", 0), ("l1", 1000), ("l1", 200), ("pca", 200), ("pca", 50)):
        started = time.monotonic()
        made = everything(x) if how == "all" else (select if how == "l1" else components)(*(
            (x[learners], label[learners], width) if how == "l1" else (x[learners], width)))
        narrow = made.apply(x)
        best = min((LogisticRegression(C=c, max_iter=500).fit(narrow[learners], label[learners]) for c in (0.3, 1.0, 3.0, 10.0)),
                   key=lambda m: row_losses(TARGETS[0], m.predict_proba(narrow[watchers])[:, 1], label[watchers]).mean())
        said = best.predict_proba(narrow[test])[:, 1]
        found = row_losses(TARGETS[0], said, label[test])
        base = found if base is None else base
        print(f"{how:4} {made.width:6,} of {made.wide:,} columns, {time.monotonic() - started:5.1f} s: log loss {found.mean():.4f}, more than all columns' "
              f"{cost(base, found)}  ROC AUC {roc_auc_score(label[test], said):.4f}")


def transferred(frame: pd.DataFrame, label: np.ndarray, how: Fit) -> None:
    sizes, shape = replace(SIZES, always_hashed=True), Shape("shared_bottom", 8, (64,), 16)
    small = (frame["Department Name"].isin(["Jackets", "Trend"])).to_numpy()
    from_, to = frame[~small].reset_index(drop=True), frame[small].reset_index(drop=True)
    source, _ = fitted(from_, label[~small], sizes, shape, how, ["text", "Age"])
    for rows in (60, 200, 400):
        encoder = Encoder.fit(to[:rows], ["text", "Age"], sizes, texts=("text",))
        theirs = Data(encoder.encode(from_), {"recommended": label[~small]}, ~shares(len(from_))[0])
        ours = Data(encoder.encode(to), {"recommended": label[small]}, np.arange(len(to)) >= rows)
        made = transfer(source, theirs, ours, encoder, TARGETS, shape, replace(how, batch_size=32), place(1, "float32"))
        print(f"{rows} rows of the small departments: kept {made.way}, gain over scratch {made.gain}; "
              + ", ".join(f"{k} {v:.4f}" for k, v in made.losses.items()))


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("compression", "hashing", "reduction", "transfer"))
    p.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", metavar="FOLDER")
    p.add_argument("--rows", type=int, default=8_000)
    p.add_argument("--epochs", type=int, default=8)
    args = p.parse_args(argv)
    frame, label = table(args.data, args.rows)
    how = Fit(epochs=args.epochs, patience=2)
    if args.what == "compression":
        compression(frame, label, how)
    elif args.what == "hashing":
        hashing(frame, label, how)
    elif args.what == "reduction":
        reduction(frame, label)
    else:
        transferred(frame, label, how)
    return 0


if __name__ == "__main__":
    sys.exit(main())
