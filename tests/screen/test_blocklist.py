"""The blocklist as of a moment, and its exchange: no clear identifier, no changed byte, no unknown shop."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.screen import ledger as on_disk
from nightmarket.screen.blocklist import (
    APPEAL,
    BLOCK,
    PROPOSE,
    REFUSE,
    UNBLOCK,
    Action,
    ExchangeError,
    export,
    hashed,
    holds,
    normalised,
    read_foreign,
    waiting,
)
from nightmarket.shop import Settings

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
KEY = bytes(range(32))


def action(what: str, days: float, identifier: str = "p1:device", expires: float | None = None) -> Action:
    return Action(NOON + timedelta(days=days), "device", identifier, what, "ada", "case 7", None if expires is None else NOON + timedelta(days=expires))


def test_what_holds_at_a_moment() -> None:
    ledger = [action(BLOCK, 0, expires=10), action(APPEAL, 2), action(UNBLOCK, 3), action(BLOCK, 5, expires=6), action(BLOCK, 1, "other")]
    at = lambda days: {k[1] for k in holds(ledger, NOON + timedelta(days=days))}  # noqa: E731
    assert at(-1) == set() and at(0) == {"p1:device"} and at(2) == {"p1:device", "other"}
    assert holds(ledger, NOON + timedelta(days=2.5))["device", "p1:device"].appeal == ledger[1]
    assert at(3) == {"other"} and at(5.5) == {"p1:device", "other"} and at(6) == {"other"}


def test_of_one_moment_unblocking_wins_in_any_order() -> None:
    for ledger in ([action(UNBLOCK, 0), action(BLOCK, 0)], [action(BLOCK, 0), action(UNBLOCK, 0)]):
        assert holds(ledger, NOON) == {}


@pytest.mark.parametrize(("change", "told"), [
    ({"evidence": ""}, "must all be said"), ({"kind": "colour"}, "write one of customer"), ({"what": "ban"}, "write one of propose, block, appeal, refuse, unblock"),
    ({"at": datetime(2026, 1, 1)}, "need a zone"), ({"expires_at": NOON - timedelta(days=1)}, "before it begins"),
])
def test_an_action_says_all_of_it(change: dict, told: str) -> None:
    fields = {"at": NOON, "kind": "device", "identifier": "x", "what": BLOCK, "decided_by": "ada", "evidence": "case 7", "expires_at": None}
    with pytest.raises(ValueError, match=told):
        Action(**(fields | change))


def exchanged(signer: Ed25519PrivateKey, shop: str = "corner") -> bytes:
    held = holds([action(BLOCK, 0, expires=10), action(BLOCK, 0, "p1:mail"), action(BLOCK, 0, "unknown elsewhere")], NOON)
    clear = {("device", "p1:device"): "SERIAL-4711", ("device", "p1:mail"): "ada@example.org"}
    return export(held, clear, shop, NOON, KEY, signer)


def test_another_shop_reads_it_and_learns_no_identifier() -> None:
    signer = Ed25519PrivateKey.generate()
    content = exchanged(signer)
    for secret in (b"SERIAL", b"@example", b"p1:", b"case 7", KEY.hex().encode()):  # none that a salt in hex may hold by chance
        assert secret not in content
    foreign = read_foreign(content, {"corner": signer.public_key()})
    assert foreign.matches(KEY, "device", ["SERIAL-4711", "SERIAL-4712", " SERIAL-4711 "], NOON) == [True, False, True]
    assert foreign.matches(KEY, "device", ["SERIAL-4711"], NOON + timedelta(days=11)) == [False]
    assert foreign.matches(KEY, "card", ["SERIAL-4711"], NOON) == [False]
    assert foreign.matches(bytes(32), "device", ["SERIAL-4711"], NOON) == [False]
    assert len(foreign.entries) == 2


def test_two_files_of_one_list_cannot_be_joined() -> None:
    signer = Ed25519PrivateKey.generate()
    one, two = (read_foreign(exchanged(signer), {"corner": signer.public_key()}) for _ in range(2))
    assert not set(one.entries) & set(two.entries)


def test_a_changed_byte_a_cut_file_and_a_stranger_are_refused() -> None:
    signer = Ed25519PrivateKey.generate()
    content, trusted = exchanged(signer), {"corner": signer.public_key()}
    lines = content.splitlines(keepends=True)
    for broken in (content.replace(b'"since":"2026', b'"since":"2025', 1), b"".join([lines[0], *lines[2:]]), b"".join(lines[:-1]), b"", b"{}\n{}\n", content[:-20]):
        with pytest.raises(ExchangeError):
            read_foreign(broken, trusted)
    with pytest.raises(ExchangeError, match="'corner', whose public key is not among"):
        read_foreign(content, {"other": signer.public_key()})
    with pytest.raises(ExchangeError, match="changed, cut off or forged"):
        read_foreign(content, {"corner": Ed25519PrivateKey.generate().public_key()})


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_one_error(content: bytes) -> None:
    with pytest.raises(ExchangeError):
        read_foreign(content, {})


def test_spellings_and_short_keys() -> None:
    assert normalised("email", " Ada@Example.ORG ") == "ada@example.org" and normalised("phone", "0049 (30) 12-3") == "+4930123"
    assert normalised("card", "4111 1111-1111") == "411111111111" and normalised("device", " Ab ") == "Ab"
    with pytest.raises(ValueError, match="needs 16"):
        hashed(b"short", b"salt", "card", "4111")


def test_a_proposal_waits_until_somebody_answers_and_blocks_nothing() -> None:
    ledger = [action(PROPOSE, 0), action(PROPOSE, 0, "other"), action(BLOCK, 2, "other"), action(REFUSE, 3), action(PROPOSE, 5)]
    waits = lambda days: {k[1] for k in waiting(ledger, NOON + timedelta(days=days))}  # noqa: E731
    assert waits(-1) == set() and waits(1) == {"p1:device", "other"} and waits(2) == {"p1:device"} and waits(4) == set() and waits(5) == {"p1:device"}
    assert set(holds(ledger, NOON + timedelta(days=6))) == {("device", "other")}


def test_the_ledger_on_disk_forgets_what_a_killed_writer_left(settings: Settings) -> None:
    on_disk.append(settings, [action(BLOCK, 0), action(APPEAL, 1)])
    with on_disk.path_of(settings).open("a") as file:
        file.write('{"at": "2026-')
    assert [a.what for a in on_disk.read(settings)] == [BLOCK, APPEAL]
    on_disk.append(settings, [action(UNBLOCK, 2)])
    assert [a.what for a in on_disk.read(settings)] == [BLOCK, APPEAL, UNBLOCK] and on_disk.path_of(settings).stat().st_mode & 0o077 == 0
    on_disk.path_of(settings).write_text('{"at": 7}\n')
    with pytest.raises(on_disk.LedgerError, match=r"blocklist\.jsonl line 1"):
        on_disk.read(settings)
