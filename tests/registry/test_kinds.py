"""Every kind of model: what it names exists, and no two share a registered name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nightmarket.contracts import RETRAINING
from nightmarket.lake import Lake
from nightmarket.monitor.account import runs
from nightmarket.registry import kinds
from nightmarket.registry.kinds import KINDS, Kind
from nightmarket.shop import PROJECT, Blessing, Settings, child_environment
from nightmarket.steps import step
from tests.registry import nights
from tests.registry.conftest import empty_database, prepared  # noqa: F401


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.id)
def test_what_a_kind_names_exists(kind: Kind, settings: Settings) -> None:
    assert isinstance(kind.blessing(settings.shop), Blessing)
    assert callable(kind.load(kind.card)) and callable(kind.load(kind.package))
    assert kind.evaluation in step(kind.evaluate).writes
    assert step(kind.train).pool == "training" and step(kind.publish).writes


def test_names_are_apart(settings: Settings) -> None:
    names = [k.name(settings.shop) for k in KINDS]
    assert len(set(names)) == len(names)
    assert kinds.kind("recommender").name(settings.shop) == "recommender"


def test_a_drift_is_about_all_kinds_but_that_of_one_kinds_answers_or_labels() -> None:
    def about(feature: str) -> list[str]:
        return [k.id for k in kinds.concerned(feature)]

    assert about("events.unit_price") == about("orders.amount") == [k.id for k in KINDS]
    assert about("recommendations.score") == about("quality.hit_rate") == ["recommender"]
    assert about("screening_decisions.order") == about("orders.is_fraud") == about("quality.labels") == ["screener"]


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no kind of model 'oracle'; there are recommender"):
        kinds.kind("oracle")


MADE_UP = """
from nightmarket.contracts import EVALUATION, FEATURES, RECOMMENDATIONS
from nightmarket.registry.kinds import Kind
from nightmarket.steps import Step

STEPS = tuple(Step(f"{name}_luck", "", (FEATURES,), writes, pool="training", module=f"luck_{name}")
              for name, writes in (("train", ()), ("judge", (EVALUATION,)), ("publish", (RECOMMENDATIONS,))))
LUCK = Kind("luck", "Luck", "kinds.luck", "kinds.luck.blessing", EVALUATION, package="luck:none", card="luck:none", train="train_luck",
            evaluate="judge_luck", publish="publish_luck", steps=STEPS)
"""
JOB = """
import sys
from luck import LUCK
from nightmarket import command

def run(night):
    print("{name} of", LUCK.name(night.settings.shop), night.settings.shop.kinds["luck"].options)
    return []

if __name__ == "__main__":
    sys.exit(command.main("{name}_luck", "", run))
"""


def test_another_packages_kind_is_planned_mapped_and_trained(
    make_settings: Callable[..., Settings], prepared: Callable[[Settings], None], tmp_path: Path,  # noqa: F811
) -> None:
    """An entry point is all: the plan has it, the DAG maps over it, and what the mapped task runs is its own training."""
    settings = make_settings(kinds={"luck": {"name": "fortune", "options": {"dice": 2}}})
    prepared(settings)
    site = tmp_path / "site"
    (site / "luck-1.0.dist-info").mkdir(parents=True)
    (site / "luck-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: luck\nVersion: 1.0\n")
    (site / "luck-1.0.dist-info" / "entry_points.txt").write_text("[nightmarket.kinds]\nluck = luck:LUCK\n")
    (site / "luck.py").write_text(MADE_UP)
    for name in ("train", "judge", "publish"):
        (site / f"luck_{name}.py").write_text(JOB.replace("{name}", name))
    nights.publish_inputs(settings, nights.D(0))
    where = child_environment(PYTHONPATH=str(site), NIGHTMARKET_SHOP=str(settings.file))

    def python(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *words], cwd=PROJECT, env=where, capture_output=True, text=True, timeout=400, check=False)

    argv = ("--run-date", str(nights.D(0)), "--shop", str(settings.file))
    planned = python("-m", "jobs.plan_retraining", *argv)
    assert planned.returncode == 0, planned.stderr
    rows = {r["model"]: r for r in Lake(settings.places.lake).at(RETRAINING, nights.D(0)).arrow().to_pylist()}
    assert list(rows) == [*(k.id for k in KINDS), "luck"] and (rows["luck"]["action"], rows["luck"]["why"]) == ("retrain", "nothing serves")
    mapped = python("-c", "import runpy; print(runpy.run_path('dags/nightly_retraining.py')['dag'].get_task('retrain').expand_input.value['arguments'])")
    assert mapped.stdout.splitlines()[-1] == str([*(f"--model {k.id}" for k in KINDS), "--model luck"]), mapped.stderr
    trained = python("-m", "jobs.retrain", *argv, "--model", "luck")
    did = [line for line in trained.stdout.splitlines() if " of fortune " in line]
    assert did == [f"{n} of fortune {{'dice': 2}}" for n in ("train", "judge", "publish")], trained.stderr
    accounts = {(r.step, r.model): r.exit_code for r in runs(settings.places.logs, nights.D(0))}
    # it made no candidate, so there was nothing to register, and the run says so
    assert accounts == {("plan_retraining", ""): 0, ("train_luck", "luck"): 0, ("judge_luck", "luck"): 0, ("register", "luck"): 3,
                        ("publish_luck", "luck"): 0, ("retrain", "luck"): 3}
