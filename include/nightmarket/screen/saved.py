"""What the screening learned, as files that need no pickle: JSON, arrays, and LightGBM's own text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np

from nightmarket.screen.anomaly import Strangeness
from nightmarket.screen.calibration import Calibration, Stack
from nightmarket.screen.decisions import Thresholds
from nightmarket.screen.forest import Forest
from nightmarket.screen.learners import Linear, Trees
from nightmarket.screen.screening import Supervised, Unlabelled
from nightmarket.screen.texts import PIECE, Reader, Vectors


def save(folder: Path, model: Supervised | Unlabelled, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a model beside what its owner says about it and the owner's arrays."""
    folder.mkdir(parents=True)
    kept: dict[str, np.ndarray] = dict(arrays)
    said: dict[str, Any] = {"about": about, "summary": model.summary, "thresholds": [model.thresholds.review, model.thresholds.block],
                            "tops": {str(k): v for k, v in model.tops.items()}}
    if isinstance(model, Unlabelled):
        said["strangeness"] = True
        _put(kept, "strangeness", model.strangeness, skip=("forest",))
        if model.strangeness.forest is not None:
            _put(kept, "forest", model.strangeness.forest)
    else:
        said |= {"stack": {"names": model.stack.names, "bias": model.stack.bias}, "ceiling": model.ceiling, "learners": {}}
        kept |= {"stack/weights": model.stack.weights, "stack/at_rest": model.stack.at_rest, "curve/at": model.curve.at, "curve/to": model.curve.to,
                 "blind": model.blind}
        for name, learner in model.learners.items():
            said["learners"][name] = _learner(folder, kept, name, learner)
    np.savez_compressed(folder / "arrays.npz", **cast(Any, kept))
    (folder / "model.json").write_text(json.dumps(said, sort_keys=True, default=float), encoding="utf-8")


def load(folder: Path, threads: int = 0) -> tuple[Supervised | Unlabelled, dict[str, Any], dict[str, np.ndarray]]:
    """The model, what was said about it, and all arrays."""
    said = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    with np.load(folder / "arrays.npz", allow_pickle=False) as file:
        kept = {n: file[n] for n in file.files}
    thresholds, tops = Thresholds(*said["thresholds"]), {int(k): float(v) for k, v in said["tops"].items()}
    model: Supervised | Unlabelled
    if said.get("strangeness"):
        forest = Forest(**_got(kept, "forest")) if "forest/cut" in kept else None
        model = Unlabelled(Strangeness(**_got(kept, "strangeness"), forest=forest), thresholds, tops, said["summary"])
    else:
        learners = {name: _learned(folder, kept, name, how, threads) for name, how in said["learners"].items()}
        stack = Stack(tuple(said["stack"]["names"]), kept["stack/weights"], kept["stack/at_rest"], said["stack"]["bias"])
        model = Supervised(learners, kept["blind"], stack, Calibration(kept["curve/at"], kept["curve/to"]), said["ceiling"], thresholds, tops, said["summary"])
    return model, said["about"], kept


def _put(kept: dict[str, np.ndarray], name: str, what: Any, skip: tuple[str, ...] = ()) -> None:
    kept |= {f"{name}/{f.name}": np.asarray(getattr(what, f.name)) for f in fields(what) if f.name not in skip}


def _got(kept: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(f"{name}/"): v for n, v in kept.items() if n.startswith(f"{name}/")}


def _learner(folder: Path, kept: dict[str, np.ndarray], name: str, learner: Any) -> dict[str, Any]:
    """How the learner was put away."""
    if isinstance(learner, Trees):
        for i, model in enumerate(learner.models):
            (folder / f"{name}-{i}.txt").write_text(model.model_to_string(), encoding="utf-8")
        return {"kind": "trees", "models": len(learner.models), "sure": learner.sure}
    if isinstance(learner, Linear):
        _put(kept, name, learner)
        return {"kind": "linear"}
    assert isinstance(learner, Reader)
    kept |= {f"{name}/ratio": learner.ratio, f"{name}/spread": learner.spread, f"{name}/counts": learner.counts.feature_log_prob_}
    for part in ("words", "characters", "ratios"):
        model = getattr(learner, part)
        kept |= {f"{name}/{part}": model.coef_, f"{name}/{part}/bias": model.intercept_}
    vocabularies = {}
    for part in ("by_words", "by_characters"):
        vectors = getattr(learner.vectors, part)
        kept[f"{name}/{part}"] = vectors.idf_
        vocabularies[part] = sorted(vectors.vocabulary_, key=vectors.vocabulary_.get)
    (folder / f"{name}.json").write_text(json.dumps(vocabularies, ensure_ascii=False), encoding="utf-8")
    return {"kind": "reader"}


def _learned(folder: Path, kept: Mapping[str, np.ndarray], name: str, how: Mapping[str, Any], threads: int) -> Any:
    import lightgbm

    if how["kind"] == "trees":
        return Trees(tuple(lightgbm.Booster(model_file=str(folder / f"{name}-{i}.txt")) for i in range(how["models"])), threads, float(how["sure"]))
    if how["kind"] == "linear":
        parts = _got(kept, name)
        return Linear(parts["centre"], parts["spread"], parts["weights"], float(parts["bias"]))
    vocabularies = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    vectors = Vectors(_vectors(vocabularies["by_words"], kept[f"{name}/by_words"], ngram_range=(1, 2), token_pattern=PIECE),
                      _vectors(vocabularies["by_characters"], kept[f"{name}/by_characters"], analyzer="char", ngram_range=(3, 5)))
    words, characters, ratios = (_regression(kept, f"{name}/{part}") for part in ("words", "characters", "ratios"))
    return Reader(vectors, words, characters, _bayes(kept[f"{name}/counts"]), ratios, kept[f"{name}/ratio"], kept[f"{name}/spread"])


def _vectors(words: list[str], idf: np.ndarray, **options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    made = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, vocabulary={w: i for i, w in enumerate(words)}, **options)
    made.idf_ = idf
    return made


def _regression(kept: Mapping[str, np.ndarray], name: str) -> Any:
    from sklearn.linear_model import LogisticRegression

    made = LogisticRegression()
    made.coef_, made.intercept_, made.classes_ = kept[name], kept[f"{name}/bias"], np.array([0.0, 1.0])
    made.n_features_in_ = made.coef_.shape[1]
    return made


def _bayes(log_probabilities: np.ndarray) -> Any:
    from sklearn.naive_bayes import ComplementNB

    made = ComplementNB(alpha=0.5)
    made.feature_log_prob_, made.classes_ = log_probabilities, np.array([0.0, 1.0])
    made.n_features_in_ = log_probabilities.shape[1]
    return made
