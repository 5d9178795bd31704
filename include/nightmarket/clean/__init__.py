"""Cleaning: pure Spark DataFrame → DataFrame, bronze rows of any number of nights to silver rows and rejected ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from nightmarket.clean.judging import Cleaned
    from nightmarket.shop import CleanRules


def cleaner(entity: str) -> Callable[[DataFrame, CleanRules, str, str], Cleaned]:
    """The function that cleans an entity: (bronze, rules, time zone, currency) -> Cleaned. Raises KeyError."""
    from nightmarket.clean.events import clean_events
    from nightmarket.clean.items import clean_items
    from nightmarket.clean.orders import clean_orders
    from nightmarket.clean.reviews import clean_reviews
    from nightmarket.clean.users import clean_users

    return {
        "events": clean_events, "items": clean_items, "users": clean_users, "orders": clean_orders, "reviews": clean_reviews,
    }[entity]
