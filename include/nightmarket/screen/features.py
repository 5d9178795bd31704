"""What a row looked like at its moment, as numbers: recency, frequency and amounts of its entities, habits, sharing, known fraud.

Point in time: a feature of a row at time t is a function of rows with times up to t (its own moment included) and of labels
that were known before t. For each entity column and window: how many rows (frequency), how long since the last (recency), the
mean of the leading numeric columns and how far this row is from it (amount, habit), how many different other entities it was
seen with (sharing), how usual this row's categories and part of day are for it, and what is known of its past labels (risk).
RFM and terminal risk follow Le Borgne et al., "Reproducible Machine Learning for Credit Card Fraud Detection" (2022).

`follow=False` mimics a file of new rows that brings no labels of its own: time before the cut is divided into blocks of
`horizon`, and a row sees labels of rows before its block only, just as a row after the cut sees only those of rows before the cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from nightmarket.screen.graph import groups
from nightmarket.screen.parts import Job, Matrix, described
from nightmarket.screen.table import Rows
from nightmarket.screen.windows import DAY, NEVER, Fixed, History, Moments, paired

HOUR = DAY // 24
LABEL_KINDS = ("known_bad", "risk", "days_since_bad", "days_since_good", "days_bad_streak", "bad_streak", "label_age_days")
"""Kinds of features that know labels."""
WINDOWS: dict[str, int | None] = {"1h": HOUR, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY, "ever": None}
AMOUNT_WINDOWS = ("1d", "7d", "30d", "ever")
RISK_WINDOWS: dict[str, int | None] = {"1d": DAY, "7d": 7 * DAY, "14d": 14 * DAY, "28d": 28 * DAY, "ever": None}
SCORE_WINDOWS: dict[str, int] = {"1d": DAY, "3d": 3 * DAY, "7d": 7 * DAY, "14d": 14 * DAY, "30d": 30 * DAY}
LONGEST = 30 * DAY
"""The longest of them."""
_SMOOTHING = 5.0
"""Rows at the overall rate that an entity's risk starts from."""
_LEADING = 2
"""Numeric columns with histories of their own."""
_MONEY = ("amount", "amt", "value", "price", "total", "sum", "cost")


@dataclass(frozen=True)
class Recipe:
    """What is computed, fixed before the first new row so that no later row can change it."""

    entities: tuple[str, ...]
    numbers: tuple[str, ...]
    leading: tuple[str, ...]
    """Numeric columns with windows."""
    scales: dict[str, Fixed]
    categories: dict[str, list[int]]
    """Codes of each category's values, most frequent first."""
    elapsed: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    """(entity, other entity) for sharing."""
    follow: bool
    cut: int
    """Microseconds: the first moment that is judged."""
    horizon: int
    """Microseconds that a row may lie after the newest label it could know, where labels do not follow."""
    graph: bool = True
    """Whether groups of linked entities are followed."""


def make_recipe(rows: Rows, follow: bool, cut: int, horizon: int) -> Recipe:
    """The recipe from rows before the cut; where there is none, from all."""
    past = rows.times < cut
    if not past.any():
        past = np.ones(len(rows), bool)
    numbers = []
    stretch = rows.times[past].astype(np.float64)
    for name, values in rows.numbers.items():
        known = np.isfinite(values[past])
        if known.any() and not _a_clock(values[past][known], stretch[known]):
            numbers.append(name)
    money = sorted(numbers, key=lambda n: (not any(m in n.lower() for m in _MONEY), numbers.index(n)))
    # a column that hardly varies (a flag, a star rating) has little history to be far from
    leading = [n for n in money if len(np.unique(rows.numbers[n][past][:100_000])) > 10][:_LEADING]
    entities = tuple(rows.entities)
    categories = {}
    for name, (codes, _) in rows.categories.items():
        counts = np.bincount(codes[past][codes[past] >= 0], minlength=1)
        categories[name] = [int(c) for c in np.lexsort((np.arange(len(counts)), -counts)) if counts[c] > 0]
    return Recipe(entities, tuple(numbers), tuple(leading), {n: Fixed.around(rows.numbers[n][past]) for n in leading},
                  categories, tuple(rows.elapsed), tuple((a, b) for a in entities for b in entities if a != b and not contains(a, b)),
                  follow, cut, horizon)


def contains(one: str, other: str) -> bool:
    """Whether one entity is a part of the other, as an address is of its network."""
    return one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _a_clock(values: np.ndarray, times: np.ndarray) -> bool:
    """Whether a number only tells the time (a running number, a day count): it would name the period, not the fraud."""
    if len(values) < 50 or np.ptp(times) == 0 or np.ptp(values) == 0:
        return False
    take = np.linspace(0, len(values) - 1, min(len(values), 5000)).astype(int)
    one, other = (np.argsort(np.argsort(v[take], kind="stable"), kind="stable") for v in (values, times))
    return bool(abs(np.corrcoef(one, other)[0, 1]) > 0.99)


def build(rows: Rows, recipe: Recipe, threads: int = 0) -> Matrix:
    """All features of all rows that need no model. `threads`: 0 for all that the process may use."""
    made = Matrix()
    for name in recipe.numbers:
        made.add(name, rows.numbers[name])
    for name in recipe.elapsed:
        made.add(f"hours_since.{name}", rows.elapsed[name] / 3600)
    for name, order in recipe.categories.items():
        made.add(f"category.{name}", _ranked(rows.categories[name][0], order))
    hours = (rows.times % DAY) / HOUR
    if np.ptp(rows.times) > DAY:
        made.add("hour", hours)
        made.add("weekday", ((rows.times // DAY) + 3) % 7)
    if rows.backwards.any():
        made.add("clock_backwards", rows.backwards)

    def own(entity: str, index: np.ndarray) -> Matrix:
        part = _taken(rows, index)
        return of_entity(part, recipe, entity, Moments(part.times, part.times))

    def known(entity: str, index: np.ndarray) -> Matrix:
        return risk(_taken(rows, index), replace(recipe, entities=(entity,)), share[index])

    told = (own, known) if (rows.label == 1).any() else (own,)
    share = shares(rows, recipe) if known in told else np.zeros(0)
    found = described(rows.times, [Job(rows.entities[e], partial(what, e)) for what in told for e in recipe.entities], threads)
    for one in found[:len(recipe.entities)]:
        made.extend(one)
    if known in told and not recipe.follow:
        made.add("label_age_days", _label_age(rows, recipe))
    for one in found[len(recipe.entities):]:
        made.extend(one)
    _group(made, rows, recipe)
    return made


def _taken(rows: Rows, index: np.ndarray) -> Rows:
    """The rows of an index as far as features look at them."""
    return Rows.bare(rows.times[index], {n: v[index] for n, v in rows.entities.items()}, rows.label[index], rows.known_at[index],
                     {n: v[index] for n, v in rows.numbers.items()}, {n: (v[index], words) for n, (v, words) in rows.categories.items()})


def of_entity(rows: Rows, recipe: Recipe, entity: str, moments: Moments) -> Matrix:
    """What a row says beside the others of its entity, labels apart: only rows that share the entity matter."""
    made = Matrix()
    habits = {"daypart": (rows.times % DAY // (6 * HOUR)).astype(np.int64)} | {name: codes for name, (codes, _) in rows.categories.items()}
    history = History(rows.entities[entity], moments, rows.entities[entity])
    _frequency(made, rows, entity, history)
    for number in recipe.leading:
        _amounts(made, rows, entity, number, history, recipe.scales[number])
    for habit, codes in habits.items():
        pair = paired(rows.entities[entity], codes)
        same, others = History(pair, moments, pair).count(None) - 1, history.count(None) - 1
        made.add(f"{entity}.habit.{habit}", np.where((pair >= 0) & (others > 0), same, np.nan) / np.maximum(others, 1))
    for other in [b for a, b in recipe.pairs if a == entity]:
        _sharing(made, rows, entity, other, history, moments)
    return made


def _group(made: Matrix, rows: Rows, recipe: Recipe) -> None:
    """How many entities hang together around a row, and how many known bad rows there are among theirs."""
    linked = [e for e in recipe.entities if not any(contains(e, o) and len(o) < len(e) for o in recipe.entities)]
    if len(linked) < 2 or not recipe.graph:
        return
    bad = rows.label == 1
    members, known = groups(rows.times, [rows.entities[e] for e in linked], bad, rows.known_at)
    made.add("group.members", members)
    if recipe.follow and bad.any():
        made.add("group.known_bad", known)


def _ranked(codes: np.ndarray, order: list[int]) -> np.ndarray:
    """Rank of each value by frequency, at most 254; NaN for none and for one never seen before the cut."""
    rank = np.full(max([int(codes.max(initial=0)), *order]) + 2, np.nan)
    rank[order] = np.minimum(np.arange(len(order)), 254)
    return rank[codes]


def _frequency(made: Matrix, rows: Rows, entity: str, history: History) -> None:
    none = rows.entities[entity] < 0
    counts = {}
    for label, window in WINDOWS.items():
        counts[label] = history.count(window)
        made.add(f"{entity}.rows.{label}", np.where(none, np.nan, counts[label]))
    previous = _previous(rows, entity, history)
    made.add(f"{entity}.hours_since_last", np.where(previous == NEVER, np.nan, (rows.times - previous) / HOUR))
    first = history.oldest(rows.times)
    age = np.where(first == NEVER, np.nan, (rows.times - first) / DAY)
    made.add(f"{entity}.days_known", age)
    # speed against the entity's own: today's rows per its usual day
    usual = (counts["30d"] - counts["1d"]) / np.clip(np.nan_to_num(age) - 1, 1, 29)
    made.add(f"{entity}.velocity", np.where(none, np.nan, counts["1d"] / (usual + 0.5)))


def _previous(rows: Rows, entity: str, history: History) -> np.ndarray:
    """Time of the entity's newest row strictly before t, or t itself where another row shares the moment; NEVER for none."""
    first, last = history.bounds(0)
    alone = (last - first) <= 1
    start, _ = history.bounds(None)
    earlier = np.where(alone, first - 1, first)
    found = np.full(len(rows), NEVER)
    there = (earlier >= start) & (rows.entities[entity] >= 0)
    found[there] = rows.times[history.order[earlier[there]]]
    return np.where(~alone & (rows.entities[entity] >= 0), rows.times, found)


def _amounts(made: Matrix, rows: Rows, entity: str, number: str, history: History, scale: Fixed) -> None:
    values = rows.numbers[number]
    own = scale.integers(values)
    there = np.isfinite(values)
    sums = history.prefix(own)
    known = history.prefix(there.astype(np.int64))
    # squares in units of 2^-16 of the common size: enough for a spread
    unit = 2.0 ** (scale.bits - 10)
    small = np.rint(np.clip(np.nan_to_num(values) / unit, -1024, 1024) ** 2 * 2**16).astype(np.int64)
    squares = history.prefix(np.where(there, small, 0))
    for label in reversed(AMOUNT_WINDOWS):
        bounds = history.bounds(WINDOWS[label])
        total, n = history.total(sums, bounds), history.total(known, bounds)
        made.add(f"{entity}.mean.{label}.{number}", scale.floats(total) / np.where(n > 0, n, np.nan))
        others = n - there
        mean = scale.floats(total - own) / np.where(others > 0, others, np.nan)
        if label in ("30d", "ever"):
            made.add(f"{entity}.ratio.{label}.{number}", values / np.where(np.abs(mean) > 1e-12, mean, np.nan))
        if label == "ever":
            spread = (history.total(squares, bounds) - np.where(there, small, 0)) / 2**16 * unit**2 / np.where(others > 0, others, np.nan)
            deviation = np.sqrt(np.maximum(spread - mean**2, 0)) + 0.05 * np.abs(mean) + 1e-9
            made.add(f"{entity}.distance.{number}", np.where(others >= 3, (values - mean) / deviation, np.nan))
            # a thief's rows must not make a thief's rows usual: rows that were far out at their own moment are no measure for later ones
            ordinary = there & ~((others >= 3) & (np.abs(values - mean) > 2.5 * np.abs(mean)))
            usual = history.total(history.prefix(np.where(ordinary, own, 0)), bounds) - np.where(ordinary, own, 0)
            count = history.total(history.prefix(ordinary.astype(np.int64)), bounds) - ordinary
            level = scale.floats(usual) / np.where(count > 0, count, np.nan)
            made.add(f"{entity}.ratio.usual.{number}", values / np.where(np.abs(level) > 1e-12, level, np.nan))
            second = history.total(history.prefix(np.where(ordinary, small, 0)), bounds) - np.where(ordinary, small, 0)
            width = np.sqrt(np.maximum(second / 2**16 * unit**2 / np.where(count > 0, count, np.nan) - level**2, 0))
            made.add(f"{entity}.distance.usual.{number}", np.where(count >= 3, (values - level) / (width + 0.05 * np.abs(level) + 1e-9), np.nan))
        if label == "1d":
            made.add(f"{entity}.sum.1d.{number}", np.where(rows.entities[entity] < 0, np.nan, scale.floats(total)))
    largest = scale.floats(history.largest(np.where(there, own, NEVER)))
    made.add(f"{entity}.of_largest.{number}", np.where(np.isfinite(values) & (largest > 0), values / np.where(largest > 0, largest, 1), np.nan))


def _sharing(made: Matrix, rows: Rows, entity: str, other: str, history: History, moments: Moments) -> None:
    pair = paired(rows.entities[entity], rows.entities[other])
    together = History(pair, moments, pair)
    made.add(f"{entity}.with.{other}", np.where(pair < 0, np.nan, together.count(None)))
    # the first row of each pair adds one to the entity's different others
    first = np.zeros(len(rows), np.int64)
    if len(together.order):
        group = together.keys // moments.base
        start = np.concatenate([[True], group[1:] != group[:-1]])
        first[together.order[start]] = 1
    # rows of one moment are one event: whichever of them is called the first, all of them see it
    made.add(f"{entity}.different.{other}", np.where(rows.entities[entity] < 0, np.nan, history.total(history.prefix(first), history.bounds(None))))
    for label in ("1d", "7d"):
        made.add(f"{entity}.new.{label}.{other}", np.where(rows.entities[entity] < 0, np.nan, history.total(history.prefix(first), history.bounds(WINDOWS[label]))))


def blocks(rows: Rows, recipe: Recipe) -> Iterator[tuple[int | None, np.ndarray]]:
    """(start, indices): rows of a block see labels of rows before its start only; None: no such limit."""
    if recipe.follow:
        yield None, np.arange(len(rows))
        return
    after = rows.times >= recipe.cut
    yield recipe.cut, np.flatnonzero(after)
    back = np.where(after, -1, (recipe.cut - 1 - rows.times) // recipe.horizon)
    for k in np.unique(back[back >= 0]):
        yield int(recipe.cut - (k + 1) * recipe.horizon), np.flatnonzero(back == k)


def risk(rows: Rows, recipe: Recipe, share: np.ndarray | None = None) -> Matrix:
    """What is known of the labels of each row's entities, before its moment.

    `share` (n,) gives `shares` where `rows` are a part of the table only.
    """
    made = Matrix()
    overall = shares(rows, recipe) if share is None else share
    for put, index, events in _views(rows, recipe, made):
        asked, bad = rows.times[index], rows.label[events] == 1
        moments = Moments(rows.known_at[events], asked)
        for entity in recipe.entities:
            history = History(rows.entities[entity][events], moments, rows.entities[entity][index], strict=True)
            sums = history.prefix(bad.astype(np.int64))
            none = rows.entities[entity][index] < 0
            for label, window in RISK_WINDOWS.items():
                bounds = history.bounds(window)
                known, wrong = bounds[1] - bounds[0], history.total(sums, bounds)
                put(f"{entity}.known_bad.{label}", np.where(none, np.nan, wrong))
                if label != "1d":
                    put(f"{entity}.risk.{label}", np.where(none, np.nan, (wrong + _SMOOTHING * overall[index]) / (known + _SMOOTHING)))
            for name, chosen in (("bad", bad), ("good", ~bad)):
                newest = history.newest(rows.times[events], chosen)
                put(f"{entity}.days_since_{name}", np.where(newest == NEVER, np.nan, (asked - newest) / DAY))
            since, length = _streak(history, asked, rows.times[events], bad)
            put(f"{entity}.days_bad_streak", since)
            put(f"{entity}.bad_streak", np.where(none, np.nan, length))
    return made


def _label_age(rows: Rows, recipe: Recipe) -> np.ndarray:
    """(n,) days from the newest label that a row could know to its moment, where labels do not follow."""
    found = np.full(len(rows), np.nan)
    for start, index in blocks(rows, recipe):
        found[index] = (rows.times[index] - start) / DAY if start is not None else np.nan
    return found


def shares(rows: Rows, recipe: Recipe) -> np.ndarray:
    """(n,) share of bad among all labels that became known in the 30 days before each row's moment; 0 for none."""
    found = np.zeros(len(rows))
    for start, index in blocks(rows, recipe):
        told = ~np.isnan(rows.label) & ((rows.times < start) if start is not None else True)
        bad, known = ([np.searchsorted(moments, rows.times[index] - back, "left") for back in (0, 30 * DAY)]
                      for moments in (np.sort(rows.known_at[told & (rows.label == 1)]), np.sort(rows.known_at[told])))
        found[index] = (bad[0] - bad[1]) / np.maximum(known[0] - known[1], 1)
    return found


def unexplained(rows: Rows, recipe: Recipe, behaviour: np.ndarray, threads: int = 0) -> Matrix:
    """What is known of the labels of each row's entities beyond what the rows' own behaviour tells; no column where none is known to be bad.

    `behaviour` (n,) in [0, 1]: a score of each row that knows no labels of its entities. A known bad row that looked bad says
    little about its terminal; one that looked good says that something is wrong there.
    """
    def of(entity: str, index: np.ndarray) -> Matrix:
        return _unexplained(_taken(rows, index), recipe, entity, behaviour[index])

    made = Matrix()
    if (rows.label == 1).any():
        for one in described(rows.times, [Job(rows.entities[e], partial(of, e)) for e in recipe.entities], threads):
            made.extend(one)
    return made


def _unexplained(rows: Rows, recipe: Recipe, entity: str, behaviour: np.ndarray) -> Matrix:
    made = Matrix()
    surprise = np.rint((np.nan_to_num(rows.label) - behaviour) * 2**30).astype(np.int64)
    told = (rows.label == 1) & (behaviour > 0.5)
    codes = rows.entities[entity]
    for put, index, events in _views(rows, recipe, made):
        asked = rows.times[index]
        history = History(codes[events], Moments(rows.known_at[events], asked), codes[index], strict=True)
        sums = history.prefix(surprise[events])
        for label in ("7d", "14d", "28d"):
            put(f"{entity}.unexplained.{label}", history.total(sums, history.bounds(RISK_WINDOWS[label])) / 2**30)
        silent = events[~told[events]]
        history = History(codes[silent], Moments(rows.known_at[silent], asked), codes[index], strict=True)
        since, length = _streak(history, asked, rows.times[silent], rows.label[silent] == 1)
        put(f"{entity}.days_unexplained_streak", since)
        put(f"{entity}.unexplained_streak", length)
    return made


def _views(rows: Rows, recipe: Recipe, made: Matrix) -> Iterator[tuple[Callable[[str, np.ndarray], None], np.ndarray, np.ndarray]]:
    """(put, index, events) of each block: `put` writes a feature of the rows `index`, which may see the labels of `events`."""
    labelled = ~np.isnan(rows.label)
    places: dict[str, np.ndarray] = {}
    for start, index in blocks(rows, recipe):
        events = np.flatnonzero(labelled & (rows.times < start) if start is not None else labelled)
        # labels that became known in one moment: in the order of their events, good before bad, whatever the file's order
        events = events[np.lexsort((rows.label[events], rows.times[events]))]

        def put(name: str, values: np.ndarray, index: np.ndarray = index) -> None:
            if name not in places:
                made.add(name, np.full(len(rows), np.nan))
                places[name] = made.columns[-1]
            places[name][index] = values

        yield put, index, events


def _streak(history: History, asked: np.ndarray, happened: np.ndarray, bad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Since how many days, and for how many known rows, an entity has been bad without a good row between; NaN and 0 where it is not."""
    order, at = history.order, history.last_position()
    start, _ = history.bounds(None)
    since, length = np.full(len(asked), np.nan), np.zeros(len(asked))
    if len(order):
        good_before = np.maximum.accumulate(np.where(~bad[order], np.arange(len(order)), -1))
        seen = at >= 0
        begin = np.maximum(good_before[at[seen]] + 1, start[seen])
        running = begin <= at[seen]
        when = happened[order[np.minimum(begin, len(order) - 1)]]
        since[seen] = np.where(running, (asked[seen] - when) / DAY, np.nan)
        length[seen] = np.where(running, at[seen] - begin + 1, 0)
    return since, length


def score_windows(rows: Rows, recipe: Recipe, given: Mapping[str, tuple[np.ndarray, Sequence[str]]], threads: int = 0) -> Matrix:
    """Provisional scores of the other rows of each entity up to the row's moment: what labels do not tell yet.

    `given`: by the name of the features the scores (n,) in [0, 1] and the windows: "suspicion" for scores of all that is known, "looks" for
    those of behaviour alone.
    """
    scaled = {what: np.rint(np.clip(np.nan_to_num(scores), 0, 1) * 2**30).astype(np.int64) for what, (scores, _) in given.items()}

    def of(entity: str, index: np.ndarray) -> Matrix:
        made, codes, times = Matrix(), rows.entities[entity][index], rows.times[index]
        history = History(codes, Moments(times, times), codes)
        before, none = history.strictly(), codes < 0
        for what, (_, windows) in given.items():
            own = scaled[what][index]
            sums = history.prefix(own)
            for label in windows:
                total = (history.total(sums, history.bounds(SCORE_WINDOWS[label])) - own) / 2**30
                made.add(f"{entity}.{what}.{label}", np.where(none, np.nan, total))
            largest = before.largest(own)
            made.add(f"{entity}.{what}.largest", np.where(none | (largest == NEVER), np.nan, largest / 2**30))
        return made

    found = described(rows.times, [Job(rows.entities[e], partial(of, e)) for e in recipe.entities], threads)
    made, start = Matrix(), 0
    for _, windows in given.values():
        end = start + len(windows) + 1
        for one in found:
            made.extend(Matrix(one.names[start:end], [one.blocks[0][:, start:end]]))
        start = end
    return made


def kind(name: str) -> str:
    """What a feature is: `number` for a column as it is, else the kind of history, text or category it tells of."""
    parts = name.split(".")
    if parts[0] in ("hour", "weekday", "clock_backwards", "label_age_days", "hours_since", "category"):
        return parts[0]
    if name in ("group.members", "group.known_bad"):
        return "sharing" if name == "group.members" else "risk"
    if parts[0] == "text" and len(parts) > 2:
        return parts[-1] if parts[-1] in ("copies", "repeats", "links") else "style"
    return parts[1] if len(parts) > 1 and parts[1] in _KINDS else "number"


def family(name: str) -> str:
    """Features of one family say nearly the same."""
    parts, what = name.split("."), kind(name)
    if what not in _KINDS:
        return name
    return f"{parts[0]}.{_KINDS[what]}"


_KINDS = {
    "rows": "rows", "velocity": "rows", "hours_since_last": "rows", "days_known": "age", "mean": "amounts", "sum": "amounts", "ratio": "amount",
    "distance": "amount", "of_largest": "amount", "habit": "habit", "with": "habit", "different": "sharing", "new": "sharing", "group": "sharing",
    "known_bad": "risk", "risk": "risk", "days_since_bad": "risk", "days_since_good": "risk", "days_bad_streak": "risk", "bad_streak": "risk",
    "unexplained": "unexplained", "days_unexplained_streak": "unexplained", "unexplained_streak": "unexplained",
    "suspicion": "suspicion", "looks": "suspicion", "sharing": "sharing",
}
