"""Somebody's own files as histories, catalogue and questions: what `python -m jobs.recommend` reads.

Ids may be of any type: they are text inside and their own type again in the answer. Times may be timestamps with or without zone
(without: UTC), ISO 8601 text of mixed zones, dates, seconds, milli-, micro- or nanoseconds since 1970, or plain places in an order. An order has no
clock: a shopper's newest place then lies one day before the moment of asking, the place before it two days, and so on, so that
"a day" everywhere means "a place".
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
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
EVENTS_OF_ONE = 5_000
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
    user_values: dict[str, Any]
    """The ids as they were written, by text."""
    item_values: dict[str, Any]
    user_type: pa.DataType
    item_type: pa.DataType


def identify(column: pa.ChunkedArray, where: str) -> tuple[np.ndarray, dict[str, Any], pa.DataType]:
    """((n,) text or None, the value as written by text, the type to answer in). Raises UsageError for a type that is no id."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        array, kind = array.storage, array.type.storage_type
        if not pa.types.is_fixed_size_binary(kind):
            return identify(array, where)
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if pa.types.is_floating(kind):
        values = array.to_numpy(zero_copy_only=False)
        whole = np.isnan(values) | (values == np.floor(values))
        if not whole.all():
            row = int(np.flatnonzero(~whole)[0])
            raise UsageError(f"{where}: row {row + 1} has {values[row]!r}; an id is text or a whole number")
        array = pc.cast(pc.if_else(pc.is_nan(array), None, array), pa.int64())  # 17850.0 is how a column with gaps writes 17850
        kind = pa.int64()
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raw = array.to_pylist()
        if pa.types.is_fixed_size_binary(kind) and kind.byte_width == 16:
            text = [None if v is None else str(uuid.UUID(bytes=v)) for v in raw]
        else:
            text = [None if v is None else v.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode() for v in raw]
        found = np.array(text, dtype=object)
        return found, {}, pa.string()
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise UsageError(f"{where}: is {kind}; an id is text, a whole number or a UUID")
    if pa.types.is_null(kind):
        return np.full(len(array), None, dtype=object), {}, pa.string()
    coded = array.dictionary_encode()
    values = coded.dictionary.to_pylist()
    text = np.array([str(v) if str(v).strip() else None for v in values] + [None], dtype=object)
    index = pc.fill_null(coded.indices, len(values)).to_numpy(zero_copy_only=False)
    return text[index], {str(v): v for v in values}, kind


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
    user: np.ndarray
    item: np.ndarray
    kind: np.ndarray
    time: np.ndarray
    quantity: np.ndarray
    price: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def where(self, keep: np.ndarray) -> _Rows:
        return _Rows(self.user[keep], self.item[keep], self.kind[keep], self.time[keep], self.quantity[keep], self.price[keep])


def _rows(table: pa.Table, name: str, default_kind: int | None) -> tuple[_Rows, bool, dict[str, Any], dict[str, Any], pa.DataType, pa.DataType]:
    user, user_values, user_type = identify(table["user_id"], f"{name}: user_id")
    item, item_values, item_type = identify(table["item_id"], f"{name}: item_id")
    if "event_ts" in table.column_names:
        time, ordered = moments(table["event_ts"], f"{name}: event_ts")
    else:  # rows of a context come in their order
        time, ordered = np.arange(len(user), dtype=np.float64), True
    if "event_type" in table.column_names:
        kind = _kinds(table["event_type"], f"{name}: event_type")
    else:
        kind = np.full(len(user), default_kind, np.int8)
    quantity = _number(table, "quantity", name, 1.0)
    price = _number(table, "unit_price", name, float("nan"))
    whole = np.array([u is not None for u in user], bool) & np.array([i is not None for i in item], bool) & np.isfinite(time) & (kind >= 0)
    if not whole.all():
        _LOG.warning(logs.said("rows_without_id_or_time", file=name, rows=int((~whole).sum()), outcome="left out"))
    return _Rows(user, item, kind, time, quantity, price).where(whole), ordered, user_values, item_values, user_type, item_type


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
    rows, ordered, user_values, item_values, user_type, item_type = _rows(events, "--events", None)
    until = None if as_of_text is None else as_of(as_of_text)
    if until is not None:
        rows = rows.where(rows.time < until)
    if not len(rows):
        raise Refused("--events has no event" + ("" if until is None else f" before --as-of {as_of_text}") + " with a shopper, an item and a time; nothing can be learnt")
    rows = _without_robots(_distinct(rows))
    moment = float(until) if until is not None else float(np.floor(rows.time.max())) + 1.0
    asked, asked_values, asked_type = identify(targets["user_id"], "--targets: user_id")
    nobody = np.flatnonzero([a is None for a in asked])
    if len(nobody):
        raise UsageError(f"--targets: user_id: row {int(nobody[0]) + 1} is empty; every target needs an id")
    more = None
    if context is not None:
        more, more_ordered, more_users, more_items, _ut, _it = _rows(context, "--context", PURCHASE)
        if "event_ts" in context.column_names and len(more) and more_ordered != ordered:
            raise UsageError("--context: event_ts: --events and --context must both have times, or both places in an order")
        more = _distinct(more)
        user_values, item_values = more_users | user_values, more_items | item_values
    user_values = asked_values | user_values
    wanted: np.ndarray | None = None
    if candidates is not None:
        wanted, wanted_values, wanted_type = identify(candidates["item_id"], "--candidates: item_id")
        wanted = np.array([w for w in dict.fromkeys(wanted) if w is not None], dtype=object)
        if not len(wanted):
            raise Refused("--candidates names no item; there is nothing to answer with")
        item_values, item_type = wanted_values | item_values, item_type if pa.types.is_integer(item_type) == pa.types.is_integer(wanted_type) else pa.string()
    chosen = _objective(rows, objective)
    user_ids = _sorted_ids(rows.user, asked, None if more is None else more.user)
    item_ids = _sorted_ids(rows.item, wanted, None if more is None else more.item)
    user_code = {u: n for n, u in enumerate(user_ids)}
    item_code = {i: n for n, i in enumerate(item_ids)}
    empty = np.full(len(user_ids), "", dtype=object)

    def coded(part: _Rows, time: np.ndarray) -> Histories:
        u = np.fromiter((user_code[x] for x in part.user), np.int32, len(part))
        i = np.fromiter((item_code[x] for x in part.item), np.int32, len(part))
        by = np.lexsort((part.price, part.quantity, part.kind, i, time, u))
        return Histories(user_ids, item_ids, empty, u[by], i[by], part.kind[by], time[by], part.quantity[by], part.price[by])

    if ordered:
        moment, time, later = _places(rows, more)
    else:
        time = np.floor(rows.time).astype(np.int64)
        later = None if more is None else _before(more, moment)
    histories = coded(rows, time)
    extra = coded(more, later) if more is not None and later is not None else histories.where(np.zeros(len(histories), bool))
    sold = np.bincount(histories.item, minlength=len(item_ids)) > 0
    allowed = sold if wanted is None else np.isin(item_ids, wanted)
    target_codes = np.array([user_code[a] for a in dict.fromkeys(asked)], np.int64)
    if asked_type != user_type:
        user_type = asked_type if pa.types.is_integer(asked_type) and pa.types.is_integer(user_type) else pa.string()
    return Question(
        histories, extra, _catalogue(item_ids, items), _groups(user_code, users, targets), target_codes, allowed, moment, ordered, chosen,
        user_values, item_values, user_type if not pa.types.is_null(user_type) else pa.string(), item_type)


def _distinct(rows: _Rows) -> _Rows:
    """Without exact repetitions of a row."""
    order = np.lexsort((rows.price, rows.quantity, rows.kind, rows.time, rows.item.astype(str), rows.user.astype(str)))
    kept = np.ones(len(order), bool)
    r = rows.where(order)
    same = np.ones(len(order) - 1, bool) if len(order) else np.zeros(0, bool)
    for values in (r.user, r.item, r.kind, r.time, r.quantity):
        same &= values[1:] == values[:-1]
    same &= (r.price[1:] == r.price[:-1]) | (np.isnan(r.price[1:]) & np.isnan(r.price[:-1]))
    kept[1:] = ~same
    if not kept.all():
        _LOG.info(logs.said("duplicate_events", rows=int((~kept).sum()), outcome="counted once"))
    return r.where(kept)


def _without_robots(rows: _Rows) -> _Rows:
    """The newest EVENTS_OF_ONE events of each shopper."""
    names, code, count = np.unique(rows.user.astype(str), return_inverse=True, return_counts=True)
    if count.max() <= EVENTS_OF_ONE:
        return rows
    order = np.lexsort((np.arange(len(rows)), -rows.time, code))
    place = np.arange(len(rows)) - np.searchsorted(code[order], np.arange(len(names)))[code[order]]
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


def _sorted_ids(*parts: np.ndarray | None) -> np.ndarray:
    found: set[str] = set()
    for part in parts:
        if part is not None:
            found.update(part.tolist())
    return np.array(sorted(found), dtype=object)


def _places(rows: _Rows, more: _Rows | None) -> tuple[float, np.ndarray, np.ndarray | None]:
    """(moment, times of rows, times of the context): the newest place of each shopper one day before the moment, and so on."""
    users = rows.user if more is None else np.concatenate([rows.user, more.user])
    time = rows.time if more is None else np.concatenate([rows.time, more.time])
    stage = np.zeros(len(users), np.int8)
    stage[len(rows):] = 1  # a context comes after what is known of the shopper
    _, code = np.unique(users.astype(str), return_inverse=True)
    order = np.lexsort((time, stage, code))
    fresh = np.ones(len(order), bool)
    c, s, t = code[order], stage[order], time[order]
    fresh[1:] = (c[1:] != c[:-1]) | (s[1:] != s[:-1]) | (t[1:] != t[:-1])
    step = np.cumsum(fresh)
    last = step[np.searchsorted(c, c, side="right") - 1]
    back = np.empty(len(order), np.int64)
    back[order] = last - step + 1
    longest = int(back.max())
    moment = float((longest + 2) * DAY)
    made = (moment - back * DAY).astype(np.int64)
    return moment, made[: len(rows)], None if more is None else made[len(rows):]


def _before(more: _Rows, moment: float) -> np.ndarray:
    """Times of a context: as they are where they lie before the moment, else moved before it as a whole, shopper by shopper."""
    names, code = np.unique(more.user.astype(str), return_inverse=True)
    newest = np.full(len(names), -np.inf)
    np.maximum.at(newest, code, more.time)
    shift = np.maximum(newest - (moment - 1.0), 0.0)
    return np.floor(more.time - shift[code]).astype(np.int64)


def _catalogue(item_ids: np.ndarray, table: pa.Table | None) -> Catalogue:
    size = len(item_ids)
    titles, categories = np.full(size, "", dtype=object), np.full(size, "", dtype=object)
    prices = np.full(size, np.nan, np.float32)
    if table is None:
        return Catalogue(item_ids, titles, categories, prices)
    ids, _values, _kind = identify(table["item_id"], "--items: item_id")
    place = {i: n for n, i in enumerate(ids) if i is not None}
    row = np.array([place.get(i, -1) for i in item_ids], np.int64)
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
        ids, _v, _k = identify(table["user_id"], f"{name}: user_id")
        codes = [user_code.get(i, -1) if i is not None else -1 for i in ids]
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
    for held in kept.values():
        value_names = np.array(sorted(set(held.values())), dtype=object)
        at = {v: n for n, v in enumerate(value_names)}
        code = np.full(len(user_code), -1, np.int32)
        for user, value in held.items():
            code[user] = at[value]
        levels.append(value_names)
        codes_of.append(code)
    return Groups(tuple(kept), tuple(levels), np.stack(codes_of, axis=1))


def answered_day(seconds: float) -> date:
    """UTC day of an event."""
    return datetime.fromtimestamp(seconds, timezone.utc).date()


def back(values: Sequence[str], written: dict[str, Any], kind: pa.DataType) -> pa.Array:
    """Ids as they were written."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.array(values, pa.string())
    return pa.array([written[v] for v in values], kind)
