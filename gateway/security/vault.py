"""The vault: an envelope around every secret that the store keeps.

::

    master key ──PBKDF2-HMAC-SHA256, 600,000 rounds, own salt──► root
        root ──HKDF──► check value          recognises the master key without opening anything
        root ──HKDF──► wrapping key ──AES-256-GCM──► key ring, random keys of 256 bits
            data key ──HKDF──► one key per cipher ──► each secret, bound to its table, row and key version
            lasting key ──HKDF──► derive(purpose): the audit log's key, …

The master key is only ever used to unwrap the key ring: a changed master key rewrites one :class:`VaultRecord` (a new
salt, a new wrapping, a new check value) and no secret. Data keys have versions, and every sealed value carries its own:
while a data key is being replaced the ring holds both, the newest seals, and either opens what it sealed. The lasting
key is never replaced, so that what was made with a derived key (the audit log's chain) can be checked for ever.

A sealed value is ``format (1 byte) · data key version (4 bytes) · what the cipher made``. Formats:

1. AES-256-GCM (NIST SP 800-38D): nonce (96 random bits) · ciphertext · tag. The header, the table and the row are
   associated data. Random nonces hold for 2**32 values under one data key (section 8.3).
2. Fernet, for whoever must have it: AES-128-CBC with HMAC-SHA256. It has no associated data, so header, table and row
   stand in front of the plaintext and are compared after opening. Its time field is always zero: a sealed value does
   not tell when it was made.

Both formats are opened whatever the vault is told to seal with, so the cipher may change over the years.

Nothing here is asynchronous or does I/O. :meth:`KeyVault.create` and :meth:`KeyVault.unlock` hold a thread for about a
tenth of a second (PBKDF2 lets other threads run): call them with ``asyncio.to_thread``, once per start.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from gateway.contract import Secret
from gateway.errors import CannotOpen, MasterKeyError
from gateway.security.framing import framed

if TYPE_CHECKING:
    from collections.abc import Mapping

Cipher = Literal["aes-256-gcm", "fernet"]

KDF = "pbkdf2-hmac-sha256"
ITERATIONS = 600_000
MIN_MASTER_KEY_LENGTH = 32

_MAX_ITERATIONS = 50_000_000
_SALT_BYTES = 32
_KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_FIRST_VERSION = 1
_HEADER = struct.Struct(">BI")
_RING_ENTRY = struct.Struct(f">I{_KEY_BYTES}s")

_MIN_DISTINCT = 8
_PLACEHOLDERS = ("changeme", "changethis", "replaceme", "replacethis", "placeholder", "yourmasterkey", "yoursecret")
_HOW_TO_MAKE_ONE = "make one with `openssl rand -base64 48`, or let `gateway init` make it"


@dataclass(frozen=True, slots=True)
class VaultRecord:
    """What the store keeps of a vault. Nothing in it is secret without the master key.

    ``version`` is the newest data key's; ``wrapped_key`` is the key ring, sealed; ``check`` recognises the master key.
    """

    version: int
    kdf: str
    iterations: int
    salt: bytes = field(repr=False)
    wrapped_key: bytes = field(repr=False)
    check: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The random keys of a vault: data keys by version, of which the newest seals, and one to derive others from."""

    lasting: bytes = field(repr=False)
    data_keys: Mapping[int, bytes] = field(repr=False)

    @classmethod
    def new(cls) -> KeyRing:
        """The keys of a new vault."""
        return cls(secrets.token_bytes(_KEY_BYTES), {_FIRST_VERSION: secrets.token_bytes(_KEY_BYTES)})

    @property
    def newest(self) -> int:
        """The version of the data key that seals."""
        return max(self.data_keys)

    def pack(self) -> bytes:
        """The ring as it is wrapped."""
        entries = (_RING_ENTRY.pack(version, key) for version, key in sorted(self.data_keys.items()))
        return self.lasting + b"".join(entries)

    @classmethod
    def unpack(cls, packed: bytes, newest: int) -> KeyRing:
        """The ring that was packed. A single key, as vaults had before there were rings, is its own lasting key."""
        lasting, entries = packed[:_KEY_BYTES], packed[_KEY_BYTES:]
        data_keys: dict[int, bytes] = dict(_RING_ENTRY.iter_unpack(entries))
        return cls(lasting, data_keys or {newest: lasting})


def new_master_key() -> Secret:
    """A master key that nobody can guess: 384 random bits, printable, safe in an environment file."""
    return Secret(secrets.token_urlsafe(48))


def require_strong(master: Secret) -> None:
    """Raise MasterKeyError, saying how to make a good one, for a master key that could be guessed."""
    weakness = _weakness(master.reveal())
    if weakness is not None:
        raise MasterKeyError(f"the master key {weakness}: {_HOW_TO_MAKE_ONE}")


def _weakness(text: str) -> str | None:
    """What is wrong with a master key, in words that follow "the master key"."""
    if not text:
        return "is missing"
    if len(text) < MIN_MASTER_KEY_LENGTH:
        return f"has {len(text)} characters and needs {MIN_MASTER_KEY_LENGTH}"
    plain = text.lower().replace("-", "").replace("_", "").replace(" ", "")
    if any(word in plain for word in _PLACEHOLDERS):
        return "is a placeholder"
    # A string that repeats a shorter one lies inside its own double with both ends cut off.
    if len(set(text)) < _MIN_DISTINCT or text in (text + text)[1:-1]:
        return "repeats itself"
    steps = sum(abs(ord(left) - ord(right)) <= 1 for left, right in pairwise(text))
    if steps * 2 > len(text):
        return "counts through the alphabet"
    return None


class KeyVault:
    """Seals and opens secrets under its data keys. Never shows a key: not by ``repr``, not by an error."""

    __slots__ = ("_cipher", "_ring", "_sealers", "_seals_with", "version")

    def __init__(self, ring: KeyRing, cipher: Cipher = "aes-256-gcm") -> None:
        self.version = ring.newest
        self._ring = ring
        self._cipher: Cipher = cipher
        self._sealers = {
            (sealer.format, version): sealer for version, key in ring.data_keys.items() for sealer in _sealers(key)
        }
        form = _Fernet.format if cipher == "fernet" else _AesGcm.format
        self._seals_with = self._sealers[form, self.version]

    def __repr__(self) -> str:
        return f"KeyVault(version={self.version})"

    @classmethod
    def create(
        cls, master: Secret, cipher: Cipher = "aes-256-gcm", *, iterations: int = ITERATIONS
    ) -> tuple[KeyVault, VaultRecord]:
        """A new vault with random keys, and the record that unlocks it again.

        ``iterations`` make each guess at the master key expensive; a random one, as tests have, needs none.
        Raises MasterKeyError for a master key that is missing, too short or obviously weak.
        """
        vault = cls(KeyRing.new(), cipher)
        return vault, vault.wrap(master, iterations=iterations)

    @classmethod
    def unlock(cls, master: Secret, record: VaultRecord, cipher: Cipher = "aes-256-gcm") -> KeyVault:
        """The vault that ``record`` was made for.

        Raises MasterKeyError where ``master`` is weak or is not the vault's, and CannotOpen where the record itself is
        damaged or of a kind that this version does not know.
        """
        require_strong(master)
        if record.kdf != KDF or not 1 <= record.iterations <= _MAX_ITERATIONS:
            raise CannotOpen("the vault's record is damaged, or a newer gateway wrote it: restore the store's backup")
        root = _stretch(master, record.salt, record.iterations)
        if not hmac.compare_digest(_check_value(root), record.check):
            raise MasterKeyError(
                "the master key is not the one that this vault was made with, or was last changed to: "
                "set vault.master_key to the key that was last in use with this store"
            )
        bound = _record_context(record.version, record.kdf, record.iterations, record.salt)
        known = record.wrapped_key[:1] == bytes([_AesGcm.format])
        packed = _wrapper(root).open(record.wrapped_key[1:], bound) if known else None
        if packed is None:
            raise CannotOpen("the master key is right but the vault's record is damaged: restore the store's backup")
        return cls(KeyRing.unpack(packed, record.version), cipher)

    def wrap(self, master: Secret, *, iterations: int = ITERATIONS) -> VaultRecord:
        """A record from which ``master`` unlocks this vault: salt and wrapping are new each time.

        Raises MasterKeyError for a master key that is missing, too short or obviously weak.
        """
        require_strong(master)
        salt = secrets.token_bytes(_SALT_BYTES)
        root = _stretch(master, salt, iterations)
        bound = _record_context(self.version, KDF, iterations, salt)
        wrapped_key = bytes([_AesGcm.format]) + _wrapper(root).seal(self._ring.pack(), bound)
        return VaultRecord(self.version, KDF, iterations, salt, wrapped_key, _check_value(root))

    def with_new_data_key(self) -> KeyVault:
        """This vault with one more data key, which seals from now on. What was sealed before is still opened."""
        data_keys = {**self._ring.data_keys, self.version + 1: secrets.token_bytes(_KEY_BYTES)}
        return KeyVault(replace(self._ring, data_keys=data_keys), self._cipher)

    def with_newest_data_key_only(self) -> KeyVault:
        """This vault without what its older data keys sealed: they are forgotten."""
        return KeyVault(replace(self._ring, data_keys={self.version: self._ring.data_keys[self.version]}), self._cipher)

    @property
    def versions(self) -> frozenset[int]:
        """The data keys that it has. More than one: the older ones are being replaced."""
        return frozenset(self._ring.data_keys)

    def seal(self, plaintext: Secret, table: str, row: str) -> bytes:
        """The secret, sealed for this row of this table and for no other."""
        header = _HEADER.pack(self._seals_with.format, self.version)
        return header + self._seals_with.seal(plaintext.reveal().encode(), _value_context(header, table, row))

    def open(self, blob: bytes, table: str, row: str) -> Secret:
        """What was sealed for this row of this table.

        Raises CannotOpen for a value that is damaged, cut, sealed for another row, or sealed under another data key.
        """
        header, sealed = blob[: _HEADER.size], blob[_HEADER.size :]
        if len(header) < _HEADER.size:
            raise CannotOpen(f"{table}: the sealed value of {row} is cut short: store the secret again")
        form, version = _HEADER.unpack(header)
        sealer = self._sealers.get((form, version))
        if sealer is None:
            raise CannotOpen(
                f"{table}: {row} is sealed in format {form} with data key {version}, "
                f"which this vault (data key {self.version}) does not know: store the secret again"
            )
        plaintext = sealer.open(sealed, _value_context(header, table, row))
        if plaintext is None:
            raise CannotOpen(f"{table}: the sealed value of {row} is damaged or another row's: store the secret again")
        return Secret(plaintext.decode())

    def derive(self, purpose: bytes) -> bytes:
        """A key of 32 bytes for one other purpose: the same as long as the vault lives, and of no use for any other."""
        return _expand(self._ring.lasting, b"derive " + purpose)


def data_key_version(blob: bytes) -> int | None:
    """The version of the data key that a value was sealed with, by its own header; None for what is no sealed value."""
    return int(_HEADER.unpack_from(blob)[1]) if len(blob) >= _HEADER.size else None


class _Sealer(Protocol):
    """A cipher that authenticates a context along with the plaintext."""

    format: int

    def seal(self, plaintext: bytes, context: bytes) -> bytes: ...

    def open(self, sealed: bytes, context: bytes) -> bytes | None:
        """The plaintext; None unless every bit of ``sealed`` and ``context`` is as it was."""


class _AesGcm:
    """AES-256-GCM with a random nonce in front."""

    format = 1

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plaintext, context)

    def open(self, sealed: bytes, context: bytes) -> bytes | None:
        if len(sealed) < _NONCE_BYTES + _TAG_BYTES:
            return None
        try:
            return self._aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
        except InvalidTag:
            return None


class _Fernet:
    """Fernet with the context in front of the plaintext.

    The token is kept without its base 64: that decoder forgives stray characters, and a changed byte must be noticed.
    """

    format = 2

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        token = self._fernet.encrypt_at_time(framed(context) + plaintext, current_time=0)
        return base64.urlsafe_b64decode(token)

    def open(self, sealed: bytes, context: bytes) -> bytes | None:
        try:
            payload = self._fernet.decrypt(base64.urlsafe_b64encode(sealed))
        except InvalidToken:
            return None
        expected = framed(context)
        if not hmac.compare_digest(payload[: len(expected)], expected):
            return None
        return payload[len(expected) :]


def _sealers(data_key: bytes) -> tuple[_Sealer, ...]:
    """Every cipher under this data key, each with a key of its own."""
    return _AesGcm(_expand(data_key, b"seal aes-256-gcm")), _Fernet(_expand(data_key, b"seal fernet"))


def _stretch(master: Secret, salt: bytes, iterations: int) -> bytes:
    """PBKDF2-HMAC-SHA256 (RFC 8018): the slow step between a master key and everything else."""
    return hashlib.pbkdf2_hmac("sha256", master.reveal().encode(), salt, iterations, _KEY_BYTES)


def _expand(key: bytes, purpose: bytes) -> bytes:
    """HKDF (RFC 5869) of a key that is already random."""
    return HKDFExpand(SHA256(), _KEY_BYTES, b"llm-gateway vault: " + purpose).derive(key)


def _wrapper(root: bytes) -> _AesGcm:
    return _AesGcm(_expand(root, b"wrap the data key"))


def _check_value(root: bytes) -> bytes:
    return _expand(root, b"check value")


def _record_context(version: int, kdf: str, iterations: int, salt: bytes) -> bytes:
    """What the wrapped key ring is bound to: every other field of its record."""
    return framed(version.to_bytes(4), kdf.encode(), iterations.to_bytes(8), salt)


def _value_context(header: bytes, table: str, row: str) -> bytes:
    """What a sealed value is bound to: its format, its key's version, its table and its row."""
    return framed(header, table.encode(), row.encode())
