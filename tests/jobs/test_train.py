"""jobs.train: what it leaves, when it does nothing, what it refuses, and that a kill costs nothing."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jobs import train
from nightmarket import log as logs
from nightmarket.command import Night
from nightmarket.contracts import FEATURES, ITEMS
from nightmarket.lake import Lake
from nightmarket.registry.candidate import Candidate, folder_of
from nightmarket.shop import Settings, child_environment
from tests.jobs.learning import MODEL, NIGHT, argv, put, shop
from tests.recommend import synthetic
from tests.recommend.synthetic import moment

Make = Callable[..., Settings]


@pytest.mark.parametrize(("verdict", "said"), [
    (None, "was not judged; run `python -m jobs.gate --run-date 2026-04-10` first"),
    ("refused", "the gate refused the night of 2026-04-10"),
])
def test_a_night_that_the_gate_did_not_let_through_is_refused(make_settings: Make, capsys: pytest.CaptureFixture[str], verdict: str | None, said: str) -> None:
    settings = shop(make_settings, verdict)
    assert train.main(argv(settings)) == 3
    assert said in capsys.readouterr().err


def test_a_night_without_features_is_a_fault_that_names_the_job_to_run(make_settings: Make, capsys: pytest.CaptureFixture[str]) -> None:
    settings = shop(make_settings)
    Lake(settings.places.lake).drop(FEATURES, NIGHT)
    assert train.main(argv(settings)) == 1
    assert "run `python -m jobs.aggregate --run-date 2026-04-10` first" in capsys.readouterr().err


@pytest.mark.parametrize(("model", "said"), [
    ({"minimum_users": 500}, "shoppers bought both before 2026-03-28 and in the 14 days from it; model.minimum_users is 500"),
    ({"fit_days": 120}, "days of history before the holdout; the ranker needs more than model.fit_days (120)"),
])
def test_too_little_to_learn_from_is_refused_with_numbers(make_settings: Make, capsys: pytest.CaptureFixture[str], model: dict[str, int], said: str) -> None:
    settings = shop(make_settings, **model)
    assert train.main(argv(settings)) == 3
    assert said in capsys.readouterr().err
    assert Candidate.read(folder_of(settings, NIGHT)) is None


def test_no_purchases_at_all_is_refused(make_settings: Make, capsys: pytest.CaptureFixture[str]) -> None:
    settings = shop(make_settings)
    put(settings, FEATURES, synthetic.features([synthetic.history("u", [(d, "view", "i001") for d in range(99)])]))
    assert train.main(argv(settings)) == 3
    assert "0 shoppers bought both before" in capsys.readouterr().err


def test_a_dry_run_leaves_nothing(make_settings: Make) -> None:
    settings = shop(make_settings)
    assert train.main(argv(settings, "--dry-run")) == 0
    assert not settings.places.work.exists()


def _weights(folder: Path) -> list[np.ndarray]:
    import keras

    return [v.numpy() for name in ("towers", "ranker") for v in keras.models.load_model(folder / "model" / f"{name}.keras", compile=False).variables]


@pytest.mark.tensorflow
def test_the_candidate_says_all_about_itself_and_is_not_made_twice(make_settings: Make) -> None:
    settings = shop(make_settings)
    lake = Lake(settings.places.lake)
    assert train.main(argv(settings)) == 0
    folder = folder_of(settings, NIGHT)
    made = Candidate.read(folder)
    assert made is not None
    assert {i.name: i.digest for i in made.inputs} == {
        f"{d.id}/{NIGHT}": lake.at(d, NIGHT).manifest.digest for d in (FEATURES, ITEMS)}
    assert (datetime.fromisoformat(made.cut), datetime.fromisoformat(made.end)) == (moment(86), moment(100))
    assert json.loads((folder / "model" / "recommender.json").read_text())["cut"] == "2026-03-28T00:00:00+00:00"
    assert made.seed == settings.shop.model.seed
    assert made.training["absent_tasks"] == ["return"]
    assert made.seconds > 0 and made.peak_memory_mb > 100
    assert not list((settings.places.work / "training").rglob("*.parquet"))
    before = (folder / "candidate.json").stat().st_mtime_ns
    assert train.main(argv(settings)) == 0
    assert (folder / "candidate.json").stat().st_mtime_ns == before

    # events of the holdout are another input, but they teach nothing: the same model comes out
    rows = lake.at(FEATURES, NIGHT).arrow().to_pylist()
    cut = moment(86).timestamp()
    for row in rows:
        late = [n for n, t in enumerate(row["event_times"]) if t >= cut]
        for n in late:
            row["item_ids"][n] = "i001"
            row["quantities"][n] = 7.0
    put(settings, FEATURES, synthetic.features(rows))
    first = _weights(folder)
    assert train.main(argv(settings)) == 0
    again = Candidate.read(folder)
    assert again is not None and again.recipe != made.recipe
    assert all(np.array_equal(a, b) for a, b in zip(first, _weights(folder), strict=True))


class _Ranks:
    """Shows everybody the same items in the same order."""

    def __init__(self, order: list[str]):
        self.order = order
        self.catalogue = SimpleNamespace(item_ids=sorted(order))
        self.config = {"cut": moment(80).isoformat()}

    def signals(self, *_: object) -> None: ...

    def rank(self, _: None, users: np.ndarray, depth: int) -> Iterator[SimpleNamespace]:
        codes = [self.catalogue.item_ids.index(i) for i in self.order[:depth]]
        yield SimpleNamespace(users=users, items=np.tile(codes, (len(users), 1)))


@pytest.mark.parametrize(("margin", "order", "taken"), [
    (0.01, "popular", True), (0.01, "unpopular", False), (1.0, "unpopular", True), (0.0, "popular", True),
])
def test_a_warm_start_that_forgot_older_days_is_not_taken(
    make_settings: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], margin: float, order: str, taken: bool,
) -> None:
    """What the champion had learnt is that the popular sell; a warm start that shows them last loses more than the margin on days before its
    cut, unless the margin is all there is."""
    settings = make_settings(time_zone="UTC", model=MODEL, retraining={"forgetting_margin": margin})
    table, items = synthetic.shop(users=40, items=25)
    popular = sorted(items["item_id"].to_pylist())  # made so that the first sell most
    champion, warm = _Ranks(popular), _Ranks(popular if order == "popular" else popular[::-1])
    monkeypatch.setattr("nightmarket.recommend.model.Recommender.load", lambda _: champion)
    monkeypatch.setattr("nightmarket.recommend.model.Recommender.fit", lambda *_, **asked: warm if asked["warm"] is champion else None)
    account: dict[str, Any] = {}
    night = Night(settings, Lake(settings.places.lake), NIGHT, NIGHT, "", False, False, argparse.Namespace())
    logs.configure()
    made = train._warm(night, SimpleNamespace(folder=Path("champion"), version="4"), table, items, moment(86), settings.places.work, account)  # type: ignore[arg-type]
    assert (made is warm) == taken and (made is None) == (not taken)
    (said,) = account
    told = account[said]
    assert (told["version"], told["metric"], told["margin"]) == ("4", "ndcg@10", margin)
    assert (told["from"], told["until"]) == (moment(63).isoformat(), moment(77).isoformat()), "days that both have learnt from"
    assert told["difference"]["value"] == 0.0 if order == "popular" else told["difference"]["value"] < -0.05
    assert (said == "warm_start") == taken
    if not taken:
        assert told["why"] == "it forgot older days"
        assert 'from scratch' in (err := capsys.readouterr().err) and 'why="it forgot older days"' in err and "champion=4" in err


def _searched(settings: Settings, night: date, searched_on: date, digest: str) -> None:
    """A candidate of a night that says what a search found."""
    made = Candidate("recommender", night.isoformat(), "r", (), digest, "c", 17, "", "", "UTC",
                     {"search": {"night": searched_on.isoformat(), "settings": {"embedding_dim": 4}, "run": 3, "trials": []}}, 0.0, 0.0, "")
    folder = folder_of(settings, night)
    folder.mkdir(parents=True)
    (folder / "candidate.json").write_text(json.dumps(asdict(made)))


def test_a_search_is_taken_over_until_it_is_too_old_or_of_other_settings(make_settings: Make) -> None:
    settings = make_settings(time_zone="UTC", model={"search": {"trials": 3, "every_days": 5}})
    digest = settings.digest(*train.SECTIONS)

    def on(n: int) -> dict | None:
        return train.earlier_search(Night(settings, Lake(settings.places.lake), NIGHT + timedelta(days=n), NIGHT + timedelta(days=n), "", False, False, argparse.Namespace()))

    assert on(0) is None
    _searched(settings, NIGHT, NIGHT, digest)
    _searched(settings, NIGHT + timedelta(days=3), NIGHT, digest)
    assert on(0) is None, "a night does not take what it, or a later one, found"
    assert [(found or {}).get("night") for found in map(on, (1, 4, 5, 6))] == [str(NIGHT), str(NIGHT), None, None]
    _searched(settings, NIGHT + timedelta(days=6), NIGHT + timedelta(days=6), "another")
    assert on(7) is None


@pytest.mark.tensorflow
def test_the_night_takes_the_settings_that_were_found(make_settings: Make) -> None:
    # before the holdout there is room for one window of 40 days: lists of one moment, one period to search on
    settings = shop(make_settings, users=50, fit_days=40, candidates=20, search={"trials": 1, "every_days": 3})
    assert train.main(argv(settings)) == 0
    made = Candidate.read(folder_of(settings, NIGHT))
    assert made is not None
    found = made.training["search"]
    assert (found["night"], found["run"], found["complete"], found["settings"]["embedding_dim"]) == (str(NIGHT), 1, 1, 8)
    assert all(end <= "2026-03-28" for _, end in ((a[:10], b[:10]) for a, b in found["periods"])), "no period reaches into the holdout"

    # the night before searched, and found another width
    _searched(settings, NIGHT - timedelta(days=1), NIGHT - timedelta(days=1), settings.digest(*train.SECTIONS))
    assert train.main(argv(settings)) == 0
    again = Candidate.read(folder_of(settings, NIGHT))
    assert again is not None and again.recipe != made.recipe
    assert f"search/recommender/{NIGHT - timedelta(days=1)}" in {i.name for i in again.inputs}
    assert again.training["search"]["night"] == str(NIGHT - timedelta(days=1))
    assert json.loads((folder_of(settings, NIGHT) / "model" / "recommender.json").read_text())["towers"]["dim"] == 4


@pytest.mark.tensorflow
def test_a_night_begins_with_another_shops_model_where_that_is_better(make_settings: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from nightmarket.evaluate.bootstrap import Interval
    from nightmarket.recommend import carried

    def tables(folder: Path) -> dict[str, np.ndarray]:
        import keras

        model = keras.models.load_model(folder / "model" / "towers.keras", compile=False)
        return {v.path.split("/")[-2]: v.numpy() for v in model.variables}

    other = shop(make_settings, users=50, fit_days=40, candidates=20, epochs=2)
    assert train.main(argv(other)) == 0
    theirs = folder_of(other, NIGHT)
    settings = shop(make_settings, users=50, fit_days=40, candidates=20, transfer={"source": str(theirs / "model"), "ways": ["frozen", "joint"]})
    monkeypatch.setattr(carried, "difference", lambda one, *_: Interval(0.2, 0.1, 0.3, len(one)))
    assert train.main(argv(settings)) == 0
    made = Candidate.read(folder_of(settings, NIGHT))
    assert made is not None
    found = made.training["transfer"]
    assert found["way"] == found["best"] == "frozen" and set(found["losses"]) == {"scratch", "frozen"}
    assert found["period"][1] <= made.cut, "the holdout takes no part"
    assert "holds no histories" in found["closed"]["joint"]
    assert f"transfer/{theirs / 'model'}" in {i.name for i in made.inputs}
    ours, source = tables(folder_of(settings, NIGHT)), tables(theirs)
    same = {name for name in ours if np.array_equal(ours[name], source[name])}
    assert {"word", "category_of", "price_of", "kind_of", "gap_of", "content_in", "history_in"} <= same, "what reads content and events"
    assert not same & {"identity", "country_of", "content_out", "history_out"}
    assert carried.told(found)[0].endswith("frozen is 0.2000 [0.1000, 0.3000] of cross-entropy ahead of learning without; it is taken.")

    shutil.rmtree(theirs / "model")
    assert train.main(argv(settings)) == 3
    assert "holds no recommender; name a folder that one was saved or registered in" in capsys.readouterr().err


@pytest.mark.tensorflow
@pytest.mark.soak
def test_killed_at_several_moments_it_ends_with_the_model_of_an_undisturbed_run(make_settings: Make) -> None:
    whole, killed = shop(make_settings), shop(make_settings)
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "jobs.train", *argv(whole)], capture_output=True, text=True, env=child_environment(), check=False)
    assert done.returncode == 0, done.stderr
    takes = time.monotonic() - started
    for share in (0.35, 0.6, 0.8):
        process = subprocess.Popen([sys.executable, "-m", "jobs.train", *argv(killed)], stderr=subprocess.DEVNULL, env=child_environment())
        time.sleep(takes * share)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run([sys.executable, "-m", "jobs.train", *argv(killed)], capture_output=True, text=True, env=child_environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert all(np.array_equal(a, b) for a, b in zip(_weights(folder_of(whole, NIGHT)), _weights(folder_of(killed, NIGHT)), strict=True))
    left = [p.name for p in folder_of(killed, NIGHT).parent.iterdir()]
    assert sorted(left) == [f".{NIGHT}.lock", str(NIGHT)]
