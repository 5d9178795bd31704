"""`jobs.serve`: answers as the lookup, measures itself, logs exposures, and one bad request harms nobody."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs import serve as job
from nightmarket.contracts import RECOMMENDATIONS
from nightmarket.embedded.services import free_port
from nightmarket.monitor.inbox import firing
from nightmarket.online.assignment import Split
from nightmarket.online.service import LookupService
from nightmarket.online.serving import Running, write_running
from nightmarket.recommend.lookup import About, serve
from nightmarket.shop import PROJECT, Settings, child_environment
from tests.monitor.test_inbox import posted


def publish(settings: Settings, folder: str = "", version: str = "1", items: str = "ab") -> None:
    rows = [{"audience": a, "audience_id": k, "rank": n, "item_id": i, "score": 1.0, "reason": "popular", "model_name": "m", "model_version": version}
            for a, k in (("user", "u1"), ("country", "DE"), ("everyone", "*")) for n, i in enumerate(items, 1)]
    serve(settings.places.root / "published" / folder, pa.Table.from_pylist(rows, RECOMMENDATIONS.arrow_schema()), About(date(2026, 3, 1), "m", version, "d"))


@pytest.fixture
def service(settings: Settings) -> Iterator[LookupService]:
    with LookupService(settings) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(service: LookupService, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{service.port}{path}", timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def post(service: LookupService, path: str, body: bytes) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{service.port}{path}", data=body), timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def measured(service: LookupService) -> dict[tuple[str, str], float]:
    text = service.metrics().decode()
    return {(s.name, s.labels.get("source", s.labels.get("reason", ""))): s.value for f in text_string_to_metric_families(text) for s in f.samples
            if "le" not in s.labels}


def test_answers_and_measures(settings: Settings, service: LookupService) -> None:
    assert ask(service, "/health") == (503, {"serving": None})
    assert ask(service, "/recommend?user=u1")[0] == 503
    publish(settings)
    assert ask(service, "/health") == (200, {"serving": "2026-03-01"})
    status, told = ask(service, "/recommend?user=u1&country=FR&k=1")
    assert (status, told["source"], [i["item_id"] for i in told["items"]], told["arms"]) == (200, "user", ["a"], {})
    assert ask(service, "/recommend?user=nobody&country=DE")[1]["source"] == "country"
    assert ask(service, "/recommend")[1]["source"] == "everyone"
    publish(settings, version="2", items="ba")  # a new publication is served without a restart
    assert ask(service, "/recommend?user=u1")[1]["model_version"] == "2"
    found = measured(service)
    assert [found["nightmarket_lookup_seconds_count", s] for s in ("user", "country", "everyone")] == [2, 1, 1]
    assert found["nightmarket_lookup_failures_total", "unpublished"] == 1 and found["nightmarket_lookup_failures_total", "fault"] == 0
    assert found["nightmarket_lookup_night_timestamp_seconds", ""] == 1772323200  # 2026-03-01 UTC


@pytest.mark.parametrize(("path", "status", "said"), [
    ("/recommend?k=0", 400, "ask for 1 to 1000 items"), ("/recommend?k=x", 400, "ask for 1 to 1000 items"),
    ("/recommend?usr=1", 400, "'usr' is no argument; there are user, country, k and show"), ("/", 404, "there are /recommend, /metrics and /health"),
])
def test_usage(settings: Settings, service: LookupService, path: str, status: int, said: str) -> None:
    publish(settings)
    found, told = ask(service, path)
    assert found == status and said in told["error"]
    assert measured(service)["nightmarket_lookup_failures_total", "usage"] == 1


def test_a_broken_publication_is_told_and_does_not_end_the_service(settings: Settings, service: LookupService) -> None:
    publish(settings)
    (settings.places.root / "published" / "experiments.json").write_text("{")
    status, told = ask(service, "/recommend?user=u1")
    assert status == 500 and "log" in told["error"] and "u1" not in json.dumps(told)
    (settings.places.root / "published" / "experiments.json").unlink()
    assert ask(service, "/recommend?user=u1")[0] == 200
    assert measured(service)["nightmarket_lookup_failures_total", "fault"] == 1


def test_arms_and_exposures(settings: Settings, service: LookupService) -> None:
    publish(settings)
    publish(settings, "arms/warmer/new", "7", "ba")
    split = Split("warmer", "recommendations", (0, 1), {"control": 0.5, "new": 0.5}, "small")
    write_running(settings.places.root / "published", [Running(split, 1.0, {"new": "arms/warmer/new"}, True)])
    for n in range(20):
        told = ask(service, f"/recommend?user=u{n}")[1]
        assert told["arms"] == {"warmer": split.arm(f"u{n}")}
        assert told["model_version"] == ("7" if split.arm(f"u{n}") == "new" else "1")


    shutil.rmtree(settings.places.root / "published" / "arms")  # a lost publication costs the experiment, not the shopper
    lost = next(f"x{n}" for n in range(99) if split.arm(f"x{n}") == "new")
    assert ask(service, f"/recommend?user={lost}")[1]["model_version"] == "1"
    ask(service, "/recommend?user=u99&show=0")
    ask(service, "/recommend?country=DE")
    lines = [json.loads(x) for f in (settings.places.root / "exposures").iterdir() for x in f.read_text().splitlines()]
    assert [(x["unit"], x["arm"]) for x in lines] == [(f"u{n}", split.arm(f"u{n}")) for n in range(20)]


def test_many_at_once_lose_no_exposure(settings: Settings, service: LookupService) -> None:
    publish(settings)
    split = Split("warmer", "recommendations", (0, 1), {"control": 0.5, "new": 0.5}, "small")
    write_running(settings.places.root / "published", [Running(split, 1.0, {}, True)])
    threads = [threading.Thread(target=lambda t=t: [ask(service, f"/recommend?user=t{t}x{n}") for n in range(25)]) for t in range(8)]  # type: ignore[misc]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    units = sorted(json.loads(x)["unit"] for f in (settings.places.root / "exposures").iterdir() for x in f.read_text().splitlines())
    assert units == sorted(f"t{t}x{n}" for t in range(8) for n in range(25))


@pytest.mark.e2e
def test_the_command_serves_until_it_is_told_to_stop(settings: Settings, tmp_path: Path) -> None:
    publish(settings)
    port = free_port(19788)
    process = subprocess.Popen([sys.executable, "-m", "jobs.serve", "--shop", str(settings.file), "--port", str(port)], cwd=PROJECT,
                               env=child_environment(), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert f"address=http://127.0.0.1:{port}" in line
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/recommend?user=u1", timeout=10) as answer:
            assert json.loads(answer.read())["model_version"] == "1"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_taken_port_is_told(settings: Settings, service: LookupService, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["--shop", str(settings.file), "--port", str(service.port)]) == 1
    assert "choose another --port" in capsys.readouterr().err
    assert job.main(["--port", "many"]) == 2




def test_alerts_are_taken_in_and_answered_at_once_where_it_may_act(settings: Settings) -> None:
    called = threading.Semaphore(0)
    with LookupService(settings, respond=called.release) as service:
        thread = threading.Thread(target=service.serve_forever, daemon=True)
        thread.start()
        try:
            assert post(service, "/alerts", b"{}")[0] == 400
            for size in (1_000_001, 5_000_000, 12_000_000):  # the answer, not a reset, however much is sent before it is read
                assert post(service, "/alerts", b" " * size)[0] == 413
            assert post(service, "/other", posted(("LookupSlow", "firing", "f1")))[0] == 404
            assert firing(settings) == [] and not called.acquire(timeout=0.2)
            assert post(service, "/alerts", posted(("LookupSlow", "firing", "f1"))) == (200, {"firing": ["prometheus.LookupSlow"]})
            assert called.acquire(timeout=10)
            assert post(service, "/alerts", posted(("LookupSlow", "resolved", "f1"))) == (200, {"firing": []})
            assert firing(settings) == [] and not called.acquire(timeout=0.2), "what is over needs no response"
        finally:
            service.shutdown()
            thread.join()
