"""Pictures are drawn, and the same input gives the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nightmarket.screen import pictures
from nightmarket.screen.decisions import Costs


def test_each_picture_is_drawn_the_same_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    label = (rng.random(3000) < 0.05).astype(int)
    score = np.clip(label * 0.4 + rng.beta(1, 6, 3000), 0, 1)
    edges = [(f"account {i}", f"device {i % 2}") for i in range(7)] + [("account 3", "ip 10.0.0.4"), ("account 6", "ip 10.0.0.4")]
    kinds = {n: n.split()[0] for e in edges for n in e}
    days = [f"2026-03-0{1 + i % 7}" for i in range(80)]
    why = ["amount 5 times its usual", "device of 9 accounts", "terminal with known bad rows", "near-copy of a review"]
    made = []
    for run in ("one", "two"):
        folder = tmp_path / run
        folder.mkdir()
        made.append([
            pictures.precision_recall(folder / "pr.png", label, {"Nightmarket": score, "Isolation Forest": rng.permutation(score) if run == "none" else score * 0.9}, "Payments"),
            pictures.cost_curve(folder / "cost.png", label, score, Costs(), 0.2, "What each threshold costs"),
            pictures.alerts_by_reason(folder / "alerts.png", days, [why[i % 4] for i in range(80)], "Alerts of the week"),
            pictures.ring(folder / "ring.png", edges, kinds, ["account 3", "device 1"], "Case 7"),
        ])
    for one, two in zip(*made, strict=True):
        assert one.read_bytes() == two.read_bytes() and one.stat().st_size > 5000
