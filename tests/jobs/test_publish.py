"""`jobs.publish` and `jobs.lookup`: everyone gets an answer, the serving file is replaced whole or not at all."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs import ledger as ledger_job
from jobs import lookup, publish
from nightmarket.contracts import ITEMS, RECOMMENDATIONS
from nightmarket.lake import Lake
from nightmarket.recommend.lookup import About, Lookup, PublicationError, serve, serving
from nightmarket.recommend.publish import IncompleteAnswer, publication
from nightmarket.registry.client import Registry, Submission
from nightmarket.shop import Lists, Settings
from tests.registry import nights
from tests.registry.conftest import AS_OF, empty_database, prepared, stand_in, submission  # noqa: F401
from tests.registry.nights import D


class Shop:
    """A shop with a champion of night 0."""

    def __init__(self, settings: Settings, submission: Callable[..., Submission]):  # noqa: F811
        self.settings, self._submission = settings, submission
        self.registry = Registry(settings)
        self.lake = Lake(settings.places.lake)
        self.published = settings.places.root / "published"

    def promote(self, n: int, bias: float = 0.0) -> str:
        version = self.registry.register(self._submission(recipe=f"r{n}", bias=bias, run_date=D(n)))
        self.registry.ledger.promote("recommender", version, self.registry.ledger.current("recommender", "champion"), "ada", "test", {}, D(n))
        return version

    def publish(self, n: int, *more: str) -> int:
        return publish.main(["--shop", str(self.settings.file), "--run-date", str(D(n)), *more])

    def lists(self, n: int) -> dict[tuple[str, str], list[str]]:
        made: dict[tuple[str, str], list[str]] = {}
        for r in self.lake.at(RECOMMENDATIONS, D(n)).arrow().sort_by("rank").to_pylist():
            made.setdefault((r["audience"], r["audience_id"]), []).append(r["item_id"])
        return made

    def look(self, capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
        capsys.readouterr()
        assert lookup.main(["--shop", str(self.settings.file), *argv]) == 0
        return json.loads(capsys.readouterr().out)


@pytest.fixture
def shop(settings: Settings, prepared: Callable[[Settings], None], submission: Callable[..., Submission]) -> Shop:  # noqa: F811
    prepared(settings)
    made = Shop(settings, submission)
    nights.publish_inputs(settings, D(0))
    made.promote(0)
    return made


def test_everyone_gets_a_list(shop: Shop) -> None:
    nights.publish_inputs(shop.settings, D(0), users=[*nights.USERS, ("u5", "FR", []), ("u6", "XX", []), ("u7", None, [])])
    assert shop.publish(0) == 0
    # the stand-in leaves out nobody, so shoppers without events get the popular: a 5, b 3, c 2, d 1
    assert shop.lists(0) == {
        ("user", "u1"): ["a", "b", "c", "d"], ("user", "u2"): ["c", "a", "b", "d"], ("user", "u3"): ["b", "d", "a", "c"],
        ("user", "u4"): ["a", "b", "c", "d"], ("user", "u5"): ["a", "b", "c", "d"], ("user", "u6"): ["a", "b", "c", "d"],
        ("user", "u7"): ["a", "b", "c", "d"], ("country", "DE"): ["a", "c", "b", "d"], ("country", "FR"): ["b", "d", "a", "c"],
        ("country", "XX"): ["a", "b", "c", "d"], ("everyone", "*"): ["a", "b", "c", "d"],
    }
    notes = shop.lake.at(RECOMMENDATIONS, D(0)).manifest.notes
    assert {k: notes[k] for k in ("users", "users_by_fallback", "countries", "items", "model_version", "trained_on")} == {
        "users": 7, "users_by_fallback": 0, "countries": 3, "items": 4, "model_version": "1", "trained_on": str(D(0))}


def test_the_lookup_says_for_whom_by_whom_and_when(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.publish(0)
    known = shop.look(capsys, "--user", "u2", "--k", "2")
    assert (known["source"], known["run_date"], known["model_version"]) == ("user", str(D(0)), "1")
    assert known["items"] == [{"item_id": "c", "score": 202.0, "reason": "popular"}, {"item_id": "a", "score": 105.0, "reason": "popular"}]
    assert [i["item_id"] for i in shop.look(capsys, "--country", "FR", "--k", "1")["items"]] == ["b"]
    stranger = shop.look(capsys, "--user", "nobody", "--country", "FR")
    assert (stranger["source"], [i["item_id"] for i in stranger["items"]]) == ("country", ["b", "d", "a", "c"])
    assert shop.look(capsys, "--user", "nobody", "--country", "XX")["source"] == "everyone"
    assert shop.look(capsys)["source"] == "everyone"


def test_a_champion_that_this_code_cannot_load_leaves_yesterdays_lists(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.publish(0)
    nights.publish_inputs(shop.settings, D(1))
    version = shop.registry.register(shop._submission(recipe="r1", fault="earlier", run_date=D(1)))
    shop.registry.ledger.promote("recommender", version, "1", "ada", "test", {}, D(1))
    assert shop.publish(1) == 3
    said = capsys.readouterr().err
    assert "recommender version 2 cannot be loaded (it is of format 1" in said and "jobs.rollback" in said and "Traceback" not in said
    assert shop.lake.manifest(RECOMMENDATIONS, D(1)) is None
    assert shop.look(capsys, "--user", "u2", "--k", "1")["run_date"] == str(D(0))


@pytest.mark.parametrize("argv", [["--k", "0"], ["--k", "many"], ["--nobody"]])
def test_lookup_usage(argv: list[str]) -> None:
    assert lookup.main(argv) == 2


def test_nothing_published_yet_is_a_fault(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert lookup.main(["--shop", str(settings.file)]) == 1
    assert "nothing was published yet; run `python -m jobs.publish" in capsys.readouterr().err


def test_again_changes_nothing(shop: Shop, stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    shop.publish(0)
    before = shop.lake.at(RECOMMENDATIONS, D(0)).manifest, (shop.published / "recommendations.sqlite").resolve()
    monkeypatch.setattr(stand_in.Recommender, "recommend", lambda *_, **__: pytest.fail("asked again"))
    assert shop.publish(0) == 0
    assert (shop.lake.at(RECOMMENDATIONS, D(0)).manifest, (shop.published / "recommendations.sqlite").resolve()) == before


def test_another_champion_publishes_the_night_again(shop: Shop) -> None:
    shop.publish(0)
    shop.promote(0, bias=7.0)
    assert shop.publish(0) == 0
    now = serving(shop.published)
    assert now is not None and now.model_version == "2"
    assert set(shop.lake.at(RECOMMENDATIONS, D(0)).arrow()["model_version"].to_pylist()) == {"2"}


def test_a_refused_night_leaves_yesterdays(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.publish(0)
    nights.publish_inputs(shop.settings, D(1), "refused")
    assert shop.publish(1) == 3
    assert shop.lake.manifest(RECOMMENDATIONS, D(1)) is None
    assert shop.look(capsys, "--user", "u1")["run_date"] == str(D(0))


def test_without_a_champion_nothing_is_published(settings: Settings, prepared: Callable[[Settings], None],  # noqa: F811
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    prepared(settings)
    nights.publish_inputs(settings, D(0))
    assert publish.main(["--shop", str(settings.file), "--run-date", str(D(0))]) == 3
    assert "no champion may answer the night" in capsys.readouterr().err


def test_a_failure_while_answering_leaves_yesterdays(shop: Shop, stand_in: Any, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    shop.publish(0)
    nights.publish_inputs(shop.settings, D(1))
    monkeypatch.setattr(stand_in.Recommender, "recommend", _broken)
    assert shop.publish(1) == 1
    assert shop.look(capsys, "--user", "u1")["run_date"] == str(D(0))


def test_a_backfill_is_published_but_does_not_serve(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    nights.publish_inputs(shop.settings, D(2))
    shop.promote(2, bias=1.0)
    assert shop.publish(2) == 0
    assert shop.publish(0) == 0
    assert set(shop.lake.at(RECOMMENDATIONS, D(0)).arrow()["model_version"].to_pylist()) == {"1"}, "the champion of that night"
    assert shop.look(capsys)["run_date"] == str(D(2))
    assert shop.publish(0, "--force") == 0
    assert shop.look(capsys)["run_date"] == str(D(0))


def test_a_model_of_the_future_does_not_answer_the_past(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    nights.publish_inputs(shop.settings, D(-1))
    assert shop.publish(-1) == 3
    assert "none was promoted on data up to it" in capsys.readouterr().err


def test_killed_between_partition_and_pointer_is_healed(shop: Shop, monkeypatch: pytest.MonkeyPatch,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    shop.publish(0)
    nights.publish_inputs(shop.settings, D(1))
    with monkeypatch.context() as patch:
        patch.setattr("nightmarket.recommend.lookup._point", _killed)
        assert shop.publish(1) == 130
    assert shop.lake.manifest(RECOMMENDATIONS, D(1)) is not None
    assert shop.look(capsys)["run_date"] == str(D(0))
    assert shop.publish(1) == 0
    assert shop.look(capsys)["run_date"] == str(D(1))
    assert not list(shop.published.glob(".*")), "no debris"


def test_the_one_before_is_kept_and_older_ones_go(shop: Shop) -> None:
    for n in range(4):
        nights.publish_inputs(shop.settings, D(n))
        assert shop.publish(n) == 0
    kept = sorted(p.name[:26] for p in shop.published.glob("recommendations-*.sqlite"))
    assert kept == [f"recommendations-{D(2)}", f"recommendations-{D(3)}"]
    assert (shop.published / "previous.sqlite").resolve().name.startswith(f"recommendations-{D(2)}")


def test_a_reader_that_opened_the_old_file_reads_on(shop: Shop) -> None:
    shop.publish(0)
    with Lookup(shop.published) as reader:
        for n in (1, 2, 3):
            nights.publish_inputs(shop.settings, D(n))
            shop.publish(n)
        assert reader.recommend("u1", k=1).items[0].item_id == "a"
        assert reader.about.run_date == D(0)


def test_a_broken_file_names_itself(shop: Shop) -> None:
    shop.publish(0)
    (shop.published / "recommendations.sqlite").resolve().write_bytes(b"rubbish" * 1000)
    with pytest.raises(PublicationError, match=r"recommendations\.sqlite cannot be read"):
        Lookup(shop.published)


def test_the_serving_file_cannot_be_written_through_a_lookup(shop: Shop) -> None:
    shop.publish(0)
    with Lookup(shop.published) as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._db.execute("DELETE FROM lists")


class _Answers:
    """A recommender that answers what it is told to."""

    def __init__(self, *rows: tuple[str, str, int, str, float]):
        self.rows = rows

    def recommend(self, *_: Any, **__: Any) -> pa.Table:
        names = ("audience", "audience_id", "rank", "item_id", "score")
        schema = RECOMMENDATIONS.arrow_schema()
        fields = pa.schema([schema.field(n) for n in (*names, "reason")])
        return pa.Table.from_pylist([{**dict(zip(names, r, strict=True)), "reason": "r"} for r in self.rows], fields)


EVERYONE = ("everyone", "*", 1, "a", 1.0)


def _publication(*rows: tuple[str, str, int, str, float]) -> Any:
    table = nights.rows(D(0), [("u1", "DE", ["a"]), ("u2", "DE", []), ("u3", None, [])])
    return publication(_Answers(*rows), table, ITEMS.arrow_schema().empty_table(), AS_OF, 2, "m", "1", Lists())


def test_shoppers_left_out_get_their_countrys_list_else_everyones() -> None:
    made = _publication(EVERYONE, ("country", "DE", 1, "b", 0.5), ("user", "u1", 1, "c", 9.0))
    got = {(r["audience"], r["audience_id"]): (r["item_id"], r["score"], r["model_version"]) for r in made.rows.to_pylist()}
    assert got == {("everyone", "*"): ("a", 1.0, "1"), ("country", "DE"): ("b", 0.5, "1"), ("user", "u1"): ("c", 9.0, "1"),
                   ("user", "u2"): ("b", 0.5, "1"), ("user", "u3"): ("a", 1.0, "1")}
    assert made.notes() == {"users": 3, "users_by_fallback": 2, "countries": 1, "items": 3}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("user", "u1", 1, "c", 9.0)], "no list for everyone"),
        ([EVERYONE, ("user", "u1", 2, "c", 9.0)], r"\['user', 'u1'\]: rank 2 where 1 belongs"),
        ([EVERYONE, ("user", "u1", 1, "c", 9.0), ("user", "u1", 1, "d", 9.0)], "rank 1 where 2 belongs"),
        ([("everyone", "*", 1, "a", float("nan"))], r"the score at rank 1 is not a number"),
    ],
)
def test_a_nonsense_answer_is_not_published(rows: list[Any], message: str) -> None:
    with pytest.raises(IncompleteAnswer, match=message):
        _publication(*rows)


def test_a_lookup_takes_milliseconds_at_most(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """20,000 shoppers x 20 items. The bound is loose: a busy machine must not fail it."""
    users, k = 20_000, 20
    ids = np.repeat([f"u{n:06d}" for n in range(users)], k).tolist()
    table = pa.table({
        "audience": ["user"] * (users * k) + ["everyone"], "audience_id": [*ids, "*"], "rank": [*(list(range(1, k + 1)) * users), 1],
        "item_id": [*(f"item-{n % 997}" for n in range(users * k)), "a"], "score": [*np.linspace(1, 0, users * k).tolist(), 1.0],
        "reason": ["you bought it on 3 of 5 visits"] * (users * k + 1),
    })
    serve(tmp_path, table, About(D(0), "m", "1", "1-abc"))
    asked = [f"u{n:06d}" for n in np.random.default_rng(3).integers(0, users, 2_000)]
    with Lookup(tmp_path) as reader:
        taken = []
        for user in asked:
            started = time.perf_counter()
            assert len(reader.recommend(user).items) == 10
            taken.append((time.perf_counter() - started) * 1000)
    p50, p99 = np.percentile(taken, [50, 99])
    record_property("lookup_ms_p50", round(float(p50), 4))
    record_property("lookup_ms_p99", round(float(p99), 4))
    print(f"lookup of {users} shoppers: p50 {p50:.3f} ms, p99 {p99:.3f} ms")
    assert p50 < 10


def test_the_ledger_is_shown(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert ledger_job.main(["--shop", str(shop.settings.file)]) == 0
    said = capsys.readouterr().out
    assert "recommender@champion   1" in said and "ada: test" in said and "3 rows, unbroken" in said
    assert ledger_job.main(["--shop", str(shop.settings.file), "--json"]) == 0
    assert [r["alias"] for r in json.loads(capsys.readouterr().out)] == ["challenger", "champion", "challenger"]
    assert ledger_job.main(["--shop", str(shop.settings.file), "--head", "f" * 64]) == 1
    assert "is gone" in capsys.readouterr().err


def _broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("out of memory")


def _killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt
