"""Somebody's own files as histories, catalogue and questions: what `python -m jobs.recommend` reads.

Ids may be of any type: they are text inside and their own type again in the answer. Times may be timestamps with or without zone
(without: UTC), ISO 8601 text of mixed zones, dates, seconds, milli-, micro- or nanoseconds since 1970, or plain places in an order. An order has no
clock: a shopper's newest place then lies one day before the moment of asking, the place before it two days, and so on, so that
"a day" everywhere means "a place".
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket import log as logs
from nightmarket.command import Refused, UsageError
from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.histories import CART, DAY, PURCHASE, RETURN, VIEW, Histories
from nightmarket.recommend.signals import Groups

_LOG = logs.logger("recommend")
KINDS = {
    "view": VIEW, "click": VIEW, "impression": VIEW, "rating": VIEW, "rate": VIEW, "search": VIEW, "wishlist": VIEW, "like": VIEW,
    "cart": CART, "add_to_cart": CART, "addtocart": CART, "add": CART, "basket": CART,
    "purchase": PURCHASE, "buy": PURCHASE, "order": PURCHASE, "transaction": PURCHASE, "sale": PURCHASE,
    "return": RETURN, "refund": RETURN,
}
"""Names of behaviours, in small letters."""
OBJECTIVES = ("purchase", "cart", "view")
EVENTS_OF_ONE = 20_000
"""Newest events of a shopper that count: a robot's million must not outvote everybody."""
_EPOCH = 100_000_000
"""Whole numbers from here on are seconds since 1970 (1973 on); smaller ones are places in an order."""
_GROUP_VALUES = 200
_SKIPPED = ("item_id", "title", "category", "list_price", "price", "image", "image_path", "image_bytes")


@dataclass(frozen=True)
class Question:
    """All that is asked and known, in codes."""

    histories: Histories
    """Events that count for everybody, all before `moment`; shoppers and items of every file have codes."""
    context: Histories
    """Further events of targets, on the same codes, before `moment` too; they speak for these shoppers only."""
    catalogue: Catalogue
    groups: Groups
    targets: np.ndarray
    """(T,) codes of the shoppers asked for, in the order of the file, each once."""
    allowed: np.ndarray
    """(items,) bool: what may be answered."""
    moment: float
    ordered: bool
    """Whether times are only places in an order."""
    objective: int
    users_written: Ids
    items_written: Ids


@dataclass(frozen=True)
class Ids:
    """A column of ids: text of each distinct one, and which each row has."""

    names: list[str]
    codes: np.ndarray
    """(n,) int64 place in `names`, -1 where the row has none."""
    written: dict[str, Any]
    """By text, the id as it was written; empty for text."""
    kind: pa.DataType
    """What to write ids as."""

    def onto(self, place: dict[str, int]) -> np.ndarray:
        """(n,) int64 codes of `place`; -1 where the row has no id, or one that `place` lacks."""
        return np.array([*(place.get(n, -1) for n in self.names), -1], np.int64)[self.codes]

    @property
    def used(self) -> list[str]:
        return [self.names[c] for c in np.unique(self.codes[self.codes >= 0])]


def identify(column: pa.ChunkedArray | pa.Array, where: str) -> Ids:
    """The ids of a column. Raises UsageError for a type that is no id."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        array, kind = array.storage, array.type.storage_type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if pa.types.is_floating(kind):
        values = array.to_numpy(zero_copy_only=False)
        broken = np.flatnonzero(~(np.isnan(values) | (values == np.floor(values))))
        if len(broken):
            raise UsageError(f"{where}: row {int(broken[0]) + 1} has {values[broken[0]]!r}; an id is text or a whole number")
        array = pc.cast(pc.if_else(pc.is_nan(array), None, array), pa.int64())  # 17850.0 is how a column with gaps writes 17850
        kind = pa.int64()
    raw = pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    if not (raw or pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise UsageError(f"{where}: is {kind}; an id is text, a whole number or a UUID")
    if pa.types.is_null(kind):
        return Ids([], np.full(len(array), -1, np.int64), {}, pa.string())
    coded = array.dictionary_encode()
    values = coded.dictionary.to_pylist()
    codes = pc.fill_null(pc.cast(coded.indices, pa.int64()), -1).to_numpy(zero_copy_only=False)
    if raw:
        names = [str(uuid.UUID(bytes=v)) if len(v) == 16 and pa.types.is_fixed_size_binary(kind) else v.decode("utf-8", "replace") for v in values]
    else:
        names = [str(v) for v in values]
    empty = np.array([not n.strip() for n in names] + [False], bool)
    codes = np.where(empty[codes], -1, codes)
    whole = pa.types.is_integer(kind)
    return Ids(names, codes, dict(zip(names, values, strict=True)) if whole else {}, kind if whole else pa.string())


def moments(column: pa.ChunkedArray, where: str) -> tuple[np.ndarray, bool]:
    """((n,) float64 seconds since 1970-01-01 UTC or places, NaN where there is none; whether they are places).

    Raises UsageError that names the row of a text that is no time.
    """
    kind = column.type
    if pa.types.is_timestamp(kind):
        return _seconds(pc.cast(column, pa.timestamp("us", tz=kind.tz), safe=False)), False
    if pa.types.is_date(kind):
        return _seconds(pc.cast(column, pa.timestamp("us"))), False
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = pc.cast(column, pa.float64()).to_numpy()
        finite = values[np.isfinite(values)]
        largest = float(np.abs(finite).max()) if len(finite) else 0.0
        if largest < _EPOCH:
            return np.where(np.isfinite(values), values, np.nan), True
        scale = 1.0
        while largest / scale >= 1e11:  # seconds reach that in the year 5138
            scale *= 1000.0
        return values / scale, False
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _texts(column, where)
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan), False
    raise UsageError(f"{where}: is {kind}; a time is a timestamp, ISO 8601 text, a number of seconds, or a place in an order")


def _seconds(column: pa.ChunkedArray) -> np.ndarray:
    values = pc.cast(column, pa.int64())
    return pc.fill_null(pc.cast(values, pa.float64(), safe=False), float("nan")).to_numpy() / 1e6


def _texts(column: pa.ChunkedArray, where: str) -> tuple[np.ndarray, bool]:
    coded = column.combine_chunks().dictionary_encode()
    coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    texts = coded.dictionary.to_pylist()
    found = np.full(len(texts) + 1, np.nan)
    numbers = 0
    for n, text in enumerate(texts):
        stripped = text.strip()
        if not stripped:
            continue
        try:
            found[n] = instant(stripped).timestamp()
        except ValueError:
            try:
                found[n] = float(stripped)
                numbers += 1
            except ValueError:
                row = int(pc.index(column, text).as_py())
                raise UsageError(
                    f"{where}: row {row + 1} has {text!r}, which is no time; write ISO 8601, e.g. 2011-11-11T09:30:00+00:00, or whole numbers"
                ) from None
    if numbers:
        if numbers < sum(bool(t.strip()) for t in texts):
            raise UsageError(f"{where}: has both times and plain numbers; write one kind")
        index = pc.fill_null(coded.indices, len(texts)).to_numpy(zero_copy_only=False)
        return moments(pa.chunked_array([pa.array(found[index])]), where)
    index = pc.fill_null(coded.indices, len(texts)).to_numpy(zero_copy_only=False)
    return found[index], False


def instant(text: str) -> datetime:
    """An instant from ISO 8601 text; without zone it is UTC. Raises ValueError."""
    made = datetime.fromisoformat(text.replace("Z", "+00:00").replace("z", "+00:00") if text[-1:] in "Zz" else text)
    return made if made.tzinfo else made.replace(tzinfo=timezone.utc)


def as_of(text: str) -> float:
    """Seconds, or a place, of --as-of. Raises UsageError."""
    try:
        return float(text) if text.lstrip("-").replace(".", "", 1).isdigit() else instant(text).timestamp()
    except ValueError:
        raise UsageError(f"--as-of {text!r} is no time; write ISO 8601, e.g. 2011-11-11T00:00:00+00:00, or a place in the order") from None


@dataclass(frozen=True)
class _Rows:
    """Events with the codes of their own file's ids."""

    users: Ids
    items: Ids
    user: np.ndarray
    item: np.ndarray
    kind: np.ndarray
    time: np.ndarray
    quantity: np.ndarray
    price: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def where(self, keep: np.ndarray) -> _Rows:
        return replace(self, **{n: getattr(self, n)[keep] for n in ("user", "item", "kind", "time", "quantity", "price")})


def _rows(table: pa.Table, name: str, default_kind: int | None) -> tuple[_Rows, bool]:
    """(the usable events of a file, whether their times are places)."""
    users, items = identify(table["user_id"], f"{name}: user_id"), identify(table["item_id"], f"{name}: item_id")
    if "event_ts" in table.column_names:
        time, ordered = moments(table["event_ts"], f"{name}: event_ts")
    else:  # rows of a context come in their order
        time, ordered = np.arange(table.num_rows, dtype=np.float64), True
    if "event_type" in table.column_names:
        kind = _kinds(table["event_type"], f"{name}: event_type")
    else:
        kind = np.full(table.num_rows, default_kind, np.int8)
    rows = _Rows(users, items, users.codes, items.codes, kind, time, _number(table, "quantity", name, 1.0), _number(table, "unit_price", name, float("nan")))
    whole = (rows.user >= 0) & (rows.item >= 0) & np.isfinite(time) & (kind >= 0)
    if not whole.all():
        _LOG.warning(logs.said("rows_without_id_time_or_type", file=name, rows=int((~whole).sum()), outcome="left out"))
    return rows.where(whole), ordered


def _kinds(column: pa.ChunkedArray, where: str) -> np.ndarray:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_dictionary(column.type) or pa.types.is_null(column.type)):
        raise UsageError(f"{where}: is {column.type}; write {', '.join(OBJECTIVES)} or return")
    coded = pc.cast(column, pa.string()).combine_chunks().dictionary_encode()
    coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    texts = coded.dictionary.to_pylist()
    codes = np.full(len(texts) + 1, -1, np.int8)
    for n, text in enumerate(texts):
        code = KINDS.get(text.strip().lower().replace("-", "_").replace(" ", "_"))
        if code is None:
            row = int(pc.index(pc.cast(column, pa.string()), text).as_py())
            raise UsageError(f"{where}: row {row + 1} has {text!r}; known are {', '.join(sorted(KINDS))}. Rename it, or leave these rows out")
        codes[n] = code
    return codes[pc.fill_null(coded.indices, len(texts)).to_numpy(zero_copy_only=False)]


def _number(table: pa.Table, column: str, name: str, missing: float) -> np.ndarray:
    if column not in table.column_names:
        return np.full(table.num_rows, missing, np.float32)
    try:
        values = pc.cast(table[column], pa.float64(), safe=False).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"{name}: {column}: {str(error).splitlines()[0]}; write numbers") from None
    return np.where(np.isfinite(values), values, missing).astype(np.float32)


def question(
    events: pa.Table, targets: pa.Table, items: pa.Table | None = None, users: pa.Table | None = None, context: pa.Table | None = None,
    candidates: pa.Table | None = None, as_of_text: str | None = None, objective: str | None = None,
) -> Question:
    """The question that the files ask. Events at or after --as-of are not there at all.

    Raises UsageError (a column of a wrong type, a time or a behaviour that is none, a target without id) and Refused (nothing to learn from).
    """
    rows, ordered = _rows(events, "--events", None)
    until = None if as_of_text is None else as_of(as_of_text)
    if until is not None:
        rows = rows.where(rows.time < until)
    if not len(rows):
        raise Refused("--events has no event" + ("" if until is None else f" before --as-of {as_of_text}") + " with a shopper, an item and a time; nothing can be learnt")
    rows = _without_robots(_distinct(rows))
    moment = float(until) if until is not None else float(np.floor(rows.time.max())) + 1.0
    asked = identify(targets["user_id"], "--targets: user_id")
    nobody = np.flatnonzero(asked.codes < 0)
    if len(nobody):
        raise UsageError(f"--targets: user_id: row {int(nobody[0]) + 1} is empty; every target needs an id")
    more = None
    if context is not None:
        more, more_ordered = _rows(context, "--context", PURCHASE)
        if "event_ts" in context.column_names and len(more) and more_ordered != ordered:
            raise UsageError("--context: event_ts: --events and --context must both have times, or both places in an order")
        if "event_ts" not in context.column_names and not ordered:
            more = replace(more, time=more.time + moment)  # a visit that is going on
        more = _distinct(more)
    wanted = None
    if candidates is not None:
        wanted = identify(candidates["item_id"], "--candidates: item_id")
        if not (wanted.codes >= 0).any():
            raise Refused("--candidates names no item; there is nothing to answer with")
    chosen = _objective(rows, objective)
    parts = [rows] if more is None else [rows, more]
    user_ids = np.array(sorted({*asked.used, *(p.users.names[c] for p in parts for c in np.unique(p.user))}), dtype=object)
    item_ids = np.array(sorted({*(wanted.used if wanted else ()), *(p.items.names[c] for p in parts for c in np.unique(p.item))}), dtype=object)
    user_code, item_code = {u: n for n, u in enumerate(user_ids)}, {i: n for n, i in enumerate(item_ids)}
    coded = [replace(p, user=replace(p.users, codes=p.user).onto(user_code), item=replace(p.items, codes=p.item).onto(item_code)) for p in parts]
    empty = np.full(len(user_ids), "", dtype=object)

    def histories(part: _Rows, time: np.ndarray) -> Histories:
        by = np.lexsort((part.price, part.quantity, part.kind, part.item, time, part.user))
        return Histories(user_ids, item_ids, empty, part.user[by].astype(np.int32), part.item[by].astype(np.int32), part.kind[by], time[by],
                         part.quantity[by], part.price[by])

    if ordered:
        moment, times = _places(coded)
    else:
        times = [np.floor(rows.time).astype(np.int64), *(_before(p, moment) for p in coded[1:])]
    made = [histories(p, t) for p, t in zip(coded, times, strict=True)]
    known = np.bincount(made[0].item, minlength=len(item_ids)) > 0
    allowed = known if wanted is None else np.isin(item_ids, wanted.used)
    code_of_target = asked.onto(user_code)
    _, first = np.unique(code_of_target, return_index=True)
    return Question(
        made[0], made[1] if more is not None else made[0].where(np.zeros(len(made[0]), bool)), _catalogue(item_ids, items),
        _groups(user_code, users, targets), code_of_target[np.sort(first)], allowed, moment, ordered, chosen,
        _as_written([rows.users, asked]), _as_written([rows.items, *([wanted] if wanted else ()), *([more.items] if more is not None else ())]))


def _as_written(columns: Sequence[Ids]) -> Ids:
    """The ids of all columns as they were written; as text where the columns disagree on the type."""
    written = {k: v for c in reversed(columns) for k, v in c.written.items()}
    whole = all(pa.types.is_integer(c.kind) for c in columns)
    kind = pa.int64() if len({str(c.kind) for c in columns}) > 1 else columns[0].kind
    return Ids([], np.empty(0, np.int64), written if whole else {}, kind if whole else pa.string())


def _distinct(rows: _Rows) -> _Rows:
    """Without exact repetitions of a row."""
    if not len(rows):
        return rows
    order = np.lexsort((rows.price, rows.quantity, rows.kind, rows.time, rows.item, rows.user))
    r = rows.where(order)
    same = np.ones(len(order) - 1, bool)
    for values in (r.user, r.item, r.kind, r.time, r.quantity):
        same &= values[1:] == values[:-1]
    same &= (r.price[1:] == r.price[:-1]) | (np.isnan(r.price[1:]) & np.isnan(r.price[:-1]))
    if same.any():
        _LOG.info(logs.said("duplicate_events", rows=int(same.sum()), outcome="counted once"))
    return r.where(np.concatenate([[True], ~same]))


def _without_robots(rows: _Rows) -> _Rows:
    """The newest EVENTS_OF_ONE events of each shopper."""
    count = np.bincount(rows.user)
    if count.max() <= EVENTS_OF_ONE:
        return rows
    order = np.lexsort((rows.item, -rows.time, rows.user))
    place = np.arange(len(rows)) - np.searchsorted(rows.user[order], rows.user[order])
    kept = np.sort(order[place < EVENTS_OF_ONE])
    _LOG.warning(logs.said("shoppers_with_too_many_events", shoppers=int((count > EVENTS_OF_ONE).sum()), limit=EVENTS_OF_ONE,
                           rows_left_out=len(rows) - len(kept), outcome="their newest count"))
    return rows.where(kept)


def _objective(rows: _Rows, asked: str | None) -> int:
    present = {name: int((rows.kind == KINDS[name]).sum()) for name in OBJECTIVES}
    if asked is not None:
        if not present[asked]:
            raise Refused(f"--events has no {asked} (it has {', '.join(f'{n} {k}' for k, n in present.items())}); ask for another --objective")
        return KINDS[asked]
    for name in OBJECTIVES:
        if present[name]:
            if name != "purchase":
                _LOG.warning(logs.said("no_purchases", outcome=f"the objective is {name}"))
            return KINDS[name]
    raise Refused("--events holds returns only; nothing can be learnt of what shoppers want")


def _places(parts: Sequence[_Rows]) -> tuple[float, list[np.ndarray]]:
    """(moment, times of each part): the newest place of each shopper one day before the moment, and so on; later parts come after."""
    user, time = np.concatenate([p.user for p in parts]), np.concatenate([p.time for p in parts])
    stage = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    back = places_back(user, stage, time)
    moment = float((int(back.max()) + 2) * DAY)
    return moment, list(np.split((moment - back * DAY).astype(np.int64), np.cumsum([len(p) for p in parts])[:-1]))


def places_back(user: np.ndarray, stage: np.ndarray, time: np.ndarray) -> np.ndarray:
    """(n,) how many distinct (stage, time) of the same shopper come from the row on, its own counted: 1 is the newest."""
    order = np.lexsort((time, stage, user))
    u, s, t = user[order], stage[order], time[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (u[1:] != u[:-1]) | (s[1:] != s[:-1]) | (t[1:] != t[:-1])
    step = np.cumsum(fresh)
    out = np.empty(len(order), np.int64)
    out[order] = step[np.searchsorted(u, u, side="right") - 1] - step + 1 if len(order) else 0
    return out


def _before(more: _Rows, moment: float) -> np.ndarray:
    """Times of a context: as they are where they lie before the moment, else moved before it as a whole, shopper by shopper."""
    newest = np.full(int(more.user.max(initial=0)) + 1, -np.inf)
    np.maximum.at(newest, more.user, more.time)
    shift = np.maximum(newest - (moment - 1.0), 0.0)
    return np.floor(more.time - shift[more.user]).astype(np.int64)


def _catalogue(item_ids: np.ndarray, table: pa.Table | None) -> Catalogue:
    size = len(item_ids)
    titles, categories = np.full(size, "", dtype=object), np.full(size, "", dtype=object)
    prices = np.full(size, np.nan, np.float32)
    if table is None:
        return Catalogue(item_ids, titles, categories, prices)
    found = identify(table["item_id"], "--items: item_id").onto({i: n for n, i in enumerate(item_ids)})
    row = np.full(size, -1, np.int64)
    row[found[found >= 0]] = np.flatnonzero(found >= 0)  # of an item that comes twice, the last
    known = np.flatnonzero(row >= 0)

    def texts(column: str) -> np.ndarray:
        out = np.full(size, "", dtype=object)
        values = table[column].to_pylist()
        for n in known:
            value = values[row[n]]
            out[n] = "" if value is None else str(value)
        return out

    if "title" in table.column_names:
        titles = texts("title")
    if "category" in table.column_names and not pa.types.is_nested(table["category"].type):
        categories = texts("category")
    for column in ("price", "list_price"):
        if column in table.column_names:
            given = _number(table, column, "--items", float("nan"))
            prices[known] = given[row[known]]
    attributes: dict[str, np.ndarray] = {}
    for column in table.column_names:
        if column in _SKIPPED and not (column == "category" and pa.types.is_nested(table[column].type)):
            continue
        values = _attribute(table[column])
        if values is None:
            _LOG.info(logs.said("attribute_not_read", file="--items", column=column, type=str(table[column].type)))
            continue
        out = np.full(size, None, dtype=object)
        out[:] = [()] * size
        for n in known:
            out[n] = values[row[n]]
        attributes[column] = out
    return Catalogue(item_ids, titles, categories, prices, attributes)


def _attribute(column: pa.ChunkedArray) -> list[tuple[str, ...]] | None:
    """Values of an item's property as words; numbers of many values in tenths of their range by rank. None for a type that has no words."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = pc.cast(column, kind.value_type), kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [tuple(str(x) for x in v if x is not None) if v is not None else () for v in column.to_pylist()]
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = pc.cast(column, pa.float64(), safe=False).to_numpy()
        finite = np.isfinite(values)
        if len(np.unique(values[finite])) > 50 and not pa.types.is_integer(kind):
            edges = np.quantile(values[finite], np.linspace(0.1, 0.9, 9))
            return [(str(int(np.searchsorted(edges, v))),) if ok else () for v, ok in zip(values, finite, strict=True)]
        return [(f"{v:g}",) if ok else () for v, ok in zip(values, finite, strict=True)]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind):
        return [(str(v),) if v is not None and str(v) != "" else () for v in column.to_pylist()]
    if pa.types.is_null(kind):
        return [()] * len(column)
    return None


def _groups(user_code: dict[str, int], users: pa.Table | None, targets: pa.Table) -> Groups:
    """Attributes of shoppers with 2 … 200 values; what the target file says of a shopper counts before the user table."""
    found: dict[str, dict[int, str]] = {}
    for name, table in (("--users", users), ("--targets", targets)):
        if table is None:
            continue
        codes = identify(table["user_id"], f"{name}: user_id").onto(user_code).tolist()
        for column in table.column_names:
            if column == "user_id":
                continue
            values = _attribute(table[column])
            if values is None:
                continue
            held = found.setdefault(column, {})
            for code, value in zip(codes, values, strict=True):
                if code >= 0 and value:
                    held[code] = value[0]
    kept = {c: v for c, v in sorted(found.items()) if v and 2 <= len(set(v.values())) <= _GROUP_VALUES}
    if not kept:
        return Groups.none(len(user_code))
    codes_of, levels = [], []
    for level in kept.values():
        value_names = np.array(sorted(set(level.values())), dtype=object)
        at = {v: n for n, v in enumerate(value_names)}
        code = np.full(len(user_code), -1, np.int32)
        for user, word in level.items():
            code[user] = at[word]
        levels.append(value_names)
        codes_of.append(code)
    return Groups(tuple(kept), tuple(levels), np.stack(codes_of, axis=1))


def back(texts: Sequence[str], as_written: Ids) -> pa.Array:
    """Ids as they were written."""
    if pa.types.is_string(as_written.kind):
        return pa.array(texts, pa.string())
    return pa.array([as_written.written[t] for t in texts], as_written.kind)
