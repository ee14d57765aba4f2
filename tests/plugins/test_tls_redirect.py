"""The layer ``tls_redirect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import encode_basic_auth
from pydantic import ValidationError

from gateway.security.keys import new_api_key

if TYPE_CHECKING:
    from tests.plugins.conftest import Answer, Client, World

HERE = {"tls_redirect": {"to": "https://gateway.example.com"}}
ECHO = "gateway.testing:Echo"


async def over_plain(client: Client, method: str, path: str, *headers: tuple[str, str], **more: object) -> Answer:
    """A request whose redirects the test wants to see."""
    return await client(method, path, *headers, allow_redirects=False, **more)


def assert_refused(answer: Answer) -> None:
    """What everything that should not have come in clear gets."""
    assert answer.status == 403
    assert answer.error["code"] == "insecure_transport"
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["connection"] == "close"
    assert "location" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_browsers_are_redirected(world: World, method: str) -> None:
    """A plain GET or HEAD goes to the configured host with path and query, whatever Host it names."""
    async with world.serve(HERE) as client:
        answer = await over_plain(client, method, "/a%20b?x=1&y=2", ("Host", "evil.example"))
    assert (answer.status, answer.headers["location"]) == (308, "https://gateway.example.com/a%20b?x=1&y=2")


SLOTS = {
    "bearer": ("Authorization", "Bearer {}"),
    "bare": ("Authorization", "{}"),
    "x-api-key": ("x-api-key", "{}"),
    "azure": ("api-key", "{}"),
    "google": ("x-goog-api-key", "{}"),
    "proxy": ("Proxy-Authorization", "Basic {}"),
    "cookie": ("Cookie", "theme=dark; session={}"),
    "browser": ("Sec-WebSocket-Protocol", "realtime, openai-insecure-api-key.{}"),
}


@pytest.mark.parametrize("slot", SLOTS)
async def test_a_key_in_any_slot_is_refused_and_told_of(world: World, slot: str) -> None:
    """F72, F73: the client learns that its key was exposed, the operator which one, by id; nobody sees the key."""
    key = world.new_key(id="key_of_alice")
    name, value = SLOTS[slot]
    async with world.serve(HERE) as client:
        answer = await over_plain(client, "GET", "/", (name, value.format(key)))
    assert_refused(answer)
    (line,) = [line for line in world.log.lines if "key exposed" in line]
    assert "'key': 'key_of_alice'" in line
    assert key not in "".join(world.log.lines) + str(answer)
    assert b'gateway_keys_exposed_total{known="yes",listener="public"} 1.0' in world.metrics.render()


@pytest.mark.parametrize("path", ["/?key={}", "/?a=b&c={}", "/?x=%67%77_{1}"])
async def test_a_key_in_the_query_is_told_of_too(world: World, path: str) -> None:
    """F72: the guard refuses a key in a query before any layer sees it; the operator hears of it all the same."""
    key = world.new_key(id="key_of_bob")
    async with world.serve(HERE) as client:
        answer = await over_plain(client, "GET", path.format(key, key[3:]))
    assert answer.status == 400
    assert "location" not in answer.headers
    assert "'key': 'key_of_bob'" in "".join(world.log.lines)
    assert key[3:] not in "".join(world.log.lines) + str(answer)


async def test_a_key_in_the_path_is_not_carried_on(world: World) -> None:
    """A redirect would repeat it, in a header of ours."""
    async with world.serve(HERE) as client:
        assert_refused(await over_plain(client, "GET", f"/files/{world.new_key()}"))
    assert b'known="yes"' in world.metrics.render()


@pytest.mark.parametrize("path", ["/?key=AIzaSy", "/?API_KEY=x", "/?access_token=x", "/?a=1&token=x"])
async def test_a_foreign_key_in_the_query_is_refused(world: World, path: str) -> None:
    """A key need not be ours to have been exposed."""
    async with world.serve(HERE) as client:
        assert_refused(await over_plain(client, "GET", path))
    assert b'known="no"' in world.metrics.render()


async def test_a_key_that_is_not_known(world: World) -> None:
    """A key that does not work is told of without an id; so is a password, which is not looked up at all."""
    async with world.serve(HERE) as client:
        assert_refused(await over_plain(client, "GET", "/", ("x-api-key", new_api_key().reveal())))
        assert_refused(await over_plain(client, "GET", "/", ("Authorization", encode_basic_auth("u", "p"))))
    assert world.keys.asked == 1
    assert b'gateway_keys_exposed_total{known="no",listener="public"} 2.0' in world.metrics.render()


async def test_a_key_while_the_store_is_away(world: World) -> None:
    """F44: nobody can say whose it is; it is refused and told of all the same."""
    world.keys.away = True
    async with world.serve(HERE) as client:
        assert_refused(await over_plain(client, "GET", "/", ("x-api-key", new_api_key().reveal())))
    assert b'known="unchecked"' in world.metrics.render()


async def test_one_request_writes_few_lines(world: World) -> None:
    """A hundred keys in one request are refused once, and a handful is looked up."""
    cookie = "; ".join(f"c{n}={new_api_key().reveal()}" for n in range(100))
    async with world.serve(HERE) as client:
        assert_refused(await over_plain(client, "GET", "/", ("Cookie", cookie)))
    assert world.keys.asked <= 4
    assert sum("key exposed" in line for line in world.log.lines) <= 4


async def test_a_strangers_cookie_is_no_credential(world: World) -> None:
    """A browser brings cookies of other sites' making; it is redirected all the same. So is an empty header."""
    async with world.serve(HERE) as client:
        answer = await over_plain(client, "GET", "/", ("Cookie", "theme=dark; _ga=GA1.1"), ("Authorization", ""))
    assert answer.status == 308


@pytest.mark.parametrize(
    ("method", "more"), [("POST", {"data": b"{}"}), ("GET", {"data": b"{}"}), ("POST", {}), ("DELETE", {})]
)
async def test_what_no_browser_follows_is_refused(world: World, method: str, more: dict[str, bytes]) -> None:
    """A body is not invited to come again in clear, and other methods are no browser's."""
    async with world.serve(HERE) as client:
        assert_refused(await over_plain(client, method, "/v1/chat/completions", **more))
    assert "key exposed" not in "".join(world.log.lines)


async def test_what_came_over_tls_passes(world: World) -> None:
    """In front of other layers, behind a proxy that ends TLS: its word is taken, a stranger's is not."""
    said = ("X-Forwarded-Proto", "https")
    async with world.serve(HERE, ECHO, trusted=("127.0.0.0/8",)) as client:
        assert (await over_plain(client, "GET", "/", said)).status == 200
        assert (await over_plain(client, "GET", "/", ("X-Forwarded-Proto", "http"))).status == 308
        assert (await over_plain(client, "GET", "/")).status == 308
    async with world.serve(HERE, ECHO) as client:
        assert (await over_plain(client, "GET", "/", said)).status == 308


async def test_alone_it_does_not_send_tls_in_circles(world: World) -> None:
    """A proxy that ends TLS and comes here with it by mistake finds nothing, rather than itself."""
    async with world.serve(HERE, trusted=("127.0.0.0/8",)) as client:
        answer = await over_plain(client, "GET", "/", ("X-Forwarded-Proto", "https"))
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")


@pytest.mark.parametrize(
    "to",
    [
        "http://gateway.example.com",
        "https://gateway.example.com/",
        "https://user@gateway.example.com",
        "https://gateway.example.com?x",
        "https://",
        "https://a b",
        "https://gateway.example.com:0",
        "gateway.example.com",
        "https://gateway.example.com\r\nX: y",
    ],
)
def test_only_an_origin_is_taken(to: str, plugin_config: object) -> None:
    """Where it leads is HTTPS, and a host and a port at most."""
    with pytest.raises(ValidationError, match=r"https://gateway\.example\.com"):
        plugin_config("tls_redirect", {"to": to})  # type: ignore[operator]
