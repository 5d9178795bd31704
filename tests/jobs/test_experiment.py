"""`jobs.experiment`: the log taken in to the last line, verdicts as state, page and mail, arms served, the winner promoted through the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from jobs import experiment, lookup
from nightmarket.command import Refused
from nightmarket.contracts import EXPERIMENTS, EXPOSURES, FEATURES, QUALITY, SHOWN
from nightmarket.lake import Lake
from nightmarket.online.experiments import State, definition, split
from nightmarket.online.promotion import outcome, promote, promote_once, promoted
from nightmarket.online.serving import ExposureLog, read_running
from nightmarket.quality.outbox import Outbox
from nightmarket.recommend.lookup import Lookup
from nightmarket.registry.client import Registry, Submission
from nightmarket.registry.ledger import Ledger
from nightmarket.shop import Experiment, Settings
from tests.online.shoppers import START, Crowd, second, table
from tests.registry import nights as learnt
from tests.registry.conftest import empty_database, prepared, stand_in, submission  # noqa: F401

RULES: dict[str, Any] = {
    "starts": START, "arms": {"control": 0.5, "new": 0.5}, "horizon_days": 1, "effect": 0.2, "minimum_days": 2,
    "guardrails": {"purchase": 0.3}, "canary": [0.5, 1.0],
}
NAME = "warmer"


class Night:
    """A shop with one experiment, whose crowd is exposed as the state of the night before says."""

    def __init__(self, settings: Settings, buys: dict[str, float], a_night: int = 600):
        self.settings, self.lake = settings, Lake(settings.places.lake)
        self.rules = settings.shop.experiments[NAME]
        self.crowd = Crowd(split("small", NAME, self.rules), 6, a_night, buys)
        self.log = ExposureLog(settings.places.root / "exposures", "test")
        self.taken = [self.rules.canary[0]]

    def day(self, n: int) -> date:
        return START + timedelta(days=n)

    def happen(self, n: int) -> None:
        """Publishes the night's features and verdict, and writes the log of the day."""
        exposed, rows = self.crowd.exposures(self.taken)
        end = second(self.day(n + 1))
        known = {u: [e for e in events if e[1] < end] for u, events in rows.items()}
        for dataset, made, notes in ((FEATURES, table({u: e for u, e in known.items() if e}), {}),
                                     (QUALITY, None, {"verdict": "passed", "from_date": str(self.day(n))})):
            with self.lake.writer(dataset, [self.day(n)]) as writer:
                if made is not None:
                    writer.stage_arrow(self.day(n), made)
                writer.publish(self.day(n), inputs=[], settings="s", code="c", notes=notes)
        arms = list(self.rules.arms)
        for unit, arm, at in zip(exposed.unit, exposed.arm, exposed.at, strict=True):
            if second(self.day(n)) <= at < end:
                self.log.append(self.day(n), NAME, unit, arms[arm], datetime.fromtimestamp(at, timezone.utc))

    def run(self, n: int, *more: str) -> int:
        return experiment.main(["--shop", str(self.settings.file), "--run-date", str(self.day(n)), *more])

    def pass_(self, n: int) -> State:
        self.happen(n)
        assert self.run(n) == 0
        state = self.state(n)
        self.taken.append(state.enrolment(self.rules))
        return state

    def state(self, n: int) -> State:
        made = self.lake.manifest(EXPERIMENTS, self.day(n))
        assert made is not None
        return State.from_json(made.notes["states"][0])

    @property
    def mails(self) -> list[str]:
        outbox = Outbox(self.settings.places.outbox)
        return [str(outbox.message(e.id)["Subject"]) for e in outbox.entries()]


@pytest.fixture
def make(make_settings: Callable[..., Settings]) -> Callable[..., Night]:
    def made(buys: dict[str, float], a_night: int = 600, **changes: Any) -> Night:
        return Night(make_settings(time_zone="UTC", experiments={NAME: RULES | changes}), buys, a_night)

    return made


def test_from_the_canary_to_the_verdict(make: Callable[..., Night]) -> None:
    shop = make({"control": 0.3, "new": 0.6})
    states = [shop.pass_(n) for n in range(5)]
    assert states[0].status == "running" and states[-1].status == "won" and states[-1].arm == "new"
    assert [s.step for s in states] == sorted(s.step for s in states) and states[-1].step == 1
    running = read_running(shop.settings.places.root / "published")
    assert [(r.split.name, r.enrolment, r.counts) for r in running] == [(NAME, 1.0, False)]
    # a mail at the start, at each step and at the end; a page every night
    assert [m.split(": ", 1)[1] for m in shop.mails] == sorted({
        0: "running, 50% of its traffic take part", 1: "running, 100% of its traffic take part", 2: "new won"}.values(),
        key=["running, 50% of its traffic take part", "running, 100% of its traffic take part", "new won"].index)
    pages = [shop.settings.places.reports / "experiments" / str(shop.day(n)) / f"experiment-{NAME}.txt" for n in range(5)]
    assert all(p.is_file() for p in pages)
    text = pages[-1].read_text()
    assert "new: purchase (guardrail, a loss of 30% is excluded)" in " ".join(text.split())
    rows = shop.lake.at(EXPERIMENTS, shop.day(4)).arrow().to_pylist()
    assert {(r["metric"], r["role"], r["status"]) for r in rows} == {("purchase", "metric", "won"), ("purchase", "guardrail", "won")}


def test_a_harm_ends_it_and_the_lookup_goes_back(make: Callable[..., Night]) -> None:
    shop = make({"control": 0.5, "new": 0.1})
    states = [shop.pass_(n) for n in range(3)]
    assert states[-1].status == "harmed" and states[-1].step == 0
    (running,) = read_running(shop.settings.places.root / "published")
    assert running.enrolment == 0.0
    assert shop.mails[-1] == "[Small shop] Experiment warmer: stopped, new does harm"


def test_every_line_of_the_log_is_accounted_for(make: Callable[..., Night]) -> None:
    shop = make({"control": 0.3, "new": 0.3}, a_night=50)
    shop.happen(0)
    day, cut = shop.day(0), shop.crowd.split
    unit = next(u for u in (f"v{n}" for n in range(99)) if cut.arm(u) == "new")
    noon = datetime(2026, 3, 2, 13, tzinfo=timezone.utc)
    lines = [
        "no json", json.dumps({"experiment": NAME, "unit": unit, "arm": "new"}),
        json.dumps({"unit": "v7", "at": noon.isoformat()}), json.dumps({"unit": "v7", "at": noon.isoformat(), "items": ["a"], "propensity": 0}),
        json.dumps({"unit": "v7", "at": noon.isoformat(), "items": ["a", 7]}),
        json.dumps({"unit": "v7", "at": noon.isoformat(), "items": ["b", "a"], "propensity": 0.5}),
        json.dumps({"unit": "v7", "at": (noon - timedelta(hours=2)).isoformat(), "items": ["a", "b"]}),
        json.dumps({"experiment": NAME, "unit": unit, "arm": "new", "at": "2026-03-02T13:00:00"}),
        json.dumps({"experiment": "another", "unit": unit, "arm": "new", "at": noon.isoformat()}),
        json.dumps({"experiment": NAME, "unit": unit, "arm": "control", "at": noon.isoformat()}),
        json.dumps({"experiment": NAME, "unit": unit, "arm": "new", "at": "2026-03-09T00:00:00Z"}),
        json.dumps({"experiment": NAME, "unit": unit, "arm": "new", "at": noon.isoformat()}),
        json.dumps({"experiment": NAME, "unit": unit, "arm": "new", "at": (noon - timedelta(hours=1)).isoformat()}),
    ]
    (shop.settings.places.root / "exposures" / f"{day}.shop.jsonl").write_text("\n".join(lines) + "\n")
    assert shop.run(0) == 0
    made = shop.lake.at(EXPOSURES, day)
    rows = {r["unit_id"]: r for r in made.arrow().to_pylist()}
    assert (rows[unit]["shows"], rows[unit]["exposed_at"]) == (2, noon - timedelta(hours=1))
    assert made.manifest.quarantined == {"from_the_future": 1, "unknown_experiment": 1, "unreadable": 6, "wrong_arm": 1}
    assert made.manifest.notes["lines"] == int(made.manifest.sums["shows"]) + 9 + 2 and made.manifest.notes["plain"] == 2
    first = {r["unit_id"]: (r["items"], r["propensity"]) for r in shop.lake.at(SHOWN, day).arrow().to_pylist()}
    assert first == {"v7": (["a", "b"], None)}, "the first list of the day"
    assert all(str(r["record"]).startswith("e1:") for r in made.quarantine().to_pylist())
    before = made.manifest
    assert shop.run(0) == 0 and shop.lake.at(EXPOSURES, day).manifest == before


def test_a_night_run_again_says_the_same_and_mails_nothing_new(make: Callable[..., Night]) -> None:
    shop = make({"control": 0.3, "new": 0.3}, a_night=100)
    shop.pass_(0)
    mails, state = shop.mails, shop.state(0)
    assert shop.run(0) == 0 and (shop.mails, shop.state(0)) == (mails, state)


def test_changed_lines_and_refused_nights_are_refused(make: Callable[..., Night], capsys: pytest.CaptureFixture[str]) -> None:
    shop = make({"control": 0.3, "new": 0.3}, a_night=100)
    shop.pass_(0)
    shop.happen(1)
    file = shop.settings.file
    file.write_text(file.read_text().replace("effect: 0.2", "effect: 0.1"))
    assert shop.run(1) == 3
    assert "experiments.warmer was changed while it ran" in capsys.readouterr().err
    assert shop.state(1) == shop.state(0), "the newest judgement that there is"
    with shop.lake.writer(QUALITY, [shop.day(1)]) as writer:
        writer.publish(shop.day(1), inputs=[], settings="s", code="c", notes={"verdict": "refused", "from_date": str(shop.day(1))})
    assert shop.run(1) == 3


def test_one_that_was_changed_leaves_the_others_judged(make_settings: Callable[..., Settings]) -> None:
    """Of two that run, the lines of one are changed: the other's harm is seen, and who was in the first stays in it until they are mended."""
    other = RULES | {"layer": "elsewhere"}
    shop = Night(make_settings(time_zone="UTC", experiments={NAME: RULES, "second": other}), {"control": 0.5, "new": 0.1})
    shop.pass_(0)
    file = shop.settings.file
    before = file.read_text()
    told = yaml.safe_load(before)
    told["experiments"]["second"]["effect"] = 0.1
    file.write_text(yaml.safe_dump(told, sort_keys=False))
    shop.taken.append(shop.rules.canary[0])
    for n in (1, 2):
        shop.happen(n)
        assert shop.run(n) == 3
    made = shop.lake.manifest(EXPERIMENTS, shop.day(2))
    assert made is not None
    states = {s.name: s for s in map(State.from_json, made.notes["states"])}
    assert (states[NAME].status, states[NAME].night) == ("harmed", shop.day(2))
    assert (states["second"].status, states["second"].night) == ("running", shop.day(0))
    running = {r.split.name: r.enrolment for r in read_running(shop.settings.places.root / "published")}
    assert running == {NAME: 0.0, "second": RULES["canary"][0]}
    file.write_text(before)
    shop.taken.append(0.0)
    shop.happen(3)
    assert shop.run(3) == 0 and {s["night"] for s in shop.lake.manifest(EXPERIMENTS, shop.day(3)).notes["states"]} == {str(shop.day(3))}  # type: ignore[union-attr]


def test_no_experiments_nothing_to_do(settings: Settings) -> None:
    assert experiment.main(["--shop", str(settings.file), "--run-date", "2026-03-02"]) == 0
    assert Lake(settings.places.lake).dates(EXPERIMENTS) == []


def test_a_treatment_is_served_by_its_model_and_its_exposure_logged(
    make_settings: Callable[..., Settings], prepared: Callable[[Settings], None], submission: Callable[..., Submission],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    rules = {"starts": learnt.D(1), "arms": {"control": 0.5, "new": 0.5}, "serves": {"new": "2"}}
    settings = make_settings(time_zone="UTC", experiments={NAME: rules})
    prepared(settings)
    registry = Registry(settings)
    learnt.publish_inputs(settings, learnt.D(0))
    for n, bias in ((0, 0.0), (1, 7.0)):
        version = registry.register(submission(recipe=f"r{n}", bias=bias, run_date=learnt.D(n)))
        if n == 0:
            registry.ledger.promote("recommender", version, None, "ada", "test", {}, learnt.D(0))
    from jobs import publish

    argv = ["--shop", str(settings.file), "--run-date", str(learnt.D(0))]
    assert publish.main(argv) == 0 and experiment.main(argv) == 0
    published = settings.places.root / "published"
    with Lookup(published) as control, Lookup(published / "arms" / NAME / "new") as treatment:
        assert (control.about.model_version, treatment.about.model_version) == ("1", "2")
    cut = split("small", NAME, settings.shop.experiments[NAME])
    seen = set()
    for user in ("u1", "u2", "u3", "u4"):
        capsys.readouterr()
        assert lookup.main(["--shop", str(settings.file), "--user", user, "--expose"]) == 0
        said = json.loads(capsys.readouterr().out)
        arm = cut.arm(user)
        assert said["arms"] == {NAME: arm} and said["model_version"] == ("2" if arm == "new" else "1")
        seen.add(arm)
    assert seen == {"control", "new"}
    lines = [json.loads(line) for f in sorted((settings.places.root / "exposures").iterdir()) for line in f.read_text().splitlines()]
    with Lookup(published) as control, Lookup(published / "arms" / NAME / "new") as treatment:
        for x in lines:  # a bias alone moves no list: whichever arm a shopper is in, the list is the same, and certain
            answer = (treatment if x["arm"] == "new" else control).recommend(x["unit"])
            assert (x["items"], x["propensity"]) == ([i.item_id for i in answer.items], 1.0)
    assert [(x["experiment"], x["unit"], x["arm"]) for x in lines] == [(NAME, u, cut.arm(u)) for u in ("u1", "u2", "u3", "u4")]
    assert lookup.main(["--shop", str(settings.file), "--user", "u1"]) == 0 and lookup.main(["--shop", str(settings.file), "--country", "FR", "--expose"]) == 0
    assert sum(len(f.read_text().splitlines()) for f in (settings.places.root / "exposures").iterdir()) == 4


WON = State("warmer", START, "d", "won", "as tested", 1, START, "new")
SERVED = Experiment.model_validate({"starts": START, "arms": {"control": 0.5, "new": 0.5}, "serves": {"new": "2"}})


def decided(tmp_path: Path, failed: tuple[str, ...]) -> Ledger:
    """A ledger in which version 1 serves and the gate kept version 2 back for what `failed` names."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.promote("recommender", "1", None, "jobs.bless", "first", {}, START)
    checks = [{"name": n, "passed": n not in failed} for n in ("data_gate", "verified", "slices", "not_worse", "newer")]
    ledger.move("recommender", "challenger", None, None, "jobs.bless", "kept",
                {"decision": {"outcome": "kept", "challenger": "2", "champion": "1", "why": "", "checks": checks}}, START, "keep")
    return ledger


def test_a_winner_is_promoted_by_the_ledger_with_its_evidence(tmp_path: Path) -> None:
    ledger = decided(tmp_path, ("not_worse", "newer"))
    moves = promote(ledger, "recommender", WON, SERVED, "Ada", "two good weeks")
    assert ledger.current("recommender", "champion") == "2" and ledger.current("recommender", "previous") == "1"
    assert moves[-1].who == "Ada" and moves[-1].why == "two good weeks (won experiment warmer: as tested)"
    assert moves[-1].evidence["experiment"]["arm"] == "new" and moves[-1].run_date == str(START)
    assert promote(ledger, "recommender", WON, SERVED, "Ada") == []


@pytest.mark.parametrize(("failed", "state", "served", "said"), [
    (("slices",), WON, SERVED, "the model gate holds against it: slices"),
    ((), replace(WON, status="running"), SERVED, "has not been won"),
    ((), WON, SERVED.model_copy(update={"serves": {}}), "served by the shop's own code"),
    ((), WON, SERVED.model_copy(update={"serves": {"new": "9"}}), "never decided about recommender version 9"),
])
def test_no_promotion_past_the_gate(tmp_path: Path, failed: tuple[str, ...], state: State, served: Experiment, said: str) -> None:
    ledger = decided(tmp_path, failed)
    with pytest.raises(Refused, match=said):
        promote(ledger, "recommender", state, served, "Ada")
    assert ledger.current("recommender", "champion") == "1"


@pytest.mark.parametrize("failed", [("not_worse",), ("slices",)])
def test_by_itself_a_winner_is_promoted_once_or_refused_once(tmp_path: Path, failed: tuple[str, ...]) -> None:
    ledger = decided(tmp_path, failed)
    came = promote_once(ledger, "recommender", WON, SERVED, "jobs.experiment")
    assert came is not None and promoted(came) is (failed == ("not_worse",)) and ledger.current("recommender", "champion") == ("2" if promoted(came) else "1")
    ledger.promote("recommender", "3", ledger.current("recommender", "champion"), "jobs.bless", "the next night", {}, START)
    head = ledger.head()
    for night in range(3):
        assert promote_once(ledger, "recommender", replace(WON, night=START + timedelta(days=night)), SERVED, "jobs.experiment") is None
    assert ledger.head() == head and ledger.current("recommender", "champion") == "3"
    # what the gate says of a version is as it was
    assert ledger.decision("recommender", "2").evidence["decision"]["outcome"] == "kept"  # type: ignore[union-attr]
    assert outcome(ledger, "recommender", WON, START - timedelta(days=1)) is None and outcome(ledger, "recommender", WON, START) == came


def test_a_winner_that_serves_already_is_not_brought_back_by_later_nights(tmp_path: Path) -> None:
    ledger = decided(tmp_path, ())
    ledger.promote("recommender", "2", "1", "Ada", "by hand", {}, START)
    assert promoted(promote_once(ledger, "recommender", WON, SERVED, "jobs.experiment"))
    ledger.back("recommender", "2", "Ada", "complaints")
    assert promote_once(ledger, "recommender", WON, SERVED, "jobs.experiment") is None and ledger.current("recommender", "champion") == "1"


def test_what_was_taken_out_of_service_wins_nothing_but_by_a_person(tmp_path: Path) -> None:
    ledger = decided(tmp_path, ())
    ledger.promote("recommender", "2", "1", "Ada", "by hand", {}, START)
    ledger.back("recommender", "2", "Ada", "complaints")
    came = promote_once(ledger, "recommender", WON, SERVED, "jobs.experiment")
    assert came is not None and not promoted(came) and "Ada took it out of service" in came.why
    assert promote(ledger, "recommender", WON, SERVED, "Bo", "mended", person=True) and ledger.current("recommender", "champion") == "2"


@pytest.mark.parametrize("overlap", ["some", "none", "nothing logged"])
def test_before_it_begins_the_page_says_what_the_log_knows(
    make_settings: Callable[..., Settings], prepared: Callable[[Settings], None], submission: Callable[..., Submission], overlap: str,  # noqa: F811
) -> None:
    """Version 1 learnt on night 0; on the day after, half of 80 shoppers were shown its list and bought, half another and did not."""
    settings = make_settings(time_zone="UTC", experiments={NAME: RULES | {"starts": learnt.D(5), "serves": {"new": "1"}}})
    prepared(settings)
    Registry(settings).register(submission(recipe="r0", run_date=learnt.D(0)))
    users = [(f"s{n:02d}", "DE", ["a", "a", "b"] + ["c"] * (n % 2)) for n in range(80)]
    learnt.publish_inputs(settings, learnt.D(0), users=users)
    noon = datetime.combine(learnt.D(1), datetime.min.time(), timezone.utc) + timedelta(hours=12)
    log = ExposureLog(settings.places.root / "exposures", "shop")
    for n, (user, _, _) in enumerate(users if overlap != "nothing logged" else ()):
        log.append(learnt.D(1), "", user, "", noon, ["a", "b"] if n % 2 == 0 and overlap == "some" else ["d"], 0.5)
    lake = Lake(settings.places.lake)
    bought = int(noon.timestamp()) + 3600

    def night(n: int) -> str:
        learnt.publish_inputs(settings, learnt.D(n), users=users)
        rows = lake.at(FEATURES, learnt.D(n)).arrow().to_pylist()
        for i, row in enumerate(rows):  # before the show, but for one purchase after it of those with an even number
            row["event_times"] = [bought - 86_400 + k for k in range(len(row["item_ids"]) - 1)] + [bought if i % 2 == 0 else bought - 7200]
        with lake.writer(FEATURES, [learnt.D(n)]) as writer:
            writer.stage_arrow(learnt.D(n), pa.Table.from_pylist(rows, FEATURES.arrow_schema()))
            writer.publish(learnt.D(n), inputs=[], settings="s", code="c")
        assert experiment.main(["--shop", str(settings.file), "--run-date", str(learnt.D(n))]) == 0
        return " ".join((settings.places.reports / "experiments" / str(learnt.D(n)) / f"experiment-{NAME}.txt").read_text().split())

    assert "no estimate: nothing that was shown with its chance is logged for days of which the outcome is known" in night(1)
    page = night(2)
    if overlap == "some":
        # 40 of 80 agree, weight 2 each: the mean weight is 1, and all of them bought
        assert "of 80 shoppers 40 were shown what it would have shown, 100% of its lists could have been shown" in page
        assert "What was shown instead came to 0.5." in page and "new, version 1: SNIPS 1 [1, 1]" in page
        told = lake.manifest(EXPERIMENTS, learnt.D(2)).notes["ahead"][NAME]["arms"][0]["estimates"]  # type: ignore[union-attr]
        assert told["IPS"]["value"] == 1.0 and 0.7 < told["IPS"]["low"] < 1 < told["IPS"]["high"] < 1.3
        assert told["doubly robust"]["value"] == pytest.approx(1.0, abs=0.15)
    elif overlap == "none":
        assert "no estimate: no overlap: of 80 logged lists 0 are what it would have shown" in page
    else:
        assert "no estimate: nothing that was shown" in page
    outbox = Outbox(settings.places.outbox)
    assert [str(outbox.message(e.id)["Subject"]) for e in outbox.entries()] == [f"[Small shop] Experiment warmer: begins on {learnt.D(5)}"]


class Served(Night):
    """The same with a registry: version 1 serves, version 2, of the same night, is what the treatment gets; the gate kept it back."""

    def __init__(self, settings: Settings, submission: Callable[..., Submission], passes: bool):  # noqa: F811
        super().__init__(settings, {"control": 0.3, "new": 0.6}, a_night=20)
        self.registry = Registry(settings)
        eve = self.day(-1)
        learnt.publish_inputs(settings, eve)
        for n in (0, 1):
            self.registry.register(submission(recipe=f"r{n}", bias=7.0 * n, run_date=eve))
        ledger = self.registry.ledger
        ledger.promote("recommender", "1", None, "ada", "test", {}, eve)
        checks = [{"name": n, "passed": passes or n != "slices"} for n in ("verified", "slices")] + [{"name": "not_worse", "passed": False}]
        ledger.move("recommender", "challenger", ledger.current("recommender", "challenger"), None, "jobs.bless", "kept",
                    {"decision": {"outcome": "kept", "challenger": "2", "champion": "1", "why": "", "checks": checks}}, eve, "keep")
        self.publish(-1)

    def publish(self, n: int) -> None:
        from jobs import publish

        if n >= 0:
            learnt.publish_inputs(self.settings, self.day(n))
            self.happen(n)
        assert publish.main(["--shop", str(self.settings.file), "--run-date", str(self.day(n))]) == 0

    @property
    def serves(self) -> tuple[str, str]:
        with Lookup(self.settings.places.root / "published") as found:
            return str(found.about.run_date), found.about.model_version

    def won(self) -> int:
        """A night after one on which it was won; which it is."""
        state = replace(WON, night=self.day(-1), definition=definition(self.rules))
        with self.lake.writer(EXPERIMENTS, [self.day(-1)]) as writer:
            writer.publish(self.day(-1), inputs=[], settings="s", code="c", notes={"states": [state.to_json()]})
        self.publish(0)
        assert self.run(0) == 0
        return 0


@pytest.fixture
def served(make_settings: Callable[..., Settings], prepared: Callable[[Settings], None],  # noqa: F811
           submission: Callable[..., Submission]) -> Callable[..., Served]:  # noqa: F811
    def made(passes: bool, **changes: Any) -> Served:
        settings = make_settings(time_zone="UTC", experiments={NAME: RULES | {"serves": {"new": "2"}} | changes})
        prepared(settings)
        return Served(settings, submission, passes)

    return made


def test_the_nights_promote_a_winner_once_and_everybody_is_served_by_it(served: Callable[..., Served]) -> None:
    shop = served(True, promote=True)
    n = shop.won()
    assert shop.registry.ledger.current("recommender", "champion") == "2" and shop.serves == (str(shop.day(n)), "2")
    (running,) = read_running(shop.settings.places.root / "published")
    assert running.enrolment == 0.0 and dict(running.serves) == {}
    page = (shop.settings.places.reports / "experiments" / str(shop.day(n)) / f"experiment-{NAME}.txt").read_text()
    assert "Its version is the champion: jobs.experiment, won experiment warmer" in " ".join(page.split()) and "--promote" not in page
    assert [m for m in shop.mails if m.endswith("new won")] == ["[Small shop] Experiment warmer: new won"]
    # the next night has a champion of its own: the experiment does not take it away, and tells nobody again
    ledger = shop.registry.ledger
    ledger.promote("recommender", "1", "2", "ada", "as if of the next night", {}, shop.day(-1))
    head, mails = ledger.head(), shop.mails
    shop.publish(n + 1)
    assert shop.run(n + 1) == 0 and (ledger.head(), shop.mails) == (head, mails) and shop.serves[1] == "1"


def test_a_refused_winner_is_told_once_and_not_tried_again_until_a_person_does(served: Callable[..., Served], capsys: pytest.CaptureFixture[str]) -> None:
    shop = served(False, promote=True)
    n = shop.won()
    ledger = shop.registry.ledger
    outbox = Outbox(shop.settings.places.outbox)
    mail = outbox.message(outbox.entries()[-1].id).get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert "the model gate holds against it: slices" in " ".join(mail.split())
    head, mails = ledger.head(), shop.mails
    shop.publish(n + 1)
    assert shop.run(n + 1) == 0 and (ledger.head(), shop.mails) == (head, mails) and shop.serves[1] == "1"
    assert shop.run(n + 1, "--promote", NAME, "--approve", "Ada", "--reason", "x") == 3
    assert "the model gate holds against it: slices" in capsys.readouterr().err


def test_a_person_promotes_a_winner(served: Callable[..., Served]) -> None:
    shop = served(True)
    n = shop.won()
    assert shop.registry.ledger.current("recommender", "champion") == "1", "without `promote: true` nothing happens by itself"
    argv = ("--promote", NAME, "--approve", "Ada", "--reason", "two good weeks")
    assert shop.run(n, *argv, "--dry-run") == 0 and shop.registry.ledger.current("recommender", "champion") == "1"
    assert shop.run(n, *argv) == 0
    newest = shop.registry.ledger.newest("recommender", "champion")
    assert newest is not None and (newest.to_version, newest.action, newest.who) == ("2", "promote", "Ada")
    assert newest.why.startswith("two good weeks (won experiment warmer: ") and newest.evidence["gate"]["challenger"] == "2"
    aliases = shop.registry._client().get_registered_model("recommender").aliases
    assert {a: str(v) for a, v in aliases.items()} == {"champion": "2", "previous": "1"}
    assert shop.serves == (str(shop.day(n)), "2") and shop.mails[-1].endswith("new won")
    head = shop.registry.ledger.head()
    assert shop.run(n, *argv) == 0 and shop.registry.ledger.head() == head


def test_promoting_by_hand_wants_a_name_and_a_reason(make: Callable[..., Night], capsys: pytest.CaptureFixture[str]) -> None:
    shop = make({"control": 0.3, "new": 0.3}, a_night=50)
    assert shop.run(0, "--promote", NAME) == 2 and shop.run(0, "--promote", "other", "--approve", "Ada", "--reason", "x") == 2
    assert shop.run(0, "--promote", NAME, "--approve", "Ada", "--reason", "x") == 3
    assert "was not judged on 2026-03-02" in capsys.readouterr().err
