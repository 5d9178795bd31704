"""What the shop's systems would deliver of a day: clean tables under the shop's own column names, before any dirt.

`delivered` yields them as Arrow tables in chunks. The truth that goes with them (who cheats, who likes what) is told to a
`Truth`, never to the tables.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from functools import lru_cache
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket.sources.demo import sessions, words
from nightmarket.sources.demo.draw import among, below, bits, hexed, moments, numbered, uniform
from nightmarket.sources.demo.sessions import PURCHASE, RETURN, Batch, Happenings, Visits
from nightmarket.sources.demo.truth import Truth
from nightmarket.sources.demo.world import World, device

PEOPLE_AT_ONCE = 50_000
FAKE_LABEL_DAYS = 12

ACTIONS = pa.array(["page_view", "add_to_cart", "purchase", "return"])
EVENTS = pa.schema([(n, pa.string()) for n in (
    "id", "occurred_at", "action", "customer", "sku", "qty", "price", "ccy", "order_no", "visit", "country", "source",
    "device", "client_ip", "changed_at")])
ORDERS = pa.schema([
    ("order_no", pa.string()), ("customer", pa.string()), ("placed_at", pa.timestamp("us", tz="UTC")),
    ("total", pa.decimal128(14, 2)), ("ccy", pa.string()), ("line_count", pa.int32()), ("payment", pa.string()),
    ("card", pa.string()), ("device", pa.string()), ("client_ip", pa.string()), ("ship_to", pa.string()),
    ("ship_country", pa.string()), ("chargeback", pa.bool_()), ("chargeback_known_at", pa.timestamp("us", tz="UTC")),
    ("changed_at", pa.timestamp("us", tz="UTC")),
])
ITEMS = pa.schema([(n, pa.string()) for n in (
    "sku", "name", "lang", "department", "maker", "rrp", "ccy", "stock", "listed", "changed_at")])
USERS = pa.schema([
    ("customer", pa.string()), ("joined", pa.int64()), *((n, pa.string()) for n in (
        "country", "email", "phone", "name", "address", "age_band", "income_band", "source", "device", "changed_at"))])
REVIEWS = pa.schema([
    ("review", pa.string()), ("customer", pa.string()), ("sku", pa.string()), ("order_no", pa.string()), ("written_at", pa.string()),
    ("stars", pa.int64()), ("headline", pa.string()), ("body", pa.string()), ("lang", pa.string()), ("fake", pa.bool_()),
    ("fake_known_at", pa.string()), ("changed_at", pa.string())])


# --- names -------------------------------------------------------------------------------------------------------
def user_id(users: np.ndarray) -> pa.StringArray:
    return numbered("C", users, 8)


def sku(items: np.ndarray) -> pa.StringArray:
    return numbered("SKU-", items, 6)


def _key(prefix: str, world: World, batch: Batch, numbers: np.ndarray, letter: str = "") -> pa.StringArray:
    return numbered(f"{prefix}{world.on(batch.day):%Y%m%d}{letter or batch.letter}", numbers, 9)


_EACH = 1 << 14
"""Addresses of a country in IPv4; a third as many are in IPv6."""


@lru_cache(maxsize=2)
def _addresses() -> pa.StringArray:
    """Addresses set aside for tests of networks and for documents: 198.18.0.0/15 (RFC 2544), a quarter of them in 2001:db8::/32 (RFC 3849).

    An eighth of either is one country's, the last eighth nobody's.
    """
    made = []
    for block in range(len(words.COUNTRIES) + 1):
        four, six = (range(block << bits_, (block << bits_) + count) for bits_, count in ((14, _EACH), (13, _EACH // 3)))
        made += [f"198.{18 + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in four]
        made += [f"2001:db8:{n:x}::{n ^ 0x5a5a:x}:1" for n in six]
    return pa.array(made)


def _ip(values: np.ndarray, origin: np.ndarray) -> pa.StringArray:
    each = _EACH + _EACH // 3
    return _addresses().take(pa.array((values % np.uint64(each)).astype(np.int64) + origin * each))


def ip_ranges() -> pa.Table:
    """Which of these addresses are which country's, as a shop would buy it."""
    rows = []
    for n, country in enumerate(words.COUNTRIES):
        second = 18 + (n >> 2)
        rows.append((f"198.{second}.{(n & 3) << 6}.0", f"198.{second}.{((n & 3) << 6) + 63}.255", country))
        rows.append((f"2001:db8:{n << 13:x}::", f"2001:db8:{(n << 13) + 0x1FFF:x}:ffff:ffff:ffff:ffff:ffff", country))
    return pa.table([pa.array(c) for c in zip(*rows, strict=True)], names=["first", "last", "country"])


def _taken(words_: Iterable[str], index: np.ndarray) -> pa.StringArray:
    return pa.array(list(words_)).take(pa.array(index))


def _price_texts(pence: np.ndarray) -> pa.StringArray:
    unique, place = np.unique(pence, return_inverse=True)
    return pa.array([f"{p // 100}.{p % 100:02d}" for p in unique.tolist()], pa.string()).take(pa.array(place))


def _pounds(pence: np.ndarray) -> pa.Array:
    """Decimals from whole pence: 128-bit integers, two digits behind the point."""
    halves = np.stack([pence, np.where(pence < 0, -1, 0)], axis=1).astype("<i8")
    return pa.Array.from_buffers(pa.decimal128(14, 2), len(pence), [None, pa.py_buffer(np.ascontiguousarray(halves))])


def _masked(values: pa.Array, null: np.ndarray) -> pa.Array:
    return pc.if_else(pa.array(null), pa.scalar(None, values.type), values) if null.any() else values


def delivered(world: World, day: int, truth: Truth) -> Iterator[tuple[str, pa.Table]]:
    """All that is delivered of a day, as (entity, chunk): each batch of visits is made once, for events and orders.

    Events of the day come first, then those of earlier days that come late, then returns; orders likewise, and at last
    earlier orders once more, with the label that has become known.
    """
    for batch in chain(sessions.main(world, day), sessions.special(world, day), [sessions.fraud(world, day)]):
        prompt = batch.visits.late == 0
        truth.tastes(world, day, batch.visits.user[prompt])
        yield from _happened(world, batch, prompt, truth)
    for delay in sessions.LATE_DAYS:
        for batch in sessions.aftermath(world, day - delay):
            late = batch.visits.late == delay
            for entity, rows in _happened(world, batch, late, truth):
                truth.say("late", entity, str(world.on(day - delay)), rows[rows.column_names[0]])
                yield entity, rows
    for delay in sessions.RETURN_DAYS:
        for batch in sessions.aftermath(world, day - delay):
            yield from _taken_back(world, day, delay, batch, truth)
    for delay in sessions.LABEL_DAYS:
        if day >= delay:
            for batch in chain(sessions.aftermath(world, day - delay), [sessions.fraud(world, day - delay)]):
                for rows in _order_rows(world, batch, batch.visits.labelled == delay, truth, labelled_on=day):
                    yield "orders", rows
    yield "items", items(world, day)
    for rows in users(world, day):
        yield "users", rows
    yield "reviews", reviews(world, day, truth)


# --- events ------------------------------------------------------------------------------------------------------
def _happened(world: World, batch: Batch, wanted: np.ndarray, truth: Truth) -> Iterator[tuple[str, pa.Table]]:
    """Events and orders of the wanted visits."""
    events = batch.events.where(wanted[batch.events.visit])
    if len(events):
        yield "events", _event_rows(world, batch, events)
    for rows in _order_rows(world, batch, wanted, truth):
        yield "orders", rows


def _event_rows(world: World, batch: Batch, events: Happenings) -> pa.Table:
    visits, at = batch.visits, events.visit
    user = visits.user[at]
    in_order = events.kind >= PURCHASE  # and returns, which name the order they take back
    when = moments(events.at)
    return pa.table([
        _key("e", world, batch, events.number),
        when,
        ACTIONS.take(pa.array(events.kind)),
        _masked(user_id(np.maximum(user, 0)), user < 0),
        sku(events.item),
        _masked(pa.array(events.quantity).cast(pa.string()), events.kind == sessions.VIEW),
        _price_texts(events.pence),
        pa.repeat("GBP", len(events)),
        _masked(_key("o", world, batch, visits.number[at]), ~in_order),
        _key("v", world, batch, visits.number[at]),
        _taken(words.COUNTRIES, visits.country[at]),
        _taken(words.REFERRERS, visits.referrer[at]),
        hexed("dv-", visits.device).take(pa.array(at)),
        _ip(visits.ip, visits.origin).take(pa.array(at)),
        when,
    ], schema=EVENTS)


def _taken_back(world: World, day: int, delay: int, batch: Batch, truth: Truth) -> Iterator[tuple[str, pa.Table]]:
    """Purchases of an earlier day that come back on this one, all units or all but one; one cancellation an order."""
    visits, events = batch.visits, batch.events
    back = events.where((events.kind == PURCHASE) & (visits.returned[events.visit] == delay))
    back = back.where(uniform(world.seed, "returned line", batch.day, back.number) < 0.7)
    if not len(back):
        return
    part = (uniform(world.seed, "returned part", batch.day, back.number) < 0.3) & (back.quantity > 1)
    units = np.where(part, back.quantity - 1, back.quantity)
    at = world.midnight(day) + 8 * 3600 + below(10 * 3600, world.seed, "returned at", batch.day, back.number)
    gone = replace(back, at=at, kind=np.full(len(back), RETURN), quantity=-units)
    rows = _event_rows(world, batch, gone)
    rows = rows.set_column(0, "id", _key("e", world, batch, back.number, "r"))  # the same number as the purchase's
    rows = rows.set_column(9, "visit", pa.nulls(len(back), pa.string()))
    truth.pairs("return", "events", _key("e", world, batch, back.number), rows["id"])
    yield "events", rows
    which, lines = np.unique(back.visit, return_counts=True)
    pence = -np.bincount(np.searchsorted(which, back.visit), weights=units * back.pence).astype(np.int64)
    when = np.full(len(which), world.midnight(day) + 18 * 3600)
    yield "orders", _orders(world, batch, which, "c", when, pence, lines, None, truth)


# --- orders ------------------------------------------------------------------------------------------------------
def _order_rows(world: World, batch: Batch, wanted: np.ndarray, truth: Truth, labelled_on: int | None = None) -> Iterator[pa.Table]:
    """One order a visit with purchases; with its label where that is known on the day `labelled_on`."""
    events = batch.events.where(batch.events.kind == PURCHASE)
    events = events.where(wanted[events.visit])
    if not len(events):
        return
    at, first, lines = np.unique(events.visit, return_index=True, return_counts=True)
    pence = np.bincount(np.searchsorted(at, events.visit), weights=events.quantity * events.pence).astype(np.int64)
    known = None if labelled_on is None else world.midnight(labelled_on) + 9 * 3600
    yield _orders(world, batch, at, "o", events.at[first], pence, lines, known, truth)


def _orders(world: World, batch: Batch, at: np.ndarray, letter: str, when: np.ndarray, pence: np.ndarray, lines: np.ndarray,
            labelled_at: int | None, truth: Truth) -> pa.Table:
    visits: Visits = batch.visits
    user, ring, number = visits.user[at], visits.ring[at], visits.number[at]
    lives_at = np.where(user >= 0, user, 0)
    lives_at = np.where(ring >= 0, world.ring_member(np.maximum(ring, 0), np.zeros(len(at), dtype=np.int64)), lives_at)
    card = np.where(ring >= 0, bits(world.seed, "ring card", ring, number % 5),
                    np.where(user >= 0, bits(world.seed, "card", user), bits(world.seed, "stranger's card", visits.device[at])))
    country, number_of = world.country(lives_at), _home(world, lives_at, batch.day)
    strange = user < 0
    country = np.where(strange, visits.country[at], country)
    number_of = np.where(strange, bits(world.seed, "stranger lives", visits.device[at]), number_of)
    n = len(at)
    placed = pa.array(when * 1_000_000).cast(pa.timestamp("us", tz="UTC"))
    seen = placed if labelled_at is None else pa.repeat(pa.scalar(labelled_at * 1_000_000).cast(ORDERS.field("changed_at").type), n)
    table = pa.table([
        _key(letter, world, batch, number),
        _masked(user_id(np.maximum(user, 0)), user < 0),
        placed,
        _pounds(pence),
        pa.repeat("GBP", n),
        pa.array(lines, pa.int32()),
        _taken(words.PAYMENTS, among(words.PAYMENT_SHARES, uniform(world.seed, "payment", batch.day, ord(batch.letter), number))),
        hexed("card-", card),
        hexed("dv-", visits.device[at]),
        _ip(visits.ip[at], visits.origin[at]),
        addresses(country, number_of),
        _taken(words.COUNTRIES, visits.country[at]),
        pa.array(ring >= 0) if labelled_at is not None else pa.nulls(n, pa.bool_()),
        seen if labelled_at is not None else pa.nulls(n, ORDERS.field("chargeback_known_at").type),
        seen,
    ], schema=ORDERS)
    if letter == "o" and labelled_at is None and (ring >= 0).any():
        truth.pairs("fraud", "orders", numbered("ring-", ring[ring >= 0], 5), table["order_no"].filter(pa.array(ring >= 0)))
    return table


# --- items -------------------------------------------------------------------------------------------------------
def items(world: World, day: int) -> pa.Table:
    """The whole catalogue on the first day; then new products and changed ones."""
    who = world.changed_items(day)
    language = among(words.LANGUAGE_SHARES, uniform(world.seed, "title language", who))
    pence = world.list_pence(who, day)
    listed, midnight = world.listed(who), world.midnight(day)
    stock = world.in_stock(who, day)
    rows = []
    for n, item in enumerate(who.tolist()):
        lang = words.LANGUAGES[language[n]]
        department, style = item % len(words.DEPARTMENTS), (item // len(words.DEPARTMENTS)) % world.styles
        parts = (words.STYLES[lang][style], words.COLOURS[lang][int(below(5, world.seed, "colour", item))], words.NOUNS[lang][department],
                 f"No. {item}" if lang in ("en", "de", "fr", "es") else f"{item}号")
        opened = datetime.fromtimestamp(world.midnight(0) + int(listed[n]) * 86_400 + 32_400, timezone.utc)
        rows.append((
            words.SPACE.get(lang, " ").join(parts), lang, words.DEPARTMENTS[department],
            words.MAKERS[int(below(len(words.MAKERS), world.seed, "maker", item))], f"{pence[n] // 100}.{pence[n] % 100:02d}",
            "GBP", "yes" if stock[n] else "no", f"{opened:%d/%m/%Y %H:%M}", f"{datetime.fromtimestamp(midnight + 3600, timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
        ))
    columns = list(zip(*rows, strict=True)) if rows else [()] * 9
    return pa.table([sku(who), *(pa.array(c, pa.string()) for c in columns)], schema=ITEMS)


# --- users -------------------------------------------------------------------------------------------------------
def _home(world: World, users: np.ndarray, day: int) -> np.ndarray:
    """64 bits that say where each shopper lives on a day."""
    return bits(world.seed, "address", users, world.residence(users, day))


def addresses(country: np.ndarray, number: np.ndarray) -> pa.StringArray:
    """House, street, town and code, of 64 random bits each."""
    kinds = len(words.STREETS[0])
    street = (number % np.uint64(kinds)).astype(np.int64)
    city = (number // np.uint64(3) % np.uint64(kinds)).astype(np.int64)
    house = numbered("", (number // np.uint64(9) % np.uint64(899)).astype(np.int64) + 101, 3)
    code = numbered("", (number // np.uint64(8091) % np.uint64(89_999)).astype(np.int64) + 10_000, 5)
    streets = _taken(chain(*words.STREETS), country * kinds + street)
    cities = _taken(chain(*words.CITIES), country * kinds + city)
    where = pc.binary_join_element_wise(house, streets, " ")
    return pc.binary_join_element_wise(where, pc.binary_join_element_wise(cities, code, " "), ", ")


@lru_cache(maxsize=1024)
def _plain(name: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", name).lower() if c.isascii() and c.isalpha())


def users(world: World, day: int) -> Iterator[pa.Table]:
    """Everybody on the first day; then newcomers and those who moved."""
    changed = world.changed_users(day)
    for start in range(0, len(changed), PEOPLE_AT_ONCE):
        who = changed[start:start + PEOPLE_AT_ONCE]
        yield _people(world, who, day)


def _people(world: World, who: np.ndarray, day: int) -> pa.Table:
    country = world.country(who).tolist()
    first, last, digits = (below(n, world.seed, s, who).tolist() for n, s in ((8, "first name"), (8, "last name"), (100_000, "phone")))
    names, mails, phones = [], [], []
    for n, c in enumerate(country):
        given, family = words.FIRST_NAMES[c][first[n]], words.LAST_NAMES[c][last[n]]
        names.append(f"{family}{given}" if c >= 5 else f"{given} {family}")
        mails.append(f"{_plain(given) or 'user'}.{_plain(family) or 'mail'}{who[n]}@{('post', 'inbox', 'letters')[digits[n] % 3]}.example")
        phones.append(f"{words.CALLING_CODES[c]} {digits[n]:05d}{who[n] % 10}")
    joined = np.asarray([world.midnight(0)]) + world.joined(who) * 86_400 + below(80_000, world.seed, "joined at", who)
    ages = among(words.AGE_SHARES, uniform(world.seed, "age", who))
    return pa.table([
        user_id(who),
        pa.array(joined * 1000),
        _taken(words.COUNTRIES, world.country(who)),
        pa.array(mails, pa.string()), pa.array(phones, pa.string()), pa.array(names, pa.string()),
        addresses(world.country(who), _home(world, who, day)),
        _taken(words.AGE_BANDS, ages),
        _taken(words.INCOME_BANDS, below(len(words.INCOME_BANDS), world.seed, "income", who)),
        _taken(words.REFERRERS, among(words.REFERRER_SHARES, uniform(world.seed, "signed up through", who))),
        hexed("dv-", device(world, who, np.zeros(len(who), dtype=np.int64))),
        moments(np.full(len(who), world.midnight(day) + 3600)),
    ], schema=USERS)


# --- reviews -----------------------------------------------------------------------------------------------------
def reviews(world: World, day: int, truth: Truth) -> pa.Table:
    """Reviews written on the day; then those of twelve days ago again, where it became known whether they are fake."""
    parts = []
    for rows, _, ring in _written(world, day):
        if ring is not None:
            truth.pairs("fake", "reviews", numbered("ring-", ring, 5), rows["review"])
        parts.append(rows)
    for rows, judged, ring in _written(world, day - FAKE_LABEL_DAYS):
        again = rows.filter(pa.array(judged))
        known = moments(np.full(len(again), world.midnight(day) + 10 * 3600))
        again = _with(again, fake=pa.repeat(ring is not None, len(again)), fake_known_at=known, changed_at=known)
        parts.append(again)
    return pa.concat_tables(parts) if parts else REVIEWS.empty_table()


def _with(table: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), values)
    return table


def _written(world: World, day: int) -> Iterator[tuple[pa.Table, np.ndarray, np.ndarray | None]]:
    """Reviews of a day, whether a person looks at each (then its label comes), and the ring that was paid, if any."""
    if day < 0:
        return
    for delay in sessions.REVIEW_DAYS:
        for batch in sessions.aftermath(world, day - delay):
            visits, events = batch.visits, batch.events
            told = events.where((events.kind == PURCHASE) & (visits.reviewed[events.visit] == delay))
            keys = (batch.day, told.number)
            stars = 1 + among((0.06, 0.06, 0.13, 0.30, 0.45), uniform(world.seed, "stars", *keys))
            mood = np.where(stars <= 2, 0, np.where(stars == 3, 1, 2))
            lang = _LANGUAGE_OF[visits.country[told.visit]]
            text = (lang * 3 + mood) * 2 + below(2, world.seed, "opinion", *keys)
            rows = _review_rows(
                world, day, _key("r", world, batch, told.number), visits.user[told.visit], told.item,
                _key("o", world, batch, visits.number[told.visit]), below(80_000, world.seed, "reviewed at", *keys), stars,
                _taken(words.HEADLINES, mood), _taken(_OPINIONS, text), _taken(words.LANGUAGES, lang),
            )
            yield rows, uniform(world.seed, "judged", *keys) < 0.3, None
    # a seller pays a ring's accounts to praise one product a week
    rings = world.active_rings(day)
    sizes = world.ring_size(rings)
    ring = np.repeat(rings, sizes)
    member = np.arange(len(ring)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    writes = uniform(world.seed, "paid review", day, ring, member) < 0.5
    ring, member = ring[writes], member[writes]
    if len(ring):
        whose = (day, ring, member)
        rows = _review_rows(
            world, day, numbered(f"r{world.on(day):%Y%m%d}p", ring * 100 + member, 9), world.ring_member(ring, member),
            below(world.items_at(day), world.seed, "paid for", ring, day // 7), pa.nulls(len(ring), pa.string()),
            below(80_000, world.seed, "paid at", *whose), np.full(len(ring), 5), pa.repeat(words.HEADLINES[2], len(ring)),
            _taken(words.PAID_OPINIONS, below(len(words.PAID_OPINIONS), world.seed, "praise", *whose)), pa.repeat("en", len(ring)),
        )
        yield rows, uniform(world.seed, "found out", *whose) < 0.85, ring


_LANGUAGE_OF = np.asarray([words.LANGUAGES.index(lang) for lang in words.COUNTRY_LANGUAGE])
_OPINIONS = tuple(text for lang in words.LANGUAGES for mood in words.OPINIONS[lang] for text in mood)


def _review_rows(world: World, day: int, keys: pa.Array, users_: np.ndarray, items_: np.ndarray, order_ids: pa.Array, second: np.ndarray,
                 stars: np.ndarray, headline: pa.Array, body: pa.Array, lang: pa.Array) -> pa.Table:
    at, n = moments(world.midnight(day) + second), len(stars)
    return pa.table([
        keys, user_id(users_), sku(items_), order_ids, at, pa.array(stars), headline, body, lang,
        pa.nulls(n, pa.bool_()), pa.nulls(n, pa.string()), at,
    ], schema=REVIEWS)
