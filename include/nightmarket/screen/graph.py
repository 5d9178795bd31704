"""Who hangs together: groups of entities that rows have linked, as of the end of the day before each row.

Entities (a card, a device, an address) are nodes and a row links those it names. Groups only grow, so days are taken in order and each
joins the groups of the days before (union-find over whole days at once, in arrays).
"""

from __future__ import annotations

import numpy as np

from nightmarket.screen.windows import DAY, distinct


def groups(times: np.ndarray, entities: list[np.ndarray], bad: np.ndarray | None = None, known_at: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(n,) number of entities in the groups that each row touches, and (n,) number of known bad rows in them.

    `entities` are (n,) codes, -1 for none; `bad` (n,) bool with `known_at` (n,) microseconds. Both numbers are as of the start of the
    row's day (UTC): links and labels of the day itself count from the next day on.
    """
    n = len(times)
    offsets = np.cumsum([0, *(int(e.max(initial=-1)) + 1 for e in entities)])
    nodes = np.column_stack([np.where(e >= 0, e + o, -1) for e, o in zip(entities, offsets[:-1], strict=True)]) if entities else np.empty((n, 0), np.int64)
    parent = np.arange(int(offsets[-1]))
    size, wrong = np.zeros(len(parent), np.int64), np.zeros(len(parent), np.int64)
    members, known = np.zeros(n, np.int64), np.zeros(n, np.int64)
    day = times // DAY
    order = np.argsort(day, kind="stable")
    edges = np.flatnonzero(np.diff(day[order])) + 1
    told = np.flatnonzero(bad) if bad is not None else np.empty(0, np.int64)
    assert known_at is not None or not len(told)
    told = told[np.argsort(known_at[told], kind="stable")] if known_at is not None else told
    heard = 0
    for today in np.split(order, edges) if n and nodes.shape[1] else []:
        start = day[today[0]] * DAY
        if known_at is not None:
            until = heard + int(np.searchsorted(known_at[told[heard:]], start, "left"))
            # a bad row is counted once, with the first of its entities: all of them are one group by then
            first = _first(nodes[told[heard:until]])
            np.add.at(wrong, _roots(parent, first[first >= 0]), 1)
            heard = until
        mine = nodes[today]
        roots = np.where(mine >= 0, _roots(parent, np.maximum(mine, 0)), -1)
        distinct = np.sort(roots, axis=1)
        again = np.zeros(distinct.shape, bool)
        again[:, 1:] = distinct[:, 1:] == distinct[:, :-1]
        counted = (distinct >= 0) & ~again
        members[today] = np.where(counted, size[np.maximum(distinct, 0)], 0).sum(1)
        known[today] = np.where(counted, wrong[np.maximum(distinct, 0)], 0).sum(1)
        _join(parent, size, wrong, mine)
    return members, known


def _first(nodes: np.ndarray) -> np.ndarray:
    there = nodes >= 0
    return np.where(there.any(1), nodes[np.arange(len(nodes)), there.argmax(1)], -1) if nodes.shape[1] else np.full(len(nodes), -1)


def _roots(parent: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    found = parent[nodes]
    while True:
        further = parent[found]
        if np.array_equal(further, found):
            break
        found = further
    parent[nodes] = found
    return np.asarray(found)


def _join(parent: np.ndarray, size: np.ndarray, wrong: np.ndarray, rows: np.ndarray) -> None:
    """Links the entities of each row; a node counts as a member from its first row on."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    seen = distinct(rows[rows >= 0])
    fresh = seen[(parent[seen] == seen) & (size[seen] == 0)]
    size[fresh] = 1
    first = _first(rows)
    left, right = [], []
    for k in range(rows.shape[1]):
        both = (first >= 0) & (rows[:, k] >= 0) & (rows[:, k] != first)
        left.append(_roots(parent, first[both]))
        right.append(_roots(parent, rows[both, k]))
    a, b = np.concatenate(left), np.concatenate(right)
    apart = a != b
    a, b = a[apart], b[apart]
    if not len(a):
        return
    touched = distinct(np.concatenate([a, b]))
    x, y = np.searchsorted(touched, a), np.searchsorted(touched, b)
    _, label = connected_components(coo_matrix((np.ones(len(x)), (x, y)), shape=(len(touched), len(touched))), directed=False)
    root = np.full(int(label.max()) + 1, len(parent))
    np.minimum.at(root, label, touched)
    for counts in (size, wrong):
        sums = np.bincount(label, counts[touched], len(root)).astype(np.int64)
        counts[touched] = 0
        counts[root] = sums
    parent[touched] = root[label]
