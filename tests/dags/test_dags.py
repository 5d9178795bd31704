"""The DAGs as a closed list: ids, policies, the command of every task, what a parse imports and how long it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TriggerRule

from nightmarket.contracts import (
    DAILY_SALES,
    FEATURES,
    FORECAST_EVALUATION,
    ORDERS,
    QUALITY,
    REVIEWS,
    SCREENING_DECISIONS,
)
from nightmarket.orchestration import JobOperator, NightReady, NightTimetable, kinds
from nightmarket.orchestration.approval import AskForEntries
from nightmarket.orchestration.manual import dags
from nightmarket.shop import DEFAULT_SHOP, PROJECT, child_environment
from nightmarket.steps import POOLS, STEPS, step

HERE = Path(__file__).parent
CHAINS = {
    "shop_ingestion": {
        "deliver": {"ingest"}, "ingest": {"clean"}, "clean": {"gate"}, "gate": {"aggregate", "report", "respond"},
        "report": {"send", "metrics"}, "respond": {"send", "metrics"}, "aggregate": set(), "send": set(), "metrics": set(),
    },
    "recommendation_training": {
        "train": {"evaluate"}, "evaluate": {"register"}, "register": {"bless"}, "bless": {"publish"}, "publish": {"announce"},
        "announce": {"experiment", "outcome"}, "experiment": {"send", "metrics"}, "send": set(), "metrics": set(), "onboard": set(),
        "drift": {"respond", "outcome"}, "respond": set(), "outcome": set(),
    },
    "nightly_retraining": {
        "wait_for_night": {"drift", "onboard", "retrain", "experiment"}, "onboard": set(), "drift": {"respond", "outcome"},
        "respond": {"plan_retraining", "outcome"}, "plan_retraining": {"retrain"}, "settled": {"experiment"},
        "retrain": {"summarise", "outcome", "settled", "announce_forecasts", "brief_risk"}, "summarise": {"send", "metrics"}, "outcome": set(),
        "announce_forecasts": {"send"}, "brief_risk": {"send"}, "send": set(), "experiment": set(), "metrics": set(),
    },
    "seasonal_forecasting": {
        "series": {"fit_forecasts"}, "fit_forecasts": {"judge_forecasts"}, "judge_forecasts": {"register"}, "register": {"bless"},
        "bless": {"publish_forecasts"}, "publish_forecasts": {"announce_forecasts"}, "announce_forecasts": {"send", "metrics"}, "send": set(),
        "metrics": set(),
    },
    "rollback": {"rollback": {"send"}, "send": set()},
    "online_update": {"stream": {"update"}, "update": {"send", "metrics"}, "send": set(), "metrics": set()},
    "fraud_screening": {
        "feedback": {"screen_features"}, "screen_features": {"train_screener"}, "train_screener": {"judge_screener"}, "judge_screener": {"register"},
        "register": {"bless"}, "bless": {"decide"}, "decide": {"brief_risk"}, "brief_risk": {"send", "metrics"}, "send": set(),
        "metrics": set(),
    },
    "blocklist_approval": {"propose": {"ask"}, "ask": {"enter"}, "enter": set()},
}
PLAIN = {"wait_for_night": NightReady, "outcome": EmptyOperator, "settled": EmptyOperator, "ask": AskForEntries}
"""Tasks that only Airflow needs; every other one is a job."""


@pytest.fixture(scope="module")
def made() -> dict[str, DAG]:
    return dags()


def test_the_list_of_dags_is_closed(made: dict[str, DAG]) -> None:
    assert set(made) == set(CHAINS)
    assert {p.name for p in (PROJECT / "dags").glob("*.py")} == {f"{d}.py" for d in CHAINS}


def test_tasks_and_their_order(made: dict[str, DAG]) -> None:
    found = {d.dag_id: {t.task_id: set(t.downstream_task_ids) for t in d.tasks} for d in made.values()}
    assert found == CHAINS


def test_every_step_is_in_exactly_one_dag(made: dict[str, DAG]) -> None:
    """But `send`, which ends each DAG that writes to people, `metrics`, which measures after a night's and between nights, the steps of a night's
    products (of the two DAGs that have them one starts by itself), and those that every kind of model takes."""
    tasks = [(d.dag_id, t.task_id) for d in made.values() for t in d.tasks if t.task_id not in PLAIN]
    models = ["fraud_screening", "recommendation_training", "seasonal_forecasting"]
    again = {"send": sorted(set(CHAINS) - {"blocklist_approval"}), "metrics": sorted({*models, "nightly_retraining", "online_update", "shop_ingestion"}),
             **{key: ["nightly_retraining", "recommendation_training"] for key in ("onboard", "experiment", "drift")},
             "respond": ["nightly_retraining", "recommendation_training", "shop_ingestion"],
             "announce_forecasts": ["nightly_retraining", "seasonal_forecasting"], "brief_risk": ["fraud_screening", "nightly_retraining"],
             "register": models, "bless": models}
    assert sorted(t for _, t in tasks if t not in again) == sorted(s.name for s in STEPS if s.name not in again)
    assert {name: sorted(d for d, t in tasks if t == name) for name in again} == again


@pytest.mark.parametrize("dag_id", CHAINS)
def test_policies_of_a_dag(made: dict[str, DAG], dag_id: str) -> None:
    dag = made[dag_id]
    assert dag.doc_md and dag.doc_md.startswith("# ")
    assert {"nightmarket", "demo"} < dag.tags
    assert dag.max_active_runs == 1
    assert not dag.catchup
    assert dag.dagrun_timeout is not None
    [late] = dag.deadline if isinstance(dag.deadline, list) else [dag.deadline]
    assert late.interval.total_seconds() == 180 * 60
    for name in dag.params:
        field = dag.params.get_param(name)
        assert field.description and field.schema["title"], f"{name} explains itself in the form"


@pytest.mark.parametrize(("dag_id", "name"), [(d, t) for d, tasks in CHAINS.items() for t in tasks if t not in PLAIN])
def test_policies_of_a_task(made: dict[str, DAG], dag_id: str, name: str) -> None:
    spec, task = step(name), made[dag_id].task_dict[name]
    assert (task.operator_class if task.is_mapped else type(task)) is JobOperator
    assert task.owner != "airflow"
    assert task.doc_md
    assert task.retries == spec.retries > 0
    assert task.retry_exponential_backoff
    assert task.max_retry_delay is not None
    assert task.execution_timeout is not None and task.execution_timeout.total_seconds() == spec.timeout_minutes * 60
    assert task.pool == spec.pool and task.pool in {*POOLS, "default_pool"}
    # which kinds decide is not known before they did, so the letter about decisions says that they are there
    writes = [SCREENING_DECISIONS] if (dag_id, name) == ("nightly_retraining", "brief_risk") else spec.writes
    assert [a.uri for a in task.outlets] == [d.uri for d in writes]
    reads = [FORECAST_EVALUATION] if (dag_id, name) in (("seasonal_forecasting", "register"), ("seasonal_forecasting", "bless")) else spec.reads
    assert [a.uri for a in task.inlets] == [d.uri for d in reads]


def test_a_refused_gate_fails_the_run_and_is_reported(made: dict[str, DAG]) -> None:
    dag = made["shop_ingestion"]
    assert dag.task_dict["report"].trigger_rule == TriggerRule.ALL_DONE
    # a leaf behind the gate that needs it: upstream_failed there is what fails the run although report and send succeed
    assert dag.task_dict["aggregate"].trigger_rule == TriggerRule.NONE_FAILED
    assert dag.task_dict["send"].may_be_late
    jobs = [t for d in made.values() for t in d.tasks if isinstance(t, JobOperator)]
    letters = [("nightly_retraining", n) for n in ("announce_forecasts", "brief_risk")]  # where a kind published nothing there is none
    assert not any(t.may_be_late for t in jobs if t.task_id not in ("send", "metrics") and (t.dag_id, t.task_id) not in letters)


def test_tasks_that_only_airflow_needs(made: dict[str, DAG]) -> None:
    found = {t.task_id: t for d in made.values() for t in d.tasks if t.task_id in PLAIN}
    assert {n: type(t) for n, t in found.items()} == PLAIN
    wait = found["wait_for_night"]
    ask = found["ask"]
    assert (ask.options, ask.defaults, ask.response_timeout) == (["Block them", "Block nothing"], ["Block nothing"], timedelta(hours=12)) and ask.doc_md
    assert wait.mode == "reschedule" and wait.night == "{{ run_date() }}" and wait.timeout == 6 * 3600 and wait.doc_md


def rules(dag: DAG) -> dict[str, TriggerRule]:
    """Of the tasks that do not run only where nothing before them failed."""
    return {t.task_id: t.trigger_rule for t in dag.tasks if t.trigger_rule != TriggerRule.NONE_FAILED}


def test_what_runs_although_something_before_it_failed(made: dict[str, DAG]) -> None:
    """A harm is seen, a person is told and an alert is answered on bad nights too; what fails all the same keeps `outcome` from being reached."""
    done = TriggerRule.ALL_DONE
    assert rules(made["shop_ingestion"]) == {"report": done, "respond": TriggerRule.ONE_FAILED, "send": done, "metrics": done}
    assert rules(made["recommendation_training"]) == dict.fromkeys(("experiment", "respond", "send", "metrics"), done)
    assert rules(made["nightly_retraining"]) == dict.fromkeys(
        ("respond", "plan_retraining", "summarise", "settled", "announce_forecasts", "brief_risk", "metrics"), done)
    for dag_id in ("recommendation_training", "nightly_retraining"):
        ends = made[dag_id].task_dict["outcome"]
        before = {"recommendation_training": {"announce", "drift"}, "nightly_retraining": {"drift", "respond", "retrain"}}
        assert ends.upstream_task_ids == before[dag_id]


def test_a_kind_that_fails_is_told_about_and_fails_the_run(made: dict[str, DAG]) -> None:
    dag = made["nightly_retraining"]
    assert dag.task_dict["summarise"].trigger_rule == TriggerRule.ALL_DONE
    # a leaf that is not reached fails the run although summarise and send succeed
    assert dag.task_dict["outcome"].trigger_rule == TriggerRule.NONE_FAILED and not dag.task_dict["outcome"].downstream_task_ids


def test_every_registered_kind_is_retrained_by_a_task_of_its_own(made: dict[str, DAG]) -> None:
    task = made["nightly_retraining"].task_dict["retrain"]
    assert task.is_mapped
    assert task.expand_input.value == {"arguments": [f"--model {kind}" for kind in kinds()]} and "recommender" in kinds()
    assert "command" not in task.expand_input.value, "what is mapped is not rendered, and the command is a template"


def test_schedules(made: dict[str, DAG]) -> None:
    nightly = made["shop_ingestion"].timetable
    assert isinstance(nightly, NightTimetable)
    assert nightly.serialize() == {"expression": "0 2 * * *", "timezone": "Europe/London", "scheduled": True}
    retraining = made["nightly_retraining"].timetable
    assert isinstance(retraining, NightTimetable) and not retraining.serialize()["scheduled"], "the demo trains every night"
    assert made["rollback"].schedule is None
    for dag_id, dataset in (("recommendation_training", FEATURES), ("seasonal_forecasting", DAILY_SALES)):
        waits: Any = made[dag_id].timetable
        assert waits.asset_condition.uri == dataset.uri
        assert [t.task_id for d in made.values() for t in d.tasks if dataset.uri in [a.uri for a in t.outlets]] == ["aggregate"]
    screening: Any = made["fraud_screening"].timetable
    assert {a.uri for a in screening.asset_condition.objects} == {ORDERS.uri, REVIEWS.uri, QUALITY.uri}, "the gate publishes quality only where it lets a night through"
    waits = made["blocklist_approval"].timetable
    assert waits.asset_condition.uri == SCREENING_DECISIONS.uri
    waits: Any = made["recommendation_training"].timetable
    assert waits.asset_condition.uri == FEATURES.uri
    assert [t.task_id for d in made.values() for t in d.tasks if FEATURES.uri in [a.uri for a in t.outlets]] == ["aggregate"]


def test_whose_schedule_decides_about_training(tmp_path: Path) -> None:
    """With schedule.retraining nightly_retraining starts by itself and the DAGs of the single kinds do not."""
    shop = tmp_path / "shop.yaml"
    shop.write_text(DEFAULT_SHOP.read_text(encoding="utf-8").replace("  deadline_minutes: 180", '  deadline_minutes: 180\n  retraining: "30 4 * * *"'))
    code = ("import json\nfrom nightmarket.orchestration.manual import dags\nd = dags()\n"
            "print(json.dumps([d['nightly_retraining'].timetable.serialize(), "
            "*[d[n].schedule is None for n in ('recommendation_training', 'seasonal_forecasting', 'fraud_screening')]]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=500,
                          env=child_environment(NIGHTMARKET_SHOP=str(shop)))
    assert json.loads(done.stdout.splitlines()[-1]) == [{"expression": "30 4 * * *", "timezone": "Europe/London", "scheduled": True}, True, True, True]


CASES: dict[str, dict[str, Any]] = {
    "scheduled": {"key": "2026-03-04", "params": {}},
    "first load": {"key": "2026-03-04", "params": {"from_date": "2026-01-05"}},
    "by hand": {
        "key": None,
        "params": {"run_date": "2026-02-01", "datasets": ["items", "events"], "force": True, "dry_run": True,
                   "version": "7", "order": "retrain", "kind": "recommender", "reason": "they said \"no\"; rm -rf /"},
    },
}


def _commands(made: dict[str, DAG]) -> str:
    lines = []
    for dag_id in CHAINS:
        dag = made[dag_id]
        for case, given in CASES.items():
            lines.append(f"# {dag_id}, {case}")
            run = SimpleNamespace(partition_key=given["key"], logical_date=None,
                                  run_after=datetime(2026, 3, 5, 2, tzinfo=timezone.utc), triggering_user_name="ada l.")
            # a field without a default must be filled in by whoever triggers the run
            defaults = {n: f.value if f.value is None or f.has_value else "complaints" for n in dag.params for f in [dag.params.get_param(n)]}
            params = {**defaults, **{k: v for k, v in given["params"].items() if k in defaults}}
            for task in dag.topological_sort():
                if task.task_id in PLAIN:
                    continue
                context = {"dag_run": run, "params": params, "run_id": "a run+1"}
                if task.is_mapped:
                    for arguments in task.expand_input.value["arguments"]:
                        fresh = task.unmap({"arguments": arguments})
                        fresh.render_template_fields(context, jinja_env=dag.get_template_env())
                        lines.append(f"{fresh.command} {fresh.arguments}")
                    continue
                fresh = dag.task_dict[task.task_id].prepare_for_execution()
                fresh.render_template_fields(context, jinja_env=dag.get_template_env())
                lines.append(fresh.command)
            lines.append("")
    return "\n".join(lines)


def test_commands_are_the_golden_ones(made: dict[str, DAG]) -> None:
    """Changed on purpose? `python tests/dags/test_dags.py` writes the file anew; read the difference."""
    assert _commands(made) == (HERE / "commands.txt").read_text(encoding="utf-8")


# Airflow is imported once; each file is parsed in a process that knows nothing of the others
PARSE = """
import json, os, runpy, sys, time
import airflow.sdk, airflow.plugins_manager, airflow.dag_processing.dagbag
before = set(sys.modules)
for file in sys.argv[1:]:
    if child := os.fork():
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{file} cannot be parsed")
        continue
    started = time.process_time()
    runpy.run_path(file)
    seconds = time.process_time() - started
    new = {m.split(".")[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)
    print(json.dumps({"new": sorted(new), "all": sorted({m.split(".")[0] for m in sys.modules}), "seconds": seconds}), flush=True)
    os._exit(0)
"""
HEAVY = {"pyspark", "tensorflow", "keras", "pandas", "numpy", "mlflow", "great_expectations", "sklearn", "scipy", "pyarrow",
         "matplotlib", "duckdb"}


@pytest.fixture(scope="module")
def parsed() -> dict[str, dict[str, Any]]:
    """By DAG: names of top-level packages that its parse imported, of all that are imported then, and its CPU seconds."""
    done = subprocess.run([sys.executable, "-c", PARSE, *(str(PROJECT / "dags" / f"{dag_id}.py") for dag_id in CHAINS)], capture_output=True, text=True,
                          env=child_environment(), check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"new"')]
    return dict(zip(CHAINS, told, strict=True))


@pytest.mark.parametrize("dag_id", CHAINS)
def test_a_parse_is_quick_and_imports_nothing_heavy(parsed: dict[str, dict[str, Any]], dag_id: str) -> None:
    told = parsed[dag_id]
    assert not HEAVY & set(told["all"])
    # beyond Airflow itself a parse imports the project and the reader of shop.yaml; a new name here wants a reason
    waits_for_people = {"asgiref"} if dag_id == "blocklist_approval" else set()  # Airflow's operators that ask a person
    assert set(told["new"]) <= {"airflow", "nightmarket", "yaml", "_yaml", "tzdata"} | waits_for_people
    assert told["seconds"] < 1.0


def test_a_broken_shop_says_so_at_parse(tmp_path: Path) -> None:
    broken = tmp_path / "shop.yaml"
    broken.write_text(DEFAULT_SHOP.read_text(encoding="utf-8").replace("time_zone: Europe/London", "time_zone: Europe/Londn"))
    done = subprocess.run([sys.executable, str(PROJECT / "dags" / "shop_ingestion.py")], capture_output=True, text=True,
                          env=child_environment(NIGHTMARKET_SHOP=str(broken)), check=False, timeout=500)
    assert done.returncode == 1
    assert "'Europe/Londn' is not an IANA time zone" in done.stderr


@pytest.mark.parametrize("file", [f"{dag_id}.py" for dag_id in CHAINS])
def test_a_dag_file_is_wiring_only(file: str) -> None:
    assert len((PROJECT / "dags" / file).read_text().splitlines()) <= 120


def test_nothing_deprecated_by_airflow() -> None:
    done = subprocess.run(["ruff", "check", "--select", "AIR3", "--no-cache", "dags", "plugins", "include/nightmarket/orchestration"],
                          cwd=PROJECT, capture_output=True, text=True, env=child_environment(), check=False)
    assert done.returncode == 0, done.stdout


if __name__ == "__main__":
    (HERE / "commands.txt").write_text(_commands(dags()), encoding="utf-8")
