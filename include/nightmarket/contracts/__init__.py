"""Every dataset once; the rest is derived from it."""

from nightmarket.contracts.datasets import (
    ALL,
    BRONZE,
    DAILY_SALES,
    ENTITIES,
    EVALUATION,
    EVENT_TYPES,
    EVENTS,
    FEATURES,
    GOLD,
    ITEMS,
    ORDERS,
    QUALITY,
    QUARANTINE_COLUMNS,
    RAW_EVENTS,
    RAW_ITEMS,
    RAW_ORDERS,
    RAW_REVIEWS,
    RAW_USERS,
    RECOMMENDATIONS,
    REVIEWS,
    SILVER,
    USERS,
    clean_of,
    dataset,
    raw_of,
)
from nightmarket.contracts.model import Column, Dataset, Reference

__all__ = [
    "ALL", "BRONZE", "DAILY_SALES", "ENTITIES", "EVALUATION", "EVENTS", "EVENT_TYPES", "FEATURES", "GOLD", "ITEMS",
    "ORDERS", "QUALITY", "QUARANTINE_COLUMNS", "RAW_EVENTS", "RAW_ITEMS", "RAW_ORDERS", "RAW_REVIEWS", "RAW_USERS",
    "RECOMMENDATIONS", "REVIEWS", "SILVER", "USERS", "Column", "Dataset", "Reference", "clean_of", "dataset", "raw_of",
]
