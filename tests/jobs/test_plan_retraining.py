"""`jobs.plan_retraining` and `jobs.retrain`: from evidence to plan, and from plan to steps. The truth table is tested on its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from jobs import plan_retraining, register, retrain, train
from nightmarket.contracts import DAILY_SALES, DRIFT, RECOMMENDATIONS, RETRAINING
from nightmarket.lake import Lake, code_version
from nightmarket.monitor import orders
from nightmarket.registry.candidate import folder_of
from nightmarket.registry.client import Registry, Verification
from nightmarket.registry.kinds import RECOMMENDER
from nightmarket.shop import Settings
from tests.monitor.test_watch import put
from tests.registry import nights
from tests.registry.conftest import empty_database, prepared, stand_in  # noqa: F401
from tests.registry.nights import D


class Shop:
    """A shop without a model, and what makes one of the stand-in as a training of these settings and this code would."""

    def __init__(self, settings: Settings, counting: Any, monkeypatch: pytest.MonkeyPatch):
        self.settings, self.stand_in = settings, counting
        self.lake = Lake(settings.places.lake)
        monkeypatch.setattr(Registry, "verify", lambda registry, version, *_: registry.tag(version, "verification", Verification(True, "", 0.1).to_tag()))

    def argv(self, n: int, *more: str) -> list[str]:
        return ["--shop", str(self.settings.file), "--run-date", str(D(n)), *more]

    def plan(self, n: int, *more: str) -> int:
        return plan_retraining.main(self.argv(n, *more))

    def planned(self, n: int, model: str = "recommender") -> dict[str, Any]:
        return next(r for r in self.lake.at(RETRAINING, D(n)).arrow().to_pylist() if r["model"] == model)

    def trained(self, n: int, champion: str | None = None, **training: Any) -> str:
        """A registered version of night n; returns it."""
        nights.publish_inputs(self.settings, D(n))
        nights.judged(self.settings, self.stand_in, D(n), bias=float(n), found=nights.evaluation(champion=champion))
        file = folder_of(self.settings, D(n)) / "candidate.json"
        made = json.loads(file.read_text())
        made |= {"settings": self.settings.digest(*train.SECTIONS), "code": code_version(), "training": {"epochs": 2, **training}}
        made["inputs"] = [vars(i) for i in train.inputs(_night(self, n))]
        file.write_text(json.dumps(made))
        assert register.main(self.argv(n)) == 0
        version = Registry(self.settings).find(made["recipe"])
        assert version is not None
        return version

    def promote(self, version: str, n: int) -> None:
        ledger = Registry(self.settings).ledger
        ledger.promote("recommender", version, ledger.current("recommender", "champion"), "ada", "test", {}, D(n))


def _night(shop: Shop, n: int) -> Any:
    import argparse

    from nightmarket.command import Night

    return Night(shop.settings, shop.lake, D(n), D(n), "", False, False, argparse.Namespace(warm=False))


@pytest.fixture
def shop(settings: Settings, stand_in: Any, prepared: Callable[[Settings], None], monkeypatch: pytest.MonkeyPatch) -> Shop:  # noqa: F811
    prepared(settings)
    made = Shop(settings, stand_in, monkeypatch)
    nights.publish_inputs(settings, D(0))
    return made


def test_where_nothing_serves_a_model_is_made(shop: Shop) -> None:
    assert shop.plan(0) == 0
    row = shop.planned(0)
    assert (row["action"], row["why"], row["order_id"]) == ("retrain", "nothing serves", None)
    assert json.loads(row["evidence"])["data_gate"] == "passed"
    made = shop.lake.manifest(RETRAINING, D(0))
    assert shop.plan(0) == 0 and shop.lake.manifest(RETRAINING, D(0)) == made, "current"


def test_a_plan_stays_while_what_it_rests_on_does(shop: Shop) -> None:
    """What the plan itself sets in motion, a version of the night, does not turn it into another."""
    shop.plan(0)
    before = shop.lake.manifest(RETRAINING, D(0))
    shop.promote(shop.trained(0), 0)
    assert shop.plan(0) == 0 and shop.lake.manifest(RETRAINING, D(0)) == before


def test_nothing_is_trained_twice_from_the_same_inputs_unless_forced(shop: Shop) -> None:
    shop.promote(shop.trained(0), 0)
    shop.plan(0)
    assert (shop.planned(0)["action"], shop.planned(0)["why"]) == ("skip", "it was trained from exactly these inputs before")
    shop.plan(0, "--force")
    assert shop.planned(0)["action"] == "retrain"


def test_another_nights_data_are_other_inputs(shop: Shop) -> None:
    shop.promote(shop.trained(0), 0)
    nights.publish_inputs(shop.settings, D(1))
    shop.plan(1)
    assert (shop.planned(1)["action"], shop.planned(1)["why"]) == ("skip", "nothing drifted, nothing is due, too little is new")


def test_a_champion_that_was_kept_was_not_trained(shop: Shop) -> None:
    """The night's candidate carries the champion again: an order is followed all the same."""
    version = shop.trained(0, kept="1")
    shop.promote(version, 0)
    shop.plan(0, "--order", "retrain", "--who", "Ada", "--reason", "new catalogue")
    assert (shop.planned(0)["action"], shop.planned(0)["why"]) == ("retrain", "Ada asked for it: new catalogue")


def test_a_kinds_own_rules_ask_by_its_newest_publication(shop: Shop) -> None:
    """What the night before noted counts, of the version that serves; what was noted of another does not."""
    version = shop.trained(0)
    shop.promote(version, 0)
    for n, of, due in ((0, version, "3 frauds became known since it learnt"), (1, "another", "drift"), (2, version, None)):
        with shop.lake.writer(RECOMMENDATIONS, [D(n)]) as writer:
            writer.publish(D(n), inputs=[], settings="s", code="c", notes={"model_version": of, "due": due})
        nights.publish_inputs(shop.settings, D(n + 1))
        shop.plan(n + 1)
    assert (shop.planned(1)["action"], shop.planned(1)["why"]) == ("retrain", "its own rules ask for it: 3 frauds became known since it learnt")
    assert [shop.planned(n)["action"] for n in (2, 3)] == ["skip", "skip"]


def test_other_settings_ask_for_another_model(shop: Shop, make_settings: Callable[..., Settings]) -> None:
    shop.promote(shop.trained(0), 0)
    file = shop.settings.file
    file.write_text(file.read_text() + "\nmodel: {embedding_dim: 16}\n")
    nights.publish_inputs(shop.settings, D(1))
    shop.plan(1)
    assert shop.planned(1)["why"] == "champion 1 was made with other settings or another form of model"


def test_a_kind_whose_inputs_are_prepared_first_is_planned_by_what_they_are_prepared_from(shop: Shop) -> None:
    for n in (0, 1):
        nights.publish_inputs(shop.settings, D(n))
        put(shop.settings, DAILY_SALES, D(n), [
            {"sale_date": D(n), "item_id": "a", "country": "DE", "units_sold": n + 1, "units_returned": 0, "order_count": 1}])
        shop.plan(n)
    rows = [shop.planned(n, "forecaster") for n in (0, 1)]
    assert [r["action"] for r in rows] == ["retrain", "retrain"] and rows[0]["inputs"] != rows[1]["inputs"]


def drifted(shop: Shop, n: int, *names: str, **notes: Any) -> None:
    with shop.lake.writer(DRIFT, [D(n)]) as writer:
        writer.publish(D(n), inputs=[], settings="s", code="c", notes={"drifted": list(names), "hits": 0, "buyers": 0, "live": None, **notes})


def test_drift_age_and_live_quality_are_gathered(shop: Shop) -> None:
    shop.promote(shop.trained(0), 0)
    nights.publish_inputs(shop.settings, D(1))
    drifted(shop, 1, "events.country")
    shop.plan(1)
    assert (shop.planned(1)["action"], shop.planned(1)["why"]) == ("fine_tune", "drifted: events.country")
    drifted(shop, 1, "quality.labels", "screening_decisions.order")
    assert shop.plan(1) == 0
    assert shop.planned(1)["action"] == "skip", "the screener's drift is not the recommender's, and labels that contradict train nobody"
    drifted(shop, 1, live={"metric": "ndcg@10", "value": 0.1, "low": 0.08, "high": 0.12, "promise": 0.3, "users": 90})
    shop.plan(1)
    assert shop.planned(1)["action"] == "retrain" and "promised were 0.3000" in shop.planned(1)["why"]
    nights.publish_inputs(shop.settings, D(28))
    shop.plan(28)
    assert shop.planned(28)["why"] == "made anew 28 nights ago"


def test_a_refused_night_is_left_alone(shop: Shop) -> None:
    nights.publish_inputs(shop.settings, D(0), "refused")
    assert shop.plan(0) == 0
    assert (shop.planned(0)["action"], shop.planned(0)["why"]) == ("skip", "the data gate's verdict on the night is refused")


def test_a_persons_order(shop: Shop) -> None:
    shop.promote(shop.trained(0), 0)
    for n in (1, 2, 3):
        nights.publish_inputs(shop.settings, D(n))
    assert shop.plan(1, "--order", "retrain", "--who", "Ada", "--reason", "new catalogue") == 0
    assert (shop.planned(1)["action"], shop.planned(1)["why"]) == ("retrain", "Ada asked for it: new catalogue")
    assert shop.planned(1)["order_id"] is not None
    shop.plan(2)
    assert shop.planned(2)["action"] == "skip", "followed by the plan of the night before"
    shop.plan(1)
    assert shop.planned(1)["action"] == "retrain", "the night that followed it keeps it"
    assert shop.plan(3, "--order", "retrain", "--who", "Ada") == 2
    assert orders.pending(shop.settings, shop.lake, "recommender", D(3)) is None, "half an order is none"


def test_of_two_orders_the_last_holds(shop: Shop) -> None:
    shop.promote(shop.trained(0), 0)
    nights.publish_inputs(shop.settings, D(1))
    for action in ("retrain", "skip", "fine_tune", "retrain", "skip"):
        assert shop.plan(1, "--order", action, "--who", "Ada", "--reason", "made up her mind") == 0
        assert shop.planned(1)["action"] == action


def test_an_order_waits_for_a_night_that_can_follow_it(shop: Shop) -> None:
    shop.promote(shop.trained(0), 0)
    orders.file(shop.settings, "recommender", D(1), "retrain", "ada", "x")
    nights.publish_inputs(shop.settings, D(1), "refused")
    nights.publish_inputs(shop.settings, D(2))
    shop.plan(1)
    assert shop.planned(1)["order_id"] is None
    shop.plan(2)
    assert (shop.planned(2)["action"], shop.planned(2)["why"]) == ("retrain", "ada asked for it: x")


# --- jobs.retrain


class Steps:
    """Takes the place of the steps' processes: remembers what was asked for, ends as told."""

    def __init__(self, codes: dict[str, int] | None = None):
        self.codes, self.ran = codes or {}, []  # type: ignore[var-annotated]

    def __call__(self, night: Any, name: str, more: Any) -> int:
        self.ran.append(" ".join([name, *more]))
        return self.codes.get(name, 0)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Steps]:
    def make(**codes: int) -> Steps:
        made = Steps(codes)
        monkeypatch.setattr(retrain, "_step", made)
        monkeypatch.setattr(retrain, "_lineage", lambda *_: None)
        return made

    return make


def with_plan(shop: Any, action: str, model: str = "recommender", champion: str | None = "1") -> list[str]:
    import pyarrow as pa

    row = {"model": model, "action": action, "why": "w", "inputs": "i", "order_id": None, "evidence": json.dumps({"champion": champion})}
    with shop.lake.writer(RETRAINING, [D(0)]) as writer:
        writer.stage_arrow(D(0), pa.Table.from_pylist([row], schema=RETRAINING.arrow_schema()))
        writer.publish(D(0), inputs=[], settings="s", code="c")
    return ["--shop", str(shop.settings.file), "--run-date", str(D(0)), "--model", model]


ALL_STEPS = ["evaluate", "register --model recommender", "bless --model recommender", "publish"]


@pytest.mark.parametrize(("action", "ran"), [
    ("skip", ["publish"]), ("retrain", ["train", *ALL_STEPS]), ("fine_tune", ["train --warm", *ALL_STEPS])])
def test_what_a_plan_sets_in_motion(shop: Shop, steps: Callable[..., Steps], action: str, ran: list[str]) -> None:
    made = steps()
    assert retrain.main(with_plan(shop, action)) == 0
    assert made.ran == ran


def test_a_backfill_of_nights_that_were_run_trains_nothing_again(shop: Shop, steps: Callable[..., Steps]) -> None:
    """Two nights, of which the first trained: whatever is planned and done again, the one training there was is the only one."""
    version = shop.trained(0)
    shop.promote(version, 0)
    nights.publish_inputs(shop.settings, D(1))
    for n, why in ((0, "it was trained from exactly these inputs before"), (1, "nothing drifted, nothing is due, too little is new")):
        assert shop.plan(n) == 0 and shop.plan(n) == 0
        assert (shop.planned(n)["action"], shop.planned(n)["why"]) == ("skip", why)
        ran = steps()
        assert retrain.main(shop.argv(n, "--model", "recommender")) == 0
        assert ran.ran == ["publish"]
    assert [v.version for v in Registry(shop.settings).versions()] == [version]


@pytest.mark.parametrize(("codes", "ran", "code"), [
    ({"train": 1}, ["train", "publish"], 1), ({"train": 3}, ["train", "publish"], 3), ({"bless": 3}, ["train", *ALL_STEPS], 3),
    ({"evaluate": -9}, ["train", "evaluate", "publish"], 1), ({"train": 3, "publish": 1}, ["train", "publish"], 3)])
def test_whatever_fails_the_champion_publishes(
    shop: Shop, steps: Callable[..., Steps], codes: dict[str, int], ran: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    made = steps(**codes)
    assert retrain.main(with_plan(shop, "retrain")) == code
    assert made.ran == ran
    assert f"step {next(iter(codes))}" in capsys.readouterr().err


def test_a_shop_may_have_nothing_that_a_kind_learns_from(shop: Shop, steps: Callable[..., Steps]) -> None:
    made = steps(train_screener=3)
    assert retrain.main(with_plan(shop, "retrain", "screener", None)) == 0
    assert made.ran == ["feedback", "screen_features", "train_screener"]
    assert retrain.main(with_plan(shop, "retrain", "screener", "4")) == 3, "one that served before has lost something"
    assert steps(train=3) and retrain.main(with_plan(shop, "retrain", "recommender", None)) == 3, "a shop without recommendations is broken"
    made = steps()
    assert retrain.main(with_plan(shop, "skip", "screener", None)) == 0 and made.ran == []


def test_without_a_plan_nothing_is_trained(shop: Shop, steps: Callable[..., Steps], capsys: pytest.CaptureFixture[str]) -> None:
    made = steps()
    assert retrain.main(shop.argv(0, "--model", "recommender")) == 1
    assert made.ran == [] and "run `python -m jobs.plan_retraining" in capsys.readouterr().err
    assert retrain.main(shop.argv(0, "--model", "oracle")) == 2


def test_the_published_partition_is_what_it_returns(shop: Shop, steps: Callable[..., Steps], tmp_path: Any) -> None:
    steps()
    with shop.lake.writer(RECOMMENDATIONS, [D(0)]) as writer:
        writer.publish(D(0), inputs=[], settings="s", code="c")
    assert retrain.main([*with_plan(shop, "skip"), "--result", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text()) == [str(shop.lake.manifest_path(RECOMMENDATIONS, D(0)))]


def test_lineage_counts_warm_starts_since_the_model_was_made_anew(shop: Shop) -> None:
    registry = Registry(shop.settings)

    def tags(n: int, champion: str | None, **training: Any) -> tuple[str, date, int]:
        version = shop.trained(n, champion, **training)
        retrain._lineage(_night(shop, n), RECOMMENDER)
        found = registry.version(version)
        shop.promote(version, n)
        return version, plan_retraining._made_anew(found), int(found.tags[plan_retraining.WARM_STARTS])

    assert tags(0, None) == ("1", D(0), 0)
    assert tags(1, "1", warm_start={"version": "1"}) == ("2", D(0), 1)
    assert tags(2, "2", warm_start={"version": "2"}) == ("3", D(0), 2)
    assert tags(3, "3", warm_start_refused={"version": "3", "why": "it forgot older days"}) == ("4", D(3), 0)
    nights.publish_inputs(shop.settings, D(4))
    shop.plan(4)
    assert json.loads(shop.planned(4)["evidence"])["age_days"] == 1
