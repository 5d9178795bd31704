"""The Spark task that types, protects and judges mapped rows.

Spark's Python workers import this module: it stays light. Keys are in the pickled function, never in the plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timezone
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from nightmarket.contracts.model import Dataset
from nightmarket.protect.keys import Keyring, encrypter, pseudonymiser
from nightmarket.protect.masking import mask
from nightmarket.sources import casts
from nightmarket.sources.ip_ranges import Ranges
from nightmarket.sources.records import BAD, DETAIL, FILE, LINE, NIGHT, ROW

if TYPE_CHECKING:
    import pyarrow as pa

REASON, RECORD = "__reason", "__record"
LINEAGE = {"delivered_on": NIGHT, "source_file": FILE, "source_row": ROW}


def typing(
    contract: Dataset, mapped: tuple[str, ...], raw: Mapping[str, str], keyring: Keyring, zone_name: str, decimal_comma: bool,
    ranges: Ranges | None = None,
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function over batches of mapped rows that gives the contract's columns, reason, detail and encrypted record.

    In: `m_<column>` for each of `mapped`, where the shop has timestamp formats of its own `f_<column>`, the columns of
    reading, and those of `raw`, which names the columns that make a rejected row's record and how the record calls them.
    With `ranges` an `ip_country` that the shop does not map is told from the `ip_address`, before that becomes a pseudonym.
    """
    required = {*contract.required, *(c.name for c in contract.columns if not c.nullable)} & set(mapped)
    protect: dict[str, Callable[[str], str]] = {}
    for column in contract.columns:
        if column.name in mapped and column.personal == "pseudonym":
            protect[column.name] = pseudonymiser(keyring, column.name)
        elif column.name in mapped and column.personal == "encrypt":
            protect[column.name] = _sealing(keyring, f"{contract.name}.{column.name}")
        elif column.name in mapped and column.personal == "free_text":
            protect[column.name] = mask
    seal = encrypter(keyring)
    line_digest = pseudonymiser(keyring, "event_id")

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        import pyarrow.compute as pc

        schema = contract.arrow_schema()
        zone = ZoneInfo(zone_name)
        readers = {c.name: casts.reader(c, zone, decimal_comma) for c in contract.columns if c.name in mapped}
        for batch in batches:
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            data: list[pa.Array] = []
            problems = [(columns[BAD].is_valid(), columns[BAD], columns[DETAIL])]
            addresses: pa.Array | None = None
            for column in contract.columns:
                name, kind = column.name, schema.field(column.name).type
                if name in LINEAGE:
                    data.append(columns[LINEAGE[name]].cast(kind))
                elif name == "ip_country" and name not in mapped and ranges is not None and addresses is not None:
                    data.append(_each(addresses, ranges.country_of))
                elif name not in mapped:
                    data.append(_unmapped(name, kind, columns, tuple(raw), line_digest))
                else:
                    given = columns[f"m_{name}"]
                    if f"f_{name}" in columns:
                        given = _either(columns[f"f_{name}"], given)
                    read, blank, bad = casts.convert(given, readers[name], kind)
                    if name == "ip_address":
                        addresses = read
                    if name in protect:
                        read = _each(read, protect[name])
                    data.append(read)
                    problems.append((bad, f"bad_{name}", f"{name}: cannot be read as {column.type}"))
                    if name in required:
                        problems.append((blank, f"missing_{name}", f"{name}: required and blank"))
            reason = detail = pa.nulls(batch.num_rows, pa.string())
            for rejected, code, told in reversed(problems):
                reason = pc.if_else(rejected, code, reason)
                detail = pc.if_else(rejected, told, detail)
            record = _records(contract.name, reason, columns, raw, seal)
            yield pa.RecordBatch.from_arrays([*data, reason, detail, record], names=[*schema.names, REASON, DETAIL, RECORD])

    return run


def _sealing(keyring: Keyring, context: str) -> Callable[[str], str]:
    seal = encrypter(keyring)
    return lambda text: seal(text, context)


def _unmapped(
    name: str, kind: pa.DataType, columns: Mapping[str, pa.Array], raw: Sequence[str], line_digest: Callable[[str], str]
) -> pa.Array:
    """What a column holds that the shop does not map: an event's key is made from its file and row, a quantity is one.

    The key is `row:<digest of the line as delivered>:<digest of file and row>`: two rows never share one, and cleaning finds
    lines that were delivered twice by the first part, columns that the shop does not map included. That part is keyed,
    because a line may hold personal data that a plain digest would let anyone guess.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = len(columns[FILE])
    if name == "event_id":
        texts = [_as_text(columns[c]) for c in raw]
        lines = pc.binary_join_element_wise(*texts, "\x1f", null_handling="replace", null_replacement="\x00") if texts else pa.nulls(rows)
        same = [line_digest(line or "").rpartition(":")[2][:16] for line in lines.to_pylist()]
        places = zip(columns[FILE].to_pylist(), columns[ROW].to_pylist(), strict=True)
        own = [hashlib.sha256(f"{file}\0{row}".encode()).hexdigest()[:32] for file, row in places]
        return pa.array([f"row:{line}:{place}" for line, place in zip(same, own, strict=True)], kind)
    if name == "quantity":
        return pa.repeat(pa.scalar(1, kind), rows)
    return pa.nulls(rows, kind)


def _as_text(values: pa.Array) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_binary(values.type):
        return pa.array([None if v is None else v.hex() for v in values.to_pylist()], pa.string())
    return values.cast(pa.string())


def _either(formatted: pa.Array, text: pa.Array) -> pa.Array:
    """Timestamps that a format of the shop could read as ISO text in UTC, the others as they came."""
    import pyarrow as pa

    pairs = zip(formatted.to_pylist(), text.to_pylist(), strict=True)
    return pa.array([t if f is None else f.astimezone(timezone.utc).isoformat(" ") for f, t in pairs], pa.string())


def _each(values: pa.Array, function: Callable[[str], str | None]) -> pa.Array:
    """`function` of each text, asked once for each different one."""
    import pyarrow as pa

    coded = values.dictionary_encode()
    return pa.array([None if v is None else function(v) for v in coded.dictionary.to_pylist()], pa.string()).take(coded.indices)


def _records(
    entity: str, reason: pa.Array, columns: Mapping[str, pa.Array], raw: Mapping[str, str], seal: Callable[[str, str], str]
) -> pa.Array:
    """Encrypted records of the rejected rows, null for the good ones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sealed: list[str | None] = [None] * len(reason)
    for row in pc.indices_nonzero(reason.is_valid()).to_pylist():
        text = columns[LINE][row].as_py()
        if text is None:
            values = {title: columns[name][row].as_py() for name, title in raw.items()}
            text = json.dumps({k: v for k, v in values.items() if v is not None}, ensure_ascii=False, default=str)
        sealed[row] = seal(text, f"{entity}\0{columns[FILE][row].as_py()}\0{columns[ROW][row].as_py()}")
    return pa.array(sealed, pa.string())
