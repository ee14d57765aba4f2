r"""What a plugin author tests with: a gateway on real sockets, layers to put around one's own, a peer that misbehaves.

A gateway and a client of one's own choice::

    async with running_gateway(YAML, tmp_path) as live:
        async with aiohttp.ClientSession() as client, client.get(live.url("/x")) as answer:
            assert answer.headers["x-stamp"] == "here"

where the chain in ``YAML`` is for example ``[{"use": "gateway.testing:Identify"}, {"use": "my_package:Stamp", "with":
{"value": "here"}}, {"use": "gateway.testing:Echo"}]``.

An upstream that does to the byte what a script says, and a client that keeps every byte::

    async with RawUpstream(script) as upstream, running_gateway(..., tmp_path) as live, dial(live.url("")) as client:
        await client.send(b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n")
        answer = await client.message()

And what every layer keeps, whatever it is for, as a class to subclass::

    class TestStamp(LayerConformance):
        chain = [{"use": "my_package:Stamp", "with": {"value": "here"}}]

``docs/plugins.md`` is the way from an idea to a tested layer.
"""

from __future__ import annotations

from gateway.testing.conformance import LayerConformance, TerminalConformance
from gateway.testing.layers import Echo, Identify
from gateway.testing.live import Live, running_gateway
from gateway.testing.scene import Entry
from gateway.testing.upstream import RawUpstream, Script, answering, silence
from gateway.testing.wire import Message, PeerGone, Wire, dial

__all__ = [
    "Echo",
    "Entry",
    "Identify",
    "LayerConformance",
    "Live",
    "Message",
    "PeerGone",
    "RawUpstream",
    "Script",
    "TerminalConformance",
    "Wire",
    "answering",
    "dial",
    "running_gateway",
    "silence",
]
