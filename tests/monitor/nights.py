"""A night of which everything was published, so that every metric has something to say."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa

from nightmarket.contracts import (
    DRIFT,
    EVALUATION,
    EVENTS,
    EXPERIMENTS,
    EXPOSURES,
    FEATURES,
    FORECASTS,
    ITEMS,
    LIVE_EVENTS,
    QUALITY,
    RAW_EVENTS,
    RECOMMENDATIONS,
    RETRAINING,
    SCREENING_DECISIONS,
    SCREENING_EVALUATION,
    Dataset,
)
from nightmarket.lake import Lake
from nightmarket.lake.partitions import QUARANTINE
from nightmarket.monitor.account import file_of
from nightmarket.monitor.switches import Switch, turn_off
from nightmarket.online.experiments import Reading, State
from nightmarket.online.update import Entry, Updates
from nightmarket.quality.outbox import Outbox
from nightmarket.recommend.lookup import About, serve
from nightmarket.registry.ledger import Ledger
from nightmarket.shop import Settings

NIGHT = date(2026, 3, 29)
"""On which the clocks of London go forward: its end is 23:00 UTC."""
END = datetime(2026, 3, 29, 23, tzinfo=timezone.utc).timestamp()
EXPERIMENT: dict[str, Any] = {
    "starts": "2026-03-01", "arms": {"control": 0.5, "new": 0.5}, "guardrails": {"revenue": 0.1}, "canary": [0.1, 1.0],
}


def put(settings: Settings, dataset: Dataset, rows: list[dict[str, Any]], night: date = NIGHT, rejected: dict[str, int] | None = None,
        notes: dict[str, Any] | None = None, seconds: float = 0.0) -> None:
    refused = [{"reason": r, "detail": None, "source_file": "f", "source_row": i, "delivered_on": night, "record": "e1:x"}
               for r, n in (rejected or {}).items() for i in range(n)]
    with Lake(settings.places.lake).writer(dataset, [night]) as writer:
        writer.stage_arrow(night, pa.Table.from_pylist(rows, dataset.arrow_schema()),
                           pa.Table.from_pylist(refused, QUARANTINE.arrow_schema()) if refused else None)
        writer.publish(night, inputs=[], settings="s", code="c", notes=notes, seconds=seconds)


def events(n: int, night: date = NIGHT) -> list[dict[str, Any]]:
    return [{"event_id": f"{night}-{i}", "event_ts": datetime(night.year, night.month, night.day, 12, i, tzinfo=timezone.utc), "event_type": "view",
             "item_id": "a", "delivered_on": night, "source_file": "e", "source_row": i, "event_date": night, "is_outlier": False, "filled": []}
            for i in range(n)]


def whole(settings: Settings, verdict: str = "passed") -> None:
    """Publishes everything of NIGHT, and volumes of the weeks before: 10, 20, 30 and 40 rows where NIGHT brings 50."""
    def only(rows: list[dict[str, Any]], dataset: Dataset) -> list[dict[str, Any]]:
        return [{k: v for k, v in r.items() if k in dataset.column_names} for r in rows]

    for week, rows in enumerate((40, 30, 20, 10), 1):
        night = NIGHT - timedelta(weeks=week)
        put(settings, RAW_EVENTS, only(events(rows, night), RAW_EVENTS), night)
    put(settings, RAW_EVENTS, only(events(46), RAW_EVENTS), rejected={"bad_event_ts": 3, "missing_item_id": 1}, seconds=12.5)
    put(settings, EVENTS, events(40), rejected={"exact_duplicate": 6})
    put(settings, ITEMS, [{"item_id": i, "delivered_on": NIGHT, "source_file": "i", "source_row": n} for n, i in enumerate("abcde")])
    put(settings, FEATURES, [])
    put(settings, QUALITY, [
        {"dataset": "silver.events", "expectation": f"e{n}", "column": None, "severity": severity, "success": held, "observed": None,
         "expected": None, "unexpected_rows": None, "checked_rows": None, "examples": None}
        for n, (severity, held) in enumerate([("critical", True), ("critical", verdict != "refused"), ("warning", False), ("info", True)])
    ], notes={"verdict": verdict, "from_date": str(NIGHT)})
    put(settings, EVALUATION, [
        {"model": m, "model_version": None, "slice": s, "metric": "ndcg@10", "value": v, "low": v - 0.02, "high": v + 0.02, "users": 50}
        for m, v in (("challenger", 0.42), ("champion", 0.4), ("popularity", 0.1)) for s in ("all", "country=DE")
    ])
    put(settings, SCREENING_EVALUATION, [
        {"model": m, "model_version": None, "slice": "all", "metric": metric, "value": v, "low": v - 0.02, "high": v + 0.02, "users": 50}
        for m, metric, v in (("champion", "average_precision", 0.7), ("champion", "calibration_loss", 0.05), ("strongest_simple", "average_precision", 0.5))
    ])
    put(settings, RECOMMENDATIONS, [
        {"audience": a, "audience_id": k, "rank": r, "item_id": i, "score": s, "reason": "popular", "model_name": "recommender", "model_version": "3"}
        for a, k, r, i, s in (("user", "u1", 1, "a", 1.0), ("user", "u1", 2, "b", 0.5), ("user", "u2", 1, "c", 3.0), ("everyone", "*", 1, "a", 9.0))
    ], notes={"users": 10, "users_by_fallback": 4, "countries": 0, "items": 3, "model_version": "3"})
    serve(settings.places.root / "published", Lake(settings.places.lake).at(RECOMMENDATIONS, NIGHT).arrow(), About(NIGHT, "recommender", "3", "d"))
    settings.places.mlflow.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(settings.places.mlflow / "ledger.db", clock=lambda: datetime(2026, 3, 28, 4, tzinfo=timezone.utc))
    ledger.promote("recommender", "2", None, "t", "t", {}, NIGHT - timedelta(days=9))
    ledger.promote("recommender", "3", "2", "t", "t", {}, NIGHT - timedelta(days=1))
    put(settings, EXPOSURES, [{"experiment": "warmer", "unit_id": "u1", "arm": "new", "exposed_at": datetime(2026, 3, 29, 9, tzinfo=timezone.utc), "shows": 3}],
        rejected={"wrong_arm": 2}, notes={"lines": 5})
    readings = (
        Reading("purchase", "metric", "new", 300, 0.2, 0.22, 0.1, -0.05, 0.25, 0.2, None, False, False),
        Reading("revenue", "guardrail", "new", 400, 5.0, 5.1, 0.02, None, None, 1.0, 0.1, False, False),
    )
    state = State("warmer", NIGHT, "d", "running", "as tested", 0, date(2026, 3, 1), units={"control": 410, "new": 400}, readings=readings)
    put(settings, EXPERIMENTS, [], notes={"states": [json.loads(json.dumps(state.to_json()))]})
    put(settings, DRIFT, [
        {"kind": k, "feature": f, "test": "ks", "statistic": 0.1, "p_value": 0.5, "q_value": 0.5, "effect": e, "least": 0.25, "drifted": e > 0.25,
         "now": "", "before": "", "rows_now": 9, "rows_before": 9} for k, f, e in (("feature", "events.unit_price", 0.4), ("feature", "events.country", 0.1))
    ], notes={"live": {"metric": "ndcg@10", "value": 0.3, "low": 0.25, "high": 0.35, "promise": 0.4, "users": 50}})
    put(settings, SCREENING_DECISIONS, [], notes={
        "counts": {"order allow": 40, "order block": 2}, "reviewed": {"order": {"alerts": 8, "bad": 6, "missed": 1, "precision": 0.75}},
        "score_drift": {"order": 0.1}, "feature_drift": {"order": {"device.rows.1d": 0.3}}, "hours_to_decision": {"order": 11.5}})
    put(settings, FORECASTS, [], notes={"worse": "its errors of 9 days are beyond those of its backtests"})
    put(settings, RETRAINING, [{"model": "recommender", "action": "fine_tune", "why": "t", "inputs": "i", "order_id": None, "evidence": "{}"}])
    account = file_of(settings.places.logs, NIGHT)
    account.parent.mkdir(parents=True, exist_ok=True)
    base = {"run_date": str(NIGHT), "run_id": "r"}
    account.write_text("\n".join(json.dumps({**base, **x}) for x in (
        {"step": "clean", "pid": 1_000_001, "at": "2026-03-30T02:00:00+00:00", "event": "began"},
        {"step": "clean", "pid": 1_000_001, "at": "2026-03-30T02:00:42+00:00", "event": "ended", "exit_code": 1, "why": "x", "log": []},
        {"step": "clean", "pid": 1_000_002, "at": "2026-03-30T02:01:00+00:00", "event": "began"},
        {"step": "clean", "pid": 1_000_002, "at": "2026-03-30T02:01:30+00:00", "event": "ended", "exit_code": 0, "why": "", "log": []},
        {"step": "gate", "pid": 1_000_003, "at": "2026-03-30T02:02:00+00:00", "event": "began"})) + "\n")
    put(settings, LIVE_EVENTS, [], notes={"batches": {"s:0": 4}, "newest": END - 60})
    Updates(settings.places.root).add(Entry("r", str(NIGHT), "3", None, "dropped", "t", None, 4, "now"))
    turn_off(settings, Switch("online_updates", "jobs.respond", "t", str(NIGHT)))
    from email.message import EmailMessage

    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "a@example.org", "b@example.org", "s"
    mail.set_content("t")
    Outbox(settings.places.outbox).put(mail, "key")
