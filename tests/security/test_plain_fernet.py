"""gateway.security.plain_fernet."""

from __future__ import annotations

import base64

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import Secret
from gateway.security.plain_fernet import PlainFernet, parse_salt

PASSWORD, SALT, ITERATIONS = "a master password ü", b"salt\x00\xff", 1000


class KeyVault:
    """The scheme that the tokens come from, as it was written down: only its salt and its rounds are parameters."""

    def __init__(self, master_password: str, salt: bytes = SALT, iterations: int = ITERATIONS) -> None:
        kdf = PBKDF2HMAC(algorithm=hashes.SHA256(), length=32, salt=salt, iterations=iterations)
        key = base64.urlsafe_b64encode(kdf.derive(master_password.encode()))
        self.cipher = Fernet(key)

    def encrypt(self, plaintext: str) -> bytes:
        """A token."""
        return self.cipher.encrypt(plaintext.encode())


THEIRS = KeyVault(PASSWORD)
OURS = PlainFernet(Secret(PASSWORD), salt=SALT, iterations=ITERATIONS)


@given(st.text(min_size=1).filter(str.strip))
def test_what_the_old_scheme_sealed_is_opened(secret: str) -> None:
    """Any text, without the blanks around it, which no provider's key has."""
    opened = OURS.open(THEIRS.encrypt(secret).decode())
    assert opened is not None
    assert opened.reveal() == secret.strip()


def test_an_old_token_is_opened() -> None:
    """However long ago it was made."""
    opened = OURS.open(THEIRS.cipher.encrypt_at_time(b"sk-old", current_time=0).decode())
    assert opened is not None
    assert opened.reveal() == "sk-old"


GOOD = THEIRS.encrypt("sk-planted").decode()


@pytest.mark.parametrize(
    "token",
    [
        KeyVault("another").encrypt("sk-planted").decode(),
        KeyVault(PASSWORD, salt=b"another").encrypt("sk-planted").decode(),
        KeyVault(PASSWORD, iterations=ITERATIONS + 1).encrypt("sk-planted").decode(),
        GOOD[:-1],
        GOOD[:20] + ("A" if GOOD[20] != "A" else "B") + GOOD[21:],
        THEIRS.encrypt(" ").decode(),
        THEIRS.cipher.encrypt(b"\xff\xfe").decode(),
        "",
        "no token",
        "\N{SNOWMAN}",
        "\ud800",
    ],
)
def test_what_does_not_open_is_none(token: str) -> None:
    """Another password, salt or number of rounds, a cut or changed token, nothing inside, no text inside, no token."""
    assert OURS.open(token) is None


@pytest.mark.parametrize(
    ("written", "salt"),
    [
        ("hex:00ff", b"\x00\xff"),
        ("base64:AP+/", b"\x00\xff\xbf"),
        ("base64:AP-_", b"\x00\xff\xbf"),
        ("text:cafe", b"cafe"),
        ("text:hex:00", b"hex:00"),
        ("text:ü", b"\xc3\xbc"),
    ],
)
def test_a_salt_says_how_it_is_written(written: str, salt: bytes) -> None:
    """Hexadecimal, either base 64, or text as UTF-8."""
    assert parse_salt(written) == salt


@pytest.mark.parametrize("written", ["cafe", "", "hex:0", "hex:xy", "hex:", "base64:A", "base64:ü", "HEX:00", "text:"])
def test_a_salt_that_could_be_anything_is_refused(written: str) -> None:
    """There is no guessing: the wrong one of three would look like a wrong password."""
    with pytest.raises(ValueError, match=r"salt|is not"):
        parse_salt(written)
