"""What the generator planted, beside the deliveries: one table a day that only tests read.

Columns kind, entity, name, value:
    dirt      entity, kind of dirt, key of the row (one line for each dirty or added row)
    personal  entity, column, the string in clear
    late      'events' or 'orders', day it happened, its id
    return    'events', id of the purchase, id of its return
    fraud     'orders', ring, order id
    fake      'reviews', campaign, review id
    taste     'users', department that the shopper prefers that day, user id
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightmarket.sources.demo import words
from nightmarket.sources.demo.draw import numbered
from nightmarket.sources.demo.world import World

SCHEMA = pa.schema([(n, pa.string()) for n in ("kind", "entity", "name", "value")])
PERSONAL = {
    "events": ("device", "client_ip"), "users": ("email", "phone", "name", "address", "device"),
    "orders": ("card", "device", "client_ip", "ship_to"), "reviews": ("body",),
}
CONTACT = r"(?P<contact>hello\.\d{9}@shopper\.example|\+44 7700 9\d{5})"
"""What dirt may put into a review."""
PERSONAL_ROWS = 100_000
"""Strings kept for one column of one day: all of them up to shops of some ten million events."""


class Truth:
    """Collects a day's truth and writes it as it goes, so that memory stays bounded."""

    def __init__(self, file: Path):
        self._writer = pq.ParquetWriter(file, SCHEMA, compression="zstd")
        self._personal: dict[tuple[str, str], int] = {}
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def pairs(self, kind: str, entity: str, names: pa.Array | pa.ChunkedArray, values: pa.Array | pa.ChunkedArray) -> None:
        n = len(values)
        if n:
            self._add(pa.table([pa.repeat(kind, n), pa.repeat(entity, n), names, values], schema=SCHEMA))

    def say(self, kind: str, entity: str, name: str, values: pa.Array | pa.ChunkedArray | Sequence[str]) -> None:
        values = pa.array(values, pa.string()) if isinstance(values, list) else values
        self.pairs(kind, entity, pa.repeat(name, len(values)), values)

    def personal(self, entity: str, table: pa.Table) -> None:
        """Distinct values of the personal columns as delivered, dirt included, up to a bound a day."""
        for column in PERSONAL.get(entity, ()):
            room = PERSONAL_ROWS - self._personal.get((entity, column), 0)
            if room > 0:
                values = table[column]
                if column == "body":  # of a text, the contact in it
                    values = pc.struct_field(pc.extract_regex(values, CONTACT), 0)
                values = values.unique().drop_null().slice(0, room)
                self._personal[entity, column] = self._personal.get((entity, column), 0) + len(values)
                self.say("personal", entity, column, values)

    def tastes(self, world: World, day: int, users: np.ndarray) -> None:
        who = np.unique(users[users >= 0])
        main = world.taste(who, day)[0]
        self.pairs("taste", "users", pa.array(words.DEPARTMENTS).take(pa.array(main)), numbered("C", who, 8))

    def _add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows > 200_000:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks(), row_group_size=1_000_000)
            self._waiting, self._rows = [], 0

    def close(self) -> None:
        self._flush()
        self._writer.close()
