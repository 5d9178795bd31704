"""`jobs.bless`: from evidence to ledger, MLflow, report and exit code. What is decided is tested in tests/evaluate/test_blessing.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import bless, register
from nightmarket.registry.client import Registry, Verification
from nightmarket.registry.ledger import Ledger
from nightmarket.shop import Settings
from tests.registry import nights
from tests.registry.conftest import empty_database, prepared, stand_in  # noqa: F401
from tests.registry.nights import D, evaluation


class Shop:
    """A shop whose nights are registered without training; verification is taken on trust here."""

    def __init__(self, settings: Settings, counting: Any, monkeypatch: pytest.MonkeyPatch):
        self.settings, self.stand_in = settings, counting
        self.registry = Registry(settings)
        self.verified = True
        monkeypatch.setattr(Registry, "verify", self._verify)

    def _verify(self, version: str, *_: object) -> None:
        self.registry.tag(version, "verification", Verification(self.verified, "", 0.1).to_tag())

    def night(self, n: int, *, verdict: str = "passed", bias: float = 0.0, **found: Any) -> None:
        """A registered challenger of night n, judged against the champion of now unless `champion` says otherwise."""
        found.setdefault("champion", self.champion)
        nights.publish_inputs(self.settings, D(n), verdict)
        nights.judged(self.settings, self.stand_in, D(n), bias=bias, found=evaluation(**found))
        assert register.main(self._argv(n)) == 0

    def bless(self, n: int, *more: str) -> int:
        return bless.main(self._argv(n, *more))

    @property
    def champion(self) -> str | None:
        return self.ledger.current("recommender", "champion")

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.settings.places.mlflow / "ledger.db")

    def report(self, n: int) -> Path:
        return self.settings.places.reports / "models" / D(n).isoformat() / "recommender"

    def _argv(self, n: int, *more: str) -> list[str]:
        return ["--shop", str(self.settings.file), "--run-date", str(D(n)), *more]


@pytest.fixture
def shop(
    settings: Settings, stand_in: Any, prepared: Callable[[Settings], None], monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> Shop:
    prepared(settings)
    return Shop(settings, stand_in, monkeypatch)


def aliases(shop: Shop) -> dict[str, str]:
    found = shop.registry._client().get_registered_model("recommender").aliases
    return {a: str(v) for a, v in found.items()}


def test_the_first_model_is_promoted(shop: Shop) -> None:
    shop.night(0)
    assert shop.bless(0) == 0
    assert shop.champion == "1"
    assert aliases(shop) == {"champion": "1"}
    said = json.loads((shop.report(0) / "decision.json").read_text())
    assert (said["decision"]["outcome"], said["decision"]["challenger"], said["decision"]["champion"]) == ("promoted", "1", None)
    shop.ledger.verify(said["ledger_head"])
    assert "version 1 of 2026-03-01: promoted" in (shop.report(0) / "decision.md").read_text()
    assert "## Limits" in (shop.report(0) / "model_card.md").read_text()
    assert json.loads(shop.registry.version("1").tags["decision"])["outcome"] == "promoted"


def test_the_better_one_replaces_the_champion_who_becomes_the_previous(shop: Shop) -> None:
    shop.night(0)
    shop.bless(0)
    shop.night(1)
    assert shop.bless(1) == 0
    assert aliases(shop) == {"champion": "2", "previous": "1"}
    newest = shop.ledger.newest("recommender", "champion")
    assert newest is not None
    assert (newest.who, newest.why, newest.run_date) == ("jobs.bless", "passed all 11 checks", D(1).isoformat())
    assert newest.evidence["decision"]["outcome"] == "promoted"


def test_a_worse_one_leaves_the_champion_and_is_on_record(shop: Shop) -> None:
    shop.night(0)
    shop.bless(0)
    shop.night(1, ahead=(-0.05, -0.06, -0.04))
    assert shop.bless(1) == 0
    assert shop.champion == "1" and aliases(shop) == {"champion": "1"}
    last = shop.ledger.history("recommender")[-1]
    assert (last.action, last.alias, last.from_version, last.to_version) == ("keep", "challenger", "2", None)
    assert last.why == "failed not_worse"
    text = (shop.report(1) / "decision.md").read_text()
    assert "Champion 1 goes on serving: failed not_worse." in text and "FAILED" in text


def test_a_champion_that_this_code_cannot_load_gives_way_and_it_is_said_so(shop: Shop) -> None:
    shop.night(0)
    shop.bless(0)
    shop.night(1, champion=None, unreadable={"version": "1", "why": "ModelError: of format 1"})
    assert shop.bless(1) == 0 and shop.champion == "2"
    newest = shop.ledger.newest("recommender", "champion")
    assert newest is not None and "champion 1 cannot be loaded (ModelError: of format 1)" in newest.why
    assert newest.evidence["decision"]["note"] in (shop.report(1) / "decision.md").read_text()
    # one that does not beat the baselines leaves it, whoever it is
    shop.night(2, quality=0.05, champion=None, unreadable={"version": "2", "why": "gone"})
    assert shop.bless(2) == 0 and shop.champion == "2"
    # a champion that nobody judged and nobody could not load: judge again
    shop.night(3, champion=None, unreadable={"version": "1", "why": "gone"})
    assert shop.bless(3) == 3 and shop.champion == "2"


def test_refused_and_nothing_serves_is_exit_3(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.night(0, quality=0.05, popularity=0.10)
    assert shop.bless(0) == 3
    assert shop.champion is None
    assert "was not promoted (failed beats popularity) and nothing serves" in capsys.readouterr().err
    assert shop.bless(0) == 3, "and again"
    assert len([m for m in shop.ledger.history("recommender") if m.action == "refuse"]) == 1


def test_a_night_that_the_data_gate_refused_promotes_nothing(shop: Shop) -> None:
    shop.night(0)
    shop.bless(0)
    shop.night(1)
    nights.publish_inputs(shop.settings, D(1), "refused")
    assert shop.bless(1) == 0
    assert shop.champion == "1"
    assert shop.ledger.history("recommender")[-1].why == "failed data_gate"


def test_an_unverified_model_is_not_promoted(shop: Shop) -> None:
    shop.verified = False
    shop.night(0)
    assert shop.bless(0) == 3
    assert shop.ledger.history("recommender")[-1].why == "failed verified"


def test_again_changes_nothing(shop: Shop) -> None:
    shop.night(0)
    shop.bless(0)
    shop.night(1, ahead=(-0.05, -0.06, -0.04))
    shop.bless(1)
    before = shop.ledger.head(), (shop.report(1) / "decision.json").read_text(), (shop.report(0) / "decision.json").read_text()
    assert shop.bless(0) == 0 and shop.bless(1) == 0
    assert before == (shop.ledger.head(), (shop.report(1) / "decision.json").read_text(), (shop.report(0) / "decision.json").read_text())


def test_killed_after_the_ledger_moved_is_healed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.night(0)
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "tag", _killed)
        patch.setattr(bless, "_report", _killed)
        assert shop.bless(0) == 130
    assert shop.champion == "1" and not shop.report(0).exists()
    assert shop.bless(0) == 0
    assert (shop.report(0) / "decision.json").is_file()
    assert json.loads(shop.registry.version("1").tags["decision"])["outcome"] == "promoted"
    assert len(shop.ledger.history("recommender")) == 3, "register, promote (two aliases), nothing more"


def test_a_backfilled_model_never_displaces_one_of_newer_data_by_itself(shop: Shop) -> None:
    shop.night(5)
    shop.bless(5)
    shop.night(3, ahead=(0.2, 0.19, 0.21))
    assert shop.bless(3) == 0
    assert shop.champion == "1"
    assert shop.ledger.history("recommender")[-1].why == "failed newer"


def test_a_person_may_let_older_data_serve(shop: Shop) -> None:
    shop.night(5)
    shop.bless(5)
    shop.night(3)
    shop.bless(3)
    assert shop.bless(3, "--approve", "Ada", "--reason", "the week after was poisoned") == 0
    assert shop.champion == "2"
    newest = shop.ledger.newest("recommender", "champion")
    assert newest is not None
    assert (newest.who, newest.why) == ("Ada", "the week after was poisoned (passed all 11 checks)")
    assert newest.evidence["approval"] == {"who": "Ada", "why": "the week after was poisoned"}
    assert "Approved by Ada" in (shop.report(3) / "decision.md").read_text()


def test_a_persons_approval_does_not_lift_quality(shop: Shop) -> None:
    shop.night(5)
    shop.bless(5)
    shop.night(3, ahead=(-0.05, -0.06, -0.04))
    assert shop.bless(3, "--approve", "Ada", "--reason", "hurry") == 0
    assert shop.champion == "1"
    assert shop.ledger.history("recommender")[-1].why == "hurry (failed not_worse)"


@pytest.mark.parametrize("argv", [["--approve", "Ada"], ["--reason", "x"], ["--approve", " ", "--reason", "x"]])
def test_half_an_approval_is_usage(shop: Shop, argv: list[str]) -> None:
    shop.night(0)
    assert shop.bless(0, *argv) == 2
    assert shop.champion is None


def test_a_champion_that_moved_since_the_evaluation_asks_for_another(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.night(0)
    shop.night(1, champion=None)
    assert shop.bless(0) == 0
    assert shop.bless(1) == 3
    assert "was judged against champion none, but 1 serves; run `python -m jobs.evaluate" in capsys.readouterr().err
    assert shop.ledger.decision("recommender", "2") is None


def test_two_nights_that_decide_at_once_cannot_both_win(shop: Shop, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    shop.night(0)
    shop.night(1, champion=None)
    gather = bless.gather

    def meanwhile(*args: Any) -> Any:
        made = gather(*args)
        shop.ledger.promote("recommender", "1", None, "another night", "faster")
        return made

    monkeypatch.setattr(bless, "gather", meanwhile)
    assert shop.bless(1) == 1
    assert "expected at no version and is at version 1" in capsys.readouterr().err
    assert shop.champion == "1"


def test_not_registered_is_refused(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    nights.publish_inputs(shop.settings, D(0))
    nights.judged(shop.settings, shop.stand_in, D(0))
    assert shop.bless(0) == 3
    assert "is not registered; run `python -m jobs.register" in capsys.readouterr().err


def test_a_dry_run_moves_nothing(shop: Shop) -> None:
    shop.night(0)
    before = shop.ledger.head()
    assert shop.bless(0, "--dry-run") == 0
    assert shop.ledger.head() == before and not shop.report(0).exists()


def test_the_opponent_of_a_decided_candidate_stays_the_same(shop: Shop) -> None:
    shop.night(0)
    assert shop.registry.opponent(f"recipe-{D(0)}") is None
    shop.bless(0)
    assert shop.registry.opponent(f"recipe-{D(0)}") is None, "judged again it meets nobody, as then; not itself"
    shop.night(1)
    shop.bless(1)
    for n in (2, 3):
        shop.night(n)
        shop.bless(n)
    against = {n: shop.registry.opponent(f"recipe-{D(n)}") for n in (1, 2, 3)}
    assert {n: m.version for n, m in against.items() if m} == {1: "1", 2: "2", 3: "3"}
    anew = shop.registry.opponent(f"recipe-{D(1)}", anew=True)
    assert anew is not None and anew.version == "4"


def test_who_answers_for_a_night(shop: Shop) -> None:
    """Nights 2 and 4 promote; 3 is kept. Then 1 is backfilled: nothing had served then, so its own model answers for it."""
    shop.night(2)
    shop.bless(2)
    shop.night(3, ahead=(-0.05, -0.06, -0.04))
    shop.bless(3)
    shop.night(4)
    shop.bless(4)
    assert shop.registry.for_night(D(1)) is None
    shop.night(1)
    assert shop.bless(1) == 0
    answers = {n: shop.registry.for_night(D(n)) for n in range(6)}
    assert {n: m.version if m else None for n, m in answers.items()} == {0: None, 1: "4", 2: "1", 3: "1", 4: "3", 5: "3"}
    assert shop.champion == "3"


def _killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt
