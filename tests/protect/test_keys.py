"""Pseudonyms join where they should and nowhere else; encryption is authenticated, repeatable, and survives a new key."""

from __future__ import annotations

import hashlib
import hmac
import pickle
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.protect.keys import Keyring, KeyringError
from nightmarket.shop import Settings, ShopError

OLD, NEW, OTHER = "11" * 32, "22" * 32, "33" * 32


def secrets(folder: str = "keys", **extra: object) -> dict[str, object]:
    return {
        "pseudonym_key": {"file": f"{folder}/pseudonym.key", "create": True},
        "encryption_key": {"file": f"{folder}/encryption.key", "create": True},
        **extra,
    }


def write_key(settings: Settings, name: str, value: str) -> None:
    path = settings.places.root / "keys" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value)
    path.chmod(0o600)


@pytest.fixture
def keyring(settings: Settings) -> Keyring:
    write_key(settings, "pseudonym.key", OTHER)
    write_key(settings, "encryption.key", OLD)
    return Keyring.load(settings)


def test_a_pseudonym_is_the_hmac_of_its_column(keyring: Keyring) -> None:
    # HKDF-SHA-256 (RFC 5869) of the secret, then one HMAC to a key for the column and one over the value, by hand
    extracted = hmac.new(b"nightmarket", bytes.fromhex(OTHER), hashlib.sha256).digest()
    derived = hmac.new(extracted, b"pseudonym" + b"\x01", hashlib.sha256).digest()
    column = hmac.new(derived, b"device_id", hashlib.sha256).digest()
    expected = hmac.new(column, b"phone-7", hashlib.sha256).hexdigest()
    assert keyring.pseudonym("device_id", "phone-7") == f"p1:{keyring.pseudonym_id}:{expected}"


def test_the_same_device_joins_everywhere_and_a_mail_address_never_joins_a_phone(keyring: Keyring) -> None:
    assert keyring.pseudonym("device_id", "d1") == keyring.pseudonym("device_id", "d1")
    assert keyring.pseudonym("email", "4420") != keyring.pseudonym("phone", "4420")


@pytest.mark.parametrize(("column", "one", "same"), [
    ("email", "Ann.Lee@Example.ORG", " ann.lee@example.org "),
    ("phone", "+44 20 7946-0018", "+442079460018"),
    ("phone", "0044 (20) 7946 0018", "+442079460018"),
    ("device_id", " d1", "d1 "),
])
def test_values_are_made_alike_before_they_are_hashed(keyring: Keyring, column: str, one: str, same: str) -> None:
    assert keyring.pseudonym(column, one) == keyring.pseudonym(column, same)


def test_case_counts_where_it_may_mean_something(keyring: Keyring) -> None:
    assert keyring.pseudonym("device_id", "a") != keyring.pseudonym("device_id", "A")


@given(text=st.text(), context=st.text(max_size=20))
def test_decryption_gives_the_text_back_and_the_same_text_the_same_token(text: str, context: str) -> None:
    ring = _ring()
    token = ring.encrypt(text, context)
    assert ring.decrypt(token) == text
    assert ring.encrypt(text, context) == token
    assert ring.encrypt(text, context + "x") != token


def _ring() -> Keyring:
    return Keyring("aaaaaaaa", "bbbbbbbb", b"p" * 32, {"bbbbbbbb": b"e" * 32}, b"n" * 32)


def test_a_damaged_or_foreign_token_is_refused_in_constant_words(keyring: Keyring) -> None:
    token = keyring.encrypt("12 Market Street")
    flipped = token[:-6] + ("A" if token[-6] != "A" else "B") + token[-5:]
    moved = token.replace(keyring.encryption_id, "00000000")
    for wrong in (flipped, moved, token[:30], "e1:only", "plain text", f"e1:{keyring.encryption_id}:!!!", f"e1:{keyring.encryption_id}:"):
        with pytest.raises(KeyringError) as error:
            keyring.decrypt(wrong)
        assert "Market" not in str(error.value)
        assert OLD not in str(error.value) and wrong not in str(error.value)


def test_a_new_key_writes_and_the_old_one_still_reads(make_settings: Callable[..., Settings]) -> None:
    before = make_settings(secrets=secrets())
    write_key(before, "pseudonym.key", OTHER)
    write_key(before, "encryption.key", OLD)
    token = Keyring.load(before).encrypt("Ann Lee", "users.full_name")

    after = make_settings(secrets=secrets(encryption_key_previous={"file": "keys/old.key"}))
    write_key(after, "pseudonym.key", OTHER)
    write_key(after, "encryption.key", NEW)
    write_key(after, "old.key", OLD)
    ring = Keyring.load(after)
    assert ring.decrypt(token) == "Ann Lee"
    assert ring.encryption_id != token.split(":")[1]
    assert ring.encrypt("Ann Lee", "users.full_name").split(":")[1] == ring.encryption_id

    without = make_settings(secrets=secrets())
    write_key(without, "pseudonym.key", OTHER)
    write_key(without, "encryption.key", NEW)
    with pytest.raises(KeyringError, match="encryption_key_previous"):
        Keyring.load(without).decrypt(token)


def test_a_short_key_is_refused_without_being_shown(settings: Settings) -> None:
    write_key(settings, "pseudonym.key", "letmein")
    with pytest.raises(ShopError, match=r"pseudonym_key: shorter than 16 bytes") as error:
        Keyring.load(settings)
    assert "letmein" not in str(error.value)


def test_keys_made_once_stay_and_are_the_owners_alone(settings: Settings) -> None:
    first = Keyring.load(settings).pseudonym("email", "a@b.c")
    assert Keyring.load(settings).pseudonym("email", "a@b.c") == first
    modes = {p.stat().st_mode & 0o777 for p in settings.places.keys.iterdir()}
    assert modes == {0o600}


def test_a_keyring_does_not_show_its_keys(keyring: Keyring) -> None:
    shown = repr(keyring)
    assert re.fullmatch(r"Keyring\(pseudonym_id='[0-9a-f]{8}', encryption_id='[0-9a-f]{8}'\)", shown)
    # the id is a digest of a derived key, not a piece of the secret
    assert keyring.pseudonym_id not in OTHER and keyring.encryption_id not in OLD
    assert pickle.loads(pickle.dumps(keyring)) == keyring  # it travels to Spark's workers
