"""Trains the line of test_loop in a process of its own and prints weights and losses as JSON."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from nightmarket.learn import loop, strategy
from tests.learn.test_loop import Line, data, plan, weights


class Marked(loop.Trainer):
    """Says on disk when a step is done, and takes its time."""

    marker: Path
    pause: float
    steps = 0

    def fit(self, *args: Any, **kwargs: Any) -> list[dict[str, float]]:
        compiled = self._train_steps

        def marked(batches: Any, rates: Any, count: Any) -> Any:
            answer = compiled(batches, rates, count)
            self.steps += int(count)
            with self.marker.open("ab") as out:
                out.write(b"." * int(count))
            time.sleep(self.pause)
            return answer

        self._train_steps = marked
        return super().fit(*args, **kwargs)


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("folder", type=Path)
    p.add_argument("--replicas", type=int, default=1)
    p.add_argument("--slow", type=float, default=0.0)
    args = p.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    placed = strategy.place(args.replicas, "float32")
    made = Marked(Line(), placed, 32, 1.0, seed=3, weight_decay=1e-3)
    made.marker, made.pause = args.folder / "steps", args.slow
    start = weights(made.model)
    history = made.fit(data(args.folder), None, plan(epochs=3, checkpoint_steps=1, warmup_steps=5), args.folder / "kept")
    print(json.dumps({"replicas": placed.replicas, "history": history, "steps": made.steps,
                      "start": [w.tolist() for w in start], "weights": [w.tolist() for w in weights(made.model)]}))


if __name__ == "__main__":
    main()
