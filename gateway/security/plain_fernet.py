"""Reading secrets that were sealed without a vault: Fernet under a key that PBKDF2 made of a password.

For taking in what such a scheme left, once. It has one salt for all, no version, and no place that a secret belongs to.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet, InvalidToken

from gateway.contract import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

_SALT_FORMS: dict[str, Callable[[str], bytes]] = {
    "hex": bytes.fromhex,
    "base64": lambda text: base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True),
    "text": str.encode,
}


def parse_salt(value: object) -> bytes:
    """``hex:00ff…``, ``base64:…`` (either alphabet) or ``text:…`` (as UTF-8). Raises ValueError.

    There is no guessing: ``cafe`` is two bytes in hexadecimal, three in base 64 and four as text, and a wrong salt only
    shows as a password that seems wrong.
    """
    form, colon, text = str(value).partition(":")
    if not colon or form not in _SALT_FORMS:
        raise ValueError("say how the salt is written: hex:…, base64:… or text:…")
    try:
        salt = _SALT_FORMS[form](text)
    except ValueError:
        raise ValueError(f"what stands behind {form}: is not {form}") from None
    if not salt:
        raise ValueError("the salt is empty")
    return salt


class PlainFernet:
    """Opens tokens of that scheme. Making one holds a thread for as long as PBKDF2 takes for ``iterations``."""

    def __init__(self, password: Secret, *, salt: bytes, iterations: int) -> None:
        key = hashlib.pbkdf2_hmac("sha256", password.reveal().encode(), salt, iterations, 32)
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    def open(self, token: str) -> Secret | None:
        """The secret, however old its token; None where it does not open, or holds nothing that could be a secret."""
        try:
            text = self._fernet.decrypt(token.encode()).decode().strip()
        except (InvalidToken, UnicodeError):
            return None
        return Secret(text) if text else None
