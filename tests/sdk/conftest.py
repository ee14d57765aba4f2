"""One gateway for all SDKs, in a process of its own, in front of a provider that nobody here wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.worlds.fronts import PROVIDER_KEY, Front, make, serving
from tests.worlds.providers import aimock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A gateway in front of aimock, which answers 401 to whatever does not carry the provider's key."""
    folder = tmp_path_factory.mktemp("sdk")
    with aimock(PROVIDER_KEY, folder) as upstream:
        made = make(upstream, tmp_path_factory.mktemp("made"))
        with serving(made, folder) as front:
            yield front


@pytest.fixture
async def openai(gateway: Front) -> AsyncIterator[AsyncOpenAI]:
    """The OpenAI SDK as a user makes it: only base URL and key are ours. No retries unless a test wants them."""
    async with AsyncOpenAI(base_url=f"{gateway.origin}/v1", api_key=gateway.key, max_retries=0) as client:
        yield client


@pytest.fixture
async def anthropic(gateway: Front) -> AsyncIterator[AsyncAnthropic]:
    """The Anthropic SDK as a user makes it: only base URL and key are ours."""
    async with AsyncAnthropic(base_url=gateway.origin, api_key=gateway.key, max_retries=0) as client:
        yield client
