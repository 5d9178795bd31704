"""`python -m jobs.recommend`: its contract, and what it does with files that are not as they should be."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs import recommend

START = pd.Timestamp("2026-01-01T10:00:00Z")


def shop(shoppers: int = 60, items: int = 25, weeks: int = 24, seed: int = 3) -> pd.DataFrame:
    """Shoppers who come every week or two and mostly buy again what they bought before, each from one of two halves of the catalogue."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(shoppers):
        half = np.arange(items // 2) + (user % 2) * (items // 2)
        liked = rng.choice(half, 4, replace=False)
        for week in range(weeks):
            if rng.random() < 0.6:
                for item in {*rng.choice(liked, 2), *([rng.choice(half)] if rng.random() < 0.3 else [])}:
                    rows.append((f"u{user:03d}", f"i{item:03d}", "purchase", START + pd.Timedelta(days=7 * week + int(rng.integers(7)), hours=int(rng.integers(8)))))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "event_type", "event_ts"])


def answer(folder: Path, events: pd.DataFrame, targets: Any, *more: str, code: int = 0, **files: pd.DataFrame) -> pd.DataFrame:
    """What the command writes; asserts its exit code."""
    events.to_parquet(folder / "events.parquet")
    (targets if isinstance(targets, pd.DataFrame) else pd.DataFrame({"user_id": targets})).to_parquet(folder / "targets.parquet")
    arguments = ["--events", str(folder / "events.parquet"), "--targets", str(folder / "targets.parquet"), "--out", str(folder / "out.parquet")]
    for name, frame in files.items():
        frame.to_parquet(folder / f"{name}.parquet")
        arguments += [f"--{name}", str(folder / f"{name}.parquet")]
    if "--budget" not in more:
        arguments += ["--budget", "fast"]
    (folder / "out.parquet").unlink(missing_ok=True)
    assert recommend.main([*arguments, *more]) == code
    return pd.read_parquet(folder / "out.parquet") if code == 0 else pd.DataFrame()


@pytest.fixture(scope="module")
def usual() -> pd.DataFrame:
    return shop()


def test_every_target_has_k_distinct_items_ranked_by_score(tmp_path: Path, usual: pd.DataFrame) -> None:
    asked = ["u003", "stranger", "u001", "u003"]
    out = answer(tmp_path, usual, asked, "--k", "7")
    assert list(out.columns) == ["user_id", "item_id", "rank", "score", "reason"]
    assert list(dict.fromkeys(out["user_id"])) == ["u003", "stranger", "u001"]
    for _, rows in out.groupby("user_id"):
        assert list(rows["rank"]) == list(range(1, 8)) and rows["item_id"].is_unique
        assert (rows["score"].diff().dropna() <= 0).all()
    assert out["reason"].str.len().min() > 0 and set(out["item_id"]) <= set(usual["item_id"])


def test_what_shoppers_buy_again_comes_first_and_its_reason_is_true(tmp_path: Path, usual: pd.DataFrame) -> None:
    users = sorted(usual["user_id"].unique())[:20]
    out = answer(tmp_path, usual, users, "--k", "4")
    own = out.merge(usual.groupby(["user_id", "item_id"])["event_ts"].agg(["size", "max"]).reset_index(), how="left")
    top = own[own["rank"] == 1]
    assert top["size"].notna().mean() > 0.9
    days = usual.assign(day=usual["event_ts"].dt.date).groupby(["user_id", "item_id"])["day"].nunique()
    for row in own[own["size"].notna()].itertuples():
        times, last = days[row.user_id, row.item_id], row.max.date().isoformat()
        assert row.reason == (f"bought {times} times, last on {last}" if times > 1 else f"bought on {last}")


def test_repeats_excluded(tmp_path: Path, usual: pd.DataFrame) -> None:
    users = sorted(usual["user_id"].unique())[:10]
    out = answer(tmp_path, usual, users, "--repeats", "exclude", "--k", "30")
    had = set(map(tuple, usual[["user_id", "item_id"]].to_numpy()))
    assert not had & set(map(tuple, out[["user_id", "item_id"]].to_numpy()))
    # the whole catalogue but what was had: shorter than k, and complete
    for user, rows in out.groupby("user_id"):
        assert len(rows) == usual["item_id"].nunique() - usual.loc[usual["user_id"] == user, "item_id"].nunique()


def test_the_same_again_and_rows_in_another_order(tmp_path: Path, usual: pd.DataFrame) -> None:
    users = ["u001", "u002", "nobody"]
    first = answer(tmp_path, usual, users)
    pd.testing.assert_frame_equal(first, answer(tmp_path, usual.sample(frac=1.0, random_state=1), users))


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_events_from_as_of_on_change_nothing(tmp_path: Path, seed: int) -> None:
    events, moment = shop(30, 12, 12), START + pd.Timedelta(days=70)
    later = shop(30, 16, 12, seed=seed).assign(event_ts=lambda d: d["event_ts"] + pd.Timedelta(days=84))
    past = events[events["event_ts"] < moment]
    asked = ["u001", "u007", "new"]
    here = answer(tmp_path, past, asked, "--as-of", moment.isoformat())
    pd.testing.assert_frame_equal(here, answer(tmp_path, pd.concat([events, later]), asked, "--as-of", moment.isoformat()))


def test_places_from_as_of_on_change_nothing(tmp_path: Path) -> None:
    rows = [(f"u{u}", f"i{(3 * u + step * step) % 30}", "purchase", step) for u in range(50) for step in range(8)]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "event_type", "event_ts"])
    asked = ["u1", "u7", "new"]
    here = answer(tmp_path, events[events["event_ts"] < 6], asked)
    pd.testing.assert_frame_equal(here, answer(tmp_path, events, asked, "--as-of", "6"))


def test_context_speaks_for_strangers_only(tmp_path: Path, usual: pd.DataFrame) -> None:
    basket = pd.DataFrame({"user_id": ["new"] * 2, "item_id": ["i013", "i014"]})
    out = answer(tmp_path, usual, ["new", "other", "u002"], "--k", "5", "--repeats", "exclude", context=basket)
    without = answer(tmp_path, usual, ["new", "other", "u002"], "--k", "5", "--repeats", "exclude")
    mine = out[out["user_id"] == "new"]
    # i012 … i023 are bought by the other half of the shop
    assert mine["item_id"].between("i012", "i023").all() and not mine["item_id"].isin(["i013", "i014"]).any()
    for user in ("other", "u002"):
        assert list(out.loc[out["user_id"] == user, "item_id"]) == list(without.loc[without["user_id"] == user, "item_id"])


def test_items_never_sold_are_answered_by_what_they_are(tmp_path: Path, usual: pd.DataFrame) -> None:
    names = {f"i{n:03d}": ("red garden lamp" if n < 12 else "blue kitchen towel") for n in range(25)} | {"n1": "big red lamp", "n2": "blue towel set", "n3": ""}
    items = pd.DataFrame({"item_id": list(names), "title": list(names.values())})
    out = answer(tmp_path, usual, ["u000", "u001"], items=items, candidates=pd.DataFrame({"item_id": ["n1", "n2", "n3"]}))
    first = out[out["rank"] == 1].set_index("user_id")
    assert first.loc["u000", "item_id"] == "n1" and first.loc["u001", "item_id"] == "n2"
    assert first.loc["u000", "reason"].startswith("new, similar to red garden lamp, which you bought")
    assert out.groupby("user_id")["item_id"].agg(set).eq({"n1", "n2", "n3"}).all()


def test_strangers_are_answered_by_their_attributes(tmp_path: Path, usual: pd.DataFrame) -> None:
    users = pd.DataFrame({"user_id": sorted(usual["user_id"].unique())})
    users["country"] = ["A" if int(u[1:]) % 2 == 0 else "B" for u in users["user_id"]]
    targets = pd.DataFrame({"user_id": ["x", "y"], "country": ["A", "B"]})
    out = answer(tmp_path, usual, targets, "--k", "5", users=users)
    assert (out.loc[out["user_id"] == "x", "item_id"] < "i012").all() and (out.loc[out["user_id"] == "y", "item_id"] >= "i012").all()
    assert out["reason"].str.contains("popular where country is").any()


def test_order_only(tmp_path: Path) -> None:
    """A chain of items: whoever had n had n + 1 next."""
    rows = [(f"u{u}", f"i{(u + step) % 40}", "purchase", step) for u in range(200) for step in range(6)]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "event_type", "event_ts"])
    out = answer(tmp_path, events, [f"u{u}" for u in range(40)], "--repeats", "exclude", "--k", "3")
    first = out[out["rank"] == 1].set_index("user_id")["item_id"]
    assert np.mean([first[f"u{u}"] == f"i{(u + 6) % 40}" for u in range(40)]) > 0.9
    assert not out["reason"].str.contains(r"\d{4}-\d\d").any()


# -- ids and times as people write them


@pytest.mark.parametrize("kind", ["integer", "uuid", "emoji"])
def test_ids_come_back_as_they_were(tmp_path: Path, usual: pd.DataFrame, kind: str) -> None:
    make = {"integer": lambda n: 17000 + n, "uuid": lambda n: str(uuid.UUID(int=n)), "emoji": lambda n: "🛒" * (n % 3) + f"é{n}"}[kind]
    events = usual.assign(user_id=[make(int(u[1:])) for u in usual["user_id"]], item_id=[make(int(i[1:])) for i in usual["item_id"]])
    out = answer(tmp_path, events, [make(3), make(900)], "--k", "3")
    assert list(dict.fromkeys(out["user_id"])) == [make(3), make(900)] and set(out["item_id"]) <= set(events["item_id"])


def test_whole_numbers_written_as_floats_are_the_same_ids(tmp_path: Path, usual: pd.DataFrame) -> None:
    events = usual.assign(user_id=usual["user_id"].str[1:].astype(int))
    assert (answer(tmp_path, events, [3.0, 4.0])["reason"].str.startswith("bought")).any()


def test_mixed_zones_are_one_instant(tmp_path: Path, usual: pd.DataFrame) -> None:
    zones = ["UTC", "Asia/Tokyo", "America/New_York"]
    texts = [t.tz_convert(zones[n % 3]).isoformat() for n, t in enumerate(usual["event_ts"])]
    users = ["u001", "u002"]
    pd.testing.assert_frame_equal(answer(tmp_path, usual, users), answer(tmp_path, usual.assign(event_ts=texts), users))


def test_duplicate_events_count_once(tmp_path: Path, usual: pd.DataFrame) -> None:
    users = ["u001", "u002"]
    pd.testing.assert_frame_equal(answer(tmp_path, usual.drop_duplicates(), users), answer(tmp_path, pd.concat([usual, usual, usual[:50]]), users))


def test_a_robot_does_not_outvote_everybody(tmp_path: Path, usual: pd.DataFrame) -> None:
    at = pd.date_range(START, periods=1_000_000, freq="10s")
    robot = pd.DataFrame({"user_id": "robot", "item_id": "i024", "event_type": "purchase", "event_ts": at})
    out = answer(tmp_path, pd.concat([usual, robot]), ["stranger", "u001"], "--k", "5")
    assert out.loc[out["rank"] == 1, "item_id"].ne("i024").all()


# -- too little


def test_no_purchases(tmp_path: Path, usual: pd.DataFrame) -> None:
    views = usual.assign(event_type="view")
    assert answer(tmp_path, views, ["u001"])["reason"].str.startswith("looked at").any()
    answer(tmp_path, views, ["u001"], "--objective", "purchase", code=3)


def test_one_user(tmp_path: Path, usual: pd.DataFrame) -> None:
    out = answer(tmp_path, usual[usual["user_id"] == "u001"], ["u001", "u002"], "--k", "2")
    assert len(out) == 4


def test_one_item(tmp_path: Path, usual: pd.DataFrame) -> None:
    out = answer(tmp_path, usual.assign(item_id="only"), ["u001", "new"])
    assert list(out["item_id"]) == ["only", "only"] and list(out["rank"]) == [1, 1]


def test_one_event(tmp_path: Path, usual: pd.DataFrame) -> None:
    assert list(answer(tmp_path, usual[:1], ["u000", "new"])["item_id"]) == [usual["item_id"].iloc[0]] * 2


def test_all_targets_new_and_more_than_there_are_users(tmp_path: Path, usual: pd.DataFrame) -> None:
    new = [f"n{i}" for i in range(500)]
    out = answer(tmp_path, usual, new, "--k", "3", users=pd.DataFrame({"user_id": ["u001"], "country": ["A"]}))
    assert out["user_id"].nunique() == 500 and len(out) == 1500
    assert out.groupby("rank")["item_id"].nunique().eq(1).all()


def test_items_without_title(tmp_path: Path, usual: pd.DataFrame) -> None:
    items = pd.DataFrame({"item_id": sorted(usual["item_id"].unique()), "title": None})
    out = answer(tmp_path, usual, ["u001"], items=items)
    assert len(out) == 20
    assert len(answer(tmp_path, usual, ["u001"], items=items[["item_id"]])) == 20


def test_k_larger_than_the_catalogue(tmp_path: Path, usual: pd.DataFrame) -> None:
    assert len(answer(tmp_path, usual, ["u001"], "--k", "1000")) == usual["item_id"].nunique()


def test_no_targets(tmp_path: Path, usual: pd.DataFrame) -> None:
    out = answer(tmp_path, usual, pd.DataFrame({"user_id": pd.Series([], dtype=str)}))
    assert len(out) == 0 and list(out.columns) == ["user_id", "item_id", "rank", "score", "reason"]


# -- refusals


@pytest.mark.parametrize(("change", "code", "said"), [
    (lambda e: e.drop(columns="item_id"), 2, "no column item_id"),
    (lambda e: e.assign(event_type=["sold"] * len(e)), 2, "row 1 has 'sold'"),
    (lambda e: e.assign(event_ts=["2026-01-01"] * (len(e) - 1) + ["yesterday"]), 2, "'yesterday'"),
    (lambda e: e.assign(user_id=None), 3, "nothing can be learnt"),
    (lambda e: e[:0], 3, "nothing can be learnt"),
    (lambda e: e.assign(event_type="return"), 3, "returns only"),
    (lambda e: e.assign(user_id=np.arange(len(e)) + 0.5), 2, "an id is text or a whole number"),
    (lambda e: e.assign(quantity="many"), 2, "quantity"),
])
def test_what_cannot_be_worked_with_is_named(
    tmp_path: Path, usual: pd.DataFrame, capfd: pytest.CaptureFixture[str], change: Any, code: int, said: str,
) -> None:
    answer(tmp_path, change(usual), ["u001"], code=code)
    told = capfd.readouterr().err.strip().splitlines()[-1]
    assert said in told and "--events" in told


def test_arguments(tmp_path: Path, usual: pd.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    answer(tmp_path, usual, ["u001"], "--k", "0", code=2)
    answer(tmp_path, usual, ["u001"], "--as-of", "soon", code=2)
    answer(tmp_path, usual, ["u001"], "--as-of", "1999-01-01", code=3)
    answer(tmp_path, usual, ["u001"], "--out", str(tmp_path / "nowhere" / "out.parquet"), code=2)
    answer(tmp_path, usual, ["u001", None], code=2)
    answer(tmp_path, usual, ["u001"], code=3, candidates=pd.DataFrame({"item_id": pd.Series([None], dtype=object)}))
    assert "Traceback" not in capfd.readouterr().err
