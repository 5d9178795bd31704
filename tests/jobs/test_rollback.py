"""`jobs.rollback`: the alias, what serves, the mail; and that what was taken out of service stays out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow.compute as pc
import pytest

from jobs import bless, rollback
from nightmarket.contracts import RECOMMENDATIONS
from nightmarket.monitor.account import runs
from nightmarket.quality.outbox import Outbox
from nightmarket.recommend.lookup import Lookup, difference, serve, serving
from nightmarket.registry.client import Submission
from nightmarket.shop import Settings
from tests.jobs import test_bless, test_publish
from tests.registry import nights
from tests.registry.conftest import empty_database, prepared, stand_in, submission  # noqa: F401
from tests.registry.nights import D


class Shop(test_publish.Shop):
    """A shop whose champion of night 1, version 2, serves that night; version 1 of night 0 is the one before."""

    def roll(self, *more: str, model: str = "recommender", reason: str = "complaints") -> int:
        return rollback.main(["--shop", str(self.settings.file), "--model", model, "--reason", reason, *more])

    @property
    def champion(self) -> str | None:
        return self.registry.ledger.current("recommender", "champion")

    @property
    def serves(self) -> tuple[str, str] | None:
        now = serving(self.published)
        return (str(now.run_date), now.model_version) if now else None


@pytest.fixture
def shop(settings: Settings, prepared: Callable[[Settings], None], submission: Callable[..., Submission]) -> Shop:  # noqa: F811
    prepared(settings)
    made = Shop(settings, submission)
    for n in (0, 1):
        nights.publish_inputs(settings, D(n))
        made.promote(n, bias=float(n))
        assert made.publish(n) == 0
    return made


def test_it_goes_back_and_serves_the_same_night_from_the_version_before(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    before = shop.lake.at(RECOMMENDATIONS, D(1)).arrow()["score"].to_pylist()
    assert shop.serves == (str(D(1)), "2")
    assert shop.roll("--who", "Ada") == 0
    assert shop.champion == "1" and shop.serves == (str(D(1)), "1")
    after = shop.lake.at(RECOMMENDATIONS, D(1)).arrow()
    assert set(after["model_version"].to_pylist()) == {"1"}
    assert after["score"].to_pylist() == [s - 1.0 for s in before], "version 2 differs from version 1 by a bias of 1"
    newest = shop.registry.ledger.newest("recommender", "champion")
    assert newest is not None
    assert (newest.action, newest.who, newest.why, newest.run_date) == ("back", "Ada", "complaints", str(D(0)))
    assert newest.evidence["rollback"] == {"from": "2", "to": "1", "out": []}
    (account,) = [r for r in runs(shop.settings.places.logs, D(1)) if r.step == "rollback"]
    assert (account.name, account.exit_code) == ("rollback (recommender)", 0)
    aliases = shop.registry._client().get_registered_model("recommender").aliases
    assert {a: str(v) for a, v in aliases.items()} == {"champion": "1", "previous": "2"}
    said = capsys.readouterr().err
    assert "verified" in said and "done model=recommender was=2 now=1" in said


def test_the_owner_is_told_once(shop: Shop) -> None:
    shop.roll("--who", "Ada")
    shop.roll("--who", "Ada")
    mails = [e for e in Outbox(shop.settings.places.outbox).entries() if "went back" in e.subject]
    assert [e.subject for e in mails] == ["[Small shop] recommender went back to version 1"]
    text = Outbox(shop.settings.places.outbox).message(mails[0].id).get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert "Ada decided it: complaints" in text and "Version 2 does not come back by itself" in text


def test_typed_again_it_changes_nothing(shop: Shop) -> None:
    shop.roll()
    before = shop.registry.ledger.head(), shop.serves
    assert shop.roll() == 0
    assert (shop.registry.ledger.head(), shop.serves) == before


def test_killed_after_the_alias_moved_it_is_finished_by_the_next_call(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("jobs.publish.run", _killed)
        assert shop.roll() == 130
    assert shop.champion == "1" and shop.serves == (str(D(1)), "2")
    assert shop.roll() == 0
    assert shop.champion == "1" and shop.serves == (str(D(1)), "1")


def test_to_a_version_of_ones_choice(shop: Shop) -> None:
    nights.publish_inputs(shop.settings, D(2))
    shop.promote(2, bias=5.0)
    shop.publish(2)
    assert shop.roll("--to", "1", reason="both were bad") == 0
    assert shop.champion == "1" and shop.serves == (str(D(2)), "1")
    for n in (1, 2):
        model = shop.registry.for_night(D(n))
        assert model is not None and model.version == "1", "a past night too is answered by who was gone back to"


def test_a_version_taken_out_of_service_is_not_gone_back_to_unless_named(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.roll()
    nights.publish_inputs(shop.settings, D(2))
    shop.promote(2)
    shop.registry.ledger.move("recommender", "previous", "1", "2", "bo", "as if version 2 had served before")
    assert shop.roll() == 3
    assert "version 2, was itself taken out of service" in capsys.readouterr().err
    assert shop.roll("--to", "2") == 0
    assert shop.champion == "2" and set(shop.registry.ledger.gone_back_from("recommender")) == {"3"}


def test_nothing_to_go_back_to(settings: Settings, prepared: Callable[[Settings], None],  # noqa: F811
                               submission: Callable[..., Submission], capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    prepared(settings)
    shop = Shop(settings, submission)
    assert shop.roll() == 3
    assert "has no champion to take out of service" in capsys.readouterr().err
    nights.publish_inputs(settings, D(0))
    shop.promote(0)
    assert shop.roll() == 3
    assert "has no champion before version 1" in capsys.readouterr().err


def test_a_registry_that_does_not_answer_moves_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    head = shop.registry.ledger.head()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert shop.roll() == 1
    assert shop.registry.ledger.head() == head and shop.serves == (str(D(1)), "2")
    (account,) = [r for r in runs(shop.settings.places.logs, D(1)) if r.step == "rollback"]
    assert account.exit_code == 1 and "127.0.0.1:9" in account.why


@pytest.mark.parametrize(("argv", "code"), [
    (["--model", "nobody", "--reason", "x"], 2), (["--model", "recommender"], 2), (["--model", "recommender", "--reason", " "], 2),
    (["--model", "recommender", "--reason", "x", "--to", "newest"], 2), (["--model", "recommender", "--reason", "x", "--to", "77"], 1),
])
def test_what_cannot_be_is_said(shop: Shop, argv: list[str], code: int) -> None:
    head = shop.registry.ledger.head()
    assert rollback.main(["--shop", str(shop.settings.file), *argv]) == code
    assert shop.registry.ledger.head() == head


def test_a_dry_run_moves_nothing(shop: Shop) -> None:
    head = shop.registry.ledger.head()
    assert shop.roll("--dry-run") == 0
    assert shop.registry.ledger.head() == head and shop.serves == (str(D(1)), "2")


def test_the_result_is_the_manifests_path(shop: Shop, tmp_path: Any) -> None:
    assert shop.roll("--result", str(tmp_path / "out.json")) == 0
    assert json.loads((tmp_path / "out.json").read_text()) == [str(shop.lake.manifest_path(RECOMMENDATIONS, D(1)))]


def test_what_serves_is_compared_list_by_list(shop: Shop) -> None:
    rows = shop.lake.at(RECOMMENDATIONS, D(1)).arrow()
    with Lookup(shop.published) as found:
        about = found.about
    assert difference(shop.published, rows, about) == ""
    other = rows.filter(pc.not_equal(rows["audience_id"], "u2"))
    serve(shop.published, other, about)
    assert difference(shop.published, rows, about) == "the list of user u2 is not the published one"


def test_another_answer_than_was_published_is_a_fault(shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("jobs.publish._serve", lambda _: None)
    assert shop.roll() == 1
    assert "version 1 is the champion, but what serves is version 2" in capsys.readouterr().err


class Night(test_bless.Shop):
    """Nights that are registered and decided about, as tests/jobs/test_bless.py has them."""


@pytest.fixture
def night(settings: Settings, stand_in: Any, prepared: Callable[[Settings], None], monkeypatch: pytest.MonkeyPatch) -> Night:  # noqa: F811
    prepared(settings)
    made = Night(settings, stand_in, monkeypatch)
    for n in (0, 1):
        made.night(n)
        assert made.bless(n) == 0
    assert made.champion == "2"
    assert rollback.main(["--shop", str(settings.file), "--model", "recommender", "--reason", "complaints", "--who", "Ada"]) == 0
    assert made.champion == "1"
    return made


def test_the_next_night_does_not_bring_it_back(night: Night) -> None:
    assert night.bless(1) == 0, "decided before; nothing moves"
    night.night(1)
    assert night.bless(1, "--force") == 0
    assert night.champion == "1"
    last = night.ledger.history("recommender")[-1]
    assert (last.action, last.why) == ("keep", "failed back_in_service")
    assert "version 2 on" in (night.report(1) / "decision.md").read_text()


def test_another_version_of_the_same_recipe_is_as_little_wanted(night: Night) -> None:
    nights.publish_inputs(night.settings, D(1))
    nights.judged(night.settings, night.stand_in, D(1), bias=0.5, found=nights.evaluation(champion="1"))
    assert bless.main(night._argv(1)) == 3, "not registered yet"
    from jobs import register

    assert register.main(night._argv(1)) == 0
    assert night.bless(1) == 0
    assert night.champion == "1" and night.ledger.history("recommender")[-1].why == "failed back_in_service"


def test_a_person_may_bring_it_back(night: Night) -> None:
    night.night(1)
    assert night.bless(1, "--approve", "Bo", "--reason", "it was the delivery") == 0
    assert night.champion == "2"
    assert night.ledger.gone_back_from("recommender") == {}


def test_the_next_nights_own_model_may_serve(night: Night) -> None:
    night.night(2)
    assert night.bless(2) == 0
    assert night.champion == "3" and set(night.ledger.gone_back_from("recommender")) == {"2"}


def _killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt
