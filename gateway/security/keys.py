"""API keys of the gateway: what one looks like, how one is made, and the digest by which it is known.

The text of a key exists twice: when it is shown to whoever it is for, and in that client's requests. Everywhere else
there is its SHA-256. A key has 190 random bits, so a plain fast digest is enough (there is nothing to guess), and a
lookup by the whole digest tells a wrong key nothing by its timing.
"""

from __future__ import annotations

import hashlib
import secrets
import string

from gateway.contract import Secret

PREFIX = "gw_"
RANDOM_LENGTH = 32

_ALPHABET = string.ascii_letters + string.digits
_LENGTH = len(PREFIX) + RANDOM_LENGTH
_SHOWN = 4
_MIN_LENGTH_SHOWN = 16


def new_api_key() -> Secret:
    """A new key from the kernel's randomness, which a fork cannot repeat."""
    return Secret(PREFIX + "".join([secrets.choice(_ALPHABET) for _ in range(RANDOM_LENGTH)]))


def is_api_key(text: str) -> bool:
    """Whether ``text`` has the shape of a key. Says nothing of whether there is such a key."""
    return len(text) == _LENGTH and text.startswith(PREFIX) and text.isascii() and text[len(PREFIX) :].isalnum()


def digest(text: str) -> bytes:
    """The SHA-256 by which the store knows a key: 32 bytes. Takes whatever a header may hold."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def last_four(key: Secret) -> str:
    """The end of a key, by which its owner recognises it. Empty for a key so short that four characters matter."""
    text = key.reveal()
    return text[-_SHOWN:] if len(text) >= _MIN_LENGTH_SHOWN else ""
