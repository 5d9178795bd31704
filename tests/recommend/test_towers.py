"""The towers: thinned histories while they learn, whole ones while they are judged; vectors shared by products of like content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nightmarket.recommend.catalogue import Catalogue

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


TITLES = ["red glass lamp", "green glass lamp", "blue glass lamp", "paper party bunting", "pink party bunting", "party bunting spots",
          "wool hand warmer", "hand warmer owl", "hand warmer bird", ""]
GROUPS = [(0, 1, 2), (3, 4, 5), (6, 7, 8)]


def catalogue(titles: list[str]) -> Catalogue:
    blank = np.full(len(titles), "", dtype=object)
    return Catalogue(np.array([f"p{n}" for n in range(len(titles))], dtype=object), np.array(titles, dtype=object), blank,
                     np.full(len(titles), np.nan, np.float32))


def shared(model: object, titles: list[str]) -> np.ndarray:
    """(titles, dim) what the item tower adds to each for its cluster: its vector with the clusters' vectors less that without."""
    from nightmarket.recommend import towers

    content, codes = catalogue(titles).hashed(), np.zeros(len(titles), np.int32)
    table = model.get_layer("item_tower").get_layer("cluster")  # type: ignore[attr-defined]
    before = table.get_weights()
    found = towers.item_vectors(model, codes, content)
    table.set_weights([np.zeros_like(before[0])])
    bare = towers.item_vectors(model, codes, content)
    table.set_weights(before)
    return found - bare


def test_products_of_like_content_share_a_vector_and_so_does_one_that_comes_later(tmp_path: Path) -> None:
    import keras

    from nightmarket.recommend import compact, towers

    shape = towers.TowerShape(items=len(TITLES), countries=1, dim=8, history=4, clusters=3)
    task = towers.RetrievalTask(shape, towers.content_table(catalogue(TITLES)), np.ones(len(TITLES) + 1), seed=3)
    model = task.build()
    vectors = shared(model, TITLES)
    for group in GROUPS:
        for item in group[1:]:
            assert np.allclose(vectors[item], vectors[group[0]], atol=1e-6), TITLES[item]
    first = vectors[[g[0] for g in GROUPS]]
    assert len(np.unique(first.round(5), axis=0)) == 3 and np.abs(first).max() > 0.01
    assert not vectors[-1].any(), "nothing is known of it, so it is like no other"
    later = shared(model, ["golden party bunting", "glass lamp with feet", "unheard of"])
    assert np.allclose(later[:2], first[[1, 0]], atol=1e-6)

    grown = towers.build(replace(shape, items=len(TITLES) + 2))
    towers.take_over(grown, model, {"identity": (np.arange(1, len(TITLES) + 1), np.arange(1, len(TITLES) + 1)),
                                    "country_of": (np.array([1]), np.array([1]))})
    assert np.allclose(shared(grown, TITLES), vectors, atol=1e-6), "the next night's towers have the same clusters"
    model.save(tmp_path / "towers.keras")
    compact.pack(model, tmp_path / "towers.int8.npz", "int8")
    for kept in (keras.models.load_model(tmp_path / "towers.keras", compile=False, safe_mode=True), compact.unpack(tmp_path / "towers.int8.npz")):
        assert np.allclose(shared(kept, TITLES), vectors, atol=5e-3)
    assert all(np.array_equal(a, b) for a, b in zip(task.build().get_layer("item_tower").get_layer("cluster_near").get_weights(),
                                                    model.get_layer("item_tower").get_layer("cluster_near").get_weights(), strict=True))


@pytest.mark.parametrize("titles", [["", ""], ["one lamp", "one lamp", "one lamp"]])
def test_more_clusters_than_products_that_differ(titles: list[str]) -> None:
    from nightmarket.recommend import towers

    shape = towers.TowerShape(items=len(titles), countries=1, dim=8, history=4, clusters=50)
    model = towers.RetrievalTask(shape, towers.content_table(catalogue(titles)), np.ones(len(titles) + 1), seed=3).build()
    vectors = shared(model, titles)
    assert np.isfinite(vectors).all() and np.allclose(vectors, vectors[0], atol=1e-6)
