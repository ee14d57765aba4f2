"""gateway.security.vault."""

from __future__ import annotations

import dataclasses
import pickle
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import Secret
from gateway.errors import CannotOpen, MasterKeyError
from gateway.security import vault as module
from gateway.security.vault import (
    KeyRing,
    KeyVault,
    VaultRecord,
    data_key_version,
    new_master_key,
    require_strong,
)

if TYPE_CHECKING:
    from gateway.security.vault import Cipher

CIPHERS: tuple[Cipher, ...] = ("aes-256-gcm", "fernet")
MASTER = new_master_key()
VAULT, RECORD = KeyVault.create(MASTER)
BY_CIPHER = {cipher: KeyVault.unlock(MASTER, RECORD, cipher) for cipher in CIPHERS}

ciphers = st.sampled_from(CIPHERS)
names = st.text(max_size=12)
secrets = st.text(max_size=80)


def test_pbkdf2_as_published() -> None:
    """RFC 7914, section 11: the first 32 bytes of both PBKDF2-HMAC-SHA256 examples."""
    short = module._stretch(Secret("passwd"), b"salt", 1)
    long = module._stretch(Secret("Password"), b"NaCl", 80_000)
    assert short.hex() == "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
    assert long.hex() == "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56"


def test_aes_256_gcm_as_published() -> None:
    """McGrew and Viega, "The Galois/Counter Mode of Operation", test case 16: with associated data."""
    cipher = module._AesGcm(bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2))
    nonce = bytes.fromhex("cafebabefacedbaddecaf888")
    sealed = bytes.fromhex(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )
    plain = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    assert cipher.open(nonce + sealed, bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")) == plain
    assert cipher.open(nonce + sealed, b"") is None


def test_fernet_is_fernet() -> None:
    """What the Fernet cipher makes is a token that any Fernet reads under the same key, dated 1970."""
    cipher = module._Fernet(bytes(range(32)))
    token = module.base64.urlsafe_b64encode(cipher.seal(b"plain", b"context"))
    reader = Fernet(module.base64.urlsafe_b64encode(bytes(range(32))))
    assert reader.decrypt(token).endswith(b"plain")
    assert reader.extract_timestamp(token) == 0


@given(ciphers, secrets, names, names)
def test_what_was_sealed_is_opened(cipher: Cipher, text: str, table: str, row: str) -> None:
    """Any text comes back from its own row, with either cipher, whichever of them the vault seals with now."""
    blob = BY_CIPHER[cipher].seal(Secret(text), table, row)
    assert all(vault.open(blob, table, row).reveal() == text for vault in BY_CIPHER.values())


@given(ciphers, secrets, st.tuples(names, names), st.tuples(names, names))
def test_a_value_opens_in_its_own_place_only(
    cipher: Cipher, text: str, home: tuple[str, str], place: tuple[str, str]
) -> None:
    """F68: a ciphertext that was swapped with another row's or another table's is noticed."""
    blob = VAULT.seal(Secret(text), *home) if cipher == "aes-256-gcm" else BY_CIPHER[cipher].seal(Secret(text), *home)
    if home == place:
        return
    with pytest.raises(CannotOpen):
        VAULT.open(blob, *place)


def test_the_border_of_table_and_row_cannot_be_moved() -> None:
    """F68: table "ab" row "c" is not table "a" row "bc"."""
    for vault in BY_CIPHER.values():
        with pytest.raises(CannotOpen):
            vault.open(vault.seal(Secret("x"), "ab", "c"), "a", "bc")


@given(ciphers, secrets, st.data())
def test_every_flipped_bit_is_noticed(cipher: Cipher, text: str, data: st.DataObject) -> None:
    """F68: no single bit of a sealed value, its header included, may change."""
    blob = bytearray(BY_CIPHER[cipher].seal(Secret(text), "t", "r"))
    bit = data.draw(st.integers(0, len(blob) * 8 - 1))
    blob[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CannotOpen):
        VAULT.open(bytes(blob), "t", "r")


@given(ciphers, secrets, st.data())
def test_every_cut_and_addition_is_noticed(cipher: Cipher, text: str, data: st.DataObject) -> None:
    """F68: a sealed value is opened whole or not at all."""
    blob = BY_CIPHER[cipher].seal(Secret(text), "t", "r")
    cut = blob[: data.draw(st.integers(0, len(blob) - 1))]
    longer = blob + data.draw(st.binary(min_size=1, max_size=20))
    for wrong in (cut, longer):
        with pytest.raises(CannotOpen):
            VAULT.open(wrong, "t", "r")


@given(st.binary(max_size=120))
def test_arbitrary_bytes_are_refused_in_words(blob: bytes) -> None:
    """Whatever lies in the row, opening it answers CannotOpen with a remedy."""
    with pytest.raises(CannotOpen, match="store the secret again"):
        VAULT.open(blob, "t", "r")


def test_no_two_seals_are_alike() -> None:
    """The nonce is new each time: equal secrets are not seen to be equal."""
    for vault in BY_CIPHER.values():
        assert len({vault.seal(Secret("same"), "t", "r") for _ in range(200)}) == 200


def test_formats_cannot_be_exchanged() -> None:
    """A value keeps its format: its first byte is authenticated, and each cipher has a key of its own."""
    blob = VAULT.seal(Secret("x"), "t", "r")
    with pytest.raises(CannotOpen):
        VAULT.open(b"\x02" + blob[1:], "t", "r")
    with pytest.raises(CannotOpen, match="format 9"):
        VAULT.open(b"\x09" + blob[1:], "t", "r")


def test_another_data_key_is_named() -> None:
    """A value that was sealed under another version of the data key says so."""
    newer = VAULT.with_new_data_key()
    with pytest.raises(CannotOpen, match="data key 2"):
        VAULT.open(newer.seal(Secret("x"), "t", "r"), "t", "r")


def test_the_version_cannot_be_relabelled() -> None:
    """The version in the header is authenticated: a value does not pass for one of another data key."""
    same_key_twice = KeyVault(KeyRing(bytes(32), {1: bytes(32), 2: bytes(32)}))
    blob = same_key_twice.seal(Secret("x"), "t", "r")
    relabelled = blob[:1] + (1).to_bytes(4) + blob[5:]
    with pytest.raises(CannotOpen):
        same_key_twice.open(relabelled, "t", "r")


def test_another_vault_cannot_open() -> None:
    """A value sealed by a vault with the same master key and another data key stays closed."""
    other, _ = KeyVault.create(MASTER)
    with pytest.raises(CannotOpen):
        other.open(VAULT.seal(Secret("x"), "t", "r"), "t", "r")


def test_a_wrong_master_key_is_recognised_by_the_check_value() -> None:
    """F65: the check value tells, before and without opening anything, and the words name the remedy."""
    sealed = dataclasses.replace(RECORD, wrapped_key=b"")
    with pytest.raises(MasterKeyError, match="not the one that this vault was made with") as caught:
        KeyVault.unlock(new_master_key(), sealed)
    assert "vault.master_key" in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        {"wrapped_key": RECORD.wrapped_key[:-1]},
        {"wrapped_key": b""},
        {"wrapped_key": b"\x07" + RECORD.wrapped_key[1:]},
        {"version": 2},
        {"kdf": "argon2id"},
        {"iterations": 0},
        {"iterations": 10**12},
    ],
)
def test_a_damaged_record_is_told_from_a_wrong_master_key(damage: dict[str, object]) -> None:
    """Every field is bound to the data key, and numbers that would hold the start for hours are not tried."""
    with pytest.raises(CannotOpen, match="backup"):
        KeyVault.unlock(MASTER, dataclasses.replace(RECORD, **damage))  # type: ignore[arg-type]


def test_the_record_is_as_the_design_says() -> None:
    """600,000 rounds of PBKDF2-HMAC-SHA256 over a salt of at least 16 bytes that is new for each vault."""
    _, other = KeyVault.create(MASTER)
    assert (RECORD.version, RECORD.kdf, RECORD.iterations) == (1, "pbkdf2-hmac-sha256", 600_000)
    assert len(RECORD.salt) >= 16
    assert other.salt != RECORD.salt


def test_derived_keys_are_stable_and_apart() -> None:
    """One purpose always gets the same key, another purpose another, and no cipher's key is among them."""
    again = KeyVault.unlock(MASTER, RECORD)
    assert VAULT.derive(b"audit") == again.derive(b"audit")
    keys = {VAULT.derive(b"audit"), VAULT.derive(b"sessions"), VAULT.derive(b"")}
    assert len(keys | {VAULT._ring.lasting} | set(VAULT._ring.data_keys.values())) == 5
    assert len(VAULT.derive(b"audit")) == 32


def test_several_data_keys_open_and_the_newest_seals() -> None:
    """F66: while a data key is replaced, what was sealed before and since is opened, by the version it carries."""
    both = VAULT.with_new_data_key()
    before, since = VAULT.seal(Secret("x"), "t", "r"), both.seal(Secret("x"), "t", "r")
    assert (data_key_version(before), data_key_version(since)) == (1, 2)
    assert {both.open(blob, "t", "r").reveal() for blob in (before, since)} == {"x"}
    assert both.versions == {1, 2}


def test_an_old_data_key_that_is_let_go_opens_nothing() -> None:
    """After a rotation the old data key is gone: what it sealed is noticed, and what the new one sealed is opened."""
    both = VAULT.with_new_data_key()
    newest = both.with_newest_data_key_only()
    assert newest.versions == {2}
    assert newest.open(both.seal(Secret("x"), "t", "r"), "t", "r").reveal() == "x"
    with pytest.raises(CannotOpen, match="data key 1"):
        newest.open(VAULT.seal(Secret("x"), "t", "r"), "t", "r")


@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_vault_keeps_its_cipher_and_its_derived_keys_through_a_rotation(cipher: Cipher) -> None:
    """The audit log's chain is checked with the same key for ever; what is sealed anew is sealed as configured."""
    vault = BY_CIPHER[cipher]
    rotated = vault.with_new_data_key().with_newest_data_key_only()
    assert rotated.derive(b"audit") == vault.derive(b"audit")
    assert rotated.seal(Secret("x"), "t", "r")[0] == vault.seal(Secret("x"), "t", "r")[0]


def test_another_master_key_makes_a_new_record_of_the_same_vault() -> None:
    """F66: new salt, new wrapping, new check value; the new key opens what the vault sealed, the old one does not."""
    other = new_master_key()
    record = VAULT.with_new_data_key().wrap(other)
    assert (record.version, record.iterations) == (2, 600_000)
    assert record.salt != RECORD.salt
    opened = KeyVault.unlock(other, record)
    assert opened.versions == {1, 2}
    assert opened.open(VAULT.seal(Secret("x"), "t", "r"), "t", "r").reveal() == "x"
    assert opened.derive(b"audit") == VAULT.derive(b"audit")
    with pytest.raises(MasterKeyError):
        KeyVault.unlock(MASTER, record)


def test_a_vault_from_before_there_were_rings_is_unlocked() -> None:
    """Its one key sealed, and was derived from: both go on."""
    single = KeyRing(b"k" * 32, {7: b"k" * 32})
    assert KeyRing.unpack(b"k" * 32, newest=7) == single
    assert KeyRing.unpack(single.pack(), newest=7) == single


def test_the_version_of_what_is_no_sealed_value() -> None:
    """Bytes that are too short for a header are under no data key."""
    assert data_key_version(b"\x01\x00\x00") is None


@pytest.mark.parametrize(
    "weak",
    [
        "",
        "short",
        "x" * 31,
        "x" * 64,
        "abcdefgh" * 4,
        "0123456789abcdef" * 2,
        "changeme-changeme-and-some-more-letters",
        "Your_Master-Key goes here, thank you very much",
        "abcdefghijklmnopqrstuvwxyz0123456789",
        "zyxwvutsrqponmlkjihgfedcba9876543210",
    ],
)
def test_a_weak_master_key_is_refused_with_words_that_help(weak: str) -> None:
    """F65: missing, short, repeating, counting and placeholder keys are refused by create, wrap and unlock alike."""
    for attempt in (KeyVault.create, VAULT.wrap, lambda master: KeyVault.unlock(master, RECORD)):
        with pytest.raises(MasterKeyError, match="openssl rand") as caught:
            attempt(Secret(weak))
        assert not weak or weak not in str(caught.value)


@given(st.binary(min_size=32, max_size=32))
def test_random_master_keys_are_strong(key: bytes) -> None:
    """Made keys pass, written in hexadecimal as well."""
    require_strong(new_master_key())
    if len(set(key)) > 20:
        require_strong(Secret(key.hex()))


def test_nothing_shows_a_key() -> None:
    """F73: neither repr of a vault or its record nor an error shows the master key, a data key or a plaintext."""
    assert repr(VAULT) == "KeyVault(version=1)"
    assert repr(RECORD) == "VaultRecord(version=1, kdf='pbkdf2-hmac-sha256', iterations=600000)"
    with pytest.raises((TypeError, AttributeError)):
        pickle.dumps(VAULT)


def test_the_record_holds_neither_key() -> None:
    """What the store keeps contains neither the master key nor the data key in clear."""
    kept = b"".join(value if isinstance(value, bytes) else str(value).encode() for value in dataclasses.astuple(RECORD))
    assert not any(key in kept for key in (VAULT._ring.lasting, *VAULT._ring.data_keys.values()))
    assert MASTER.reveal().encode() not in kept
    assert isinstance(RECORD, VaultRecord)
