"""Rows of a table as tensors: numbers, categories and texts, encoded by what the training part shows and nothing else.

* a number becomes its piecewise-linear encoding (Gorishniy et al. 2022): how far it reaches through each of the quantile bins
  of its column, so that a linear map on it can take any monotone or bent shape; a missing one is a value of its own;
* a category becomes a row of one table that all columns share. Up to `table_rows` values in all each has its own row; beyond, two
  hashes of (column, value) pick two rows whose sum it is (hash embeddings, Svenstrup et al. 2017);
* a text becomes hashed words and word pairs, whose rows are averaged.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from nightmarket.learn.inputs import Field

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
BINS = 24
_OFTEN = 2
"""A category seen less often in training is treated as unknown."""


class TableError(ValueError):
    """The table does not fit. The message names the column, and what would be right."""


@dataclass(frozen=True)
class Sizes:
    """How large the encodings may become."""

    table_rows: int = 100_000
    """Rows of the categories' table; more values than this share rows by hashing."""
    always_hashed: bool = False
    """Hash however few values there are: then a row means the same in every shop, and can be transferred."""
    word_rows: int = 1 << 16
    words: int = 160
    """Words and pairs of a text that are read; of a longer one, the first."""


@dataclass(frozen=True)
class Encoder:
    """What turns rows into tensors; made by `fit`, all of it plain data."""

    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    texts: tuple[str, ...]
    edges: tuple[tuple[float, ...], ...]
    """By number column: increasing bin edges, at least two."""
    known: tuple[dict[str, int], ...]
    """By category column: value to row of the table; empty where rows are hashed."""
    unknown: tuple[int, ...]
    """By category column: the row of values not known."""
    rows: int
    hashed: bool
    sizes: Sizes

    @classmethod
    def fit(cls, frame: pd.DataFrame, columns: Sequence[str], sizes: Sizes = Sizes(), texts: Sequence[str] = (),
            categories: Sequence[str] = ()) -> Encoder:
        """Encodings of `columns` from the rows of training. Columns not said to be texts or categories are told by their values:
        numbers by type; strings of more than four words on average are texts.

        Raises TableError for a column that is not there, or none that varies.
        """
        if missing := [c for c in columns if c not in frame.columns]:
            raise TableError(f"no column {', '.join(missing)}; the table has {', '.join(map(str, frame.columns))}")
        number, category, text = [], [], []
        for name in columns:
            values = frame[name]
            if name in texts:
                text.append(name)
            elif name in categories or pd.api.types.is_bool_dtype(values) or isinstance(values.dtype, pd.CategoricalDtype):
                category.append(name)
            elif pd.api.types.is_numeric_dtype(values):
                number.append(name)
            else:
                present = values.dropna().astype(str)
                present = present[present.str.strip() != ""]
                (text if len(present) and present.str.split().str.len().mean() > 4 else category).append(name)
        edges = []
        for name in list(number):
            found = _edges(frame[name].to_numpy(np.float64, na_value=np.nan))
            if len(found) < 2:  # it never varies: nothing can be learnt from it
                number.remove(name)
            else:
                edges.append(found)
        counts = [_strings(frame[name]).value_counts() for name in category]
        often = [sorted(c.index[c >= _OFTEN]) for c in counts]
        total = sum(len(o) + 1 for o in often)
        hashed = sizes.always_hashed or total > sizes.table_rows
        known: list[dict[str, int]] = []
        unknown, rows = [], 0
        for values in often:
            unknown.append(rows)
            known.append({} if hashed else {v: rows + 1 + n for n, v in enumerate(values)})
            rows += 1 if hashed else len(values) + 1
        if not (number or category or text):
            raise TableError("no column varies; there is nothing to learn from")
        return cls(tuple(number), tuple(category), tuple(text), tuple(edges), tuple(known), tuple(unknown),
                   sizes.table_rows if hashed else max(rows, 1), hashed, sizes)

    @property
    def picks(self) -> int:
        """Rows that make one category: 2 where hashed."""
        return 2 if self.hashed else 1

    def fields(self) -> tuple[Field, ...]:
        """numbers (N,) float32 with NaN for missing, categories (C, picks) int32, words (texts, words) int32 with 0 for none."""
        out = []
        if self.numbers:
            out.append(Field("numbers", "float32", (len(self.numbers),)))
        if self.categories:
            out.append(Field("categories", "int32", (len(self.categories), self.picks)))
        if self.texts:
            out.append(Field("words", "int32", (len(self.texts), self.sizes.words)))
        return tuple(out)

    def encode(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """The fields of each row. Raises TableError for a missing column."""
        wanted = (*self.numbers, *self.categories, *self.texts)
        if missing := [c for c in wanted if c not in frame.columns]:
            raise TableError(f"no column {', '.join(missing)}; the model was trained with it")
        out: dict[str, np.ndarray] = {}
        if self.numbers:
            out["numbers"] = np.stack([frame[n].to_numpy(np.float32, na_value=np.nan) for n in self.numbers], axis=1)
        if self.categories:
            out["categories"] = np.stack([self._category(n, _strings(frame[c])) for n, c in enumerate(self.categories)], axis=1)
        if self.texts:
            out["words"] = np.stack([hashed_words(frame[t], self.sizes.words, self.sizes.word_rows) for t in self.texts], axis=1)
        return out

    def _category(self, n: int, values: pd.Series) -> np.ndarray:
        if not self.hashed:
            return values.map(self.known[n]).fillna(self.unknown[n]).to_numpy(np.int32)[:, None]
        codes, uniques = pd.factorize(values)
        picked = np.array([hashed(f"{self.categories[n]}={u}", self.rows, 2) for u in uniques], np.int32).reshape(-1, 2)
        return picked[codes]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Encoder:
        held = json.loads(text)
        for name in ("numbers", "categories", "texts", "known", "unknown"):
            held[name] = tuple(held[name])
        return cls(**{**held, "edges": tuple(map(tuple, held["edges"])), "sizes": Sizes(**held["sizes"])})


def hashed(text: str, rows: int, hashes: int) -> tuple[int, ...]:
    """`hashes` rows of a table of `rows` for a text; the same in every process."""
    # not two cyclic checksums: theirs would tell each other's
    raw = hashlib.blake2b(text.encode(), digest_size=8 * hashes).digest()
    return tuple(int.from_bytes(raw[8 * n : 8 * n + 8], "big") % rows for n in range(hashes))


def hashed_words(values: pd.Series, length: int, rows: int) -> np.ndarray:
    """(n, length) int32 hashes 1 … rows - 1 of words and pairs of neighbours, in the order of the text; 0 where it has ended."""
    out = np.zeros((len(values), length), np.int32)
    seen: dict[str, int] = {}
    for n, value in enumerate(values):
        if not isinstance(value, str):
            continue
        words = _WORD.findall(value.lower())
        terms = [t for at, a in enumerate(words) for t in ((a, f"{a} {words[at + 1]}") if at + 1 < len(words) else (a,))]
        for place, term in enumerate(terms[:length]):
            code = seen.get(term)
            if code is None:
                code = seen[term] = 1 + zlib.crc32(term.encode()) % (rows - 1)
            out[n, place] = code
    return out


def _strings(values: pd.Series) -> pd.Series:
    return values.astype(object).where(values.notna(), "").astype(str)


def _edges(values: np.ndarray) -> tuple[float, ...]:
    present = values[np.isfinite(values)]
    if not len(present):
        return ()
    # float32, as the tensors are: edges that it cannot tell apart are one
    return tuple(float(e) for e in np.unique(np.quantile(present, np.linspace(0, 1, BINS + 1)).astype(np.float32)))


def input_layers(encoder: Encoder, dim: int) -> tuple[dict[str, Any], Any]:
    """(keras inputs by field, (batch, width) their embeddings side by side)."""
    from nightmarket.learn.layers import PiecewiseLinear, RowTable, keras

    inputs: dict[str, Any] = {f.name: keras.Input(f.shape, dtype=f.dtype, name=f.name) for f in encoder.fields()}
    parts = []
    if encoder.numbers:
        encoded = PiecewiseLinear([list(e) for e in encoder.edges], name="piecewise_linear")(inputs["numbers"])
        each = keras.layers.EinsumDense("bnt,ntd->bnd", (len(encoder.numbers), dim), bias_axes="nd", name="number_embedding")(encoded)
        parts.append(keras.layers.Flatten(name="numbers_flat")(keras.layers.Activation("relu")(each)))
        parts.append(keras.layers.Flatten(name="numbers_plain")(encoded))
    if encoder.categories:
        rows = RowTable(encoder.rows, dim, name="categories_table")(inputs["categories"])
        parts.append(keras.layers.Flatten(name="categories_flat")(keras.ops.sum(rows, axis=2)))
    if encoder.texts:
        wide = 4 * dim
        rows = RowTable(encoder.sizes.word_rows, wide, name="words_table")(inputs["words"])
        there = keras.ops.expand_dims(keras.ops.cast(keras.ops.not_equal(inputs["words"], 0), rows.dtype), -1)
        # a sum over the root of the number: longer texts say more, but not in proportion
        pooled = keras.ops.sum(rows * there, axis=2) / keras.ops.sqrt(keras.ops.maximum(keras.ops.sum(there, axis=2), 1.0))
        parts.append(keras.layers.Flatten(name="words_flat")(pooled))
    return inputs, parts[0] if len(parts) == 1 else keras.layers.Concatenate(name="row")(parts)

