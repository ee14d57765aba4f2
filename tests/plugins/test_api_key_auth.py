"""The layer ``api_key_auth``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from gateway.contract import EXCHANGE, PRINCIPAL

if TYPE_CHECKING:
    from gateway.contract import Handler
    from tests.plugins.conftest import Answer, World

ECHO = "gateway.testing:Echo"
UNKNOWN = "gw_" + "A1" * 16


@web.middleware
async def who(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell who is calling, as the layers further in see it."""
    response = await handler(request)
    response.headers["x-who"] = request[EXCHANGE][PRINCIPAL].id
    return response


async def ask(world: World, *headers: tuple[str, str], path: str = "/x") -> Answer:
    """One request with these headers."""
    async with world.serve("api_key_auth", f"{__name__}:who", ECHO) as get:
        return await get("GET", path, *headers)


def slots(key: str) -> dict[str, tuple[str, str]]:
    """Every place that a key may stand in."""
    return {
        "bearer": ("Authorization", f"Bearer {key}"),
        "any case": ("Authorization", f"bearer   {key}"),
        "anthropic": ("x-api-key", key),
        "azure": ("api-key", key),
        "browser": ("Sec-WebSocket-Protocol", f"realtime, openai-insecure-api-key.{key}, openai-beta.realtime-v1"),
    }


@pytest.mark.parametrize("slot", slots(""))
async def test_a_good_key_in_every_slot(world: World, slot: str) -> None:
    """A key that the gateway issued is who its principal is, in each documented slot."""
    key = world.new_key(id="key_7")
    answer = await ask(world, slots(key)[slot])
    assert (answer.status, answer.headers["x-who"]) == (200, "key_7")


async def test_the_same_key_in_several_slots(world: World) -> None:
    """SDKs that send their key twice are served."""
    key = world.new_key()
    several = slots(key)
    del several["any case"]
    assert (await ask(world, *several.values())).status == 200


@pytest.mark.parametrize("first", slots(""))
@pytest.mark.parametrize("second", slots(""))
async def test_two_different_credentials_are_refused(world: World, first: str, second: str) -> None:
    """F72: with two different credentials nobody can say which one was meant; repeated headers included."""
    answer = await ask(world, slots(world.new_key())[first], slots(world.new_key())[second])
    assert (answer.status, answer.error["code"]) == (400, "bad_request")
    assert world.keys.asked == 0


async def test_a_good_key_does_not_hide_another_scheme(world: World) -> None:
    """F72: a Basic credential beside a key is a different credential."""
    answer = await ask(world, ("x-api-key", world.new_key()), ("Authorization", "Basic dTpw"))
    assert answer.status == 400


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("Authorization", "Bearer "),),
        (("Authorization", ""),),
        (("x-api-key", " "),),
        (("Sec-WebSocket-Protocol", "realtime"),),
        (("x-goog-api-key", UNKNOWN),),
        (("Cookie", f"key={UNKNOWN}"),),
    ],
)
async def test_no_key(world: World, headers: tuple[tuple[str, str], ...]) -> None:
    """Without a credential in a documented slot the answer says which header is missing."""
    answer = await ask(world, *headers, path="/x?key=AIzaSyNotOurs")
    assert (answer.status, answer.error["code"]) == (401, "missing_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.error["type"] == "invalid_request_error"


BAD = [
    UNKNOWN,
    "gw_short",
    "sk-proj-abc",
    UNKNOWN + "x",
    UNKNOWN.replace("gw_", "GW_"),
    "gw_" + "é" * 32,
    "' OR 1=1 --",
]


@pytest.mark.parametrize("key", BAD)
async def test_every_bad_key_has_one_answer(world: World, key: str) -> None:
    """Unknown, revoked and misshapen keys cannot be told apart by their answer."""
    answer = await ask(world, ("x-api-key", key))
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert answer.error == {
        "message": "Incorrect API key provided.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }


@pytest.mark.parametrize("key", BAD[1:])
async def test_a_misshapen_key_never_reaches_the_store(world: World, key: str) -> None:
    """What cannot be a key costs no look-up."""
    await ask(world, ("Authorization", f"Bearer {key}"))
    assert world.keys.asked == 0


async def test_the_store_is_away(world: World) -> None:
    """F44: a key that cannot be checked is neither good nor bad: 503, and come again in a second."""
    key = world.new_key()
    world.keys.away = True
    answer = await ask(world, ("Authorization", f"Bearer {key}"))
    assert (answer.status, answer.error["code"]) == (503, "auth_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert b"db.internal" not in answer.body
    assert any("db.internal" in line for line in world.log.lines)


async def test_no_key_is_ever_repeated(world: World) -> None:
    """F73, F74: whatever becomes of a request, its key is in no answer and in no log line."""
    good = world.new_key()
    answers = [await ask(world, slot) for slot in slots(UNKNOWN).values()]
    answers.append(await ask(world, ("x-api-key", good), ("api-key", UNKNOWN)))
    world.keys.away = True
    answers.append(await ask(world, ("x-api-key", good)))
    told = "".join(f"{answer.headers} {answer.body!r}" for answer in answers) + "".join(world.log.lines)
    assert good not in told
    assert UNKNOWN not in told
