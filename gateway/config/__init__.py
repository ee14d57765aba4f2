"""gateway.yaml: read, checked and typed.

:func:`load` gives a :class:`GatewayConfig` or raises every fault at once, each with its line; :func:`json_schema` is
the same knowledge for editors. Nothing here opens a socket, a store or a plugin: it only reads files.
"""

from __future__ import annotations

from gateway.config.loading import load
from gateway.config.models import (
    AuthCacheConfig,
    CredentialHeader,
    GatewayConfig,
    LayerConfig,
    LimitsConfig,
    ListenerConfig,
    ListenerTlsConfig,
    RouteConfig,
    TimeoutsConfig,
    UpstreamConfig,
    UpstreamTlsConfig,
    VaultConfig,
)
from gateway.config.schema import json_schema

__all__ = [
    "AuthCacheConfig",
    "CredentialHeader",
    "GatewayConfig",
    "LayerConfig",
    "LimitsConfig",
    "ListenerConfig",
    "ListenerTlsConfig",
    "RouteConfig",
    "TimeoutsConfig",
    "UpstreamConfig",
    "UpstreamTlsConfig",
    "VaultConfig",
    "json_schema",
    "load",
]
