"""The real chain on a small shop, step by step from a terminal: what a night leaves, what a poisoned one does not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from nightmarket.contracts import (
    BRONZE,
    EVENTS,
    FEATURES,
    QUALITY,
    RAW_EVENTS,
    RECOMMENDATIONS,
    SILVER,
    clean_of,
    raw_of,
)
from nightmarket.embedded import services
from nightmarket.registry.ledger import Ledger
from tests.e2e.chain import Chain

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def chain(first_night: Chain) -> Chain:
    return first_night


def test_every_delivered_row_is_clean_or_quarantined(chain: Chain) -> None:
    landing = chain.settings.places.landing / "events"
    delivered = duckdb.sql(f"SELECT count(*) FROM read_csv('{landing}/*.csv.gz', all_varchar=true, header=true)").fetchall()[0]
    bronze = [chain.lake.manifest(RAW_EVENTS, d) for d in chain.lake.dates(RAW_EVENTS)]
    silver = [chain.lake.manifest(EVENTS, d) for d in chain.lake.dates(EVENTS)]
    assert len(bronze) == len(silver) == chain.settings.shop.demo.days  # type: ignore[union-attr]
    assert sum(m.rows_in for m in bronze if m) == delivered[0]
    assert sum(m.rows_in for m in silver if m) == sum(m.rows_out for m in bronze if m)
    assert sum(sum(m.quarantined.values()) for m in [*bronze, *silver] if m) > 0  # the demo is dirty


def test_reconcile_adds_up(chain: Chain) -> None:
    said = chain.run("reconcile", "--from", str(chain.first_day), "--to", str(chain.last_day)).stdout
    assert "events" in said


REJECTED = {
    "events": {
        "exact_duplicate": "exact_duplicate", "stale_duplicate": "superseded", "missing_item": "missing_item_id", "missing_time": "missing_event_ts",
        "missing_type": "missing_event_type", "bad_time": "bad_event_ts", "bad_price": "bad_unit_price", "unknown_currency": "unknown_currency",
        "unknown_type": "unknown_event_type", "future_clock": "from_the_future", "too_old": "too_old", "not_a_product": "not_a_product",
        "bad_quantity": "bad_quantity", "zero_price": "zero_or_negative_price",
    },
    "orders": {
        "exact_duplicate": "exact_duplicate", "stale_duplicate": "superseded", "missing_time": "missing_order_ts",
        "unknown_currency": "unknown_currency", "future_clock": "from_the_future", "too_old": "too_old",
    },
}
"""Kinds of dirt that cost a row, with the reason that cleaning owes it; every other kind is mended, flagged or kept."""
KEYS = {"events": "id", "orders": "order_no"}


@pytest.mark.parametrize("entity", KEYS)
def test_every_planted_kind_of_dirt_ends_as_stated(chain: Chain, entity: str) -> None:
    """Each delivered row is followed by file and position to silver or to its quarantine reason, and held against the truth table."""
    outcome: dict[tuple[str, int], str] = {}
    for night in chain.lake.dates(raw_of(entity)):
        for dataset in (raw_of(entity), clean_of(entity)):
            for row in chain.lake.at(dataset, night).quarantine().select(["source_file", "source_row", "reason"]).to_pylist():
                outcome[row["source_file"], row["source_row"]] = row["reason"]
        for row in chain.lake.at(clean_of(entity), night).arrow(["source_file", "source_row"]).to_pylist():
            outcome[row["source_file"], row["source_row"]] = "clean"
    landing = chain.settings.places.landing
    ended: dict[str, list[str]] = {}
    for file in sorted((landing / entity).iterdir()):
        for position, row in enumerate(_delivered(file)):
            ended.setdefault((row[KEYS[entity]] or "").strip(), []).append(outcome[file.name, position])
    planted = duckdb.sql(f"SELECT name, trim(value) FROM read_parquet('{landing}/_truth/*.parquet') "
                         f"WHERE kind = 'dirt' AND entity = '{entity}' AND trim(value) <> ''").fetchall()
    assert len(planted) > 20
    for kind, key in planted:
        got = sorted([*ended.get(key, []), *ended.get(f"{key}x", [])])  # some kinds are a row of their own beside the good one
        rejected = [o for o in got if o != "clean"]
        owed = REJECTED[entity].get(kind)
        assert rejected == ([owed] if owed else []), f"{kind} {key}: {got}"
        assert owed or got.count("clean") >= 1, f"{kind} {key}: {got}"


def _delivered(file: Path) -> list[dict[str, str]]:
    import csv
    import gzip

    import pyarrow.parquet as pq

    if file.suffix == ".parquet":
        return pq.read_table(file).to_pylist()
    return list(csv.DictReader(gzip.decompress(file.read_bytes()).decode().splitlines()))


def test_without_a_server_the_rows_are_the_same(chain: Chain) -> None:
    """A week's four Spark steps again, each with a JVM of its own: the same content, night by night."""
    before = chain.identities(*BRONZE, *SILVER, FEATURES)
    for step in ("ingest", "clean", "gate", "aggregate"):
        chain.bare.run(step, "--run-date", str(chain.last_day), "--from-date", str(chain.last_day - timedelta(days=6)), "--force")
    assert chain.identities(*BRONZE, *SILVER, FEATURES) == before


def test_the_server_wants_its_token_and_may_be_gone(chain: Chain) -> None:
    span = ("--run-date", str(chain.last_day), "--force")
    stranger = replace(chain, more={**chain.more, "SPARK_CONNECT_AUTHENTICATE_TOKEN": "another"})
    assert "UNAUTHENTICATED" in stranger.run("clean", *span, code=1).stderr
    nobody = replace(chain, more={**chain.more, "SPARK_REMOTE": f"sc://localhost:{services.free_port(15_200)}"})
    assert "no answer" in nobody.run("aggregate", *span).stderr  # a session of its own, and word of it


def test_recommendations_are_for_everyone_with_reasons(chain: Chain) -> None:
    table = chain.lake.at(RECOMMENDATIONS, chain.last_day).arrow()
    known = set(chain.lake.at(FEATURES, chain.last_day).arrow(["user_id"])["user_id"].to_pylist())
    rows = table.to_pylist()
    assert {r["audience_id"] for r in rows if r["audience"] == "user"} == known
    assert {r["audience"] for r in rows} == {"user", "country", "everyone"}
    assert all(r["reason"] for r in rows)
    by_audience: dict[tuple[str, str], list[dict[str, object]]] = {}
    for r in rows:
        by_audience.setdefault((r["audience"], r["audience_id"]), []).append(r)
    for answers in by_audience.values():
        answers.sort(key=lambda r: r["rank"])  # type: ignore[arg-type,return-value]
        assert [a["rank"] for a in answers] == list(range(1, len(answers) + 1))
        assert len({a["item_id"] for a in answers}) == len(answers)
        scores = [a["score"] for a in answers]
        assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]


def test_a_lookup_answers_for_the_known_and_the_stranger(chain: Chain) -> None:
    user = chain.lake.at(FEATURES, chain.last_day).arrow(["user_id"])["user_id"][0].as_py()
    known = json.loads(chain.run("lookup", "--user", user, "--k", "5").stdout)
    stranger = json.loads(chain.run("lookup", "--user", "never-seen", "--k", "5").stdout)
    assert known["source"] == "user" and len(known["items"]) == 5
    assert stranger["source"] == "everyone" and len(stranger["items"]) == 5


def test_the_same_night_again_changes_nothing(chain: Chain) -> None:
    before = chain.identities()
    chain.night(chain.last_day, chain.first_day)
    assert chain.identities() == before


def test_a_poisoned_delivery_stops_at_the_gate(chain: Chain, tmp_path: Path) -> None:
    """Every price a hundredfold and most users unknown: nothing downstream of the gate moves, and the owner is told."""
    night = chain.last_day + timedelta(days=1)
    chain.run("deliver", "--run-date", str(night))
    places = chain.settings.places
    serving = (places.root / "published" / "recommendations.sqlite").resolve()
    ledger = Ledger(places.mlflow / "ledger.db")
    champion = ledger.current(chain.settings.shop.model.name, "champion")
    events = places.landing / "events" / f"{night}.csv.gz"
    healthy = tmp_path / "healthy.csv.gz"
    shutil.copy(events, healthy)
    try:
        duckdb.sql(f"""COPY (SELECT * FROM read_csv('{healthy}', all_varchar=true, header=true) LIMIT 3)
                       TO '{events}' (FORMAT csv, HEADER, COMPRESSION gzip)""")
        span = ("--run-date", str(night))
        chain.run("ingest", *span)
        chain.run("clean", *span)
        chain.run("gate", *span, code=3)
        quality = chain.lake.at(QUALITY, night)
        assert quality.manifest.notes["verdict"] == "refused"
        failed = [r for r in quality.arrow().to_pylist() if not r["success"] and r["severity"] == "critical"]
        assert any("volume" in r["expectation"] or "rows" in r["expectation"] for r in failed), failed
        for step in ("aggregate", "train", "evaluate", "publish"):
            chain.run(step, *span, code=3)
        assert chain.lake.manifest(FEATURES, night) is None and chain.lake.manifest(RECOMMENDATIONS, night) is None
        assert ledger.current(chain.settings.shop.model.name, "champion") == champion
        assert (places.root / "published" / "recommendations.sqlite").resolve() == serving
        chain.run("report", *span)
        waiting = "\n".join(p.read_text(errors="replace") for p in places.outbox.rglob("*") if p.is_file() and str(night) in p.read_text(errors="replace"))
        assert "refused" in waiting.lower()
    finally:
        shutil.copy(healthy, events)
    # the shop delivers again: the same night now passes
    for step in ("ingest", "clean", "gate", "aggregate"):
        chain.run(step, *span)
    assert chain.lake.at(QUALITY, night).manifest.notes["verdict"] in ("passed", "warned")


def test_nothing_personal_is_past_landing(chain: Chain) -> None:
    """Mails, phones, names, addresses, IPs and devices that the demo planted occur nowhere but in landing."""
    from tests.e2e.scan import find

    places = chain.settings.places
    planted = _planted(chain)
    assert len(planted) > 100
    assert find(places.landing, planted[:20]), "the scan must be able to find what was planted"
    assert find(places.root, planted, skip=["landing"]) == {}


def _planted(chain: Chain) -> list[str]:
    import random

    truth = chain.settings.places.landing / "_truth"
    rows = duckdb.sql(f"SELECT DISTINCT value FROM read_parquet('{truth}/*.parquet') WHERE kind = 'personal' ORDER BY 1").fetchall()
    values = [r[0] for r in rows]
    return random.Random(5).sample(values, min(400, len(values)))


def test_twenty_kills_leave_no_trace(chain: Chain) -> None:
    """SIGKILL at 20 random moments of ingest and clean; readers always see a whole partition, the retry the same one."""
    import random

    night = chain.last_day
    span = ("--run-date", str(night), "--force")
    want = {d.id: chain.lake.at(d, night).manifest.digest for d in (*BRONZE, *SILVER)}
    draw = random.Random(20261123)
    killed = 0
    for step, datasets in (("ingest", BRONZE), ("clean", SILVER)):
        for _ in range(10):
            killed += chain.bare.kill(step, *span, after=draw.uniform(0.5, 14.0))
            for dataset in datasets:
                assert chain.recount(dataset, night) >= 0
                assert chain.lake.at(dataset, night).manifest.digest == want[dataset.id]
        chain.bare.run(step, *span)
        for dataset in datasets:
            assert chain.lake.at(dataset, night).manifest.digest == want[dataset.id]
            debris = [p.name for p in chain.lake.manifest_path(dataset, night).parent.glob("v-*")]
            assert len(debris) <= 2
    assert killed >= 12, "the steps ended before most kills; widen the moments"
