"""Airflow's own metrics: what its own exporter, set up as the embedded night sets it up, leaves at the look-up service."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nightmarket.embedded import airflow
from nightmarket.monitor.airflow_metrics import NotMetrics, Received
from nightmarket.online.service import LookupService
from nightmarket.shop import PROJECT, Settings, child_environment

SAYS = """
import sys
from airflow.observability.metrics.stats_utils import get_stats_factory
from airflow._shared.observability.metrics import stats
from airflow.configuration import conf
stats.initialize(factory=get_stats_factory(), export_legacy_names=conf.getboolean("metrics", "legacy_names_on"))
for _ in range(int(sys.argv[1])):
    stats.incr("scheduler_heartbeat")
for pool in ("training", "spark"):
    for what in ("scheduled", "queued", "running"):
        stats.gauge(f"pool.{what}_slots", 1, tags={"pool_name": pool})
stats.gauge("executor.queued_tasks", 2, tags={"executor_class_name": "LocalExecutor"})
for waited in sys.argv[2:]:
    stats.timing("task.scheduled_duration", float(waited), tags={"dag_id": "nightly_retraining", "task_id": "retrain", "run_id": waited})
"""
"""A process of Airflow: heartbeats, pools, and how long a step waited each time (ms); its exporter speaks at its end."""


def speak(port: int, home: Path, *told: str) -> None:
    """Runs such a process that knows of the look-up service at `port` by Airflow's own options."""
    where = child_environment(AIRFLOW_CONFIG=str(PROJECT / "airflow.cfg"), AIRFLOW_HOME=str(home), NIGHTMARKET_HOME=str(PROJECT),
                              NIGHTMARKET_STATE=str(home), **airflow.metrics(f"http://127.0.0.1:{port}"))
    done = subprocess.run([sys.executable, "-c", SAYS, *(told or ("3", "1500", "500"))], env=where, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def shown(service: LookupService) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(service.metrics().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples if s.name.startswith("airflow_")}


def test_what_airflows_own_exporter_says_arrives(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    settings = make_settings()
    with LookupService(settings) as service:
        thread = threading.Thread(target=service.serve_forever, daemon=True)
        thread.start()
        speak(service.port, tmp_path, "3", "1500", "500")
        found = shown(service)
        request = urllib.request.Request(f"http://127.0.0.1:{service.port}/v1/metrics", data=b"not protobuf")
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(request, timeout=10)
        service.shutdown()
        thread.join()
    retrain = {("shop", "small"), ("dag_id", "nightly_retraining"), ("task_id", "retrain")}
    assert found["airflow_scheduler_heartbeat_total", frozenset({("shop", "small")})] == 3
    assert found["airflow_task_scheduled_duration_milliseconds_sum", frozenset(retrain)] == 2000
    assert found["airflow_task_scheduled_duration_milliseconds_count", frozenset(retrain)] == 2, "a run is no label"
    assert found["airflow_pool_scheduled_slots", frozenset({("shop", "small"), ("pool_name", "training")})] == 1
    assert shown(service) == found, "what was refused changed nothing"


def test_a_stream_is_counted_once_however_often_it_is_told() -> None:
    """Cumulative by process: 2, then 5, then 5 again, then late 4; another process, begun later, says 1."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    def request(value: int, begun: int) -> bytes:
        made = ExportMetricsServiceRequest()
        metric = made.resource_metrics.add().scope_metrics.add().metrics.add(name="airflow.ti.finish", unit="1")
        metric.sum.is_monotonic, metric.sum.aggregation_temporality = True, 2
        point = metric.sum.data_points.add(as_int=value, start_time_unix_nano=begun)
        point.attributes.add(key="task.id").value.string_value = "clean"
        made.resource_metrics[0].scope_metrics[0].metrics.add(name="somebody.else").gauge.data_points.add(as_int=1)
        return bytes(made.SerializeToString())

    received = Received("s")
    for value, begun in ((2, 10), (5, 10), (5, 10), (4, 10), (1, 20), (5, 10)):
        assert received.take(request(value, begun)) == 1
    (family,) = received.collect()
    assert [(s.name, s.labels, s.value) for s in family.samples] == [("airflow_ti_finish_total", {"shop": "s", "task_id": "clean"}, 6.0)]
    with pytest.raises(NotMetrics):
        received.take(b"\xff\xff")


def test_a_shop_says_where_they_go(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(monitoring={"airflow": "https://collector:4318"})
    told = airflow.environment(settings, 1, False)
    assert {k: v for k, v in told.items() if "METRICS" in k} == {
        "AIRFLOW__METRICS__OTEL_ON": "True", "AIRFLOW__METRICS__OTEL_HOST": "collector", "AIRFLOW__METRICS__OTEL_PORT": "4318",
        "AIRFLOW__METRICS__OTEL_SSL_ACTIVE": "True", "AIRFLOW__METRICS__OTEL_INTERVAL_MILLISECONDS": "15000"}
    assert not [k for k in airflow.environment(make_settings(), 1, False) if "METRICS" in k]
