"""Mail addresses and telephone numbers in free text, replaced by `[mail]` and `[phone]`.

The patterns prefer to mask a long order number over letting a phone number through;
dates, prices and times are left alone.
"""

from __future__ import annotations

import re

_MAIL = r"[^\s@<>()\[\],;:\"]+ ?(?:@|[\[(] ?at ?[\])]) ?[^\s@<>()\[\],;:\"]+\.[^\W\d_]{2,}"
_PHONE = "|".join((
    r"(?:\+|\b00)\d(?:[ .()/-]{0,3}\d){6,14}",  # international: +44 20 7946 0018, 0086-138-0013-8000
    r"\(?\b0\d(?:[ .()/-]{0,3}\d){7,12}\b",  # national with a leading zero: (020) 7946 0018
    r"\(?\b\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b",  # North American: (555) 010-4477
    r"\b\d{3}[ -]\d{4}[ -]\d{4}\b",  # mobile numbers in groups: 138 0013 8000
    r"\b\d{10,15}\b",  # the same without gaps
))
PATTERNS = ((_MAIL, "[mail]"), (_PHONE, "[phone]"))


def mask(text: str) -> str:
    """`text` without mail addresses and telephone numbers."""
    for pattern, instead in PATTERNS:
        text = re.sub(pattern, instead, text)
    return text

