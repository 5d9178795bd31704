"""A warm start takes the earlier model's weights by name of item and country, learns the newest days, and is checked for forgetting."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from nightmarket.evaluate.forgetting import lost, older
from nightmarket.evaluate.protocol import Holdout
from nightmarket.recommend import training
from nightmarket.recommend.model import CannotStartWarm, Recommender
from nightmarket.shop import Model
from tests.recommend import synthetic

pytestmark = pytest.mark.tensorflow
SETTINGS = Model(embedding_dim=8, candidates=30, epochs=1, max_history=10, fit_days=14, holdout_days=14, bootstrap=50)


@pytest.fixture(scope="module")
def shop() -> Any:
    return synthetic.shop(users=60, items=20)


@pytest.fixture(scope="module")
def before(shop: Any, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    table, items = shop
    return Recommender.fit(table, items, synthetic.moment(70), SETTINGS, tmp_path_factory.mktemp("before"))


def tables(model: Recommender) -> dict[str, np.ndarray]:
    return {v.path.split("/")[-2]: v.numpy() for v in model._towers.model.variables if v.path.endswith("embeddings")}


def test_rows_are_found_by_name() -> None:
    old, new = training._rows_of(["a", "b", "c"], ["c", "x", "a"])
    assert (list(old), list(new)) == ([3, 1], [1, 3])
    assert [len(v) for v in training._rows_of(["a"], ["b"])] == [0, 0]


def test_without_new_days_it_is_the_earlier_model(shop: Any, before: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to learn: the same answers, score for score."""
    table, items = shop
    monkeypatch.setattr(training.towers, "write", lambda *_, **__: ([], 0))
    warm = Recommender.fit(table, items, synthetic.moment(70), SETTINGS, tmp_path, warm=before, refresh=False)
    one, other = (m.recommend(table, synthetic.moment(80), 5).to_pylist() for m in (warm, before))
    assert [(r["audience_id"], r["item_id"]) for r in one] == [(r["audience_id"], r["item_id"]) for r in other]
    assert [r["score"] for r in one] == pytest.approx([r["score"] for r in other], abs=1e-5)


def weights(model: Any) -> list[np.ndarray]:
    return [v.numpy() for v in model.variables]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_between_nights_it_learns_and_keeps_the_ranker(shop: Any, before: Recommender, tmp_path: Path) -> None:
    table, items = shop
    warm = Recommender.fit(table, items, synthetic.moment(84), SETTINGS, tmp_path / "a", warm=before, refresh=False)
    again = Recommender.fit(table, items, synthetic.moment(84), SETTINGS, tmp_path / "b", warm=before, refresh=False)
    now, was = tables(warm)["identity"], tables(before)["identity"]
    assert not np.array_equal(now, was), "the towers learnt"
    assert np.array_equal(now, tables(again)["identity"]), "the same start, the same end"
    assert same(weights(warm._second.network), weights(before._second.network))
    assert warm.config["cut"].startswith(synthetic.moment(84).date().isoformat())
    assert warm.config["aside"] == before.config["aside"], "what the next night goes on from waits"
    assert same(weights(warm._set_aside()), weights(before._set_aside()))
    warm.save(tmp_path / "saved")
    assert Recommender.load(tmp_path / "saved").config["thresholds"] == before.config["thresholds"]


def test_an_item_born_after_the_cut_is_admitted_and_older_days_are_learnt_again(
    shop: Any, before: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From day 71 on everybody buys `born`; a shopper joins too. The warm start of day 77 learns the days from 63 on, not from 70."""
    table, items = shop
    rows = table.to_pylist()
    for row in rows:
        for day in (71.0, 74.0):
            at = int(synthetic.moment(day).timestamp())
            n = sum(t <= at for t in row["event_times"])
            for column, value in (("item_ids", "born"), ("event_types", "purchase"), ("event_times", at), ("quantities", 1.0), ("unit_prices", 2.5)):
                row[column].insert(n, value)
    newcomer = synthetic.history("newcomer", [(75.0, "purchase", "born"), (76.0, "purchase", "i003")])
    grown = synthetic.features([*rows, newcomer])
    known = synthetic.catalogue([*items["item_id"].to_pylist(), "born"])
    lessons: list[tuple[float, float, int, int]] = []
    write = training.towers.write

    def watched(folder: Path, name: str, events: Any, first: float, end: float, *more: Any, **options: Any) -> Any:
        _, new = write(tmp_path / "new", name, events, synthetic.moment(70).timestamp(), end, *more, **options)
        files, examples = write(folder, name, events, first, end, *more, **options)
        lessons.append((first, end, examples, new))
        return files, examples

    monkeypatch.setattr(training.towers, "write", watched)
    warm = Recommender.fit(grown, known, synthetic.moment(77), SETTINGS, tmp_path / "warm", warm=before, refresh=False)
    ((first, end, examples, new),) = lessons
    assert (first, end) == (synthetic.moment(63).timestamp(), synthetic.moment(77).timestamp())
    assert 0 < new < examples, "new days, and older ones beside them"
    # rows are found by name, and a new name gets one more: nothing is numbered anew for those that were known
    assert "born" in warm.catalogue.item_ids and set(before.catalogue.item_ids) == set(warm.catalogue.item_ids) - {"born"}
    assert len(tables(warm)["identity"]) == len(tables(before)["identity"]) + 1
    told = {r["item_id"]: r["rank"] for r in warm.recommend(grown, synthetic.moment(77), 20).to_pylist() if r["audience_id"] == "newcomer"}
    assert "born" in told, "and the newcomer has a list with it"


def test_a_night_makes_the_newest_lists_again_with_towers_that_have_not_seen_beyond_them(
    shop: Any, before: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    table, items = shop
    seen: list[tuple[str, float]] = []
    stage, lists = training.stages.stage, training._lists

    def staged(*given: Any) -> Any:
        seen.append(("learnt until", given[4]))
        return stage(*given)

    def listed(signals: Any, *given: Any) -> Any:
        seen.append(("lists of", signals.past.moment))
        return lists(signals, *given)

    monkeypatch.setattr(training.stages, "stage", staged)
    monkeypatch.setattr(training, "_lists", listed)
    before.save(tmp_path / "saved")
    # as far on as half a fit window: the lists' moments of then are those of before, moved
    warm = Recommender.fit(table, items, synthetic.moment(77), SETTINGS, tmp_path / "a", warm=Recommender.load(tmp_path / "saved"))
    day = 86_400.0
    moments = [synthetic.moment(n).timestamp() for n in (56, 63, 77)]
    assert before.config["aside"] == moments[0] - 7 * day
    assert seen == [("learnt until", moments[0]), ("lists of", moments[0]), ("learnt until", moments[1]), ("lists of", moments[1]), ("learnt until", moments[2])]
    assert warm.config["aside"] == moments[0]
    assert not same(weights(warm._set_aside()), weights(before._set_aside()))
    assert not same(weights(warm._second.network), weights(before._second.network))
    assert warm.config["weights"] == before.config["weights"] and warm.config["thresholds"] == before.config["thresholds"]
    assert warm.config["training"]["second"]["refreshed"]["with_hit"] >= 60
    again = Recommender.fit(table, items, synthetic.moment(77), SETTINGS, tmp_path / "b", warm=before)
    assert same(weights(warm._towers.model), weights(again._towers.model)) and same(weights(warm._second.network), weights(again._second.network))


def test_towers_that_were_not_set_aside_leave_the_ranker_as_it_is(shop: Any, before: Recommender, tmp_path: Path) -> None:
    table, items = shop
    older = Recommender(before.config, before.catalogue, before._towers.model, before._second)
    warm = Recommender.fit(table, items, synthetic.moment(77), SETTINGS, tmp_path, warm=older)
    assert same(weights(warm._second.network), weights(before._second.network)) and warm.config["aside"] is None


def test_what_does_not_fit_is_said(shop: Any, before: Recommender, tmp_path: Path) -> None:
    table, items = shop
    with pytest.raises(CannotStartWarm, match="has seen days after"):
        Recommender.fit(table, items, synthetic.moment(60), SETTINGS, tmp_path, warm=before)
    with pytest.raises(CannotStartWarm, match=r"dim 8, history 10, 0 content clusters and 30 candidates"):
        Recommender.fit(table, items, synthetic.moment(80), SETTINGS.model_copy(update={"embedding_dim": 16}), tmp_path, warm=before)


def test_forgetting_is_measured_on_days_that_both_have_learnt_from(shop: Any, before: Recommender, tmp_path: Path) -> None:
    table, items = shop
    span = older(synthetic.moment(70), 14, ZoneInfo("UTC"))
    assert span.end <= synthetic.moment(70) and span.end - span.cut == timedelta(days=14)
    same = lost(table, items, span, before, before, "ndcg@10", 1, 50)
    assert same is not None and (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    nobody = Holdout(synthetic.moment(-100), synthetic.moment(-90))
    assert lost(table, items, nobody, before, before, "ndcg@10", 1, 50) is None


def test_the_next_night_keeps_the_content_clusters_that_shop_yaml_asks_for(shop: Any, tmp_path: Path) -> None:
    """The whole model with them: trained, saved, loaded, asked, and started warm on later days."""
    table, items = shop
    settings = SETTINGS.model_copy(update={"content_clusters": 4})
    made = Recommender.fit(table, items, synthetic.moment(70), settings, tmp_path / "made")
    made.save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved")
    asked, again = (m.recommend(table, synthetic.moment(70), 5).to_pydict() for m in (made, loaded))
    assert asked["item_id"] == again["item_id"] and np.allclose(asked["score"], again["score"], rtol=1e-12)
    warm = Recommender.fit(table, items, synthetic.moment(78), settings, tmp_path / "warm", warm=loaded)

    def nearest(model: Recommender) -> list[np.ndarray]:
        return weights(model._towers.model.get_layer("item_tower").get_layer("cluster_near"))

    assert same(nearest(warm), nearest(made)), "or a product's vector would be another cluster's"
    with pytest.raises(CannotStartWarm, match="4 content clusters"):
        Recommender.fit(table, items, synthetic.moment(78), SETTINGS, tmp_path / "none", warm=loaded)
