"""Groups of linked entities against sets joined one row at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.screen.graph import groups
from nightmarket.screen.windows import DAY


def by_sets(times: np.ndarray, entities: list[np.ndarray], bad: np.ndarray, known_at: np.ndarray) -> tuple[list[int], list[int]]:
    members, known = [], []
    for i in range(len(times)):
        start = times[i] // DAY * DAY
        joined: list[set[tuple[int, int]]] = []
        for k in np.flatnonzero(times < start):
            mine = {(e, int(codes[k])) for e, codes in enumerate(entities) if codes[k] >= 0}
            touching = [g for g in joined if g & mine]
            joined = [g for g in joined if not g & mine] + ([set.union(mine, *touching)] if mine else [])
        own = {(e, int(codes[i])) for e, codes in enumerate(entities) if codes[i] >= 0}
        near = [g for g in joined if g & own]
        members.append(sum(map(len, near)))
        known.append(sum(1 for k in np.flatnonzero(bad & (known_at < start)) if any((e, int(c[k])) in g for g in near for e, c in enumerate(entities) if c[k] >= 0)))
    return members, known


@given(st.integers(0, 10**6))
def test_groups_are_those_of_sets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 60
    times = rng.integers(0, 8 * 4, n) * (DAY // 4)
    entities = [rng.integers(-1, 15, n) for _ in range(3)]
    bad, known_at = rng.random(n) < 0.3, times + rng.integers(0, 3, n) * DAY
    members, known = groups(times, entities, bad, known_at)
    expected = by_sets(times, entities, bad, known_at)
    assert members.tolist() == expected[0] and known.tolist() == expected[1]


def test_no_rows_and_no_entities() -> None:
    none = np.empty(0, np.int64)
    assert [len(a) for a in groups(none, [none, none])] == [0, 0]
    assert groups(np.array([DAY]), [])[0].tolist() == [0]
