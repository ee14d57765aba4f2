"""The proof of a chain's order, and what the rim around each layer does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from aiohttp import ClientSession, web

from gateway.chain import Layer, prove
from gateway.contract import ANONYMOUS, CREDENTIAL, MODEL, PRINCIPAL, Plugin, Refusal, Relay
from gateway.testing import running_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from multidict import CIMultiDictProxy

    from gateway.contract import Handler, Requirement


def layer(
    name: str = "x",
    *,
    needs: tuple[Requirement, ...] = (),
    provides: tuple[Requirement, ...] = (),
    terminal: bool = False,
    on_error: Any = "closed",
) -> Layer:
    """A layer that only declares."""
    made = Plugin.__new__(Plugin)
    made.needs = lambda: frozenset(needs)  # type: ignore[method-assign]
    made.provides = lambda: frozenset(provides)  # type: ignore[method-assign]
    made.terminal = terminal  # type: ignore[misc]
    return Layer(name, made, on_error)


END = layer("end", terminal=True)


def faults(*layers: Layer) -> list[str]:
    """What is wrong with the order."""
    return [f"{index}: {words}" for index, words in prove(layers)]


def test_a_chain_that_works_has_no_faults() -> None:
    """Needs met by what stands before."""
    assert faults(layer(provides=(PRINCIPAL,)), layer(needs=(PRINCIPAL,), provides=(CREDENTIAL,)), END) == []


def test_a_need_that_nobody_met() -> None:
    """F60: a limit by key before the authentication does not start."""
    found = faults(layer("rate_limit", needs=(PRINCIPAL,)), layer("api_key_auth", provides=(PRINCIPAL,)), END)
    assert found == ["0: rate_limit needs PRINCIPAL, and no layer before it provides that"]


def test_a_layer_that_may_be_skipped_proves_nothing() -> None:
    """With ``on_error: open`` a layer provides nothing to the proof."""
    assert faults(layer(provides=(PRINCIPAL,), on_error="open"), layer(needs=(PRINCIPAL,)), END) != []


@pytest.mark.parametrize(
    ("provided", "needed", "met"),
    [
        (PRINCIPAL, PRINCIPAL | ANONYMOUS, True),
        (PRINCIPAL | ANONYMOUS, PRINCIPAL | ANONYMOUS, True),
        (PRINCIPAL | ANONYMOUS, PRINCIPAL, False),
        (PRINCIPAL | MODEL, PRINCIPAL | ANONYMOUS, False),
    ],
)
def test_alternatives(provided: Requirement, needed: Requirement, met: bool) -> None:
    """`A` implies `A | B`; `A | B` implies neither `A` nor `A | C`."""
    assert (faults(layer(provides=(provided,)), layer(needs=(needed,)), END) == []) is met


def test_a_fact_has_one_source() -> None:
    """Two layers that say who is calling would have to agree."""
    assert faults(layer("a", provides=(PRINCIPAL,)), layer("b", provides=(PRINCIPAL,)), END) == [
        "1: b provides PRINCIPAL, which a has provided already"
    ]


def test_a_chain_ends_with_the_one_layer_that_ends_it() -> None:
    """F60: nothing behind the forwarder, and a forwarder at the end."""
    assert faults(END, layer("late", terminal=True)) == [
        "0: end answers every request: no layer after it would ever run; move it to the end"
    ]
    assert faults(layer("last")) == [
        "0: the chain ends here, but last passes requests on; end the chain with a terminal layer"
    ]


# ── The rim, on a real socket ────────────────────────────────────────────────────────────────────────────────────────

CHAIN = """
listeners:
  public: {{bind: "127.0.0.1:0"}}
store: ${{STORE}}
state: memory://
vault: {{master_key: "${{GATEWAY_MASTER_KEY}}"}}
upstreams: {{}}
log_level: error
routes:
  - name: test
    listener: public
    path: /
    chain:
{layers}
      - {{use: "gateway.testing:Echo"}}
"""


async def answer_of(folder: Path, *layers: str) -> tuple[int, CIMultiDictProxy[str], str]:
    """What a client gets from a chain of these entries before an echo."""
    yaml = CHAIN.format(layers="\n".join(f"      - {layer}" for layer in layers))
    async with running_gateway(yaml, folder) as live, ClientSession() as client, client.get(live.url("/x")) as answer:
        return answer.status, answer.headers, await answer.text()


def here(name: str, on_error: str | None = None) -> str:
    """A chain entry for a layer of this file."""
    return f'{{use: "{__name__}:{name}"{f", on_error: {on_error}" if on_error else ""}}}'


class Outer(Plugin):
    """Dresses whatever comes from inside."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Add a header."""
        response = await handler(request)
        response.headers["x-outer"] = str(response.status)
        return response


class Refuses(Plugin):
    """Refuses."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse."""
        raise Refusal(403, "endpoint_not_allowed", "Not you.")


class Fails(Plugin):
    """Fails on the way in."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Fail."""
        raise ValueError("the secret inside")


class FailsLate(Plugin):
    """Fails on the way out."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Fail."""
        await handler(request)
        raise ValueError("the secret inside")


class Splits(Plugin):
    """Sets a header that would be two."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Try."""
        response = await handler(request)
        response.headers["x-split"] = "a\r\nSet-Cookie: stolen=1"
        return response


class Writes(Plugin):
    """Writes to the client by itself."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Try."""
        response = web.StreamResponse()
        await response.prepare(request)
        return response


class Nothing(Plugin):
    """Forgets to answer."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Return what is no response."""
        return None  # type: ignore[return-value]


class Promises(Plugin):
    """Promises a fact that it does not set."""

    def provides(self) -> frozenset[Requirement]:
        """A lie."""
        return frozenset({PRINCIPAL})

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Go on without it."""
        return await handler(request)


class Breaks(Plugin):
    """Streams half an answer."""

    terminal: ClassVar[bool] = True

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Break off."""

        async def body() -> AsyncIterator[bytes]:
            yield b"half"
            raise ValueError("the secret inside")

        return Relay(headers={"content-type": "text/plain"}, body=body())


class Watches(Plugin):
    """Observes the answer, and fails at it."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Tap."""
        response = await handler(request)
        assert isinstance(response, web.Response)
        relay = Relay(headers={"content-type": "text/plain"}, whole=b"intact")
        relay.tap(self._fail)
        return relay

    def _fail(self, chunk: bytes) -> None:
        raise ValueError(chunk)


@web.middleware
async def foreign(request: web.Request, handler: Handler) -> web.StreamResponse:
    """An aiohttp middleware that knows nothing of gateways."""
    body = await request.read()
    response = await handler(request)
    response.headers["x-foreign"] = str(len(body))
    return response


@web.middleware
async def forbidding(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Another, that refuses as aiohttp does."""
    raise web.HTTPForbidden(text="no")


async def test_a_refusal_is_seen_by_the_layers_around_it(tmp_path: Path) -> None:
    """It is rendered at the boundary of the layer that raised it, and names that layer."""
    status, headers, body = await answer_of(tmp_path, here("Outer"), here("Refuses"))
    assert (status, headers["x-outer"]) == (403, "403")
    assert headers["x-gateway-error"] == f"{__name__}:Refuses"
    assert headers["x-should-retry"] == "false"
    assert '"code":"endpoint_not_allowed"' in body.replace(" ", "")


async def test_a_fault_fails_closed_and_says_nothing(tmp_path: Path) -> None:
    """F55: 500 with an id, no exception text, and the outer layers still dress it."""
    status, headers, body = await answer_of(tmp_path, here("Outer"), here("Fails"))
    assert (status, headers["x-outer"]) == (500, "500")
    assert "gateway_plugin_error" in body
    assert "secret" not in body + str(headers)
    assert headers["x-request-id"] in body


@pytest.mark.parametrize("name", ["Fails", "FailsLate"])
async def test_on_error_open_goes_on_without_the_layer(tmp_path: Path, name: str) -> None:
    """The operator's explicit choice: before or after the handler, the rest of the chain counts."""
    status, _, body = await answer_of(tmp_path, here(name, "open"))
    assert status == 200
    assert '"target": "/x"' in body


@pytest.mark.parametrize("name", ["FailsLate", "Splits", "Writes", "Nothing", "Promises"])
async def test_what_must_not_be_sent_is_a_fault(tmp_path: Path, name: str) -> None:
    """F56, and its kin: a header with a line break, an answer already written, none at all, a broken promise."""
    status, headers, body = await answer_of(tmp_path, here("Outer"), here(name))
    assert status == 500
    assert headers["x-gateway-error"] == f"{__name__}:{name}"
    assert "Set-Cookie" not in headers
    assert "secret" not in body


async def test_a_foreign_middleware_is_a_layer(tmp_path: Path) -> None:
    """``use: "module:middleware"``; what it reads of the body is still there for the layers after it."""
    status, headers, _ = await answer_of(tmp_path, here("foreign"))
    assert (status, headers["x-foreign"]) == (200, "0")


async def test_a_foreign_middlewares_refusal_is_an_answer(tmp_path: Path) -> None:
    """``web.HTTPException`` is not a fault."""
    status, _, body = await answer_of(tmp_path, here("forbidding"))
    assert (status, body) == (403, "no")


async def test_a_failing_observer_is_detached(tmp_path: Path) -> None:
    """A tap can neither delay nor change nor break what it looks at."""
    status, _, body = await answer_of(tmp_path, here("Watches"))
    assert (status, body) == (200, "intact")
