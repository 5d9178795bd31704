"""Reviews as the screening reads them: n-grams against labels, and how a text is written and repeated where there are none.

Words and characters are both read, so the same model serves languages with and without blanks between words. Near-duplicates
are found by MinHash signatures (Broder, 1997) in bands: rows that share a band are each other's candidates, and a band is
counted like any other entity, as of each row's moment.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from nightmarket.screen.table import LONGEST_TEXT

WORD = re.compile(r"\w+", re.UNICODE)
PIECE = r"(?u)\w+|[^\w\s]"
_BANDS, _ROWS = 8, 3
_PRIME = np.uint64(2**61 - 1)
STYLE = ("characters", "words", "word_length", "capitals", "digits", "punctuation", "exclamations", "questions", "variety", "repeats",
         "sentence_words", "emoji", "links")


def style(texts: list[str]) -> np.ndarray:
    """(n, len(STYLE)) float32: how a text is written. Rows without text are NaN."""
    made = np.full((len(texts), len(STYLE)), np.nan, np.float32)
    for i, text in enumerate(texts):
        if not text.strip():
            continue
        words = WORD.findall(text.lower())
        n, w = len(text), max(len(words), 1)
        letters = max(sum(c.isalpha() for c in text), 1)
        made[i] = (
            np.log1p(n), np.log1p(len(words)), sum(map(len, words)) / w, sum(c.isupper() for c in text) / letters,
            sum(c.isdigit() for c in text) / n, sum(unicodedata.category(c)[0] == "P" for c in text) / n, text.count("!") / w, text.count("?") / w,
            len(set(words)) / w, sum(a == b for a, b in pairwise(words)) / w,
            w / max(len(re.findall(r"[.!?。！？]+", text)), 1), sum(unicodedata.category(c) == "So" for c in text) / n,
            len(re.findall(r"https?://|www\.", text)),
        )
    return made


def signatures(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(n, bands, rows) uint64 MinHash values of 3-word or 8-character shingles, and (n,) bool: there are words.

    Texts that agree in all rows of a band are likely near-duplicates (by Jaccard similarity).
    """
    rng = np.random.default_rng(1997)  # part of the definition, as the number of bands is
    a = rng.integers(1, 2**31, _BANDS * _ROWS, dtype=np.uint64)
    b = rng.integers(0, 2**31, _BANDS * _ROWS, dtype=np.uint64)
    found = np.zeros((len(texts), _BANDS * _ROWS), np.uint64)
    there = np.zeros(len(texts), bool)
    for i, text in enumerate(texts):
        folded = text[:LONGEST_TEXT].lower()
        words = WORD.findall(folded)
        if not words:
            continue
        shingles = {" ".join(words[k:k + 3]) for k in range(max(len(words) - 2, 1))} if len(words) >= 6 else {
            folded[k:k + 8] for k in range(max(len(folded) - 7, 1))}
        hashes = np.fromiter((zlib.crc32(s.encode("utf-8", "replace")) for s in shingles), np.uint64, len(shingles))
        found[i] = ((hashes[:, None] * a + b) % _PRIME).min(0)
        there[i] = True
    return found.reshape(len(texts), _BANDS, _ROWS), there


def bands(texts: list[str]) -> list[np.ndarray]:
    """(n,) codes of each band; equal where texts are near-duplicates, -1 without text."""
    signed, there = signatures(texts)
    found = []
    for band in range(_BANDS):
        _, codes = np.unique(signed[:, band], axis=0, return_inverse=True)
        found.append(np.where(there, codes.reshape(-1), -1).astype(np.int64))
    return found


KINDS = ("words", "characters", "counts", "ratios")
"""How a text is read; see `fit_reader`."""


@dataclass(frozen=True)
class Vectors:
    """n-grams of words with punctuation marks (the habits of a hand, which no topic changes) and of characters (every language)."""

    by_words: Any
    by_characters: Any

    @classmethod
    def of(cls, texts: list[str]) -> Vectors:
        """Learns which n-grams there are; no label is looked at."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        least = 2 if len(texts) > 50 else 1
        kept = {"sublinear_tf": True, "min_df": least, "max_features": 200_000, "dtype": np.float32}
        filled = [t if t.strip() else _EMPTY for t in texts]
        return cls(TfidfVectorizer(ngram_range=(1, 2), token_pattern=PIECE, **kept).fit(filled),
                   TfidfVectorizer(analyzer="char", ngram_range=(3, 5), **kept).fit(filled))

    def matrices(self, texts: list[str]) -> tuple[Any, Any]:
        """Sparse (n, words) and (n, characters)."""
        filled = [t if t.strip() else _EMPTY for t in texts]
        return self.by_words.transform(filled), self.by_characters.transform(filled)


_EMPTY = "∅ ∅ ∅"
"""Stands for no text, so that a set of empty texts has words too."""


@dataclass(frozen=True)
class Reader:
    """Four readings of one text, in equal shares.

    Shares learned on texts of one subject favour the reading that knows most of its words; on another subject equal ones do better.
    All four are fitted with balanced classes, so 0 is even odds whatever the base rate.
    """

    vectors: Vectors
    words: Any
    characters: Any
    counts: Any
    ratios: Any
    ratio: np.ndarray
    """(words,) log of how much more frequent each n-gram is in suspicious texts."""
    spread: np.ndarray
    """(4,) standard deviations of the readings of texts that were not learned from."""

    def log_odds(self, texts: list[str]) -> np.ndarray:
        """(n,) higher is more suspicious."""
        return (self.readings(*self.vectors.matrices(texts)) / self.spread).mean(1)

    def readings(self, words: Any, characters: Any) -> np.ndarray:
        """(n, 4) of KINDS."""
        chances = self.counts.predict_log_proba(words)
        return np.column_stack([
            self.words.decision_function(words), self.characters.decision_function(characters), chances[:, 1] - chances[:, 0],
            self.ratios.decision_function(_weighed(words, self.ratio)),
        ])


def _weighed(words: Any, ratio: np.ndarray) -> Any:
    from scipy.sparse import diags

    return (words > 0).astype(np.float64) @ diags(ratio)


def fit_reader(vectors: Vectors, words: Any, characters: Any, label: np.ndarray, weight: np.ndarray, seed: int) -> Reader:
    """Fits on the matrices of texts with 1/0 labels: logistic regression on n-grams of words and of characters, complement naive Bayes
    (Rennie et al., 2003) and logistic regression on naive Bayes' ratios (Wang and Manning, 2012) on words.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import ComplementNB

    def regression(X: Any, strength: float) -> Any:
        made = LogisticRegression(C=strength, solver="liblinear", max_iter=200, class_weight="balanced", random_state=seed)
        return made.fit(X, label, sample_weight=weight)

    there = (words > 0).astype(np.float64)
    bad, good = (1 + np.asarray((there[label == c].multiply(weight[label == c][:, None])).sum(0)).ravel() for c in (1, 0))
    ratio = np.log(bad / bad.sum()) - np.log(good / good.sum())
    return Reader(vectors, regression(words, 10.0), regression(characters, 10.0), ComplementNB(alpha=0.5).fit(words, label, sample_weight=weight),
                  regression(_weighed(words, ratio), 1.0), ratio, np.ones(len(KINDS)))
