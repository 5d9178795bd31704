"""The ingest job end to end on small deliveries: every delivered row is published or kept with a reason, and nothing else.

One run takes one night for each case of the table below, in four formats at once, so that Spark starts once.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import ingest
from nightmarket import contracts
from nightmarket.lake import Lake, Manifest
from nightmarket.protect.keys import Keyring
from nightmarket.shop import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark

FIRST = date(2026, 1, 5)
HEADER = "id,ts,kind,user,item,quantity,price,currency,device\n"
ROW = "e1,2026-01-05 10:00:00,view,u1,i1,1,2.50,GBP,d1\n"


@dataclass(frozen=True)
class Case:
    """One night's delivery: files by name pattern ({date} is its date), and what becomes of it."""

    name: str
    files: dict[str, bytes]
    out: dict[str, int]
    """Rows published by dataset."""
    rejected: dict[str, dict[str, int]] = field(default_factory=dict)
    """Rows in quarantine by dataset and reason."""


def events(*rows: str, header: str = HEADER) -> dict[str, bytes]:
    return {"events-{date}.csv": (header + "".join(r + "\n" for r in rows)).encode()}


def row(**changes: str) -> str:
    values = {"id": "e1", "ts": "2026-01-05 10:00:00", "kind": "view", "user": "u1", "item": "i1", "quantity": "1",
              "price": "2.50", "currency": "GBP", "device": "d1", **changes}
    return ",".join(values.values())


def parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


CASES = [
    Case("good rows", events(row(), row(id="e2")), {"events": 2}),
    Case("no delivery at all", {}, {}),
    Case("header only", events(), {"events": 0}),
    Case("two files of one night", {**events(row()), "events-{date}-b.csv": (HEADER + row(id="e2") + "\n").encode()}, {"events": 2}),
    Case("gzip", {"events-{date}.csv.gz": gzip.compress((HEADER + row() + "\n").encode(), mtime=0)}, {"events": 1}),
    Case("a byte order mark and CRLF", {"events-{date}.csv": ("\ufeff" + HEADER + row() + "\n").replace("\n", "\r\n").encode()},
         {"events": 1}),
    Case("new columns are ignored", events(row() + ",x,y", header=HEADER.strip() + ",colour,Size of Box\n"), {"events": 1}),
    Case("columns in another order and case", {"events-{date}.csv": b"PRICE,Item,kind,TS,id,user,quantity,currency,device\n"
                                               b"2.50,i1,view,2026-01-05 10:00,e1,u1,1,GBP,d1\n"}, {"events": 1}),
    Case("a missing optional column", {"events-{date}.csv": b"id,ts,kind,item\ne1,2026-01-05,view,i1\n"}, {"events": 1}),
    Case("ragged rows", events(row(), "e2,2026-01-05", row(id="e3") + ",more"), {"events": 1}, {"events": {"malformed_row": 2}}),
    Case("quoted fields over lines", events('e1,2026-01-05,view,"u,""1""",i1,1,2.50,"GB\nP",d1'), {"events": 1}),
    Case("a quote that never closes", events('"e1,2026-01-05,view,u1,i1,1,2,GBP,d', row(id="e2")), {"events": 1},
         {"events": {"malformed_row": 1}}),
    Case("bytes that are no text", {"events-{date}.csv": (HEADER + row(id="é") + "\n").encode("latin-1") + (row() + "\n").encode()},
         {"events": 1}, {"events": {"bad_encoding": 1}}),
    Case("no timestamps", events(row(ts="soon"), row(ts=""), row(ts="2026-02-30")), {"events": 0},
         {"events": {"bad_event_ts": 2, "missing_event_ts": 1}}),
    Case("timestamps of many kinds", events(*(row(ts=t) for t in ("1767607200", "1767607200000", "2026-01-05T10:00:00Z",
                                                                  "2026-01-05T11:00:00+01:00", "05/01/2026 10:00"))), {"events": 5}),
    Case("quantities", events(row(quantity="6.0"), row(quantity="6.5"), row(quantity="six"), row(quantity=""), row(quantity="-2")),
         {"events": 3}, {"events": {"bad_quantity": 2}}),
    Case("prices", events(row(price="£1.00"), row(price='"1,234.50"'), row(price="(3.00)"), row(price="free"), row(price="1e30")),
         {"events": 3}, {"events": {"bad_unit_price": 2}}),
    Case("blank required values", events(row(id=""), row(item="  "), row(kind="")), {"events": 0},
         {"events": {"missing_event_id": 1, "missing_item_id": 1, "missing_event_type": 1}}),
    Case("the first reason in the contract's order", events(row(id="", ts="soon", quantity="x")), {"events": 0},
         {"events": {"missing_event_id": 1}}),
    Case("unknown kinds and currencies are for cleaning to judge", events(row(kind="explode", currency="doubloons")), {"events": 1}),
    Case("a changed type", events(row(quantity="2026-01-05 10:00:00")), {"events": 0}, {"events": {"bad_quantity": 1}}),
    Case("a NUL in a row", events(row(user="u\0")), {"events": 0}, {"events": {"malformed_row": 1}}),
    Case("JSON Lines", {"items-{date}.jsonl": b'{"sku": "i1", "name": "Cup", "rrp": 2.50, "stock": true}\n\n{"sku": "i2"}\n'}, {"items": 2}),
    Case("JSON that cannot be read", {"items-{date}.jsonl": b'{"sku": "i1"}\n{"sku": \n["i2"]\n{"sku": "\\ud800"}\n'}, {"items": 1},
         {"items": {"malformed_row": 2, "bad_encoding": 1}}),
    Case("JSON of other types", {"items-{date}.jsonl": b'{"sku": 7, "name": ["a", 1], "rrp": "dear", "stock": "yes"}\n'
                                 b'{"sku": 8, "stock": 2}\n{"sku": null}\n'}, {"items": 0},
         {"items": {"bad_list_price": 1, "bad_in_stock": 1, "missing_item_id": 1}}),
    Case("JSON Lines, gzip", {"items-{date}.jsonl.gz": gzip.compress(b'{"sku": "i1"}\n', mtime=0)}, {"items": 1}),
    Case("semicolons, decimal commas, Windows text", {"users-{date}.csv": "id;mail;name;joined\nu1;ann@example.org;Jürgen;2026-01-01\n"
                                                      .encode("cp1252")}, {"users": 1}),
    Case("personal data", {"users-{date}.csv": b"id;mail;name;joined\nu1; ANN@Example.org;Ann Lee;2026-01-01\nu2;;;\nu3;x@y.z;Bo;someday\n"},
         {"users": 2}, {"users": {"bad_signed_up_at": 1}}),
    Case("bytes undefined in Windows text", {"users-{date}.csv": b"id;mail;name;joined\nu1;;J\x81;\nu2;;;\n"}, {"users": 1},
         {"users": {"bad_encoding": 1}}),
    Case("Parquet with types", {"orders-{date}.parquet": parquet(
        order_no=pa.array([1, 2]), placed_at=pa.array([1_767_607_200_000_000_000] * 2, pa.timestamp("ns", "UTC")),
        total=pa.array([1.5, float("nan")]), fraud=pa.array([True, None]))}, {"orders": 2}),
    Case("Parquet with other types", {"orders-{date}.parquet": parquet(
        order_no=pa.array(["a", None, "c"]), placed_at=pa.array(["2026-01-05 10:00"] * 3), total=pa.array(["1.50", "2", "much"]),
        fraud=pa.array(["no", "no", "no"]))}, {"orders": 1}, {"orders": {"missing_order_id": 1, "bad_amount": 1}}),
    Case("Parquet, dictionaries, naive times, decimals", {"orders-{date}.parquet": parquet(
        order_no=pa.array(["a", "a"]).dictionary_encode(), placed_at=pa.array([datetime(2026, 7, 1, 12)] * 2),
        total=pa.array([Decimal("1.25"), None]), fraud=pa.array([0, 1], pa.int8()))}, {"orders": 2}),
    Case("Parquet without rows", {"orders-{date}.parquet": parquet(
        order_no=pa.array([], pa.string()), placed_at=pa.array([], pa.string()), total=pa.array([], pa.float64()),
        fraud=pa.array([], pa.bool_()))}, {"orders": 0}),
    Case("UTF-16 and tabs", {"reviews-{date}.tsv": "review\titem\tts\tstars\tbody\nr1\ti1\t2026-01-05\t5\tschön, mail me: ann@example.org\n"
                             .encode("utf-16")}, {"reviews": 1}),
    Case("stars", {"reviews-{date}.tsv": ("review\titem\tts\tstars\tbody\n" + "".join(f"r{s}\ti1\t2026-01-05\t{s}\t\n" for s in ("5.0", "4.5", "9", "99999999999")))
                   .encode("utf-16")}, {"reviews": 2}, {"reviews": {"bad_rating": 2}}),
    Case("everything at once", {**events(row()), "items-{date}.jsonl": b'{"sku": "i1"}\n',
                                "users-{date}.csv": b"id;mail;name;joined\nu1;;;\n"}, {"events": 1, "items": 1, "users": 1}),
]
NIGHTS = {case.name: FIRST + timedelta(days=n) for n, case in enumerate(CASES)}

SOURCES = {
    "events": {"pattern": "events-{date}*.csv*", "format": "csv"},
    "items": {"pattern": "items-{date}.jsonl*", "format": "jsonl"},
    "users": {"pattern": "users-{date}.csv", "format": "csv", "delimiter": ";", "encoding": "cp1252"},
    "orders": {"pattern": "orders-{date}.parquet", "format": "parquet"},
    "reviews": {"pattern": "reviews-{date}.tsv", "format": "csv", "delimiter": "\t", "encoding": "utf-16"},
}
DATASETS = {
    "events": {"source": "events", "timestamp_formats": ["dd/MM/yyyy HH:mm"], "columns": {
        "event_id": "id", "event_ts": "ts", "event_type": "kind", "user_id": "user", "item_id": "item", "quantity": "quantity",
        "unit_price": "price", "currency": "currency", "device_id": "device"}},
    "items": {"source": "items", "columns": {"item_id": "sku", "title": "name", "list_price": "rrp", "in_stock": "stock"}},
    "users": {"source": "users", "columns": {"user_id": "id", "email": "mail", "full_name": "name", "signed_up_at": "joined"}},
    "orders": {"source": "orders", "columns": {"order_id": "order_no", "order_ts": "placed_at", "amount": "total", "is_fraud": "fraud"}},
    "reviews": {"source": "reviews", "columns": {"review_id": "review", "item_id": "item", "review_ts": "ts", "rating": "stars", "text": "body"}},
}


def files_source(**described: str) -> dict[str, str]:
    return {"kind": "files", "path": "${root}/landing", "on_missing": "empty", **described}


def run(settings: Settings, *argv: str) -> int:
    return ingest.main(["--shop", str(settings.file), *argv])


def one_night(settings: Settings, day: date | str, *argv: str) -> int:
    return run(settings, "--run-date", str(day), *argv)


def manifest(settings: Settings, entity: str, day: date) -> Manifest:
    found = Lake(settings.places.lake).manifest(contracts.raw_of(entity), day)
    assert found is not None, f"{entity} of {day} is not published"
    return found


def rows(settings: Settings, entity: str, day: date) -> list[dict[str, Any]]:
    return Lake(settings.places.lake).at(contracts.raw_of(entity), day).arrow().to_pylist()


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory, shop_in: Callable[..., Settings], drop: Callable[..., Path],
          spark: SparkSession) -> Settings:
    """The table's deliveries, all taken in one run."""
    settings = shop_in(tmp_path_factory.mktemp("cases"), sources={n: files_source(**s) for n, s in SOURCES.items()}, datasets=DATASETS)
    for case in CASES:
        for name, content in case.files.items():
            drop(settings, name.format(date=NIGHTS[case.name]), content)
    assert one_night(settings, max(NIGHTS.values()), "--from-date", str(FIRST)) == 0
    return settings


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_what_becomes_of_a_delivery(taken: Settings, case: Case) -> None:
    for entity in DATASETS:
        made = manifest(taken, entity, NIGHTS[case.name])
        assert made.rows_out == case.out.get(entity, 0)
        assert made.quarantined == case.rejected.get(entity, {})
        assert len(rows(taken, entity, NIGHTS[case.name])) == made.rows_out
        assert made.notes.get("no_delivery", False) == (not any(n.startswith(entity) for n in case.files))


def case_rows(settings: Settings, entity: str, name: str) -> list[dict[str, Any]]:
    return sorted(rows(settings, entity, NIGHTS[name]), key=lambda r: (r["source_file"], r["source_row"]))


def test_a_row_knows_its_night_file_and_place(taken: Settings) -> None:
    found = case_rows(taken, "events", "ragged rows")
    day = NIGHTS["ragged rows"]
    assert [(r["delivered_on"], r["source_file"], r["source_row"]) for r in found] == [(day, f"events-{day}.csv", 0)]
    lake = Lake(taken.places.lake)
    rejected = lake.at(contracts.RAW_EVENTS, day).quarantine().sort_by("source_row").to_pylist()
    assert [(r["source_row"], r["detail"]) for r in rejected] == [(1, "2 fields, the header has 9"), (2, "10 fields, the header has 9")]


def test_values_are_typed(taken: Settings) -> None:
    times = {r["event_ts"] for r in case_rows(taken, "events", "timestamps of many kinds")}
    assert times == {datetime(2026, 1, 5, 10, tzinfo=timezone.utc)}
    assert [r["quantity"] for r in case_rows(taken, "events", "quantities")] == [6, None, -2]
    assert [r["unit_price"] for r in case_rows(taken, "events", "prices")] == [Decimal("1.0000"), Decimal("1234.5000"), Decimal("-3.0000")]
    assert [(r["user_id"], r["currency"]) for r in case_rows(taken, "events", "quoted fields over lines")] == [('u,"1"', "GB\nP")]
    typed = case_rows(taken, "orders", "Parquet with types")
    assert [(r["order_id"], r["amount"], r["is_fraud"]) for r in typed] == [("1", Decimal("1.5000"), True), ("2", None, None)]
    assert typed[0]["order_ts"] == datetime(2026, 1, 5, 10, tzinfo=timezone.utc)
    other = case_rows(taken, "orders", "Parquet, dictionaries, naive times, decimals")
    assert [(r["order_ts"].hour, r["amount"], r["is_fraud"]) for r in other] == [(11, Decimal("1.2500"), False), (11, None, True)]
    assert [(r["title"], r["list_price"], r["in_stock"]) for r in case_rows(taken, "items", "JSON Lines")] == [
        ("Cup", Decimal("2.5000"), True), (None, None, None)]


def test_personal_columns_are_protected(taken: Settings) -> None:
    keyring = Keyring.load(taken)
    ann, nobody = case_rows(taken, "users", "personal data")
    assert ann["email"] == keyring.pseudonym("email", "ann@example.org")
    assert keyring.decrypt(ann["full_name"]) == "Ann Lee"
    assert (nobody["email"], nobody["full_name"]) == (None, None)
    assert keyring.decrypt(case_rows(taken, "users", "semicolons, decimal commas, Windows text")[0]["full_name"]) == "Jürgen"
    assert case_rows(taken, "reviews", "UTF-16 and tabs")[0]["text"] == "schön, mail me: [mail]"
    assert case_rows(taken, "events", "good rows")[0]["device_id"] == keyring.pseudonym("device_id", "d1")


def test_quarantined_records_can_be_read_with_the_key_only(taken: Settings) -> None:
    keyring, lake = Keyring.load(taken), Lake(taken.places.lake)
    kept = lake.at(contracts.RAW_USERS, NIGHTS["personal data"]).quarantine().to_pylist()
    assert [r["detail"] for r in kept] == ["signed_up_at: cannot be read as timestamp"]
    assert json.loads(keyring.decrypt(kept[0]["record"])) == {"id": "u3", "mail": "x@y.z", "name": "Bo", "joined": "someday"}
    malformed = lake.at(contracts.RAW_EVENTS, NIGHTS["ragged rows"]).quarantine().sort_by("source_row").to_pylist()
    assert keyring.decrypt(malformed[0]["record"]) == "e2,2026-01-05"


def test_nothing_personal_and_no_key_is_in_the_lake(taken: Settings) -> None:
    secrets = [p.read_bytes().strip() for p in taken.places.keys.iterdir()]
    planted = [b"ann@example.org", b"Ann Lee", b"x@y.z", *secrets, *(bytes.fromhex(s.decode()) for s in secrets)]
    scanned = 0
    for path in taken.places.lake.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".parquet":
                content += str(pq.ParquetFile(path).read().to_pylist()).encode()
            assert not [p for p in planted if p.lower() in content.lower()], path
            scanned += 1
    assert scanned > 100


def test_drift_is_noted(taken: Settings) -> None:
    new = manifest(taken, "events", NIGHTS["new columns are ignored"])
    assert new.notes["new_columns"] == ["colour", "Size of Box"]
    missing = manifest(taken, "events", NIGHTS["a missing optional column"])
    assert missing.notes["missing_columns"] == {
        "user_id": "user", "quantity": "quantity", "unit_price": "price", "currency": "currency", "device_id": "device"}
    assert "missing_columns" not in manifest(taken, "events", NIGHTS["good rows"]).notes


def test_sums_are_of_all_that_could_be_typed(taken: Settings) -> None:
    sums = manifest(taken, "events", NIGHTS["prices"]).sums
    # 1.00 + 1,234.50 - 3.00 = 1,232.50 for one unit each; five rows have a quantity, three a price
    assert (sums["quantity"], sums["out: quantity"], sums["quarantined: quantity"]) == ("5", "3", "2")
    assert Decimal(sums["value"]) == Decimal("1232.50") == Decimal(sums["out: quantity * unit_price"])
    assert Decimal(manifest(taken, "orders", NIGHTS["Parquet with other types"]).sums["amount"]) == Decimal("3.50")
    assert manifest(taken, "events", NIGHTS["no delivery at all"]).sums["value"] == "0"


def test_running_again_changes_nothing_and_starts_no_spark(taken: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    days = [NIGHTS[c.name] for c in CASES]
    before = [manifest(taken, e, d) for e in DATASETS for d in days]

    def no_spark(*_: object) -> None:
        raise AssertionError("Spark was started")

    with monkeypatch.context() as patch:
        patch.setattr("nightmarket.spark.session", no_spark)
        assert one_night(taken, days[-1], "--from-date", str(FIRST)) == 0
    assert [manifest(taken, e, d) for e in DATASETS for d in days] == before


def test_one_night_alone_gives_what_the_range_gave(taken: Settings) -> None:
    """Forced, so that every row is made again: the same rows, digests and quarantine, byte for byte of meaning."""
    day = NIGHTS["personal data"]
    entities = ["events", "users"]
    before = [manifest(taken, e, day).identity() for e in entities]
    kept = Lake(taken.places.lake).at(contracts.RAW_USERS, day).quarantine()
    assert one_night(taken, day, "--force", "--datasets", ",".join(entities)) == 0
    assert [manifest(taken, e, day).identity() for e in entities] == before
    assert Lake(taken.places.lake).at(contracts.RAW_USERS, day).quarantine().equals(kept)


def test_keys_are_not_in_the_plan(taken: Settings, spark: SparkSession) -> None:
    from argparse import Namespace

    from nightmarket.command import Night
    from nightmarket.sources import intake, sql

    keyring = Keyring.load(taken)
    day = NIGHTS["personal data"]
    night = Night(taken, Lake(taken.places.lake), day, day, "", True, False, Namespace())
    made = intake.prepare(night, "users", keyring, {}, sql.Scratch(taken.places.landing / ".sql"))
    frame = intake.frame(spark, night, made, keyring)
    assert frame is not None
    plan = frame._jdf.queryExecution().toString()  # type: ignore[operator]
    assert "MapInArrow" in plan
    for secret in [p.read_text().strip() for p in taken.places.keys.iterdir()]:
        assert secret not in plan
        assert secret not in str(manifest(taken, "users", day))


# --- deliveries that refuse the whole run ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("files", "said"), [
    ({}, "no file for the night of 2026-01-05"),
    ({"events-2026-01-05.csv": b""}, r"events-2026-01-05\.csv: the file is empty"),
    ({"events-2026-01-05.csv.gz": gzip.compress(HEADER.encode() * 500, mtime=0)[:-9]}, "gzip is cut off"),
    ({"events-2026-01-05.csv": HEADER.replace(",", ";").encode()}, "looks separated by a semicolon"),
    ({"events-2026-01-05.csv": b"id,ts,kind,user\n1,2026-01-05,view,u1\n"},
     r"events-2026-01-05\.csv: no column 'item', which datasets\.events\.columns\.item_id needs; there are id, ts, kind, user\. Deliver"),
    ({"events-2026-01-05.csv": (HEADER + ROW).encode(), "events-2026-01-05-b.csv": b"id,ts,item\n1,2026-01-05,i1\n"},
     r"events-2026-01-05-b\.csv: no column 'kind'"),
    ({"events-2026-01-05.csv": ROW.encode()}, "no column 'ts'|no column 'id'"),  # the header is missing: the first row is none
])
def test_a_delivery_that_cannot_be_used_refuses_the_night(
    make_settings: Callable[..., Settings], drop: Callable[..., Path], spark: SparkSession, capsys: pytest.CaptureFixture[str],
    files: dict[str, bytes], said: str,
) -> None:
    import re

    settings = make_settings()
    for name, content in files.items():
        drop(settings, name, content)
    assert one_night(settings, FIRST) == 3
    assert re.search(said, capsys.readouterr().err)
    assert Lake(settings.places.lake).dates(contracts.RAW_EVENTS) == []


def test_one_refused_dataset_publishes_none(
    make_settings: Callable[..., Settings], drop: Callable[..., Path], spark: SparkSession
) -> None:
    sources = {n: files_source(**SOURCES[n]) for n in ("events", "orders")}
    settings = make_settings(sources=sources, datasets={n: DATASETS[n] for n in sources})
    drop(settings, f"events-{FIRST}.csv", HEADER + ROW)
    damaged = bytearray(parquet(order_no=pa.array([str(n) for n in range(2000)]), placed_at=pa.array(["2026-01-05"] * 2000),
                                total=pa.array(range(2000)), fraud=pa.array([True] * 2000)))
    damaged[4:400] = bytes(396)  # a footer that promises pages which are not there: only reading finds out
    drop(settings, f"orders-{FIRST}.parquet", bytes(damaged))
    assert one_night(settings, FIRST) == 3
    lake = Lake(settings.places.lake)
    assert (lake.dates(contracts.RAW_EVENTS), lake.dates(contracts.RAW_ORDERS)) == ([], [])


@pytest.mark.parametrize(("change", "said"), [
    ({"user_id": "customer"}, r"datasets\.events\.columns\.user_id: no source column 'customer'; there are id, ts, kind, user"),
    ({"quantity": "quantity +"}, r"datasets\.events\.columns\.quantity: 'quantity \+' is not a Spark SQL expression"),
    ({"quantity": "no_such_function(quantity)"}, r"datasets\.events\.columns\.quantity: .*no_such_function"),
    ({"updated_at": "current_timestamp()"}, r"datasets\.events\.columns\.updated_at: current_timestamp\(\) gives another answer"),
    ({"updated_at": "CURRENT_DATE"}, r"datasets\.events\.columns\.updated_at: no source column 'CURRENT_DATE'"),
    ({"user_id": "sum(user)"}, r"datasets\.events\.columns\.user_id: 'sum\(user\)': .*MISSING_GROUP_BY"),
])
def test_a_mapping_that_cannot_work_is_a_usage_error(
    make_settings: Callable[..., Settings], drop: Callable[..., Path], spark: SparkSession, capsys: pytest.CaptureFixture[str],
    change: dict[str, str], said: str,
) -> None:
    import re

    mapping = DATASETS["events"]
    settings = make_settings(datasets={"events": {**mapping, "columns": {**mapping["columns"], **change}}})  # type: ignore[dict-item]
    drop(settings, f"events-{FIRST}.csv", HEADER + ROW)
    assert one_night(settings, FIRST) == 2
    assert re.search(said, capsys.readouterr().err)
    assert Lake(settings.places.lake).dates(contracts.RAW_EVENTS) == []


def test_an_optional_column_that_disappears_is_null_and_told(
    make_settings: Callable[..., Settings], drop: Callable[..., Path], spark: SparkSession
) -> None:
    settings = make_settings()
    drop(settings, f"events-{FIRST}.csv", HEADER + ROW)
    assert one_night(settings, FIRST) == 0
    second = FIRST + timedelta(days=1)
    drop(settings, f"events-{second}.csv", HEADER.replace(",device", "") + ROW.replace(",d1", ""))
    assert one_night(settings, second) == 0
    made = manifest(settings, "events", second)
    assert made.notes["missing_columns"] == {"device_id": "device"}
    assert [r["device_id"] for r in rows(settings, "events", second)] == [None]


def test_late_and_changed_files_through_the_job(
    make_settings: Callable[..., Settings], drop: Callable[..., Path], spark: SparkSession
) -> None:
    settings = make_settings()
    second = FIRST + timedelta(days=1)
    drop(settings, f"events-{FIRST}.csv", HEADER + ROW)
    assert one_night(settings, FIRST) == 0
    drop(settings, f"events-{FIRST}-late.csv", HEADER + ROW.replace("e1", "late"))
    drop(settings, f"events-{second}.csv", HEADER + ROW.replace("e1", "e2"))
    drop(settings, f"events-{FIRST}.csv", HEADER + ROW.replace("2.50", "2.60"))
    assert one_night(settings, second) == 0
    made = manifest(settings, "events", second)
    assert made.notes["late_files"] == [f"events-{FIRST}-late.csv"]
    assert made.notes["changed_files"] == [f"events-{FIRST}.csv"]
    assert sorted(r["event_id"] for r in rows(settings, "events", second)) == ["e2", "late"]
    assert one_night(settings, FIRST) == 0  # the remedy: that partition is restated
    assert [(r["event_id"], r["unit_price"]) for r in rows(settings, "events", FIRST)] == [("e1", Decimal("2.6000"))]
    assert manifest(settings, "events", second) == made


def test_countries_of_addresses_by_the_shops_file(
    make_settings: Callable[..., Settings], drop: Callable[..., Path], spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {**DATASETS["orders"]["columns"], "ip_address": "ip"}  # type: ignore[dict-item]
    settings = make_settings(sources={n: files_source(**SOURCES[n]) for n in ("events", "orders")}, screening={"ip_countries": "ranges.csv"},
                             datasets={"events": DATASETS["events"], "orders": {"source": "orders", "columns": columns}})
    drop(settings, f"events-{FIRST}.csv", HEADER + ROW)
    ips = ["198.18.3.4", "2001:db8:7::1", "203.0.113.9", None]
    drop(settings, f"orders-{FIRST}.parquet", parquet(
        order_no=list("abcd"), placed_at=["2026-01-05 10:00"] * 4, total=["1.50"] * 3 + ["much"], fraud=["no"] * 4, ip=pa.array(ips, pa.string())))
    file = settings.file.parent / "ranges.csv"
    for content, said in ((None, f"screening.ip_countries {file}: no such file; put it there, or take the setting out of shop.yaml"),
                          ("a,b,c\n198.18.0.0,198.18.0.9,GB\n198.18.9.0,198.18.0.9,GB\n", f"screening.ip_countries {file}, row 2: 198.18.9.0 to 198.18.0.9 is no range")):
        if content:
            file.write_text(content)
        assert one_night(settings, FIRST) == 2
        assert said in capsys.readouterr().err
    assert Lake(settings.places.lake).dates(contracts.RAW_ORDERS) == []

    def countries() -> list[str | None]:
        return [r["ip_country"] for r in sorted(rows(settings, "orders", FIRST), key=lambda r: r["order_id"])]

    text = "a,b,c\n198.18.0.0,198.18.63.255,GB\n2001:db8::,2001:db8:1fff:ffff:ffff:ffff:ffff:ffff,de\n"
    file.write_text(text)
    assert one_night(settings, FIRST) == 0
    assert countries() == ["GB", "DE", None]
    keyring = Keyring.load(settings)
    assert rows(settings, "orders", FIRST)[0]["ip_address"] == keyring.pseudonym("ip_address", "198.18.3.4")
    for path in settings.places.lake.rglob("*"):
        if path.is_file():
            content_ = path.read_bytes() + (str(pq.ParquetFile(path).read().to_pylist()).encode() if path.suffix == ".parquet" else b"")
            assert not [ip for ip in (b"198.18.", b"2001:db8", b"203.0.113") if ip in content_], path
    before = {e: manifest(settings, e, FIRST) for e in ("events", "orders")}
    file.write_text(text)
    assert one_night(settings, FIRST) == 0
    assert {e: manifest(settings, e, FIRST) for e in before} == before, "the same bytes"
    file.write_text(text.replace("GB", "FR"))
    assert one_night(settings, FIRST) == 0
    assert countries() == ["FR", "DE", None]
    assert manifest(settings, "orders", FIRST).settings != before["orders"].settings
    assert manifest(settings, "events", FIRST) == before["events"], "no rows of theirs depend on it"


@pytest.mark.parametrize(("expression", "days"), [
    ("at", {"2026-01-07": ["i1", "i2"], "2026-01-08": ["i3"]}),  # the shop's clock
    ("CAST(at AS timestamp)", {"2026-01-07": ["i1", "i2", "i3"], "2026-01-08": []}),  # UTC, five hours ahead of New York
    ("CAST(at AS date)", {"2026-01-07": ["i1", "i2"], "2026-01-08": ["i3"]}),
])
def test_a_typed_extract_is_sliced_by_the_day_that_its_clock_means(
    make_settings: Callable[..., Settings], drop: Callable[..., Path], spark: SparkSession, expression: str, days: dict[str, list[str]]
) -> None:
    settings = make_settings(
        time_zone="America/New_York",
        sources={"sales": files_source(pattern="sales.parquet", format="parquet", slice_by=expression, on_missing="empty")},
        datasets={"events": {"source": "sales", "columns": {"event_ts": "at", "event_type": "'view'", "item_id": "item"}}})
    table = pa.table({"at": pa.array([datetime(2026, 1, 7, 12), datetime(2026, 1, 7, 22), datetime(2026, 1, 8, 3)], pa.timestamp("us")),
                      "item": ["i1", "i2", "i3"]})
    pq.write_table(table, drop(settings, "sales.parquet", ""))
    assert one_night(settings, date(2026, 1, 8), "--from-date", "2026-01-07") == 0
    assert {d: sorted(r["item_id"] for r in rows(settings, "events", date.fromisoformat(d))) for d in days} == days


def test_slices_of_an_extract_and_snapshots(
    make_settings: Callable[..., Settings], drop: Callable[..., Path], spark: SparkSession
) -> None:
    """Each row of the extract belongs to one night; rows without a date to the extract's first one."""
    settings = make_settings(
        sources={"sales": files_source(pattern="sales.csv", format="csv", slice_by="ts", on_missing="refuse"),
                 "items": files_source(pattern="items.jsonl", format="jsonl", snapshot="weekly")},
        datasets={"events": {"source": "sales", "where": "kind <> 'test'", "columns": {
                      "event_ts": "ts", "event_type": "kind", "item_id": "item"}},
                  "orders": {"source": "sales", "group_by": ["`order no`"], "columns": {
                      "order_id": "`order no`", "order_ts": "min(ts)", "line_count": "count(*)", "amount": "sum(CAST(price AS DECIMAL(18,4)))"}},
                  "items": {"source": "items", "columns": {"item_id": "sku"}}})
    drop(settings, "sales.csv", "ts,kind,item,price,order no\n"
         "2026-01-07 23:30:00,view,i1,1.00,o1\n"  # Wednesday
         "2026-01-07T23:30:00-01:00,view,i2,2.00,o2\n"  # already Thursday in London
         "2026-01-08 09:00:00,purchase,i1,3.50,o2\n"
         "2026-01-08 09:00:00,test,i9,1.00,o3\n"
         "never,view,i3,,o1\n"
         "too,few\n")
    drop(settings, "items.jsonl", '{"sku": "i1"}\n{"sku": "i2"}\n')
    wednesday, monday = date(2026, 1, 7), date(2026, 1, 12)
    assert one_night(settings, monday, "--from-date", str(wednesday)) == 0
    thursday = wednesday + timedelta(days=1)
    assert manifest(settings, "events", wednesday).quarantined == {"bad_event_ts": 1, "malformed_row": 1}
    assert [r["item_id"] for r in case_sorted(settings, "events", wednesday)] == ["i1"]
    assert [r["item_id"] for r in case_sorted(settings, "events", thursday)] == ["i2", "i1"]
    assert [r["quantity"] for r in case_sorted(settings, "events", thursday)] == [1, 1]  # not mapped: one
    assert manifest(settings, "events", monday).rows_in == 0

    found = {r["order_id"]: r for r in rows(settings, "orders", thursday)}
    assert {k: (r["line_count"], r["amount"], r["source_row"]) for k, r in found.items()} == {
        "o2": (2, Decimal("5.5000"), 1), "o3": (1, Decimal("1.0000"), 3)}
    assert manifest(settings, "orders", wednesday).quarantined == {"malformed_row": 1}
    assert [(r["order_id"], r["line_count"]) for r in rows(settings, "orders", wednesday)] == [("o1", 2)]

    taken = [d for d in (wednesday + timedelta(days=n) for n in range(6)) if manifest(settings, "items", d).rows_out]
    assert taken == [wednesday, monday]  # the first of all, then Monday
    assert manifest(settings, "items", thursday).notes["not_due"] is True

    ids = [r["event_id"] for d in (wednesday, thursday) for r in rows(settings, "events", d)]
    assert len(set(ids)) == 3  # made from file and row
    assert one_night(settings, thursday, "--force", "--datasets", "events") == 0
    assert {r["event_id"] for r in rows(settings, "events", thursday)} <= set(ids)


def case_sorted(settings: Settings, entity: str, day: date) -> list[dict[str, Any]]:
    return sorted(rows(settings, entity, day), key=lambda r: r["source_row"])


def test_dry_runs_and_wrong_datasets(make_settings: Callable[..., Settings], drop: Callable[..., Path]) -> None:
    settings = make_settings()
    drop(settings, f"events-{FIRST}.csv", HEADER + ROW)
    assert one_night(settings, FIRST, "--dry-run") == 0
    assert one_night(settings, FIRST, "--datasets", "items") == 2
    assert Lake(settings.places.lake).dates(contracts.RAW_EVENTS) == []


def test_a_file_that_is_still_being_written_is_a_fault(
    make_settings: Callable[..., Settings], drop: Callable[..., Path], spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightmarket.sources import intake

    settings = make_settings()
    path = drop(settings, f"events-{FIRST}.csv", HEADER + ROW)
    stage = intake.stage

    def and_someone_appends(*args: Any) -> None:
        stage(*args)
        path.write_text(HEADER + ROW + ROW.replace("e1", "e2"))

    monkeypatch.setattr(intake, "stage", and_someone_appends)
    assert one_night(settings, FIRST) == 1
    assert Lake(settings.places.lake).dates(contracts.RAW_EVENTS) == []
    monkeypatch.undo()
    assert one_night(settings, FIRST) == 0
    assert manifest(settings, "events", FIRST).rows_out == 2
