"""What is known of items beside who bought them: title words, category, price. What a newcomer is judged by."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

WORD_BUCKETS = 4096
CATEGORY_BUCKETS = 512
PRICE_BUCKETS = 24
WORDS = 12
"""Title words that count; titles of shops are short."""


def bucket(text: str, buckets: int) -> int:
    """1 … buckets - 1, the same in every process (Python's own hash is not); 0 is kept for 'nothing'."""
    return 1 + int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % (buckets - 1)


@dataclass(frozen=True)
class Catalogue:
    """Titles, categories and list prices by item code; '' and NaN where the shop does not say."""

    item_ids: np.ndarray
    titles: np.ndarray
    categories: np.ndarray
    prices: np.ndarray
    """(I,) float32 shop currency."""
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further properties by name, (I,) lists of str each; not saved with a model."""

    @classmethod
    def of(cls, item_ids: Sequence[str] | np.ndarray, table: pa.Table) -> Catalogue:
        """Metadata of `item_ids` from a `silver.items` table; items that it does not have are nameless."""
        place = {item: n for n, item in enumerate(table["item_id"].to_pylist())}
        rows = [place.get(item, -1) for item in item_ids]
        title, category = table["title"].to_pylist(), table["category"].to_pylist()
        price = table["list_price"].to_pylist()
        return cls(
            np.array(item_ids, dtype=object),
            np.array([(title[r] or "") if r >= 0 else "" for r in rows], dtype=object),
            np.array([(category[r] or "") if r >= 0 else "" for r in rows], dtype=object),
            np.array([float(price[r]) if r >= 0 and price[r] is not None else math.nan for r in rows], dtype=np.float32),
        )

    @cached_property
    def category_codes(self) -> np.ndarray:
        """(I,) int64 code of an item's category, from 1 in the order of their names; 0 where it has none."""
        names, codes = np.unique(self.categories.astype(str), return_inverse=True)
        return codes.astype(np.int64) + int(len(names) > 0 and names[0] != "")

    def aligned(self, item_ids: np.ndarray) -> Catalogue:
        """The same for another list of items; items beyond this catalogue are nameless."""
        place = {item: n for n, item in enumerate(self.item_ids)}
        rows = np.array([place.get(item, -1) for item in item_ids], dtype=np.int64)
        known = rows >= 0

        def pick(values: np.ndarray, empty: object) -> np.ndarray:
            out = np.full(len(item_ids), empty, dtype=values.dtype)
            out[known] = values[rows[known]]
            return out

        return Catalogue(np.array(item_ids, dtype=object), pick(self.titles, ""), pick(self.categories, ""), pick(self.prices, math.nan))

    def with_prices(self, charged: np.ndarray) -> Catalogue:
        """List prices where there are any, else `charged` (I,), what buyers paid."""
        return Catalogue(self.item_ids, self.titles, self.categories, np.where(np.isnan(self.prices), charged, self.prices).astype(np.float32))

    def words(self) -> list[list[str]]:
        return [[w for w in title.lower().split() if any(c.isalnum() for c in w)][:WORDS] for title in self.titles]

    def hashed(self) -> dict[str, np.ndarray]:
        """Codes for embedding tables: 'words' (I, WORDS), 'category' (I,), 'price' (I,); 0 means none."""
        words = np.zeros((len(self.item_ids), WORDS), np.int32)
        for n, found in enumerate(self.words()):
            for m, word in enumerate(found):
                words[n, m] = bucket(word, WORD_BUCKETS)
        category = np.array([bucket(c, CATEGORY_BUCKETS) if c else 0 for c in self.categories], dtype=np.int32)
        with np.errstate(invalid="ignore", divide="ignore"):
            level = np.floor(2.0 * np.log2(np.maximum(self.prices, 1e-2))) + 8.0  # half-octaves
        price = np.where(np.isnan(self.prices), 0, np.clip(np.nan_to_num(level), 0, PRICE_BUCKETS - 2) + 1).astype(np.int32)
        return {"words": words, "category": category, "price": price}

    def tfidf(self) -> sp.csr_matrix:
        """(I, tokens) L2-normalised rows of title words, category and attributes, rare ones heavier; tokens of one item only say nothing."""
        place: dict[str, int] = {}
        row: list[int] = []
        column: list[int] = []
        for n, found in enumerate(self.words()):
            said = set(found)
            if self.categories[n]:
                said.add(f"category={self.categories[n]}")
            said |= {f"{name}={value}" for name, values in self.attributes.items() for value in values[n]}
            for token in sorted(said):
                row.append(n)
                column.append(place.setdefault(token, len(place)))
        size = len(self.item_ids)
        counts = sp.csr_matrix((np.ones(len(row)), (row, column)), shape=(size, max(len(place), 1)))
        seen = np.asarray(counts.sum(axis=0)).ravel()
        kept = counts[:, seen > 1]
        weighted = sp.csr_matrix(kept @ sp.diags(np.log((1.0 + size) / (1.0 + seen[seen > 1]))))
        norm = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
        return sp.csr_matrix(sp.diags(np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)) @ weighted)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({
            "item_ids": list(self.item_ids), "titles": list(self.titles), "categories": list(self.categories),
            "prices": [None if math.isnan(p) else round(float(p), 4) for p in self.prices],
        }, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Catalogue:
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            np.array(data["item_ids"], dtype=object), np.array(data["titles"], dtype=object), np.array(data["categories"], dtype=object),
            np.array([math.nan if p is None else p for p in data["prices"]], dtype=np.float32),
        )
