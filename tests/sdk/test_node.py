"""OpenAI's SDK for Node through the gateway."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

from tests.worlds.providers import NODE_SIDE, node, node_packages

if TYPE_CHECKING:
    from tests.worlds.fronts import Front


async def test_openai_for_node(gateway: Front) -> None:
    """Chat, streamed chat, a provider's error and a bad key look to Node's SDK as they do at the provider's own API."""
    node_packages()
    process = await asyncio.create_subprocess_exec(
        *node(),
        NODE_SIDE / "openai.mjs",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "OPENAI_BASE_URL": f"{gateway.origin}/v1", "OPENAI_API_KEY": gateway.key},
    )
    output, _ = await asyncio.wait_for(process.communicate(), timeout=30)
    seen = json.loads(output)
    assert seen["whole"] == "".join(seen["pieces"]) == "Hello from a provider that nobody here wrote. 你好 🙂"
    assert sum(bool(piece) for piece in seen["pieces"]) > 1
    assert seen["refused"]["name"] == "RateLimitError"
    assert (seen["refused"]["status"], seen["refused"]["code"]) == (429, "rate_limit_exceeded")
    assert seen["refused"]["requestId"]
    assert (seen["unauthorised"]["name"], seen["unauthorised"]["code"]) == ("AuthenticationError", "invalid_api_key")
