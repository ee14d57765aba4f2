"""The layer ``vault``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pytest
from aiohttp import web

from gateway.contract import ANONYMOUS, CREDENTIAL, EXCHANGE, PRINCIPAL, Plugin
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.contract import Handler, Requirement
    from tests.plugins.conftest import World

IDENTIFY = "gateway.testing:Identify"
SECRET = "sk-provider-canary"


@dataclass
class Provider:
    """An upstream as the contract has it."""

    name: str = "openai"
    origin: str = "https://api.openai.com"
    dialect: str = "openai"
    needs_credential: bool = True


class Spend(Plugin):
    """Ends a chain: asks for the key of the upstream that the request names, as a forwarding layer does."""

    terminal: ClassVar[bool] = True

    def needs(self) -> frozenset[Requirement]:
        """Where the key comes from."""
        return frozenset({CREDENTIAL})

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Ask; tell how long the key is, and how its source shows itself."""
        source = request[EXCHANGE][CREDENTIAL]
        secret = source.credential_for(Provider(origin=request.query.get("origin", Provider.origin)))
        return web.json_response({"length": len(secret.reveal()), "shown": f"{source!r} {source} {secret!r}"})


class Anonymous(Plugin):
    """Knows that the caller is nobody."""

    def provides(self) -> frozenset[Requirement]:
        """Not who is calling: only that it may be nobody."""
        return frozenset({PRINCIPAL | ANONYMOUS})


async def test_the_key_is_for_its_origin(world: World) -> None:
    """The source gives the upstream's key for its configured origin, and shows nothing of it."""
    world.sealed.known["openai", Provider.origin] = SECRET
    async with world.serve(IDENTIFY, "vault", f"{__name__}:Spend") as get:
        answer = await get()
    assert answer.json["length"] == len(SECRET)
    assert SECRET not in answer.json["shown"]


@pytest.mark.parametrize("path", ["/x", "/x?origin=https://evil.example"])
async def test_no_key_is_a_503_without_words(world: World, path: str) -> None:
    """F68, F73: a key that is not there, or not for this origin, is a 503; why is in the log alone."""
    if "evil" in path:
        world.sealed.known["openai", Provider.origin] = SECRET
    async with world.serve(IDENTIFY, "vault", f"{__name__}:Spend") as get:
        answer = await get("GET", path)
    assert (answer.status, answer.error["code"]) == (503, "credential_unavailable")
    assert b"seal" not in answer.body
    assert any("the seal is broken" in line for line in world.log.lines)


@pytest.mark.parametrize("before", [[], [f"{__name__}:Anonymous"]])
async def test_nobody_spends_the_providers_key(world: World, before: list[str]) -> None:
    """A chain that hands a provider's key to a request that nothing authenticated does not start."""
    with pytest.raises(ConfigError, match="vault needs PRINCIPAL"):
        async with world.serve(*before, "vault", f"{__name__}:Spend"):
            pass
