"""The layer ``models``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest
from pydantic import ValidationError

if TYPE_CHECKING:
    from tests.plugins.conftest import World

ECHO = "gateway.testing:Echo"
LIST = {"models": {"models": ["gpt-x", "org/model", "my model"]}}


async def test_the_openai_sdk_lists_and_retrieves(world: World) -> None:
    """The SDK reads the list in its order, and one model, whose name may have a slash or a space."""
    async with (
        world.serve("gateway.testing:Identify", LIST, ECHO, path="/v1/") as get,
        openai.AsyncOpenAI(api_key="k", base_url=get.url + "/v1") as client,
    ):
        models = [model async for model in client.models.list()]
        one = await client.models.retrieve("gpt-x")
        spaced = await client.models.retrieve("my model")
        answer = await get("GET", "/v1/models/org/model")
    assert [model.id for model in models] == ["gpt-x", "org/model", "my model"]
    assert spaced.id == "my model"
    assert (one.id, one.object, one.owned_by) == ("gpt-x", "model", "gateway")
    assert answer.json["id"] == "org/model"


async def test_the_anthropic_sdk_lists(world: World) -> None:
    """The same list is read by Anthropic's SDK."""
    async with (
        world.serve("gateway.testing:Identify", LIST, ECHO, path="/v1/") as get,
        anthropic.AsyncAnthropic(api_key="k", base_url=get.url) as client,
    ):
        models = [model async for model in client.models.list()]
    assert [model.display_name for model in models] == ["gpt-x", "org/model", "my model"]


@pytest.mark.parametrize(("allowed", "listed"), [(["my model", "unlisted"], ["my model"]), ([], [])])
async def test_a_caller_sees_its_own_models(world: World, allowed: list[str], listed: list[str]) -> None:
    """A key that is limited to some models is told of no other, and of none that is not listed."""
    identify = {"gateway.testing:Identify": {"models": allowed}}
    async with world.serve(identify, LIST, ECHO, path="/v1/") as get:
        answer = await get("GET", "/v1/models")
        hidden = await get("GET", "/v1/models/gpt-x")
    assert [model["id"] for model in answer.json["data"]] == listed
    assert (hidden.status, hidden.error["code"], hidden.error["param"]) == (404, "model_not_found", "model")


async def test_an_unknown_model(world: World) -> None:
    """A model that is not there and one that is not allowed have the same answer, without its name."""
    async with world.serve("gateway.testing:Identify", LIST, ECHO, path="/v1/") as get:
        answer = await get("GET", "/v1/models/no-such")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert b"no-such" not in answer.body


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models"),
        ("DELETE", "/v1/models/gpt-x"),
        ("GET", "/v1/modelsuite"),
        ("GET", "/v1/fine_tuning/models"),
        ("GET", "/v1/files"),
    ],
)
async def test_everything_else_passes(world: World, method: str, path: str) -> None:
    """Only GETs of the list and of one model end here."""
    async with world.serve("gateway.testing:Identify", LIST, ECHO, path="/v1/") as get:
        answer = await get(method, path)
    assert answer.json["target"] == path


@pytest.mark.parametrize("options", [{}, {"models": []}, {"models": "gpt-x"}])
def test_a_list_that_is_none_does_not_load(plugin_config: Any, options: dict[str, Any]) -> None:
    """At least one model must be named."""
    with pytest.raises(ValidationError):
        plugin_config("models", options)
