"""The towers' task: thinned histories while it learns, whole ones while it is judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow


def test_a_step_leaves_out_events_and_judging_leaves_out_none() -> None:
    import tensorflow as tf

    from nightmarket.recommend import towers

    shape = towers.TowerShape(items=9, countries=1, dim=8, history=40)
    content = {"words": np.zeros((10, 12), np.int32), "category": np.zeros(10, np.int32), "price": np.zeros(10, np.int32)}
    whole = towers.RetrievalTask(shape, content, np.ones(10), seed=3)
    thin = replace(whole, dropout=0.25)
    rng = np.random.default_rng(1)
    batch = {k: tf.constant(rng.integers(1, most, (50, 40)), tf.int32) for k, most in (("items", 10), ("kind", 4), ("gap", 9))}
    batch |= {"country": tf.zeros(50, tf.int32), "targets": tf.constant(np.eye(1, 16, dtype=np.int32).repeat(50, 0) * 4)}
    first, again, other = (thin.thinned(batch, tf.constant(n, tf.int64)) for n in (7, 7, 8))
    left_out = first["kind"].numpy() == 0
    assert left_out.mean() == pytest.approx(0.25, abs=0.05)
    for name in ("items", "kind", "gap"):
        assert np.array_equal(first[name].numpy(), np.where(left_out, 0, batch[name].numpy())) and np.array_equal(first[name], again[name])
    assert not np.array_equal(left_out, other["kind"].numpy() == 0) and first["targets"] is batch["targets"]
    model = thin.build()
    said = thin.valid_losses(model, batch).numpy()
    assert np.array_equal(said, whole.losses(model, batch, tf.constant(7, tf.int64)).numpy())
    assert not np.allclose(said, thin.losses(model, batch, tf.constant(7, tf.int64)).numpy())
