"""jobs.evaluate: the table it publishes, the folder it leaves, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import evaluate, train
from nightmarket.contracts import EVALUATION, FEATURES
from nightmarket.lake import Lake
from nightmarket.recommend.histories import PURCHASE, Histories, seconds
from nightmarket.registry.candidate import folder_of, saved_in
from nightmarket.shop import Settings
from tests.jobs.learning import NIGHT, argv, put, shop
from tests.recommend.synthetic import moment

Make = Callable[..., Settings]


def test_without_a_candidate_it_is_refused(make_settings: Make, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(argv(shop(make_settings))) == 3
    assert "no candidate of 2026-04-10" in capsys.readouterr().err


def _ndcg_of_popularity(settings: Settings) -> tuple[float, int]:
    """The baseline's ndcg@10 and the judged shoppers, worked out from the table without the code under test."""
    held = Histories.from_table(Lake(settings.places.lake).at(FEATURES, NIGHT).arrow())
    past, future = held.before(seconds(moment(86))).of(PURCHASE), held.between(seconds(moment(86)), seconds(moment(100))).of(PURCHASE)
    buyers = [len({u for u, i in zip(past.user, past.item, strict=True) if i == item}) for item in range(held.items)]
    top = sorted(range(held.items), key=lambda i: (-buyers[i], i))[:10]
    found = []
    for user in sorted(set(past.user.tolist()) & set(future.user.tolist())):
        right = set(future.item[future.user == user].tolist())
        gain = sum(1 / np.log2(place + 2) for place, item in enumerate(top) if item in right)
        found.append(gain / sum(1 / np.log2(place + 2) for place in range(min(10, len(right)))))
    return float(np.mean(found)), len(found)


@pytest.mark.tensorflow
def test_a_night_is_judged_with_baselines_and_then_against_its_champion(make_settings: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    settings = shop(make_settings)
    assert train.main(argv(settings)) == 0
    assert evaluate.main(argv(settings)) == 0
    table = Lake(settings.places.lake).at(EVALUATION, NIGHT).arrow()
    found = {(r["model"], r["slice"], r["metric"]): r for r in table.to_pylist()}
    assert len(found) == table.num_rows
    models = {"challenger", "popularity", "recent_popularity", "personal_frequency", "item_item"}
    assert {m for m, _, _ in found} == models
    for model in models:
        for metric in ("ndcg@10", "recall@20", "mrr", "hit_rate@10", "coverage@20", "novelty@20"):
            row = found[model, "all", metric]
            assert row["low"] <= row["value"] <= row["high"], (model, metric)
    for task in ("view", "cart", "purchase", "next_category"):
        for metric in ("accuracy", "precision", "recall", "f1", "roc_auc", "average_precision"):
            row = found["challenger", "all", f"{task}_{metric}"]
            assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    assert {"history=light", "history=established", "items=head", "items=tail"} <= {s for _, s, _ in found}

    expected, shoppers = _ndcg_of_popularity(settings)
    row = found["popularity", "all", "ndcg@10"]
    assert row["value"] == pytest.approx(expected, abs=1e-12)
    assert row["users"] == shoppers

    folder = folder_of(settings, NIGHT) / "evaluation"
    said = json.loads((folder / "evaluation.json").read_text())
    with np.load(folder / "users.npz", allow_pickle=False) as arrays:
        own, other = arrays["challenger/ndcg@10"], arrays["popularity/ndcg@10"]
        assert len(arrays["user_ids"]) == len(own) == shoppers == said["holdout"]["shoppers"]
        assert own.mean() == pytest.approx(found["challenger", "all", "ndcg@10"]["value"], abs=1e-12)
        established = arrays["slice/history=established"]
        assert own[established].mean() == pytest.approx(found["challenger", "history=established", "ndcg@10"]["value"], abs=1e-12)
    apart = said["differences"]["popularity"]["all"]["ndcg@10"]
    assert apart["value"] == pytest.approx((own - other).mean(), abs=1e-12)
    assert apart["low"] < apart["value"] < apart["high"]
    assert said["plots"] == ["models.png", "differences.png", "slices.png", "heads_challenger.png", "confusion_challenger.png"]
    for task, cells in said["confusion"]["challenger"].items():
        precision = found["challenger", "all", f"{task}_precision"]["value"]
        assert cells["tp"] / max(cells["tp"] + cells["fp"], 1) == pytest.approx(precision), task
    for name in said["plots"]:
        assert (folder / "plots" / name).read_bytes().startswith(b"\x89PNG")

    made = Lake(settings.places.lake).manifest(EVALUATION, NIGHT)
    assert made is not None and made.notes["champion"] is None
    assert evaluate.main(argv(settings)) == 0
    assert Lake(settings.places.lake).manifest(EVALUATION, NIGHT) == made  # nothing was done again

    _with_a_champion(settings, monkeypatch)

    put(settings, FEATURES, Lake(settings.places.lake).at(FEATURES, NIGHT).arrow().slice(0, 60))
    assert evaluate.main(argv(settings)) == 3
    assert "made from another gold.features" in capsys.readouterr().err


def _with_a_champion(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The champion is the very same model: every difference must be exactly nothing."""
    from nightmarket.registry import client

    folder = folder_of(settings, NIGHT) / "model"

    class Champion:
        name, version, run_id, tags = "recommender", "7", "run", {"recipe": "champion's"}

        def __init__(self) -> None:
            self.folder = folder

    def opponent(self: Any, candidate: str, anew: bool = False) -> Champion:
        return Champion()

    monkeypatch.setattr(client.Registry, "opponent", opponent)
    assert evaluate.main(argv(settings)) == 0
    rows = Lake(settings.places.lake).at(EVALUATION, NIGHT).arrow().to_pylist()
    by_model: dict[str, dict[tuple[str, str], float]] = {}
    for r in rows:
        by_model.setdefault(r["model"], {})[r["slice"], r["metric"]] = r["value"]
    assert by_model["champion"] == by_model["challenger"]
    assert {r["model_version"] for r in rows if r["model"] == "champion"} == {"7"}
    said = json.loads((folder.parent / "evaluation" / "evaluation.json").read_text())
    assert {i[end] for s in said["differences"]["champion"].values() for i in s.values() for end in ("value", "low", "high")} == {0.0}

    # a champion of an earlier version of the code: noted, and the baselines alone are judged beside the challenger
    old = settings.places.root / "earlier"
    shutil.copytree(folder, old)
    saved = json.loads((old / "recommender.json").read_text())
    (old / "recommender.json").write_text(json.dumps(saved | {"format": 1}))
    monkeypatch.setattr(Champion, "run_id", "earlier")
    monkeypatch.setattr(Champion, "tags", {"recipe": "earlier"})
    monkeypatch.setattr(Champion, "__init__", lambda self: setattr(self, "folder", old))
    assert evaluate.main(argv(settings)) == 0
    said = json.loads((folder.parent / "evaluation" / "evaluation.json").read_text())
    assert "champion" not in said["models"] and "champion" not in said["differences"] and "popularity" in said["models"]
    assert said["unreadable"]["version"] == "7" and "is of format 1, this code reads" in said["unreadable"]["why"]


@pytest.mark.tensorflow
def test_a_smaller_model_stands_in_only_where_the_gate_lets_it(make_settings: Make) -> None:
    settings = shop(make_settings, users=60, fit_days=40, candidates=20, compression="int8", student={"embedding_dim": 4, "hidden": [16], "compression": "float16"})
    assert train.main(argv(settings)) == 0
    assert evaluate.main(argv(settings)) == 0
    folder = folder_of(settings, NIGHT)
    said = json.loads((folder / "evaluation" / "compression.json").read_text())
    table, smaller = said["table"], said["smaller"]
    assert {n: v["precision"] for n, v in smaller.items()} == {"compressed": "int8", "student": "float16"}
    assert all(v["passed"] == (v["lost"]["high"] <= v["allowed"] == settings.shop.blessing.compression_loss) for v in smaller.values())
    assert table["student"]["bytes"] < table["compressed"]["bytes"] < table["original"]["bytes"]
    assert said["serves"] == next((n for n in ("student", "compressed") if smaller[n]["passed"]), "original"), "the smallest of those that may"
    assert saved_in(folder) == folder / ("model" if said["serves"] == "original" else "compressed")
    assert not list(folder.glob(".[cs]*"))
    assert all(0 < row["median_ms"] <= row["p99_ms"] for row in table.values())
    evaluation = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    metric = settings.shop.blessing.metric
    assert table["original"]["quality"] == pytest.approx(evaluation["models"]["challenger"]["slices"]["all"][metric]["value"])
    for name, verdict in smaller.items():
        assert verdict["lost"]["value"] == pytest.approx(table["original"]["quality"] - table[name]["quality"])
    _one_that_nothing_is_lost_by_serves(settings, folder)


def _one_that_nothing_is_lost_by_serves(settings: Settings, folder: Path) -> None:
    """Whatever a smaller model loses is allowed now: the smallest, which is the student, is what is registered and loads."""
    from nightmarket.recommend.model import Recommender

    text = settings.file.read_text()
    settings.file.write_text(text + "blessing: {compression_loss: 1.0}\n" if "blessing:" not in text else pytest.fail(text))
    assert evaluate.main(argv(settings, "--force")) == 0
    assert json.loads((folder / "evaluation" / "compression.json").read_text())["serves"] == "student"
    assert saved_in(folder) == folder / "compressed"
    served = Recommender.load(saved_in(folder))
    assert (served.config["towers"]["dim"], served.config["precision"]) == (4, "float16")
    assert "trees" not in served.config["weights"] and served.config["training"]["taught"]["weights"]["student"] > 0
