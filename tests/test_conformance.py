"""Every built-in layer, alone, keeps what every layer keeps. ``test_default_chain.py`` has them together."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, ClassVar

from gateway.testing import LayerConformance, TerminalConformance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.testing import Entry

IDENTIFY = {"use": "gateway.testing:Identify"}
MANY = "1000000/min"
READ_BY_ECHO = 64 * 2**20
"""What passes the layer is read whole by the test's own end of the chain."""


# ── Layers that pass requests on ─────────────────────────────────────────────────────────────────────────────────────


class TestNothing(LayerConformance):
    """``forward`` alone."""

    chain: ClassVar[Sequence[Entry]] = []


class TestSecurityHeaders(LayerConformance):
    """Dresses answers."""

    chain: ClassVar[Sequence[Entry]] = ["security_headers"]


class TestCors(LayerConformance):
    """Asked by a page of an origin that may call."""

    chain: ClassVar[Sequence[Entry]] = [{"cors": {"origins": ["https://app.example"], "credentials": True}}]
    fields: ClassVar[Sequence[str]] = ["Origin: https://app.example"]


class TestRateLimitByIp(LayerConformance):
    """Far below the limit."""

    chain: ClassVar[Sequence[Entry]] = [{"rate_limit": {"by": "ip", "requests": MANY}}]


class TestRateLimitByKey(LayerConformance):
    """Far below the limit."""

    chain: ClassVar[Sequence[Entry]] = [IDENTIFY, {"rate_limit": {"by": "key", "requests": MANY}}]


class TestApiKeyAuth(LayerConformance):
    """With a key that works."""

    chain: ClassVar[Sequence[Entry]] = ["api_key_auth"]


class TestRbac(LayerConformance):
    """With a role that may call everything."""

    chain: ClassVar[Sequence[Entry]] = [IDENTIFY, {"rbac": {"allow": {"member": ["* /v1/**"]}}}]


class TestRbacByModel(LayerConformance):
    """Where the body decides: it is read, up to the layer's own bound, before anything goes up."""

    chain: ClassVar[Sequence[Entry]] = [
        IDENTIFY,
        {"rbac": {"allow": {"member": ["* /v1/**"]}, "models": {"member": ["conformance"]}}},
    ]
    largest: ClassVar[int] = 4 * 2**20
    memory: ClassVar[int] = 32 * 2**20


class TestModels(LayerConformance):
    """Asked for something else than models."""

    chain: ClassVar[Sequence[Entry]] = [IDENTIFY, {"models": {"models": ["demo"]}}]


class TestDemo(LayerConformance):
    """Asked for another model."""

    chain: ClassVar[Sequence[Entry]] = ["demo"]


class TestVault(LayerConformance):
    """Lends the provider's key."""

    chain: ClassVar[Sequence[Entry]] = [IDENTIFY, "vault"]
    credential: ClassVar[str] = "bearer"


class TestTlsRedirectOverTls(LayerConformance):
    """Behind a proxy that has ended TLS."""

    chain: ClassVar[Sequence[Entry]] = [{"tls_redirect": {"to": "https://gateway.example.com"}}]
    fields: ClassVar[Sequence[str]] = ["X-Forwarded-Proto: https"]
    settings: ClassVar[Mapping[str, object]] = {"trusted_proxies": ["127.0.0.0/8"]}


# ── Layers that answer ───────────────────────────────────────────────────────────────────────────────────────────────


class TestHealth(TerminalConformance):
    """Whether it lives."""

    chain: ClassVar[Sequence[Entry]] = ["health"]
    route: ClassVar[str] = "/"
    method: ClassVar[str] = "GET"
    path: ClassVar[str] = "/readyz"


class TestMetrics(TerminalConformance):
    """What it has counted."""

    chain: ClassVar[Sequence[Entry]] = ["health"]
    route: ClassVar[str] = "/"
    method: ClassVar[str] = "GET"
    path: ClassVar[str] = "/metrics"


class TestDemoAnswers(TerminalConformance):
    """In one piece."""

    chain: ClassVar[Sequence[Entry]] = ["demo", {"use": "gateway.testing:Echo"}]
    body: ClassVar[bytes] = b'{"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}'
    memory: ClassVar[int] = READ_BY_ECHO


class TestDemoStreams(TestDemoAnswers):
    """Word by word."""

    chain: ClassVar[Sequence[Entry]] = [{"demo": {"pace": "1ms"}}, {"use": "gateway.testing:Echo"}]
    body: ClassVar[bytes] = TestDemoAnswers.body[:-1] + b', "stream": true}'
    streams: ClassVar[bool] = True


class TestModelsAnswers(TerminalConformance):
    """The list."""

    chain: ClassVar[Sequence[Entry]] = [IDENTIFY, {"models": {"models": ["demo"]}}, {"use": "gateway.testing:Echo"}]
    method: ClassVar[str] = "GET"
    path: ClassVar[str] = "/v1/models"
    memory: ClassVar[int] = READ_BY_ECHO


class TestTlsRedirect(TerminalConformance):
    """Over plain HTTP, where everything carries a key: refused."""

    chain: ClassVar[Sequence[Entry]] = [{"tls_redirect": {"to": "https://gateway.example.com"}}]


class TestRateLimitRefuses(TerminalConformance):
    """Past the limit."""

    chain: ClassVar[Sequence[Entry]] = [
        {"rate_limit": {"by": "ip", "requests": "1/h", "burst": 1}},
        {"use": "gateway.testing:Echo"},
    ]
    memory: ClassVar[int] = READ_BY_ECHO


class TestApiKeyAuthRefuses(TerminalConformance):
    """Two different credentials."""

    chain: ClassVar[Sequence[Entry]] = ["api_key_auth", {"use": "gateway.testing:Echo"}]
    fields: ClassVar[Sequence[str]] = ["x-api-key: another"]


def test_no_built_in_layer_is_forgotten() -> None:
    """Whoever adds a layer says how it keeps the promises."""
    suites = [suite for suite in globals().values() if isinstance(suite, type) and hasattr(suite, "chain")]
    used = {
        name for suite in suites for entry in suite.chain for name in (entry if isinstance(entry, dict) else [entry])
    }
    ours = {
        point.name for point in entry_points(group="gateway.plugins") if point.module.startswith("gateway.plugins.")
    }
    assert ours - used == {"forward"}  # the end of every LayerConformance
