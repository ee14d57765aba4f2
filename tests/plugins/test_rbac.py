"""The layer ``rbac``."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from aiohttp import FormData
from pydantic import ValidationError
from yarl import URL

from gateway.contract import ANONYMOUS, EXCHANGE, MAY_USE, MODEL, PRINCIPAL, Plugin
from gateway.errors import ConfigError
from gateway.plugins.rbac import Rbac

if TYPE_CHECKING:
    from aiohttp import web

    from gateway.contract import Handler, Requirement
    from tests.plugins.conftest import Answer, Entry, World

ECHO = "gateway.testing:Echo"
CHAT = "/v1/chat/completions"
CHATTING = {"member": [f"POST {CHAT}", "GET /v1/models"]}


def identify(**principal: Any) -> Entry:
    """Stand in for an authentication."""
    return {"gateway.testing:Identify": principal}


def rbac(allow: dict[str, list[str]], models: dict[str, list[str]] | None = None, **more: Any) -> Entry:
    """The layer."""
    return {"rbac": {"allow": allow, **({"models": models} if models is not None else {}), **more}}


LIMITED = rbac({"member": ["* /v1/**"]}, {"member": ["gpt-5*", "o3"]})


class Nobody(Plugin):
    """Knows that the caller is nobody."""

    def provides(self) -> frozenset[Requirement]:
        """What an authentication with public routes provides."""
        return frozenset({PRINCIPAL | ANONYMOUS})

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Say so."""
        request[EXCHANGE][ANONYMOUS] = True
        return await handler(request)


class Tell(Plugin):
    """Tells what is known of the model."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """In headers."""
        response = await handler(request)
        response.headers["x-model"] = str(request[EXCHANGE].get(MODEL))
        may_use = request[EXCHANGE][MAY_USE]
        response.headers["x-may-use"] = " ".join(name for name in ("gpt-5", "o3", "o4") if may_use(name))
        return response


# ── Endpoints ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("allowed", "method", "path", "passes"),
    [
        ("POST /v1/chat/completions", "POST", "/v1/chat/completions", True),
        ("POST /v1/chat/completions", "POST", "/v1/chat/completions?x=/y", True),
        ("POST /v1/chat/completions", "GET", "/v1/chat/completions", False),
        ("POST /v1/chat/completions", "POST", "/v1/chat/completions/", False),
        ("POST /v1/chat/completions", "POST", "/v1/chat/completions/x", False),
        ("POST /v1/chat/completions", "POST", "/v1/Chat/completions", False),
        ("POST /v1/chat/completions", "POST", "/v1/chat/completion%73", False),
        ("POST /v1/chat.completions", "POST", "/v1/chat-completions", False),
        ("GET /v1/models", "GET", "/v1/models", True),
        ("GET /v1/models", "HEAD", "/v1/models", True),
        ("GET /v1/models", "OPTIONS", "/v1/models", False),
        ("HEAD /v1/models", "GET", "/v1/models", False),
        ("GET /v1/files/*", "GET", "/v1/files/f1", True),
        ("GET /v1/files/*", "GET", "/v1/files/f%201", True),
        ("GET /v1/files/*", "GET", "/v1/files", False),
        ("GET /v1/files/*", "GET", "/v1/files/", False),
        ("GET /v1/files/*", "GET", "/v1/files/f1/content", False),
        ("GET /v1/files/*/content", "GET", "/v1/files/f1/content", True),
        ("GET /v1/files/**", "GET", "/v1/files/f1/content", True),
        ("GET /v1/files/**", "GET", "/v1/files", False),
        ("GET /v1/files/**", "GET", "/v1/files2/f1", False),
        ("* /v1/embeddings", "DELETE", "/v1/embeddings", True),
        ("* /v1/embeddings", "DELETE", "/v1/models", False),
        ("* /**", "PATCH", "/", True),
    ],
)
async def test_a_line_of_the_matrix(world: World, allowed: str, method: str, path: str, passes: bool) -> None:
    """A method, and whole segments of the path as it was received; everything that no line names is refused."""
    async with (
        world.serve(identify(), rbac({"member": [allowed]}), ECHO) as get,
        get.session.request(method, URL(get.url + path, encoded=True)) as answer,
    ):
        assert (answer.status, answer.headers.get("x-gateway-error")) == ((200, None) if passes else (403, "rbac"))


async def test_the_refusal(world: World) -> None:
    """403 `endpoint_not_allowed`, a permission error that no SDK repeats, without the path."""
    async with (
        world.serve(identify(), rbac(CHATTING), ECHO) as get,
        openai.AsyncOpenAI(api_key="k", base_url=get.url + "/v1", max_retries=2) as client,
    ):
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await client.files.list()
        answer = await get("GET", "/v1/files")
    assert (caught.value.code, caught.value.type) == ("endpoint_not_allowed", "permission_error")
    assert answer.headers["x-should-retry"] == "false"
    assert b"files" not in answer.body


async def test_a_role_has_its_own_lines(world: World) -> None:
    """What one role may call says nothing of another's; a role without a line may call nothing."""
    matrix = rbac({"member": ["GET /mine"], "admin": ["GET /theirs"]})
    answers = {}
    for role in ("member", "admin", "viewer", "anonymous"):
        async with world.serve(identify(role=role), matrix, ECHO) as get:
            answers[role] = [(await get("GET", path)).status for path in ("/mine", "/theirs")]
    assert answers == {"member": [200, 403], "admin": [403, 200], "viewer": [403, 403], "anonymous": [403, 403]}


async def test_a_caller_who_is_nobody_has_the_role_anonymous(world: World) -> None:
    """Where an authentication lets strangers through, they may call what stands there for them, and nothing else."""
    matrix = rbac({"member": ["* /**"], "anonymous": ["GET /login"]})
    async with world.serve({f"{__name__}:Nobody": {}}, matrix, ECHO) as get:
        assert [(await get("GET", path)).status for path in ("/login", "/keys")] == [200, 403]


async def test_without_an_authentication_it_does_not_start(world: World) -> None:
    """F60: nobody may be authorised whom nobody has looked at."""
    with pytest.raises(ConfigError, match=r"rbac needs ANONYMOUS \| PRINCIPAL"):
        async with world.serve(rbac(CHATTING), ECHO):
            pass


async def test_no_body_is_read_where_no_model_is_limited(world: World) -> None:
    """Whatever a member without limits sends passes as it is, also what is no JSON and what names two models."""
    async with world.serve(identify(), rbac({"member": ["* /v1/**"]}), ECHO) as get:
        for body in (b"{", b'{"model":"a","model":"b"}', b""):
            assert (await get("POST", CHAT, data=body)).json["body"] == body.decode()


# ── What does not load ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "line",
    [
        "/v1/models",
        "GET",
        "GET v1/models",
        "GET  /v1/models",
        "get /v1/models",
        "FETCH /v1/models",
        "GET,POST /v1/models",
        "GET /v1/mod*",
        "GET /v1/**/models",
        "GET /v1//models",
        "GET /v1/../admin",
        "GET /v1/models?x=1",
        "GET /v1/%6Dodels",
        "GET /v1/{id}",
        "GET /v1/models ",
    ],
)
def test_a_line_that_is_none_does_not_load(plugin_config: Any, line: str) -> None:
    """F60: what cannot match as it was meant is refused at load, and so by editors."""
    with pytest.raises(ValidationError):
        plugin_config("rbac", {"allow": {"member": [line]}})


@pytest.mark.parametrize("options", [{}, {"allow": {}}, {"allow": {"Member": []}}, {"allow": {"member": "GET /x"}}])
def test_a_matrix_that_is_none_does_not_load(plugin_config: Any, options: dict[str, Any]) -> None:
    """At least one role is named, in lower case, with a list."""
    with pytest.raises(ValidationError):
        plugin_config("rbac", options)


async def test_models_of_a_role_that_may_call_nothing(world: World) -> None:
    """F60: a misspelt role in `models` would limit nobody."""
    with pytest.raises(ConfigError, match="models limits the role membre"):
        async with world.serve(identify(), rbac(CHATTING, {"membre": ["gpt-5"]}), ECHO):
            pass


async def test_a_matrix_that_forgets_an_endpoint_does_not_start(world: World) -> None:
    """F60: what the terminal layer answers and no role may call is a located fault, one for each."""
    with pytest.raises(ConfigError) as caught:
        async with world.serve(identify(), rbac({"member": ["GET /in/healthz"]}), "health", path="/in/"):
            pass
    words = [str(fault) for fault in caught.value.faults]
    assert [word.partition("rbac lets nobody call ")[2] for word in words] == [
        "GET /in/readyz, which health answers; name it for a role",
        "GET /in/metrics, which health answers; name it for a role",
    ]
    assert all("routes[0].chain[1]" in word for word in words)


async def test_a_matrix_that_names_all_endpoints_starts(world: World) -> None:
    """Each is named for some role, whole or by a wildcard."""
    matrix = rbac({"member": ["GET /healthz"], "viewer": ["* /readyz"], "admin": ["GET /*"]})
    async with world.serve(identify(), matrix, "health") as get:
        assert [(await get("GET", path)).status for path in ("/healthz", "/readyz")] == [200, 403]


# ── Models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def ask(world: World, body: Any, *, path: str = CHAT, layer: Entry = LIMITED, **principal: Any) -> Answer:
    """What a caller gets who sends this body."""
    async with world.serve(identify(**principal), layer, {f"{__name__}:Tell": {}}, ECHO, path="/v1/") as get:
        if isinstance(body, bytes):
            return await get("POST", path, ("content-type", "application/json"), data=body)
        return await get("POST", path, json=body)


@pytest.mark.parametrize(
    ("model", "passes"),
    [("gpt-5", True), ("gpt-5-mini", True), ("o3", True), ("o3-pro", False), ("gpt-4", False), ("GPT-5", False)],
)
async def test_a_roles_models(world: World, model: str, passes: bool) -> None:
    """A role names the models of its list, `*` for any characters; another is 403 `model_not_found`, unrepeated."""
    answer = await ask(world, {"model": model})
    assert (answer.status == 200) is passes
    if passes:
        assert answer.headers["x-model"] == model
    else:
        assert (answer.status, answer.error["code"], answer.error["param"]) == (403, "model_not_found", "model")
        assert model.encode() not in answer.body


@pytest.mark.parametrize(("model", "passes"), [("gpt-5", True), ("gpt-5-mini", False), ("o4", False)])
async def test_a_keys_models_limit_it_further(world: World, model: str, passes: bool) -> None:
    """A key uses what both its role and its own list allow; so do the layers that list models."""
    answer = await ask(world, {"model": model}, models=["gpt-5", "o4"])
    assert (answer.status == 200) is passes
    if passes:
        assert answer.headers["x-may-use"] == "gpt-5"


async def test_a_keys_models_count_where_its_role_has_no_limit(world: World) -> None:
    """The list of a key is enough to look at its bodies."""
    layer = rbac({"member": ["* /v1/**"]})
    assert (await ask(world, {"model": "gpt-4"}, layer=layer, models=["gpt-5"])).status == 403
    assert (await ask(world, {"model": "gpt-5"}, layer=layer, models=["gpt-5"])).status == 200


async def test_what_was_looked_at_is_sent_as_it_came(world: World) -> None:
    """F42: the bytes that were checked are the bytes that are forwarded, spaces and escapes included."""
    body = b'{ "model" : "gpt-5", "x": "\\u00e9\\/" }\n'
    assert (await ask(world, body)).json["body"].encode() == body


async def test_the_list_of_models_is_the_callers(world: World) -> None:
    """`models` behind `rbac` shows what the caller may use, by its role too."""
    models = {"models": {"models": ["gpt-5", "gpt-4", "o3"]}}
    async with world.serve(identify(models=["gpt-5", "gpt-4"]), LIMITED, models, ECHO, path="/v1/") as get:
        answer = await get("GET", "/v1/models")
        hidden = await get("GET", "/v1/models/o3")
    assert [model["id"] for model in answer.json["data"]] == ["gpt-5"]
    assert hidden.status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/files"), ("DELETE", "/v1/files/f"), ("POST", "/v1/files"), ("POST", "/v1/responses/r/cancel")],
)
async def test_an_endpoint_without_a_model_needs_none(world: World, method: str, path: str) -> None:
    """A limited caller whom the matrix lets call it is not refused for lack of a model."""
    async with world.serve(identify(), LIMITED, ECHO, path="/v1/") as get:
        assert (await get(method, path, data=b"anything")).status == 200


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/evals", "/v1/Chat/completions", "/v1/deployments/x/embeddings"])
async def test_an_endpoint_whose_models_cannot_be_seen_is_refused(world: World, path: str) -> None:
    """A batch's file, an endpoint that nobody knows, a path in disguise: no limited caller gets there."""
    answer = await ask(world, {"model": "gpt-5"}, path=path)
    assert (answer.status, answer.error["code"]) == (403, "endpoint_not_allowed")
    assert (await ask(world, {"model": "gpt-5"}, path=path, layer=rbac({"member": ["* /**"]}))).status == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b'{"model":"gpt-5","model":"gpt-4"}', 400, "invalid_json"),
        (b'{"model":"gpt-5","x":{"y":1,"y":2}}', 400, "invalid_json"),
        (b'{"model":"gpt-5","x":NaN}', 400, "invalid_json"),
        (b'{"model":"gpt-5\\ud800"}', 400, "invalid_json"),
        (b"\xff\xfe{\x00}\x00", 400, "invalid_json"),
        (b'{"model":"gpt-5","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "invalid_json"),
        (b'{"model":"gpt-5","x":[' + b"1," * 300_000 + b"1]}", 400, "invalid_json"),
        (b"{}", 400, "bad_request"),
        (b"[]", 400, "bad_request"),
        (b'{"model":null}', 400, "bad_request"),
        (b'{"model":""}', 400, "bad_request"),
        (b'{"model":["gpt-5"]}', 400, "bad_request"),
        (b'{"model":"gpt-5","Model":"gpt-4"}', 400, "bad_request"),
        (b'{"model":"gpt-5","models":["gpt-5","gpt-4"]}', 403, "model_not_found"),
        (b'{"model":"gpt-5","model\\u017f":["gpt-4"]}', 400, "bad_request"),
        (b'{"model":"gpt-5","tools":[{"type":"image_generation","model":"gpt-4"}]}', 403, "model_not_found"),
    ],
)
async def test_a_body_that_two_readers_could_read_differently(
    world: World, body: bytes, status: int, code: str
) -> None:
    """F42: a limited caller's model is one that every reader finds in the same bytes; else it is refused."""
    answer = await ask(world, body)
    assert (answer.status, answer.error["code"]) == (status, code)


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=utf-7"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": ""},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_a_body_that_may_mean_something_else(world: World, headers: dict[str, str]) -> None:
    """F41: nothing is inflated, and only plain JSON is read as JSON; a limited caller sends it like that, or not."""
    async with world.serve(identify(), LIMITED, ECHO, path="/v1/") as get:
        answer = await get("POST", CHAT, *headers.items(), data=b'{"model":"gpt-5"}')
    assert (answer.status, answer.error["code"]) == (400, "bad_request")
    assert "application/json" in answer.error["message"]


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=UTF-8", "Application/JSON"])
async def test_plain_json(world: World, kind: str) -> None:
    """As SDKs write it."""
    async with world.serve(identify(), LIMITED, ECHO, path="/v1/") as get:
        assert (await get("POST", CHAT, ("content-type", kind), data=b'{"model":"gpt-5"}')).status == 200


async def test_a_json_body_is_bounded(world: World) -> None:
    """F35: a limited caller's JSON is read whole, up to a limit of its own; nobody else's is."""
    body = {"model": "gpt-5", "x": "y" * 3000}
    layer = rbac({"member": ["* /v1/**"], "admin": ["* /v1/**"]}, {"member": ["gpt-5*"]}, max_json="2KB")
    assert (await ask(world, body, layer=layer)).status == 413
    assert (await ask(world, body, layer=layer, role="admin")).status == 200


# ── The parameter ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?model=gpt-5-realtime", 200),
        ("?x=1&mod%65l=gpt-5", 200),
        ("?model=gpt-4", 403),
        ("", 400),
        ("?model=", 400),
        ("?model=gpt-5&model=gpt-4", 400),
        ("?model=gpt-5&Model=gpt-4", 400),
        ("?model=gpt-5&x=;model=gpt-4", 400),
    ],
)
async def test_realtime_names_its_model_in_the_query(world: World, query: str, status: int) -> None:
    """Once, as one of those that the caller may use."""
    async with world.serve(identify(), LIMITED, ECHO, path="/v1/") as get:
        assert (await get("GET", f"/v1/realtime{query}")).status == status


@pytest.mark.parametrize(("path", "status"), [("/v1/responses", 404), ("/v1/realtime", 400), ("/v1/Realtime", 404)])
async def test_a_websocket_whose_models_come_later(world: World, path: str, status: int) -> None:
    """A limited caller gets 404 for a WebSocket whose messages choose the model, so that it falls back to requests."""
    handshake = (("connection", "upgrade"), ("upgrade", "websocket"))
    async with world.serve(identify(), LIMITED, ECHO, path="/v1/") as get:
        assert (await get("GET", path, *handshake)).status == status


# ── Forms ────────────────────────────────────────────────────────────────────────────────────────────────────────────

AUDIO = "/v1/audio/transcriptions"


async def upload(world: World, form: FormData) -> Answer:
    """What a limited caller gets who uploads this."""
    async with world.serve(identify(), LIMITED, {f"{__name__}:Tell": {}}, ECHO, path="/v1/") as get:
        return await get("POST", AUDIO, data=form)


async def test_the_openai_sdk_uploads(world: World) -> None:
    """The SDK's own forms name their model before the file; what passes is what was sent."""
    async with (
        world.serve(identify(), LIMITED, ECHO, path="/v1/") as get,
        openai.AsyncOpenAI(api_key="k", base_url=get.url + "/v1") as client,
    ):
        raw = client.audio.transcriptions.with_raw_response
        passed = await raw.create(model="gpt-5-audio", file=("a.wav", b"\r\n\x00--" * 100_000))
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await raw.create(model="whisper-1", file=("a.wav", b"x"))
    assert len(json.loads(passed.text)["body"]) > 500_000
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(("model", "status"), [("gpt-5-audio", 200), ("whisper-1", 403)])
async def test_a_form_names_its_model(world: World, model: str, status: int) -> None:
    """In a field before the file."""
    form = FormData()
    form.add_field("model", model)
    form.add_field("file", io.BytesIO(b"\x00" * 200_000), filename="a.wav")
    assert (await upload(world, form)).status == status


async def test_a_form_that_names_its_model_too_late(world: World) -> None:
    """Behind a file that is larger than what is read ahead, it is refused, and told where to put the field."""
    form = FormData()
    form.add_field("file", io.BytesIO(b"\x00" * 5_000_000), filename="a.wav")
    form.add_field("model", "gpt-5-audio")
    answer = await upload(world, form)
    assert (answer.status, answer.error["param"]) == (400, "model")
    assert "before any file" in answer.error["message"]


async def test_a_second_model_behind_the_file(world: World) -> None:
    """The provider may believe the last field: the request ends before it is forwarded."""
    form = FormData()
    form.add_field("model", "gpt-5-audio")
    form.add_field("file", io.BytesIO(b"\x00" * 500_000), filename="a.wav")
    form.add_field("model", "whisper-1")
    answer = await upload(world, form)
    assert (answer.status, answer.error["code"]) == (400, "bad_request")
    assert "twice" in answer.error["message"]


# ── The facts ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("allow", "models", "provides"),
    [
        ({"member": [f"POST {CHAT}"]}, {"member": ["gpt-5"]}, {MAY_USE, MODEL}),
        ({"member": [f"POST {CHAT}"]}, {}, {MAY_USE}),
        ({"member": [f"POST {CHAT}"], "admin": [f"POST {CHAT}"]}, {"member": ["gpt-5"]}, {MAY_USE}),
        ({"member": [f"POST {CHAT}", "GET /v1/models"]}, {"member": ["gpt-5"]}, {MAY_USE}),
        ({"member": ["POST /v1/chat/*"]}, {"member": ["gpt-5"]}, {MAY_USE}),
        ({"member": [f"* {CHAT}"]}, {"member": ["gpt-5"]}, {MAY_USE}),
    ],
)
def test_the_model_is_promised_only_where_it_always_comes(
    plugin_config: Any, allow: dict[str, list[str]], models: dict[str, list[str]], provides: set[Requirement]
) -> None:
    """Every role limited, and every line one endpoint that names a model."""
    layer = Rbac(plugin_config("rbac", {"allow": allow, "models": models}), None)  # type: ignore[arg-type]
    assert layer.provides() == provides
