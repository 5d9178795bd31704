"""Text as shown and text as compared.

Plain functions on strings, and `text_forms`, the same as a Spark expression. Unicode normalisation is not in Spark SQL, so
titles and review texts pass through Python once, in Arrow batches.
"""

from __future__ import annotations

import re
import unicodedata

import pandas as pd
from pyspark.sql import Column
from pyspark.sql import functions as F

_MAYBE_MOJIBAKE = re.compile("[\u00c2-\u00f4]")
"""As Latin-1 these are the bytes that begin a character of several bytes in UTF-8."""
_SPACES = re.compile(r"\s+")
_TERMINAL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""Colours of a terminal, which exports of logs carry along."""
_JOINERS = "\u200c\u200d"
"""Zero-width joiners carry meaning in Persian, Indic scripts and emoji; other invisible characters do not."""


def repaired(text: str) -> str:
    """Text whose UTF-8 bytes were read as Latin-1 or Windows-1252, read rightly: 'CafÃ©' is 'Café'. Else unchanged.

    Safe because it must hold for the whole text: every character fits one byte of that encoding and the bytes are valid
    UTF-8 with at least one character of several bytes, which Latin text of any real language is not. At most twice, as
    files do get broken twice.
    """
    for _ in range(2):
        better = _reread(text) if _MAYBE_MOJIBAKE.search(text) else None
        if better is None:
            return text
        text = better
    return text


def _reread(text: str) -> str | None:
    for encoding in ("latin-1", "cp1252"):
        try:
            better = text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue  # not this encoding, or not broken in this way: the next, or the text as it is
        if not any(unicodedata.category(c) == "Cc" and not c.isspace() and c not in text for c in better):
            return better
    return None


def shown(text: str | None) -> str | None:
    """Repaired, without control and invisible characters, one space between words; None where nothing is left."""
    if text is None:
        return None
    spaced = _SPACES.sub(" ", _TERMINAL.sub("", repaired(text)))
    kept = "".join(c for c in spaced if c in _JOINERS or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    return _SPACES.sub(" ", kept).strip() or None


def compared(text: str | None, lower: bool) -> str | None:
    """`shown` in NFKC (full-width letters, ligatures and circled digits as plain ones), in lower case where asked."""
    plain = shown(text)
    if plain is None:
        return None
    folded = unicodedata.normalize("NFKC", plain)
    if lower:
        folded = unicodedata.normalize("NFKC", folded.lower())
    return _SPACES.sub(" ", folded).strip() or None


def text_forms(column: Column, lower: bool) -> Column:
    """struct<shown: string, compared: string> of a text column."""

    def forms(texts: pd.Series) -> pd.DataFrame:
        values = [None if t is None or t != t else t for t in texts]
        return pd.DataFrame({
            "shown": pd.Series([shown(t) for t in values], dtype=object),
            "compared": pd.Series([compared(t, lower) for t in values], dtype=object),
        })

    return F.pandas_udf(forms, "shown string, compared string")(column)
