"""gateway.store.credentials."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from gateway.contract import Secret
from gateway.errors import CannotOpen, StoreUnavailable, VaultError
from gateway.security.keys import digest, new_api_key
from gateway.security.masking import Masker
from gateway.security.passwords import Passwords
from gateway.security.vault import KeyVault, new_master_key
from gateway.store.audit import PURPOSE
from gateway.store.credentials import ProviderKeys, seal
from gateway.store.store import Store

if TYPE_CHECKING:
    from conftest import HeldClock, KeptLog, SqliteFile

    from gateway.store import SealedKey

OPENAI, MIRROR = "https://api.openai.com", "https://mirror.example.com:8443"
MASTER = new_master_key()
VAULT, RECORD = KeyVault.create(MASTER)


def sealed(upstream: str, key: str, origin: str = OPENAI, vault: KeyVault = VAULT) -> SealedKey:
    """A provider's key as the command stores it."""
    return seal(vault, Secret(key), upstream=upstream, origin=origin, added_by="ada", added=1.0)


@pytest.fixture
def masker() -> Masker:
    """A masker that knows nothing yet."""
    return Masker()


@pytest.fixture
def keys(masker: Masker, log: KeptLog) -> ProviderKeys:
    """Provider keys over the vault that seals them."""
    return ProviderKeys(VAULT, masker, unlock=partial(KeyVault.unlock, MASTER), log=log)


async def test_a_stored_key_is_given_for_its_upstream(store: Store, keys: ProviderKeys) -> None:
    """What was sealed and stored is opened for the upstream and the origin that it was stored for."""
    await store.provider_keys.put(sealed("openai", "sk-planted-provider-key"))
    await keys.reload(store)
    assert keys.credential("openai", OPENAI).reveal() == "sk-planted-provider-key"
    assert keys.unhealthy() == {}


async def test_a_key_is_never_given_for_another_origin(store: Store, keys: ProviderKeys) -> None:
    """An edit of base_url does not send the key to another host; the words name both and the remedy."""
    await store.provider_keys.put(sealed("openai", "sk-planted-provider-key"))
    await keys.reload(store)
    with pytest.raises(CannotOpen, match=f"{OPENAI} and is not sent to {MIRROR}.*provider-key set openai"):
        keys.credential("openai", MIRROR)


async def test_an_edit_of_the_row_moves_no_key(store: Store, keys: ProviderKeys) -> None:
    """F68: who writes another origin or another upstream's name into the row gets a key that cannot be opened."""
    row = sealed("openai", "sk-planted-provider-key")
    await store.provider_keys.put(replace(row, origin=MIRROR))
    await store.provider_keys.put(replace(row, upstream="other"))
    await keys.reload(store)
    for upstream, origin in (("openai", MIRROR), ("other", OPENAI)):
        with pytest.raises(CannotOpen):
            keys.credential(upstream, origin)


async def test_a_damaged_row_fails_alone_and_is_shown(store: Store, keys: ProviderKeys, log: KeptLog) -> None:
    """F68: swapped and damaged rows are unhealthy, each by name with a reason, logged once; the others work."""
    good, left, right = (sealed(name, f"sk-planted-key-of-{name}") for name in ("good", "left", "right"))
    await store.provider_keys.put(good)
    await store.provider_keys.put(replace(left, ciphertext=right.ciphertext))
    await store.provider_keys.put(replace(right, ciphertext=right.ciphertext[:-1]))
    await keys.reload(store)
    assert keys.credential("good", OPENAI).reveal() == "sk-planted-key-of-good"
    assert set(keys.unhealthy()) == {"left", "right"}
    for upstream in ("left", "right"):
        with pytest.raises(CannotOpen, match=upstream):
            keys.credential(upstream, OPENAI)
    await keys.reload(store)
    assert [event.split()[0] for event in log.events] == ["credential_unhealthy"] * 2
    assert "planted" not in str(keys.unhealthy()) + str(log.events)


async def test_another_vaults_key_is_unhealthy(store: Store, keys: ProviderKeys) -> None:
    """F68: a row that was sealed by another vault is shown, not silently absent."""
    await store.provider_keys.put(sealed("openai", "sk-planted", vault=KeyVault.create(MASTER)[0]))
    await keys.reload(store)
    assert set(keys.unhealthy()) == {"openai"}


async def test_no_key_is_told_with_the_remedy(store: Store, keys: ProviderKeys) -> None:
    """An upstream without a key says which command stores one."""
    await keys.reload(store)
    with pytest.raises(VaultError, match="gateway provider-key set openai"):
        keys.credential("openai", OPENAI)


async def test_a_reload_takes_new_keys_and_forgets_removed_ones(store: Store, keys: ProviderKeys) -> None:
    """What is in the store is what is given, from the reload on."""
    await store.provider_keys.put(sealed("openai", "sk-planted-old-key"))
    await keys.reload(store)
    await store.provider_keys.put(sealed("openai", "sk-planted-new-key"))
    assert keys.credential("openai", OPENAI).reveal() == "sk-planted-old-key"
    await keys.reload(store)
    assert keys.credential("openai", OPENAI).reveal() == "sk-planted-new-key"
    await store.provider_keys.remove("openai")
    await keys.reload(store)
    with pytest.raises(VaultError):
        keys.credential("openai", OPENAI)


async def test_opened_keys_are_masked(store: Store, keys: ProviderKeys, masker: Masker) -> None:
    """F73: from the reload on, a provider's key is masked by value wherever it is written."""
    await store.provider_keys.put(sealed("openai", "planted.provider.key"))
    await keys.reload(store)
    assert masker.mask("provider said: planted.provider.key is wrong") == "provider said: *** is wrong"


async def test_keys_stay_while_the_store_is_away(file: SqliteFile, clock: HeldClock, keys: ProviderKeys) -> None:
    """F44: a reload that cannot be done keeps what it had, and says so."""
    async with Store.open(file.url, clock=clock, create=True) as store:
        await store.provider_keys.put(sealed("openai", "sk-planted-provider-key"))
    async with Store.open(file.url, clock=clock, deadline_s=0.1) as store:
        file.without_write_ahead_log()
        await keys.reload(store)
        with file.locked(), pytest.raises(StoreUnavailable):
            await keys.reload(store)
    assert keys.credential("openai", OPENAI).reveal() == "sk-planted-provider-key"


async def test_no_secret_lies_in_the_files_of_a_store(file: SqliteFile, clock: HeldClock) -> None:
    """F73: the raw files hold no client or provider key, password, master key or data key, however spelled."""
    master, client, provider = new_master_key(), new_api_key(), Secret("sk-planted-provider-key-0123456789")
    password = Secret("planted-password-of-ada")
    vault, record = KeyVault.create(master)
    async with Store.open(file.url, clock=clock, create=True) as store, Passwords(cost=4) as passwords:
        await store.vault.create(record)
        user = await store.users.create("ada@example.com", await passwords.hash(password), "admin")
        made = await store.api_keys.create(client, name="n", owner=user.id)
        await store.api_keys.rotate(made.id, new_api_key(), overlap_s=60)
        await store.provider_keys.put(seal(vault, provider, upstream="openai", origin=OPENAI, added_by="a", added=1.0))
        await store.provider_keys.put(seal(vault, provider, upstream="openai", origin=MIRROR, added_by="a", added=1.0))
        await store.audit(vault.derive(PURPOSE)).append("ada", "provider-key.set", "openai")
        while_open = b"".join(path.read_bytes() for path in file.path.parent.iterdir())
    written = while_open + file.path.read_bytes()
    assert digest(client.reveal()) in written
    masker = Masker()
    masker.register(master, client, provider, password)
    assert masker.mask(written.decode("latin-1")) == written.decode("latin-1")
    for raw in (*vault._ring.data_keys.values(), vault._ring.lasting, vault.derive(PURPOSE)):
        assert raw not in written
