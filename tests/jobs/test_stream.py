"""`jobs.stream`: every line once, in the lake or in quarantine with its reason, whatever happens in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import stream
from nightmarket.contracts import LIVE_EVENTS
from nightmarket.lake import Lake, Partition, Writer
from nightmarket.online.stream import Intake
from nightmarket.shop import Settings, ShopError, parse_shop
from tests.conftest import _shop

pytestmark = pytest.mark.spark
NIGHT = date(2026, 3, 1)
NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def event(n: int, minutes: float = 0, **changes: Any) -> dict[str, Any]:
    made = {"id": f"e{n}", "ts": (NOON + timedelta(minutes=minutes)).isoformat(), "kind": "purchase", "user": f"u{n % 3}", "item": "kettle",
            "quantity": "1", "price": "2.50", "currency": "GBP", "device": f"phone {n}"}
    return made | changes


def drop(settings: Settings, name: str, lines: list[Any]) -> None:
    folder = settings.places.root / "in"
    folder.mkdir(exist_ok=True)
    text = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n"
    temporary = folder / f".{name}"
    temporary.write_text(text)
    temporary.rename(folder / name)


def run(settings: Settings, *more: str, night: date = NIGHT) -> int:
    return stream.main(["--shop", str(settings.file), "--run-date", str(night), *more])


def live(settings: Settings, night: date = NIGHT) -> Partition:
    return Lake(settings.places.lake).at(LIVE_EVENTS, night)


def ids(settings: Settings, night: date = NIGHT) -> list[str]:
    return sorted(live(settings, night).arrow(["event_id"])["event_id"].to_pylist())


@pytest.fixture
def shop(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(stream={"path": "${root}/in", "files_per_batch": 1, "late_minutes": 60})


@pytest.mark.usefixtures("spark")
def test_lines_are_typed_cleaned_and_accounted_for(shop: Settings) -> None:
    drop(shop, "a.jsonl", [*(event(n) for n in range(20)), "no json", event(20, ts="nonsense"), event(21, price="0"), event(0)])
    assert run(shop) == 0
    made = live(shop)
    assert ids(shop) == sorted(f"e{n}" for n in range(20))
    assert (made.manifest.rows_in, made.manifest.rows_out) == (24, 20)
    assert made.manifest.quarantined == {"bad_event_ts": 1, "exact_duplicate": 1, "malformed_row": 1, "zero_or_negative_price": 1}
    row = made.arrow().sort_by("event_id").to_pylist()[0]
    assert (row["event_type"], str(row["revenue"]), row["event_date"], row["batch"]) == ("purchase", "2.50000000", NIGHT, 0)
    assert row["device_id"].startswith("p1:") and row["event_ts"] == NOON  # pseudonyms, as of every delivery
    raw = [r["record"] for r in made.quarantine().to_pylist() if r["reason"] in ("malformed_row", "bad_event_ts")]
    assert all(r.startswith("e1:") for r in raw)
    before = made.manifest
    assert run(shop) == 0 and live(shop).manifest == before  # nothing new, nothing done


@pytest.mark.usefixtures("spark")
def test_late_events_and_those_that_came_before_are_told(shop: Settings) -> None:
    drop(shop, "a.jsonl", [event(n) for n in range(10)])
    assert run(shop) == 0
    drop(shop, "b.jsonl", [event(10, minutes=-59), event(11, minutes=-61), event(3), event(12)])
    assert run(shop) == 0
    assert ids(shop) == sorted(["e10", "e12", *(f"e{n}" for n in range(10))])
    assert live(shop).manifest.quarantined == {"superseded": 1, "too_late": 1}
    assert next(r["record"] for r in live(shop).quarantine().to_pylist() if r["reason"] == "too_late").count("e11") == 1
    # the watermark goes on over midnight
    tomorrow = NIGHT + timedelta(days=1)
    drop(shop, "c.jsonl", [event(13, minutes=-200), *(event(20 + n, minutes=720) for n in range(9))])
    assert run(shop, night=tomorrow) == 0
    assert live(shop, tomorrow).manifest.quarantined == {"too_late": 1} and len(ids(shop, tomorrow)) == 9


@pytest.mark.usefixtures("spark")
def test_a_bad_batch_goes_to_quarantine_and_the_stream_goes_on(shop: Settings) -> None:
    drop(shop, "a.jsonl", [event(n) for n in range(30)])
    drop(shop, "b.jsonl", [event(100 + n, price="0" if n % 2 else "3") for n in range(30)])
    drop(shop, "c.jsonl", [event(200 + n) for n in range(30)])
    assert run(shop) == 0
    made = live(shop)
    assert ids(shop) == sorted([f"e{n}" for n in range(30)] + [f"e{200 + n}" for n in range(30)])
    assert made.manifest.quarantined == {"bad_batch": 15, "zero_or_negative_price": 15}
    assert list(made.manifest.notes["batches"].values()) == [30, 30, 30]
    assert {r["detail"] for r in made.quarantine().to_pylist() if r["reason"] == "bad_batch"} == {"the batch broke quarantine_share"}


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("moment", ["before the manifest", "after the manifest"])
def test_a_batch_that_died_is_taken_once(shop: Settings, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    drop(shop, "a.jsonl", [event(n) for n in range(10)])
    assert run(shop) == 0
    drop(shop, "b.jsonl", [event(10 + n) for n in range(10)])
    publish = Writer.publish

    def dies(self: Writer, *given: Any, **named: Any) -> Any:
        if moment == "after the manifest":
            publish(self, *given, **named)
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "publish", dies)
        assert run(shop) == 1
    assert len(ids(shop)) == (20 if moment == "after the manifest" else 10)
    # the second attempt may be made on another day: it is the same batch of the same night all the same
    assert run(shop, night=NIGHT + timedelta(days=1)) == 0
    assert ids(shop) == sorted(f"e{n}" for n in range(20)) and live(shop).manifest.rows_in == 20
    assert Lake(shop.places.lake).dates(LIVE_EVENTS) == [NIGHT]


@pytest.mark.usefixtures("spark")
def test_a_lost_checkpoint_counts_nothing_twice(shop: Settings) -> None:
    import shutil

    drop(shop, "a.jsonl", [event(n) for n in range(10)])
    assert run(shop) == 0
    shutil.rmtree(shop.places.work / "stream")
    assert run(shop) == 0
    assert len(ids(shop)) == 10 and live(shop).manifest.quarantined == {"superseded": 10}


def test_no_stream_is_refused_and_its_mistakes_are_named(settings: Settings, tmp_path: Path) -> None:
    assert run(settings) == 3
    for wrong, said in (({}, "exactly one way: path or kafka"), ({"path": "a", "kafka": {"subscribe": "t", "kafka.bootstrap.servers": "h"}}, "exactly one way"),
                        ({"kafka": {"subscribe": "t"}}, "kafka.bootstrap.servers and subscribe are needed")):
        with pytest.raises(ShopError, match=said):
            parse_shop(yaml.safe_dump(_shop(tmp_path, stream=wrong), sort_keys=False))


def test_kafka_is_the_same_stream_by_configuration(make_settings: Callable[..., Settings]) -> None:
    """Without Spark's connector here, what is asked of the reader is looked at."""
    from nightmarket.online.stream import lines

    asked: dict[str, Any] = {}

    class Reader:
        def format(self, kind: str) -> Reader:
            asked["format"] = kind
            return self

        def option(self, name: str, value: Any) -> Reader:
            asked[name] = value
            return self

        def load(self) -> Reader:
            return self

        def selectExpr(self, *columns: str) -> list[str]:
            return [c.split(" AS ")[-1] for c in columns]

    class Spark:
        readStream = Reader()

    made = make_settings(stream={"kafka": {"kafka.bootstrap.servers": "h:9092", "subscribe": "events"}})
    assert made.shop.stream is not None
    assert lines(Spark(), made, made.shop.stream) == ["line", "origin"]  # type: ignore[arg-type, comparison-overlap]
    assert asked == {"format": "kafka", "startingOffsets": "earliest", "failOnDataLoss": "true", "kafka.bootstrap.servers": "h:9092", "subscribe": "events"}
    assert Intake(made, Lake(made.places.lake), made.places.work).rules.kafka is not None
