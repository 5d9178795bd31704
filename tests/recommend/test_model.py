"""One tiny recommender, trained once: what it answers, that it survives disk and process, and that it cannot see the future."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nightmarket.recommend.histories import Histories, seconds
from nightmarket.shop import Model
from tests.recommend import synthetic
from tests.recommend.synthetic import features, history, moment

pytestmark = pytest.mark.tensorflow
CUT = moment(86)
SMALL = Model(embedding_dim=8, candidates=30, epochs=2, max_history=10, fit_days=14, holdout_days=14)


@pytest.fixture(scope="module")
def tables() -> tuple[pa.Table, pa.Table]:
    return synthetic.shop(users=90, items=30)


@pytest.fixture(scope="module")
def model(tables: tuple[pa.Table, pa.Table], tmp_path_factory: pytest.TempPathFactory) -> Any:
    from nightmarket.recommend.model import Recommender

    return Recommender.fit(*tables, CUT, SMALL, tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def answers(model: Any, tables: tuple[pa.Table, pa.Table]) -> pa.Table:
    return model.recommend(tables[0], CUT, 5)


def lists(table: pa.Table) -> dict[tuple[str, str], list[str]]:
    made: dict[tuple[str, str], list[str]] = {}
    for row in table.to_pylist():
        made.setdefault((row["audience"], row["audience_id"]), []).append(row["item_id"])
    return made


def test_every_shopper_country_and_everyone_has_a_whole_list(answers: pa.Table, tables: tuple[pa.Table, pa.Table]) -> None:
    from nightmarket.recommend.model import OUTPUT

    known = np.unique(Histories.from_table(tables[0]).before(seconds(CUT)).user)
    made = lists(answers)
    assert answers.schema == OUTPUT
    assert Counter(kind for kind, _ in made) == {"user": len(known), "country": 2, "everyone": 1}
    assert {len(v) for v in made.values()} == {5}
    assert all(len(set(v)) == 5 for v in made.values())
    rows = answers.to_pylist()
    assert [r["rank"] for r in rows[:5]] == [1, 2, 3, 4, 5]
    assert all(r["reason"] and np.isfinite(r["score"]) for r in rows)
    for first, second in itertools.pairwise(rows):
        assert second["rank"] == 1 or first["score"] >= second["score"]


def test_it_has_learnt_that_shoppers_rebuy(answers: pa.Table, tables: tuple[pa.Table, pa.Table]) -> None:
    held = Histories.from_table(tables[0])
    future = held.between(seconds(CUT), seconds(moment(100))).of(2)
    bought = {(held.user_ids[u], held.item_ids[i]) for u, i in zip(future.user, future.item, strict=True)}
    first = [(a, v[0]) for (kind, a), v in lists(answers).items() if kind == "user"]
    buyers = {u for u, _ in bought}
    right = np.mean([pair in bought for pair in first if pair[0] in buyers])
    popular = Counter(held.before(seconds(CUT)).of(2).item.tolist()).most_common(1)[0][0]
    by_popularity = np.mean([(u, held.item_ids[popular]) in bought for u in buyers])
    assert right > by_popularity + 0.2


def test_saved_and_loaded_in_a_fresh_process_it_answers_the_same(model: Any, tables: tuple[pa.Table, pa.Table], answers: pa.Table, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    model.save(tmp_path / "model")
    trees = ["trees.txt"] if "trees" in model.config["weights"] else []
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["aside.keras", "catalogue.json", "ranker.keras", "recommender.json", "towers.keras", *trees]
    pq.write_table(tables[0], tmp_path / "h.parquet")
    code = (
        "import sys, pickle, pyarrow.parquet as pq; from pathlib import Path; from datetime import datetime\n"
        "def refuse(*a, **k): raise RuntimeError('unpickled')\n"
        "from nightmarket.recommend.model import Recommender\n"
        "import keras; pickle.load = pickle.loads = pickle.Unpickler = refuse\n"
        "root = Path(sys.argv[1]); made = Recommender.load(root / 'model')\n"
        "table = made.recommend(pq.read_table(root / 'h.parquet'), datetime.fromisoformat(sys.argv[2]), 5)\n"
        "pq.write_table(table, root / 'answers.parquet')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), CUT.isoformat()], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    again = pq.read_table(tmp_path / "answers.parquet")
    assert again.drop(["score"]).equals(answers.drop(["score"]))
    assert np.abs(again["score"].to_numpy() - answers["score"].to_numpy()).max() < 1e-6


@pytest.mark.parametrize(("precision", "share"), [("float16", 0.6), ("int8", 0.35)])
def test_small_weights_answer_nearly_the_same(
    model: Any, tables: tuple[pa.Table, pa.Table], answers: pa.Table, tmp_path: Path, precision: str, share: float,
) -> None:
    model.save(tmp_path / "whole")
    small = model.compressed(precision, tmp_path / "small")
    size = {f: sum(p.stat().st_size for p in (tmp_path / f).iterdir() if p.suffix in (".keras", ".npz")) for f in ("whole", "small")}
    assert size["small"] < share * size["whole"]
    made = lists(small.recommend(tables[0], CUT, 5))
    same = [len(set(made[k]) & set(v)) / 5 for k, v in lists(answers).items()]
    assert np.mean(same) > 0.95
    assert (tmp_path / "small" / "ranker.npz").is_file() and not (tmp_path / "small" / "ranker.keras").exists()


def test_events_after_the_moment_change_nothing(model: Any, tables: tuple[pa.Table, pa.Table], answers: pa.Table) -> None:
    past = []
    for row in tables[0].to_pylist():
        keep = [n for n, t in enumerate(row["event_times"]) if t < seconds(CUT)]
        past.append({**row, **{k: [row[k][n] for n in keep] for k in ("item_ids", "event_types", "event_times", "quantities", "unit_prices")}})
    assert model.recommend(features(past), CUT, 5).equals(answers)


def test_what_is_barred_is_on_nobodys_list(model: Any, tables: tuple[pa.Table, pa.Table], answers: pa.Table) -> None:
    best = Counter(answers["item_id"].to_pylist()).most_common(2)
    made = lists(model.recommend(tables[0], CUT, 5, barred=[i for i, _ in best]))
    assert made.keys() == lists(answers).keys() and {len(v) for v in made.values()} == {5}
    assert not {i for i, _ in best} & {i for v in made.values() for i in v}


def test_some_shoppers_get_what_they_get_among_all(model: Any, tables: tuple[pa.Table, pa.Table], answers: pa.Table) -> None:
    made = lists(model.recommend(tables[0], CUT, 5, user_ids=["u0007", "u0003", "never seen"]))
    everyone = lists(answers)
    assert [k for k in made if k[0] == "user"] == [("user", "u0003"), ("user", "u0007")]
    assert all(everyone[k] == v for k, v in made.items())


def test_a_visit_changes_the_answer_of_its_shopper_alone(model: Any, tables: tuple[pa.Table, pa.Table], answers: pa.Table) -> None:
    standing = model.standing(tables[0], CUT)
    everyone = lists(answers)
    unseen = next(i for i in standing.signals.past.events.item_ids if i not in everyone["user", "u0003"])
    seen = standing.visit("u0003", None, [unseen], 5).to_pylist()
    assert [r["item_id"] for r in seen] != everyone["user", "u0003"]
    assert [r["audience_id"] for r in seen] == ["u0003"] * 5
    stranger = standing.visit("nobody", "DE", ["i003", "no such item"], 5).to_pylist()
    assert "i003" in [r["item_id"] for r in stranger]
    # the keys of strangers are nobody's
    assert [r["item_id"] for r in standing.visit("FR", "DE", ["i003"], 5).to_pylist()] == [r["item_id"] for r in stranger]
    assert lists(standing.recommend(5, ["u0003"]))["user", "u0003"] == everyone["user", "u0003"]


def test_a_visit_reads_its_shoppers_events_alone(model: Any, tables: tuple[pa.Table, pa.Table], answers: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    standing = model.standing(tables[0], CUT)
    everyone, whole = lists(answers), standing.signals.past
    read: list[Any] = []
    causes = type(standing)._causes
    monkeypatch.setattr(type(standing), "_causes", lambda self, asked: read.append(asked) or causes(self, asked))
    for user in ("u0000", "u0003", "u0042", "u0089"):
        # a visit that has looked at nothing yet is the night's question
        assert [r["item_id"] for r in standing.visit(user, None, [], 5).to_pylist()] == everyone["user", user]
        code = list(whole.events.user_ids).index(user)
        assert read[-1].ever.shape == (1, 30) and len(read[-1].shopper["lines"]) == 1
        assert len(read[-1].events) == int((whole.events.user == code).sum())
        assert (read[-1].ever != whole.ever[code]).nnz == 0


def test_more_than_the_catalogue_gives_the_catalogue(model: Any, tables: tuple[pa.Table, pa.Table]) -> None:
    made = lists(model.recommend(tables[0], CUT, 1000, user_ids=["u0003"]))
    assert len(made["everyone", "*"]) == 30
    assert len(made["user", "u0003"]) <= 30
    with pytest.raises(ValueError, match="k is 0"):
        model.recommend(tables[0], CUT, 0)


def test_items_and_shoppers_that_came_after_training_are_served(model: Any, tables: tuple[pa.Table, pa.Table]) -> None:
    fresh = history("fresh", [(84, "purchase", "brand new"), (85, "purchase", "brand new"), (85.5, "view", "i000")], "ES")
    table = pa.concat_tables([tables[0], features([fresh])])
    found = [r for r in model.recommend(table, CUT, 5, user_ids=["fresh"]).to_pylist() if r["audience"] == "user"]
    assert "brand new" in [r["item_id"] for r in found]
    assert next(r for r in found if r["item_id"] == "brand new")["reason"] == "bought 2 times, last on 2026-03-27"


def test_heads_and_absent_behaviours_are_stated(model: Any, tmp_path: Path) -> None:
    assert model.tasks == ("view", "cart", "purchase", "next_category")
    assert set(model.config["thresholds"]) == set(model.tasks)
    from nightmarket.recommend.model import Recommender

    tables = synthetic.shop(users=90, items=30, browsing=False)
    bare = Recommender.fit(*tables, CUT, SMALL.model_copy(update={"epochs": 1}), tmp_path)
    assert bare.config["absent_tasks"] == ["view", "cart", "return"]
    assert bare.tasks == ("purchase", "next_category")


@pytest.mark.parametrize(("broken", "said"), [
    ("recommender.json", "recommender.json is missing; the folder holds no saved recommender"),
    ("ranker.keras", "ranker.keras is missing; the copy is not whole"),
    ("format", "is of format 99, this code reads 3; train again"),
    ("features", "was trained on other features than this code makes"),
    ("signals", "holds what this code cannot read .TypeError"),
    ("weights", "holds what this code cannot read .KeyError"),
])
def test_a_broken_copy_is_refused_by_name(model: Any, tmp_path: Path, broken: str, said: str) -> None:
    from nightmarket.recommend.model import ModelError, Recommender

    model.save(tmp_path)
    path = tmp_path / "recommender.json"
    if "." not in broken:
        config = json.loads(path.read_text())
        other = {"format": 99, "features": ["other"], "signals": {**config["signals"], "a setting of then": 1}}
        if broken in other:
            config[broken] = other[broken]
        else:
            del config[broken]
        path.write_text(json.dumps(config))
    else:
        (tmp_path / broken).unlink()
    with pytest.raises(ModelError, match=said):
        Recommender.load(tmp_path)


@pytest.mark.parametrize(("rows", "said"), [
    ([history("u", [(d, "purchase", "only") for d in range(80)])], "1 item"),
    ([history("u", [(d, "view", "ab"[d % 2]) for d in range(80)])], "no purchase by a known shopper"),
    ([history("u", [(85, "purchase", "a"), (85.5, "purchase", "b")])], "days of history before the holdout"),
    ([history(f"u{n}", [(1, "purchase", "a"), (80, "purchase", "b")]) for n in range(5)], "5 shoppers have a history before the fit window"),
])
def test_histories_too_thin_to_learn_from_are_refused(tmp_path: Path, rows: list[dict], said: str) -> None:
    from nightmarket.recommend.model import Recommender, TooLittle

    with pytest.raises(TooLittle, match=said):
        Recommender.fit(features(rows), synthetic.catalogue(["a", "b"]), CUT, SMALL, tmp_path)
