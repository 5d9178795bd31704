"""Visits and what happens in them: views, carts, purchases; and what follows days later.

A day has three batches, each with random streams of its own: `m` main visits, `s` special ones, `f` those of fraud rings.
Only special and fraud visits have consequences on later days (delivered late, returned, reviewed, labelled), after one of
a few fixed delays. So a delivery of day D needs the small batches of D minus each delay, and no day between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np

from nightmarket.sources.demo import words
from nightmarket.sources.demo.draw import among, below, bits, generator, uniform
from nightmarket.sources.demo.world import DEPARTMENTS, World, device, favourite, shelf

CHUNK_SESSIONS = 30_000
"""Visits made at once (about 160,000 events): bounds memory whatever the size of the shop."""
SPECIAL_SHARE = 0.12
KEPT_SESSIONS = 25_000
"""Special visits of a day up to which they are remembered: 40 days of them are about 200 MB."""
LATE_DAYS = (1, 2, 3)
RETURN_DAYS = (4, 9, 18)
REVIEW_DAYS = (4, 9)
LABEL_DAYS = (7, 15, 30)
EVENTS_PER_SESSION = 5.0
"""Mean of the model below; tests hold it to the sizes that settings ask for."""
ID_ROOM = 1_000_000
"""Numbers that a chunk may give to its events and orders."""

VIEW, CART, PURCHASE, RETURN = 0, 1, 2, 3

_HOURS = (0.3, 0.15, 0.1, 0.08, 0.1, 0.2, 0.5, 0.9, 1.1, 1.2, 1.3, 1.4, 1.6, 1.4, 1.2, 1.1, 1.2, 1.4, 1.7, 2.1, 2.3, 2.0, 1.3, 0.7)


@dataclass(frozen=True)
class Visits:
    """Sessions of one batch, arrays of one length. `user` is -1 for a stranger, `ring` -1 for honest people. `origin` is the country that
    the address is of, len(words.COUNTRIES) for one of none."""

    number: np.ndarray
    user: np.ndarray
    start: np.ndarray
    country: np.ndarray
    referrer: np.ndarray
    device: np.ndarray
    ip: np.ndarray
    origin: np.ndarray
    late: np.ndarray
    returned: np.ndarray
    reviewed: np.ndarray
    labelled: np.ndarray
    ring: np.ndarray

    def __len__(self) -> int:
        return len(self.number)


@dataclass(frozen=True)
class Happenings:
    """Events of one batch, sorted by time. `visit` is the position in the batch's Visits; prices are in pence."""

    number: np.ndarray
    visit: np.ndarray
    at: np.ndarray
    kind: np.ndarray
    item: np.ndarray
    quantity: np.ndarray
    pence: np.ndarray

    def where(self, mask: np.ndarray) -> Happenings:
        return Happenings(*(getattr(self, f.name)[mask] for f in fields(self)))

    def __len__(self) -> int:
        return len(self.number)


@dataclass(frozen=True)
class Batch:
    """`letter` and `day` name it; `chunk` counts from 0 within them."""

    day: int
    letter: str
    visits: Visits
    events: Happenings


def main(world: World, day: int) -> Iterator[Batch]:
    """The ordinary visits of a day, in chunks."""
    total = _count(world, day, 1 - SPECIAL_SHARE, "main")
    for chunk, done in enumerate(range(0, total, CHUNK_SESSIONS)):
        yield _shopping(world, day, "m", chunk, min(CHUNK_SESSIONS, total - done))


def special(world: World, day: int) -> Iterator[Batch]:
    """The visits of a day with consequences, in chunks."""
    total = _count(world, day, SPECIAL_SHARE, "special")
    for chunk, done in enumerate(range(0, total, CHUNK_SESSIONS)):
        yield _shopping(world, day, "s", chunk, min(CHUNK_SESSIONS, total - done))


def aftermath(world: World, day: int) -> Iterable[Batch]:
    """The special batches of a day as later days need them: late visits and purchases only. None before the first day."""
    if day < 0:
        return ()
    small = _count(world, day, SPECIAL_SHARE, "special") <= KEPT_SESSIONS
    return _kept(world, day) if small else (_trimmed(b) for b in special(world, day))


@lru_cache(maxsize=40)
def _kept(world: World, day: int) -> tuple[Batch, ...]:
    """A backfill asks for the same day again and again."""
    return tuple(_trimmed(b) for b in special(world, day))


def _trimmed(batch: Batch) -> Batch:
    needed = (batch.events.kind == PURCHASE) | (batch.visits.late[batch.events.visit] > 0)
    return replace(batch, events=batch.events.where(needed))


def fraud(world: World, day: int) -> Batch:
    """The orders of fraud rings: shared devices, cards and addresses, dear goods, several units, few views, by night, some from abroad."""
    return _fraud(world, day)


def _count(world: World, day: int, share: float, stream: str) -> int:
    """Whole sessions; the fraction is settled by a draw, so that small shops keep their mean."""
    wanted = world.target(day) * share / EVENTS_PER_SESSION
    return int(wanted + uniform(world.seed, f"count {stream}", day))


def _shopping(world: World, day: int, letter: str, chunk: int, count: int) -> Batch:
    rng = generator(world.seed, "visits", day, ord(letter), chunk)
    number = chunk * ID_ROOM + np.arange(count)
    user = _who(world, day, rng, count)
    known = user >= 0
    own = np.where(known, user, 0)
    stranger = bits(world.seed, "stranger", day, ord(letter), number)
    which = (rng.random(count) < 0.3).astype(np.int64)
    country = np.where(known, world.country(own), among(words.COUNTRY_SHARES, rng.random(count)))
    none = np.zeros(count, dtype=np.int64)
    late, returned, reviewed, labelled = none, none, none, none
    if letter == "s":
        late = np.asarray((0, *LATE_DAYS))[among((0.85, 0.08, 0.04, 0.03), rng.random(count))]
        prompt = late == 0
        returned = np.where(prompt, np.asarray((0, *RETURN_DAYS))[among((0.45, 0.2, 0.25, 0.1), rng.random(count))], 0)
        reviewed = np.where(prompt & known, np.asarray((0, *REVIEW_DAYS))[among((0.3, 0.4, 0.3), rng.random(count))], 0)
        labelled = np.where(prompt, np.asarray((0, *LABEL_DAYS))[among((0.4, 0.3, 0.2, 0.1), rng.random(count))], 0)
    ip = np.where(known, bits(world.seed, "ip", own, which), bits(world.seed, "ip of device", stranger))
    visits = Visits(
        number=number, user=user, start=_start(world, day, rng, count, _HOURS), country=country,
        referrer=among(words.REFERRER_SHARES, rng.random(count)),
        device=np.where(known, device(world, own, which), stranger),
        ip=ip, origin=_origin(world, ip, country), late=late, returned=returned, reviewed=reviewed, labelled=labelled, ring=none - 1,
    )
    return Batch(day, letter, visits, _funnel(world, day, rng, visits, chunk))


def _origin(world: World, ip: np.ndarray, country: np.ndarray) -> np.ndarray:
    """Three addresses in a hundred are of another country than who uses them, as those of travellers and proxies are; one is of none."""
    none = len(words.COUNTRIES)
    way = uniform(world.seed, "address abroad", ip)
    elsewhere = (country + 1 + below(none - 1, world.seed, "address of", ip)) % none
    return np.where(way < 0.03, elsewhere, np.where(way < 0.04, none, country))


def _who(world: World, day: int, rng: np.random.Generator, count: int) -> np.ndarray:
    """Shopper of each visit: a tenth are strangers, half of the rest regulars (every eighth account), some newcomers."""
    there = world.users_at(day)
    u, way = rng.random(count), rng.random(count)
    user = (u * there).astype(np.int64)
    regular = (u * (there // 8)).astype(np.int64) * 8
    newest = world.users_at(max(day - 7, 0))
    joining = newest + (u * (there - newest)).astype(np.int64)
    user = np.where(way < 0.42, regular, user)
    user = np.where((way >= 0.42) & (way < 0.46) & (there > newest), joining, user)
    return np.where(way >= 0.90, -1, np.minimum(user, there - 1))


def _start(world: World, day: int, rng: np.random.Generator, count: int, hours: tuple[float, ...]) -> np.ndarray:
    """Seconds since 1970; the last visit begins an hour before the day ends, so that it ends within it."""
    begin, end = world.midnight(day), world.midnight(day + 1)
    second = (among(hours, rng.random(count)) + rng.random(count)) * 3600
    return begin + np.minimum(second, end - begin - 3600).astype(np.int64)


def _funnel(world: World, day: int, rng: np.random.Generator, visits: Visits, chunk: int) -> Happenings:
    """Each visit looks at 1 to 12 products; some are put into the cart; most carts are bought in one order at the end."""
    count = len(visits)
    looks = np.minimum(rng.geometric(0.32, count), 12)
    visit = np.repeat(np.arange(count), looks)
    n = len(visit)
    user, known = visits.user[visit], visits.user[visit] >= 0
    # a stranger has the taste of the moment: drawn for the visit, gone with it
    own = np.where(known, user, 0)
    main_, coming, style, epoch = world.taste(np.where(visits.user >= 0, visits.user, 0), day)
    passing = (rng.random(count) * DEPARTMENTS).astype(np.int64)
    main_ = np.where(visits.user >= 0, main_, passing)
    style = np.where(visits.user >= 0, style, (rng.random(count) * world.styles).astype(np.int64))
    offer = shelf(world, day // 7)
    way, u = rng.random(n), rng.random(n)
    item = offer.pick(u, main_[visit], style[visit])
    is_favourite = (way < 0.30) & known
    which = (rng.random(n) ** 2 * 4).astype(np.int64)
    chosen = is_favourite.nonzero()[0]
    item[chosen] = favourite(world, own[chosen], main_[visit[chosen]], style[visit[chosen]], epoch[visit[chosen]], which[chosen])
    drift = ((way >= 0.70) & (way < 0.85)).nonzero()[0]
    item[drift] = offer.pick(u[drift], coming[visit[drift]])
    stray = (way >= 0.85).nonzero()[0]
    item[stray] = offer.pick(u[stray], among(tuple(offer.departments), rng.random(len(stray))))

    gaps = rng.exponential(45.0, n).astype(np.int64) + 3
    through = np.cumsum(gaps)
    first = np.concatenate([[0], np.cumsum(looks)[:-1]])
    since = np.minimum(through - (through[first] - gaps[first])[visit], 2400)
    seen = visits.start[visit] + since
    again = rng.random(n) < 0.15
    carted = rng.random(n) < np.where(is_favourite, 0.45, 0.26) * np.where(known, 1.0, 0.6)
    bought = carted & (rng.random(count) < 0.65)[visit] & (rng.random(n) < 0.85)
    last = np.maximum.reduceat(seen, first) if count else seen
    paid = (last + 90)[visit]
    units = np.where(rng.random(n) < 0.8, 1, rng.geometric(0.45, n) + 1)
    ones = np.ones(n, dtype=np.int64)

    everyone = np.arange(n)
    picked = np.concatenate([everyone, everyone[again], everyone[carted], everyone[bought]])
    at = np.concatenate([seen, seen[again] + 25, seen[carted] + 12, paid[bought]])
    kind = np.concatenate([np.full(n, VIEW), np.full(again.sum(), VIEW), np.full(carted.sum(), CART), np.full(bought.sum(), PURCHASE)])
    quantity = np.where(kind == VIEW, ones[picked], units[picked])
    return _sorted(world, day, chunk, visit[picked], at, kind, item[picked], quantity)


def _sorted(world: World, day: int, chunk: int, visit: np.ndarray, at: np.ndarray, kind: np.ndarray, item: np.ndarray,
            quantity: np.ndarray) -> Happenings:
    order = np.argsort(at, kind="stable")
    pence = _prices(world, day)[item]
    if len(order) >= ID_ROOM:
        raise ValueError(f"a chunk of {len(order)} events is larger than the {ID_ROOM} numbers it may give")
    return Happenings(chunk * ID_ROOM + np.arange(len(order)), visit[order], at[order], kind[order], item[order],
                      quantity[order], pence[order])


@lru_cache(maxsize=48)
def _prices(world: World, day: int) -> np.ndarray:
    return world.pence(np.arange(world.items_at(day)), day)


@lru_cache(maxsize=48)
def _fraud(world: World, day: int) -> Batch:
    rings = world.active_rings(day) if day >= 0 else np.arange(0)
    sizes = world.ring_size(rings)
    ring = np.repeat(rings, sizes)
    member = np.arange(len(ring)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    at_work = uniform(world.seed, "ring member works", ring, member, day) < 0.5
    ring, member = ring[at_work], member[at_work]
    count = len(ring)
    rng = generator(world.seed, "fraud", max(day, 0))
    which = below(2, world.seed, "ring device of", ring, member, day)
    none = np.zeros(count, dtype=np.int64)
    country = world.country(world.ring_member(ring, none))
    visits = Visits(
        number=np.arange(count), user=world.ring_member(ring, member),
        start=_start(world, max(day, 0), rng, count, tuple(1.0 if h < 6 else 0.05 for h in range(24))),
        country=country,
        referrer=np.full(count, words.REFERRERS.index("direct")),
        device=bits(world.seed, "ring device", ring, which), ip=bits(world.seed, "ring ip", ring, which),
        # the second of a ring's two addresses is a proxy's in another country
        origin=np.where(which == 0, country, (country + 1 + below(len(words.COUNTRIES) - 1, world.seed, "ring abroad", ring)) % len(words.COUNTRIES)),
        late=none, returned=none, reviewed=none,
        labelled=np.asarray((0, *LABEL_DAYS))[among((0.1, 0.4, 0.3, 0.2), rng.random(count))], ring=ring,
    )
    # the dearest of four products, one or two lines, two to six units each
    lines = 1 + (rng.random(count) < 0.4).astype(np.int64)
    visit = np.repeat(np.arange(count), lines)
    draws = (rng.random((len(visit), 4)) * world.items_at(max(day, 0))).astype(np.int64)
    dearest = np.argmax(_prices(world, max(day, 0))[draws], axis=1)
    item = draws[np.arange(len(visit)), dearest]
    units = 2 + (rng.random(len(visit)) * 5).astype(np.int64)
    at = np.concatenate([visits.start[visit] + step for step in (0, 4, 30)]) if count else none
    kind = np.repeat([VIEW, CART, PURCHASE], len(visit))
    quantity = np.concatenate([np.ones_like(units), units, units])
    return Batch(day, "f", visits, _sorted(world, max(day, 0), 0, np.tile(visit, 3), at, kind, np.tile(item, 3), quantity))
