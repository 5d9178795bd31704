"""An arm judged on the log before it begins: the true value where the log covers it, nothing where it does not."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from nightmarket.contracts import RECOMMENDATIONS
from nightmarket.online.assignment import Split
from nightmarket.online.before import Shown, foresee
from nightmarket.online.serving import ExposureLog, Running, recommend, write_running
from nightmarket.recommend.lookup import About, serve

N = 20_000
LISTS = (("a", "b"), ("b", "a"))


def world(rng: np.random.Generator, share: float) -> tuple[Shown, np.ndarray, np.ndarray]:
    """Shoppers of two tastes are shown one of two lists, the first with chance `share`; the second suits taste 1. (log, bought, taste)."""
    taste = rng.integers(0, 2, N)
    first = rng.random(N) < share
    bought = (rng.random(N) < np.where(first, 0.2, np.where(taste == 1, 0.5, 0.1))).astype(float)
    shown = Shown(np.array([f"u{n}" for n in range(N)], object), np.zeros(N), [LISTS[0 if f else 1] for f in first], np.where(first, share, 1 - share))
    return shown, bought, taste


def test_the_true_value_is_within_every_interval() -> None:
    shown, bought, taste = world(np.random.default_rng(3), 0.7)
    found = foresee("new", "2", shown, dict.fromkeys(range(N), LISTS[1]), bought, taste[:, None].astype(float))
    assert found.why == "" and found.covered == pytest.approx(1.0, abs=0.05)
    assert found.shown == pytest.approx(0.7 * 0.2 + 0.3 * 0.3, abs=0.01)
    assert set(found.estimates) == {"IPS", "SNIPS", "doubly robust"}
    for e in found.estimates.values():
        assert e.low <= 0.3 <= e.high and e.high - e.low < 0.05
    # a policy that looks at the shopper: each taste its list
    both = foresee("new", "2", shown, {n: LISTS[t] for n, t in enumerate(taste)}, bought, taste[:, None].astype(float))
    assert all(e.low <= 0.5 * 0.2 + 0.5 * 0.5 <= e.high for e in both.estimates.values())


def test_what_the_log_could_not_have_shown_is_not_guessed_at() -> None:
    shown, bought, taste = world(np.random.default_rng(3), 0.5)
    half = foresee("new", "2", shown, {n: LISTS[1] if n % 2 else ("z",) for n in range(N)}, bought, taste[:, None])
    assert not half.estimates and half.why == "too little overlap: what was shown could have been 50% of what it would show; the rest is unknown"
    assert "no overlap: of 20000 logged lists 0" in foresee("new", "2", shown, {}, bought, taste[:, None]).why
    nobody = Shown(np.empty(0, object), np.empty(0), [], np.empty(0))
    assert "nothing that was shown" in foresee("new", "2", nobody, {}, np.empty(0), np.empty((0, 1))).why


def test_the_chance_of_a_list_is_that_of_every_arm_that_would_show_it(tmp_path: Path) -> None:
    """Arm `new` turns u1's list around and leaves u2's; it has half of the shoppers, of whom 40 % are enrolled."""


    def publish(folder: Path, version: str, lists: dict[str, list[str]]) -> None:
        rows = [{"audience": a, "audience_id": u, "rank": n + 1, "item_id": i, "score": 1.0, "reason": "r", "model_name": "m", "model_version": version}
                for (a, u), items in {**{("user", u): i for u, i in lists.items()}, ("everyone", "*"): ["a"]}.items() for n, i in enumerate(items)]
        serve(folder, pa.Table.from_pylist(rows, RECOMMENDATIONS.arrow_schema()), About(date(2026, 3, 1), "m", version, f"d-{version}"))

    users = [f"u{n}" for n in range(40)]
    publish(tmp_path, "1", {u: ["a", "b"] for u in users})
    publish(tmp_path / "arms" / "x" / "new", "2", {u: ["b", "a"] if n % 2 else ["a", "b"] for n, u in enumerate(users)})
    split = Split("x", "l", (0.0, 1.0), {"control": 0.5, "new": 0.5}, "shop")
    running = Running(split, 0.4, {"new": "arms/x/new"}, True)
    write_running(tmp_path, [running])
    log, now = ExposureLog(tmp_path / "log", "t"), datetime(2026, 3, 2, 12, tzinfo=timezone.utc)

    def shown(**more: Any) -> dict[str, dict[str, Any]]:
        for file in (tmp_path / "log").glob("*"):
            file.unlink()
        for user in [*users, "nobody"]:
            recommend(tmp_path, log, ZoneInfo("UTC"), user, None, 2, now, **more)
        return {x["unit"]: x for f in (tmp_path / "log").glob("*") for x in map(json.loads, f.read_text().splitlines())}

    lines = shown()
    assert set(lines) == set(users) | ({"nobody"} if split.arm("nobody", 0.4) else set())
    for n, user in enumerate(users):
        arm = split.arm(user, 0.4)
        line = lines[user]
        assert line.get("arm") == arm and line["items"] == (["b", "a"] if arm == "new" and n % 2 else ["a", "b"])
        # 0.5 x 0.4 are shown the new list, everybody else the champion's
        assert line["propensity"] == pytest.approx(1.0 if n % 2 == 0 else 0.2 if arm == "new" else 0.8)
    assert {split.arm(u, 0.4) for u in users} == {"control", "new", None}
    assert all("propensity" not in line for line in shown(drawn=True).values() if "items" in line), "its last place may have been drawn"
    write_running(tmp_path, [replace(running, counts=False)])
    assert all("experiment" not in line and line["propensity"] for line in shown().values())
