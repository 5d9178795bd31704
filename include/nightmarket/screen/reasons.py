"""Reasons in words: what each feature says, and the few that speak most for a row's score."""

from __future__ import annotations

import numpy as np

from nightmarket.screen.features import family

_SPAN = {"1h": "in an hour", "1d": "in a day", "3d": "in 3 days", "7d": "in 7 days", "14d": "in 14 days", "28d": "in 28 days",
         "30d": "in 30 days", "ever": "so far"}
_STYLE = {
    "characters": "length of its text", "words": "number of its words", "word_length": "{v:.1f} characters a word", "capitals": "{v:.0%} capitals",
    "digits": "{v:.0%} digits", "punctuation": "{v:.0%} punctuation marks", "exclamations": "{v:.2f} exclamation marks a word",
    "questions": "{v:.2f} question marks a word", "variety": "{v:.0%} of its words differ", "repeats": "{v:.0%} of its words repeat the last",
    "sentence_words": "{v:.0f} words a sentence", "emoji": "{v:.0%} emoji", "links": "{v:.0f} links",
}


_NIGHT = {
    "amount": "an amount of {v:,.2f}", "lines": "{v:.0f} lines",
    "rating": "{v:.0f} stars", "deviation": "{v:+.1f} stars beside the product's earlier reviews", "bought": "{v:.0f} purchases behind the review",
    "copies": "{v:.0f} near-copies of its text before it", "other_language": "{v:.0%} of the product's earlier reviews are in another language",
    "lines.1d": "{v:.0f} sales on the day", "lines.7d": "{v:.0f} sales in 7 days", "burst": "sales at {v:.1f} times their usual pace", "buyers.7d": "{v:.0f} buyers in 7 days",
    "lines_a_buyer": "{v:.1f} sales a buyer", "first_time": "{v:.0%} of its buyers bought here for the first time", "fresh_accounts": "{v:.0%} of its buyers have new accounts",
    "linked_buyers": "{v:.0%} of its buyers share devices with others", "praise.30d": "{v:.0f} reviews of five stars in 30 days",
    "praise_unbought.30d": "{v:.0f} reviews of five stars without a purchase in 30 days", "returns.30d": "{v:.0f} returns in 30 days",
    "concert": "sales, praise and returns in concert",
}
"""Features of a night's rows; see `nightmarket.screen.night`."""
_EITHER = {
    "abroad": ("sent to the account's own country", "sent to another country than the account's"),
    "ip_abroad": ("from an IP address in a country that it names", "from an IP address in another country than any that it names"),
}
"""The same of those that are 0 or 1: an order names where it is sent and where its account lives, an account where it lives."""
_SHARED = {"daypart": "part of day", "ip_country": "IP address's country"}


def told(name: str, value: float, words: dict[str, list[str]] | None = None) -> str:
    """One feature's value in words. `words`: what the ranks of each category stand for."""
    parts = name.split(".")
    if not np.isfinite(value):
        return f"{name} is unknown"
    if name in _NIGHT:
        return _NIGHT[name].format(v=value)
    if name in _EITHER:
        return _EITHER[name][int(value > 0.5)]
    if name == "hour":
        return f"at {int(value):02d}:{int(value % 1 * 60):02d} UTC"
    if name == "weekday":
        return f"on a {('Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday')[int(value)]}"
    if name == "clock_backwards":
        return "a time after the event's own"
    if name == "label_age_days":
        return f"newest verdicts {value:.1f} days old"
    if parts[0] == "group":
        return f"{value:,.0f} accounts, devices and the like hang together with it" if parts[1] == "members" else (
            f"{value:,.0f} known bad rows among those that hang together with it")
    if parts[0] == "hours_since":
        return f"{_hours(value)} after {'.'.join(parts[1:])}"
    if parts[0] == "category":
        ranks = (words or {}).get(".".join(parts[1:]), [])
        found = ranks[int(value)] if int(value) < len(ranks) else None
        if name == "category.ip_country":
            return f"from an IP address in {found or 'a country seldom seen'}"
        return f"{'.'.join(parts[1:])} is {found or 'rare'}"
    if parts[0] == "text" and len(parts) > 2:
        column, kind = parts[1], parts[-1]
        if kind == "words_say":
            return f"the wording of {column} resembles that of known bad ones"
        if kind == "copies":
            return f"{value:.0f} near-copies of {column} before it"
        return f"{column}: {_STYLE.get(kind, kind).format(v=value)}"
    if len(parts) > 1:
        said = _entity(parts, value)
        if said:
            return said
    return f"{name} is {value:,.6g}"


def _entity(parts: list[str], value: float) -> str | None:
    entity, kind, rest = parts[0], parts[1], parts[2:]
    span = _SPAN.get(rest[0], rest[0]) if rest else ""
    number = ".".join(rest[1:]) if len(rest) > 1 else ""
    match kind:
        case "rows":
            return f"{value:.0f} rows of this {entity} {span}"
        case "hours_since_last":
            return f"{_hours(value)} since the last of this {entity}"
        case "days_known":
            return f"{entity} first seen {value:.1f} days ago"
        case "velocity":
            return f"{entity} at {value:.1f} times its usual pace"
        case "mean":
            return f"mean {number} of this {entity} {span} is {value:,.2f}"
        case "sum":
            return f"{number} of this {entity} {span} sums to {value:,.2f}"
        case "ratio":
            return f"{rest[-1]} is {value:,.1f} times what is usual for this {entity}"
        case "distance":
            return f"{rest[-1]} lies {value:,.1f} deviations from this {entity}'s habit"
        case "of_largest":
            return f"{rest[0]} is {value:,.2f} of the largest of this {entity}"
        case "habit":
            return f"{value:.0%} of this {entity}'s rows share its {_SHARED.get(rest[0], rest[0])}"
        case "with":
            return f"{value:.0f} rows with this {entity} and {rest[0]} together"
        case "different":
            return f"{value:.0f} different {rest[0]} share this {entity}"
        case "new":
            return f"{value:.0f} new {number} at this {entity} {span}"
        case "known_bad":
            return f"{value:.0f} known bad rows of this {entity} {span}"
        case "risk":
            return f"{value:.1%} of this {entity}'s known rows {span} are bad"
        case "days_since_bad":
            return f"last known bad row of this {entity} {value:.1f} days ago"
        case "days_since_good":
            return f"last known good row of this {entity} {value:.1f} days ago"
        case "days_bad_streak":
            return f"{entity} known bad without a good row for {value:.1f} days"
        case "bad_streak":
            return f"the last {value:.0f} known rows of this {entity} are bad"
        case "unexplained":
            return f"{value:+.1f} bad rows of this {entity} {span} beyond what their looks explain"
        case "days_unexplained_streak":
            return f"{entity} bad without looking so for {value:.1f} days"
        case "unexplained_streak":
            return f"{value:.0f} known rows of this {entity} in a row are bad without looking so"
        case "suspicion" | "looks":
            if rest[0] == "largest":
                return f"an earlier row of this {entity} scored {value:.2f}"
            return f"suspicion of this {entity}'s rows {span} sums to {value:.2f}"
    return None


def _hours(value: float) -> str:
    if abs(value) < 1 / 60:
        return f"{value * 3600:.0f} seconds"
    if abs(value) < 1:
        return f"{value * 60:.0f} minutes"
    return f"{value:.1f} hours" if abs(value) < 48 else f"{value / 24:.1f} days"


def top(names: list[str], values: np.ndarray, push: np.ndarray, words: dict[str, list[str]], count: int = 3) -> list[list[str]]:
    """(n,) lists of at most `count` reasons: the features with the largest positive `push` (n, f), one a family."""
    order = np.argsort(-push, axis=1, kind="stable")[:, :12]
    families = [family(n) for n in names]
    found = []
    for i, ranked in enumerate(order):
        seen: set[str] = set()
        said: list[str] = []
        for f in ranked:
            if push[i, f] <= 0 or len(said) == count:
                break
            if families[f] not in seen and np.isfinite(values[i, f]):
                seen.add(families[f])
                said.append(told(names[f], float(values[i, f]), words))
        found.append(said)
    return found
