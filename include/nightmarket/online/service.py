"""The lookup as a small HTTP service, with a scrape endpoint.

    GET /recommend?user=U&country=C&k=10   the answer as JSON; each that is given counts as shown in the experiments (`show=0`: does not)
    GET /metrics                           look-ups by source and latency, what serves, and the newest night's metrics
    GET /health                            200 while something is published
    POST /alerts                           Alertmanager's webhook: kept for `jobs.respond`, which is started at once where the service may act
    POST /v1/metrics                       Airflow's own metrics (OTLP in protobuf), shown by /metrics

It keeps nothing else, and answers from the file that serves at that moment, so it needs no restart after a night. It has no login: it
listens on the loopback address unless told otherwise, for the shop's own servers beside it. Shoppers' keys are never logged.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from nightmarket import log as logs
from nightmarket.monitor import airflow_metrics
from nightmarket.monitor.inbox import NotAnAlert, receive
from nightmarket.online.serving import ExposureLog, recommend
from nightmarket.recommend.lookup import PublicationError, serving
from nightmarket.shop import Settings

log = logs.logger("service")
_MOST_BYTES = 1_000_000
MOST = 1000
"""Items of one answer."""
_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)


class LookupService(ThreadingHTTPServer):
    """The server of one shop. `port` 0 takes a free one."""

    daemon_threads = True

    def __init__(self, settings: Settings, host: str = "127.0.0.1", port: int = 0, respond: Callable[[], None] | None = None):
        """`respond` is called, from a thread, when an alert has arrived."""
        super().__init__((host, port), _Handler)
        self.settings = settings
        self.respond = respond
        self.published = settings.places.root / "published"
        self.exposures = ExposureLog(settings.places.root / "exposures")
        self.registry = CollectorRegistry()
        self.latency = Histogram("nightmarket_lookup_seconds", "Time that an answer took, by for whom its list was made.", ("shop", "source"),
                                 buckets=_BUCKETS, registry=self.registry)
        self.failures = Counter("nightmarket_lookup_failures", "Look-ups without an answer, by reason.", ("shop", "reason"), registry=self.registry)
        self.night = Gauge("nightmarket_lookup_night_timestamp_seconds", "Start of the night whose publication answers now, UTC.", ("shop",),
                           registry=self.registry)
        self.airflow = airflow_metrics.Received(settings.shop.shop)
        self.registry.register(self.airflow)
        for reason in ("usage", "unpublished", "fault"):
            self.failures.labels(shop=settings.shop.shop, reason=reason)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def metrics(self) -> bytes:
        """This service's metrics, then the newest night's."""
        about = serving(self.published)
        if about is not None:
            start = datetime(about.run_date.year, about.run_date.month, about.run_date.day, tzinfo=timezone.utc)
            self.night.labels(shop=self.settings.shop.shop).set(start.timestamp())
        file = self.settings.places.root / "metrics" / "nightmarket.prom"
        return bytes(generate_latest(self.registry)) + (file.read_bytes() if file.exists() else b"")


class _Refusal(Exception):
    """The request cannot be answered: HTTP status, reason for the metric, what to do."""

    def __init__(self, status: int, reason: str, said: str):
        self.status, self.reason = status, reason
        super().__init__(said)


class _Handler(BaseHTTPRequestHandler):
    server: LookupService
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {k: v[-1] for k, v in parse_qs(url.query).items()}
        shop = self.server.settings.shop.shop
        try:
            if url.path == "/recommend":
                self._json(200, self._recommend(asked))
            elif url.path == "/metrics":
                self._send(200, "text/plain; version=0.0.4; charset=utf-8", self.server.metrics())
            elif url.path == "/health":
                about = serving(self.server.published)
                self._json(200 if about else 503, {"serving": about.run_date.isoformat() if about else None})
            else:
                raise _Refusal(404, "usage", "there are /recommend, /metrics and /health, and /alerts and /v1/metrics to post to")
        except _Refusal as error:
            self.server.failures.labels(shop=shop, reason=error.reason).inc()
            self._json(error.status, {"error": str(error)})
        except PublicationError as error:
            self.server.failures.labels(shop=shop, reason="unpublished").inc()
            self._json(503, {"error": str(error)})
        except BrokenPipeError:
            self.close_connection = True  # who asked has gone
        except Exception as error:
            self.server.failures.labels(shop=shop, reason="fault").inc()
            log.exception(logs.said("fault", path=url.path, error=type(error).__name__))
            self._json(500, {"error": "a fault; the service's log has it"})

    def do_POST(self) -> None:
        """Alertmanager, and Airflow's exporter, repeat what is not answered with 2xx, and give up on 4xx."""
        length, path = self.headers.get("Content-Length", ""), urlsplit(self.path).path
        if path not in ("/alerts", airflow_metrics.PATH) or not length.isdigit() or int(length) > _MOST_BYTES:
            self.close_connection = True
            self._json(413 if path in ("/alerts", airflow_metrics.PATH) else 404,
                       {"error": f"post Alertmanager's alerts to /alerts and Airflow's metrics to {airflow_metrics.PATH}, at most {_MOST_BYTES} bytes"})
            self._forget(int(length) if length.isdigit() else 0)
            return
        if path == airflow_metrics.PATH:
            self.close_connection = True  # Airflow forks: a connection kept open would be one that two processes write to
            try:
                self.server.airflow.take(self.rfile.read(int(length)))
            except airflow_metrics.NotMetrics as error:
                self._json(400, {"error": str(error)})
                return
            self._send(200, "application/x-protobuf", b"")  # an empty ExportMetricsServiceResponse: all was taken
            return
        try:
            names = receive(self.server.settings, self.rfile.read(int(length)))
        except NotAnAlert as error:
            self._json(400, {"error": str(error)})
            return
        log.info(logs.said("alerts", firing=",".join(sorted(set(names))) or "none"))
        self._json(200, {"firing": names})
        if names and self.server.respond is not None:
            threading.Thread(target=self.server.respond, daemon=True).start()

    def _forget(self, posted: int) -> None:
        """Reads what a refused client still sends, within limits: were it closed at once, the client would see a reset in place of
        its answer (RFC 9112, section 9.6)."""
        left = min(posted, 16 * _MOST_BYTES)
        self.connection.settimeout(2.0)
        with suppress(OSError):  # it went away, or sends no more
            while left > 0 and (read := self.rfile.read(min(left, 65_536))):
                left -= len(read)

    def _recommend(self, asked: dict[str, str]) -> dict[str, Any]:
        if unknown := set(asked) - {"user", "country", "k", "show"}:
            raise _Refusal(400, "usage", f"{sorted(unknown)[0]!r} is no argument; there are user, country, k and show")
        k = asked.get("k", "10")
        if not k.isdigit() or not 1 <= int(k) <= MOST:
            raise _Refusal(400, "usage", f"k={k}: ask for 1 to {MOST} items")
        shown = None if asked.get("show") == "0" else self.server.exposures
        started = time.perf_counter()
        answer = recommend(self.server.published, shown, self.server.settings.zone, asked.get("user"), asked.get("country"), int(k), datetime.now(timezone.utc),
                           bool(self.server.settings.shop.lists.new_items_share))
        self.server.latency.labels(shop=self.server.settings.shop.shop, source=answer.answer.source).observe(time.perf_counter() - started)
        return {**answer.answer.to_json(), "arms": dict(answer.arms)}

    def _json(self, status: int, told: dict[str, Any]) -> None:
        self._send(status, "application/json; charset=utf-8", json.dumps(told, ensure_ascii=False).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The path holds the shopper's key: nothing is logged of a request that was answered."""

