"""What the summary tells, from a lake that was filled by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nightmarket.contracts import EVALUATION, EVENTS, QUALITY, RAW_EVENTS, RECOMMENDATIONS, SCREENING_DECISIONS, Dataset
from nightmarket.embedded import summary
from nightmarket.embedded.night import Account, Choice, Task
from nightmarket.lake import Lake
from nightmarket.lake.partitions import QUARANTINE
from nightmarket.registry.ledger import Ledger
from nightmarket.shop import Settings

NIGHT = date(2026, 3, 4)
RUN = "manual__1"


def _put(lake: Lake, dataset: Dataset, rows: list[dict[str, Any]], rejected: dict[str, int] | None = None,
         notes: dict[str, Any] | None = None, night: date = NIGHT) -> None:
    schema = dataset.arrow_schema()
    table = pa.Table.from_pylist([{n: r.get(n) for n in schema.names} for r in rows], schema=schema)
    refused = [
        {"reason": reason, "detail": "", "source_file": "f", "source_row": n, "delivered_on": night, "record": "{}"}
        for reason, count in (rejected or {}).items() for n in range(count)
    ]
    with lake.writer(dataset, [night]) as writer:
        writer.stage_arrow(night, table, pa.Table.from_pylist(refused, schema=QUARANTINE.arrow_schema()) if refused else None)
        writer.publish(night, inputs=[], settings="s", code="c", notes=notes)


def _measure(model: str, metric: str, value: float, interval: tuple[float, float] | None = None) -> dict[str, Any]:
    low, high = interval or (None, None)
    return {"model": model, "slice": "all", "metric": metric, "value": value, "low": low, "high": high, "users": 10}


@pytest.fixture
def lake(settings: Settings) -> Lake:
    lake = Lake(settings.places.lake)
    _put(lake, RAW_EVENTS, [{"event_id": str(n)} for n in range(1200)], {"not_a_number": 3})
    _put(lake, EVENTS, [{"event_id": str(n)} for n in range(1150)], {"duplicate": 48, "not_a_product": 2})
    _put(lake, QUALITY, [
        {"dataset": "silver.events", "expectation": "volume", "severity": "warning", "success": False, "observed": "1150",
         "expected": "at least 2000"},
        {"dataset": "silver.events", "expectation": "unique", "column": "event_id", "severity": "critical", "success": True},
    ], notes={"verdict": "warned", "from_date": NIGHT.isoformat()})
    _put(lake, EVALUATION, [
        _measure("popularity", "ndcg@10", 0.02, (0.01, 0.03)), _measure("challenger", "ndcg@10", 0.0612, (0.05, 0.07)),
        _measure("challenger", "purchase_roc_auc", 0.71, (0.6, 0.8)), _measure("item_item", "ndcg@10", 0.04),
    ])
    _put(lake, RECOMMENDATIONS, [{"audience": "user", "audience_id": "u", "rank": 1, "item_id": "i", "score": 1.0, "reason": "r"}])
    return lake


def _account(*states: tuple[str, str, str]) -> Account:
    account = Account(Choice(NIGHT, NIGHT, "as asked"), seconds=125.0)
    for dag, name, state in states:
        account.runs[dag] = (RUN, "success" if state == "success" else "failed")
        account.tasks.append(Task(dag, name, state, 12.34, 1))
    return account


def _log(settings: Settings, dag: str, task: str, *lines: str) -> Path:
    path = summary.task_log(settings, dag, RUN, task, 1)
    path.parent.mkdir(parents=True)
    said = [json.dumps({"logger": "x.JobOperator", "event": line}) for line in lines]
    path.write_text("\n".join(["not json", json.dumps({"logger": "task", "event": "airflow's own"}), *said]), encoding="utf-8")
    return path


def test_rows_are_told_by_reason(lake: Lake) -> None:
    lines = summary.rows(lake, [NIGHT]).splitlines()
    assert lines[0].split() == ["rows", "delivered", "typed", "clean", "quarantined,", "by", "reason"]
    assert lines[1].split(maxsplit=4) == ["events", "1,203", "1,200", "1,150", "48 duplicate, 3 not_a_number, 2 not_a_product"]


def test_rows_of_several_nights_are_added(lake: Lake) -> None:
    _put(lake, RAW_EVENTS, [{"event_id": "x"}], night=date(2026, 3, 3))
    assert "1,204" in summary.rows(lake, [date(2026, 3, 2), date(2026, 3, 3), NIGHT])


def test_the_gate_tells_what_failed(lake: Lake) -> None:
    told = summary.gate(lake, NIGHT)
    assert told.splitlines()[0] == "gate    warned    1 of 2 expectations held"
    assert "warning   silver.events: volume: observed 1150, expected at least 2000" in told
    assert summary.gate(lake, date(2026, 1, 1)) == "gate    not judged"


def test_models_stand_beside_the_baselines_best_first(lake: Lake) -> None:
    lines = summary.models(lake, NIGHT).splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["model", "challenger", "item_item", "popularity"]
    assert "0.0612 [0.0500, 0.0700]" in lines[1]
    assert lines[4] == "ROC AUC of the behaviour heads: purchase 0.7100 [0.6000, 0.8000]"


def test_promotion_tells_who_serves_and_why(settings: Settings) -> None:
    assert summary.promotion(settings, NIGHT) == ""
    settings.places.mlflow.mkdir(parents=True)
    ledger = Ledger(settings.places.mlflow / "ledger.db")
    ledger.promote("recommender", "7", None, who="gate", why="first that passed", run_date=NIGHT)
    told = summary.promotion(settings, NIGHT)
    assert told.splitlines() == ["champion    recommender version 7", "  champion: nobody -> 7: first that passed"]


def test_what_was_screened_is_told_by_kind(lake: Lake) -> None:
    assert summary.screening(lake, NIGHT) == ""
    _put(lake, SCREENING_DECISIONS, [], notes={"counts": {"order allow": 1400, "order block": 2, "review review": 3}})
    assert [line.split() for line in summary.screening(lake, NIGHT).splitlines()] == [
        ["screened", "allow", "review", "block"], ["order", "1,400", "0", "2"], ["review", "0", "3", "0"]]


def test_steps_have_their_peak_memory(settings: Settings) -> None:
    _log(settings, "shop_ingestion", "ingest", "2026 INFO nightmarket.ingest done seconds=11.0 peak_memory_mb=2048")
    lines = summary.steps(settings, _account(("shop_ingestion", "ingest", "success"))).splitlines()
    assert lines[1] == "shop_ingestion"
    assert lines[2].split() == ["ingest", "success", "12.3", "2048", "MB"]


def test_a_failed_night_says_what_went_wrong_and_where(settings: Settings, lake: Lake) -> None:
    log = _log(settings, "shop_ingestion", "gate", "gate: refused: 3 critical failures", "see the report")
    account = _account(("shop_ingestion", "gate", "failed"))
    assert not account.succeeded
    told = summary.text(settings, account)
    assert "night of 2026-03-04: FAILED in 2 min 05 s" in told
    assert told.rstrip().splitlines()[-4:] == [
        "what went wrong", f"  shop_ingestion.gate, full log {log}", "    gate: refused: 3 critical failures", "    see the report"
    ]


def test_a_night_is_done_when_all_runs_are(settings: Settings, lake: Lake) -> None:
    half = _account(("shop_ingestion", "ingest", "success"))
    assert not half.succeeded, "ingestion alone publishes nothing"
    every = _account(("shop_ingestion", "ingest", "success"), ("recommendation_training", "train", "success"))
    assert every.succeeded
    told = summary.text(settings, every)
    assert ": done in 2 min 05 s" in told and "what went wrong" not in told
    assert "published    1 recommendations" in told


def test_yesterdays_publication_is_named_where_tonight_has_none(lake: Lake) -> None:
    assert summary.published(lake, date(2026, 3, 5)) == "published    nothing tonight; the publication of 2026-03-04 keeps serving"


def test_a_fresh_shop_has_a_summary_too(make_settings: Callable[..., Settings]) -> None:
    told = summary.text(make_settings(), _account(("shop_ingestion", "deliver", "failed")))
    assert "gate    not judged" in told and "(no log)" in told
