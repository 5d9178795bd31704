"""Grafana dashboards as JSON, provisioned from files: data, models, experiments, service. Every query is run by the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DATASOURCE = "nightmarket"
"""Uid of the provisioned Prometheus."""
_SHOP = 'shop=~"$shop"'


@dataclass(frozen=True)
class Panel:
    """One graph: queries with their legends. In a query $s stands for the chosen shop's label."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    help: str = ""
    kind: str = "timeseries"
    wide: bool = False


DASHBOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "data": ("Nightmarket: data", (
        Panel("The gate said", (('nightmarket_gate_verdict{$s} == 1', "{{verdict}}"),), kind="stat"),
        Panel("Age of the newest judged night", (('time() - nightmarket_night_timestamp_seconds{$s, dataset="gold.quality"}', "{{shop}}"),), "s", kind="stat"),
        Panel("Newest clean event", (('time() - nightmarket_newest_event_timestamp_seconds{$s}', "{{shop}}"),), "s", kind="stat"),
        Panel("Rows delivered", (('nightmarket_rows{$s, flow="in", dataset=~"bronze.*"}', "{{dataset}}"),), wide=True),
        Panel("Against the same weekday", (('nightmarket_volume_ratio{$s, dataset=~"bronze.*"}', "{{dataset}}"),), "percentunit", "1 is the median of four weeks."),
        Panel("Rejected", (('nightmarket_rows{$s, flow="quarantined"} / ignoring (flow) (nightmarket_rows{$s, flow="in"} > 0)', "{{dataset}}"),), "percentunit"),
        Panel("Reasons", (('topk(10, nightmarket_quarantined_rows{$s})', "{{dataset}} {{reason}}"),), kind="bargauge"),
        Panel("Expectations that did not hold", (('nightmarket_gate_expectations{$s, held="false"}', "{{severity}}"),)),
    )),
    "models": ("Nightmarket: models", (
        Panel("Serves", (('nightmarket_serving_info{$s}', "{{model}} version {{version}}"),), kind="stat"),
        Panel("Age of what shoppers see", (('time() - nightmarket_serving_night_timestamp_seconds{$s}', "{{shop}}"),), "s", kind="stat"),
        Panel("Champion's data is", (('time() - nightmarket_champion_night_timestamp_seconds{$s}', "{{model}}"),), "s", kind="stat"),
        Panel("Quality on the frozen holdout", (
            ('nightmarket_model_quality{$s, metric="ndcg@10", bound="value"}', "{{model}}"),
            ('nightmarket_model_quality{$s, metric="ndcg@10", bound="low", model="challenger"}', "challenger, low"),
            ('nightmarket_model_quality{$s, metric="ndcg@10", bound="high", model="challenger"}', "challenger, high"),
        ), help="Mean over shoppers; higher is better.", wide=True),
        Panel("All metrics of the night", (('nightmarket_model_quality{$s, bound="value"}', "{{kind}} {{model}} {{metric}}"),), kind="table", wide=True),
        Panel("Once shoppers had bought", (('nightmarket_live_quality{$s}', "{{metric}} {{bound}}"),), help="Of what was published, against the promise."),
        Panel("Drift", (('nightmarket_drift_effect{$s}', "{{feature}} {{test}}"),), wide=True),
        Panel("Alarms of drift", (('nightmarket_drifted_features{$s}', "{{kind}}"),)),
        Panel("Screening: found, and off", (
            ('nightmarket_model_quality{$s, kind="screener", metric=~"average_precision|calibration_loss", bound="value"}', "{{model}} {{metric}}"),
        ), help="Average precision, higher is better; expected calibration error, lower is."),
        Panel("Of what was stopped, bad", (('nightmarket_screening_precision_ratio{$s}', "{{kind}}"),), "percentunit"),
        Panel("Drift of screening", (('nightmarket_screening_drift{$s}', "{{kind}} {{what}}"),)),
        Panel("Forecasts miss beyond backtests", (('nightmarket_forecast_drift{$s}', "{{shop}}"),), kind="stat"),
        Panel("Training decided", (('nightmarket_retraining{$s} == 1', "{{model}}: {{action}}"),), kind="stat"),
        Panel("Shoppers with a list", (('nightmarket_published_shoppers{$s}', "{{list}}"),)),
        Panel("Catalogue recommended", (('nightmarket_catalogue_coverage_ratio{$s}', "{{shop}}"),), "percentunit"),
        Panel("Scores at the first place", (('nightmarket_score{$s}', "quantile {{quantile}}"),)),
        Panel("Alias moves", (('nightmarket_alias_moves_total{$s}', "{{model}} {{action}}"),)),
        Panel("Last promotion", (('time() - nightmarket_champion_promoted_timestamp_seconds{$s}', "{{model}}"),), "s", kind="stat"),
    )),
    "experiments": ("Nightmarket: experiments", (
        Panel("Where they stand", (('nightmarket_experiment_status{$s} == 1', "{{experiment}}: {{status}}"),), kind="stat", wide=True),
        Panel("Traffic that takes part", (('nightmarket_experiment_enrolment_ratio{$s}', "{{experiment}}"),), "percentunit"),
        Panel("Exposed shoppers", (('nightmarket_experiment_exposed{$s}', "{{experiment}} {{arm}}"),)),
        Panel("Change against the control", (('nightmarket_experiment_change_ratio{$s, role="metric"}', "{{experiment}} {{arm}} {{metric}} {{bound}}"),), "percentunit",
              "Better is positive. The interval stays true however often one looks.", wide=True),
        Panel("Guardrails", (('nightmarket_experiment_change_ratio{$s, role="guardrail"}', "{{experiment}} {{arm}} {{metric}} {{bound}}"),), "percentunit", wide=True),
        Panel("Exposure log", (('nightmarket_exposure_lines{$s}', "{{fate}}"),)),
    )),
    "service": ("Nightmarket: service", (
        Panel("Look-up, 99th percentile", (('histogram_quantile(0.99, sum by (shop, le) (rate(nightmarket_lookup_seconds_bucket{$s}[5m])))', "{{shop}}"),), "s"),
        Panel("Look-ups a second", (('sum by (source) (rate(nightmarket_lookup_seconds_count{$s}[5m]))', "{{source}}"),), "reqps"),
        Panel("Look-ups without an answer", (('sum by (reason) (rate(nightmarket_lookup_failures_total{$s}[5m]))', "{{reason}}"),), "reqps"),
        Panel("Time of the night's steps", (('nightmarket_step_seconds{$s}', "{{dataset}}"),), "s", wide=True),
        Panel("Runs of the night's steps", (('nightmarket_step_runs{$s}', "{{step}} {{model}} {{outcome}}"),), kind="bargauge", wide=True),
        Panel("Their time", (('nightmarket_step_run_seconds{$s}', "{{step}} {{model}}"),), "s", wide=True),
        Panel("Updates between nights", (('nightmarket_online_updates{$s}', "{{outcome}}"),), kind="stat"),
        Panel("Dropped in a row", (('nightmarket_online_strikes{$s}', "{{shop}}"),), kind="stat", help="Three stop updates between nights."),
        Panel("Newest live event", (('time() - nightmarket_live_event_timestamp_seconds{$s}', "{{shop}}"),), "s", kind="stat"),
        Panel("Switched off", (('nightmarket_switched_off{$s}', "{{what}}"),), kind="stat"),
        Panel("Steps waited for their turn", (
            ('airflow_task_scheduled_duration_milliseconds_sum{$s} / airflow_task_scheduled_duration_milliseconds_count{$s}', "{{dag_id}} {{task_id}}"),
        ), "ms", "From being due to being given to the executor: a slot of its pool, and of all, was free.", wide=True),
        Panel("Waiting now", (
            ('airflow_pool_scheduled_slots{$s} + airflow_pool_queued_slots{$s}', "{{pool_name}}"),
            ('airflow_executor_queued_tasks{$s}', "given to the executor"),
        )),
        Panel("At work", (('airflow_pool_running_slots{$s}', "{{pool_name}}"),)),
        Panel("Scheduler's heartbeats", (('rate(airflow_scheduler_heartbeat_total{$s}[5m])', "{{shop}}"),)),
        Panel("Peak memory", (('nightmarket_step_peak_memory_bytes{$s}', "{{dataset}}"),), "bytes", wide=True),
        Panel("Mails", (('nightmarket_mails{$s}', "{{state}}"),), kind="stat"),
        Panel("Measured", (('time() - nightmarket_collected_timestamp_seconds{$s}', "{{shop}}"),), "s", kind="stat"),
        Panel("Look-up answers from the night of", (('time() - nightmarket_lookup_night_timestamp_seconds{$s}', "{{shop}}"),), "s", kind="stat"),
    )),
}


def queries(shop: str) -> list[str]:
    """Every query of every dashboard, about one shop; the variable's too."""
    panels = [p for _, panels in DASHBOARDS.values() for p in panels]
    return ["nightmarket_collected_timestamp_seconds", *(_query(q).replace("$shop", shop) for p in panels for q, _ in p.queries)]


def dashboard(name: str) -> dict[str, Any]:
    """One dashboard in Grafana's JSON model."""
    title, panels = DASHBOARDS[name]
    return {
        "uid": f"nightmarket-{name}", "title": title, "tags": ["nightmarket"], "schemaVersion": 39, "editable": False, "refresh": "1m",
        "time": {"from": "now-14d", "to": "now"}, "timezone": "browser",
        "templating": {"list": [{
            "name": "shop", "type": "query", "datasource": {"type": "prometheus", "uid": DATASOURCE}, "multi": True, "includeAll": True,
            "query": {"query": "label_values(nightmarket_collected_timestamp_seconds, shop)", "refId": "shop"}, "refresh": 2,
        }]},
        "panels": _placed(panels),
    }


def _query(text: str) -> str:
    return text.replace("$s", _SHOP) if "$shop" not in text else text


def _placed(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Panels from left to right on Grafana's grid of 24 columns; wide ones take a row."""
    made: list[dict[str, Any]] = []
    x = y = 0
    for n, panel in enumerate(panels, 1):
        width = 24 if panel.wide else 8
        if x + width > 24:
            x, y = 0, y + 8
        made.append({
            "id": n, "type": panel.kind, "title": panel.title, "description": panel.help,
            "datasource": {"type": "prometheus", "uid": DATASOURCE}, "gridPos": {"x": x, "y": y, "w": width, "h": 8},
            "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + i), "expr": _query(q), "legendFormat": legend, "instant": panel.kind != "timeseries",
                 "range": panel.kind == "timeseries", "format": "table" if panel.kind == "table" else "time_series",
                 "datasource": {"type": "prometheus", "uid": DATASOURCE}}
                for i, (q, legend) in enumerate(panel.queries)
            ],
        })
        x += width
    return made
