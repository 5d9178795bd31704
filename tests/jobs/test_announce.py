"""`jobs.announce` and letters: what the owner is told, once, in their language, with what moved since the publication before."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import date
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs import announce
from nightmarket.contracts import EVALUATION, ITEMS, RECOMMENDATIONS
from nightmarket.lake import Lake
from nightmarket.quality import letter
from nightmarket.quality.outbox import Outbox
from nightmarket.registry.candidate import folder_of
from nightmarket.shop import Settings

FIRST, SECOND = date(2026, 3, 1), date(2026, 3, 2)
PNG = b"\x89PNG\r\n\x1a\n picture"


def publish(settings: Settings, night: date, lists: dict[tuple[str, str], Sequence[str]], version: str = "3", fallback: int = 0) -> None:
    rows = [
        {"audience": audience, "audience_id": key, "rank": n, "item_id": item, "score": 1.0 / n, "reason": "popular",
         "model_name": "recommender", "model_version": version}
        for (audience, key), items in lists.items() for n, item in enumerate(items, 1)
    ]
    users = sum(a == "user" for a, _ in lists)
    with Lake(settings.places.lake).writer(RECOMMENDATIONS, [night]) as writer:
        writer.stage_arrow(night, pa.Table.from_pylist(rows, RECOMMENDATIONS.arrow_schema()))
        writer.publish(night, inputs=[], settings="s", code="c", notes={
            "users": users, "users_by_fallback": fallback, "countries": sum(a == "country" for a, _ in lists),
            "items": len({r["item_id"] for r in rows}), "model_version": version, "trained_on": str(FIRST)})


def judge(settings: Settings, night: date, outcome: str, challenger: str) -> None:
    """gold.evaluation, its picture and the decision, as evaluate and bless leave them."""
    rows = [
        {"model": model, "slice": s, "metric": metric, "value": value, "low": value - 0.01, "high": value + 0.01, "users": 50}
        for model, value in (("popularity", 0.1), ("challenger", 0.3)) for metric in ("ndcg@10", "recall@20", "hit_rate@10", "mrr")
        for s in ("all", "country=DE")
    ]
    with Lake(settings.places.lake).writer(EVALUATION, [night]) as writer:
        writer.stage_arrow(night, pa.Table.from_pylist(rows, EVALUATION.arrow_schema()))
        writer.publish(night, inputs=[], settings="s", code="c")
    plots = folder_of(settings, night) / "evaluation" / "plots"
    plots.mkdir(parents=True)
    (plots / "models.png").write_bytes(PNG)
    folder = settings.places.reports / "models" / night.isoformat() / "recommender"
    folder.mkdir(parents=True)
    (folder / "decision.json").write_text(json.dumps({"decision": {"outcome": outcome, "challenger": challenger, "why": "as tested"}}))
    (folder / "decision.md").write_text("# why")


def waiting(settings: Settings) -> list[EmailMessage]:
    outbox = Outbox(settings.places.outbox)
    return [outbox.message(e.id) for e in outbox.entries()]


def run(settings: Settings, night: date, *more: str) -> int:
    return announce.main(["--shop", str(settings.file), "--run-date", str(night), *more])


@pytest.fixture
def shop(settings: Settings) -> Settings:
    items = [{"item_id": i, "title": t, "delivered_on": FIRST, "source_file": "i.csv", "source_row": n}
             for n, (i, t) in enumerate({"a": "Blue jug", "b": "Tee <XL> & more", "c": None}.items())]
    from nightmarket.contracts import QUALITY

    lake = Lake(settings.places.lake)
    for night in (FIRST, SECOND):
        with lake.writer(QUALITY, [night]) as writer:
            writer.publish(night, inputs=[], settings="s", code="c", notes={"verdict": "passed", "from_date": str(night)})
    with lake.writer(ITEMS, [FIRST]) as writer:
        writer.stage_arrow(FIRST, pa.Table.from_pylist(items, ITEMS.arrow_schema()))
        writer.publish(FIRST, inputs=[], settings="s", code="c")
    return settings


def test_the_first_night_says_who_serves_and_how_good_it_is(shop: Settings) -> None:
    publish(shop, FIRST, {("user", "u1"): "ab", ("country", "DE"): "ba", ("everyone", "*"): "bac"}, fallback=1)
    judge(shop, FIRST, "promoted", "3")
    assert run(shop, FIRST) == 0
    (mail,) = waiting(shop)
    assert mail["Subject"] == "[Small shop] Recommendations of 2026-03-01: version 3 promoted"
    assert mail["To"] == "owner@example.org"
    text = mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert "1 shoppers, 1 countries and everyone else have a list; 3 different items are shown." in text
    assert "The model trained tonight: as tested." in text
    lines = text.splitlines()
    table = [" ".join(line.split()) for line in lines if "[0." in line]
    assert table == ["tonight's model 0.300 [0.290, 0.310] 0.300 [0.290, 0.310] 0.300 [0.290, 0.310]",
                     "popularity 0.100 [0.090, 0.110] 0.100 [0.090, 0.110] 0.100 [0.090, 0.110]"]
    assert [line for line in lines if line[:2] in ("1.", "2.", "3.")] == ["1. Tee <XL> & more", "2. Blue jug", "3. c"]
    page = mail.get_body(("html",))
    assert page is not None and "1. Tee &lt;XL&gt; &amp; more" in page.get_content()
    picture = next(part for part in mail.walk() if part.get_content_type() == "image/png")
    assert picture.get_content() == PNG and f"cid:{picture['Content-ID'][1:-1]}" in page.get_content()


def test_the_next_night_says_what_moved(shop: Settings) -> None:
    publish(shop, FIRST, {("user", "u1"): "ab", ("user", "u2"): "ab", ("user", "gone"): "ab", ("everyone", "*"): "ab"}, version="3")
    publish(shop, SECOND, {("user", "u1"): "ba", ("user", "u2"): "ac", ("user", "fresh"): "ab", ("everyone", "*"): "bc"}, version="3")
    judge(shop, SECOND, "kept", "4")
    assert run(shop, SECOND) == 0
    (mail,) = waiting(shop)
    assert mail["Subject"] == "[Small shop] Recommendations of 2026-03-02: version 3 serves"
    lines = mail.get_body(("plain",)).get_content().splitlines()  # type: ignore[union-attr]
    # of u1 and u2 only u2 sees another item: an order is no change of the set
    assert "Of 2 shoppers who had a list then, 50% now see at least one other item among their first ten." in lines
    assert [" ".join(line.split()) for line in lines if line[:2] in ("1.", "2.")] == ["1. Tee <XL> & more 2", "2. c new"]
    assert "▲" in mail.get_body(("html",)).get_content()  # type: ignore[union-attr]


def test_the_files_stand_beside_the_decision_and_the_mail_is_queued_once(shop: Settings) -> None:
    publish(shop, FIRST, {("everyone", "*"): "a"})
    judge(shop, FIRST, "promoted", "3")
    assert run(shop, FIRST) == run(shop, FIRST) == 0
    assert len(waiting(shop)) == 1
    folder = shop.places.reports / "models" / str(FIRST) / "recommender"
    assert (folder / "recommendations-0.png").read_bytes() == PNG
    page = (folder / "recommendations.html").read_text()
    assert 'src="recommendations-0.png"' in page and (folder / "decision.md").as_uri() in page
    assert run(shop, FIRST, "--force") == 0 and len(waiting(shop)) == 2
    assert not list(folder.glob(".*"))


def test_in_chinese_and_without_an_evaluation(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(owners={"default": {"name": "小李", "mail": ["li@example.org"], "language": "zh"}})
    publish(settings, FIRST, {("everyone", "*"): "a"})
    assert run(settings, FIRST) == 0
    (mail,) = waiting(settings)
    assert mail["Subject"] == "[Small shop] 2026-03-01 的推荐:版本 3 提供服务" and mail["Content-Language"] == "zh-CN"
    assert "0 位顾客、0 个国家" in mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]


def test_a_dry_run_writes_nothing_and_a_night_without_a_publication_is_a_fault(shop: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shop, FIRST) == 1
    assert "gold.recommendations" in capsys.readouterr().err
    publish(shop, FIRST, {("everyone", "*"): "a"})
    assert run(shop, FIRST, "--dry-run") == 0
    assert waiting(shop) == [] and not (shop.places.reports / "models").exists()


def _letter(**changes: Any) -> letter.Letter:
    made: dict[str, Any] = {
        "slug": "try", "shop": "Shop", "night": FIRST, "language": "en", "recipients": ("a@example.org", "b@example.org"), "tone": "good",
        "subject": "Sübject", "headline": "Head", "lead": ("Lead.",), "links": (("Here", "file:///x"),), "footer": "Foot",
    }
    return letter.Letter(**{**made, **changes})


def test_two_pictures_go_by_their_own_ids(tmp_path: Path) -> None:
    shown = tuple(letter.Section(f"S{n}", picture=letter.Picture(PNG + bytes([n]), f"alt {n}")) for n in range(2))
    mail = message_from_bytes(bytes(letter.mail(_letter(sections=shown), "from@example.org")), policy=policy.default)
    page = mail.get_body(("html",)).get_content()  # type: ignore[union-attr]
    pictures = {p["Content-ID"][1:-1]: p.get_content() for p in mail.walk() if p.get_content_type() == "image/png"}
    assert sorted(v[-1] for v in pictures.values()) == [0, 1]
    assert all(f'src="cid:{cid}"' in page for cid in pictures)
    assert mail["Subject"] == "Sübject" and mail["To"] == "a@example.org, b@example.org"
    assert "[alt 0]" in mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]


def test_where_files_lie_is_no_news_but_a_picture_is() -> None:
    with_picture = _letter(sections=(letter.Section("S", picture=letter.Picture(PNG, "alt")),))
    assert _letter().digest() == _letter(links=()).digest() != with_picture.digest()


def test_a_table_as_text_is_aligned() -> None:
    table = letter.Table(("name", "n"), (("a", "1,000"), ("longer", "2")))
    text = letter.plain(_letter(sections=(letter.Section("S", ("Words.",), table),)))
    assert text == ("Head\nLead.\n\n== S ==\n\nWords.\n\nname        n\na       1,000\nlonger      2\n\n"
                    "Here: file:///x\n\n--\nFoot\n")
