"""Has the shop changed? Tonight's data, publications and labels against those of the nights before.

*Feature drift.* Each watched column of a night is compared with the same weekday of the weeks before, so that a Saturday is not a
drift on Fridays. Numbers: two-sample Kolmogorov-Smirnov test (Smirnov 1939). Categories: Pearson's chi-square over the whole table,
and each category against the rest, by Fisher's exact test where counts are small. Prices: Kolmogorov-Smirnov on the price beside what
the item cost on the other nights, its size the move of the median, which promotions of some items leave where it is. Rows of a day: a t-test of the log of
their number against the mean of the same weekday, its spread pooled over all days of the window (a count is overdispersed, so
Poisson's own spread would be too small). Rows of one visit are not independent: of a number one row a visit counts, drawn by a hash;
of a category each visit counts once for every value it has.

*Prediction drift.* Scores of the first place, among publications of the same model version, and what categories are shown.

*Concept drift.* Whether what was published yesterday is still what shoppers buy today (hit rate, Fisher's exact test, one-sided,
against the window), and, once as many days have passed as the model was judged on, the same metric as the evaluation promised. Whether the
labels that become known are those that were to be expected: of each the probability of being bad was said before anybody knew, by the
screener that serves or else by the share of bad ones among the window's labels, and a few that are the wrong way round are more than
chance. The statistic is the likelihood ratio of "turned round" to "as said", the most powerful one of that question (Neyman and Pearson
1933), its distribution under the probabilities exact (a sum of independent two-valued numbers, by convolution), so two labels may be enough.
What the screener says is first held against the window's labels (a line in log-odds, Cox 1958): a screener that was always wrong is no drift.

Many tests a night, in two families (has the shop changed; is what was said of it still true): Benjamini & Hochberg (1995) keeps the share of false alarms among alarms. Significance alone is no alarm, for
with enough rows any two days differ: the shift must also be large. For distributions that is the population stability index over
deciles of the reference, or over categories (Siddiqi, Credit Risk Scorecards, 2006, with its custom of 0.25), counts smoothed by a
half; for rows a stated share; for quality a stated loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from nightmarket.registry.kinds import CONTRADICTED
from nightmarket.shop import Drift as Rules

Kind = Literal["feature", "prediction", "concept"]
CERTAIN = 0.005
"""No probability is trusted to be nearer to 0 or 1: few labels stand behind the ends of any calibration."""
LEAST_LABELS = 20
"""Labels of the window from which on their share of bad ones says what to expect."""
_STEP = 0.05
DECILES = 10
VISIT = ("session_id", "order_id", "user_id")
"""What makes events one visit, the first that a shop knows."""
MAX_UNITS = 50_000
"""Independent rows of a night that a distribution is told by; of more a sample, by hash."""
_SMOOTHING = 0.5
_RARE = 5.0
"""Expected count of a cell below which chi-square is no longer trusted (Cochran 1954)."""
_EXACT = 50.0
"""Expected count of a cell below which a share is tested exactly: chi-square misjudges a category that is not there at all."""


@dataclass(frozen=True)
class Hypothesis:
    """One test of one feature, before many tests are accounted for."""

    kind: Kind
    feature: str
    """dataset.column, or what is watched of a product."""
    test: str
    statistic: float
    p_value: float
    effect: float
    """Size of the shift, in units of `least`."""
    least: float
    """From this effect on a shift counts."""
    now: str
    before: str
    rows_now: int
    rows_before: int


@dataclass(frozen=True)
class Finding(Hypothesis):
    """A hypothesis with its p-value among all of the night (q-value), and whether it is an alarm."""

    q_value: float = 1.0
    drifted: bool = False


@dataclass(frozen=True)
class Sample:
    """What one night is compared by: independent units of each feature."""

    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)
    """feature -> (n,) float."""
    categories: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """feature -> value -> units that have it."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """dataset -> rows."""
    prices: pd.DataFrame | None = None
    """item (str), price (float64, log); one row a visit."""
    usual: pd.Series | None = None
    """Median log price of the night, by item."""


def one_row_a_cluster(frame: pd.DataFrame, cluster: str | Sequence[str], key: str) -> pd.DataFrame:
    """Of each cluster the row whose key has the smallest hash: a draw that depends on the keys alone. A row without a cluster is
    one of its own; of several columns the first that is known counts. Not more than MAX_UNITS."""
    order = pd.util.hash_array(frame[key].astype(str).to_numpy(dtype=object), categorize=False)
    owner = _owner(frame, cluster, key)
    drawn = frame.assign(__order=order, __owner=owner).sort_values("__order", kind="stable")
    return drawn.drop_duplicates("__owner").head(MAX_UNITS).drop(columns=["__order", "__owner"])


def _owner(frame: pd.DataFrame, cluster: str | Sequence[str], key: str) -> pd.Series:
    owner = frame[key].astype(object)
    for column in reversed([cluster] if isinstance(cluster, str) else list(cluster)):
        owner = frame[column].astype(object).where(frame[column].notna(), owner)
    return owner


def units_by_value(frame: pd.DataFrame, cluster: str | Sequence[str], key: str, column: str) -> dict[str, int]:
    """How many clusters have each value of `column`; nulls count as the value '(none)'."""
    owner = _owner(frame, cluster, key)
    value = frame[column].astype(object).where(frame[column].notna(), "(none)").astype(str)
    pairs = pd.DataFrame({"owner": owner, "value": value}).drop_duplicates()
    return {str(k): int(v) for k, v in pairs["value"].value_counts().sort_index().items()}


def sample(
    events: pd.DataFrame, orders: pd.DataFrame | None = None, reviews: pd.DataFrame | None = None, category_of: Mapping[str, str] | None = None,
) -> Sample:
    """A night's clean tables (columns of silver.events, orders, reviews; None for one that the shop does not deliver) as a Sample. Of a column
    without a value that is what is seen: every visit has none, which is no test in a shop that never has one, and an alarm in one that had."""
    numbers: dict[str, np.ndarray] = {}
    categories: dict[str, dict[str, int]] = {}
    rows = {"events": len(events)}
    if category_of:
        events = events.assign(category=events["item_id"].map(category_of))
    for column in ("event_type", "country", "referrer", "category"):
        if column in events:
            categories[f"events.{column}"] = units_by_value(events, VISIT, "event_id", column)
    drawn = one_row_a_cluster(events, VISIT, "event_id")
    priced = prices(drawn)
    numbers["events.unit_price"] = priced["price"].to_numpy()
    categories["events.unit_price_known"] = known_or_not(len(priced), len(drawn))
    bought = one_row_a_cluster(events[events["event_type"] == "purchase"], VISIT, "event_id")
    numbers["events.quantity"] = bought["quantity"].astype(float).dropna().to_numpy()
    categories["events.quantity_known"] = known_or_not(len(numbers["events.quantity"]), len(bought))
    if orders is not None:
        known = orders["is_fraud"].notna()
        new = orders[~orders["is_cancellation"].astype(bool)]
        rows["orders"] = len(orders)
        for column in ("payment_method", "country"):
            categories[f"orders.{column}"] = units_by_value(new, "user_id", "order_id", column)
        drawn = one_row_a_cluster(new, "user_id", "order_id")
        amount = drawn["amount"].astype(float)
        numbers["orders.amount"] = np.log(amount[amount > 0]).to_numpy()
        categories["orders.amount_known"] = known_or_not(int(amount.notna().sum()), len(amount))
        if known.any():
            categories["orders.is_fraud"] = units_by_value(orders[known], "order_id", "order_id", "is_fraud")
    if reviews is not None and len(reviews):
        rows["reviews"] = len(reviews)
        rated = one_row_a_cluster(reviews, "user_id", "review_id")["rating"]
        numbers["reviews.rating"] = rated.dropna().astype(float).to_numpy()
        categories["reviews.rating_known"] = known_or_not(int(rated.notna().sum()), len(rated))
        known = reviews["is_fake"].notna()
        if known.any():
            categories["reviews.is_fake"] = units_by_value(reviews[known], "review_id", "review_id", "is_fake")
    return Sample(numbers, categories, rows, priced, usual_prices(events))


def known_or_not(known: int, rows: int) -> dict[str, int]:
    """A column of numbers as a category of two values: of values that are not there no distribution tells."""
    return {value: n for value, n in (("known", known), ("(none)", rows - known)) if n}


def usual_prices(events: pd.DataFrame) -> pd.Series:
    """Median log price of a night, by item."""
    return prices(events).groupby("item")["price"].median()


def prices(events: pd.DataFrame) -> pd.DataFrame:
    """item (str) and price (float64, log) of the rows that have one."""
    price = np.log(events["unit_price"].astype(float).where(lambda v: v > 0))
    return pd.DataFrame({"item": events["item_id"], "price": price}).dropna()


LABELS = ("orders.is_fraud", "reviews.is_fake")
"""Features that are compared with every night of the window: labels are few, and have no weekday."""
VOLUMES = ("events", "orders")
"""Datasets whose rows a day are watched; the others bring too few."""


def features(tonight: Sample, weekdays: Sequence[Sample], window: Sequence[Sample], rules: Rules) -> list[Hypothesis]:
    """Tests of tonight against `weekdays` (the same weekday of the weeks before) and `window` (every night of them, oldest first,
    the newest being the night before tonight)."""
    found: list[Hypothesis] = []
    for name, values in sorted(tonight.numbers.items()):
        found += numeric("feature", name, values, _together([s.numbers.get(name) for s in weekdays]), rules)
    found += price_to_usual(tonight, window, rules)
    for name, counts in sorted(tonight.categories.items()):
        before = _summed([s.categories.get(name) for s in (window if name in LABELS else weekdays)])
        found += categorical("feature", name, counts, before, replace_minimum(rules, 1) if name in LABELS else rules)
    for name in VOLUMES:
        if name in tonight.rows:
            found += volume(f"{name}.rows", tonight.rows[name], [s.rows.get(name, 0) for s in window], rules)
    return found


def replace_minimum(rules: Rules, rows: int) -> Rules:
    """The rules with another number of rows that are enough: an exact test needs no minimum."""
    return rules.model_copy(update={"minimum_rows": rows})


def price_to_usual(tonight: Sample, window: Sequence[Sample], rules: Rules) -> list[Hypothesis]:
    """Prices beside what the item cost on the other nights of the window (the median of their medians): a move of all prices shows at
    once. Nights of the window that bring prices are judged the same way, each without itself, and are what tonight is compared with."""
    nights = pd.DataFrame({n: s.usual for n, s in enumerate(window) if s.usual is not None})
    if tonight.prices is None or nights.shape[1] < 2:
        return []

    def ratio(priced: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
        return (priced["price"] - priced["item"].map(others.median(axis=1))).dropna().to_numpy()

    now = ratio(tonight.prices, nights)
    before = _together([ratio(s.prices, nights.drop(columns=n)) for n, s in enumerate(window) if s.prices is not None and n in nights])
    if min(len(now), len(before)) < rules.minimum_rows:
        return []
    test = stats.ks_2samp(now, before, method="asymp")
    moved = float(np.median(now) - np.median(before))
    return [Hypothesis("feature", "events.price_to_usual", "ks", float(test.statistic), float(test.pvalue), abs(moved), rules.price,
                       f"median {np.exp(np.median(now)):.3f} of the usual", f"median {np.exp(np.median(before)):.3f}", len(now), len(before))]


def numeric(kind: Kind, name: str, now: np.ndarray, before: np.ndarray, rules: Rules) -> list[Hypothesis]:
    """Kolmogorov-Smirnov, with the stability index over deciles of `before`. Empty for too few rows."""
    if min(len(now), len(before)) < rules.minimum_rows:
        return []
    test = stats.ks_2samp(now, before, method="asymp")
    cuts = np.unique(np.quantile(before, np.linspace(0, 1, DECILES + 1)[1:-1]))
    index = stability_index(np.bincount(np.searchsorted(cuts, now, side="right"), minlength=len(cuts) + 1),
                            np.bincount(np.searchsorted(cuts, before, side="right"), minlength=len(cuts) + 1))
    return [Hypothesis(kind, name, "ks", float(test.statistic), float(test.pvalue), index, rules.stability_index,
                       f"median {np.median(now):.4g}", f"median {np.median(before):.4g}", len(now), len(before))]


def categorical(kind: Kind, name: str, now: Mapping[str, int], before: Mapping[str, int], rules: Rules) -> list[Hypothesis]:
    """Chi-square over all categories, and each against the rest (Bonferroni within the feature, as one hypothesis: the strongest)."""
    total_now, total_before = sum(now.values()), sum(before.values())
    names = sorted({*now, *before})
    if min(total_now, total_before) < rules.minimum_rows or len(names) < 2:
        return []
    one = np.array([now.get(n, 0) for n in names], np.float64)
    other = np.array([before.get(n, 0) for n in names], np.float64)
    index = stability_index(one, other)

    def told(counts: np.ndarray) -> str:
        # the categories whose shares moved most
        moved = np.argsort(-np.abs(one / one.sum() - other / other.sum()), kind="stable")[:3]
        return ", ".join(f"{names[i]} {counts[i] / counts.sum():.1%}" for i in moved)

    def made(test: str, statistic: float, p_value: float, effect: float = index, least: float = rules.stability_index) -> Hypothesis:
        return Hypothesis(kind, name, test, statistic, p_value, effect, least, told(one), told(other), int(total_now), int(total_before))

    found = []
    if len(names) > 2:
        kept = _pooled(one, other)
        if kept.shape[1] >= 2:
            omnibus = stats.chi2_contingency(kept, correction=False)
            found.append(made("chi2", float(omnibus.statistic), float(omnibus.pvalue)))
    each = [_two_by_two(one[i], total_now - one[i], other[i], total_before - other[i]) for i in range(len(names))]
    best = int(np.argmin([p for _, p in each]))
    if len(names) == 2:  # one share is the whole table, and its size the index
        return [made(f"share of {names[best]}", *each[best])]
    shares = (one[best] + _SMOOTHING) / (total_now + 1.0), (other[best] + _SMOOTHING) / (total_before + 1.0)
    found.append(made(f"share of {names[best]}", each[best][0], min(1.0, each[best][1] * len(names)), 1.0 - min(shares) / max(shares), rules.share))
    return found


def _pooled(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(2, k) table with categories too rare for chi-square counted together."""
    table = np.stack([one, other])
    expected = table.sum(axis=0) * min(one.sum(), other.sum()) / table.sum()
    rare = expected < _RARE
    kept = table[:, ~rare]
    if rare.any():
        rest = table[:, rare].sum(axis=1, keepdims=True)
        kept = np.concatenate([kept, rest], axis=1) if rest.sum() else kept
    return kept[:, kept.sum(axis=0) > 0]


def _two_by_two(a: float, b: float, c: float, d: float) -> tuple[float, float]:
    """(statistic, p-value) of [[a, b], [c, d]]: chi-square, or Fisher's exact test with the odds ratio where counts are small."""
    table = np.array([[a, b], [c, d]])
    if not table.sum(axis=0).all() or not table.sum(axis=1).all():
        return 0.0, 1.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    if expected.min() < _EXACT:
        exact = stats.fisher_exact(table)
        return float(min(exact.statistic, 1e9)), float(exact.pvalue)
    test = stats.chi2_contingency(table, correction=False)
    return float(test.statistic), float(test.pvalue)


def volume(name: str, now: int, window: Sequence[int], rules: Rules) -> list[Hypothesis]:
    """Rows of a day against the mean of the log of the same weekday's; `window` are the days before, the newest last.

    The spread is that of all days around their own weekday's mean, so that two weeks are enough to know it. Empty for fewer.
    """
    logs = np.log(np.asarray(window, np.float64) + 1.0)
    # the newest of `window` is the day before: a day k places from the end is (k + 1) days before tonight
    weekday = (-(np.arange(len(logs), 0, -1))) % 7
    same = logs[weekday == 0]
    freedom = len(logs) - 7
    if len(same) < 2 or freedom < 7:
        return []
    left = np.concatenate([logs[weekday == d] - logs[weekday == d].mean() for d in range(7)])
    spread = float(np.sqrt((left**2).sum() / freedom))
    apart = float(np.log(now + 1.0) - same.mean())
    error = max(spread, 1e-6) * np.sqrt(1.0 + 1.0 / len(same))
    usual = float(np.exp(same.mean()) - 1.0)
    p_value = float(2.0 * stats.t.sf(abs(apart) / error, freedom))
    # a fall to one half and a rise to the double are the same size
    effect = float(1.0 - np.exp(-abs(apart)))
    return [Hypothesis("feature", name, "volume", apart / error, p_value, effect, rules.volume, f"{now:,}", f"usually {usual:,.0f}", 1, len(logs))]


def hit_rate(hits: int, buyers: int, past_hits: int, past_buyers: int, loss: float, rules: Rules) -> list[Hypothesis]:
    """Fisher's exact test, one-sided: do fewer buyers find what they buy in yesterday's list than in the window before?"""
    if min(buyers, past_buyers) < rules.minimum_rows:
        return []
    exact = stats.fisher_exact([[hits, buyers - hits], [past_hits, past_buyers - past_hits]], alternative="less")
    now, before = hits / buyers, past_hits / past_buyers
    effect = 1.0 - now / before if before else 0.0
    return [Hypothesis("concept", "quality.hit_rate", "fisher", float(min(exact.statistic, 1e9)), float(exact.pvalue), effect, loss,
                       f"{now:.4f}", f"{before:.4f}", buyers, past_buyers)]


def labels(now: Mapping[str, pd.DataFrame], before: Mapping[str, pd.DataFrame], said: Mapping[str, Mapping[str, float]], rules: Rules) -> list[Hypothesis]:
    """The labels that a night brought, against what was expected of each: by the screening that had decided about the row not knowing its
    label, else by the share of bad ones among the window's labels of the same kind.

    now, before: kind -> id (str) and bad (bool) of the night's, and of the window's labels. said: kind -> id -> probability of being bad.
    """
    bad: list[np.ndarray] = []
    expected: list[np.ndarray] = []
    behind = 0
    for kind, told in now.items():
        past = before.get(kind, told[:0])
        spoken, learnt = (rows["id"].map(said.get(kind, {})).to_numpy(np.float64) for rows in (told, past))
        odds = np.full(len(told), usual_share(int(past["bad"].sum()), len(past)) if len(past) >= LEAST_LABELS else np.nan)
        if (asked := ~np.isnan(spoken)).any():
            known = ~np.isnan(learnt)
            odds[asked] = expect(spoken[asked], learnt[known], past["bad"].to_numpy(np.float64)[known])
        judged_ = ~np.isnan(odds)
        bad.append(told["bad"].to_numpy(bool)[judged_])
        expected.append(odds[judged_])
        behind += len(past)
    return contradicted(np.concatenate(bad), np.concatenate(expected), behind, rules) if bad else []


def usual_share(bad: int, labels: int) -> float:
    """Share of bad labels, as near to one half as its 95 % interval lets (Clopper and Pearson 1934): few labels know no share well."""
    low = float(stats.beta.ppf(0.025, bad, labels - bad + 1)) if bad else 0.0
    high = float(stats.beta.ppf(0.975, bad + 1, labels - bad)) if bad < labels else 1.0
    return min(max(0.5, low), high)


def contradicted(bad: np.ndarray, expected: np.ndarray, rows_before: int, rules: Rules) -> list[Hypothesis]:
    """Are the labels `bad` (n,), known since tonight, the wrong way round for the probabilities (n,) that they were expected with?

    The size is the mean distance of label and probability: one half is what tossed coins have. Empty for no labels.
    """
    if not len(bad):
        return []
    odds = np.clip(np.asarray(expected, np.float64), CERTAIN, 1.0 - CERTAIN)
    # in steps, so that the distribution is one array; good speaks for "turned round" by the log-odds of bad, and bad against it
    steps = np.rint(np.log(odds / (1.0 - odds)) / _STEP).astype(np.int64)
    seen = int(np.where(bad, -steps, steps).sum())
    reach = int(np.abs(steps).sum())
    chance = np.zeros(2 * reach + 1)
    chance[reach] = 1.0
    for p, step in zip(odds, steps.tolist(), strict=True):
        chance = p * np.roll(chance, -step) + (1.0 - p) * np.roll(chance, step)
    p_value = float(min(1.0, chance[reach + seen:].sum()))
    apart = float(np.abs(np.asarray(bad, np.float64) - odds).mean())
    return [Hypothesis("concept", CONTRADICTED, "likelihood", seen * _STEP, p_value, apart, rules.contradiction,
                       f"{int(np.sum(bad))} of {len(bad)} labels bad", f"{odds.sum():.2f} expected", len(bad), rows_before)]


def expect(said: np.ndarray, past_said: np.ndarray, past_bad: np.ndarray) -> np.ndarray:
    """(n,) probabilities of being bad: what the screener said (n,), held against its words (m,) about labels known by now (m,).

    A line in log-odds, pulled towards leaving them as they are by as much as one label of each class would.
    """
    from scipy.optimize import minimize

    def odds(p: np.ndarray) -> np.ndarray:
        clipped = np.clip(np.asarray(p, np.float64), CERTAIN, 1.0 - CERTAIN)
        return np.asarray(np.log(clipped / (1.0 - clipped)))

    z, y = odds(past_said), np.asarray(past_bad, np.float64)

    def loss(line: np.ndarray) -> float:
        at = line[0] + line[1] * z
        return float((np.logaddexp(0.0, at) - y * at).sum() + 0.5 * line[0] ** 2 + 2.0 * (line[1] - 1.0) ** 2)

    found = minimize(loss, np.array([0.0, 1.0]), method="L-BFGS-B", bounds=[(None, None), (0.0, None)]).x
    return np.asarray(1.0 / (1.0 + np.exp(-(found[0] + found[1] * odds(said)))))


def stability_index(now: np.ndarray, before: np.ndarray) -> float:
    """Population stability index of (k,) counts: sum of (p - q) ln(p / q), each count smoothed by one half."""
    p = (np.asarray(now, np.float64) + _SMOOTHING) / (np.sum(now) + _SMOOTHING * len(now))
    q = (np.asarray(before, np.float64) + _SMOOTHING) / (np.sum(before) + _SMOOTHING * len(before))
    return float(np.sum((p - q) * np.log(p / q)))


def q_values(p_values: Sequence[float]) -> np.ndarray:
    """(n,) Benjamini-Hochberg: the smallest false discovery rate at which each would be an alarm."""
    p = np.asarray(p_values, np.float64)
    if not len(p):
        return p
    order = np.argsort(p, kind="stable")
    ranked = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.minimum.accumulate(ranked[::-1])[::-1]
    out = np.empty_like(p)
    out[order] = np.minimum(adjusted, 1.0)
    return out


CONCEPTS = 2
"""Tests in the family of concepts, whether or not a night can be asked both."""


def judged(hypotheses: Sequence[Hypothesis], rules: Rules, of: int = 0) -> list[Finding]:
    """Every hypothesis with its q-value among all of its family (`of` of them at least); an alarm is significant there and large enough."""
    q = q_values([*(h.p_value for h in hypotheses), *[1.0] * (of - len(hypotheses))])[:len(hypotheses)]
    return [
        Finding(**vars(h), q_value=float(v), drifted=bool(v <= rules.false_discoveries and h.effect >= h.least))
        for h, v in zip(hypotheses, q, strict=True)
    ]


def drifted(findings: Sequence[Finding]) -> list[str]:
    """Names of features with an alarm, each once."""
    return sorted({f.feature for f in findings if f.drifted})


def _together(parts: Sequence[np.ndarray | None]) -> np.ndarray:
    kept = [p for p in parts if p is not None]
    return np.concatenate(kept) if kept else np.zeros(0)


def _summed(parts: Sequence[Mapping[str, int] | None]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, count in (part or {}).items():
            total[name] = total.get(name, 0) + count
    return total
