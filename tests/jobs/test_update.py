"""`jobs.update` with the counting stand-in: a version with its parent, drops, three strikes, and fresh answers in any case."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs import rollback, train, update
from nightmarket.contracts import LIVE_EVENTS
from nightmarket.evaluate.protocol import Holdout, Trial
from nightmarket.lake import Lake
from nightmarket.monitor.switches import online_updates_stopped
from nightmarket.online.update import Updates, judges, lesson
from nightmarket.quality.outbox import Outbox
from nightmarket.recommend.histories import LISTS, Histories
from nightmarket.recommend.lookup import Lookup
from nightmarket.registry.client import Registry, Submission, Verification
from nightmarket.shop import Settings
from tests.recommend import synthetic
from tests.registry import nights
from tests.registry.conftest import empty_database, prepared, stand_in, submission  # noqa: F401
from tests.registry.nights import D


class Shop:
    def __init__(self, settings: Settings, registry: Registry):
        self.settings, self.registry = settings, registry
        self.ahead = (0.005, -0.03, 0.04)

    def live(self, n: int, *events: tuple[str, str]) -> None:
        """Purchases of (user, item) on the day of night n, from noon on."""
        noon = datetime.combine(D(n), datetime.min.time(), timezone.utc) + timedelta(hours=12)
        rows = [{"event_id": f"{n}-{i}", "event_ts": noon + timedelta(minutes=i), "event_type": "purchase", "user_id": u, "item_id": item, "quantity": 1,
                 "unit_price": Decimal("2.5"), "currency": "GBP", "event_date": D(n), "is_outlier": False, "filled": [], "delivered_on": D(n),
                 "source_file": "s", "source_row": i, "batch": 0} for i, (u, item) in enumerate(events)]
        with Lake(self.settings.places.lake).writer(LIVE_EVENTS, [D(n)]) as writer:
            writer.stage_arrow(D(n), pa.Table.from_pylist(rows, LIVE_EVENTS.arrow_schema()))
            writer.publish(D(n), inputs=[], settings="s", code="c", notes={"batches": {}})

    def run(self, n: int, *more: str) -> int:
        return update.main(["--shop", str(self.settings.file), "--run-date", str(D(n)), *more])

    def served(self, user: str) -> tuple[str, list[str]]:
        with Lookup(self.settings.places.root / "published") as lookup:
            answer = lookup.recommend(user)
            return lookup.about.model_version, [i.item_id for i in answer.items]

    @property
    def outcomes(self) -> list[tuple[str, str, str | None]]:
        return [(e.outcome, e.parent, e.version) for e in Updates(self.settings.places.root).entries()]


@pytest.fixture
def shop(
    make_settings: Callable[..., Settings], prepared: Callable[[Settings], None], submission: Callable[..., Submission],  # noqa: F811
    stand_in: Any, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> Shop:
    """Champion of night 0 that learnt up to five days before it; learning, judging and the fresh process are the stand-in's."""
    settings = make_settings(time_zone="UTC", model={"minimum_users": 2}, online={"holdout_days": 1})
    prepared(settings)
    registry = Registry(settings)
    nights.publish_inputs(settings, D(0))
    version = registry.register(submission(recipe="r0", run_date=D(0)))
    registry.ledger.promote("recommender", version, None, "ada", "test", {}, D(0))
    made = Shop(settings, registry)
    learnt: list[tuple[datetime, dict[str, list[int]]]] = []

    class Learner(stand_in.Recommender):  # type: ignore[misc, name-defined]
        @property
        def config(self) -> dict[str, Any]:
            return {"cut": (datetime.combine(D(-5), datetime.min.time(), timezone.utc)).isoformat()}

        @classmethod
        def fit(cls, histories: Any, items: Any, cut: datetime, settings: Any, work: Path, time_zone: str = "", warm: Any = None, refresh: bool = True) -> Any:
            assert not refresh, "between nights minutes count"
            learnt.append((cut, {r["user_id"]: r["event_times"] for r in histories.to_pylist()}))
            return cls(warm.bias + 1.0)

    monkeypatch.setattr(stand_in, "Recommender", Learner)
    for name in ("CannotStartWarm", "TooLittle"):
        monkeypatch.setattr(stand_in, name, type(name, (ValueError,), {}), raising=False)
    monkeypatch.setattr(update, "_evaluation", lambda night, challenger, champion, *_: nights.evaluation(0.3, champion.version, made.ahead))

    def verified(self: Registry, number: str, *_: Any) -> Verification:
        self.tag(number, "verification", Verification(True, "the same answers", 1.0).to_tag())
        return Verification(True, "the same answers", 1.0)

    monkeypatch.setattr(Registry, "verify", verified)
    made.learnt = learnt  # type: ignore[attr-defined]
    return made


BOUGHT = (("u1", "d"), ("u1", "d"), ("u3", "c"), ("new", "d"))


def test_an_update_that_does_no_harm_serves_as_a_version_with_its_parent(shop: Shop) -> None:
    shop.live(1, *BOUGHT)
    shop.live(2, *BOUGHT)
    assert shop.run(2) == 0
    assert shop.outcomes == [("accepted", "1", "2")]
    tags = shop.registry.version("2").tags
    assert tags["parent"] == "1" and tags["online"] == "1"
    # nightly retraining finds it compatible, as old as its parent, and no warm start of a night
    assert tags["settings"] == shop.settings.digest(*train.SECTIONS) and (tags["made_anew"], tags["warm_starts"]) == (str(D(0)), "0")
    moves = [m for m in shop.registry.ledger.history("recommender") if m.alias == "champion"]
    assert moves[-1].who == "jobs.update" and moves[-1].evidence["online"]["difference"]["users"] == 200
    # learnt up to now but for the newest day of those who judge, and answers with everything: a newcomer of the stream has a list of their own
    noon = datetime.combine(D(2), datetime.min.time(), timezone.utc) + timedelta(hours=12)
    ((cut, events),) = shop.learnt  # type: ignore[attr-defined]
    assert cut == noon + timedelta(minutes=3, seconds=1)
    newest = {u for u, times in events.items() if max(times, default=0) >= noon.timestamp()}
    # minimum_users is 2: of the three who bought before and then, one is left to learn from
    assert len(newest & {"u1", "u3", "new"}) == 1 and newest < {"u1", "u3", "new"}
    assert shop.served("new") == ("2", ["d", "a", "c", "b"]) and shop.served("u1")[1][0] == "d"
    before = shop.outcomes
    assert shop.run(2) == 0 and len(shop.outcomes) == len(before) + 1  # the parent is another one now
    assert shop.run(2, "--dry-run") == 0


def test_going_back_from_an_update_answers_the_same_moment_with_its_parent(shop: Shop) -> None:
    shop.live(1, *BOUGHT)
    assert shop.run(1) == 0
    assert shop.outcomes == [("accepted", "1", "2")] and shop.served("new")[0] == "2"
    assert rollback.main(["--shop", str(shop.settings.file), "--model", "recommender", "--reason", "complaints"]) == 0
    assert shop.registry.ledger.current("recommender", "champion") == "1"
    assert shop.served("new") == ("1", ["d", "a", "b", "c"]), "of today, what the stream brought included, and compared list by list"
    assert shop.run(1) == 0 and shop.outcomes == [("accepted", "1", "2")], "what was taken out is not made again from the same"


def test_the_same_is_not_tried_twice_and_a_harm_is_dropped_unregistered(shop: Shop) -> None:
    shop.ahead = (-0.05, -0.08, -0.02)
    shop.live(1, *BOUGHT)
    assert shop.run(1) == 0 and shop.run(1) == 0
    assert shop.outcomes == [("dropped", "1", None)]
    assert shop.registry.ledger.current("recommender", "champion") == "1"
    assert shop.served("new")[0] == "1"  # the champion answers with the fresh histories all the same


def test_no_more_than_so_many_a_day(shop: Shop) -> None:
    file = shop.settings.file
    file.write_text(file.read_text().replace("holdout_days: 1", "holdout_days: 1\n  updates_a_day: 1"))
    for n, events, wanted in ((1, BOUGHT, 1), (1, (*BOUGHT, ("u2", "b")), 1), (2, BOUGHT, 2)):
        shop.live(n, *events)
        assert shop.run(n) == 0 and len(shop.outcomes) == wanted
    assert shop.served("u2")[0] == shop.outcomes[-1][2]


def test_three_drops_in_a_row_stop_updates_and_write_to_the_owner(shop: Shop) -> None:
    shop.ahead = (-0.05, -0.08, -0.02)
    for n in (1, 2, 3):
        assert online_updates_stopped(shop.settings) is None
        shop.live(n, *BOUGHT)
        assert shop.run(n) == 0
    assert "3 updates in a row did harm" in str(online_updates_stopped(shop.settings))
    outbox = Outbox(shop.settings.places.outbox)
    assert [str(outbox.message(e.id)["Subject"]) for e in outbox.entries()] == ["[Small shop] Online updates are stopped"]
    shop.ahead = (0.05, 0.02, 0.08)
    shop.live(4, ("u2", "b"), ("u2", "b"), ("u2", "b"))
    assert shop.run(4) == 0
    assert len(shop.outcomes) == 3 and shop.served("u2") == ("1", ["b", "c", "a", "d"])


def test_without_a_champion_it_is_refused(settings: Settings, prepared: Callable[[Settings], None]) -> None:  # noqa: F811
    prepared(settings)
    assert update.main(["--shop", str(settings.file), "--run-date", str(D(1))]) == 3


def test_nothing_new_is_nothing_to_do(shop: Shop) -> None:
    shop.live(1)
    assert shop.run(1) == 0 and json.dumps(shop.outcomes) == "[]"


def test_those_who_judge_are_the_same_ones_and_the_lesson_is_all_but_their_newest_days() -> None:
    table, _ = synthetic.shop(users=200, items=20)
    newest = max(t for times in table["event_times"].to_pylist() for t in times)
    as_of = datetime.fromtimestamp(newest + 1, timezone.utc)
    whole = Trial.of(Histories.from_table(table), Holdout(as_of - timedelta(days=7), as_of))
    asked = judges(whole, 0.2, 5)
    assert len(asked.users) == -(-len(whole.users) // 5) and (np.diff(asked.users) > 0).all()
    assert (asked.truth != whole.truth[np.searchsorted(whole.users, asked.users)]).nnz == 0
    assert len(judges(whole, 0.01, 30).users) == 30 and set(asked.users) < set(judges(whole, 0.5, 5).users)
    names = {str(u) for u in asked.histories.user_ids[asked.users]}
    before, after = ({r["user_id"]: r for r in t.to_pylist()} for t in (table, lesson(table, asked)))
    assert list(after) == sorted(before)
    cut = (as_of - timedelta(days=7)).timestamp()
    for user, row in before.items():
        kept = [n for n, t in enumerate(row["event_times"]) if user not in names or t < cut]
        assert after[user] == {**row, **{c: [row[c][n] for n in kept] for c in LISTS}}


@pytest.mark.soak
@pytest.mark.tensorflow
def test_a_real_model_learns_from_live_events(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    """Towers and judge as they are: a champion that is two weeks behind, a day of live events, one update and its verdict."""
    from nightmarket.contracts import FEATURES, ITEMS, QUALITY
    from nightmarket.recommend.model import Recommender
    from nightmarket.recommend.package import example
    from nightmarket.recommend.package import submission as handed
    from nightmarket.recommend.served import Snapshot, answers
    from tests.jobs import learning

    lenient = {"beat": [], "margin": 1.0, "slice_margin": 1.0, "fairness_ratio": 0.0}
    made = make_settings(time_zone="UTC", model={**learning.MODEL, "minimum_users": 5}, blessing=lenient, online={"holdout_days": 3})
    table, items = synthetic.shop(users=80, items=25)
    learning.put(made, FEATURES, table)
    learning.put(made, ITEMS, items)
    learning.put(made, QUALITY, QUALITY.arrow_schema().empty_table(), notes={"verdict": "passed", "from_date": learning.NIGHT.isoformat()})
    cut = datetime.combine(learning.NIGHT - timedelta(days=14), datetime.min.time(), timezone.utc)
    first = Recommender.fit(table, items, cut, made.shop.model, tmp_path / "fit")
    first.save(tmp_path / "model")
    registry = Registry(made)
    snapshot = Snapshot(table, cut)
    questions = example(table)
    version = registry.register(handed(learning.NIGHT, "first", tmp_path / "model", snapshot, questions, answers(first.standing(snapshot.histories, snapshot.as_of), questions)))
    registry.ledger.promote("recommender", version, None, "ada", "test", {}, learning.NIGHT)
    day = learning.NIGHT + timedelta(days=1)
    noon = datetime.combine(day, datetime.min.time(), timezone.utc) + timedelta(hours=12)
    bought = [(u, items["item_id"][n % 25].as_py()) for n, u in enumerate(table["user_id"].to_pylist()[:40])]
    rows = [{"event_id": f"l{n}", "event_ts": noon + timedelta(minutes=n), "event_type": "purchase", "user_id": u, "item_id": i, "quantity": 1,
             "unit_price": Decimal("2.5"), "currency": "GBP", "event_date": day, "is_outlier": False, "filled": [], "delivered_on": day,
             "source_file": "s", "source_row": n, "batch": 0} for n, (u, i) in enumerate([*bought, ("a newcomer", bought[0][1])])]
    learning.put(made, LIVE_EVENTS, pa.Table.from_pylist(rows, LIVE_EVENTS.arrow_schema()), day, {"batches": {}})
    assert update.main(["--shop", str(made.file), "--run-date", str(day)]) == 0
    (entry,) = Updates(made.places.root).entries()
    assert entry.parent == version and entry.live_events == 41 and entry.difference is not None and 5 <= entry.difference["users"] < 40
    if entry.version is not None:  # it has learnt the stream of today, up to its newest event
        assert registry.version(entry.version).tags["cut"] == (noon + timedelta(minutes=40, seconds=1)).isoformat()
    serving = registry.ledger.current("recommender", "champion")
    assert serving == (entry.version if entry.outcome == "accepted" else version)
    with Lookup(made.places.root / "published") as lookup:
        answer = lookup.recommend("a newcomer")
    assert answer.source == "user" and lookup.about.model_version == serving and lookup.about.run_date == day
