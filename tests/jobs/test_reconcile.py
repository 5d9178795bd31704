"""Reconciliation: what adds up is said with 0, whatever does not with 3 and the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs import clean, reconcile
from nightmarket.contracts import EVENTS, RAW_EVENTS
from nightmarket.lake import Input, Lake
from nightmarket.lake.partitions import QUARANTINE
from nightmarket.shop import Settings

pytestmark = pytest.mark.spark
NIGHT = date(2026, 1, 15)
NEXT = NIGHT + timedelta(days=1)
D = Decimal
ROWS: list[dict[str, Any]] = [
    {"order_id": "1", "quantity": 2, "unit_price": D("1.25")},
    {"order_id": "C2", "quantity": 3, "event_type": "return", "unit_price": D("1")},  # sign set: 3 becomes -3
    {"order_id": "c3", "quantity": None, "unit_price": D("4")},  # filled: 1
    {"order_id": "4", "quantity": 2, "unit_price": D("10"), "currency": "EUR"},  # converted: 8.5
    {"order_id": "5", "quantity": 7, "unit_price": D("0")},
    {"order_id": "6", "item_id": "POST", "quantity": 1, "unit_price": D("9.99")},
]


@pytest.fixture(scope="module")
def made(spark: Any, shop_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory, bronze_table: Callable[..., pa.Table]) -> Settings:
    settings = shop_in(
        tmp_path_factory.mktemp("reconcile"), clean={"not_products": ["POST"], "exchange_rates": {"EUR": 0.85}, "cancellations": ["C.*"]}
    )
    refused = pa.Table.from_pylist(
        [{"reason": "bad_quantity", "detail": "q", "source_file": "day.csv", "source_row": 6, "delivered_on": NIGHT, "record": "e1:…"}],
        QUARANTINE.arrow_schema(),
    )
    with Lake(settings.places.lake).writer(RAW_EVENTS, [NIGHT]) as writer:
        writer.stage_arrow(NIGHT, bronze_table("events", ROWS), refused)
        writer.publish(NIGHT, inputs=[Input("day.csv", "1")], settings="s", code="c",
                       sums={"quarantined: quantity": "0", "quarantined: quantity * unit_price": "0"})
    assert clean.main(["--shop", str(settings.file), "--run-date", str(NIGHT)]) == 0
    return settings


@pytest.fixture
def shop(made: Settings, shop_in: Callable[..., Settings], tmp_path: Path) -> Settings:
    """A copy of the lake to spoil."""
    import shutil

    settings = shop_in(tmp_path / "copy", clean=json.loads(made.shop.clean.model_dump_json()))
    shutil.copytree(made.places.lake, settings.places.lake)
    return settings


def run(settings: Settings, first: date = NIGHT, last: date = NIGHT) -> int:
    return reconcile.main(["--shop", str(settings.file), "--from", str(first), "--to", str(last)])


def rewrite(settings: Settings, contract: Any, change: Callable[[pa.Table], pa.Table]) -> None:
    """Changes the rows of the published partition behind its manifest's back."""
    partition = Lake(settings.places.lake).at(contract, NIGHT)
    (file,) = partition.files
    pq.write_table(change(pq.ParquetFile(file).read()), file)


def test_it_adds_up_and_says_where_everything_is(shop: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shop) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = {line[0].strip() or line[1].strip(): [c.strip() for c in line if c.strip()][1:] for line in lines if len(line) > 1}
    # quantities 2+3+null+2+7+1 = 15; values 2.5+3+null+20+0+9.99 = 35.49
    assert cells["delivered"] == ["7", "15", "35.49"]
    assert cells["quarantined by ingest: bad_quantity"] == ["1"]
    assert cells["bronze"] == ["6", "15", "35.49"]
    assert cells["quarantined by clean: not_a_product"] == ["1", "1", "9.99"]
    assert cells["quarantined by clean: zero_or_negative_price"] == ["1", "7", "0"]
    # kept: 2 x 1.25, -3 x 1, 1 x 4, 2 x 8.5
    assert cells["silver"] == ["4", "2", "20.5"]
    assert cells["of it changed by cleaning: sign set"] == ["1", "-6", "-6"]
    assert cells["of it changed by cleaning: filled"] == ["1", "1", "4"]
    assert cells["of it changed by cleaning: converted"] == ["1", "0", "-3"]
    assert cells["silver as delivered + quarantined"] == ["7", "15", "35.49"]
    assert cells["lines of cancelled orders, in bronze"] == ["2", "3", "3"]


def test_a_lost_row(shop: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(shop, EVENTS, lambda t: t.slice(1))
    assert run(shop) == 3
    shown = capsys.readouterr().err
    assert "silver.events of 2026-01-15: the manifest says 4 rows, its files hold 3" in shown
    assert "7 rows delivered, 6 clean and quarantined" in shown


@pytest.mark.parametrize(
    ("contract", "change", "said"),
    [
        (EVENTS, lambda t: t.set_column(t.schema.get_field_index("quantity"), "quantity", pc.add(t["quantity"], 1)), "kept rows is not what was delivered"),
        (EVENTS, lambda t: t.set_column(t.schema.get_field_index("source_row"), "source_row", pc.add(t["source_row"], 50)),
         "delivered and in neither silver nor its quarantine"),
        (EVENTS, lambda t: pa.concat_tables([t.slice(1), t.slice(1, 1)]), "rows are twice in silver"),
        (RAW_EVENTS, lambda t: t.set_column(t.schema.get_field_index("unit_price"), "unit_price",
                                            pc.add(t["unit_price"], pa.scalar(D("0.0001"), pa.decimal128(18, 4))).cast(pa.decimal128(18, 4))),
         "delivered"),
    ],
    ids=["changed quantity", "another row", "a row twice", "a penny's hundredth"],
)
def test_what_does_not_add_up_is_refused(
    shop: Settings, capsys: pytest.CaptureFixture[str], contract: Any, change: Callable[[pa.Table], pa.Table], said: str
) -> None:
    rewrite(shop, contract, change)
    assert run(shop) == 3
    shown = capsys.readouterr()
    assert said in shown.err
    assert "DOES NOT ADD UP" in shown.out


def test_a_manifest_that_says_otherwise(shop: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    path = Lake(shop.places.lake).manifest_path(EVENTS, NIGHT)
    manifest = json.loads(path.read_text())
    manifest["quarantined"] = {"not_a_product": 2}
    path.write_text(json.dumps(manifest))
    assert run(shop) == 3
    assert "the manifest says {'not_a_product': 2} quarantined, its files hold {'not_a_product': 1, 'zero_or_negative_price': 1}" in (
        capsys.readouterr().err
    )


def test_a_delivery_that_was_not_cleaned_again(shop: Settings, bronze_table: Callable[..., pa.Table], capsys: pytest.CaptureFixture[str]) -> None:
    with Lake(shop.places.lake).writer(RAW_EVENTS, [NIGHT]) as writer:
        writer.stage_arrow(NIGHT, bronze_table("events", [*ROWS, {"order_id": "7"}]))
        writer.publish(NIGHT, inputs=[Input("day.csv", "2")], settings="s", code="c")
    assert run(shop) == 3
    shown = capsys.readouterr().err
    assert "was made from another delivery than the one that is there; run `python -m jobs.clean --run-date 2026-01-15`" in shown
    assert "1 rows are delivered and in neither silver nor its quarantine" in shown


def test_nights_that_were_never_made(shop: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shop, NIGHT, NIGHT + timedelta(days=8)) == 3
    assert (
        "events: no bronze partition of 2026-01-16, 2026-01-17, 2026-01-18, 2026-01-19, 2026-01-20 and 3 more; run `python -m jobs.ingest`"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("argv", [["--from", "2026-01-16", "--to", "2026-01-15"], ["--from", "yesterday", "--to", "2026-01-15"], [],
                                  ["--from", "2026-01-15", "--to", "2026-01-15", "--shop", "/nowhere.yaml"]])
def test_usage(argv: list[str]) -> None:
    assert reconcile.main(argv) == 2
