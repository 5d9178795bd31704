"""The UCI "Online Retail" shop straight from its published files, for benchmarks only: the product ingests it through its lake.

Protocol of the published comparisons: known customers, sales only (no cancellations, non-products, zero or negative
quantities and prices).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from nightmarket.contracts import FEATURES, ITEMS

PRODUCT = r"^\d{5}[A-Za-z]*$"
"""Stock codes of products: five digits and perhaps letters; POST, D, M, gift_… are not."""


def lines(folder: Path) -> pd.DataFrame:
    """All invoice lines as published, in file order. Raises FileNotFoundError where the folder holds none."""
    files = sorted(folder.glob("*.csv.gz"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no *.csv.gz; give the folder of the UCI Online Retail day files")
    types = {"InvoiceNo": str, "StockCode": str, "CustomerID": str, "Country": str, "Description": str}
    return pd.concat([pd.read_csv(f, dtype=types) for f in files], ignore_index=True)


def sales(frame: pd.DataFrame) -> pd.DataFrame:
    """The protocol's rows."""
    code = frame["StockCode"].str.strip()
    keep = (
        frame["CustomerID"].notna() & code.str.match(PRODUCT) & ~frame["InvoiceNo"].str.startswith("C")
        & (frame["Quantity"] > 0) & (frame["UnitPrice"] > 0)
    )
    out = frame[keep].copy()
    out["item_id"] = code[keep].str.upper()
    out["user_id"] = out["CustomerID"].str.replace(r"\.0$", "", regex=True)
    local = pd.to_datetime(out["InvoiceDate"])
    out["time"] = local.dt.tz_localize("Europe/London").dt.tz_convert("UTC")
    return out


def histories(sold: pd.DataFrame) -> pa.Table:
    """`gold.features` of these sales."""
    rows = sold.sort_values(["user_id", "time", "item_id"], kind="stable")
    seconds = rows["time"].astype("int64").to_numpy() // 10**9 if str(rows["time"].dtype).startswith("datetime64[ns") else (
        rows["time"].dt.as_unit("s").astype("int64").to_numpy())
    users, first = np.unique(rows["user_id"].to_numpy(dtype=object), return_index=True)
    offsets = pa.array(np.append(first, len(rows)).astype(np.int32))

    def lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(values, kind))

    quantity = rows["Quantity"].to_numpy(np.float32)
    table = pa.table({
        "user_id": pa.array(users, pa.string()),
        "country": pa.array(rows.groupby("user_id", sort=True)["Country"].last().to_numpy(dtype=object), pa.string()),
        "signed_up_at": pa.nulls(len(users), pa.timestamp("us", tz="UTC")),
        "item_ids": lists(rows["item_id"].to_numpy(dtype=object), pa.string()),
        "event_types": lists(np.full(len(rows), "purchase", dtype=object), pa.string()),
        "event_times": lists(seconds, pa.int64()),
        "quantities": lists(quantity, pa.float32()),
        "unit_prices": lists(rows["UnitPrice"].to_numpy(np.float32), pa.float32()),
    })
    return table.cast(FEATURES.arrow_schema())


def items(sold: pd.DataFrame) -> pa.Table:
    """`silver.items` of the products: newest non-empty description of each."""
    titles = (
        sold.dropna(subset=["Description"]).sort_values("time", kind="stable").groupby("item_id", sort=True)["Description"].last()
    )
    schema = ITEMS.arrow_schema()
    size = len(titles)
    given = {
        "item_id": pa.array(titles.index.to_numpy(dtype=object), pa.string()),
        "title": pa.array(titles.str.strip().to_numpy(dtype=object), pa.string()),
        "title_normalised": pa.array(titles.str.strip().str.lower().str.split().str.join(" ").to_numpy(dtype=object), pa.string()),
    }
    return pa.table({f.name: given.get(f.name, pa.nulls(size, f.type)) for f in schema}).cast(schema)
