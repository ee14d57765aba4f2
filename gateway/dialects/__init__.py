"""What is known of providers' bytes: how they word errors, end streams and report usage. SSE framing stands apart.

``for_request`` says in which dialect a caller is answered, ``get`` what an upstream of a configured dialect sends,
``naming`` where a request names its model, of whichever dialect it is.
"""

from __future__ import annotations

from gateway.dialects.base import CREDENTIAL_HEADERS, KEY_SUBPROTOCOL, ProviderDialect, StreamWatch
from gateway.dialects.known import for_request, get
from gateway.dialects.naming import Naming, naming

__all__ = [
    "CREDENTIAL_HEADERS",
    "KEY_SUBPROTOCOL",
    "Naming",
    "ProviderDialect",
    "StreamWatch",
    "for_request",
    "get",
    "naming",
]
