"""Anybody's table as the screening sees it: which column plays which role, and its values as arrays.

Roles are told by flags or found by type and name (`find_roles`). `read_rows` then makes one `Rows` of TRAIN and NEW together:
what happened to a card is one history, whichever file a row came in. What is wrong with the rows is either refused, with the
column, the row and the remedy, or mended and counted in `Rows.mended`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket.command import Refused, UsageError
from nightmarket.screen.windows import DAY
from nightmarket.sources.ip_ranges import Ranges

_BAD_WORDS = {"1", "1.0", "true", "t", "yes", "y", "fraud", "fraudulent", "fake", "deceptive", "bad", "spam", "chargeback", "positive",
              "anomaly", "abuse", "bot", "cg"}
_GOOD_WORDS = {"0", "0.0", "-1", "false", "f", "no", "n", "legit", "legitimate", "genuine", "truthful", "true_review", "good", "ham",
               "ok", "normal", "negative", "real", "or", "not_fraud", "non-fraud", "nonfraud", "not fraud"}
_LABELS = ("label", "is_fraud", "isfraud", "fraud", "tx_fraud", "fraud_label", "is_fake", "fake", "deceptive", "is_deceptive", "is_bad",
           "chargeback", "is_chargeback", "fraudulent", "is_spam", "spam", "class", "target", "y", "outcome")
_KNOWN = ("label_known_at", "known_at", "label_time", "label_ts", "labelled_at", "labeled_at", "label_at", "reported_at", "chargeback_at",
          "verdict_at")
_IDS = ("id", "transaction_id", "tx_id", "order_id", "event_id", "review_id", "row_id", "payment_id", "trans_num", "uuid")
_TIMES = ("timestamp", "ts", "event_ts", "event_time", "tx_datetime", "transaction_time", "transaction_datetime", "purchase_time",
          "order_time", "order_ts", "ordered_at", "review_ts", "review_time", "created_at", "datetime", "time", "date")
_ENTITY = re.compile(
    r"(^|_)(customer|user|account|acct|device|card|ip|ip_?address|terminal|merchant|seller|email|mail|phone|address|reviewer|shopper|"
    r"buyer|member|iban|cookie|session|item|product|sku|shop|store|vendor|payer|payee|client|hotel|cc_num)(_|\d|$)"
    r"|(Id|ID)$|_id$|^id_|_key$|_hash$", re.IGNORECASE)
_TEXT = re.compile(r"review|text|comment|body|message|description|content|title|sentence|feedback|opinion", re.IGNORECASE)
_TIME_NAME = re.compile(r"time|date|_at$|_ts$|^ts$|timestamp", re.IGNORECASE)
_IP = re.compile(r"(^|_)ip(_|$|v4)|ip_?addr", re.IGNORECASE)
LONGEST_TEXT = 20_000
"""Characters of a text that are looked at; a review of a novel's length is as suspicious by its first pages."""


@dataclass(frozen=True)
class Asked:
    """Roles that the caller names; None is found by type and name, an empty sequence means none."""

    id: str | None = None
    timestamp: str | None = None
    label: str | None = None
    label_known_at: str | None = None
    entities: Sequence[str] | None = None
    text: Sequence[str] | None = None
    drop: Sequence[str] = ()


@dataclass(frozen=True)
class Roles:
    """One role for each column. `dropped` says why a column is not looked at."""

    id: str | None
    timestamp: str | None
    label: str | None
    label_known_at: str | None
    entities: tuple[str, ...]
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    texts: tuple[str, ...]
    other_times: tuple[str, ...]
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def looked_at(self) -> tuple[str, ...]:
        return (*self.entities, *self.numbers, *self.categories, *self.texts, *self.other_times)


@dataclass(frozen=True)
class Rows:
    """(n,) rows of TRAIN and NEW together; times in microseconds since 1970, UTC."""

    roles: Roles
    ids: pa.Array
    times: np.ndarray
    new: np.ndarray
    """(n,) bool: a row of NEW, in NEW's order after all of TRAIN's."""
    entities: dict[str, np.ndarray]
    """(n,) codes, -1 for none."""
    numbers: dict[str, np.ndarray]
    """(n,) float64, NaN for missing and for infinite."""
    categories: dict[str, tuple[np.ndarray, list[str]]]
    """(n,) codes, -1 for none, and what they stand for."""
    texts: dict[str, list[str]]
    elapsed: dict[str, np.ndarray]
    """(n,) seconds from another time of the row (a sign-up) to its own; NaN where unknown or later."""
    backwards: np.ndarray
    """(n,) bool: another time of the row lies after its own."""
    timeless: np.ndarray
    """(n,) bool: no readable time."""
    label: np.ndarray
    """(n,) 1 suspicious, 0 not, NaN unknown."""
    known_at: np.ndarray
    """(n,) when the label became known; only read where there is one."""
    mended: dict[str, int]
    """What was wrong with how many rows, and was put right."""

    def __len__(self) -> int:
        return len(self.times)

    @classmethod
    def bare(cls, times: np.ndarray, entities: dict[str, np.ndarray], label: np.ndarray, known_at: np.ndarray,
             numbers: dict[str, np.ndarray] | None = None, categories: dict[str, tuple[np.ndarray, list[str]]] | None = None,
             texts: dict[str, list[str]] | None = None) -> Rows:
        """Rows that come described, as those of a night do."""
        n, numbers, categories, texts = len(times), numbers or {}, categories or {}, texts or {}
        roles = Roles("id", "at", "is_bad", "known_at", tuple(entities), tuple(numbers), tuple(categories), tuple(texts), ())
        none = np.zeros(n, bool)
        return cls(roles, pa.array(np.arange(n)), times, none, entities, numbers, categories, texts, {}, none, none, label, known_at, {})


def find_roles(train: pa.Table, new: pa.Table, asked: Asked) -> Roles:
    """The role of each column, by flags first, then by type and name. Raises UsageError for a flag that names no column."""
    names = list(train.column_names)
    for flag, given in (("--id", asked.id), ("--timestamp", asked.timestamp), ("--label", asked.label),
                        ("--label-known-at", asked.label_known_at)):
        if given is not None and given not in names:
            raise UsageError(f"{flag} {given}: --train has no such column; it has {', '.join(names)}")
    for flag, many in (("--entities", asked.entities or ()), ("--text", asked.text or ()), ("--drop", asked.drop)):
        unknown = [c for c in many if c not in names and c not in new.column_names]
        if unknown:
            raise UsageError(f"{flag} {', '.join(unknown)}: --train has no such column; it has {', '.join(names)}")
    for flag, needed in (("--id", asked.id), ("--timestamp", asked.timestamp)):
        if needed is not None and needed not in new.column_names:
            raise UsageError(f"{flag} {needed}: --score has no such column; it has {', '.join(new.column_names) or 'none'}")
    dropped = {c: "--drop" for c in asked.drop if c in names}
    dropped |= {c: "an index that pandas wrote" for c in names if c.startswith("__index_level_")}
    free = [c for c in names if c not in dropped]
    taken: set[str] = {c for c in (asked.id, asked.timestamp, asked.label, asked.label_known_at) if c}
    taken |= set(asked.entities or ()) | set(asked.text or ())
    label = asked.label or _label_by_name(train, new, [c for c in free if c not in taken])
    if label:
        taken.add(label)
    known = asked.label_known_at or next((c for c in free if c.lower() in _KNOWN and c not in taken), None)
    if known:
        taken.add(known)
    timestamp = asked.timestamp or _time_by_name(train, new, [c for c in free if c not in taken])
    if timestamp:
        taken.add(timestamp)
    key = asked.id or _id_by_name(train, new, [c for c in free if c not in taken])
    if key:
        taken.add(key)
    only_train = [c for c in free if c not in taken and c not in new.column_names]
    common = [c for c in free if c not in taken and c in new.column_names]
    if not asked.entities and not asked.text and only_train and not common and label != only_train[0]:
        raise UsageError(f"--score has none of --train's columns {', '.join(only_train)}: nothing to judge its rows by; "
                         f"it has {', '.join(new.column_names) or 'none'}")
    lost = [c for c in (*(asked.entities or ()), *(asked.text or ())) if c not in new.column_names]
    if lost and len(lost) == len([*(asked.entities or ()), *(asked.text or ())]) and not common:
        raise UsageError(f"--score has none of the columns {', '.join([*lost, *only_train])}: nothing to judge its rows by")
    dropped |= dict.fromkeys([*only_train, *lost], "not in --score")
    entities = [c for c in asked.entities or () if c in new.column_names]
    texts = [c for c in asked.text or () if c in new.column_names]
    numbers, categories, times = [], [], []
    for name in common:
        kind = _kind(name, train[name], new[name])
        if kind == "text" and asked.text is None:
            texts.append(name)
        elif kind == "entity" and asked.entities is None:
            entities.append(name)
        elif kind == "time":
            times.append(name)
        elif kind == "number" or (kind == "entity" and _numeric(train[name].type) and not re.search(r"id$|_key$", name, re.IGNORECASE)):
            numbers.append(name)
        elif kind in ("category", "text") or (kind == "entity" and _distinct(train[name]) <= 200):
            if _distinct(train[name]) > 200 and asked.entities is None:
                entities.append(name)  # too many values to learn each: their histories are what counts
            elif _distinct(train[name]) > 2000:
                dropped[name] = "too many values for a category; name it in --entities or --text"
            else:
                categories.append(name)
        else:
            dropped[name] = "an identifier that --entities does not name" if kind == "entity" else "one value only"
    return Roles(key, timestamp, label, known, tuple(entities), tuple(numbers), tuple(categories), tuple(texts), tuple(times), dropped)


def _numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _stringy(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view"


def _distinct(column: pa.ChunkedArray) -> int:
    if pa.types.is_null(column.type):
        return 0
    return int(pc.count_distinct(column).as_py())


def _kind(name: str, train: pa.ChunkedArray, new: pa.ChunkedArray) -> str:
    kind = train.type
    if pa.types.is_null(kind):
        return "constant" if pa.types.is_null(new.type) else _kind(name, new, new)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    if pa.types.is_nested(kind) or pa.types.is_binary(kind):
        return "constant"
    distinct = _distinct(train)
    if distinct <= 1 and _distinct(new) <= 1:
        return "constant"
    if pa.types.is_boolean(kind):
        return "category"
    if _numeric(kind):
        return "entity" if _ENTITY.search(name) and distinct > 20 else "number"
    if _stringy(kind):
        head = [v for v in train.slice(0, 2000).to_pylist() if v]
        if head and _TIME_NAME.search(name) and _parse_share(head) > 0.95:
            return "time"
        length = float(np.median([len(v) for v in head])) if head else 0.0
        if length >= 60 or (length >= 12 and _TEXT.search(name) and distinct > max(20, 0.2 * len(train))):
            return "text"
        if head and np.mean([_is_number(v) for v in head]) > 0.95 and not _ENTITY.search(name):
            return "number"
        if _ENTITY.search(name) and distinct > 20:
            return "entity"
        return "category"
    return "constant"


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _parse_share(values: list[str]) -> float:
    return float(pd.to_datetime(pd.Series(values), errors="coerce", utc=True, format="mixed").notna().mean())


def _label_by_name(train: pa.Table, new: pa.Table, free: list[str]) -> str | None:
    """A column called like a label, or the only two-valued column that NEW lacks."""
    by_name = sorted((c for c in free if c.lower() in _LABELS and _two_values(train[c])), key=lambda c: (c in new.column_names, _LABELS.index(c.lower())))
    if by_name:
        return by_name[0]
    missing = [c for c in free if c not in new.column_names and _two_values(train[c])]
    return missing[0] if len(missing) == 1 else None


def _two_values(column: pa.ChunkedArray) -> bool:
    values = {str(v).strip().lower() for v in pc.unique(column).slice(0, 8).to_pylist() if v is not None and v == v}
    return 0 < len(values) <= 2 and values <= (_BAD_WORDS | _GOOD_WORDS)


def _time_by_name(train: pa.Table, new: pa.Table, free: list[str]) -> str | None:
    """The time of the event: by name, else the latest of the time columns (a purchase comes after its sign-up)."""
    found = []
    for name in free:
        if name not in new.column_names:
            continue
        kind = train[name].type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            found.append(name)
        elif _stringy(kind) and _TIME_NAME.search(name):
            head = [v for v in train[name].slice(0, 500).to_pylist() if v]
            if head and _parse_share(head) > 0.95:
                found.append(name)
        elif _numeric(kind) and name.lower() in (*_TIMES, "unix_time", "epoch", "unixtime"):
            values = train[name].drop_null()
            if len(values) and float(pc.mean(values).as_py()) > 1e8:
                found.append(name)
    if len(found) > 1:
        late = {name: np.median(_micros(train[name])[0]) for name in found}
        found.sort(key=lambda n: (-late[n], _TIMES.index(n.lower()) if n.lower() in _TIMES else len(_TIMES)))
    return found[0] if found else None


def _id_by_name(train: pa.Table, new: pa.Table, free: list[str]) -> str | None:
    def unique(name: str) -> bool:
        return all(t[name].null_count == 0 and _distinct(t[name]) == len(t) for t in (train, new))

    there = [c for c in free if c in new.column_names]
    for wanted in _IDS:
        for name in there:
            if name.lower() == wanted:
                return name
    named = [c for c in there if re.search(r"id$|^id|_no$|number$|uuid|reference", c, re.IGNORECASE) and len(new) and unique(c)]
    return named[0] if named else None


def _micros(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) int64 microseconds and (n,) bool: unreadable."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        cast = column.cast(pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False)
        missing = np.asarray(cast.is_null().combine_chunks()) if not isinstance(cast.is_null(), pa.Array) else np.asarray(cast.is_null())
        return np.asarray(cast.cast(pa.int64()).fill_null(0), np.int64), missing.astype(bool)
    if _numeric(kind):
        values = np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan), np.float64)
        finite = np.isfinite(values)
        size = float(np.median(np.abs(values[finite]))) if finite.any() else 0.0
        unit = 1e-3 if size > 1e17 else 1.0 if size > 1e14 else 1e3 if size > 1e11 else 1e6
        held = finite & (np.abs(values * unit) < 2.0**61)
        return np.where(held, values * unit, 0).astype(np.int64), ~held
    parsed = pd.to_datetime(pd.Series(column.cast(pa.string()).to_pylist(), dtype=object), errors="coerce", utc=True, format="mixed")
    missing = parsed.isna().to_numpy()
    whole = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)
    return np.where(missing, 0, whole), missing


def _labels(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """1, 0 or NaN. Raises UsageError for values that do not say which of two they are."""
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
        kind = column.type
    if _numeric(kind):
        values = np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan), np.float64)
        odd = sorted({float(v) for v in np.unique(values[~np.isnan(values)])} - {0.0, 1.0, -1.0})
        if odd:
            raise UsageError(f"--train column {name}: a label is 1 for suspicious and 0 for not; it has also {', '.join(f'{v:g}' for v in odd[:4])}. "
                             "Name another by --label")
        return np.where(values == -1.0, 0.0, values)
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    meaning = []
    for value in encoded.dictionary.to_pylist():
        word = value.strip().lower()
        if word not in _BAD_WORDS | _GOOD_WORDS | {"", "nan", "none", "null", "unknown"}:
            raise UsageError(f"--train column {name}: label {value!r} says neither fraud nor not; write 1 or 0, or name another by --label")
        meaning.append(1.0 if word in _BAD_WORDS else 0.0 if word in _GOOD_WORDS else np.nan)
    codes = np.asarray(encoded.indices.fill_null(-1))
    return np.asarray([*meaning, np.nan])[codes]


def _both(train: pa.Table, new: pa.Table, name: str) -> pa.ChunkedArray:
    """The column of TRAIN followed by that of NEW, in a type that both fit into. Raises UsageError where there is none."""
    one, other = train[name], new[name]
    if pa.types.is_dictionary(one.type):
        one = one.cast(one.type.value_type)
    if pa.types.is_dictionary(other.type):
        other = other.cast(other.type.value_type)
    if pa.types.is_null(other.type) and not pa.types.is_null(one.type):
        other = other.cast(one.type)
    elif pa.types.is_null(one.type):
        one = one.cast(other.type)
    if one.type != other.type:
        if _numeric(one.type) and _numeric(other.type):
            one, other = one.cast(pa.float64(), safe=False), other.cast(pa.float64(), safe=False)
        elif pa.types.is_timestamp(one.type) and pa.types.is_timestamp(other.type):
            one, other = (c.cast(pa.timestamp("us", tz=c.type.tz), safe=False).cast(pa.timestamp("us", tz="UTC")) for c in (one, other))
        else:
            one, other = one.cast(pa.string()), other.cast(pa.string())
    return pa.chunked_array([*one.chunks, *other.chunks], type=one.type)


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[Any]]:
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
    encoded = column.combine_chunks().dictionary_encode() if len(column) else pa.array([], column.type).dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    values = encoded.dictionary.to_pylist()
    codes = np.asarray(encoded.indices.fill_null(-1), np.int64)
    empty = [i for i, v in enumerate(values) if isinstance(v, str) and not v.strip()]
    if empty:
        codes = np.where(np.isin(codes, empty), -1, codes)
    return codes, values


def _numbers(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, int]:
    if _stringy(column.type):
        values = pd.to_numeric(pd.Series(column.to_pylist(), dtype=object), errors="coerce").to_numpy(np.float64)
    else:
        values = np.array(column.cast(pa.float64(), safe=False).fill_null(np.nan), np.float64)
    infinite = np.isinf(values)
    values = np.where(infinite, np.nan, values)
    return values, int(infinite.sum())


def _network(codes: np.ndarray, values: list[Any]) -> np.ndarray | None:
    """Codes of the networks (the first three bytes) of IPv4 addresses, dotted or as numbers; None where they are neither."""
    networks: dict[Any, int] = {}
    of = np.full(len(values) + 1, -1, np.int64)
    for i, value in enumerate(values):
        if isinstance(value, str):
            parts = value.split(".")
            key: Any = ".".join(parts[:3]) if len(parts) == 4 else value.rsplit(":", 4)[0] if value.count(":") > 4 else None
        else:
            key = int(value) >> 8 if 0 <= value < 2**32 else None
        if key is not None:
            of[i] = networks.setdefault(key, len(networks))
    return of[codes] if 1 < len(networks) < 0.98 * max(len(values), 1) else None


def read_rows(train: pa.Table, new: pa.Table, roles: Roles, delay_days: float, now: int, follow_new_labels: bool = False,
              ranges: Ranges | None = None) -> Rows:
    """TRAIN and NEW as arrays. `now` (microseconds) is the clock: rows of TRAIN after it are left out.

    `follow_new_labels`: labels that NEW carries count too, from when they are known, in the histories of later rows.

    Raises Refused where an id of NEW is there twice or missing, or one of TRAIN stands for different rows.
    """
    mended: dict[str, int] = {}
    if roles.id:
        train = _ids_once(train, new, roles.id, mended)
    times_train, timeless_train = _times(train, roles)
    leave = timeless_train | (times_train > now + DAY)
    if leave.any():
        mended["rows of --train without a readable time, left out"] = int(timeless_train.sum())
        mended["rows of --train that lie in the future, left out"] = int((leave & ~timeless_train).sum())
        train = train.filter(pa.array(~leave))
        times_train = times_train[~leave]
    times_new, timeless_new = _times(new, roles)
    size, fresh = len(train) + len(new), len(new)
    is_new = np.arange(size) >= size - fresh
    if not roles.timestamp:
        times_new = times_new + DAY
    if timeless_new.any():
        mended["rows of --score without a readable time, judged as of the first that has one"] = int(timeless_new.sum())
        there = times_new[~timeless_new]
        times_new = np.where(timeless_new, there.min() if len(there) else times_train.max(initial=0) + 1, times_new)
    times = np.concatenate([times_train, times_new])
    ids = _both(train, new, roles.id).combine_chunks() if roles.id else pa.array(np.concatenate([np.arange(size - fresh), np.arange(fresh)]))
    entities: dict[str, np.ndarray] = {}
    categories: dict[str, tuple[np.ndarray, list[str]]] = {}
    for name in roles.entities:
        if name not in train.column_names:
            continue
        codes, values = _codes(_both(train, new, name))
        entities[name] = codes
        if ranges is not None and _IP.search(name):
            countries = [ranges.country_of(v) for v in values]
            spelled = sorted({c for c in countries if c})
            of = {c: i for i, c in enumerate(spelled)}
            categories[f"{name} country"] = (np.array([*(of[c] if c else -1 for c in countries), -1])[codes], spelled)
        if _IP.search(name):
            network = _network(codes, values)
            if network is not None:
                entities[f"{name}/24"] = network
    numbers: dict[str, np.ndarray] = {}
    for name in roles.numbers:
        numbers[name], infinite = _numbers(_both(train, new, name), name)
        if infinite:
            mended[f"infinite values of {name}, taken as missing"] = infinite
    for name in roles.categories:
        codes, values = _codes(_both(train, new, name))
        categories[name] = (codes, [str(v) for v in values])
    texts = {name: _texts(_both(train, new, name), name, mended) for name in roles.texts if name in train.column_names}
    elapsed, backwards = {}, np.zeros(size, bool)
    for name in roles.other_times:
        then, missing = _micros(_both(train, new, name))
        late = ~missing & (then > times)
        backwards |= late
        elapsed[name] = np.where(missing | late, np.nan, (times - then) / 1e6)
    if backwards.any():
        mended["rows with a time after the event's own (a clock that runs backwards), that time taken as missing"] = int(backwards.sum())
    label, known_at = _known_labels(train, new, roles, times, delay_days, follow_new_labels, mended)
    return Rows(roles, ids, times, is_new, entities, numbers, categories, texts, elapsed, backwards,
                np.concatenate([np.zeros(size - fresh, bool), timeless_new]), label, known_at, {k: v for k, v in mended.items() if v})


def _times(table: pa.Table, roles: Roles) -> tuple[np.ndarray, np.ndarray]:
    if not roles.timestamp:
        return np.zeros(len(table), np.int64), np.zeros(len(table), bool)
    return _micros(table[roles.timestamp])


def _known_labels(train: pa.Table, new: pa.Table, roles: Roles, times: np.ndarray, delay_days: float, follow: bool,
                  mended: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    label = np.full(len(times), np.nan)
    known_at = times + int(delay_days * DAY)
    if not roles.label:
        return label, known_at
    label[:len(train)] = _labels(train[roles.label], roles.label)
    if follow and roles.label in new.column_names:
        label[len(train):] = _labels(new[roles.label], roles.label)
    if roles.label_known_at:
        tables = [t for t in (train, new) if roles.label_known_at in t.column_names]
        read = [_micros(t[roles.label_known_at]) for t in tables]
        given = np.concatenate([r[0] for r in read])
        missing = np.concatenate([r[1] for r in read])
        given, missing = (np.concatenate([given, np.zeros(len(times) - len(given), np.int64)]),
                          np.concatenate([missing, np.ones(len(times) - len(missing), bool)]))
        early = ~missing & ~np.isnan(label) & (given < times)
        mended["labels known before their event, counted from the event on"] = int(early.sum())
        unknown = ~np.isnan(label) & missing
        known_at = np.where(missing, known_at, np.maximum(given, times))
        mended[f"labels without a {roles.label_known_at}, known {delay_days:g} days after the event"] = int(unknown[:len(train)].sum())
    return label, known_at


def _ids_once(train: pa.Table, new: pa.Table, name: str, mended: dict[str, int]) -> pa.Table:
    """TRAIN without its exact copies and without rows that NEW holds too. Raises Refused."""
    if new[name].null_count:
        raise Refused(f"--score column {name}: {new[name].null_count} rows have no id, so their decisions could not be told apart; "
                      "fill it or name another by --id")
    twice = _twice(new[name])
    if len(twice):
        raise Refused(f"--score column {name}: {len(twice)} ids are there more than once, e.g. {twice[0]!r}; one row each is judged: "
                      "drop the copies or name another column by --id")
    twice = _twice(train[name].drop_null())
    if len(twice):
        doubtful = pc.is_in(train[name], value_set=pa.array(twice, train[name].type))
        copies = train.filter(doubtful).to_pandas()
        again = copies.astype(str).duplicated().to_numpy()
        rest = copies[~again]
        different = rest[name][rest[name].duplicated()]
        if len(different):
            raise Refused(f"--train column {name}: id {different.iloc[0]!r} stands for different rows ({len(different)} such rows); "
                          "keep the right one or name another column by --id")
        mended["exact copies of rows of --train, left out"] = int(again.sum())
        keep = np.ones(len(train), bool)
        keep[np.flatnonzero(np.asarray(doubtful.combine_chunks() if isinstance(doubtful, pa.ChunkedArray) else doubtful))[again]] = False
        train = train.filter(pa.array(keep))
    left, right = train[name], new[name]
    if left.type != right.type:
        left, right = left.cast(pa.string()), right.cast(pa.string())
    both = pc.is_in(left, value_set=right.combine_chunks()).fill_null(False)
    shared = int(pc.sum(both).as_py() or 0)
    if shared:
        mended["rows of --train that are in --score too, judged there"] = shared
        train = train.filter(pc.invert(both))
    return train


def _twice(column: pa.ChunkedArray) -> list[Any]:
    if len(column) == _distinct(column):
        return []
    counted = pc.value_counts(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    return counted.field("values").filter(pc.greater(counted.field("counts"), 1)).to_pylist()


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2060-\u206f\ufeff\ud800-\udfff\x1b]")


def _texts(column: pa.ChunkedArray, name: str, mended: dict[str, int]) -> list[str]:
    """Texts without control characters, cut at LONGEST_TEXT; '' where there is none."""
    given = column.cast(pa.string()).to_pylist()
    long = sum(1 for t in given if t and len(t) > LONGEST_TEXT)
    if long:
        mended[f"texts of {name} longer than {LONGEST_TEXT:,} characters, read to there"] = long
    return [_CONTROL.sub(" ", t[:LONGEST_TEXT]) if t else "" for t in given]
