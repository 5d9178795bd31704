"""`jobs.metrics`: every metric once, with values counted by hand; the text file, and a real push gateway."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs import metrics
from nightmarket.contracts import QUALITY
from nightmarket.embedded.services import free_port
from nightmarket.lake import Lake
from nightmarket.monitor import switches
from nightmarket.monitor.metrics import METRICS, collect, text_file
from nightmarket.shop import Settings
from tests.monitor.nights import END, EXPERIMENT, NIGHT, put, whole


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    made = make_settings(experiments={"warmer": EXPERIMENT})
    whole(made)
    return made


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {(s.name, frozenset(s.labels.items())): s.value for family in text_string_to_metric_families(text) for s in family.samples}


def run(settings: Settings, night: date = NIGHT, *more: str) -> int:
    return metrics.main(["--shop", str(settings.file), "--run-date", str(night), *more])


def test_every_metric_has_its_value(settings: Settings) -> None:
    assert run(settings) == 0
    found = samples(text_file(settings).read_text())

    def of(name: str, **labels: str) -> float:
        return found[f"nightmarket_{name}", frozenset({"shop": "small", **labels}.items())]

    raw = {"dataset": "bronze.events"}
    assert [of("rows", **raw, flow=f) for f in ("in", "out", "quarantined")] == [50, 46, 4]
    assert of("quarantined_rows", **raw, reason="bad_event_ts") == 3
    assert of("volume_ratio", **raw) == 50 / 25  # the median of 40, 30, 20 and 10
    assert of("night_timestamp_seconds", **raw) == END == of("serving_night_timestamp_seconds")
    assert of("step_seconds", **raw) == 12.5
    assert of("newest_event_timestamp_seconds") == datetime(2026, 3, 29, 12, 39, tzinfo=timezone.utc).timestamp()
    assert [of("gate_verdict", verdict=v) for v in ("passed", "warned", "refused")] == [1, 0, 0]
    assert of("gate_expectations", severity="warning", held="false") == 1 and of("gate_expectations", severity="critical", held="true") == 2
    quality = {"kind": "recommender", "model": "champion", "metric": "ndcg@10"}
    assert [of("model_quality", **quality, bound=b) for b in ("low", "value", "high")] == pytest.approx([0.38, 0.4, 0.42])
    assert of("champion_info", model="recommender", version="3") == 1
    assert of("champion_promoted_timestamp_seconds", model="recommender") == datetime(2026, 3, 28, 4, tzinfo=timezone.utc).timestamp()
    assert of("champion_night_timestamp_seconds", model="recommender") == datetime(2026, 3, 29, tzinfo=timezone.utc).timestamp()
    assert of("alias_moves_total", model="recommender", action="promote") == 2
    assert (of("published_shoppers", list="own"), of("published_shoppers", list="lent")) == (6, 4)
    assert of("catalogue_coverage_ratio") == 3 / 5
    assert of("score", quantile="0.5") == 2.0  # first places of u1 and u2 are 1 and 3
    assert [of("live_quality", metric="ndcg@10", bound=b) for b in ("value", "promise", "least")] == pytest.approx([0.3, 0.4, 0.4 * 0.8])
    assert of("forecast_drift") == 1
    assert of("drift_effect", kind="feature", feature="events.unit_price", test="ks") == 0.4
    assert (of("drifted_features", kind="feature"), of("drifted_features", kind="concept")) == (1, 0)
    assert [of("retraining", model="recommender", action=a) for a in ("skip", "fine_tune", "retrain")] == [0, 1, 0]
    assert [of("screening_decisions", kind="order", decision=d) for d in ("allow", "block")] == [40, 2]
    assert [of("screening_drift", kind="order", what=w) for w in ("score", "device.rows.1d")] == [0.1, 0.3]
    assert (of("screening_precision_ratio", kind="order"), of("screening_decision_hours", kind="order")) == (0.75, 11.5)
    # killed: began, did not end, and no such process is there
    assert [of("step_runs", step=s, model="", outcome=o) for s, o in (("clean", "fault"), ("clean", "done"), ("gate", "killed"))] == [1, 1, 1]
    assert of("step_run_seconds", step="clean", model="") == 30 and of("switched_off", what="online_updates") == 1
    assert of("online_strikes") == 1 and of("online_updates", outcome="dropped") == 1 and of("live_event_timestamp_seconds") == END - 60
    assert of("experiment_status", experiment="warmer", status="running") == 1 and of("experiment_status", experiment="warmer", status="won") == 0
    assert of("experiment_enrolment_ratio", experiment="warmer") == 0.1
    assert of("experiment_exposed", experiment="warmer", arm="new") == 400
    assert of("experiment_change_ratio", experiment="warmer", arm="new", metric="purchase", role="metric", bound="low") == -0.05
    assert (of("exposure_lines", fate="taken"), of("exposure_lines", fate="rejected")) == (3, 2)
    assert (of("mails", state="queued"), of("mails", state="sent")) == (1, 0)
    # what is not known is no sample: the guardrail has too few shoppers for an interval
    assert ("nightmarket_experiment_change_ratio", frozenset({("shop", "small"), ("experiment", "warmer"), ("arm", "new"), ("metric", "revenue"),
                                                              ("role", "guardrail"), ("bound", "low")})) not in found
    assert {name for name, _ in found} == {m.name for m in METRICS}


def test_a_shop_of_which_nothing_was_published_says_little_and_nothing_wrong(make_settings: Callable[..., Settings]) -> None:
    empty = make_settings()
    found = samples(collect(empty, Lake(empty.places.lake), NIGHT, datetime.now(timezone.utc)).text().decode())
    assert {name for name, _ in found} == {"nightmarket_collected_timestamp_seconds", "nightmarket_mails"}


def test_a_past_night_does_not_hide_the_newest(settings: Settings) -> None:
    assert run(settings) == 0
    before = text_file(settings).read_text()
    put(settings, QUALITY, [], date(2026, 3, 20), notes={"verdict": "refused", "from_date": "2026-03-20"})
    assert run(settings, date(2026, 3, 20)) == 0 and text_file(settings).read_text() == before
    assert "nightmarket_online_updates{" in before
    assert run(settings, date(2026, 3, 20), "--force") == 0
    assert samples(text_file(settings).read_text())["nightmarket_gate_verdict", frozenset({("shop", "small"), ("verdict", "refused")})] == 1
    assert "nightmarket_online_updates{" not in text_file(settings).read_text(), "the update was on a later day"


def test_between_nights_the_newest_judged_night_is_measured_again(settings: Settings) -> None:
    """A stop after the night's metrics is seen by the next ones, which are asked for on the day after."""
    switches.lift(settings, switches.ONLINE_UPDATES, NIGHT)
    switches.turn_off(settings, switches.Switch("gate.events.volume", "jobs.respond", "a holiday", "2026-03-20", "2026-03-27"))
    assert run(settings) == 0 and "nightmarket_switched_off{" not in text_file(settings).read_text(), "what has run out is off no more"
    switches.turn_off(settings, switches.Switch(switches.ONLINE_UPDATES, "jobs.update", "three drops", "2026-03-30"))
    assert run(settings, date(2026, 3, 30), "--newest") == 0
    found = samples(text_file(settings).read_text())
    assert found["nightmarket_switched_off", frozenset({("shop", "small"), ("what", "online_updates")})] == 1
    assert found["nightmarket_gate_verdict", frozenset({("shop", "small"), ("verdict", "passed")})] == 1, "the night's own are still there"


def test_a_dry_run_writes_nothing(settings: Settings) -> None:
    assert run(settings, NIGHT, "--dry-run") == 0 and not text_file(settings).exists()


@pytest.fixture
def gateway(tmp_path: Path) -> Any:
    program = shutil.which("prometheus-pushgateway")
    if not program:
        pytest.skip("no prometheus-pushgateway here: apt-get install prometheus-pushgateway to run this test")
    port = free_port(19091)
    with (tmp_path / "gateway.log").open("wb") as log:
        process = subprocess.Popen([program, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.e2e
def test_a_real_push_gateway_holds_what_the_file_says(settings: Settings, gateway: str) -> None:
    file = settings.file
    file.write_text(file.read_text() + f"\nmonitoring: {{push_gateway: '{gateway}'}}\n")
    assert run(settings) == 0
    with urllib.request.urlopen(f"{gateway}/metrics", timeout=10) as answer:
        pushed = {k: v for k, v in samples(answer.read().decode()).items() if k[0] in {m.name for m in METRICS}}
    written = samples(text_file(settings).read_text())
    assert len(written) > 60
    assert {(n, frozenset({*labels, ("job", "nightmarket"), ("instance", "")})): v for (n, labels), v in written.items()} == pushed


def test_a_dead_gateway_is_a_fault_and_the_file_is_written(settings: Settings) -> None:
    file = settings.file
    file.write_text(file.read_text() + f"\nmonitoring: {{push_gateway: 'http://127.0.0.1:{free_port(19391)}'}}\n")
    assert run(settings) == 1 and text_file(settings).exists()
