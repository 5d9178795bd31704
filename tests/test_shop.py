"""shop.yaml: every error at once, each with its line and a remedy; secrets from where the file says."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from nightmarket.shop import Shop, ShopError, json_schema, load_shop, parse_shop

GOOD = """\
shop: corner
time_zone: Europe/Paris
currency: EUR
owners:
  default: {name: Ada, mail: [ada@corner.example]}
sources:
  log: {kind: files, path: drop, pattern: "{date}.csv", format: csv}
datasets:
  events:
    source: log
    columns: {event_ts: at, event_type: what, item_id: sku}
storage: {root: var}
"""


def test_a_minimal_shop_is_valid_and_frozen() -> None:
    shop = parse_shop(GOOD)
    assert (shop.shop, shop.model.holdout_days, shop.gate.quarantine_share) == ("corner", 28, 0.10)
    with pytest.raises(Exception, match="frozen"):
        shop.shop = "other"  # type: ignore[misc]


# what is changed in GOOD (old, new) -> line of the complaint, words it must hold
BAD = [
    ("unknown key", ("currency: EUR", "currency: EUR\ncurency: EUR"), 4, "curency", "check its spelling"),
    ("missing key", ("currency: EUR\n", ""), 1, "currency", "add it"),
    ("currency in words", ("currency: EUR", "currency: euro"), 3, "currency", "pattern"),
    ("time zone of nowhere", ("Europe/Paris", "Europe/Atlantis"), 2, "time_zone", "IANA"),
    ("shop name with spaces", ("shop: corner", "shop: Corner Shop"), 1, "shop", "pattern"),
    ("mail without host", ("ada@corner.example", "ada"), 5, "mail", "name@host"),
    ("owner without mail", ("mail: [ada@corner.example]", "mail: []"), 5, "mail", "at least 1"),
    ("no default owner", ("default: {name", "events: {name"), 4, "owners", "add one"),
    ("owner of nothing", ("owners:\n", "owners:\n  evnts: {name: B, mail: [b@c.example]}\n"), 5, "owners.evnts", "use events"),
    ("unknown kind of source", ("kind: files", "kind: ftp"), 7, "ftp", "kinds files, sql"),
    ("source without kind", ("kind: files, ", ""), 7, "sources.log", "add kind"),
    ("unknown format", ("format: csv", "format: xlsx"), 7, "format", "'parquet'"),
    ("two ways to find a night", ('"{date}.csv"', '"{date}.csv", slice_by: at'), 7, "sources.log", "exactly one way"),
    ("no way to find a night", ("{date}.csv", "all.csv"), 7, "sources.log", "exactly one way"),
    ("long delimiter", ("format: csv", 'format: csv, delimiter: "||"'), 7, "delimiter", "at most 1"),
    ("sql without its secret", ("log: {kind: files, path: drop, pattern: \"{date}.csv\", format: csv}",
                                "log: {kind: sql, url: db, table: t, slice_by: at}"), 1, "secrets.db", "env: or file:"),
    ("sql without slice", ("log: {kind: files, path: drop, pattern: \"{date}.csv\", format: csv}",
                           "log: {kind: sql, url: db, table: t}"), 7, "sources.log", "exactly one way"),
    ("mapping of an unknown source", ("source: log", "source: lug"), 10, "datasets.events.source", "there are log"),
    ("unknown dataset", ("  events:\n", "  clicks:\n    source: log\n    columns: {}\n  events:\n"), 9, "datasets.clicks", "use events"),
    ("unknown contract column", ("item_id: sku", "item_id: sku, colour: c"), 11, "columns.colour", "it has event_id"),
    ("required column unmapped", (", item_id: sku", ""), 11, "'item_id' is required", "add it"),
    ("lineage column mapped", ("item_id: sku", "item_id: sku, source_row: n"), 11, "source_row", "no such column"),
    ("no events", ("  events:\n    source: log\n    columns: {event_ts: at, event_type: what, item_id: sku}",
                   "  items:\n    source: log\n    columns: {item_id: sku}"), 8, "'events' is not mapped", "needs at least"),
    ("cron of four fields", ("storage:", "schedule: {ingestion: '0 2 * *'}\nstorage:"), 12, "ingestion", "five fields"),
    ("share above one", ("storage:", "gate: {quarantine_share: 1.5}\nstorage:"), 12, "quarantine_share", "less than or equal to 1"),
    ("negative share", ("storage:", "gate: {reference_share: -0.1}\nstorage:"), 12, "reference_share", "greater than or equal to 0"),
    ("severity in other words", ("storage:", "gate: {severity: {freshness: fatal}}\nstorage:"), 12, "severity", "'critical'"),
    ("null share of nothing", ("storage:", "gate: {null_share: {events.nose: 0.1}}\nstorage:"), 12, "events.nose", "entity.column"),
    ("minimum of nothing", ("storage:", "gate: {minimum_rows: {clicks: 1}}\nstorage:"), 12, "minimum_rows.clicks", "use events"),
    ("volume ratio of one number", ("storage:", "gate: {volume_ratio: [0.5]}\nstorage:"), 12, "volume_ratio", "required"),
    ("words for a number", ("storage:", "model: {epochs: many}\nstorage:"), 12, "epochs", "integer"),
    ("zero epochs", ("storage:", "model: {epochs: 0}\nstorage:"), 12, "epochs", "greater than or equal to 1"),
    ("unknown precision", ("storage:", "model: {precision: float8}\nstorage:"), 12, "precision", "'float32'"),
    ("unknown blessing metric", ("storage:", "blessing: {metric: accuracy}\nstorage:"), 12, "metric", "'ndcg@10'"),
    ("a window that ends before its alert", ("storage:", "model: {holdout_days: 14}\nresponses:\n  - {when: 'quality.live', do: rollback, "
     "after_promotion_nights: 14}\nstorage:"), 14, "quality.live is known 14 nights after a promotion", "after_promotion_nights: 15 or more"),
    ("a winner that nothing serves", ("storage:", "experiments:\n  x: {starts: 2026-03-01, arms: {a: 0.5, b: 0.5}, promote: true}\nstorage:"), 13,
     "no registered version serves b", "name one under serves"),
    ("mail port too large", ("storage:", "mail: {port: 70000}\nstorage:"), 12, "port", "65535"),
    ("mail password undescribed", ("storage:", "mail: {user: a, password: smtp}\nstorage:"), 1, "secrets.smtp", "env: or file:"),
    ("secret from nowhere", ("storage:", "secrets: {k: {create: true}}\nstorage:"), 12, "secrets.k", "environment variable"),
    ("unknown language", ("storage:", "language: fr\nstorage:"), 12, "language", "'zh'"),
    ("a list for a mapping", ("storage: {root: var}", "storage: [var]"), 12, "storage", "dictionary"),
    ("a demo too small", ("storage:", "demo: {events: 10}\nstorage:"), 12, "demo.events", "greater than or equal to 1000"),
    ("a demo day that is no date", ("storage:", "demo: {first_day: yesterday}\nstorage:"), 12, "first_day", "pattern"),
    ("a key twice", ("currency: EUR", "currency: EUR\ncurrency: GBP"), 4, "written twice", "mend"),
    ("broken YAML", ("owners:\n", "owners: [\n"), 6, "not YAML", "mend the syntax"),
    ("a tab for indentation", ("  default:", "\tdefault:"), 5, "not YAML", "mend the syntax"),
]


@pytest.mark.parametrize(("change", "line", "what", "remedy"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_shop_is_refused_with_line_and_remedy(change: tuple[str, str], line: int, what: str, remedy: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(ShopError) as caught:
        parse_shop(GOOD.replace(*change, 1))
    hits = [p for p in caught.value.problems if what in p and remedy in p]
    assert hits, caught.value.problems
    assert any(p.startswith(f"line {line}:") for p in hits), hits


def test_every_error_is_reported_at_once_in_the_order_of_the_file() -> None:
    text = GOOD.replace("Europe/Paris", "Mars").replace("EUR", "euro").replace("format: csv", "format: xls")
    with pytest.raises(ShopError) as caught:
        parse_shop(text, "my.yaml")
    assert [p.split(":")[0] for p in caught.value.problems] == ["line 2", "line 3", "line 7"]
    assert str(caught.value).startswith("my.yaml: 3 problems\n")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(ShopError, match="holds no settings"):
        parse_shop(text)


def test_a_missing_file_names_itself(tmp_path: Path) -> None:
    with pytest.raises(ShopError, match=r"nowhere\.yaml.*(?s:.*)does not exist"):
        load_shop(tmp_path / "nowhere.yaml")


def _shop(tmp_path: Path, extra: str = "") -> Path:
    file = tmp_path / "shop.yaml"
    file.write_text(GOOD + extra)
    return file


def test_paths_are_relative_to_the_file_and_take_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIGHTMARKET_ROOT", raising=False)
    settings = load_shop(_shop(tmp_path))
    assert settings.places.lake == tmp_path / "var" / "lake"
    assert settings.resolve("drop") == tmp_path / "drop"
    assert settings.resolve("${root}/landing") == tmp_path / "var" / "landing"
    assert settings.resolve("${UNSET_FOLDER_OF_TEST:-/data}/x") == Path("/data/x")
    monkeypatch.setenv("UNSET_FOLDER_OF_TEST", "/mine")
    assert settings.resolve("${UNSET_FOLDER_OF_TEST:-/data}/x") == Path("/mine/x")
    monkeypatch.delenv("UNSET_FOLDER_OF_TEST")
    with pytest.raises(ShopError, match="UNSET_FOLDER_OF_TEST: not set"):
        settings.resolve("${UNSET_FOLDER_OF_TEST}/x")


def test_secrets_come_from_environment_first_then_an_owner_only_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIGHTMARKET_ROOT", raising=False)
    monkeypatch.delenv("CORNER_KEY", raising=False)
    settings = load_shop(_shop(tmp_path, "secrets: {k: {env: CORNER_KEY, file: keys/k, create: true}, e: {env: CORNER_OTHER}}\n"))
    made = settings.secret("k")
    file = settings.places.root / "keys" / "k"
    assert len(made) == 64 and stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert settings.secret("k") == made  # made once
    file.chmod(0o644)
    with pytest.raises(ShopError, match="chmod 600") as caught:
        settings.secret("k")
    assert made.decode() not in str(caught.value)
    monkeypatch.setenv("CORNER_KEY", "from-outside")
    assert settings.secret("k") == b"from-outside"
    with pytest.raises(ShopError, match="set the environment variable CORNER_OTHER"):
        settings.secret("e")
    with pytest.raises(ShopError, match=r"secrets\.nothing"):
        settings.secret("nothing")


def test_the_digest_changes_with_the_sections_it_covers_only(tmp_path: Path) -> None:
    one = load_shop(_shop(tmp_path))
    other = load_shop(_shop(tmp_path, "gate: {freshness_hours: 12}\n"))
    assert one.digest("clean") == other.digest("clean")
    assert one.digest("gate") != other.digest("gate")
    assert one.digest() != other.digest()


def test_the_published_schema_knows_every_section() -> None:
    schema = json_schema()
    json.dumps(schema)
    assert set(schema["properties"]) == set(Shop.model_fields)
    assert schema["required"] == ["shop", "time_zone", "currency", "owners", "sources", "datasets", "storage"]


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[1] / "shops").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_shop_is_valid(file: Path) -> None:
    settings = load_shop(file)
    assert settings.shop.shop == file.stem
    assert settings.places.root.is_absolute()
