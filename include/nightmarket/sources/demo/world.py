"""The shop itself: its calendar, shoppers and products, each a function of (seed, number, day).

Days count from 0, the shop's first; `target(day)` is how many events a day should bring. Nothing here remembers a day.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from functools import cached_property, lru_cache
from zoneinfo import ZoneInfo

import numpy as np

from nightmarket.shop import DemoShop
from nightmarket.sources.demo import words
from nightmarket.sources.demo.draw import among, below, bits, uniform

WEEKDAYS = (0.95, 0.90, 0.93, 1.00, 1.10, 1.20, 0.92)
"""Traffic by weekday, from Monday; the mean is 1."""
DEPARTMENTS = len(words.DEPARTMENTS)
_MOVE_DAYS = 180
_PRICE_DAYS = 28


def season(day: date) -> float:
    """Traffic of a day against an average one: weekday x year (least in summer, +35 % from 20 November to 20 December)."""
    turn = 2 * np.pi * (day.timetuple().tm_yday - 345) / 365.25
    rush = 1.35 if (day.month, day.day) >= (11, 20) and (day.month, day.day) <= (12, 20) else 1.0
    return float(WEEKDAYS[day.weekday()] * (1 + 0.20 * np.cos(turn)) * rush)


@dataclass(frozen=True)
class World:
    """One seeded shop. Sizes follow from `events`: about 60 events a shopper, and a catalogue that grows more slowly."""

    seed: int
    first: date
    days: int
    events: int
    zone: str

    @classmethod
    def of(cls, demo: DemoShop, zone: str) -> World:
        return cls(demo.seed, date.fromisoformat(demo.first_day), demo.days, demo.events, zone)

    # --- calendar -----------------------------------------------------------------------------------------------
    def on(self, day: int) -> date:
        return self.first + timedelta(days=day)

    def day(self, date_: date) -> int:
        return (date_ - self.first).days

    @cached_property
    def _per_unit_of_season(self) -> float:
        return self.events / sum(season(self.on(d)) for d in range(self.days))

    def target(self, day: int) -> float:
        """Events to expect; they add up to `events` over the `days` of the settings and go on after them."""
        return self._per_unit_of_season * season(self.on(day))

    @property
    def zone_info(self) -> ZoneInfo:
        return ZoneInfo(self.zone)

    def midnight(self, day: int) -> int:
        """Seconds since 1970 UTC at which the day begins in the shop's time zone."""
        local = datetime.combine(self.on(day), time(), self.zone_info)
        return int(local.astimezone(timezone.utc).timestamp())

    # --- shoppers -----------------------------------------------------------------------------------------------
    @cached_property
    def _users_first(self) -> int:
        return max(36, int(self.events / 60 * 0.7))

    @cached_property
    def _users_joining(self) -> int:
        """Over the days of the settings: at least one a week."""
        return max(self.days // 7 + 1, int(self.events / 60 * 0.3))

    def users_at(self, day: int) -> int:
        """Accounts at the end of a day; shopper `u` exists when u < users_at(day)."""
        return self._users_first + self._users_joining * max(day, 0) // self.days if day >= 0 else 0

    def joined(self, users: np.ndarray) -> np.ndarray:
        """Day each account was opened; below 0 within the two years before the first day."""
        before = -1 - below(730, self.seed, "joined", users)
        after = -(-(users - self._users_first + 1) * self.days // self._users_joining)  # smallest day with users_at(day) > u
        return np.where(users < self._users_first, before, after)

    def country(self, users: np.ndarray) -> np.ndarray:
        """Index into words.COUNTRIES."""
        return among(words.COUNTRY_SHARES, uniform(self.seed, "country", users))

    def taste(self, users: np.ndarray, day: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Favourite department, the one it drifts towards, style, and the epoch of the taste.

        A taste lasts 60 to 120 days by shopper; the next one begins as today's second favourite.
        """
        lasts = 60 + below(61, self.seed, "taste lasts", users)
        epoch = (day + below(lasts, self.seed, "taste shift", users)) // lasts
        main = below(DEPARTMENTS, self.seed, "taste", users, epoch)
        coming = below(DEPARTMENTS, self.seed, "taste", users, epoch + 1)
        return main, coming, below(self.styles, self.seed, "style", users), epoch

    def residence(self, users: np.ndarray, day: int) -> np.ndarray:
        """Number of the address a shopper lives at; 30 % move each half year, each on a day of their own."""
        period = (day + below(_MOVE_DAYS, self.seed, "move day", users)) // _MOVE_DAYS
        moved = uniform(self.seed, "moves", users, period) < 0.3
        return np.where(moved, period, 0)

    def changed_users(self, day: int) -> np.ndarray:
        """Shoppers delivered on a day: all on the first; then newcomers and those whose address changed."""
        now, before = self.users_at(day), self.users_at(day - 1)
        new = np.arange(before, now)
        if day == 0:
            return new
        old = np.arange(before)
        turns = (day + below(_MOVE_DAYS, self.seed, "move day", old)) % _MOVE_DAYS == 0
        old = old[turns]
        moved = old[self.residence(old, day) != self.residence(old, day - 1)]
        return np.concatenate([moved, new])

    # --- products -----------------------------------------------------------------------------------------------
    @cached_property
    def _items_final(self) -> int:
        return max(90, int(1.2 * self.events**0.55))

    @cached_property
    def _items_first(self) -> int:
        return int(self._items_final * 0.67)

    @cached_property
    def _items_weekly(self) -> int:
        weeks = max(1, self.days // 7)
        return max(2, (self._items_final - self._items_first) // weeks)

    @cached_property
    def styles(self) -> int:
        """Styles within a department: as many as leave each of them about five products."""
        return int(np.clip(self._items_first // (DEPARTMENTS * 5), 1, 4))

    def items_at(self, day: int) -> int:
        """Products listed so far; new ones every seventh day from the first."""
        return self._items_first + self._items_weekly * (day // 7) if day >= 0 else 0

    def listed(self, items: np.ndarray) -> np.ndarray:
        """Day of listing; below 0 within the year before the first day."""
        before = -1 - below(365, self.seed, "listed", items)
        week = (items - self._items_first) // self._items_weekly + 1
        return np.where(items < self._items_first, before, week * 7)

    def segment(self, items: np.ndarray) -> np.ndarray:
        """Department x styles + style: round robin, so that none is empty."""
        return (items % DEPARTMENTS) * self.styles + (items // DEPARTMENTS) % self.styles

    def list_pence(self, items: np.ndarray, day: int) -> np.ndarray:
        """Price before promotions; three in ten change by up to 10 % every four weeks, each on a day of its own."""
        median = np.asarray(words.DEPARTMENT_PRICE)[items % DEPARTMENTS] * 100
        spread = np.exp(1.4 * (uniform(self.seed, "price", items) - 0.5))
        period = (day + below(_PRICE_DAYS, self.seed, "price day", items)) // _PRICE_DAYS
        moves = uniform(self.seed, "price moves", items, period) < 0.3
        level = 1 + np.where(moves, 0.05 * (below(5, self.seed, "price level", items, period) - 2), 0.0)
        return np.maximum(49, (median * spread * level).astype(np.int64) // 10 * 10 + 9)

    def discount(self, items: np.ndarray, day: int) -> np.ndarray:
        """Share taken off this week: one product in twelve is on promotion."""
        week = day // 7
        on = uniform(self.seed, "promotion", items, week) < 1 / 12
        return np.where(on, 0.1 * (1 + below(3, self.seed, "promotion depth", items, week)), 0.0)

    def pence(self, items: np.ndarray, day: int) -> np.ndarray:
        """Price as charged."""
        return np.rint(self.list_pence(items, day) * (1 - self.discount(items, day))).astype(np.int64)

    def in_stock(self, items: np.ndarray, day: int) -> np.ndarray:
        period = (day + below(_PRICE_DAYS, self.seed, "price day", items)) // _PRICE_DAYS
        return uniform(self.seed, "stock", items, period) >= 0.03

    def changed_items(self, day: int) -> np.ndarray:
        """Products delivered on a day: the whole catalogue on the first; then new ones and changed prices or stock."""
        now, before = self.items_at(day), self.items_at(day - 1)
        new = np.arange(before, now)
        if day == 0:
            return new
        old = np.arange(before)
        differs = (self.list_pence(old, day) != self.list_pence(old, day - 1)) | (
            self.in_stock(old, day) != self.in_stock(old, day - 1)
        )
        return np.concatenate([old[differs], new])

    # --- fraud --------------------------------------------------------------------------------------------------
    @cached_property
    def rings(self) -> int:
        """Fraud rings: one for every 400 first shoppers. Ring r has the accounts ring_member(r, 0 .. size-1)."""
        return max(1, self._users_first // 400)

    def ring_size(self, rings: np.ndarray) -> np.ndarray:
        return 4 + below(6, self.seed, "ring size", rings)

    def ring_member(self, rings: np.ndarray, member: np.ndarray) -> np.ndarray:
        """Neighbouring numbers: the accounts were opened together."""
        stride = self._users_first // self.rings
        start = rings * stride + below(max(1, stride - 10), self.seed, "ring start", rings)
        return start + member

    def active_rings(self, day: int) -> np.ndarray:
        """Rings at work: in three weeks of ten, on two days of five."""
        rings = np.arange(self.rings)
        week = uniform(self.seed, "ring week", rings, day // 7) < 0.3
        return rings[week & (uniform(self.seed, "ring day", rings, day) < 0.4)]


class Shelf:
    """What is on offer in a week, with the chance of each product: a long tail, more for new ones and promotions."""

    def __init__(self, world: World, day: int):
        items = np.arange(world.items_at(day))
        tail = (1 - uniform(world.seed, "popularity", items)) ** -0.9  # Pareto, shape 1/0.9
        fresh = np.where(day - world.listed(items) < 28, 1.5, 1.0)
        weight = np.minimum(tail, 200) * fresh * (1 + 4 * world.discount(items, day)) * world.in_stock(items, day)
        segment = world.segment(items)
        self.order = np.argsort(segment, kind="stable")
        self._edges = np.searchsorted(segment[self.order], np.arange(DEPARTMENTS * world.styles + 1))
        self._sum = np.concatenate([[0.0], np.cumsum(np.maximum(weight[self.order], 1e-9))])
        self._styles = world.styles
        peak = np.asarray(words.DEPARTMENT_PEAK_DAY)
        turn = 2 * np.pi * (world.on(day).timetuple().tm_yday - peak) / 365.25
        self.departments = (1 + 0.6 * np.cos(turn)) / np.sum(1 + 0.6 * np.cos(turn))
        """Share of each department in purchases without a taste: the year's seasons."""

    def pick(self, u: np.ndarray, department: np.ndarray, style: np.ndarray | None = None) -> np.ndarray:
        """A product of each department (and style) by popularity, for u in [0, 1)."""
        low = department * self._styles + (0 if style is None else style)
        high = low + (self._styles if style is None else 1)
        start, end = self._sum[self._edges[low]], self._sum[self._edges[high]]
        place = np.searchsorted(self._sum, start + u * (end - start), side="right") - 1
        return self.order[np.clip(place, self._edges[low], self._edges[high] - 1)]


@lru_cache(maxsize=16)
def shelf(world: World, week: int) -> Shelf:
    return Shelf(world, week * 7)


def favourite(world: World, users: np.ndarray, department: np.ndarray, style: np.ndarray, epoch: np.ndarray,
              which: np.ndarray) -> np.ndarray:
    """One of the few products that a shopper comes back for while a taste lasts."""
    return shelf(world, 0).pick(uniform(world.seed, "favourite", users, epoch, which), department, style)


def device(world: World, users: np.ndarray, which: np.ndarray) -> np.ndarray:
    return bits(world.seed, "device", users, which)
