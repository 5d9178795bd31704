"""A table's targets predicted together, each at least as well as alone: the product around `learn.multitask`.

Validation rows are halved: one half stops the training, the other judges. There a network of all tasks is compared with a network
of each task alone. Where the joint one is worse beyond chance (paired bootstrap), the task is separated: its answer comes from
its own network. Then each task's answer is blended with those of boosted trees (LightGBM) and, where there are texts, of a linear
model over their words: weights that are 0 or above and sum to 1, chosen on the judging half. A network alone can trail trees on
small tables; the report says what weight each got. Last, the answer is calibrated by what serves best in cross-validation.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer

from nightmarket import log as logs
from nightmarket.evaluate.bootstrap import Interval, difference
from nightmarket.learn.multitask import Architecture, Fit, Network, Shape, Target, check, learn
from nightmarket.learn.strategy import Placement
from nightmarket.learn.tabular import Encoder, Sizes

_LOG = logs.logger("learn")
_SMALLEST = 1e-6
_GRID = 10  # blend weights are tenths
_LEAVES = (7, 15, 31, 63)
_STRENGTHS = (0.3, 1.0, 3.0)
_FOLDS = 5
SHAPE, FIT, SIZES = Shape(), Fit(), Sizes()
"""Defaults."""

Answers = Mapping[str, np.ndarray]
Calibration = Literal["none", "platt", "isotonic", "temperature", "line"]


def row_losses(target: Target, said: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(n,) loss of each labelled row: log loss, or squared error for numbers; NaN where unlabelled."""
    known = np.isfinite(label)
    out = np.full(len(label), np.nan)
    if target.kind == "number":
        out[known] = np.square(said[known] - label[known])
    elif target.kind == "binary":
        chance = np.clip(said[known], _SMALLEST, 1 - _SMALLEST)
        out[known] = -np.where(label[known] > 0.5, np.log(chance), np.log1p(-chance))
    else:
        picked = said[known, label[known].astype(int)]
        out[known] = -np.log(np.clip(picked, _SMALLEST, 1.0))
    return out


@dataclass(frozen=True)
class TaskReport:
    """What the judging half showed of one task. Losses: lower is better."""

    task: str
    joint_minus_alone: Interval
    """Loss of the joint network less that of the task's own. Above zero: negative transfer."""
    separated: bool
    weights: dict[str, float]
    """By component (network, trees, words), in the blend."""
    losses: dict[str, float]
    """By component, and of the blend."""
    calibration: Calibration
    task_weight: float
    """exp(-s) of the joint loss."""

    @property
    def transfer(self) -> Literal["negative", "positive", "none shown"]:
        if self.joint_minus_alone.low > 0:
            return "negative"
        return "positive" if self.joint_minus_alone.high < 0 else "none shown"


# --- single-task components -----------------------------------------------------------------------------------------
class Words:
    """Texts as TF-IDF of words and pairs, other columns as quantiles and one-hot; for linear models, and reduced for trees."""

    def __init__(self, encoder: Encoder, dimensions: int = 100, seed: int = 17):
        self.encoder, self.dimensions, self.seed = encoder, dimensions, seed

    def fit(self, frame: pd.DataFrame) -> Words:
        self._texts = [TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True, max_features=50_000).fit(_text(frame[t]))
                       for t in self.encoder.texts]
        found = [v.transform(_text(frame[t])) for v, t in zip(self._texts, self.encoder.texts, strict=True)]
        self._reduced = [TruncatedSVD(min(self.dimensions, f.shape[1] - 1), random_state=self.seed).fit(f) for f in found]
        self._numbers = QuantileTransformer(n_quantiles=min(200, len(frame)), output_distribution="normal").fit(self._filled(frame)) \
            if self.encoder.numbers else None
        self._categories = OneHotEncoder(handle_unknown="ignore", min_frequency=3).fit(self._labels(frame)) if self.encoder.categories else None
        return self

    def _filled(self, frame: pd.DataFrame) -> np.ndarray:
        return np.nan_to_num(frame[list(self.encoder.numbers)].to_numpy(np.float64, na_value=np.nan), nan=-1.0)

    def _labels(self, frame: pd.DataFrame) -> np.ndarray:
        return np.stack([_text(frame[c]).to_numpy(object) for c in self.encoder.categories], axis=1)

    def wide(self, frame: pd.DataFrame) -> Any:
        """Sparse (n, width), for linear models."""
        from scipy import sparse

        parts = [v.transform(_text(frame[t])) for v, t in zip(self._texts, self.encoder.texts, strict=True)]
        if self._numbers is not None:
            parts.append(sparse.csr_matrix(self._numbers.transform(self._filled(frame)) / 4.0))
        if self._categories is not None:
            parts.append(self._categories.transform(self._labels(frame)))
        return sparse.hstack(parts).tocsr()

    def dense(self, frame: pd.DataFrame) -> np.ndarray:
        """(n, numbers + categories + reduced texts), for trees: NaN for missing, categories as their code, -1 if unknown."""
        parts = [frame[list(self.encoder.numbers)].to_numpy(np.float64, na_value=np.nan)]
        if self._categories is not None:
            labels = self._labels(frame)
            parts.append(np.stack([
                pd.Series(labels[:, n]).map({v: c for c, v in enumerate(values)}).fillna(-1).to_numpy(np.float64)
                for n, values in enumerate(self._categories.categories_)], axis=1))
        parts += [r.transform(v.transform(_text(frame[t])))
                  for r, v, t in zip(self._reduced, self._texts, self.encoder.texts, strict=True)]
        return np.concatenate(parts, axis=1)


def trees(target: Target, x: np.ndarray, label: np.ndarray, learners: np.ndarray, watchers: np.ndarray, seed: int, threads: int = 0,
          categorical: Sequence[int] = ()) -> Any:
    """LightGBM of one task, its leaves chosen and its rounds stopped on `watchers`; a function of x to the answer."""
    import lightgbm

    learners, watchers = learners & np.isfinite(label), watchers & np.isfinite(label)
    objective = {"binary": "binary", "number": "regression", "classes": "multiclass"}[target.kind]
    best: Any = None
    for leaves in _LEAVES:
        params = {"objective": objective, "num_leaves": leaves, "learning_rate": 0.04, "feature_fraction": 0.7, "bagging_fraction": 0.8,
                  "bagging_freq": 1, "min_data_in_leaf": 20, "lambda_l2": 1.0, "seed": seed, "verbose": -1, "deterministic": True,
                  "force_row_wise": True, "num_threads": threads, "max_cat_to_onehot": 16,
                  **({"num_class": target.classes} if target.kind == "classes" else {})}
        train = lightgbm.Dataset(x[learners], label[learners], categorical_feature=list(categorical), free_raw_data=False)
        made = lightgbm.train(params, train, 2000, [train.create_valid(x[watchers], label[watchers])],
                              callbacks=[lightgbm.early_stopping(50, verbose=False)])
        reached = next(iter(made.best_score["valid_0"].values()))
        if best is None or reached < best[0]:
            best = (reached, made)
    booster = best[1]
    return lambda rows: booster.predict(rows, num_iteration=booster.best_iteration)


def linear(target: Target, x: Any, label: np.ndarray, learners: np.ndarray, watchers: np.ndarray, seed: int) -> Any:
    """Logistic (or ridge) regression of one task, its strength chosen on `watchers`; a function of x to the answer."""
    learners, watchers = learners & np.isfinite(label), watchers & np.isfinite(label)
    best: Any = None
    for strength in _STRENGTHS:
        if target.kind == "number":
            made: Any = Ridge(alpha=1.0 / strength, solver="sparse_cg", random_state=seed).fit(x[learners], label[learners])
            say = made.predict
        else:
            made = LogisticRegression(C=strength, max_iter=300, random_state=seed).fit(x[learners], label[learners])
            say = _chances(made, target)
        reached = row_losses(target, say(x[watchers]), label[watchers]).mean()
        if best is None or reached < best[0]:
            best = (reached, say)
    return best[1]


def _chances(made: Any, target: Target) -> Any:
    if target.kind == "binary":
        return lambda x: made.predict_proba(x)[:, 1]

    def all_classes(x: Any) -> np.ndarray:
        out = np.zeros((x.shape[0], target.classes))
        out[:, made.classes_.astype(int)] = made.predict_proba(x)
        return out

    return all_classes


# --- blending and calibrating ---------------------------------------------------------------------------------------
def blended(target: Target, parts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Means: of logits for binary, of log probabilities for classes, of numbers."""
    if target.kind == "number":
        return np.tensordot(weights, np.stack(parts), axes=1)
    if target.kind == "binary":
        return _sigmoid(np.tensordot(weights, np.stack([_logit(p) for p in parts]), axes=1))
    logs_ = np.tensordot(weights, np.stack([np.log(np.clip(p, _SMALLEST, 1.0)) for p in parts]), axes=1)
    chances = np.exp(logs_ - logs_.max(axis=1, keepdims=True))
    return chances / chances.sum(axis=1, keepdims=True)


def best_weights(target: Target, parts: Sequence[np.ndarray], label: np.ndarray) -> tuple[float, ...]:
    """The weights (tenths, summing to 1) of lowest loss on labelled rows; of equals, the first, which favours early parts."""
    grid = [w for w in itertools.product(range(_GRID, -1, -1), repeat=len(parts)) if sum(w) == _GRID]
    scored = [(np.nanmean(row_losses(target, blended(target, parts, [v / _GRID for v in w]), label)), n) for n, w in enumerate(grid)]
    return tuple(v / _GRID for v in grid[min(scored)[1]])


def calibrators(kind: str) -> tuple[Calibration, ...]:
    return {"binary": ("none", "platt", "isotonic"), "classes": ("none", "temperature"), "number": ("none", "line")}[kind]  # type: ignore[return-value]


def calibrate(how: Calibration, target: Target, said: np.ndarray, label: np.ndarray) -> Any:
    """A function of answers to calibrated answers, learnt on labelled rows.

    platt: logistic regression on the logit (Platt 1999); isotonic: a monotone step function (Zadrozny & Elkan 2002);
    temperature: one number that divides log probabilities (Guo et al. 2017); line: a straight line.
    """
    known = np.isfinite(label)
    said, label = said[known], label[known]
    if how == "platt":
        made = LogisticRegression(C=1e6).fit(_logit(said)[:, None], label > 0.5)
        return lambda p: made.predict_proba(_logit(p)[:, None])[:, 1]
    if how == "isotonic":
        # kept off 0 and 1, which a few rows cannot show
        step = IsotonicRegression(y_min=0.5 / len(label), y_max=1 - 0.5 / len(label), out_of_bounds="clip").fit(said, label)
        return step.predict
    if how == "temperature":
        options = np.exp(np.linspace(-1.0, 1.0, 41))
        power = float(options[int(np.argmin([np.nanmean(row_losses(target, _cooled(said, t), label)) for t in options]))])
        return lambda p: _cooled(p, power)
    if how == "line":
        slope, height = np.polyfit(said, label, 1)
        return lambda p: p * slope + height
    return lambda p: p


def best_calibration(target: Target, said: np.ndarray, label: np.ndarray, seed: int) -> Calibration:
    """What loses least on held-out fifths; 'none' unless another is better there."""
    known = np.flatnonzero(np.isfinite(label))
    if len(known) < 10 * _FOLDS or (target.kind == "binary" and min(label[known].sum(), (1 - label[known]).sum()) < 2 * _FOLDS):
        return "none"
    loss = dict.fromkeys(calibrators(target.kind), 0.0)
    for rest, held in KFold(_FOLDS, shuffle=True, random_state=seed).split(known):
        for how in loss:
            made = calibrate(how, target, said[known[rest]], label[known[rest]])
            loss[how] += row_losses(target, made(said[known[held]]), label[known[held]]).sum()
    return min(loss, key=lambda k: (loss[k], k != "none"))


def _cooled(said: np.ndarray, temperature: float) -> np.ndarray:
    raised = np.log(np.clip(said, _SMALLEST, 1.0)) / temperature
    raised = np.exp(raised - raised.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, _SMALLEST, 1 - _SMALLEST)
    return np.log(p) - np.log1p(-p)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


# --- the product ----------------------------------------------------------------------------------------------------
@dataclass
class Tasks:
    """Trained on one table; predicts its targets on others of the same columns."""

    encoder: Encoder
    targets: tuple[Target, ...]
    reports: dict[str, TaskReport]
    joint: Network
    alone: dict[str, Network]
    _words: Words
    _components: dict[str, dict[str, Any]]
    _calibrations: dict[str, Any]

    @classmethod
    def fit(
        cls, frame: pd.DataFrame, labels: Answers, targets: Sequence[Target], columns: Sequence[str], validation: np.ndarray,
        placement: Placement, shape: Shape = SHAPE, how: Fit = FIT, texts: Sequence[str] = (), categories: Sequence[str] = (),
        sizes: Sizes = SIZES, partners: bool = True, threads: int = 0, resamples: int = 400,
    ) -> Tasks:
        """`labels`: (n,) by target, NaN for none. `validation` (n,) bool: rows to stop, judge, blend and calibrate on; later ones
        than the others where rows have a time. `partners` False: networks alone.

        Raises ValueError for targets that do not fit, TableError for columns that do not.
        """
        check(targets)
        encoder = Encoder.fit(frame[~validation], columns, sizes, texts, categories)
        encoded = encoder.encode(frame)
        learners = ~validation
        half = np.cumsum(validation) % 2 == 0
        watchers, judges = validation & half, validation & ~half
        labels = {t.name: np.asarray(labels[t.name], np.float64) for t in targets}
        joint = learn(encoder, encoded, labels, targets, learners, watchers, shape, how, placement)
        bottom = replace(shape, architecture="shared_bottom") if len(targets) > 1 else shape
        alone = {}
        for t in targets:
            alone[t.name] = joint if len(targets) == 1 else learn(
                encoder, encoded, labels, [replace(t, after=None)], learners, watchers, bottom, how, placement)
        words = Words(encoder, seed=how.seed).fit(frame[learners])
        dense = words.dense(frame) if partners else None
        wide = words.wide(frame) if partners and encoder.texts else None
        first = len(encoder.numbers)
        coded = range(first, first + len(encoder.categories))
        together = joint.predict(encoded)
        reports, components, calibrations = {}, {}, {}
        for t in targets:
            own = alone[t.name].predict(encoded)[t.name]
            at = judges & np.isfinite(labels[t.name])
            gap = difference(row_losses(t, together[t.name][at], labels[t.name][at]), row_losses(t, own[at], labels[t.name][at]),
                             resamples, how.seed)
            separated = gap.low > 0 and len(targets) > 1
            parts: dict[str, Any] = {"network": None}
            said = {"network": own if separated else together[t.name]}
            if partners:
                parts["trees"] = trees(t, dense, labels[t.name], learners, watchers, how.seed, threads, coded)  # type: ignore[arg-type]
                said["trees"] = parts["trees"](dense)
                if wide is not None:
                    parts["words"] = linear(t, wide, labels[t.name], learners, watchers, how.seed)
                    said["words"] = parts["words"](wide)
            weights = dict(zip(said, best_weights(t, [v[at] for v in said.values()], labels[t.name][at]), strict=True))
            mixed = blended(t, list(said.values()), list(weights.values()))
            named = best_calibration(t, mixed[at], labels[t.name][at], how.seed)
            losses = {k: float(row_losses(t, v[at], labels[t.name][at]).mean()) for k, v in {**said, "blend": mixed}.items()}
            components[t.name], calibrations[t.name] = parts, calibrate(named, t, mixed[at], labels[t.name][at])
            reports[t.name] = TaskReport(t.name, gap, separated, weights, losses, named, joint.task_weights[t.name])
            _LOG.info(logs.said("task_judged", task=t.name, transfer=reports[t.name].transfer, separated=separated, calibration=named,
                                **{f"weight_{k}": v for k, v in weights.items()}))
        return cls(encoder, tuple(targets), reports, joint, alone, words, components, calibrations)

    def components(self, frame: pd.DataFrame) -> dict[str, dict[str, np.ndarray]]:
        """By task and component what each says alone; 'joint' and 'alone' are the two networks."""
        encoded = self.encoder.encode(frame)
        together = self.joint.predict(encoded)
        dense = self._words.dense(frame) if any("trees" in c for c in self._components.values()) else None
        wide = self._words.wide(frame) if any("words" in c for c in self._components.values()) else None
        out: dict[str, dict[str, np.ndarray]] = {}
        for t in self.targets:
            said = {"joint": together[t.name], "alone": self.alone[t.name].predict(encoded)[t.name]}
            said["network"] = said["alone" if self.reports[t.name].separated else "joint"]
            for name, model in self._components[t.name].items():
                if model is not None:
                    said[name] = model(dense if name == "trees" else wide)
            out[t.name] = said
        return out

    def predict(self, frame: pd.DataFrame, components: Mapping[str, Answers] | None = None) -> dict[str, np.ndarray]:
        """By task: binary (n,) probability, number (n,), classes (n, C). A later stage of a funnel is never likelier than the earlier."""
        found = components if components is not None else self.components(frame)
        out: dict[str, np.ndarray] = {}
        for t in self.targets:
            weights = self.reports[t.name].weights
            out[t.name] = self._calibrations[t.name](blended(t, [found[t.name][k] for k in weights], list(weights.values())))
            if t.after is not None:
                out[t.name] = np.minimum(out[t.name], out[t.after])
        return out


def expected_calibration_error(said: np.ndarray, did: np.ndarray, bins: int = 10) -> float:
    """Mean distance of said and seen frequency over bins of equal size."""
    order = np.argsort(said, kind="stable")
    return float(sum(abs(said[p].mean() - did[p].mean()) * len(p) for p in np.array_split(order, bins) if len(p)) / len(said))


def choose_architecture(
    frame: pd.DataFrame, labels: Answers, targets: Sequence[Target], columns: Sequence[str], validation: np.ndarray, placement: Placement,
    options: Sequence[Architecture] = ("shared_bottom", "mmoe", "ple"), shape: Shape = SHAPE, how: Fit = FIT, texts: Sequence[str] = (),
    categories: Sequence[str] = (), sizes: Sizes = SIZES,
) -> tuple[Architecture, dict[str, float]]:
    """The architecture of lowest mean loss on the judging half, each task's loss taken relative to the best one's; and all of them."""
    encoder = Encoder.fit(frame[~validation], columns, sizes, texts, categories)
    encoded = encoder.encode(frame)
    half = np.cumsum(validation) % 2 == 0
    found: dict[str, list[float]] = {}
    for option in options:
        said = learn(encoder, encoded, labels, targets, ~validation, validation & half, replace(shape, architecture=option), how,
                     placement).predict(encoded)
        at = validation & ~half
        found[option] = [float(np.nanmean(row_losses(t, said[t.name][at], np.asarray(labels[t.name], np.float64)[at]))) for t in targets]
    least = np.min(list(found.values()), axis=0)
    scores: dict[str, float] = {k: float(np.mean([v / max(b, 1e-12) for v, b in zip(found[k], least, strict=True)])) for k in options}
    return min(options, key=lambda k: scores[k]), scores


def _text(values: pd.Series) -> pd.Series:
    return values.astype(object).where(values.notna(), "").astype(str)
