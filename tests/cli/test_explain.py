"""``gateway explain``: the way of a request that is only thought of."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from gateway.contract import MAY_USE, Plugin, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.contract import Question, Requirement
    from tests.cli.conftest import Gateway, Made

CHAT = ("POST", "/v1/chat/completions")
PROVIDER_KEY = "sk-provider-canary-9b1f3e77"


@pytest.fixture
def key_id(made: Made) -> str:
    """The id of the first key, an administrator's."""
    return str(made.said["key"]["id"])


def explained(gateway: Gateway, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and what was said."""
    result = gateway("explain", *arguments, "--json")
    assert result.stderr == ""
    return result.exit_code, json.loads(result.stdout)


def does(said: dict[str, Any]) -> dict[str, str]:
    """What each layer would do, the last of those that are there twice."""
    return {layer["layer"]: layer["does"] for layer in said["layers"]}


def words(said: dict[str, Any], layer: str) -> str:
    """What the layer says of it."""
    return str(next(step["words"] for step in said["layers"] if step["layer"] == layer))


@pytest.mark.usefixtures("place")
def test_what_would_be_forwarded(gateway: Gateway, key_id: str) -> None:
    """Every layer passes it on, and the last one says where to, to the byte; the provider's key is not shown."""
    gateway("provider-key", "set", "openai", stdin=f"{PROVIDER_KEY}\n")
    code, said = explained(gateway, "POST", "/v1/chat/completions?a=%2C&a", "--model", "gpt-5", "--key", key_id)
    assert (code, said["outcome"], said["by"], said["status"]) == (0, "answered", "forward", None)
    assert [step["does"] for step in said["layers"]] == ["passes on"] * 9 + ["answers"]
    assert "https://api.openai.com/v1/chat/completions?a=%2C&a " in words(said, "forward")
    assert PROVIDER_KEY not in json.dumps(said)


@pytest.mark.usefixtures("place")
def test_each_layer_has_its_facts(gateway: Gateway) -> None:
    """What it needs and what it provides stands beside it, also where the request would not get there."""
    _, said = explained(gateway, *CHAT)
    vault = next(step for step in said["layers"] if step["layer"] == "vault")
    assert (vault["needs"], vault["provides"], vault["does"]) == (["PRINCIPAL"], ["CREDENTIAL"], "is not reached")


@pytest.mark.usefixtures("place")
def test_without_a_key(gateway: Gateway) -> None:
    """It is the caller who has none, and the layer that refuses is named with status and code; exit 1."""
    code, said = explained(gateway, *CHAT)
    assert (code, said["outcome"]) == (1, "refused")
    assert (said["by"], said["status"], said["code"]) == ("api_key_auth", 401, "missing_api_key")
    assert does(said)["forward"] == "is not reached"


@pytest.mark.usefixtures("place")
def test_a_key_that_no_longer_works(gateway: Gateway, key_id: str) -> None:
    """The client would hear the same as for an unknown key; the operator hears why."""
    gateway("key", "revoke", key_id)
    code, said = explained(gateway, *CHAT, "--key", key_id)
    assert (code, said["by"], said["code"]) == (1, "api_key_auth", "invalid_api_key")
    assert "revoked" in said["caller"]


@pytest.mark.usefixtures("place")
def test_an_unknown_key_is_no_question(gateway: Gateway) -> None:
    """One line, exit 1."""
    result = gateway("explain", *CHAT, "--key", "01NOSUCH")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no key 01NOSUCH" in result.stderr


@pytest.mark.usefixtures("place")
def test_an_answer_on_the_way(gateway: Gateway, key_id: str) -> None:
    """A layer that would answer by itself ends the way: the demo model needs no provider's key."""
    code, said = explained(gateway, *CHAT, "--model", "demo", "--key", key_id)
    assert (code, said["by"]) == (0, "demo")
    assert does(said)["forward"] == "is not reached"
    code, said = explained(gateway, "GET", "/v1/models", "--key", key_id)
    assert (code, said["by"]) == (0, "models")


@pytest.mark.usefixtures("place")
def test_a_credential_that_is_not_there(gateway: Gateway, key_id: str) -> None:
    """Refused as the client would see it, with the reason that is kept from the client."""
    code, said = explained(gateway, *CHAT, "--model", "gpt-5", "--key", key_id)
    assert (code, said["by"], said["status"], said["code"]) == (1, "forward", 503, "credential_unavailable")
    assert "no key is stored for openai" in words(said, "forward")


@pytest.mark.usefixtures("place")
def test_an_endpoint_that_the_role_may_not_call(gateway: Gateway, key_id: str) -> None:
    """The matrix decides as it would for a request."""
    code, said = explained(gateway, "GET", "/v1/files", "--key", key_id)
    assert (code, said["by"], said["status"], said["code"]) == (1, "rbac", 403, "endpoint_not_allowed")


def test_the_models_of_a_role_and_of_a_key(place: Path, gateway: Gateway) -> None:
    """What a key's request would meet that names this model, or none."""
    file = place / "gateway.yaml"
    file.write_text(file.read_text().replace("models: {} ", "models: {admin: [gpt-5*, demo]} "))
    key = json.loads(gateway("key", "create", "--name", "k", "--model", "gpt-5", "--model", "o3", "--json").stdout)[
        "id"
    ]
    met = {}
    for model in ("gpt-5", "gpt-5-mini", "o3", None):
        _, said = explained(gateway, *CHAT, "--key", key, *(["--model", model] if model else []))
        met[model] = said["code"]
    assert met == {
        "gpt-5": "credential_unavailable",
        "gpt-5-mini": "model_not_found",
        "o3": "model_not_found",
        None: "bad_request",
    }
    assert explained(gateway, "GET", "/v1/realtime?model=o3", "--key", key)[1]["code"] == "model_not_found"
    assert explained(gateway, "GET", "/v1/models/gpt-5-mini", "--key", key)[1]["status"] == 404


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/../admin", 400, "bad_request"),
        ("GET", "/v1//models", 400, "bad_request"),
        ("GET", "/v1/%2e%2e/x", 400, "bad_request"),
        ("GET", "v1/models", 400, "bad_request"),
        ("get", "/v1/models", 501, "bad_request"),
        ("TRACE", "/v1/models", 501, "bad_request"),
        ("GET", "/v10/models", 404, "unknown_url"),
        ("GET", "/healthz", 404, "unknown_url"),
    ],
)
def test_what_no_layer_sees(gateway: Gateway, method: str, path: str, status: int, code: str) -> None:
    """The guard's verdict comes first, then the route's: what is refused there has no layers."""
    exit_code, said = explained(gateway, method, path)
    assert (exit_code, said["by"], said["status"], said["code"]) == (1, "edge", status, code)
    assert (said["route"], said["layers"]) == (None, [])


@pytest.mark.usefixtures("place")
def test_another_listener(gateway: Gateway) -> None:
    """A path is routed where it comes in; a listener that is not there is a usage error."""
    code, said = explained(gateway, "GET", "/healthz", "--listener", "admin")
    assert (code, said["by"], said["route"]) == (0, "health", "health at /healthz")
    assert explained(gateway, "POST", "/readyz", "--listener", "admin")[1]["code"] == "method_not_allowed"
    assert gateway("explain", "GET", "/healthz", "--listener", "adm").exit_code == 2


def test_a_redirect_to_https(place: Path, gateway: Gateway, key_id: str) -> None:
    """Whether it comes over TLS is known by its listener; behind a layer that may end a chain stands a 404."""
    file = place / "gateway.yaml"
    redirect = "chain: [{tls_redirect: {to: https://gateway.example}}]"
    file.write_text(file.read_text().replace("chain: [health]", redirect))
    code, said = explained(gateway, "GET", "/healthz?x", "--listener", "admin")
    assert (code, words(said, "tls_redirect")) == (0, "redirects it to https://gateway.example/healthz?x")
    for arguments in (("GET", "/healthz", "--key", key_id), ("POST", "/healthz")):
        code, said = explained(gateway, *arguments, "--listener", "admin")
        assert (code, said["status"], said["code"]) == (1, 403, "insecure_transport")
    tls = "127.0.0.1:8081, tls: {certificate: not-read.pem, key: not-read.key}}"
    file.write_text(file.read_text().replace("127.0.0.1:8081}", tls))
    code, said = explained(gateway, "GET", "/healthz", "--listener", "admin")
    assert (code, said["by"], said["status"]) == (1, "tls_redirect", 404)


@pytest.mark.usefixtures("place")
def test_for_people(gateway: Gateway, key_id: str) -> None:
    """Request, caller and route; a table of the layers; the end."""
    lines = gateway("explain", *CHAT, "--model", "demo", "--key", key_id).stdout.splitlines()
    assert lines[0] == "request   POST /v1/chat/completions on public"
    assert "first, of the role admin" in lines[1]
    assert lines[2] == "route     api at /v1"
    assert lines[-1] == "answered by demo"


def test_nothing_is_sent_and_nothing_counted(place: Path, gateway: Gateway, key_id: str) -> None:
    """The upstream sees no connection, the key is not marked as used, the store has no new row."""
    gateway("provider-key", "set", "openai", stdin="sk-x\n")
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        upstream.setblocking(False)
        file = place / "gateway.yaml"
        origin = f"http://127.0.0.1:{upstream.getsockname()[1]}"
        file.write_text(file.read_text().replace("https://api.openai.com", origin))
        gateway("provider-key", "set", "openai", stdin="sk-x\n")
        before = (place / "data" / "gateway.db").read_bytes()
        assert explained(gateway, *CHAT, "--model", "gpt-5", "--key", key_id)[0] == 0
        with pytest.raises(BlockingIOError):
            upstream.accept()
    assert (place / "data" / "gateway.db").read_bytes() == before


class Silent(Plugin):
    """Says nothing of itself."""


class Fails(Plugin):
    """Cannot even be asked."""

    async def explain(self, question: Question) -> Verdict:
        """Fail."""
        raise KeyError("x")


class Promises(Plugin):
    """Promises a fact and does not say which."""

    def provides(self) -> frozenset[Requirement]:
        """A fact."""
        return frozenset({MAY_USE})


@pytest.mark.parametrize(
    ("layer", "steps", "outcome"),
    [
        ("Silent", ["passes on", "answers"], "answered"),
        ("Fails", ["cannot say", "is not reached"], "unknown"),
        ("Promises", ["cannot say", "is not reached"], "unknown"),
    ],
)
def test_layers_that_do_not_explain_themselves(
    place: Path, gateway: Gateway, layer: str, steps: list[str], outcome: str
) -> None:
    """Somebody's layer that says nothing is taken to pass on; one that fails or keeps its promise secret ends it."""
    file = place / "gateway.yaml"
    file.write_text(file.read_text().replace("chain: [health]", f'chain: [{{use: "{__name__}:{layer}"}}, health]'))
    code, said = explained(gateway, "GET", "/healthz", "--listener", "admin")
    assert [step["does"] for step in said["layers"]] == steps
    assert (code, said["outcome"]) == (0 if outcome == "answered" else 1, outcome)
