"""What is known of providers' bytes: how they word errors, end streams and report usage. SSE framing stands apart.

``for_request`` says in which dialect a caller is answered, ``get`` what an upstream of a configured dialect sends.
"""

from __future__ import annotations

from gateway.dialects.base import CREDENTIAL_HEADERS, KEY_SUBPROTOCOL, ProviderDialect, StreamWatch
from gateway.dialects.known import for_request, get

__all__ = ["CREDENTIAL_HEADERS", "KEY_SUBPROTOCOL", "ProviderDialect", "StreamWatch", "for_request", "get"]
