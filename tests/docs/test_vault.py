"""What ``docs/vault.md`` shows works when pasted."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

TEXT = (Path(__file__).parents[2] / "docs" / "vault.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PASSWORD, SALT = "the old master password", "some salt"


def token(secret: str) -> str:
    """A provider key as the older scheme sealed it."""
    kdf = PBKDF2HMAC(algorithm=hashes.SHA256(), length=32, salt=SALT.encode(), iterations=100_000)
    return Fernet(base64.urlsafe_b64encode(kdf.derive(PASSWORD.encode()))).encrypt(secret.encode()).decode()


def test_every_command_runs_in_the_order_of_the_page(tmp_path: Path) -> None:
    """In a fresh gateway; afterwards it is under the new master key and holds the imported key."""
    (tmp_path / "old-keys.tsv").write_text(f"openai\t{token('sk-planted-key-of-old')}\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {"PATH": path, "HOME": str(tmp_path), "OLD_MASTER_PASSWORD": PASSWORD, "OLD_SALT": SALT}
    script = "\n".join(["set -e", "gateway init >made", *BLOCKS, "gateway provider-key list"])
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environ, check=True, capture_output=True, text=True)
    assert len(BLOCKS) == 4
    assert "Sealed 0 provider keys with data key 2." in done.stdout
    assert re.search(r"^openai +-old +https://api\.openai\.com", done.stdout, re.MULTILINE)
    assert (tmp_path / "new-master-key").read_text().strip() in (tmp_path / ".env").read_text()
