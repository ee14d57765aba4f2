"""The scripted upstream of ``gateway.testing``, under the name that the tests know it by."""

from __future__ import annotations

from gateway.testing.upstream import RawUpstream, Script, answering, listening_socket, silence

__all__ = ["RawUpstream", "Script", "answering", "listening_socket", "silence"]
