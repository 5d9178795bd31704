"""Metrics in Prometheus form, from manifests, the lake, the ledger and the outbox: nothing is measured that was not published.

`METRICS` is every metric once; `collect` fills them for a night. They are gauges of the newest night: pushed, or read from a text file,
by whoever scrapes. Times are seconds since 1970-01-01 UTC, so that `time() - metric` is an age.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from nightmarket.contracts import (
    ALL,
    DRIFT,
    EVENTS,
    EXPERIMENTS,
    EXPOSURES,
    FORECASTS,
    ITEMS,
    LIVE_EVENTS,
    QUALITY,
    RECOMMENDATIONS,
    RETRAINING,
    SCREENING_DECISIONS,
    Dataset,
)
from nightmarket.evaluate.protocol import Holdout
from nightmarket.lake import Lake, Manifest, newest_arrow
from nightmarket.monitor.account import runs
from nightmarket.monitor.retraining import ACTIONS
from nightmarket.monitor.switches import off
from nightmarket.online.experiments import FINAL, State
from nightmarket.online.live import NEWEST
from nightmarket.online.update import Updates, strikes
from nightmarket.quality.outbox import Outbox
from nightmarket.quality.verdict import passed_nights
from nightmarket.recommend.lookup import PublicationError, serving
from nightmarket.registry.kinds import KINDS
from nightmarket.registry.ledger import Ledger
from nightmarket.shop import Settings

VERDICTS = ("passed", "warned", "refused")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_WEEKS = 4


@dataclass(frozen=True)
class Metric:
    """One metric; `shop` is a label of each."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


METRICS = (
    # -- data
    Metric("nightmarket_rows", "Rows of the night's partition: delivered to it (in), published (out), rejected (quarantined).", ("dataset", "flow")),
    Metric("nightmarket_quarantined_rows", "Rejected rows of the night by reason.", ("dataset", "reason")),
    Metric("nightmarket_volume_ratio", "Rows delivered over the median of the same weekday in the four weeks before.", ("dataset",)),
    Metric("nightmarket_night_timestamp_seconds", "End of the newest published night.", ("dataset",)),
    Metric("nightmarket_published_timestamp_seconds", "When the night's partition was published.", ("dataset",)),
    Metric("nightmarket_newest_event_timestamp_seconds", "Newest clean event of the night."),
    Metric("nightmarket_gate_verdict", "1 for what the data gate said of the night, 0 for the others.", ("verdict",)),
    Metric("nightmarket_gate_expectations", "Expectations of the gate by severity and whether they held.", ("severity", "held")),
    # -- models
    Metric("nightmarket_model_quality", "A metric of the night's evaluation over all shoppers, higher is better; bound: value, low, high of its 95 % interval.",
           ("kind", "model", "metric", "bound")),
    Metric("nightmarket_champion_info", "1 for the registered version that serves.", ("model", "version")),
    Metric("nightmarket_champion_promoted_timestamp_seconds", "When the champion became it.", ("model",)),
    Metric("nightmarket_champion_night_timestamp_seconds", "Night of the data that the champion learnt from.", ("model",)),
    Metric("nightmarket_alias_moves_total", "Moves in the alias ledger.", ("model", "action")),
    Metric("nightmarket_published_shoppers", "Shoppers with a list in the night's publication: their own, or a lent one.", ("list",)),
    Metric("nightmarket_catalogue_coverage_ratio", "Different items in the night's publication over items of the catalogue."),
    Metric("nightmarket_score", "Distribution of the score at the first place of shoppers' lists.", ("quantile",)),
    Metric("nightmarket_live_quality", "The same metric of what was published, once shoppers had bought; promise: what the evaluation said of as many days; least: what "
           "retraining.live_loss leaves of that.",
           ("metric", "bound")),
    Metric("nightmarket_drift_effect", "Size of the night's shift, as its test measures it.", ("kind", "feature", "test")),
    Metric("nightmarket_drifted_features", "Features, predictions and concepts that drifted in the night.", ("kind",)),
    Metric("nightmarket_forecast_drift", "1 where errors since the forecaster was made are beyond those of its backtests, as the newest publication noted."),
    Metric("nightmarket_retraining", "1 for what was decided about training the model in the night, 0 for the others.", ("model", "action")),
    Metric("nightmarket_online_updates", "Updates between nights by what became of them; of a past night those up to its day.", ("outcome",)),
    Metric("nightmarket_online_strikes", "Updates that were dropped in a row, since a person lifted the stop that they led to; three stop updates."),
    Metric("nightmarket_live_event_timestamp_seconds", "Newest event that the stream brought."),
    # -- screening
    Metric("nightmarket_screening_decisions", "What the night decided about what came in.", ("kind", "decision")),
    Metric("nightmarket_screening_precision_ratio", "Share of bad ones among four weeks' alerts whose verdict is known.", ("kind",)),
    Metric("nightmarket_screening_drift", "Population stability index of the night's scores, and of the features that moved most, against four weeks.",
           ("kind", "what")),
    Metric("nightmarket_screening_decision_hours", "Median hours from event to decision.", ("kind",)),
    # -- experiments
    Metric("nightmarket_experiment_status", "1 for the state of the experiment, 0 for the others.", ("experiment", "status")),
    Metric("nightmarket_experiment_enrolment_ratio", "Share of its traffic that takes part from now on.", ("experiment",)),
    Metric("nightmarket_experiment_exposed", "Shoppers who were shown an arm.", ("experiment", "arm")),
    Metric("nightmarket_experiment_change_ratio", "Change against the control, better is positive; bound: value, low, high of the confidence sequence.",
           ("experiment", "arm", "metric", "role", "bound")),
    Metric("nightmarket_exposure_lines", "Lines of the night's exposure log, taken or rejected.", ("fate",)),
    # -- service
    Metric("nightmarket_step_seconds", "Time that making the night's partition took.", ("dataset",)),
    Metric("nightmarket_step_peak_memory_bytes", "Largest memory of the process that made the night's partition.", ("dataset",)),
    Metric("nightmarket_step_run_seconds", "Time that the newest ended run of the step took in the night; model: the kind that it was about.", ("step", "model")),
    Metric("nightmarket_step_runs", "Runs of the step in the night by how they ended; model: the kind that they were about.", ("step", "model", "outcome")),
    Metric("nightmarket_switched_off", "1 for what a response or a person has switched off.", ("what",)),
    Metric("nightmarket_serving_night_timestamp_seconds", "End of the night whose publication serves."),
    Metric("nightmarket_serving_info", "1 for the model and version that serve.", ("model", "version")),
    Metric("nightmarket_mails", "Mails in the outbox by state.", ("state",)),
    Metric("nightmarket_collected_timestamp_seconds", "When these metrics were collected."),
)


class Gauges:
    """A registry in which every sample carries the shop."""

    def __init__(self, shop: str):
        self.registry = CollectorRegistry()
        self._shop = shop
        self._made = {m.name: Gauge(m.name, m.help, ("shop", *m.labels), registry=self.registry) for m in METRICS}

    def set(self, name: str, value: float | None, **labels: object) -> None:
        """Sets a sample; a value that is not known is no sample."""
        if value is not None and not math.isnan(value):
            self._made[name].labels(shop=self._shop, **{k: str(v) for k, v in labels.items()}).set(value)

    def text(self) -> bytes:
        """The text exposition format."""
        return bytes(generate_latest(self.registry))


def collect(settings: Settings, lake: Lake, night: date, now: datetime) -> Gauges:
    """Every metric of the night that there is something to say about."""
    gauges = Gauges(settings.shop.shop)
    gauges.set("nightmarket_collected_timestamp_seconds", now.timestamp())
    for dataset in ALL:
        _partition(gauges, settings, lake, dataset, night)
    _gate(gauges, lake, night)
    _events(gauges, lake, night)
    _models(gauges, settings, lake, night)
    _drift(gauges, settings, lake, night)
    _screening(gauges, lake, night)
    if (live := lake.dates(LIVE_EVENTS)) and (made := lake.manifest(LIVE_EVENTS, live[-1])) is not None:
        gauges.set("nightmarket_live_event_timestamp_seconds", made.notes.get(NEWEST))
    _steps(gauges, settings, night, any(d > night for d in lake.dates(QUALITY)))
    _publication(gauges, settings, lake, night)
    _experiments(gauges, settings, lake, night)
    for state in ("queued", "sent", "undelivered"):
        gauges.set("nightmarket_mails", sum(e.state == state for e in Outbox(settings.places.outbox).entries()), state=state)
    return gauges


def _end(settings: Settings, night: date) -> float:
    return Holdout.of(night, 1, settings.zone).end.timestamp()


def _partition(gauges: Gauges, settings: Settings, lake: Lake, dataset: Dataset, night: date) -> None:
    dates = [d for d in lake.dates(dataset) if d <= night]
    if dates:
        gauges.set("nightmarket_night_timestamp_seconds", _end(settings, dates[-1]), dataset=dataset.id)
    made = lake.manifest(dataset, night)
    if made is None:
        return
    for flow, rows in (("in", made.rows_in), ("out", made.rows_out), ("quarantined", sum(made.quarantined.values()))):
        gauges.set("nightmarket_rows", rows, dataset=dataset.id, flow=flow)
    for reason, rows in made.quarantined.items():
        gauges.set("nightmarket_quarantined_rows", rows, dataset=dataset.id, reason=reason)
    gauges.set("nightmarket_published_timestamp_seconds", datetime.fromisoformat(made.created_at).timestamp(), dataset=dataset.id)
    gauges.set("nightmarket_step_seconds", made.seconds, dataset=dataset.id)
    gauges.set("nightmarket_step_peak_memory_bytes", made.peak_memory_mb * 2**20, dataset=dataset.id)
    before = [m.rows_in for week in range(1, _WEEKS + 1) if (m := lake.manifest(dataset, night - timedelta(weeks=week)))]
    if len(before) > 1 and median(before) > 0:
        gauges.set("nightmarket_volume_ratio", made.rows_in / median(before), dataset=dataset.id)


def _gate(gauges: Gauges, lake: Lake, night: date) -> None:
    made = lake.manifest(QUALITY, night)
    if made is None:
        return
    for verdict in VERDICTS:
        gauges.set("nightmarket_gate_verdict", made.notes.get("verdict") == verdict, verdict=verdict)
    rows = lake.at(QUALITY, night).arrow(["severity", "success"]).to_pylist()
    for severity in ("critical", "warning", "info"):
        for held in (True, False):
            gauges.set("nightmarket_gate_expectations", sum(r["severity"] == severity and r["success"] is held for r in rows),
                       severity=severity, held=str(held).lower())


def _events(gauges: Gauges, lake: Lake, night: date) -> None:
    import pyarrow.compute as pc

    if (made := lake.manifest(EVENTS, night)) is not None and made.rows_out:
        newest = pc.max(lake.at(EVENTS, night).arrow(["event_ts"])["event_ts"]).as_py()
        gauges.set("nightmarket_newest_event_timestamp_seconds", newest.timestamp())


def _models(gauges: Gauges, settings: Settings, lake: Lake, night: date) -> None:
    file = settings.places.mlflow / "ledger.db"
    ledger = Ledger(file) if file.exists() else None
    for kind in KINDS:
        if lake.manifest(kind.evaluation, night) is not None:
            for row in lake.at(kind.evaluation, night).arrow().to_pylist():
                if row["slice"] == "all":
                    for bound in ("value", "low", "high"):
                        gauges.set("nightmarket_model_quality", row[bound], kind=kind.id, model=row["model"], metric=row["metric"], bound=bound)
        if ledger is None:
            continue
        name = kind.name(settings.shop)
        moves = ledger.history(name)
        for action in sorted({m.action for m in moves}):
            gauges.set("nightmarket_alias_moves_total", len({m.operation for m in moves if m.action == action}), model=name, action=action)
        champion = next((m for m in reversed(moves) if m.alias == "champion"), None)
        if champion is not None and champion.to_version is not None:
            gauges.set("nightmarket_champion_info", 1, model=name, version=champion.to_version)
            gauges.set("nightmarket_champion_promoted_timestamp_seconds", datetime.fromisoformat(champion.at).timestamp(), model=name)
            if champion.run_date:
                gauges.set("nightmarket_champion_night_timestamp_seconds", _end(settings, date.fromisoformat(champion.run_date)), model=name)


def _drift(gauges: Gauges, settings: Settings, lake: Lake, night: date) -> None:
    made = lake.manifest(DRIFT, night)
    if made is not None:
        rows = lake.at(DRIFT, night).arrow(["kind", "feature", "test", "effect", "drifted"]).to_pylist()
        for row in rows:
            gauges.set("nightmarket_drift_effect", row["effect"], kind=row["kind"], feature=row["feature"], test=row["test"])
        for kind in ("feature", "prediction", "concept"):
            gauges.set("nightmarket_drifted_features", len({r["feature"] for r in rows if r["kind"] == kind and r["drifted"]}), kind=kind)
        if live := made.notes.get("live"):
            least = live["promise"] * (1 - settings.shop.retraining.live_loss)
            for bound, value in (*((b, live[b]) for b in ("value", "low", "high", "promise")), ("least", least)):
                gauges.set("nightmarket_live_quality", value, metric=live["metric"], bound=bound)
    if (forecast := lake.manifest(FORECASTS, night)) is not None:
        gauges.set("nightmarket_forecast_drift", bool(forecast.notes.get("worse")))
    if lake.manifest(RETRAINING, night) is not None:
        for row in lake.at(RETRAINING, night).arrow(["model", "action"]).to_pylist():
            for action in ACTIONS:
                gauges.set("nightmarket_retraining", row["action"] == action, model=row["model"], action=action)


def _screening(gauges: Gauges, lake: Lake, night: date) -> None:
    made = lake.manifest(SCREENING_DECISIONS, night)
    if made is None:
        return
    for what, n in made.notes["counts"].items():
        kind, decision = what.split()
        gauges.set("nightmarket_screening_decisions", n, kind=kind, decision=decision)
    for kind, told in made.notes["reviewed"].items():
        gauges.set("nightmarket_screening_precision_ratio", told["precision"], kind=kind)
    for kind, index in made.notes["score_drift"].items():
        for what, value in {"score": index, **made.notes.get("feature_drift", {}).get(kind, {})}.items():
            gauges.set("nightmarket_screening_drift", value, kind=kind, what=what)
    for kind, hours in made.notes["hours_to_decision"].items():
        gauges.set("nightmarket_screening_decision_hours", hours, kind=kind)


_OUTCOMES = {0: "done", 1: "fault", 2: "usage", 3: "refused", None: "killed"}


def _steps(gauges: Gauges, settings: Settings, night: date, past: bool) -> None:
    """`past`: a newer night was judged, so what came between nights after this one is none of it."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for run in runs(settings.places.logs, night):
        if run.alive:
            continue
        counts[run.step, run.model, _OUTCOMES.get(run.exit_code, "killed")] += 1
        if run.ended_at is not None:
            taken = datetime.fromisoformat(run.ended_at) - datetime.fromisoformat(run.began_at)
            gauges.set("nightmarket_step_run_seconds", taken.total_seconds(), step=run.step, model=run.model)
    for (step, model, outcome), n in counts.items():
        gauges.set("nightmarket_step_runs", n, step=step, model=model, outcome=outcome)
    updates = [e for e in Updates(settings.places.root).entries() if not past or e.run_date <= night.isoformat()]
    for outcome, n in Counter(e.outcome for e in updates).items():
        gauges.set("nightmarket_online_updates", n, outcome=outcome)
    if updates:
        gauges.set("nightmarket_online_strikes", strikes(updates))
    for name in off(settings, night):
        gauges.set("nightmarket_switched_off", 1, what=name)


def _publication(gauges: Gauges, settings: Settings, lake: Lake, night: date) -> None:
    import numpy as np
    import pyarrow.compute as pc

    try:
        about = serving(settings.places.root / "published")
    except PublicationError:
        about = None  # the lookup service says so, at every look-up
    if about is not None:
        gauges.set("nightmarket_serving_night_timestamp_seconds", _end(settings, about.run_date))
        gauges.set("nightmarket_serving_info", 1, model=about.model_name, version=about.model_version)
    made = lake.manifest(RECOMMENDATIONS, night)
    if made is None:
        return
    users, lent = made.notes.get("users"), made.notes.get("users_by_fallback")
    if users is not None and lent is not None:
        gauges.set("nightmarket_published_shoppers", users - lent, list="own")
        gauges.set("nightmarket_published_shoppers", lent, list="lent")
    rows = lake.at(RECOMMENDATIONS, night).arrow(["audience", "rank", "item_id", "score"])
    first = rows.filter(pc.and_(pc.equal(rows["audience"], "user"), pc.equal(rows["rank"], 1)))["score"].to_numpy()
    if len(first):
        for q, value in zip(QUANTILES, np.quantile(first, QUANTILES), strict=True):
            gauges.set("nightmarket_score", float(value), quantile=q)
    catalogue = newest_arrow(lake, ITEMS, night, only=passed_nights(lake, night), columns=["item_id"]).num_rows
    if catalogue:
        gauges.set("nightmarket_catalogue_coverage_ratio", pc.count_distinct(rows["item_id"]).as_py() / catalogue)


def _experiments(gauges: Gauges, settings: Settings, lake: Lake, night: date) -> None:
    log = lake.manifest(EXPOSURES, night)
    if log is not None:
        rejected = sum(log.quarantined.values())
        gauges.set("nightmarket_exposure_lines", log.notes.get("lines", 0) - rejected, fate="taken")
        gauges.set("nightmarket_exposure_lines", rejected, fate="rejected")
    made = lake.manifest(EXPERIMENTS, night)
    for state in _states(made):
        for status in ("running", *FINAL):
            gauges.set("nightmarket_experiment_status", state.status == status, experiment=state.name, status=status)
        if state.name in settings.shop.experiments:
            gauges.set("nightmarket_experiment_enrolment_ratio", state.enrolment(settings.shop.experiments[state.name]), experiment=state.name)
        for arm, n in state.units.items():
            gauges.set("nightmarket_experiment_exposed", n, experiment=state.name, arm=arm)
        for r in state.readings:
            for bound, value in (("value", r.change), ("low", r.low), ("high", r.high)):
                gauges.set("nightmarket_experiment_change_ratio", value, experiment=state.name, arm=r.arm, metric=r.metric, role=r.role, bound=bound)


def _states(made: Manifest | None) -> Iterator[State]:
    told: Iterable[dict[str, Any]] = made.notes["states"] if made is not None else ()
    for one in told:
        yield State.from_json(one)


def text_file(settings: Settings) -> Path:
    """Where `jobs.metrics` leaves the newest night's metrics: for node_exporter's textfile collector, and the lookup service."""
    return settings.places.root / "metrics" / "nightmarket.prom"
