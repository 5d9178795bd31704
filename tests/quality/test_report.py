"""What the owners are told, in their languages, from hand-made findings."""

from __future__ import annotations

import io
import re
import string
import struct
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from nightmarket.contracts import QUALITY, RECOMMENDATIONS
from nightmarket.lake import Lake
from nightmarket.quality import report, rules
from nightmarket.quality.texts import TEXTS
from nightmarket.shop import Settings
from tests.quality import nights as n

NIGHT = n.MONDAY
PLANTED = "mallory@example.com"


def finding(expectation: str, column: str | None = None, *, dataset: str = "silver.events", severity: str = "critical", success: bool = False,
            **more: Any) -> dict[str, Any]:
    return {**dict.fromkeys(QUALITY.column_names), "dataset": dataset, "expectation": expectation, "column": column, "severity": severity,
            "success": success, "observed": "3 / 300", "expected": "0 … 1,000,000", "unexpected_rows": 3, "checked_rows": 300, **more}


HELD = finding("unique_key", "event_id", success=True)
BROKEN = finding("range", "unit_price", examples='[{"value": "-7.0000", "file": "events-2026-02-02.csv", "row": 3}]')
DRIFT = finding("category_drift", "country", severity="warning", observed="0.4100", expected="≤ 0.25",
                examples='[{"value": "US", "now": 0.5, "before": 0.0}]')


def judged(lake: Lake, verdict: str, rows: list[dict[str, Any]], night: date = NIGHT, first: date | None = None, **more: Any) -> None:
    n.put(lake, QUALITY, night, rows, notes={"verdict": verdict, "from_date": str(first or night)}, **more)


@pytest.fixture
def shop(make_settings: Callable[..., Settings]) -> Settings:
    return n.shop(make_settings, mail={"links": "https://airflow.example.org/"})


@pytest.fixture
def lake(shop: Settings) -> Lake:
    lake = Lake(shop.places.lake)
    n.publish(lake, NIGHT, reasons=["too_old"] * 4 + ["exact_duplicate"] * 9)
    return lake


def test_every_language_says_everything() -> None:
    """The same keys with the same placeholders; every rule has a title, a meaning and a remedy."""
    def placeholders(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    assert set(TEXTS["en"]) == set(TEXTS["zh"])
    for key, text in TEXTS["en"].items():
        assert placeholders(text) == placeholders(TEXTS["zh"][key]), key
        assert TEXTS["zh"][key].strip() and text.strip()
    for rule in rules.SEVERITIES:
        assert {f"rule.{rule}", f"rule.{rule}.means", f"rule.{rule}.do"} <= set(TEXTS["en"])
    for key, text in TEXTS["zh"].items():
        assert re.search(r"[\u4e00-\u9fff]", text), f"{key} is not in Chinese"


def test_a_refused_night(shop: Settings, lake: Lake) -> None:
    judged(lake, "refused", [HELD, BROKEN, DRIFT], run_id="manual__1")
    n.put(lake, RECOMMENDATIONS, NIGHT - timedelta(days=1), [])
    mine, items = report.reports(shop, lake, NIGHT)
    assert mine.subject == "[Kleiner Laden] Night of 2026-02-02: REFUSED, critical failures: 1"
    text = report.plain(mine)
    assert text.startswith("The night of 2026-02-02 was refused.\n")
    assert "The recommendations of 2026-02-01 keep serving." in text
    assert "Your datasets: events. 1 of 3 checks held." in text
    assert '* Values out of bounds (silver.events, column unit_price)' in text
    assert '"-7.0000" events-2026-02-02.csv #3' in text
    assert "Check unit and decimal separator at the source" in text
    assert '"US" 0.0% → 50.0%' in text
    assert "events: delivered 313, clean 300, quarantined 13" in text
    assert "  9 exact duplicate\n" in text and "  4 too old\n" in text
    assert "The run in Airflow: https://airflow.example.org/dags/shop_ingestion/runs/manual__1" in text
    # the other owner is told that the night was refused, and by what
    assert items.subject == "【Kleiner Laden】2026-02-02 夜间数据：被拒绝，1 项严重问题"
    assert "当晚的结论还取决于其他数据集：silver.events: 数值超出范围。" in report.plain(items)


def test_the_same_in_chinese(make_settings: Callable[..., Settings]) -> None:
    shop = n.shop(make_settings, language="zh", title="小店")
    lake = Lake(shop.places.lake)
    n.publish(lake, NIGHT, reasons=["too_old"] * 4)
    judged(lake, "refused", [HELD, BROKEN, DRIFT])
    mine = report.reports(shop, lake, NIGHT)[0]
    text, page = report.plain(mine), report.html(mine, "trend.png")
    assert text.startswith("2026-02-02 的夜间数据被拒绝。\n")
    for words in ("数值超出范围", "类别构成发生偏移", "目前还没有发布过推荐。", "过于陈旧", "300 行中的 3 行"):
        assert words in text and words in page
    assert 'lang="zh-CN"' in page
    letters = re.sub(r"[\u4e00-\u9fff\W\d_]", "", re.sub(r"[\w.:/-]*\.(csv|html)|file:\S+|`[^`]*`|Ada Lovelace|Europe/London", "", text))
    assert not re.search(r"\b(the|night|rows|passed|seen)\b", text), letters


@pytest.mark.parametrize(("verdict", "rows", "first_line"), [
    ("passed", [HELD], "The night of 2026-02-02 passed."),
    ("warned", [HELD, DRIFT], "The night of 2026-02-02 passed with warnings."),
])
def test_passed_and_warned(verdict: str, rows: list[dict[str, Any]], first_line: str, shop: Settings, lake: Lake) -> None:
    judged(lake, verdict, rows)
    mine = report.reports(shop, lake, NIGHT)[0]
    assert report.plain(mine).splitlines()[0] == first_line
    assert ("What failed" in report.plain(mine)) is False
    assert ("Warnings" in report.plain(mine)) is (verdict == "warned")


def test_a_night_that_never_arrived(shop: Settings) -> None:
    mine = report.reports(shop, Lake(shop.places.lake), NIGHT)[0]
    assert mine.subject == "[Kleiner Laden] Night of 2026-02-02: the delivery did not arrive"
    text = report.plain(mine)
    assert "Check that the shop wrote the file or table of 2026-02-02" in text
    assert "No check could be made." in text


def test_a_night_that_stopped_before_the_gate(shop: Settings, lake: Lake) -> None:
    assert report.reports(shop, lake, NIGHT)[0].subject.endswith("stopped before the gate")


def test_a_first_load_says_its_range_and_adds_up(shop: Settings, lake: Lake) -> None:
    n.publish(lake, NIGHT - timedelta(days=1), n.events(NIGHT - timedelta(days=1), 50))
    judged(lake, "passed", [HELD], first=NIGHT - timedelta(days=1))
    text = report.plain(report.reports(shop, lake, NIGHT)[0])
    assert "A first load: all nights from 2026-02-01 to 2026-02-02" in text
    assert "events: delivered 363, clean 350, quarantined 13" in text


def test_personal_values_are_not_repeated_even_if_a_finding_holds_them(shop: Settings, lake: Lake) -> None:
    judged(lake, "refused", [finding("allowed", "device_id", examples=f'[{{"value": "{PLANTED}", "file": "f.csv", "row": 1}}]')])
    mine = report.reports(shop, lake, NIGHT)[0]
    mail = report.mail(mine, b"", "nightmarket@example.org")
    for part in (report.plain(mine), report.html(mine, "x"), str(mail)):
        assert PLANTED not in part
    assert "‹…› f.csv #1" in report.plain(mine)


def test_values_cannot_inject_html(shop: Settings, lake: Lake) -> None:
    judged(lake, "refused", [finding("allowed", "event_type", examples='[{"value": "<script>alert(1)</script>"}]')])
    page = report.html(report.reports(shop, lake, NIGHT)[0], "x")
    assert "<script" not in page and "&lt;script&gt;" in page


def test_the_mail_is_text_or_html_with_its_picture(shop: Settings, lake: Lake) -> None:
    judged(lake, "refused", [HELD, BROKEN])
    mine = report.reports(shop, lake, NIGHT)[0]
    image = report.trend(lake, mine)
    mail = report.mail(mine, image, "nightmarket@example.org")
    assert mail["Content-Language"] == "en"
    assert mail.get_content_type() == "multipart/alternative"
    text, related = mail.iter_parts()
    page, picture = related.iter_parts()
    assert [p.get_content_type() for p in (text, related, page, picture)] == ["text/plain", "multipart/related", "text/html", "image/png"]
    cid = picture["Content-ID"].strip("<>")
    assert f'src="cid:{cid}"' in page.get_content()
    assert picture.get_content() == image
    mail.as_bytes().decode("ascii")
    assert mail["To"] == "ada@example.org" and mail["Auto-Submitted"] == "auto-generated"


def test_the_page_suits_mail_programs(shop: Settings, lake: Lake) -> None:
    """Nothing remote, no script, no style sheet to strip; the picture has words; at most 600 wide."""
    judged(lake, "refused", [HELD, BROKEN])
    page = report.html(report.reports(shop, lake, NIGHT)[0], "trend.png")
    assert not re.search(r"<(script|link|style|iframe|form)\b", page)
    assert re.findall(r'src="([^"]*)"', page) == ["trend.png"]
    assert re.search(r'<img [^>]*alt="Clean and quarantined rows', page)
    assert 'width="600"' in page and len(page) < 100_000  # longer mails are cut by some programs


def test_every_text_and_ground_can_be_read() -> None:
    """Contrast of at least 4.5, by the formula of WCAG 2."""
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    pairs = [*report.COLOURS.values(), ("#4b5563", "#ffffff"), ("#92400e", "#ffffff"), ("#1d4ed8", "#ffffff")]
    pairs += [("#ffffff", colour) for colour, _ in report.COLOURS.values()]
    for text, ground in pairs:
        light, dark = sorted((luminance(text), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_the_picture_shows_thirty_nights_and_is_the_same_each_time(shop: Settings, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    first = NIGHT - timedelta(days=35)
    judged(lake, "refused", [BROKEN], night=NIGHT)
    judged(lake, "passed", [HELD], night=NIGHT - timedelta(days=1), first=first)
    mine = report.reports(shop, lake, NIGHT)[0]
    seen: dict[str, Any] = {}
    draw = report.picture.trend
    monkeypatch.setattr(report.picture, "trend", lambda nights, series, verdicts: seen.update(n=nights, s=series, v=verdicts) or draw(nights, series, verdicts))
    image = report.trend(lake, mine)
    assert (len(seen["n"]), seen["n"][0], seen["n"][-1]) == (30, NIGHT - timedelta(days=29), NIGHT)
    assert seen["s"]["events"][-1] == report.picture.NightRows(NIGHT, 300, 13) and seen["s"]["events"][-2] is None
    assert seen["v"] == {**dict.fromkeys(seen["n"][:-1], "passed"), NIGHT: "refused"}
    assert image == report.trend(lake, mine)
    assert struct.unpack(">II", image[16:24])[0] == 1160
    from matplotlib.image import imread
    shown = (imread(io.BytesIO(image))[..., :3] * 255).round().astype(int).reshape(-1, 3)
    for colour in (report.picture.CLEAN, report.picture.QUARANTINED, *(c for k, (c, _) in report.picture.VERDICT.items() if k != "warned")):
        want = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (shown == want).all(axis=1).any(), colour


def test_one_person_gets_one_report(make_settings: Callable[..., Settings]) -> None:
    owner = {"name": "Zoë Müller", "mail": ["zoe@example.org", "team@example.org"]}
    shop = n.shop(make_settings, owners={"default": owner, "items": owner})
    made = report.reports(shop, Lake(shop.places.lake), NIGHT)
    assert [(r.slug, r.datasets) for r in made] == [("zoe-muller", ("events", "items"))]
    assert made[0].recipients == ("zoe@example.org", "team@example.org")


def test_owners_of_one_name_do_not_overwrite_each_other(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    shop = n.shop(make_settings, owners={"default": {"name": "Kim", "mail": ["a@x"]}, "items": {"name": "Kim", "mail": ["b@x"]}})
    assert [r.slug for r in report.reports(shop, Lake(shop.places.lake), NIGHT)] == ["kim", "kim-2"]
