"""Fixtures that every room's tests share.

`settings`      settings of a small shop in a folder of its own, sources as CSV files (see `make_settings`)
`make_settings` makes such settings: `make_settings(datasets=..., sources=..., clean=..., time_zone=...)`
`shop_in`       the same for fixtures that live longer than a test: `shop_in(folder, datasets=...)`
`drop`          writes a delivered file into a folder of the settings: `drop(settings, "events-2026-01-05.csv", text)`
`bronze_table`  bronze rows by hand as an Arrow table: `bronze_table("events", [{"quantity": -1}, …])`
`spark`         one Spark session for the whole test run (about 8 s to start)
`real_data`     the folder of published data sets; skips, aloud, where it is absent
`online_retail` the whole UCI shop, ingested once for the test run
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pyarrow as pa
import pytest
import yaml

from nightmarket.contracts import raw_of
from nightmarket.shop import PROJECT, Places, Settings, load_shop

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# the same examples on every run, however busy the machine: a failure can be run again
hypothesis.settings.register_profile("nightmarket", deadline=None, derandomize=True)
hypothesis.settings.load_profile("nightmarket")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bytes as a parameter are named by their length: names then read well, and agree between workers."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None

EVENT_COLUMNS = {
    "event_id": "id", "event_ts": "ts", "event_type": "kind", "user_id": "user", "item_id": "item",
    "quantity": "quantity", "unit_price": "price", "currency": "currency", "device_id": "device",
}
EVENT_HEADER = "id,ts,kind,user,item,quantity,price,currency,device"


def _shop(root: Path, **changes: Any) -> dict[str, Any]:
    """shop.yaml of a small shop as a dict: daily CSV files of events under <root>/landing."""
    shop: dict[str, Any] = {
        "shop": "small",
        "title": "Small shop",
        "time_zone": "Europe/London",
        "currency": "GBP",
        "owners": {"default": {"name": "Owner", "mail": ["owner@example.org"]}},
        "sources": {
            "events": {"kind": "files", "path": "${root}/landing", "pattern": "events-{date}*.csv*", "format": "csv"},
        },
        "datasets": {"events": {"source": "events", "columns": dict(EVENT_COLUMNS)}},
        "storage": {"root": str(root)},
        "secrets": {
            "pseudonym_key": {"file": "keys/pseudonym.key", "create": True},
            "encryption_key": {"file": "keys/encryption.key", "create": True},
        },
    }
    return {**shop, **changes}


@pytest.fixture(scope="session", autouse=True)
def _environment() -> Iterator[None]:
    """Variables of the caller that would point jobs elsewhere do not reach the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NIGHTMARKET_ROOT", "NIGHTMARKET_SHOP", "MLFLOW_TRACKING_URI", "SPARK_REMOTE",
                     "NIGHTMARKET_PSEUDONYM_KEY", "NIGHTMARKET_ENCRYPTION_KEY"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def shop_in() -> Callable[..., Settings]:
    """A function that writes `shop.yaml` into a folder, with the given top-level sections replaced, and loads it."""

    def make(folder: Path, **changes: Any) -> Settings:
        (folder / "root" / "landing").mkdir(parents=True)
        file = folder / "shop.yaml"
        file.write_text(yaml.safe_dump(_shop(folder / "root", **changes), sort_keys=False, allow_unicode=True), encoding="utf-8")
        return load_shop(file)

    return make


@pytest.fixture
def make_settings(tmp_path: Path, shop_in: Callable[..., Settings]) -> Callable[..., Settings]:
    """A function that makes settings of a shop in a folder of its own, `<tmp>/shop-<n>`, with sections replaced."""
    made: list[Path] = []

    def make(**changes: Any) -> Settings:
        made.append(tmp_path / f"shop-{len(made)}")
        return shop_in(made[-1], **changes)

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """Settings of the small shop as it is."""
    return make_settings()


@pytest.fixture(scope="session")
def drop() -> Callable[..., Path]:
    """A function that writes one delivered file: `drop(settings, name, content, encoding="utf-8", folder="")`.

    Text is encoded, bytes are written as they are, names that end in .gz are compressed (text only).
    """

    def write(settings: Settings, name: str, content: str | bytes, encoding: str = "utf-8", folder: str = "") -> Path:
        path = settings.places.landing / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            content = content.encode(encoding)
            if name.endswith(".gz"):
                content = gzip.compress(content, mtime=0)
        path.write_bytes(content)
        return path

    return write


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The embedded session that jobs would make, shared by all tests; jobs run in this process get the same one."""
    from nightmarket.spark import session

    folder = tmp_path_factory.mktemp("spark")
    file = folder / "shop.yaml"
    file.write_text(yaml.safe_dump(_shop(folder / "root")), encoding="utf-8")
    made = session(load_shop(file), "tests")
    yield made
    made.stop()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Where the published data sets are: $NIGHTMARKET_REAL_DATA, else ../shared/data beside the checkout."""
    folder = Path(os.environ.get("NIGHTMARKET_REAL_DATA") or PROJECT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no published data sets at {folder}: set NIGHTMARKET_REAL_DATA to run this test")
    return folder


_NIGHT = date(2026, 1, 15)
_NOON = datetime(2026, 1, 15, 12, tzinfo=timezone.utc)
_PLAIN: dict[str, dict[str, Any]] = {
    "events": {"event_ts": _NOON, "event_type": "purchase", "user_id": "u1", "item_id": "A1", "quantity": 1,
               "unit_price": Decimal("2.50"), "currency": "GBP"},
    "items": {"title": "Kettle", "language": "en", "list_price": Decimal("9.99"), "currency": "GBP"},
    "users": {"country": "France"},
    "orders": {"user_id": "u1", "order_ts": _NOON, "amount": Decimal("10"), "currency": "GBP", "line_count": 1},
    "reviews": {"user_id": "u1", "item_id": "A1", "review_ts": _NOON, "rating": 4, "text": "Good"},
}


@pytest.fixture(scope="session")
def bronze_table() -> Callable[[str, Sequence[dict[str, Any]]], pa.Table]:
    """A function that makes bronze rows of the night of 2026-01-15: what a test is about is given, the rest is plain.

    Keys default to k0, k1, … and rows lie in one file in the given order.
    """

    def make(entity: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
        raw = raw_of(entity)
        whole = []
        for n, row in enumerate(rows):
            unknown = set(row) - set(raw.column_names)
            assert not unknown, f"no such columns: {unknown}"
            place = {raw.primary_key[0]: f"k{n}", "delivered_on": _NIGHT, "source_file": "day.csv", "source_row": n}
            whole.append(dict.fromkeys(raw.column_names) | _PLAIN[entity] | place | row)
        return pa.Table.from_pylist(whole, raw.arrow_schema())

    return make


@pytest.fixture(scope="session")
def online_retail(real_data: Path, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """All 374 nights of the UCI shop, 2010-12-01 to 2011-12-09, ingested as one first load."""
    from jobs import ingest

    root = tmp_path_factory.mktemp("online_retail")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTMARKET_REAL_DATA", str(real_data))
        patch.setenv("NIGHTMARKET_ROOT", str(root))
        settings = replace(load_shop(PROJECT / "shops" / "online_retail.yaml"), places=Places(root))
        assert ingest.main(["--shop", str(settings.file), "--from-date", "2010-12-01", "--run-date", "2011-12-09"]) == 0
    return settings
