"""Fixtures of the screening's tests.

`world` is a small world of payments with the handbook's three kinds of fraud, for tests of learning.

Large amounts; terminals that are bad for a while, whose payments look like any others; cards that are stolen for a while, with
amounts five times theirs.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


def payments(seed: int, days: int = 75, cards: int = 100, terminals: int = 80) -> pd.DataFrame:
    """About 2.3 payments a card and day; 3 to 5 % fraud, most of it at bad terminals."""
    rng = np.random.default_rng(seed)
    n = rng.poisson(2.3 * cards * days)
    card, terminal = rng.integers(0, cards, n), rng.integers(0, terminals, n)
    second = np.sort(rng.integers(0, days * 86400, n))
    mean = rng.uniform(5, 80, cards)
    amount = np.abs(rng.normal(mean[card], mean[card] / 2)).round(2)
    fraud = np.zeros(n, bool)
    for _ in range(days // 5):
        start = rng.integers(0, days) * 86400
        fraud |= (terminal == rng.integers(0, terminals)) & (second >= start) & (second < start + 20 * 86400)
    for _ in range(days // 4):
        start = rng.integers(0, days) * 86400
        stolen = (card == rng.integers(0, cards)) & (second >= start) & (second < start + 10 * 86400) & (rng.random(n) < 0.4)
        amount = np.where(stolen & ~fraud, amount * 5, amount)
        fraud |= stolen
    fraud |= amount > 450
    return pd.DataFrame({
        "payment_id": np.arange(n), "paid_at": pd.Timestamp("2026-01-01") + pd.to_timedelta(second, unit="s"),
        "card_id": card, "terminal_id": terminal, "amount": amount, "is_fraud": fraud.astype(int),
    })


@pytest.fixture(scope="session")
def world() -> pd.DataFrame:
    return payments(11)
