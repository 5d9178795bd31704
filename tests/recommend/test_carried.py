"""What another shop's towers bring: they help a small shop whose shoppers choose alike, are left where they mislead, and items are never mistaken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nightmarket.learn.strategy import place
from nightmarket.recommend import carried, search, stages, towers
from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.histories import Histories, seconds
from nightmarket.shop import Model, Transfer
from tests.recommend import synthetic

STYLES = 6
CUT = float(seconds(synthetic.moment(86)))
SETTINGS = Model(embedding_dim=8, candidates=30, epochs=6, max_history=5, fit_days=28, holdout_days=14, batch_size=64, bootstrap=200, learning_rate=1e-2)
WAYS: tuple[carried.Way, ...] = ("full", "joint")


def shop(name: str, users: int, items: int, seed: int) -> tuple[pa.Table, pa.Table]:
    """Each item's title is its style, and each shopper buys one style."""
    rng = np.random.default_rng(seed)
    names = [f"{name}{n:03d}" for n in range(items)]
    style = np.arange(items) % STYLES
    rows = []
    for n in range(users):
        own, events, day = np.flatnonzero(style == rng.integers(STYLES)), [], float(rng.uniform(0, 20))
        while day < 86:
            events.append((day, "purchase", names[int(rng.choice(own))]))
            day += float(rng.exponential(9)) + 1.0
        rows.append(synthetic.history(f"{name}-u{n:04d}", events))
    return synthetic.features(rows), synthetic.catalogue(names, {i: f"style{style[n]}" for n, i in enumerate(names)})


def read(made: tuple[pa.Table, pa.Table]) -> tuple[Histories, Catalogue]:
    past = Histories.from_table(made[0]).before(CUT).compact()
    return past, Catalogue.of(past.item_ids, made[1])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> carried.Source:
    """Of a shop with 300 shoppers and 60 other products."""
    past, catalogue = read(shop("large", 300, 60, 1))
    shape = stages.shape_of(past, SETTINGS)
    trainer = stages.trainer(stages.task_of(past, catalogue, shape, SETTINGS), SETTINGS, place(1))
    stages.stage(trainer, past, shape, float(past.time.min()), CUT, 0, SETTINGS, tmp_path_factory.mktemp("source"))
    return carried.Source("elsewhere", stages.Towers(trainer.model, shape, stages.names_of(past)), catalogue, CUT, past)


@pytest.fixture(scope="module")
def period(tmp_path_factory: pytest.TempPathFactory) -> stages.Period:
    """Of a shop with 40 shoppers and 120 products: few of them were bought twice."""
    past, catalogue = read(shop("small", 40, 120, 3))
    (made,) = search.periods_of(past, lambda _: catalogue, float(past.time.min()), [CUT - 28 * 86_400.0], SETTINGS, tmp_path_factory.mktemp("period"))
    return made


def asked(source: carried.Source, period: stages.Period, work: Path, *ways: carried.Way, cut: float = CUT) -> dict[str, Any]:
    wanted = SETTINGS.model_copy(update={"transfer": Transfer(source="elsewhere", ways=ways)})
    return carried.settle(source, lambda: period, wanted, place(1), work, cut)


def test_what_is_frozen_when() -> None:
    paths = ["word/embeddings", "identity/embeddings", "content_in/kernel", "content_out/kernel", "gap_of/embeddings", "pool/query/kernel",
             "country_of/embeddings", "history_out/bias"]
    body = ["word/embeddings", "content_in/kernel", "gap_of/embeddings", "pool/query/kernel"]
    assert carried.steps("frozen", paths) == [(body, 1.0)]
    assert carried.steps("gradual", paths) == [(body, 1.0), (["gap_of/embeddings", "word/embeddings"], 0.5), ([], 0.25)]
    assert carried.steps("full", paths) == [([], 0.5)] and carried.steps("scratch", paths) == [([], 1.0)]


@pytest.mark.tensorflow
def test_a_way_is_closed_to_what_does_not_fit_or_comes_from_the_future(source: carried.Source, period: stages.Period, tmp_path: Path) -> None:
    found = asked(source, period, tmp_path, "full", cut=CUT - 1)
    assert found["way"] == "scratch" and found["closed"] == {"full": "elsewhere has seen days after this night's cut"}
    assert carried.told(found) == ["full was not tried: elsewhere has seen days after this night's cut."]
    wide, grouped = SETTINGS.model_copy(update={"embedding_dim": 16}), SETTINGS.model_copy(update={"content_clusters": 5})
    assert source.unfit("gradual", wide, CUT) == "elsewhere is 8 wide, these towers 16; set model.embedding_dim to 8"
    assert source.unfit("full", grouped, CUT) == "elsewhere has 0 content clusters, these towers 5; set model.content_clusters to 0"
    assert not source.unfit("joint", wide, CUT - 1), "it learns anew, from days before the night's cut alone"
    assert "holds no histories" in replace(source, histories=None).unfit("joint", SETTINGS, CUT)


@pytest.mark.tensorflow
def test_nobody_chooses_between_the_items_of_two_shops(source: carried.Source, period: stages.Period, tmp_path: Path) -> None:
    import tensorflow as tf

    joint, files = carried._together(source, period.past, period.priced, 50, CUT, SETTINGS, place(1), tmp_path)
    border = period.past.items
    shape = joint.task.shape  # type: ignore[attr-defined]
    assert shape.items == border + source.towers.shape.items
    learnt = list(towers.examples(files, shape, 64, None).batches())
    assert sum(b["weight"].sum() for b in learnt) == pytest.approx(50, rel=1e-3), "all of the source's days weigh as much as the shop's own 50"
    assert 1_900 < sum((b["weight"] > 0).sum() for b in learnt) <= 2_000, "of its 2,000 and more days no more are learnt"
    theirs = learnt[0]
    assert theirs["targets"].max() > border and (theirs["targets"][theirs["targets"] > 0] > border).all()
    ours = next(towers.examples(list(period.learn), shape, 64, None).batches())
    for batch, lowest, highest in ((theirs, border + 1, shape.items), (ours, 1, border)):
        loss, logits = joint.task.scored(joint.model, {k: tf.constant(v) for k, v in batch.items()}, tf.constant(0, tf.int64))  # type: ignore[attr-defined]
        open_to = np.flatnonzero((logits.numpy() > -1e8).all(axis=0)) + 1
        assert (open_to.min(), open_to.max(), len(open_to)) == (lowest, highest, highest - lowest + 1)
        real = batch["weight"] > 0
        told = np.take_along_axis(logits.numpy(), np.maximum(batch["targets"] - 1, 0), axis=1)
        total = np.log(np.exp(logits.numpy().astype(np.float64)[:, open_to - 1]).sum(axis=1, keepdims=True))
        wanted = batch["targets"] > 0
        by_hand = np.where(wanted, total - told, 0.0).sum(axis=1)[real] / wanted.sum(axis=1)[real]
        assert loss.numpy()[real] == pytest.approx(by_hand, rel=1e-4), "softmax over the items of one shop"


@pytest.mark.tensorflow
def test_it_helps_a_small_shop_whose_shoppers_choose_alike_and_is_left_where_it_misleads(
    source: carried.Source, period: stages.Period, tmp_path: Path,
) -> None:
    found = asked(source, period, tmp_path / "alike", "full", "joint")
    print(found)
    assert found["way"] == found["best"] != "scratch" and found["gain"]["low"] > 0
    assert max(found["losses"]["full"], found["losses"]["joint"]) < found["losses"]["scratch"]

    # the same shop, were its shoppers to buy what they like least
    last = source.towers.model.get_layer("history_tower").get_layer("history_out")
    before = last.get_weights()
    last.set_weights([-w for w in before])
    found = asked(source, period, tmp_path / "opposite", "frozen")
    last.set_weights(before)
    print(found)
    assert found["best"] == "frozen" and found["way"] == "scratch"
