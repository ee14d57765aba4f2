"""Where requests name their models."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.contract import Refusal
from gateway.dialects import Naming, naming
from gateway.dialects.naming import named_in_json, named_in_query


@pytest.mark.parametrize(
    ("method", "path", "prefix", "where"),
    [
        ("POST", "/v1/chat/completions", "/v1", Naming.BODY),
        ("POST", "/v1/chat/completions", "", Naming.BODY),
        ("POST", "/chat/completions", "", Naming.BODY),
        ("POST", "/openai/v1/embeddings", "/openai", Naming.BODY),
        ("POST", "/openai/v1beta1/embeddings", "/openai", Naming.BODY),
        ("POST", "/openai/embeddings", "/openai", Naming.BODY),
        ("POST", "/v1/messages", "/v1/messages", Naming.BODY),
        ("POST", "/v1/messages/count_tokens", "/v1/messages", Naming.BODY),
        ("POST", "/v1/threads/t/runs", "/v1", Naming.BODY),
        ("POST", "/v1/threads/runs", "/v1", Naming.BODY),
        ("POST", "/v1/files", "/v1", Naming.NOWHERE),
        ("POST", "/v1/responses/r/cancel", "/v1", Naming.NOWHERE),
        ("POST", "/v1/vector_stores/v/search", "/v1", Naming.NOWHERE),
        ("GET", "/v1/models", "/v1", Naming.NOWHERE),
        ("GET", "/whatever", "", Naming.NOWHERE),
        ("DELETE", "/v1/files/f", "/v1", Naming.NOWHERE),
        ("GET", "/v1/realtime", "/v1", Naming.QUERY),
    ],
)
def test_what_is_known(method: str, path: str, prefix: str, where: Naming) -> None:
    """An endpoint right below the route's prefix, behind a version below it, or inside of the prefix."""
    assert naming(method, path, prefix) is where


@pytest.mark.parametrize(
    ("method", "path", "prefix"),
    [
        ("POST", "/v1/batches", "/v1"),
        ("POST", "/v1/messages/batches", "/v1/messages"),
        ("POST", "/v1/realtime/client_secrets", "/v1"),
        ("POST", "/v1/something/new", "/v1"),
        ("PUT", "/v1/chat/completions", "/v1"),
        ("POST", "/v1/chat/completion%73", "/v1"),
        ("POST", "/v1/Embeddings", "/v1"),
        ("POST", "/v1/embeddings/", "/v1"),
        ("POST", "/azure/deployments/secret/embeddings", "/azure"),
        ("POST", "/v1/files/deployments/secret/embeddings", "/v1"),
        ("POST", "/v1beta/models/secret:generateContent", ""),
        ("POST", "/model/secret/invoke", ""),
    ],
)
def test_what_is_not_known_may_use_any_model(method: str, path: str, prefix: str) -> None:
    """A file's models, a nested one, a model in the path, an unknown endpoint, a path in disguise."""
    assert naming(method, path, prefix) is Naming.UNKNOWN


@pytest.mark.parametrize(
    ("path", "where"),
    [("/v1/realtime", Naming.QUERY), ("/v1/responses", Naming.UNKNOWN), ("/v1/realtim%65", Naming.UNKNOWN)],
)
def test_websockets(path: str, where: Naming) -> None:
    """Realtime names its model when it is opened; of any other WebSocket nothing is known."""
    assert naming("GET", path, "/v1", websocket=True) is where


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"model": "a"}, ("a",)),
        ({"model": "a", "models": None, "tools": None}, ("a",)),
        ({"model": "a", "models": ["b", "c"]}, ("a", "b", "c")),
        ({"model": "a", "models": "b"}, ("a", "b")),
        ({"model": "a", "tools": [{"type": "function"}, {"type": "image_generation", "model": "b"}]}, ("a", "b")),
        ({"model": "a", "messages": [{"model": "b"}]}, ("a",)),
    ],
)
def test_every_model_of_a_body(body: Any, names: tuple[str, ...]) -> None:
    """The model, its fall-backs, and those that tools bring along."""
    assert named_in_json(body) == names


@pytest.mark.parametrize(
    "body",
    [
        None,
        "model",
        [{"model": "a"}],
        {},
        {"model": 5},
        {"model": "a", "models": [5]},
        {"model": "a", "models": {"x": "b"}},
        {"model": "a", "tools": [{"model": ["b"]}]},
        {"model": "a", "MODEL": "a"},
        {"model": "a", "Tools": []},
        {"Model": "a"},
    ],
)
def test_a_body_whose_model_is_in_doubt(body: Any) -> None:
    """F42: 400, for the parameter `model`."""
    with pytest.raises(Refusal) as caught:
        named_in_json(body)
    assert (caught.value.status, caught.value.param) == (400, "model")


@pytest.mark.parametrize("query", ["", "x=1", "model", "model=&model=a", "model=a&MODEL=a", "model=a;model=b"])
def test_a_query_whose_model_is_in_doubt(query: str) -> None:
    """Missing, empty, or given twice."""
    with pytest.raises(Refusal):
        named_in_query(query)
