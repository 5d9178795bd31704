"""Rows in parts: whole entities, every row once, and the same values whatever the parts and the threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.screen import features, parts
from nightmarket.screen.parts import Job, Matrix, described, split
from nightmarket.screen.windows import DAY, NEVER, History, Moments, distinct, order_of, paired
from tests.screen.test_features import some


@given(st.lists(st.integers(-1, 6), max_size=80), st.integers(1, 30), st.booleans(), st.integers(0, 99))
def test_parts_are_whole_entities_by_time(codes: list[int], size: int, in_time: bool, seed: int) -> None:
    times = np.random.default_rng(seed).integers(0, 20, len(codes))
    times = np.sort(times) if in_time else times
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_PART", size)
        found = split(np.array(codes, np.int64), times)
    assert sorted(i for part in found for i in part.tolist()) == list(range(len(codes)))
    where = {codes[i]: k for k, part in enumerate(found) for i in part.tolist() if codes[i] >= 0}
    for k, part in enumerate(found):
        keys = [(codes[i], times[i], i) for i in part.tolist()]
        assert keys == sorted(keys) and all(where[c] == k for c, _, _ in keys if c >= 0)
        # a part is as small as its last entity allows: rows without one are entities of their own
        assert len([1 for c, _, _ in keys if c < 0 or c != keys[-1][0]]) <= size or len({c for c, _, _ in keys}) == 1


def test_what_is_made_of_parts_lies_where_the_rows_are() -> None:
    codes, times = np.array([2, -1, 0, 2, 1, 0]), np.arange(6)

    def make(index: np.ndarray) -> Matrix:
        made = Matrix()
        made.add("row", index)
        made.add("square", index**2)
        return made

    found = described(times, [Job(codes, make), Job(times, make)], threads=3)
    assert all(m.names == ["row", "square"] and m.array().tolist() == [[i, i * i] for i in range(6)] for m in found)


@pytest.mark.parametrize("follow", [True, False])
def test_neither_parts_nor_threads_move_a_feature(monkeypatch: pytest.MonkeyPatch, follow: bool) -> None:
    rows = some(5, 400, 60)
    recipe = features.make_recipe(rows, follow, int(rows.times[300]), 10 * DAY)
    scores = np.random.default_rng(1).random(len(rows))

    def made(size: int, threads: int) -> tuple[list[str], np.ndarray]:
        monkeypatch.setattr(parts, "_PART", size)
        found = features.build(rows, recipe, threads)
        found.extend(features.score_windows(rows, recipe, {"suspicion": (scores, ("1d", "30d")), "looks": (scores**2, ("7d",))}, threads))
        found.extend(features.unexplained(rows, recipe, scores, threads))
        return found.names, found.array()

    names, whole = made(10**6, 1)
    again, cut = made(30, 4)
    assert names == again and len(set(names)) == len(names)
    np.testing.assert_array_equal(whole, cut)


@given(st.lists(st.integers(0, 2**40), max_size=60), st.booleans())
def test_order_is_that_of_a_stable_sort(keys: list[int], large: bool) -> None:
    given_ = np.array(keys, np.int64) % 7 + (2**61 if large else 0)
    assert order_of(given_).tolist() == np.argsort(given_, kind="stable").tolist()
    assert distinct(given_).tolist() == sorted(set(given_.tolist()))


@given(st.integers(0, 10_000), st.sampled_from([1, 2**20, 2**58]))
def test_the_largest_so_far_by_hand(seed: int, scale: int) -> None:
    """Also where values lie too far apart to be lifted above each other by entity."""
    rng = np.random.default_rng(seed)
    codes, times, values = rng.integers(-1, 4, 40), rng.integers(0, 10, 40), rng.integers(-8, 8, 40) * scale
    values[rng.random(40) < 0.2] = NEVER
    moments = Moments(times, times)
    history = History(codes, moments, codes)
    for found, earlier in ((history.largest(values), np.less_equal), (history.strictly().largest(values), np.less)):
        for i in range(40):
            mine = values[(codes == codes[i]) & earlier(times, times[i])] if codes[i] >= 0 else []
            assert found[i] == max(mine, default=NEVER)


@pytest.mark.parametrize("scale", [1, 2**40])
def test_pairs_are_told_apart(scale: int) -> None:
    """Also where their codes have to be made dense."""
    rng = np.random.default_rng(3)
    left, right = rng.integers(-1, 5, 60) * scale, rng.integers(-1, 5, 60)
    left[left < 0] = -1
    found = paired(left, right)
    for i in range(60):
        for j in range(60):
            if min(left[i], right[i], left[j], right[j]) >= 0:
                assert (found[i] == found[j]) == ((left[i], right[i]) == (left[j], right[j]))
    assert ((found < 0) == ((left < 0) | (right < 0))).all()
