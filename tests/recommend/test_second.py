"""The second stage: when the behaviours hurt the order they get a network of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightmarket.recommend import ranker, second
from nightmarket.recommend.second import Lists, Plan, Second

PLAN = Plan(rounds=20, epochs=10, hidden=(8, 4), members=2, least_lists=20, heads=("view", "purchase"), sampled=0, batch=16, network_rate=2e-2)


def lists(n: int = 240, length: int = 8, seed: int = 4) -> Lists:
    """What is bought is what the first feature says; what is viewed is what the second one does; the signal knows nothing."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, length, 4)).astype(np.float32)
    bought = features[..., 0] == features[..., 0].max(axis=1, keepdims=True)
    behaviours = np.zeros((n, length, len(ranker.TASKS)), bool)
    behaviours[..., ranker.TASKS.index("view")] = features[..., 1] > 0.5
    behaviours[..., ranker.TASKS.index("purchase")] = bought
    return Lists(features, bought, np.ones((n, length), bool), np.ones(n, np.int64), np.arange(n) * 3 // n, {"own": rng.random((n, length))}, behaviours)


def test_a_loss_of_more_than_its_standard_error_separates() -> None:
    together, alone = np.array([0.2, 0.4, 0.6, 0.8]), np.array([0.3, 0.4, 0.7, 0.8])
    # losses 0.1, 0, 0.1, 0: mean 0.05, deviation 0.05, so an error of 0.025
    assert second._together(together, alone) == {"order_together": 0.5, "order_alone": 0.55, "error": 0.025, "separated": True}
    assert not second._together(alone, together)["separated"]
    assert not second._together(together, together)["separated"]
    # losses 0.1, 0, 0, 0: mean 0.025, deviation 0.0433, error 0.0217; with one more gain it is chance
    assert not second._together(together, np.array([0.3, 0.35, 0.6, 0.8]))["separated"]


@pytest.mark.tensorflow
@pytest.mark.parametrize("separated", [True, False])
def test_separated_tasks_keep_a_network_each(separated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[tuple[np.ndarray, np.ndarray]] = []

    def verdict(together: np.ndarray, alone: np.ndarray) -> dict[str, Any]:
        judged.append((together, alone))
        return {"order_together": 0.0, "order_alone": 0.0, "error": 0.0, "separated": separated}

    monkeypatch.setattr(second, "_together", verdict)
    shown = lists()
    made = second.fit(shown, PLAN, tmp_path / "fit", "own")
    assert len(judged) == 1 and len(judged[0][0]) == len(judged[0][1]) == 80, "both are judged on the newest moment's lists"
    assert made.account["tasks"]["separated"] is separated and set(made.account["thresholds"]) == {"view", "purchase"}
    assert (made.heads is not None) is separated
    assert "network" in made.weights
    one = ranker.scorer(made.network)(shown.features)
    answer = made.logits(shown.features)
    np.testing.assert_array_equal(answer[..., 0], one[..., 0])
    if separated:
        np.testing.assert_array_equal(answer[..., 1:], ranker.scorer(made.heads)(shown.features)[..., 1:])
        assert made.parameters == 2 * int(made.network.count_params())
    view = answer[..., 1 + ranker.TASKS.index("view")]
    seen = shown.features[..., 1] > 0.5
    assert view[seen].mean() > view[~seen].mean() + 0.5, "the views' head has learnt what is viewed"

    before = [w.copy() for w in made.network.get_weights()]
    again = second.refresh(made, shown, PLAN, tmp_path / "refresh")
    assert (again.heads is not None) is separated
    assert any(np.abs(a - b).max() > 0 for a, b in zip(again.network.get_weights(), before, strict=True))
    assert isinstance(again, Second) and again.weights == made.weights
