"""The blocklist: who is blocked, why, on whose word, until when; and its exchange with other shops without clear identifiers.

An entry is never changed: proposals, refusals of them, blocking, unblocking and appeals are actions appended to a ledger, and what
holds at a moment is read from it (`holds`). Unblocking takes the same fields as blocking. A proposal blocks nothing.

The exchange file carries keyed hashes (HMAC-SHA-256 under a key that the shops share, with a salt of the file's own, so two
files cannot be joined by anyone who lacks the key) and is signed (Ed25519, RFC 8032). It reads as JSON lines: a header, one
line an entry, and the signature over the bytes before it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KINDS = ("customer", "device", "card", "ip", "address", "email", "phone", "terminal", "reviewer", "product")
BLOCK, UNBLOCK, APPEAL, PROPOSE, REFUSE = "block", "unblock", "appeal", "propose", "refuse"
_WHATS = (PROPOSE, BLOCK, APPEAL, REFUSE, UNBLOCK)
"""In the order in which actions of one moment count: unblocking wins."""
NOBODY = "nobody answered"
"""Who refused where a person was waited for in vain: what was proposed may be proposed again."""
_FORMAT = "nightmarket-blocklist-1"
_LEAST_KEY = 16


class ExchangeError(Exception):
    """A file cannot be trusted or read. The message says which line, and never holds an identifier or a key."""


@dataclass(frozen=True)
class Action:
    """One line of the ledger. `identifier` is a pseudonym, as everywhere past the landing area."""

    at: datetime
    kind: str
    identifier: str
    what: str
    """block, unblock, appeal, propose or refuse."""
    decided_by: str
    """A person, or a rule by name; for an appeal who appeals."""
    evidence: str
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r}: write one of {', '.join(KINDS)}")
        if self.what not in _WHATS:
            raise ValueError(f"action {self.what!r}: write one of {', '.join(_WHATS)}")
        if not self.identifier or not self.decided_by or not self.evidence:
            raise ValueError(f"{self.what} of a {self.kind}: identifier, decided_by and evidence must all be said")
        if self.at.tzinfo is None or (self.expires_at is not None and self.expires_at.tzinfo is None):
            raise ValueError(f"{self.what} of a {self.kind}: times need a zone")
        if self.expires_at is not None and self.expires_at <= self.at:
            raise ValueError(f"{self.what} of a {self.kind}: it would expire ({self.expires_at}) before it begins ({self.at})")


@dataclass(frozen=True)
class Entry:
    """A block that holds, with the newest appeal against it where there is one."""

    action: Action
    appeal: Action | None = None


def holds(ledger: Iterable[Action], at: datetime) -> dict[tuple[str, str], Entry]:
    """Blocks that hold at a moment, by (kind, identifier). Actions after `at` are not known yet; of one moment, unblocking wins."""
    found: dict[tuple[str, str], Entry] = {}
    known = [a for a in ledger if a.at <= at]
    for action in sorted(known, key=lambda a: (a.at, _WHATS.index(a.what))):
        key = (action.kind, action.identifier)
        if action.what == BLOCK:
            found[key] = Entry(action)
        elif action.what == UNBLOCK:
            found.pop(key, None)
        elif action.what == APPEAL and key in found:
            found[key] = Entry(found[key].action, action)
    return {k: e for k, e in found.items() if e.action.expires_at is None or e.action.expires_at > at}


def waiting(ledger: Iterable[Action], at: datetime) -> dict[tuple[str, str], Action]:
    """Proposals up to a moment that nobody has answered since, by (kind, identifier)."""
    found: dict[tuple[str, str], Action] = {}
    for action in sorted((a for a in ledger if a.at <= at), key=lambda a: (a.at, _WHATS.index(a.what))):
        key = (action.kind, action.identifier)
        if action.what == PROPOSE:
            found.setdefault(key, action)
        elif action.what != APPEAL:
            found.pop(key, None)
    return found


def normalised(kind: str, identifier: str) -> str:
    """One spelling for what two shops write differently: compatibility forms, no blanks around, mail and addresses in lower case."""
    text = unicodedata.normalize("NFKC", identifier).strip()
    if kind == "phone":
        digits = "".join(c for c in text if c.isdigit() or c == "+")
        return "+" + digits[2:] if digits.startswith("00") else digits
    if kind == "card":
        return "".join(c for c in text if c.isalnum())
    return text.casefold() if kind in ("email", "ip", "address") else text


def hashed(key: bytes, salt: bytes, kind: str, identifier: str) -> str:
    """64 hex digits. Raises ValueError for a key shorter than 16 bytes: short keys can be guessed."""
    if len(key) < _LEAST_KEY:
        raise ValueError(f"the exchange key has {len(key)} bytes; it needs {_LEAST_KEY} or more")
    fresh = hmac.digest(key, b"nightmarket blocklist\0" + salt, "sha256")
    return hmac.digest(fresh, kind.encode() + b"\0" + normalised(kind, identifier).encode("utf-8", "surrogatepass"), "sha256").hex()


def export(entries: Mapping[tuple[str, str], Entry], clear: Mapping[tuple[str, str], str], shop: str, at: datetime, key: bytes,
           signer: Ed25519PrivateKey, salt: bytes | None = None) -> bytes:
    """A signed exchange file of blocks that hold.

    `clear` gives the identifiers as other shops know them, by (kind, pseudonym); entries without one are left out, since a
    pseudonym of this shop says nothing to another. Evidence, names and times of day stay at home: a line is kind, hash, day, expiry.
    """
    salt = salt or secrets.token_bytes(16)
    lines = [{"format": _FORMAT, "shop": shop, "made_at": at.astimezone(timezone.utc).isoformat(timespec="seconds"), "salt": salt.hex()}]
    told = []
    for place, entry in entries.items():
        if place in clear:
            expires = entry.action.expires_at
            told.append({"kind": place[0], "hash": hashed(key, salt, place[0], clear[place]), "since": entry.action.at.date().isoformat(),
                         "expires": expires.date().isoformat() if expires else ""})
    lines += sorted(told, key=lambda e: (e["kind"], e["hash"]))
    body = "".join(json.dumps(line, sort_keys=True, separators=(",", ":")) + "\n" for line in lines).encode()
    return body + json.dumps({"signature": base64.b64encode(signer.sign(body)).decode()}).encode() + b"\n"


@dataclass(frozen=True)
class Foreign:
    """What another shop blocks, by hash."""

    shop: str
    made_at: datetime
    salt: bytes
    entries: Mapping[tuple[str, str], str]
    """(kind, hash) → day of expiry, '' for none."""

    def matches(self, key: bytes, kind: str, identifiers: Sequence[str], at: datetime) -> list[bool]:
        """For each clear identifier whether that shop blocks it at a moment."""
        day = at.astimezone(timezone.utc).date().isoformat()
        found = []
        for identifier in identifiers:
            expires = self.entries.get((kind, hashed(key, self.salt, kind, identifier)))
            found.append(expires is not None and (not expires or expires > day))
        return found


def read_foreign(content: bytes, trusted: Mapping[str, Ed25519PublicKey]) -> Foreign:
    """An exchange file of a shop whose public key is known. Raises ExchangeError: unknown shop, changed bytes, or not such a file."""
    from cryptography.exceptions import InvalidSignature

    cut = content.rstrip(b"\n").rfind(b"\n") + 1
    body, last = content[:cut], content[cut:]
    lines = body.splitlines()
    try:
        header, sealed = json.loads(lines[0]), json.loads(last)
        if header.get("format") != _FORMAT:
            raise ExchangeError(f"line 1: not a blocklist of format {_FORMAT}")
        signature = base64.b64decode(sealed["signature"], validate=True)
        shop, made_at, salt = str(header["shop"]), datetime.fromisoformat(header["made_at"]), bytes.fromhex(header["salt"])
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, binascii.Error):
        raise ExchangeError("not a signed blocklist: its first line must be a header and its last a signature") from None
    if shop not in trusted:
        raise ExchangeError(f"made by {shop!r}, whose public key is not among the trusted ones")
    try:
        trusted[shop].verify(signature, body)
    except InvalidSignature:
        raise ExchangeError(f"the signature is not {shop!r}'s for these bytes: the file was changed, cut off or forged") from None
    entries: dict[tuple[str, str], str] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            entry = json.loads(line)
            kind, digest, expires = entry["kind"], entry["hash"], entry["expires"]
        except (KeyError, TypeError, ValueError):
            raise ExchangeError(f"line {number}: not an entry") from None
        if kind not in KINDS or len(digest) != 64:
            raise ExchangeError(f"line {number}: kind must be one of {', '.join(KINDS)} and the hash 64 hex digits")
        entries[kind, digest] = expires
    return Foreign(shop, made_at, salt, entries)
