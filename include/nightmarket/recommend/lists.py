"""Candidates of the signals and the numbers that describe them: what the second stage reads.

Counts enter as logarithms, scores also relative to the shopper's best, because "the best of this shopper's" means the same for
a shopper of three purchases and one of three hundred.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from nightmarket.recommend import pairs
from nightmarket.recommend.counts import top_k
from nightmarket.recommend.pairs import FAR, Pairs
from nightmarket.recommend.signals import ITEM_NUMBERS, SIGNALS, Signals, strongest

SHOPPER_NUMBERS = ("active_days", "days_since", "days_since_any", "days_known", "lines", "mean_gap", "basket", "repeat_share")
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


def names(signals: Signals) -> tuple[str, ...]:
    """The features, in the order of the last axis."""
    made = list(pairs.names(pairs.browsing_kinds(signals.past.objective)))
    for signal in SIGNALS:
        made += [f"{signal}_score", f"{signal}_relative", f"{signal}_place"]
    made += [f"item_{n}" for n in ITEM_NUMBERS] + [f"shopper_{n}" for n in SHOPPER_NUMBERS] + ["votes", "price_distance"]
    for group in signals.groups.names:
        made += [f"{group}_share", f"{group}_lift"]
    return tuple(made)


def propose(
    scores: Mapping[str, np.ndarray], limit: int, allowed: np.ndarray, barred: sp.csr_matrix | None,
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """((n, L) items, by signal (n, L) 1 / place, (n, L) signals that list the item), taken from all signals' lists by best places.

    `allowed` (items,) is what may be answered at all; `barred` (n, items) what a shopper may not be. Equal places: the smaller code.
    """
    first = next(iter(scores.values()))
    rows, items = first.shape
    open_to = np.broadcast_to(allowed, (rows, items))
    if barred is not None:
        open_to = open_to.copy()
        row = np.repeat(np.arange(rows), np.diff(barred.indptr))
        open_to[row, barred.indices] = False
    depth = min(limit, items)
    best = np.zeros((rows, items), np.float32)
    votes = np.zeros((rows, items), np.float32)
    inverse: dict[str, np.ndarray] = {}
    for name, block in scores.items():
        listed = top_k(np.where(open_to & (block > 0), block, -np.inf), depth)
        place = np.zeros((rows, items), np.float32)
        row, rank = np.nonzero(listed >= 0)
        place[row, listed[row, rank]] = 1.0 / (1.0 + rank)
        inverse[name] = place
        votes += place > 0
        np.maximum(best, place, out=best)
    best += 1e-4 * votes / len(scores)
    picked = top_k(np.where(best > 0, best, -np.inf), limit)
    index, safe = np.arange(rows)[:, None], np.where(picked >= 0, picked, 0)
    return picked, {n: place[index, safe] for n, place in inverse.items()}, votes[index, safe]


def assemble(
    signals: Signals, asked: Pairs, users: np.ndarray, items: np.ndarray, scores: Mapping[str, np.ndarray],
    places: Mapping[str, np.ndarray], votes: np.ndarray,
) -> np.ndarray:
    """(n, L, F) float32 features."""
    listed = items >= 0
    safe = np.where(listed, items, 0)
    columns = [asked.of(np.broadcast_to(users[:, None], items.shape), safe)]
    shared: list[np.ndarray] = []
    for name in SIGNALS:
        score = scores[name]
        top = np.maximum(score.max(axis=1, keepdims=True), 1e-9)
        shared += [np.log1p(score), score / top, places[name]]
    columns.append(np.stack(shared, axis=-1))
    columns.append(signals.item_numbers[safe])
    shopper = np.stack([
        np.log1p(np.minimum(asked.shopper[n][users], FAR)) if n != "repeat_share" else asked.shopper[n][users] for n in SHOPPER_NUMBERS], axis=1)
    columns.append(np.broadcast_to(shopper[:, None, :], (*items.shape, shopper.shape[1])))
    mean, spread = _price_level(signals, asked, users)
    rest = [votes, np.abs(signals.log_price[safe] - mean[:, None]) / spread[:, None]]
    for n in range(len(signals.groups.names)):
        code = signals.groups.codes[users, n]
        counts = signals.by_group[n]
        here = np.where((code >= 0)[:, None], counts[np.maximum(code, 0)[:, None], safe], 0.0)
        total = np.where(code >= 0, counts.sum(axis=1)[np.maximum(code, 0)], 0.0)
        overall = counts.sum(axis=0)
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
    sold = signals.popularity[3] > 0
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
        made = {"content": scores["content"][:, items], "linear": scores["linear"][:, items]}
        made |= {f"lent_{n}": np.asarray(sp.csr_matrix(lend.T) @ scores[n].T).T for n in LENT}
        first = top_k(made["content"] + 1e-6 * made["lent_popular"], min(limit, len(items)))
        picked = {n: np.take_along_axis(v, first, axis=1).astype(np.float32) for n, v in made.items()}
        columns = []
        for value in picked.values():
            columns += [np.log1p(value), value / np.maximum(value.max(axis=1, keepdims=True), 1e-9)]
        mean, spread = _price_level(signals, asked, part)
        shopper = [np.broadcast_to(np.log1p(np.minimum(asked.shopper[n][part], FAR))[:, None], first.shape) for n in ("active_days", "days_since", "lines", "basket")]
        features = np.stack([*columns, *np.moveaxis(known[first], -1, 0), np.abs(known[first][..., -1] - mean[:, None]) / spread[:, None], *shopper], axis=-1)
        places = {"content": np.where(picked["content"] > 0, 1.0 / (1.0 + np.arange(first.shape[1])), 0.0)}
        yield Block(part, items[first], features.astype(np.float32), picked, places)


def _price_level(signals: Signals, asked: Pairs, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, spread) of the log prices of what each shopper had."""
    rows = asked.ever[users]
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
        index, safe = np.arange(len(part))[:, None], np.where(items >= 0, items, 0)
        picked = {n: np.where(items >= 0, s[index, safe], 0.0).astype(np.float32) for n, s in scores.items()}
        yield Block(part, items, assemble(signals, asked, part, items, picked, places, votes), picked, places)
