"""Airflow's own metrics (queueing, pools, task durations, scheduler heartbeat), as its OpenTelemetry exporter sends them, for Prometheus.

Airflow's processes post OTLP over HTTP (https://opentelemetry.io/docs/specs/otlp/), many of them for a single task's life. `Received` adds
their cumulative streams up, process by process, and shows them with the names that Prometheus's own OTLP receiver gives
(https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/): `airflow_scheduler_heartbeat_total`,
`airflow_pool_queued_slots`, `airflow_task_queued_duration_milliseconds_sum`. So rules and dashboards are the same where a shop sends them to
a collector instead. Of a histogram sum and count are kept; ids of single runs are no labels.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

PATH = "/v1/metrics"
PREFIX = "airflow"
_DROPPED = {"run_id", "job_id", "map_index", "try_number", "hostname", "logical_date"}
"""Attributes that would make a series of every run."""
_STREAMS = 50_000
"""Streams of processes whose newest values are remembered; the oldest of more is forgotten, for its process is gone."""
_UNITS = {"ms": "_milliseconds", "s": "_seconds", "By": "_bytes"}
Labels = tuple[tuple[str, str], ...]


class NotMetrics(ValueError):
    """What was posted is no OTLP request of metrics."""


class Received:
    """What Airflow said so far, as a collector of a Prometheus registry. Safe for several threads; a restart begins again at zero, which
    Prometheus takes for the reset that it is."""

    def __init__(self, shop: str):
        self._shop = shop
        self._lock = threading.Lock()
        self._streams: OrderedDict[Any, tuple[float, ...]] = OrderedDict()
        self._gauges: dict[str, dict[Labels, float]] = {}
        self._counters: dict[str, dict[Labels, float]] = {}
        self._summaries: dict[str, dict[Labels, tuple[float, float]]] = {}

    def take(self, body: bytes) -> int:
        """Takes one request in (protobuf); returns the number of metrics in it. Raises NotMetrics; then nothing is kept."""
        from google.protobuf.message import DecodeError
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        try:
            told = ExportMetricsServiceRequest.FromString(body)
        except DecodeError as error:
            raise NotMetrics(f"no ExportMetricsServiceRequest in protobuf: {error}") from None
        taken = 0
        with self._lock:
            for resource in told.resource_metrics:
                who = resource.resource.SerializeToString(deterministic=True)
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        if metric.name.startswith(f"{PREFIX}."):
                            self._metric(who, metric)
                            taken += 1
        return taken

    def _metric(self, who: bytes, metric: Any) -> None:
        name = re.sub(r"[^a-zA-Z0-9_:]", "_", metric.name)
        kind = metric.WhichOneof("data")
        if kind == "gauge":
            for point in metric.gauge.data_points:
                self._gauges.setdefault(name, {})[_labels(point)] = _number(point)
        elif kind == "sum":
            for point in metric.sum.data_points:
                if metric.sum.is_monotonic:
                    (more,) = self._more(who, name, point, (_number(point),))
                    totals = self._counters.setdefault(name, {})
                    totals[_labels(point)] = totals.get(_labels(point), 0.0) + more
                else:
                    self._gauges.setdefault(name, {})[_labels(point)] = _number(point)
        elif kind in ("histogram", "exponential_histogram"):
            name += _UNITS.get(metric.unit, "")
            for point in getattr(metric, kind).data_points:
                n, total = self._more(who, name, point, (float(point.count), float(point.sum)))
                before = self._summaries.setdefault(name, {}).get(_labels(point), (0.0, 0.0))
                self._summaries[name][_labels(point)] = (before[0] + n, before[1] + total)

    def _more(self, who: bytes, name: str, point: Any, now: tuple[float, ...]) -> tuple[float, ...]:
        """What a cumulative stream brought since it was heard last. A process, forked or begun anew, has a beginning of its own."""
        key = (who, name, point.start_time_unix_nano, tuple(sorted((a.key, str(a.value)) for a in point.attributes)))
        before = self._streams.pop(key, (0.0,) * len(now))
        self._streams[key] = tuple(map(max, now, before))  # never back: a fork may say once more what its parent said
        if len(self._streams) > _STREAMS:
            self._streams.popitem(last=False)
        return tuple(max(n - b, 0.0) for n, b in zip(now, before, strict=True))

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before Airflow speaks."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric once, all samples of a metric with the same labels."""
        with self._lock:
            gauges, counters = ({n: dict(v) for n, v in kept.items()} for kept in (self._gauges, self._counters))
            summaries = {n: dict(v) for n, v in self._summaries.items()}
        for name, values in gauges.items():
            names = _names(values)
            family = GaugeMetricFamily(name, "Of Airflow.", labels=("shop", *names))
            for labels, value in values.items():
                family.add_metric(self._values(names, labels), value)
            yield family
        for name, values in counters.items():
            names = _names(values)
            total = CounterMetricFamily(name, "Of Airflow.", labels=("shop", *names))
            for labels, value in values.items():
                total.add_metric(self._values(names, labels), value)
            yield total
        for name, pairs in summaries.items():
            names = _names(pairs)
            summary = SummaryMetricFamily(name, "Of Airflow.", labels=("shop", *names))
            for labels, (n, value) in pairs.items():
                summary.add_metric(self._values(names, labels), count_value=int(n), sum_value=value)
            yield summary

    def _values(self, names: tuple[str, ...], labels: Labels) -> list[str]:
        own = dict(labels)
        return [self._shop, *(own.get(n, "") for n in names)]


def _labels(point: Any) -> Labels:
    found = {re.sub(r"[^a-zA-Z0-9_]", "_", a.key): _text(a.value) for a in point.attributes if a.key not in _DROPPED}
    return tuple(sorted(found.items()))


def _names(values: Iterable[Labels]) -> tuple[str, ...]:
    return tuple(sorted({n for labels in values for n, _ in labels}))


def _text(value: Any) -> str:
    which = value.WhichOneof("value")
    return "" if which is None else str(getattr(value, which))


def _number(point: Any) -> float:
    return float(point.as_double if point.WhichOneof("value") == "as_double" else point.as_int)
