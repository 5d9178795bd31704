"""Keyed pseudonyms and authenticated encryption of personal columns, with key ids so that keys can be changed.

A pseudonym is HMAC-SHA-256 (RFC 2104) of the normalised value under a key of its own for each kind of column, so the same
device joins across datasets and a mail address never joins a phone number. It reads `p1:<key id>:<64 hex digits>`.

Encryption is AES-256-GCM and reads `e1:<key id>:<base64 of nonce, ciphertext and tag>`. The nonce is not random but the
first 96 bits of an HMAC of context and text under a third key (a synthetic nonce): the same input gives the same token, so
a night run twice gives the same bytes. What an onlooker can learn is that two texts of one context are equal, which
the pseudonyms beside them show anyway. Rows of a quarantine use their file and row as context and never repeat.

All keys are derived (HKDF-SHA-256, RFC 5869) from two secrets of shop.yaml: `pseudonym_key` and `encryption_key`. To change
the encryption key, describe the old one as `encryption_key_previous`: its tokens stay readable. To change the
pseudonym key, restate the nights: the key id in each pseudonym tells old ones from new ones.

Keys travel to Spark's Python workers inside pickled functions, never as literals of the plan: nothing that
`explain()`, a log or a manifest shows contains them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightmarket.shop import Settings

_LEAST_BYTES = 16
_NONCE_BYTES = 12


class KeyringError(Exception):
    """A token cannot be read. The message is constant: it holds neither key, token nor text."""


@dataclass(frozen=True)
class Keyring:
    """The keys of one shop. Its `repr` shows key ids only."""

    pseudonym_id: str
    encryption_id: str
    _pseudonym: bytes = field(repr=False)
    _encryption: dict[str, bytes] = field(repr=False)
    """AES keys by key id: the current one and the previous ones."""
    _nonce: bytes = field(repr=False)

    @classmethod
    def load(cls, settings: Settings) -> Keyring:
        """Keys from the secrets `pseudonym_key`, `encryption_key` and, where described, `encryption_key_previous`.

        Raises ShopError that names the missing or too short secret, never its value.
        """
        pseudonym = _secret(settings, "pseudonym_key")
        encryption = _secret(settings, "encryption_key")
        keys = {_key_id(encryption): _derive(encryption, "encrypt")}
        if "encryption_key_previous" in settings.shop.secrets:
            previous = _secret(settings, "encryption_key_previous")
            keys.setdefault(_key_id(previous), _derive(previous, "encrypt"))
        return cls(
            _key_id(pseudonym), _key_id(encryption), _derive(pseudonym, "pseudonym"), keys, _derive(encryption, "nonce"),
        )

    def pseudonym(self, column: str, value: str) -> str:
        """The pseudonym of `value` as a `column` such as 'email'; equal for values that normalise to the same."""
        return pseudonymiser(self, column)(value)

    def encrypt(self, text: str, context: str = "") -> str:
        """An authenticated token of `text`; `context` (a column, a row) keeps equal texts of other contexts apart."""
        return encrypter(self)(text, context)

    def decrypt(self, token: str) -> str:
        """The text of a token made with the current or the previous key. Raises KeyringError."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        parts = token.split(":")
        if len(parts) != 3 or parts[0] != "e1":
            raise KeyringError("not a token of this keyring: it should read e1:<key id>:<base64>")
        key = self._encryption.get(parts[1])
        if key is None:
            raise KeyringError("the token was made with a key that is not here; describe it as secrets.encryption_key_previous")
        try:
            sealed = base64.b64decode(parts[2], validate=True)
            return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _header(parts[1])).decode()
        except (InvalidTag, binascii.Error, ValueError):
            raise KeyringError("the token was damaged or forged") from None


def pseudonymiser(keyring: Keyring, column: str) -> Callable[[str], str]:
    """A function that makes pseudonyms of one kind of column; it carries only that column's key."""
    key = hmac.digest(keyring._pseudonym, column.encode(), "sha256")
    prefix = f"p1:{keyring.pseudonym_id}:"
    normalise = _NORMALISE.get(column, str.strip)

    def one(value: str) -> str:
        return prefix + hmac.digest(key, normalise(value).encode("utf-8", "surrogatepass"), "sha256").hex()

    return one


def encrypter(keyring: Keyring) -> Callable[[str, str], str]:
    """A function that makes tokens with the current key."""
    key_id, key, nonce_key = keyring.encryption_id, keyring._encryption[keyring.encryption_id], keyring._nonce

    def one(text: str, context: str) -> str:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        plain = text.encode("utf-8", "surrogatepass")
        about = context.encode("utf-8", "surrogatepass")
        nonce = hmac.digest(nonce_key, len(about).to_bytes(8, "big") + about + plain, "sha256")[:_NONCE_BYTES]
        sealed = nonce + AESGCM(key).encrypt(nonce, plain, _header(key_id))
        return f"e1:{key_id}:{base64.b64encode(sealed).decode()}"

    return one


def _header(key_id: str) -> bytes:
    return f"e1:{key_id}".encode()


def _mail(value: str) -> str:
    return value.strip().casefold()


def _phone(value: str) -> str:
    digits = re.sub(r"[^\d+]", "", value)
    return "+" + digits[2:] if digits.startswith("00") else digits


_NORMALISE: dict[str, Callable[[str], str]] = {"email": _mail, "phone": _phone, "ip_address": _mail}
"""How values of a column are made alike before hashing; others lose the blanks around them."""


def _secret(settings: Settings, name: str) -> bytes:
    from nightmarket.shop import ShopError  # not at the top: Spark's workers import this module and need no settings

    raw = settings.secret(name)
    if re.fullmatch(rb"(?:[0-9a-fA-F]{2}){16,}", raw):
        raw = bytes.fromhex(raw.decode())
    if len(raw) < _LEAST_BYTES:
        raise ShopError(settings.file, [f"secrets.{name}: shorter than {_LEAST_BYTES} bytes; make one with `openssl rand -hex 32`"])
    return raw


def _derive(secret: bytes, purpose: str) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), 32, salt=b"nightmarket", info=purpose.encode()).derive(secret)


def _key_id(secret: bytes) -> str:
    return hashlib.sha256(_derive(secret, "key id")).hexdigest()[:8]

