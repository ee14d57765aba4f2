"""Content codings undone within a bound, for the rare body that has to be searched (RFC 9110, 8.4.1).

Bodies pass through the gateway as they are. Only an upstream's error answer is looked into, because it may echo our
key, and providers compress errors in whatever coding the client offered.
"""

from __future__ import annotations

import sys
import zlib

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def undo(coding: str, body: bytes, limit: int) -> bytes | None:
    """The body without its ``coding``; None where the coding is unknown, the body damaged or larger than ``limit``."""
    try:
        match coding.strip().lower():
            case "" | "identity":
                plain = body
            case "gzip" | "x-gzip":
                plain = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body, limit + 1)
            case "deflate":
                plain = zlib.decompressobj().decompress(body, limit + 1)
            case "br":
                plain = brotli.Decompressor().process(body, output_buffer_limit=limit + 1)
            case "zstd":
                plain = zstd.ZstdDecompressor().decompress(body, limit + 1)
            case _:
                return None
    except (zlib.error, brotli.error, zstd.ZstdError):
        return None
    return plain if len(plain) <= limit else None
