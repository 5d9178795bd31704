"""The demo shop: any date in any order gives the same bytes, and what it planted is what is in the files.

Files are recounted with DuckDB; expected shares are derived by hand from the model's stated chances.
"""

from __future__ import annotations

import csv
import fnmatch
import gzip
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jobs import deliver as job
from nightmarket.command import UsageError
from nightmarket.shop import DEFAULT_SHOP, FilesSource, load_shop, parse_shop
from nightmarket.sources import demo
from nightmarket.sources.demo import dirt, sessions, tables, words
from nightmarket.sources.demo import world as worlds
from nightmarket.sources.demo.draw import bits, hexed, moments, numbered
from nightmarket.sources.demo.world import World, season
from nightmarket.sources.ip_ranges import Ranges

FIRST = date(2026, 1, 5)
DAYS = 49


def shop_in(root: Path, **changes: Any) -> Any:
    """What `deliver` needs of settings, for a generated shop below `root`."""
    section = {"seed": 7, "first_day": str(FIRST), "days": DAYS, "events": 30_000, "dirt": 0.06, **changes}
    shop = parse_shop(DEFAULT_SHOP.read_text())
    assert shop.demo is not None
    shop = shop.model_copy(update={"demo": shop.demo.model_copy(update=section)})
    return SimpleNamespace(shop=shop, file=Path("shop.yaml"), places=SimpleNamespace(landing=root / "landing"))


def nights(count: int, first: date = FIRST) -> list[date]:
    return [first + timedelta(days=n) for n in range(count)]


def digests(landing: Path) -> dict[str, str]:
    """Of the dated files."""
    return {str(f.relative_to(landing)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(landing.glob("*/*"))}


def forget() -> None:
    """As if the process were fresh."""
    for cached in (sessions._kept, sessions._fraud, sessions._prices, worlds.shelf):
        cached.cache_clear()


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven weeks of a shop of 30,000 events with 6 % dirt; returns the landing folder."""
    settings = shop_in(tmp_path_factory.mktemp("demo"))
    demo.deliver(settings, nights(DAYS))
    return settings.places.landing


@pytest.fixture(scope="module")
def tidy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shop without dirt."""
    settings = shop_in(tmp_path_factory.mktemp("tidy"), dirt=0.0)
    demo.deliver(settings, nights(DAYS))
    return settings.places.landing


@pytest.fixture(scope="module")
def made(delivered: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    yield _opened(delivered)


@pytest.fixture(scope="module")
def clean(tidy: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    yield _opened(tidy)


def _opened(landing: Path) -> duckdb.DuckDBPyConnection:
    """Views events, items, users, orders, reviews (each with `night`, text as delivered) and truth."""
    con = duckdb.connect()
    night = "CAST(regexp_extract(filename, '(\\d{4}-\\d\\d-\\d\\d)', 1) AS DATE) AS night"
    for entity, pattern in (("events", "csv.gz"), ("items", "csv")):
        con.execute(f"CREATE TABLE {entity} AS SELECT *, {night} FROM read_csv('{landing}/{entity}/*.{pattern}', all_varchar=true, "
                    "header=true, delim=',', quote='\"', escape='\"', filename=true)")
    for entity, pattern in (("users", "jsonl.gz"), ("reviews", "jsonl")):
        con.execute(f"CREATE TABLE {entity} AS SELECT *, {night} FROM read_json('{landing}/{entity}/*.{pattern}', "
                    "format='newline_delimited', convert_strings_to_integers=false, filename=true)")
    con.execute(f"CREATE TABLE orders AS SELECT *, {night} FROM read_parquet('{landing}/orders/*.parquet', filename=true)")
    con.execute(f"CREATE TABLE truth AS SELECT *, {night} FROM read_parquet('{landing}/_truth/*.parquet', filename=true)")
    con.execute("SET TimeZone = 'UTC'")
    return con


def one(con: duckdb.DuckDBPyConnection, sql: str) -> Any:
    row = con.execute(sql).fetchone()
    assert row is not None
    return row[0] if len(row) == 1 else row


# --- the same bytes, whenever and in whatever order ----------------------------------------------------------------
SMALL = {"events": 2_000, "days": 21, "dirt": 0.2}


@pytest.fixture(scope="module")
def forward(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    settings = shop_in(tmp_path_factory.mktemp("forward"), **SMALL)
    forget()
    demo.deliver(settings, nights(40))
    return digests(settings.places.landing)


@given(order=st.lists(st.integers(0, 39), min_size=1, max_size=6, unique=True))
@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_date_in_any_order_gives_the_same_bytes(order: list[int], forward: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = shop_in(tmp_path_factory.mktemp("any"), **SMALL)
    forget()
    for day in order:
        demo.deliver(settings, [FIRST + timedelta(days=day)])
    dates = {str(FIRST + timedelta(days=d)) for d in order}
    assert digests(settings.places.landing) == {n: d for n, d in forward.items() if any(x in n for x in dates)}


def test_a_fresh_process_gives_the_same_bytes(forward: dict[str, str], tmp_path: Path) -> None:
    data = DEFAULT_SHOP.read_text().replace("root: ../var/demo", f"root: {tmp_path}/root")
    for key, value in {"events: 60000": "events: 2000", "days: 120": "days: 21", "dirt: 0.02": "dirt: 0.2"}.items():
        assert key in data
        data = data.replace(key, value)
    (tmp_path / "shop.yaml").write_text(data)
    night = FIRST + timedelta(days=33)
    subprocess.run([sys.executable, "-m", "jobs.deliver", "--shop", str(tmp_path / "shop.yaml"), "--run-date", str(night)], check=True,
                   capture_output=True, env={"PYTHONHASHSEED": "123", "PATH": "/usr/bin:/bin", "TZ": "Asia/Tokyo"})
    assert digests(tmp_path / "root" / "landing") == {n: d for n, d in forward.items() if str(night) in n}


def test_another_seed_is_another_shop(forward: dict[str, str], tmp_path: Path) -> None:
    settings = shop_in(tmp_path, **SMALL, seed=8)
    demo.deliver(settings, nights(3))
    other = digests(settings.places.landing)
    assert all(forward[name] != digest for name, digest in other.items())


def test_delivering_again_touches_nothing(tmp_path: Path) -> None:
    settings = shop_in(tmp_path, **SMALL)
    demo.deliver(settings, nights(3))
    landing = settings.places.landing
    before = {f: f.stat().st_mtime_ns for f in landing.rglob("*") if f.is_file()}
    spoiled = landing / "items" / f"{FIRST}.csv"
    spoiled.write_text("sku\n")
    again = demo.deliver(settings, nights(3))
    after = {f: f.stat().st_mtime_ns for f in landing.rglob("*") if f.is_file()}
    assert set(after) == set(before) and {f for f in after if after[f] != before[f]} == {spoiled}
    assert spoiled.read_text().count("\n") == again[0].rows["items"] + 1


def test_a_failure_leaves_no_file_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = shop_in(tmp_path, **SMALL)

    def broken(*_: Any) -> Any:
        raise RuntimeError("disk full")

    monkeypatch.setattr(tables, "users", broken)  # events and orders are written by then
    with pytest.raises(RuntimeError, match="disk full"):
        demo.deliver(settings, nights(1))
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == []


def test_gzip_headers_carry_no_time_and_no_name(delivered: Path) -> None:
    header = (delivered / "events" / f"{FIRST}.csv.gz").read_bytes()[:10]
    assert header[3] == 0 and header[4:8] == b"\0\0\0\0"  # RFC 1952: FLG, MTIME


# --- sizes ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("events", "days", "tolerance"), [(1_000, 14, 0.20), (1_000, 365, 0.20), (20_000, 30, 0.06), (120_000, 60, 0.03)])
def test_volume_is_what_the_settings_ask_for(events: int, days: int, tolerance: float) -> None:
    world = World(3, FIRST, days, events, "Europe/London")
    assert sum(world.target(d) for d in range(days)) == pytest.approx(events)
    honest = sum(len(b.events) for d in range(days) for b in [*sessions.main(world, d), *sessions.special(world, d)])
    assert honest == pytest.approx(events, rel=tolerance)


def test_an_average_visit_brings_the_events_that_sizes_assume() -> None:
    """Looks a visit: E[min(G, 12)] for geometric G with p = 0.32 is (1 - 0.68**12) / 0.32. A look is 1.15 views, and
    0.30 of the looks of the known (nine in ten) are at favourites, carted with 0.45, others with 0.26, strangers' with 0.156;
    0.65 x 0.85 of carts are bought."""
    looks = (1 - 0.68**12) / 0.32
    carts = 0.9 * (0.30 * 0.45 + 0.70 * 0.26) + 0.1 * 0.6 * 0.26
    assert looks * (1.15 + carts * (1 + 0.65 * 0.85)) == pytest.approx(sessions.EVENTS_PER_SESSION, rel=0.01)


def test_delivered_events_are_those_planned_and_the_added_dirt(made: duckdb.DuckDBPyConnection) -> None:
    extra = one(made, "SELECT count(*) FROM truth WHERE kind = 'dirt' AND entity = 'events' AND name IN "
                      "('exact_duplicate', 'stale_duplicate', 'not_a_product')")
    returns = one(made, "SELECT count(*) FROM truth WHERE kind = 'return'")
    rows = one(made, "SELECT count(*) FROM events")
    assert rows - extra - returns == pytest.approx(30_000, rel=0.06)


def test_a_large_day_is_made_in_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sessions, "CHUNK_SESSIONS", 400)
    monkeypatch.setattr(sessions, "KEPT_SESSIONS", 50)
    forget()
    world = World(3, FIRST, 14, 400_000, "Europe/London")
    truth = demo.Truth(tmp_path / "truth.parquet")
    sizes = [rows.num_rows for entity, rows in tables.delivered(world, 5, truth) if entity == "events"]
    truth.close()
    assert len(sizes) > 10 and max(sizes) <= 400 * 12 * 4
    assert sum(sizes) == pytest.approx(world.target(5), rel=0.05)


@pytest.mark.timeout(300)
def test_a_day_of_a_hundred_million_events_fits_into_little_memory(tmp_path: Path) -> None:
    """365 days of 274,000 events, 1.7 million shoppers: one day alone, in a process of its own."""
    code = f"""
import re
from datetime import date
from pathlib import Path
from nightmarket.sources import demo
from nightmarket.sources.demo.world import World
world = World(7, date(2026, 1, 5), 365, 100_000_000, "Europe/London")
made = demo._day(world, 0.02, Path({str(tmp_path)!r}), date(2026, 7, 1))
print(made.rows["events"], int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    rows, peak_mb = (float(x) for x in done.stdout.split())
    world = World(7, FIRST, 365, 100_000_000, "Europe/London")
    assert rows == pytest.approx(world.target((date(2026, 7, 1) - FIRST).days), rel=0.05)
    assert peak_mb < 700
    assert world.users_at(365) > 1_600_000


# --- seasons ----------------------------------------------------------------------------------------------------------
def test_season_by_hand() -> None:
    # Friday, 11 December 2026 is day 345 of the year: cos 0 = 1, Friday 1.10, before Christmas 1.35
    assert season(date(2026, 12, 11)) == pytest.approx(1.10 * 1.20 * 1.35)
    # Saturday, 13 June 2026 is day 164, 181 days before: cos(2 pi 181 / 365.25) = -0.99966, Saturday 1.20
    assert season(date(2026, 6, 13)) == pytest.approx(1.20 * (1 - 0.20 * 0.99966), rel=1e-4)
    assert sum(worlds.WEEKDAYS) / 7 == pytest.approx(1.0)


def test_weekdays_show_in_the_deliveries(clean: duckdb.DuckDBPyConnection) -> None:
    by_day = dict(clean.execute("SELECT isodow(night), count(*) / count(DISTINCT night) FROM events GROUP BY 1").fetchall())
    assert by_day[6] / by_day[2] == pytest.approx(1.20 / 0.90, rel=0.12)
    assert max(by_day, key=by_day.__getitem__) == 6 and min(by_day, key=by_day.__getitem__) in (2, 3, 7)


def test_hours_are_evenings_in_the_shops_zone() -> None:
    """In summer London is an hour ahead of UTC; the busiest hour is eight in the evening there."""
    world = World(3, date(2026, 7, 6), 14, 60_000, "Europe/London")
    start = np.concatenate([b.visits.start for d in range(14) for b in sessions.main(world, d)])
    assert np.bincount(start // 3600 % 24).argmax() == 19


@pytest.mark.parametrize("day", [date(2026, 3, 29), date(2026, 10, 25), date(2028, 2, 29)])
def test_a_days_visits_stay_within_the_day(day: date) -> None:
    """Days of 23 and 25 hours included."""
    world = World(3, FIRST, 60, 60_000, "Europe/London")
    n = world.day(day)
    batches = [*sessions.main(world, n), *sessions.special(world, n), sessions.fraud(world, n)]
    at = np.concatenate([b.events.at for b in batches])
    assert world.midnight(n) <= at.min() and at.max() < world.midnight(n + 1)


# --- visits, carts, purchases, returns -----------------------------------------------------------------------------
def test_funnel(clean: duckdb.DuckDBPyConnection) -> None:
    views, carts, purchases = one(clean, "SELECT count(*) FILTER (action = 'page_view'), count(*) FILTER (action = 'add_to_cart'), "
                                         "count(*) FILTER (action = 'purchase') FROM events WHERE id NOT LIKE '_________f%'")
    looks = views / 1.15
    assert carts / looks == pytest.approx(0.9 * (0.30 * 0.45 + 0.70 * 0.26) + 0.1 * 0.6 * 0.26, rel=0.05)
    assert purchases / carts == pytest.approx(0.65 * 0.85, rel=0.06)


def test_what_is_bought_was_carted_before_in_the_same_visit(clean: duckdb.DuckDBPyConnection) -> None:
    assert one(clean, """SELECT count(*) FROM events p WHERE action = 'purchase' AND NOT EXISTS (
        SELECT 1 FROM events c WHERE c.action = 'add_to_cart' AND c.visit = p.visit AND c.sku = p.sku AND c.qty = p.qty
        AND c.occurred_at < p.occurred_at)""") == 0
    assert one(clean, "SELECT count(*) FROM events WHERE action = 'purchase' AND order_no IS NULL") == 0
    assert one(clean, "SELECT count(*) FROM events WHERE action IN ('page_view', 'add_to_cart') AND order_no IS NOT NULL") == 0


def test_returns_take_back_earlier_purchases(clean: duckdb.DuckDBPyConnection) -> None:
    returns, matched = one(clean, """SELECT count(*), count(*) FILTER (
            p.customer IS NOT DISTINCT FROM r.customer AND p.sku = r.sku AND p.price = r.price AND p.order_no = r.order_no
            AND CAST(r.qty AS INT) < 0 AND -CAST(r.qty AS INT) <= CAST(p.qty AS INT)
            AND r.night - p.night IN (4, 9, 18) AND p.action = 'purchase')
        FROM truth t JOIN events r ON r.id = t.value JOIN events p ON p.id = t.name WHERE t.kind = 'return'""")
    assert returns == matched == one(clean, "SELECT count(*) FROM events WHERE action = 'return'") > 20


def test_orders_add_up_to_their_lines(clean: duckdb.DuckDBPyConnection) -> None:
    """First deliveries only: an order of 'o' is the purchases of its visit, one of 'c' its returns of a night."""
    wrong = one(clean, """
        WITH lines AS (SELECT CASE action WHEN 'return' THEN 'c' ELSE 'o' END || order_no[2:] AS order_no, night, count(*) AS n,
                              sum(CAST(qty AS INT) * CAST(price AS DECIMAL(12, 2))) AS total
                       FROM events WHERE action IN ('purchase', 'return') GROUP BY ALL),
             first AS (SELECT * FROM orders WHERE chargeback IS NULL)
        SELECT count(*) FROM lines l FULL JOIN first o USING (order_no, night)
        WHERE l.total IS DISTINCT FROM o.total OR l.n IS DISTINCT FROM o.line_count""")
    assert wrong == 0
    assert one(clean, "SELECT bool_and(total < 0) FROM orders WHERE order_no LIKE 'c%'")


def test_late_rows_are_delivered_once_on_a_later_night(clean: duckdb.DuckDBPyConnection) -> None:
    late, once = one(clean, """SELECT count(*), count(*) FILTER (e.night - CAST(t.name AS DATE) IN (1, 2, 3)
        AND CAST(CAST(e.occurred_at AS TIMESTAMPTZ) AT TIME ZONE 'Europe/London' AS DATE) = CAST(t.name AS DATE))
        FROM truth t JOIN events e ON e.id = t.value WHERE t.kind = 'late' AND t.entity = 'events'""")
    assert late == once == one(clean, "SELECT count(*) FROM truth WHERE kind = 'late' AND entity = 'events'") > 100
    assert one(clean, "SELECT count(*) - count(DISTINCT id) FROM events") == 0
    assert one(clean, """SELECT count(*) FROM events WHERE id NOT IN (SELECT value FROM truth WHERE kind = 'late')
        AND CAST(CAST(occurred_at AS TIMESTAMPTZ) AT TIME ZONE 'Europe/London' AS DATE) <> night""") == 0


# --- people and products --------------------------------------------------------------------------------------------
def test_newcomers_every_week(clean: duckdb.DuckDBPyConnection) -> None:
    joined = clean.execute(f"""SELECT (night - DATE '{FIRST}') // 7 AS week, count(*) FROM users u WHERE night > DATE '{FIRST}'
        AND NOT EXISTS (SELECT 1 FROM users x WHERE x.customer = u.customer AND x.night < u.night)
        AND CAST(epoch_ms(joined) AS DATE) = night GROUP BY 1 ORDER BY 1""").fetchall()
    assert [w for w, _ in joined] == list(range(DAYS // 7))
    # 30 % of 30,000 / 60 shoppers join over the 49 days: 150, 21.4 a week (the first day's are among the first)
    assert sum(n for _, n in joined) == pytest.approx(150, abs=4)
    active = one(clean, f"""SELECT count(DISTINCT e.customer) FROM events e JOIN users u USING (customer)
        WHERE CAST(epoch_ms(u.joined) AS DATE) > DATE '{FIRST}'""")
    assert active > 75


def test_everybody_seen_is_known(clean: duckdb.DuckDBPyConnection) -> None:
    for entity in ("events", "orders", "reviews"):
        assert one(clean, f"""SELECT count(*) FROM {entity} e WHERE customer IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM users u WHERE u.customer = e.customer AND u.night <= e.night)""") == 0
    for entity in ("events", "reviews"):
        assert one(clean, f"""SELECT count(*) FROM {entity} e WHERE NOT EXISTS (
            SELECT 1 FROM items i WHERE i.sku = e.sku AND i.night <= e.night)""") == 0


def test_new_products_every_seventh_day(clean: duckdb.DuckDBPyConnection) -> None:
    first = clean.execute(f"SELECT night - DATE '{FIRST}', count(*) FROM (SELECT sku, min(night) AS night FROM items GROUP BY 1) "
                          "GROUP BY 1 ORDER BY 1").fetchall()
    assert [d for d, _ in first] == list(range(0, DAYS, 7))
    world = World(7, FIRST, DAYS, 30_000, "Europe/London")
    assert sum(n for _, n in first) == world.items_at(DAYS - 1)
    assert all(n == world.items_at(7) - world.items_at(6) for d, n in first if d)


def test_prices_follow_the_catalogue_and_its_promotions(clean: duckdb.DuckDBPyConnection) -> None:
    """As charged is the newest list price, or 10, 20 or 30 % below it; about one product in twelve is on promotion."""
    ratios = dict(clean.execute("""
        SELECT round(CAST(e.price AS DOUBLE) / CAST(i.rrp AS DOUBLE), 2), count(DISTINCT (e.sku, (e.night - DATE '2026-01-05') // 7))
        FROM (SELECT * FROM events WHERE action = 'page_view' AND id NOT IN (SELECT value FROM truth WHERE kind = 'late')) e
        ASOF JOIN items i ON e.sku = i.sku AND e.night >= i.night GROUP BY 1""").fetchall())
    assert set(ratios) == {1.0, 0.9, 0.8, 0.7}
    # popular products are viewed more and promotions make them popular, so count product-weeks, with room for that
    assert (sum(ratios.values()) - ratios[1.0]) / sum(ratios.values()) == pytest.approx(1 / 12, abs=0.04)


def test_a_long_tail(clean: duckdb.DuckDBPyConnection) -> None:
    counts = np.sort([n for _, n in clean.execute("SELECT sku, count(*) FROM events GROUP BY 1").fetchall()])[::-1]
    head = counts[: len(counts) // 10].sum() / counts.sum()
    assert 0.3 < head < 0.75
    assert len(counts) > 0.9 * one(clean, "SELECT count(DISTINCT sku) FROM items")


def test_shoppers_buy_again(clean: duckdb.DuckDBPyConnection) -> None:
    """Of purchases by known shoppers, a fair share are of something bought on an earlier day; by chance it would be few."""
    again = one(clean, """SELECT avg(CAST(seen AS INT)) FROM (SELECT EXISTS (SELECT 1 FROM events x WHERE x.action = 'purchase'
        AND x.customer = e.customer AND x.sku = e.sku AND x.night < e.night) AS seen
        FROM events e WHERE action = 'purchase' AND customer IS NOT NULL AND id NOT LIKE '_________f%')""")
    assert again > 0.08


def test_tastes_are_followed_and_drift(clean: duckdb.DuckDBPyConnection) -> None:
    """A look is at the favourite department with at least 0.70; visits of fraud rings have no taste."""
    share = one(clean, """SELECT avg(CAST(i.department = t.name AS INT)) FROM events e
        JOIN (SELECT DISTINCT night, name, value FROM truth WHERE kind = 'taste') t ON t.value = e.customer AND t.night = e.night
        JOIN (SELECT DISTINCT sku, department FROM items) i USING (sku)
        WHERE e.action = 'page_view' AND e.id NOT LIKE '_________f%' AND e.id NOT IN (SELECT value FROM truth WHERE kind = 'late')""")
    assert 0.70 < share < 0.80
    world = World(7, FIRST, 120, 60_000, "Europe/London")
    who = np.arange(1000)
    then, coming, _, epoch = world.taste(who, 0)
    for later in (60, 120):
        now, _, _, epoch_now = world.taste(who, later)
        turned = epoch_now > epoch
        assert np.array_equal(now[~turned], then[~turned])
    once = world.taste(who, 60)[3] == epoch + 1
    assert np.array_equal(world.taste(who, 60)[0][once], coming[once])
    assert 0.5 < once.mean() < 0.9  # epochs of 60 to 120 days from a random start: the mean of 60 / length is 0.69


def test_titles_come_in_six_languages(clean: duckdb.DuckDBPyConnection) -> None:
    langs = dict(clean.execute("SELECT lang, count(DISTINCT sku) FROM items GROUP BY 1").fetchall())
    assert set(langs) == {"en", "de", "fr", "es", "zh", "ja"} and langs["en"] / sum(langs.values()) == pytest.approx(0.5, abs=0.1)
    assert one(clean, "SELECT bool_and(regexp_matches(name, '[\\x{4E00}-\\x{9FFF}]')) FROM items WHERE lang = 'zh'")
    for table in (words.NOUNS, words.STYLES, words.COLOURS, words.OPINIONS):
        assert set(table) == set(words.LANGUAGES)
        assert len({len(v) for v in table.values()}) == 1
    assert {len(v) for v in words.NOUNS.values()} == {len(words.DEPARTMENTS)} == {len(words.DEPARTMENT_PRICE)}


# --- labels that come late --------------------------------------------------------------------------------------------
def test_fraud_labels_come_later_as_corrections(clean: duckdb.DuckDBPyConnection) -> None:
    assert one(clean, "SELECT count(*) FROM orders o WHERE chargeback IS NULL AND chargeback_known_at IS NOT NULL") == 0
    labelled, right, same = one(clean, """SELECT count(*), count(*) FILTER (l.night - o.night IN (7, 15, 30)
            AND l.chargeback = (l.order_no IN (SELECT value FROM truth WHERE kind = 'fraud'))
            AND CAST(l.chargeback_known_at AS DATE) = l.night AND l.changed_at > o.changed_at),
            count(*) FILTER (l.total = o.total AND l.customer IS NOT DISTINCT FROM o.customer AND l.placed_at = o.placed_at
                             AND l.card = o.card AND l.ship_to = o.ship_to)
        FROM orders l JOIN orders o ON l.order_no = o.order_no AND o.chargeback IS NULL WHERE l.chargeback IS NOT NULL""")
    assert labelled == right == same == one(clean, "SELECT count(*) FROM orders WHERE chargeback IS NOT NULL")
    fraud = one(clean, "SELECT count(*) FROM truth WHERE kind = 'fraud'")
    told = one(clean, "SELECT count(*) FROM orders WHERE chargeback")
    assert 0 < told < fraud
    assert one(clean, "SELECT count(*) FROM orders WHERE NOT chargeback") > 50


def test_rings_share_devices_and_an_address(tmp_path: Path) -> None:
    settings = shop_in(tmp_path, events=200_000, days=14, dirt=0.0)
    demo.deliver(settings, nights(7))
    con = _opened(settings.places.landing)
    rings = con.execute("""SELECT t.name, count(*), count(DISTINCT device), count(DISTINCT ship_to), count(DISTINCT customer), count(DISTINCT card)
        FROM truth t JOIN orders o ON o.order_no = t.value WHERE t.kind = 'fraud' AND o.chargeback IS NULL GROUP BY 1""").fetchall()
    assert len(rings) >= 2 and sum(n for _, n, *_ in rings) > 10
    assert all(devices <= 2 and addresses == 1 and customers <= 9 and cards <= 5 for _, _, devices, addresses, customers, cards in rings)
    dear = one(con, "SELECT avg(total) FILTER (order_no LIKE '_________f%') / avg(total) FILTER (order_no LIKE '_________m%') FROM orders")
    assert dear > 2


def test_paid_reviews_are_told_twelve_days_later(clean: duckdb.DuckDBPyConnection) -> None:
    paid = one(clean, "SELECT count(*) FROM truth WHERE kind = 'fake'")
    told, right = one(clean, """SELECT count(*), count(*) FILTER (l.night - o.night = 12 AND l.body = o.body
            AND l.fake = (l.review IN (SELECT value FROM truth WHERE kind = 'fake')))
        FROM reviews l JOIN reviews o USING (review) WHERE l.fake IS NOT NULL AND o.fake IS NULL""")
    assert told == right == one(clean, "SELECT count(*) FROM reviews WHERE fake IS NOT NULL") > 0
    assert 0 < one(clean, "SELECT count(*) FROM reviews WHERE fake") < paid
    assert one(clean, "SELECT count(*) FROM reviews WHERE NOT fake") > 0
    assert one(clean, "SELECT min(stars) FROM reviews WHERE review IN (SELECT value FROM truth WHERE kind = 'fake')") == 5
    # honest reviews refer to a purchase of that product by that shopper
    assert one(clean, """SELECT count(*) FROM reviews r WHERE order_no IS NOT NULL AND NOT EXISTS (SELECT 1 FROM events e
        WHERE e.action = 'purchase' AND e.order_no = r.order_no AND e.sku = r.sku AND e.customer = r.customer AND e.night < r.night)""") == 0


# --- dirt -------------------------------------------------------------------------------------------------------------
SIGNS = {
    # kind of dirt: what a recount of the delivered text finds
    ("events", "missing_item"): "sku IS NULL OR trim(sku) = ''",
    ("events", "missing_time"): "occurred_at IS NULL OR occurred_at = ''",
    ("events", "missing_type"): "action IS NULL OR action = ''",
    ("events", "bad_time"): "occurred_at IN ('31/02/2026 25:61', 'yesterday', '0000-00-00', '2026-13-45T99:00:00Z')",
    ("events", "time_uk"): "regexp_full_match(occurred_at, '\\d\\d/\\d\\d/\\d{4} \\d\\d:\\d\\d') AND occurred_at NOT LIKE '%25:61'",
    ("events", "time_epoch_s"): "regexp_full_match(occurred_at, '\\d{10}')",
    ("events", "time_epoch_ms"): "regexp_full_match(occurred_at, '\\d{13}')",
    ("events", "time_offset"): "regexp_full_match(occurred_at, '.*[+-]\\d\\d:\\d\\d')",
    ("events", "price_symbol"): "price LIKE '%£%' OR price LIKE '% GBP'",
    ("events", "price_decimal_comma"): "regexp_full_match(price, '[0-9.]*,\\d\\d')",
    ("events", "bad_price"): "price IN ('n/a', 'free', '12.3.4', '-')",
    ("events", "foreign_currency"): "ccy IN ('EUR', 'USD')",
    ("events", "unknown_currency"): "ccy IN ('XXX', 'DOGE')",
    ("events", "whitespace"): "sku <> trim(sku, ' \t\u00a0') AND trim(sku) <> ''",
    ("events", "control_characters"): "regexp_matches(source, '[\\x07\\x1b\\x{200b}\\x{feff}]')",
    ("events", "country_alias"): "country NOT IN ('GB', 'DE', 'FR', 'ES', 'US', 'CN', 'JP')",
    ("events", "unknown_type"): "action IN ('wishlist', 'share', '42')",
    ("events", "wrong_case"): "action IN ('PAGE_VIEW', 'Add_To_Cart', 'PURCHASE', ' Return ')",
    ("events", "unknown_item"): "sku IN ('SKU-990001', 'SKU-990002', 'SKU-999999')",
    ("events", "unknown_user"): "customer LIKE 'C99%'",
    ("events", "not_a_product"): "sku IN ('POSTAGE', 'GIFT_WRAP', 'DISCOUNT', 'MANUAL', 'BANK_CHARGES')",
    ("events", "negative_quantity"): "action = 'purchase' AND qty LIKE '-%'",
    ("events", "zero_price"): "price IN ('0', '0.00')",
    ("events", "outlier_quantity"): "TRY_CAST(qty AS INT) >= 2000",
    ("events", "bad_quantity"): "qty IN ('two', '1,5,0', 'NaN')",
    ("events", "missing_quantity"): "action = 'purchase' AND (qty IS NULL OR qty = '')",
    ("events", "future_clock"): "TRY_CAST(occurred_at AS TIMESTAMPTZ) > CAST(night AS TIMESTAMPTZ) + INTERVAL 40 HOUR",
    ("events", "too_old"): "TRY_CAST(occurred_at AS TIMESTAMPTZ) < CAST(night AS TIMESTAMPTZ) - INTERVAL 400 DAY",
    ("items", "missing_key"): "sku IS NULL OR sku = ''",
    ("items", "price_symbol"): "rrp LIKE '%£%' OR rrp LIKE '% GBP'",
    ("items", "unknown_currency"): "ccy = 'XXX'",
    ("items", "bad_price"): "rrp = 'on request'",
    ("items", "html_entity"): "maker LIKE '%&nbsp;'",
    ("items", "bad_time"): "listed IN ('99/99/9999 99:99', 'soon')",
    ("items", "missing_title"): "name IS NULL OR name = ''",
    ("users", "missing_key"): "customer IS NULL OR customer = ''",
    ("users", "bad_mail"): "email LIKE '% at %' OR email LIKE '%@@%'",
    ("users", "shouted_mail"): "email = upper(email)",
    ("users", "missing_country"): "country IS NULL OR country = ''",
    ("users", "joined_in_seconds"): "joined < 10000000000",
    ("orders", "missing_key"): "order_no IS NULL OR order_no = ''",
    ("orders", "missing_time"): "placed_at IS NULL",
    ("orders", "missing_amount"): "total IS NULL",
    ("orders", "unknown_currency"): "ccy = 'XXX'",
    ("orders", "whitespace"): "order_no <> trim(order_no)",
    ("orders", "unknown_user"): "customer = 'C99000003'",
    ("orders", "future_clock"): "placed_at > CAST(night AS TIMESTAMPTZ) + INTERVAL 40 HOUR",
    ("orders", "too_old"): "placed_at < CAST(night AS TIMESTAMPTZ) - INTERVAL 400 DAY",
    ("reviews", "missing_key"): "review IS NULL OR review = ''",
    ("reviews", "missing_item"): "sku IS NULL OR sku = ''",
    ("reviews", "stars_out_of_range"): "stars NOT BETWEEN 1 AND 5",
    ("reviews", "personal_in_text"): "body LIKE '%@shopper.example' OR body LIKE '%+44 7700 9%'",
    ("reviews", "unknown_item"): "sku = 'SKU-990003'",
    ("reviews", "missing_text"): "body IS NULL OR body = ''",
}
COPIES = {"events": "id", "items": "sku", "users": "customer", "orders": "order_no", "reviews": "review"}


@pytest.mark.parametrize(("entity", "kind"), SIGNS)
def test_planted_dirt_is_what_is_in_the_files(made: duckdb.DuckDBPyConnection, entity: str, kind: str) -> None:
    """By night. A row that comes twice because it was labelled meanwhile is spoiled, or not, each time anew."""
    planted = dict(made.execute("SELECT night, count(*) FROM truth WHERE kind = 'dirt' AND entity = ? AND name = ? GROUP BY 1", [entity, kind]).fetchall())
    found = dict(made.execute(f"SELECT night, count(*) FROM {entity} WHERE {SIGNS[entity, kind]} GROUP BY 1").fetchall())
    assert found == planted
    assert planted or entity in ("items", "users", "orders", "reviews")


@pytest.mark.parametrize("entity", COPIES)
def test_planted_duplicates_are_what_is_in_the_files(made: duckdb.DuckDBPyConnection, entity: str) -> None:
    columns = demo.FILES[entity][2].names
    exact = one(made, f"SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM {entity} GROUP BY night, {', '.join(columns)})")
    planted = one(made, f"SELECT count(*) FROM truth WHERE kind = 'dirt' AND entity = '{entity}' AND name = 'exact_duplicate'")
    assert exact == planted
    key = COPIES[entity]
    stale = one(made, f"""SELECT count(*) FROM truth t WHERE kind = 'dirt' AND entity = '{entity}' AND name = 'stale_duplicate' AND 2 = (
        SELECT count(DISTINCT changed_at) FROM {entity} e WHERE e.{key} = t.value AND e.night = t.night)""")
    assert stale == one(made, f"SELECT count(*) FROM truth WHERE kind = 'dirt' AND entity = '{entity}' AND name = 'stale_duplicate'")


def test_every_kind_of_event_dirt_is_planted_about_evenly(made: duckdb.DuckDBPyConnection) -> None:
    counts = dict(made.execute("SELECT name, count(*) FROM truth WHERE kind = 'dirt' AND entity = 'events' GROUP BY 1").fetchall())
    assert set(counts) == {k.name for k in dirt.KINDS["events"]}
    rows = one(made, "SELECT count(*) FROM events") - counts["exact_duplicate"] - counts["stale_duplicate"] - counts["not_a_product"]
    assert sum(counts.values()) / rows == pytest.approx(0.06, rel=0.08)
    for entity in ("items", "users", "orders", "reviews"):
        names = {k.name for k in dirt.KINDS[entity]}
        told = {r[0] for r in made.execute("SELECT DISTINCT name FROM truth WHERE kind = 'dirt' AND entity = ?", [entity]).fetchall()}
        assert told <= names and len(told) >= min(5, len(names))


def test_no_dirt_where_none_is_asked_for(clean: duckdb.DuckDBPyConnection) -> None:
    assert one(clean, "SELECT count(*) FROM truth WHERE kind = 'dirt'") == 0
    for (entity, _), sign in SIGNS.items():
        assert one(clean, f"SELECT count(*) FROM {entity} WHERE {sign}") == 0


def test_dirt_changes_rows_and_not_the_shop(made: duckdb.DuckDBPyConnection, delivered: Path, tidy: Path) -> None:
    """Rows that truth does not call dirty are those of the tidy shop."""
    other = _opened(tidy)
    want = set(other.execute("SELECT id, occurred_at, action, customer, sku, qty, price, source FROM events").fetchall())
    have = set(made.execute("SELECT id, occurred_at, action, customer, sku, qty, price, source FROM events WHERE id NOT IN "
                            "(SELECT value FROM truth WHERE kind = 'dirt' AND entity = 'events') AND id NOT LIKE '%x'").fetchall())
    assert have <= want and len(have) > 0.9 * len(want)


def test_mojibake_can_be_mended() -> None:
    for text in ("Gießkanne blau", "théière rouge", "茶壶"):
        broken = dirt._mojibake(text, 0.1)
        assert broken != text and broken.replace("…", "\x85").encode("latin-1").decode() == text
    assert dirt._mojibake("search", 0.9).startswith("search â€“ CafÃ©")


@pytest.mark.parametrize(("text", "comma", "symbol"), [("1234.50", "1.234,50", "£1,234.50"), ("3.95", "3,95", "£3.95")])
def test_prices_as_other_people_write_them(text: str, comma: str, symbol: str) -> None:
    assert dirt._comma(text, 0.5) == comma
    assert dirt._symbol(text, 0.0) == symbol


def test_files_are_whole_csv_and_json(delivered: Path) -> None:
    for file in sorted((delivered / "events").glob("*.gz"))[:10]:
        rows = list(csv.reader(io.StringIO(gzip.decompress(file.read_bytes()).decode(), newline="")))
        assert {len(r) for r in rows} == {len(tables.EVENTS)} and rows[0] == tables.EVENTS.names
        assert "\0" not in "".join(map("".join, rows))
    for file in (delivered / "reviews").glob("*.jsonl"):
        lines = file.read_text().split("\n")
        assert lines.pop() == "" and len(lines) > 0
        assert {tuple(json.loads(line)) for line in lines} == {tuple(tables.REVIEWS.names)}


# --- truth ------------------------------------------------------------------------------------------------------------
def test_all_personal_strings_are_told(made: duckdb.DuckDBPyConnection) -> None:
    for entity, column in (("events", "device"), ("events", "client_ip"), ("orders", "card"), ("orders", "ship_to"), ("users", "device")):
        assert one(made, f"""SELECT count(*) FROM {entity} WHERE {column} NOT IN
            (SELECT value FROM truth WHERE kind = 'personal' AND entity = '{entity}' AND name = '{column}')""") == 0
    for column in ("email", "phone", "name", "address"):
        told = one(made, f"SELECT count(DISTINCT value) FROM truth WHERE kind = 'personal' AND entity = 'users' AND name = '{column}'")
        assert told > 40
    contacts = one(made, "SELECT count(*) FROM truth WHERE kind = 'personal' AND entity = 'reviews'")
    assert contacts == one(made, "SELECT count(*) FROM truth WHERE kind = 'dirt' AND name = 'personal_in_text'") > 0
    assert one(made, """SELECT count(*) FROM truth t WHERE kind = 'personal' AND entity = 'reviews' AND NOT EXISTS
        (SELECT 1 FROM reviews r WHERE r.night = t.night AND contains(r.body, t.value))""") == 0


def test_addresses_are_of_the_countries_that_the_file_tells(clean: duckdb.DuckDBPyConnection, tidy: Path) -> None:
    """Of the honest 3 % are abroad and 1 % of no country, by address; of a ring's one of two addresses."""
    shop = load_shop(DEFAULT_SHOP)
    assert shop.resolve(str(shop.shop.screening.ip_countries)) == shop.places.landing / demo.COUNTRIES
    ranges = Ranges.read(tidy / demo.COUNTRIES, demo.COUNTRIES, codes=True)
    assert set(ranges.country) == set(words.COUNTRIES)
    orders = clean.execute("""SELECT client_ip, ship_country, order_no IN (SELECT value FROM truth WHERE kind = 'fraud') AS bad
                              FROM orders WHERE order_no LIKE 'o%' GROUP BY ALL""").fetchall()
    honest, ring = ([(ranges.country_of(ip), ship) for ip, ship, bad in orders if bad is which] for which in (False, True))
    abroad, none = (np.mean([told is not None and told != ship for told, ship in honest]), np.mean([told is None for told, _ in honest]))
    assert len(honest) > 500 and abroad == pytest.approx(0.03, abs=0.02) and none == pytest.approx(0.01, abs=0.01)
    assert [told == ship for told, ship in sorted(ring)].count(False) == 1 and len(ring) == 2, "the one ring of a small shop, by address"


def test_the_shop_does_not_map_the_truth() -> None:
    settings = load_shop(DEFAULT_SHOP)
    truth = settings.places.landing / "_truth"
    mapped = {m.source for m in settings.shop.datasets.values()}
    assert mapped == set(settings.shop.sources)
    for name in mapped:
        source = settings.shop.sources[name]
        assert isinstance(source, FilesSource)
        folder = settings.resolve(source.path)
        assert folder != truth and folder not in truth.parents
        assert any(fnmatch.fnmatch(pattern, f"{folder.name}/{source.pattern}") for pattern, _, _ in demo.FILES.values())


def test_shop_file_knows_the_generators_words() -> None:
    shop = load_shop(DEFAULT_SHOP).shop
    aliases = {alias: code for code, names in zip(words.COUNTRIES, words.COUNTRY_ALIASES, strict=True) for alias in names}
    assert aliases.items() <= dict(shop.clean.country_aliases).items()
    assert dict(shop.clean.exchange_rates) == {"EUR": 0.85, "USD": 0.80}
    row = {"id": "e1", "sku": "SKU-000001", "qty": "1", "price": "1.00"}
    night = dirt.Night(World(1, FIRST, 14, 1000, "Europe/London").zone_info, None)  # type: ignore[arg-type]
    lines = {dirt._line(dict(row), u, night)["sku"] for u in np.linspace(0, 0.999, 50)}  # type: ignore[index]
    assert lines == set(shop.clean.not_products)
    assert set(shop.datasets) == set(demo.FILES)


# --- strings and draws -----------------------------------------------------------------------------------------------
def test_strings_from_numbers() -> None:
    assert numbered("C", np.array([0, 7, 12_345_678]), 8).to_pylist() == ["C00000000", "C00000007", "C12345678"]
    assert numbered("x", np.array([], dtype=np.int64), 3).to_pylist() == []
    with pytest.raises(ValueError, match="do not fit"):
        numbered("C", np.array([1000]), 3)
    assert hexed("dv-", np.array([255, 2**64 - 1], dtype=np.uint64)).to_pylist() == ["dv-00000000000000ff", "dv-ffffffffffffffff"]
    # 2026-01-05 00:00 UTC is 1767571200; 951782399 is the last second of 28 February 2000
    assert moments(np.array([1_767_571_200 + 36_753, 951_782_399, 0])).to_pylist() == [
        "2026-01-05T10:12:33Z", "2000-02-28T23:59:59Z", "1970-01-01T00:00:00Z"]


def test_draws_depend_on_every_key_and_on_their_order() -> None:
    keys = np.arange(1000)
    assert len(set(bits(1, "a", keys).tolist())) == 1000
    assert not np.array_equal(bits(1, "a", keys), bits(2, "a", keys)) and not np.array_equal(bits(1, "a", keys), bits(1, "b", keys))
    assert bits(1, "a", 3, 4) != bits(1, "a", 4, 3)
    assert bits(1, "a", np.array([5]))[0] == bits(1, "a", 5)
    ones = np.unpackbits(bits(1, "a", np.arange(20_000)).view(np.uint8)).mean()
    assert ones == pytest.approx(0.5, abs=0.002)


# --- the job ---------------------------------------------------------------------------------------------------------
def test_a_date_before_the_first_day_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"2026-01-04 is before the demo shop's first day, 2026-01-05"):
        demo.deliver(shop_in(tmp_path), [date(2026, 1, 6), date(2026, 1, 4)])
    assert not (tmp_path / "landing").exists()


def test_dates_after_the_calendar_go_on(tmp_path: Path) -> None:
    settings = shop_in(tmp_path, **SMALL)
    (made,) = demo.deliver(settings, [FIRST + timedelta(days=900)])
    world = World(7, FIRST, 21, 2_000, "Europe/London")
    assert made.rows["events"] == pytest.approx(world.target(900), rel=0.5)
    assert world.users_at(900) > world.users_at(20) and world.items_at(900) > world.items_at(20)


def test_the_job(make_settings: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    section = {"seed": 7, "first_day": str(FIRST), "days": 21, "events": 2_000, "dirt": 0.2}
    settings = make_settings(demo=section)
    argv = ["--shop", str(settings.file), "--run-date", "2026-01-06"]
    assert job.main([*argv, "--dry-run"]) == 0
    assert [f for f in settings.places.landing.rglob("*") if f.is_file()] == []
    assert job.main([*argv, "--from-date", "2026-01-05"]) == 0
    assert sorted(f.name for f in (settings.places.landing / "events").iterdir()) == ["2026-01-05.csv.gz", "2026-01-06.csv.gz"]
    assert job.main([*argv, "--from-date", "2026-01-04"]) == 2
    assert "first day, 2026-01-05" in capsys.readouterr().err


def test_the_job_leaves_other_shops_alone(make_settings: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    settings = make_settings()
    assert job.main(["--shop", str(settings.file), "--run-date", "2026-01-06"]) == 0
    assert "come from outside" in capsys.readouterr().err
    assert [f for f in settings.places.landing.rglob("*") if f.is_file()] == []
    with pytest.raises(UsageError, match="come from outside"):
        demo.deliver(settings, [FIRST])
