"""Why an item is recommended, in words, from the same counts that proposed it. Nothing is said that the histories do not show."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import scipy.sparse as sp

from nightmarket.recommend.candidates import Candidates
from nightmarket.recommend.evidence import Evidence
from nightmarket.recommend.histories import DAY

_TASTE = "bought by shoppers whose purchases are most like yours"


class Reasons:
    """Words for (shopper, item) pairs of one Evidence. Dates are days in the shop's time zone."""

    def __init__(self, evidence: Evidence, time_zone: str = "UTC"):
        self._evidence = evidence
        self._zone = ZoneInfo(time_zone)
        names, self._country_of = evidence.country_codes
        self._countries = names
        best = np.sort(evidence.country_popularity, axis=1)[:, ::-1]
        # "popular": among the 100 most bought of the month, and bought by somebody
        self._bar = np.maximum(best[:, min(99, best.shape[1] - 1)], 1e-6) if best.shape[1] else np.ones(len(names))
        overall = np.sort(evidence.country_popularity.sum(axis=0))[::-1]
        self._overall = evidence.country_popularity.sum(axis=0)
        self._overall_bar = max(float(overall[min(99, len(overall) - 1)]), 1e-6) if len(overall) else 1.0

    def of(self, candidates: Candidates, chosen: np.ndarray) -> list[list[str]]:
        """Reasons of each shopper's items. `chosen` (n, k): columns of `candidates.items`, -1 for none."""
        e, users = self._evidence, candidates.users
        counts, fresh = e.personal[-1][users], e.last_bought[users]
        carted, viewed, taste = e.last_carted[users], e.last_viewed[users], e.taste[users]
        out = []
        for row, user in enumerate(users):
            times, last = _row(counts, row), _row(fresh, row)
            carts, views, own = _row(carted, row), _row(viewed, row), _row(taste, row)
            line = []
            for column in chosen[row]:
                if column < 0:
                    continue
                item = int(candidates.items[row, column])
                if item in times:
                    day, n = self._day(last[item]), round(times[item])
                    if item in carts and carts[item] > last[item]:
                        line.append(f"put in the cart on {self._day(carts[item])}, bought before on {day}")
                    else:
                        line.append(f"bought {n} times, last on {day}" if n > 1 else f"bought on {day}")
                elif item in carts:
                    line.append(f"put in the cart on {self._day(carts[item])}, not bought yet")
                elif item in views:
                    line.append(f"looked at on {self._day(views[item])}")
                else:
                    line.append(self._indirect(candidates, row, int(column), item, int(user), times, own))
            out.append(line)
        return out

    def popular(self, item: int, country: str | None) -> str:
        """For strangers: what is true of the item in their country, else in the shop."""
        if country is not None:
            at = int(np.searchsorted(self._countries, country))
            if at < len(self._countries) and self._countries[at] == country and self._evidence.country_popularity[at, item] >= self._bar[at]:
                return f"popular in {country} this month"
        return "popular this month" if self._overall[item] >= self._overall_bar else "bought by many shoppers"

    def _indirect(
        self, candidates: Candidates, row: int, column: int, item: int, user: int, times: dict[int, float], own: dict[int, float],
    ) -> str:
        """The strongest generator's account: the one in whose list the item stands highest."""
        places = {name: float(candidates.places[name][row, column]) for name in ("together", "next_basket", "neighbours", "content", "popular")}
        for name in sorted(places, key=lambda n: -places[n]):
            if places[name] <= 0:
                break
            if name in ("together", "next_basket"):
                links = self._evidence.together if name == "together" else self._evidence.next_basket
                cause = _strongest_cause(links, own, item)
                if cause is not None:
                    verb = "bought" if cause in times else "looked at"
                    how = "often bought with" if name == "together" else "often bought after"
                    return f"{how} {self._title(cause)}, which you {verb}"
            elif name == "neighbours":
                return _TASTE
            elif name == "content":
                content = self._evidence.content
                cause = _most_similar(content, own, item)
                if cause is not None:
                    return f"similar to {self._title(cause)}, which you {'bought' if cause in times else 'looked at'}"
            else:
                return self.popular(item, str(self._countries[self._country_of[user]]) or None)
        return self.popular(item, str(self._countries[self._country_of[user]]) or None)

    def _title(self, item: int) -> str:
        return str(self._evidence.catalogue.titles[item]) or f"item {self._evidence.catalogue.item_ids[item]}"

    def _day(self, freshness: float) -> str:
        moment = round(self._evidence.as_of - (1.0 / freshness - 1.0) * DAY)  # events have whole seconds
        return datetime.fromtimestamp(moment, self._zone).date().isoformat()


def _row(matrix: sp.csr_matrix, row: int) -> dict[int, float]:
    span = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return dict(zip(matrix.indices[span].tolist(), matrix.data[span].tolist(), strict=True))


def _strongest_cause(links: sp.csr_matrix, own: dict[int, float], item: int) -> int | None:
    """The shopper's item that adds most to the score of `item`."""
    best, cause = 0.0, None
    for other, weight in sorted(own.items()):
        span = slice(links.indptr[other], links.indptr[other + 1])
        at = np.flatnonzero(links.indices[span] == item)
        if len(at) and (value := weight * float(links.data[span][at[0]])) > best:
            best, cause = value, other
    return cause


def _most_similar(content: sp.csr_matrix, own: dict[int, float], item: int) -> int | None:
    others = sorted(own)
    if not others:
        return None
    similar = np.asarray((content[others] @ content[item].T).todense()).ravel() * np.array([own[o] for o in others])
    return others[int(similar.argmax())] if similar.max() > 0 else None
