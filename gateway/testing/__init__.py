"""What a plugin author tests with: a gateway on real sockets, and layers to put around one's own.

::

    async with running_gateway(YAML, tmp_path) as live:
        async with aiohttp.ClientSession() as client, client.get(live.url("/x")) as answer:
            assert answer.headers["x-stamp"] == "here"

where the chain in ``YAML`` is for example ``[{"use": "gateway.testing:Identify"}, {"use": "my_package:Stamp", "with":
{"value": "here"}}, {"use": "gateway.testing:Echo"}]``.
"""

from __future__ import annotations

from gateway.testing.layers import Echo, Identify
from gateway.testing.live import Live, running_gateway

__all__ = ["Echo", "Identify", "Live", "running_gateway"]
