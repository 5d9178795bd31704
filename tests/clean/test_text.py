"""Text as shown and as compared, without Spark."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.clean.text import compared, repaired, shown


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("CafÃ©", "Café"),
        ("Â£5 off", "£5 off"),
        ("MÃ¼ller â\x80\x93 GrÃ¶ÃŸe", "MÃ¼ller â\x80\x93 GrÃ¶ÃŸe"),  # half Latin-1, half Windows-1252: not one encoding, so not touched
        ("itâ€™s", "it’s"),  # Windows-1252
        ("ä¸\xadæ–‡", "中文"),
        ("CafÃƒÂ©", "Café"),  # twice
        ("Café", "Café"),
        ("É", "É"),
        ("ÃO", "ÃO"),  # Latin text that is no UTF-8
        ("Ã©Ж", "Ã©Ж"),  # does not fit the encoding as a whole
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_repaired(broken: str, whole: str) -> None:
    assert repaired(broken) == whole


@given(st.text(st.characters(min_codepoint=0xA1, max_codepoint=0x2FFF, exclude_categories=("Cs", "Cc")), min_size=1, max_size=12))
def test_whatever_was_read_as_latin_1_comes_back(text: str) -> None:
    assert repaired(text.encode().decode("latin-1")) == repaired(text)


@pytest.mark.parametrize(
    ("given_text", "want"),
    [
        ("  a \t b\n c ", "a b c"),
        ("a\x07b\u200bc\ufeff", "abc"),
        ("red\x1b[31m alert", "red alert"),
        ("\u00a0 \u3000", None),
        ("\x00", None),
        (None, None),
        ("👩‍👩‍👧", "👩‍👩‍👧"),  # joiners make one picture of three
    ],
)
def test_shown(given_text: str | None, want: str | None) -> None:
    assert shown(given_text) == want


@pytest.mark.parametrize(
    ("given_text", "lower", "want"),
    [
        ("Ｆｕｌｌ　Ｗｉｄｔｈ ①", True, "full width 1"),
        ("ﬁne LINEN", True, "fine linen"),
        ("Straße", True, "straße"),
        ("cafe\u0301", False, "café"),
        ("KEEP Case", False, "KEEP Case"),
        ("İstanbul", True, "i̇stanbul"),
        (None, True, None),
    ],
)
def test_compared(given_text: str | None, lower: bool, want: str | None) -> None:
    assert compared(given_text, lower) == want


@given(st.text(max_size=30))
def test_forms_are_stable_and_clean(text: str) -> None:
    once = shown(text)
    if once is not None:
        assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in once)
        assert once == once.strip()
        assert "  " not in once
    form = compared(text, lower=False)
    if form is not None:
        assert unicodedata.is_normalized("NFKC", form)
