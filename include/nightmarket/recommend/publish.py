"""From a recommender's answers to a publication: every known shopper, every country, everyone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightmarket.contracts import RECOMMENDATIONS
from nightmarket.recommend import rules
from nightmarket.recommend.histories import seconds
from nightmarket.shop import Lists


class IncompleteAnswer(ValueError):
    """The recommender left somebody out or answered nonsense; the message says whom and what."""


@dataclass(frozen=True)
class Publication:
    """Rows of `gold.recommendations` and what the manifest notes about them."""

    rows: pa.Table
    users: int
    users_by_fallback: int
    """Known shoppers without a list of their own (no event in the window): they get their country's, else everyone's."""
    countries: int
    items: int
    """Distinct items recommended to anyone."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Items of the catalogue that no list may show, by rule of shop.yaml's `lists`."""

    warmed: int = 0
    """Places that new items got beyond their own merit."""

    def notes(self) -> dict[str, Any]:
        made: dict[str, Any] = {"users": self.users, "users_by_fallback": self.users_by_fallback, "countries": self.countries, "items": self.items}
        return made | ({"refused": dict(self.refused)} if self.refused else {}) | ({"warmed": self.warmed} if self.warmed else {})


def publication(
    recommender: Any, histories: pa.Table, items: pa.Table, as_of: datetime, k: int, model_name: str, model_version: str, lists: Lists
) -> Publication:
    """Answers for every shopper of `histories` (rows of `gold.features`), every country and everyone, at most `k` items each, under the
    rules of `lists`.

    Raises IncompleteAnswer where there is no list for everyone, a rank is missing or doubled, or a score is not a number.
    """
    barred, refused = rules.refused(items, lists)
    wanted = rules.depth(lists, k)
    answered = recommender.recommend(histories, as_of, wanted, items=items, barred=barred)
    if wanted > k:
        answered = rules.apply(answered, items, histories, seconds(as_of), lists, k)
    warmed = 0
    if lists.new_items_share:
        answered, warmed = rules.warm(answered, items, histories, seconds(as_of), lists, int(as_of.timestamp() // 86_400))
    everyone = answered.filter(pc.equal(answered["audience"], "everyone"))
    if not everyone.num_rows:
        raise IncompleteAnswer(
            f"the rules of shop.yaml's lists leave nothing for everyone ({', '.join(f'{n} {r}' for r, n in refused.items())}); loosen them" if refused
            else "the recommender has no list for everyone: its histories hold no purchase; give it more nights")
    countries = set(answered.filter(pc.equal(answered["audience"], "country"))["audience_id"].to_pylist())
    own = set(answered.filter(pc.equal(answered["audience"], "user"))["audience_id"].to_pylist())
    fallback = [
        (u, c if c in countries else None)
        for u, c in zip(histories["user_id"].to_pylist(), histories["country"].to_pylist(), strict=True) if u not in own
    ]
    rows = pa.concat_tables([answered, *_borrowed(answered, fallback)])
    rows = rows.append_column("model_name", pa.array([model_name] * rows.num_rows, pa.string()))
    rows = rows.append_column("model_version", pa.array([model_version] * rows.num_rows, pa.string()))
    rows = rows.select(list(RECOMMENDATIONS.column_names)).cast(RECOMMENDATIONS.arrow_schema())
    rows = rows.sort_by([("audience", "ascending"), ("audience_id", "ascending"), ("rank", "ascending")])
    _check(rows)
    return Publication(rows, histories.num_rows, len(fallback), len(countries), pc.count_distinct(rows["item_id"]).as_py(), refused, warmed)


def _borrowed(answered: pa.Table, fallback: list[tuple[str, str | None]]) -> list[pa.Table]:
    """The country's or everyone's rows under each shopper's own key."""
    made = []
    for country in sorted({c for _, c in fallback}, key=str):
        audience, key = ("everyone", "*") if country is None else ("country", country)
        lent = answered.filter(pc.and_(pc.equal(answered["audience"], audience), pc.equal(answered["audience_id"], key)))
        users = sorted(u for u, c in fallback if c == country)
        place = pa.array([n for _ in users for n in range(lent.num_rows)], pa.int64())
        copied = lent.take(place)
        made.append(copied.set_column(0, "audience", pa.array(["user"] * copied.num_rows, pa.string()))
                    .set_column(1, "audience_id", pa.array([u for u in users for _ in range(lent.num_rows)], pa.string())))
    return made


def _check(rows: pa.Table) -> None:
    """`rows` sorted by audience and rank: ranks run 1, 2, 3 … and every score is a number."""
    import numpy as np

    rank = rows["rank"].to_numpy()
    keys = rows.select(["audience", "audience_id"]).to_pandas()
    starts = (keys != keys.shift()).any(axis=1).to_numpy()
    group = np.cumsum(starts) - 1
    expected = np.arange(len(rank)) - np.flatnonzero(starts)[group] + 1
    wrong = np.flatnonzero(rank != expected)
    if len(wrong):
        raise IncompleteAnswer(f"{keys.iloc[wrong[0]].tolist()}: rank {rank[wrong[0]]} where {expected[wrong[0]]} belongs")
    broken = np.flatnonzero(~np.isfinite(rows["score"].to_numpy()))
    if len(broken):
        raise IncompleteAnswer(f"{keys.iloc[broken[0]].tolist()}: the score at rank {rank[broken[0]]} is not a number")
