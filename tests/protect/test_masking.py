"""Mail addresses and telephone numbers leave free text; what only looks a little like them stays."""

from __future__ import annotations

import pytest

from nightmarket.protect.masking import mask


@pytest.mark.parametrize(("text", "masked"), [
    ("write to ann.lee+shop@mail.example.co.uk today", "write to [mail] today"),
    ("ANN@EXAMPLE.ORG!", "[mail]!"),
    ("ann (at) example.org please", "[mail] please"),
    ("<jürgen@müller.example>", "<[mail]>"),
    ("call +44 20 7946 0018 now", "call [phone] now"),
    ("call (020) 7946 0018", "call [phone]"),
    ("0044 (20) 7946-0018", "[phone]"),
    ("(555) 010-4477 or 555-010-4478", "[phone] or [phone]"),
    ("致电 138 0013 8000。", "致电 [phone]。"),
    ("13800138000", "[phone]"),
    ("two: a@b.example, c@d.example", "two: [mail], [mail]"),
])
def test_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize("text", [
    "bought on 2011-12-09 at 12:50 for 1,234.50", "5 stars @ home", "order 536365, item 85123A", "", "12.5 x 30 cm", "1999-2011",
    "it cost 9,747,747.93", "size 10-12, 3 pieces",
])
def test_left_alone(text: str) -> None:
    assert mask(text) == text


def test_masking_again_changes_nothing() -> None:
    once = mask("ann@example.org, +44 20 7946 0018")
    assert mask(once) == once
