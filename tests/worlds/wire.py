"""The raw connection of ``gateway.testing``, under the name that the tests know it by."""

from __future__ import annotations

from gateway.testing.wire import Ending, Message, PeerGone, Wire, dial

__all__ = ["Ending", "Message", "PeerGone", "Wire", "dial"]
