"""The response headers that tell browsers to be careful."""

from __future__ import annotations

from types import MappingProxyType

HSTS = "max-age=31536000"
"""Sent over TLS only: RFC 6797, 7.2 forbids it on plain HTTP."""

DEFAULT_HEADERS = MappingProxyType(
    {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "X-XSS-Protection": "1; mode=block",
        "Content-Security-Policy": "default-src 'self'",
    }
)
"""On every answer that no ``security_headers`` layer has dressed, because it came from before the chain."""

DEFAULT_HEADERS_OVER_TLS = MappingProxyType({**DEFAULT_HEADERS, "Strict-Transport-Security": HSTS})
"""The same where the request came over TLS."""
