"""Candidates of the signals and the numbers that describe them: what the second stage reads.

Counts enter as logarithms, scores also relative to the shopper's best, because "the best of this shopper's" means the same for
a shopper of three purchases and one of three hundred.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from nightmarket.recommend import pairs
from nightmarket.recommend.counts import top_k
from nightmarket.recommend.pairs import FAR, Pairs
from nightmarket.recommend.signals import ITEM_NUMBERS, Scores, Signals, largest, strongest

SHOPPER_NUMBERS = ("active_days", "days_since", "days_since_any", "days_known", "lines", "mean_gap", "basket", "repeat_share", "lately_active", "lot")
_CELLS = 3_000_000


@dataclass(frozen=True)
class Block:
    """Candidates of a block of shoppers."""

    users: np.ndarray
    """(n,) codes."""
    items: np.ndarray
    """(n, L) int64 codes, -1 where a shopper has fewer."""
    features: np.ndarray
    """(n, L, F) float32, 0 where there is no candidate."""
    scores: Mapping[str, np.ndarray]
    """By signal, (n, L)."""
    places: Mapping[str, np.ndarray]
    """By signal, (n, L) 1 / place in its own list, 0 beyond it."""


def names(objective: int, signals: Sequence[str], groups: Sequence[str]) -> tuple[str, ...]:
    """The features, in the order of the last axis, of signals and groups by name."""
    made = list(pairs.names(pairs.browsing_kinds(objective)))
    for signal in signals:
        made += [f"{signal}_score", f"{signal}_relative", f"{signal}_place"]
    made += [f"item_{n}" for n in ITEM_NUMBERS] + [f"shopper_{n}" for n in SHOPPER_NUMBERS] + ["votes", "price_distance", "lot_distance"]
    for group in groups:
        made += [f"{group}_share", f"{group}_lift"]
    return tuple(made)


def propose(
    scores: Mapping[str, Scores], limit: int, allowed: np.ndarray, barred: sp.csr_matrix | None,
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """((n, L) items, by signal (n, L) 1 / place, (n, L) signals that list the item), taken from all signals' lists by best places.

    `allowed` (items,) is what may be answered at all; `barred` (n, items) what a shopper may not be. Equal places: more signals, then
    the smaller code.
    """
    rows, items = next(iter(scores.values())).shape
    open_to = np.tile(allowed, (rows, 1))
    if barred is not None:
        open_to[np.repeat(np.arange(rows), np.diff(barred.indptr)), barred.indices] = False
    depth = min(limit, items)
    keys, inverse = [], []
    for block in scores.values():
        key, value = _tops(block, open_to, depth)
        keys.append(key)
        inverse.append(value)
    found, where = np.unique(np.concatenate(keys), return_inverse=True)
    best, votes = np.zeros(len(found)), np.bincount(where, minlength=len(found))
    np.maximum.at(best, where, np.concatenate(inverse))
    row = found // items
    order = np.lexsort((found, -votes, -best, row))
    place = np.arange(len(found)) - np.searchsorted(row, np.arange(rows))[row[order]]
    kept = order[place < limit]
    width = min(limit, items)
    picked = np.full((rows, width), -1, np.int64)
    column = place[place < limit]
    picked[row[kept], column] = found[kept] % items
    at = np.full(len(found), -1, np.int64)
    at[kept] = row[kept] * width + column
    shown, start = {}, 0
    for name, key, value in zip(scores, keys, inverse, strict=True):
        flat = np.zeros(rows * width, np.float32)
        target = at[where[start : start + len(key)]]
        flat[target[target >= 0]] = value[target >= 0]
        shown[name] = flat.reshape(rows, width)
        start += len(key)
    voted = np.zeros(rows * width, np.float32)
    voted[at[kept]] = votes[kept]
    return picked, shown, voted.reshape(rows, width)


def _tops(block: Scores, open_to: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """(keys row * items + item, 1 / place) of each row's `depth` largest positive scores that are open."""
    rows, items = block.shape
    keys, inverse = [], []
    for row in range(rows):
        if isinstance(block, np.ndarray):
            values, columns = np.where(open_to[row], block[row], 0.0), None
        else:
            span = slice(block.indptr[row], block.indptr[row + 1])
            columns = block.indices[span]
            values = np.where(open_to[row, columns], block.data[span], 0.0)
        kept = largest(values, depth)
        item = kept if columns is None else columns[kept]
        order = np.lexsort((item, -values[kept]))
        keys.append(row * items + item[order].astype(np.int64))
        inverse.append(1.0 / (1.0 + np.arange(len(kept))))
    return (np.concatenate(keys), np.concatenate(inverse)) if keys else (np.empty(0, np.int64), np.empty(0))


def values_of(block: Scores, items: np.ndarray) -> np.ndarray:
    """(n, L) float32 scores of items, 0 where there is none (-1)."""
    listed = items >= 0
    safe = np.where(listed, items, 0)
    index = np.broadcast_to(np.arange(len(items))[:, None], items.shape)
    # a block of shoppers is small (_CELLS): filling a table costs less than sorting what a product leaves unsorted
    table = block if isinstance(block, np.ndarray) else block.toarray()
    return np.where(listed, table[index, safe], 0.0).astype(np.float32)


def assemble(
    signals: Signals, asked: Pairs, users: np.ndarray, items: np.ndarray, scores: Mapping[str, np.ndarray],
    places: Mapping[str, np.ndarray], votes: np.ndarray,
) -> np.ndarray:
    """(n, L, F) float32 features."""
    listed = items >= 0
    safe = np.where(listed, items, 0)
    columns = [asked.of(np.broadcast_to(users[:, None], items.shape), safe)]
    shared: list[np.ndarray] = []
    for name in signals.names:
        score = scores[name]
        top = np.maximum(score.max(axis=1, keepdims=True), 1e-9)
        shared += [np.log1p(score), score / top, places[name]]
    columns.append(np.stack(shared, axis=-1))
    columns.append(signals.item_numbers[safe])
    numbers = {n: v[asked.at(users)] for n, v in asked.shopper.items()}
    shopper = np.stack([np.log1p(np.minimum(numbers[n], FAR)) if n not in ("repeat_share", "lot") else numbers[n] for n in SHOPPER_NUMBERS], axis=1)
    columns.append(np.broadcast_to(shopper[:, None, :], (*items.shape, shopper.shape[1])))
    mean, spread = _price_level(signals, asked, users)
    rest = [votes, np.abs(signals.log_price[safe] - mean[:, None]) / spread[:, None],
            signals.item_numbers[safe, ITEM_NUMBERS.index("lot")] - numbers["lot"][:, None]]
    for n in range(len(signals.groups.names)):
        code = signals.groups.codes[users, n]
        counts, (by_value, overall) = signals.by_group[n], signals.group_totals[n]
        here = np.where((code >= 0)[:, None], counts[np.maximum(code, 0)[:, None], safe], 0.0)
        total = np.where(code >= 0, by_value[np.maximum(code, 0)], 0.0)
        share = (overall[safe] + 0.5) / (overall.sum() + 100.0)
        rest += [np.log1p(here), np.log((here + 100.0 * share) / (total[:, None] + 100.0) / share)]
    columns.append(np.stack(rest, axis=-1))
    made = np.concatenate([np.asarray(c, np.float32) for c in columns], axis=-1)
    made[~listed] = 0.0
    return made


LENT = ("own", "together", "also", "alike", "lately", "latent", "popular")
"""Signals of sold items that an item like them may borrow."""
_LENDERS = 30


def fresh_blocks(signals: Signals, asked: Pairs, users: np.ndarray, items: np.ndarray, limit: int) -> Iterator[Block]:
    """Blocks of items that nobody had before the moment: judged by what they are, and by how the sold items most like them score.

    At most `limit` of `items`, those of the best content score first. Signals: content, linear, and each of LENT as `lent_…`.
    """
    words = signals.words
    sold = signals.popularity[-1] > 0
    likeness = sp.csr_matrix(words[items] @ words.T)
    likeness.data *= sold[likeness.indices]
    lenders = strongest(likeness, _LENDERS)
    total = np.asarray(lenders.sum(axis=1)).ravel()
    # an item that is like nothing must not borrow as much as one that is like much
    lend = sp.csr_matrix(sp.diags(1.0 / (total + 0.5)) @ lenders).T.tocsr()
    known = np.stack([total, *(np.asarray(np.log1p(p) @ lend).ravel() for p in signals.popularity), signals.log_price[items]], axis=1)
    step = int(np.clip(_CELLS // max(signals.items, 1), 8, 512))
    for start in range(0, len(users), step):
        part = users[start : start + step]
        scores = signals.scores(asked, part)
        made = {n: np.asarray(sp.csr_matrix(scores[n])[:, items].todense()) for n in ("content", "linear")}
        made |= {f"lent_{n}": _plain(scores[n] @ lend) for n in LENT}
        first = top_k(made["content"] + 1e-6 * made["lent_popular"], min(limit, len(items)))
        picked = {n: np.take_along_axis(v, first, axis=1).astype(np.float32) for n, v in made.items()}
        columns = []
        for value in picked.values():
            columns += [np.log1p(value), value / np.maximum(value.max(axis=1, keepdims=True), 1e-9)]
        mean, spread = _price_level(signals, asked, part)
        shopper = [np.broadcast_to(np.log1p(np.minimum(asked.shopper[n][asked.at(part)], FAR))[:, None], first.shape) for n in ("active_days", "days_since", "lines", "basket")]
        features = np.stack([*columns, *np.moveaxis(known[first], -1, 0), np.abs(known[first][..., -1] - mean[:, None]) / spread[:, None], *shopper], axis=-1)
        places = {"content": np.where(picked["content"] > 0, 1.0 / (1.0 + np.arange(first.shape[1])), 0.0)}
        yield Block(part, items[first], features.astype(np.float32), picked, places)


def _plain(matrix: Scores) -> np.ndarray:
    return matrix if isinstance(matrix, np.ndarray) else matrix.toarray()


def _price_level(signals: Signals, asked: Pairs, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, spread) of the log prices of what each shopper had."""
    rows = asked.rows(asked.ever, users)
    row = np.repeat(np.arange(len(users)), np.diff(rows.indptr))
    price = signals.log_price[rows.indices]
    total = np.asarray(rows.sum(axis=1)).ravel()
    mean = np.bincount(row, weights=rows.data * price, minlength=len(users)) / np.maximum(total, 1e-9)
    mean = np.where(total > 0, mean, signals.log_price.mean() if len(signals.log_price) else 0.0)
    square = np.bincount(row, weights=rows.data * (price - mean[row]) ** 2, minlength=len(users)) / np.maximum(total, 1e-9)
    return mean, np.sqrt(square + 0.25)


def blocks(
    signals: Signals, asked: Pairs, users: np.ndarray, limit: int, allowed: np.ndarray, repeats: bool,
) -> Iterator[Block]:
    """Candidates with features of `users`, a block at a time."""
    step = int(np.clip(_CELLS // max(signals.items, 1), 8, 512))
    for start in range(0, len(users), step):
        part = users[start : start + step]
        scores = signals.scores(asked, part)
        items, places, votes = propose(scores, limit, allowed, None if repeats else asked.known(part))
        picked = {n: values_of(s, items) for n, s in scores.items()}
        yield Block(part, items, assemble(signals, asked, part, items, picked, places, votes), picked, places)


def widened(values: np.ndarray, length: int) -> np.ndarray:
    """(n, length, …): lists of a small catalogue are shorter than the others; the rest is 0."""
    short = length - values.shape[1]
    return np.pad(values, ((0, 0), (0, short), *((0, 0),) * (values.ndim - 2))) if short else values
