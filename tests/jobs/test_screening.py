"""The screening's jobs on a small described shop: learned, judged, promoted, decided, told; and what a person says changes it."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from datetime import datetime, time, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jobs import (
    bless,
    blocklist,
    brief_risk,
    decide,
    enter,
    feedback,
    judge_screener,
    propose,
    register,
    train_screener,
)
from nightmarket.command import Night
from nightmarket.contracts import SCREENING_DECISIONS, SCREENING_EVALUATION, SCREENING_FEATURES, SCREENING_FEEDBACK
from nightmarket.lake import Lake
from nightmarket.registry import candidate as candidates
from nightmarket.registry.kinds import SCREENER
from nightmarket.screen import ledger
from nightmarket.screen.screener import Described, Screener
from nightmarket.screen.screening import Options
from nightmarket.shop import Settings
from tests.registry.conftest import empty_database, prepared  # noqa: F401
from tests.screen.nights import NIGHT, argv, described, orders, shop


def learn(settings: Settings) -> None:
    assert train_screener.main(argv(settings)) == 0
    assert judge_screener.main(argv(settings)) == 0
    assert register.main(argv(settings, "--model", "screener")) == 0
    assert bless.main(argv(settings, "--model", "screener")) == 0


def rows(settings: Settings, night: Any = NIGHT) -> dict[str, dict[str, Any]]:
    return {r["id"]: r for r in Lake(settings.places.lake).at(SCREENING_DECISIONS, night).arrow().to_pylist()}


@pytest.fixture(scope="module")
def screened(shop_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Settings:  # noqa: F811
    """A shop whose NIGHT was screened, once for all tests that only look."""
    settings = shop(lambda **changes: shop_in(tmp_path_factory.mktemp("screened") / "shop", **changes))
    settings.places.mlflow.mkdir(parents=True)
    shutil.copy(empty_database, settings.places.mlflow / "mlflow.db")
    learn(settings)
    assert decide.main(argv(settings)) == 0
    return settings


def test_the_model_is_judged_beside_baselines_and_serves(screened: Settings) -> None:
    found = {(r["model"], r["slice"], r["metric"]): r for r in Lake(screened.places.lake).at(SCREENING_EVALUATION, NIGHT).arrow().to_pylist()}
    assert {m for m, _, _ in found} == {"challenger", "chance", "strangeness", "known_bad", "logistic", "strongest_simple"}
    best, chance = found["challenger", "all", "average_precision"], found["chance", "all", "average_precision"]
    assert best["value"] > 0.9 > 0.4 > chance["value"] and best["low"] <= best["value"] <= best["high"]
    report = candidates.report_of(screened, NIGHT, SCREENER)
    assert "promoted" in (report / "decision.md").read_text() and "# screener of 2026-04-10" in (report / "model_card.md").read_text()


def test_decisions_name_the_ring_and_say_why(screened: Settings) -> None:
    made = rows(screened)
    assert set(made) == set(orders()["id"].to_pylist()), "every row once"
    unknown = [r for r in made.values() if r["rule"] != "verdict"]
    ring = [r for r in unknown if int(r["id"][1:]) % 10 == 0]
    assert ring and all(r["decision"] in ("review", "block") for r in ring)
    assert np.mean([r["decision"] == "allow" for r in unknown if int(r["id"][1:]) % 10]) > 0.95
    assert all(r["reasons"] and r["model_version"] == "1" and 0 < r["threshold"] <= r["block_threshold"] for r in ring)
    verdicts = [r for r in made.values() if r["rule"] == "verdict"]
    assert verdicts and all(r["decision"] == ("block" if int(r["id"][1:]) % 10 == 0 else "allow") for r in verdicts)
    assert all(r["reasons"][0].startswith("known to be ") for r in verdicts)


def test_frauds_that_became_known_since_it_learnt_ask_for_another(screened: Settings) -> None:
    lake, features = Lake(screened.places.lake), Lake(screened.places.lake).at(SCREENING_FEATURES, NIGHT)
    assert lake.at(SCREENING_DECISIONS, NIGHT).manifest.notes["due"] is None, "it learnt from all that is known"
    night = Night(screened, lake, NIGHT, NIGHT, "", False, False, argparse.Namespace())
    week = datetime.combine(NIGHT - timedelta(days=6), time(), screened.zone)
    known = sum(bool(r["is_bad"]) and r["known_at"] >= week for r in features.arrow().to_pylist())
    assert known > 0
    earlier: Any = SimpleNamespace(run_date=NIGHT - timedelta(days=7))
    assert decide._due(night, earlier, features) == f"{known} frauds became known since it learnt"


def test_decisions_can_be_recomputed(screened: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    before = Lake(screened.places.lake).at(SCREENING_DECISIONS, NIGHT).manifest
    assert decide.main(argv(screened, "--check")) == 0
    assert decide.main(argv(screened)) == 0
    assert Lake(screened.places.lake).at(SCREENING_DECISIONS, NIGHT).manifest == before


def test_a_saved_model_answers_as_before(screened: Settings, tmp_path: Path) -> None:
    folder = candidates.folder_of(screened, NIGHT, SCREENER) / "model" / "served"
    partition = Lake(screened.places.lake).at(SCREENING_FEATURES, NIGHT)
    given = Described.of(partition.arrow(), partition.manifest.notes)
    one = Screener.load(folder)
    one.save(tmp_path / "again")
    other = Screener.load(tmp_path / "again")
    options, asked = Options(), np.arange(50)
    a, b = (s.parts["order"].ask(given["order"], asked, options) for s in (one, other))
    np.testing.assert_array_equal(a.score, b.score)
    assert a.reasons == b.reasons


def test_rows_after_the_night_change_nothing_before(make_settings: Callable[..., Settings]) -> None:
    settings = shop(make_settings)
    partition = Lake(settings.places.lake).at(SCREENING_FEATURES, NIGHT)
    given = Described.of(partition.arrow(), partition.manifest.notes)["order"]
    later = NIGHT + timedelta(days=30)
    described(settings, orders(later, days=110), later)
    partition = Lake(settings.places.lake).at(SCREENING_FEATURES, later)
    cut = int(given.times.max()) + 1
    whole = Described.of(partition.arrow(), partition.manifest.notes)["order"].before(cut)
    assert whole.ids.tolist() == given.ids.tolist()
    np.testing.assert_array_equal(whole.values, given.values)
    known = given.known_at < cut
    np.testing.assert_array_equal(whole.label[known], given.label[known])
    assert np.isnan(whole.label[~known]).all(), "labels that became known after the cut are not known at it"


def test_without_verdicts_nothing_is_blocked(make_settings: Callable[..., Settings], prepared: Callable[[Settings], None]) -> None:  # noqa: F811
    settings = shop(make_settings, labelled=False)
    prepared(settings)
    learn(settings)
    notes = Lake(settings.places.lake).at(SCREENING_EVALUATION, NIGHT).manifest.notes
    assert notes["judged_by"] == "planted rows"
    assert decide.main(argv(settings)) == 0
    made = rows(settings)
    assert {r["decision"] for r in made.values()} == {"allow", "review"} and all(r["probability"] is None for r in made.values())
    reviewed = {r["id"] for r in made.values() if r["decision"] == "review"}
    assert 0 < len(reviewed) < 0.05 * len(made) and np.mean([int(i[1:]) % 10 == 0 for i in reviewed]) > 0.5


def test_no_screener_no_decisions(make_settings: Callable[..., Settings], prepared: Callable[[Settings], None],  # noqa: F811
                                  capsys: pytest.CaptureFixture[str]) -> None:
    settings = shop(make_settings)
    prepared(settings)
    assert decide.main(argv(settings)) == 3
    assert "no screener may answer the night" in capsys.readouterr().err


def test_feedback_is_taken_in_once_and_kept_apart_by_source(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "verdicts.csv"
    file.write_text("kind,id,is_bad,source,said_by,known_at\norder,o1,bad,analyst,Ada,2026-04-10T09:00:00\norder,o1,good,shopper,Bob,\nreview,r1,fake,analyst,Ada,2030-01-01T00:00:00\n")
    assert feedback.main(argv(settings, "--file", str(file))) == 0
    assert feedback.main(argv(settings, "--verdict", "account:u7=bad", "--by", "Ada", "--why", "mail me at eve@evil.example")) == 0
    found = {(r["kind"], r["id"], r["source"]): r for r in Lake(settings.places.lake).at(SCREENING_FEEDBACK, NIGHT).arrow().to_pylist()}
    assert {k: r["is_bad"] for k, r in found.items()} == {("order", "o1", "analyst"): True, ("order", "o1", "shopper"): False,
                                                          ("review", "r1", "analyst"): True, ("account", "u7", "analyst"): True}
    assert found["order", "o1", "analyst"]["known_at"].isoformat() == "2026-04-10T09:00:00+00:00"
    end = ledger.end_of(settings, NIGHT)
    assert all(r["known_at"] < end for r in found.values()), "what came in with a night is known at its end"
    assert "evil.example" not in found["account", "u7", "analyst"]["why"]
    before = Lake(settings.places.lake).at(SCREENING_FEEDBACK, NIGHT).manifest
    assert feedback.main(argv(settings, "--file", str(file))) == 0
    assert Lake(settings.places.lake).at(SCREENING_FEEDBACK, NIGHT).manifest == before


@pytest.mark.parametrize(("more", "code", "said"), [
    (["--verdict", "order:o1=maybe", "--by", "Ada"], 2, "is_bad 'maybe': write bad or good"), (["--verdict", "parcel:o1=bad", "--by", "Ada"], 2, "kind 'parcel'"),
    (["--verdict", "order:o1=bad"], 2, "--verdict needs --by NAME"), (["--file", "nowhere.csv"], 2, "no such file"),
])
def test_feedback_that_cannot_be_read(settings: Settings, capsys: pytest.CaptureFixture[str], more: list[str], code: int, said: str) -> None:
    assert feedback.main(argv(settings, *more)) == code
    assert said in capsys.readouterr().err


def test_proposals_block_nothing_until_a_person_says_so(screened: Settings) -> None:
    assert propose.main(argv(screened)) == 0
    waiting = [a for a in ledger.read(screened) if a.what == "propose"]
    assert {(a.kind, a.identifier) for a in waiting} >= {("device", "ring-0"), ("device", "ring-1")} and all("blocked: order" in a.evidence for a in waiting)
    assert propose.main(argv(screened)) == 0
    assert len(ledger.read(screened)) == len(waiting), "nothing is proposed twice"
    assert enter.main(argv(screened)) == 0
    assert ledger.holding(screened, NIGHT + timedelta(days=4000)) == {}, "without an answer nothing is blocked"
    assert enter.main(argv(screened, "--refuse", "--by", "nobody answered")) == 0
    assert [a.decided_by for a in ledger.read(screened) if a.what == "refuse"] == ["nobody answered"] * len(waiting)
    assert ledger.holding(screened, NIGHT + timedelta(days=4000)) == {}
    assert enter.main(argv(screened, "--approve")) == 2
    # nobody's answer is no refusal: a night after it proposes again, a person's no holds
    later, lake = datetime.now(timezone.utc).date() + timedelta(days=1), Lake(screened.places.lake)
    for dataset in (SCREENING_DECISIONS, SCREENING_FEATURES):
        same = lake.at(dataset, NIGHT)
        with lake.writer(dataset, [later]) as writer:
            writer.stage_arrow(later, same.arrow())
            writer.publish(later, inputs=[], settings="tests", code="tests", notes=same.manifest.notes)
    night_after = ["--shop", str(screened.file), "--run-date", str(later)]
    assert propose.main(night_after) == 0
    assert len([a for a in ledger.read(screened) if a.what == "propose"]) == 2 * len(waiting)
    assert enter.main([*night_after, "--refuse", "--by", "Ada"]) == 0
    assert propose.main(night_after) == 0
    assert len([a for a in ledger.read(screened) if a.what == "propose"]) == 2 * len(waiting)


def test_the_blocklist_by_hand(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--shop", str(settings.file)]
    entry = ["--kind", "device", "--id", "d1", "--by", "Ada"]
    assert blocklist.main([*base, "unblock", *entry, "--evidence", "mistake"]) == 3
    assert blocklist.main([*base, "block", *entry, "--evidence", "case 7"]) == 0
    assert blocklist.main([*base, "appeal", *entry, "--evidence", "mine"]) == 0
    capsys.readouterr()
    assert blocklist.main([*base, "list"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["by"], told["evidence"], told["appeal"]["says"]) == ("blocked", "Ada", "case 7", "mine") and told["expires"]
    assert blocklist.main([*base, "unblock", *entry, "--evidence", "the customer's own"]) == 0
    capsys.readouterr()
    assert blocklist.main([*base, "list"]) == 0 and capsys.readouterr().out == ""
    assert blocklist.main([*base, "approve", "--by", "Ada"]) == 3
    assert blocklist.main([*base, "block", "--kind", "cat", "--id", "x", "--by", "Ada", "--evidence", "e"]) == 2


def test_the_letter_to_the_risk_owner(screened: Settings) -> None:
    assert brief_risk.main(argv(screened)) == 0
    folder = candidates.report_of(screened, NIGHT, SCREENER)
    text = (folder / "screening.txt").read_text()
    assert "The screening of 2026-04-10 is done." in text and "What was decided" in text and "Quality on later rows" in text
    assert list(folder.glob("screening-*.png"))
    queued = len(list(screened.places.outbox.rglob("*.eml")))
    assert brief_risk.main(argv(screened)) == 0
    assert len(list(screened.places.outbox.rglob("*.eml"))) == queued, "the same letter is queued once"
