"""Which of an upstream's response headers a client sees (faults.md F25)."""

from __future__ import annotations

import pytest

from gateway.dialects import CREDENTIAL_HEADERS, get

DIALECTS = ["openai", "anthropic", "passthrough"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "name",
    [
        "access-control-allow-origin",
        "alt-svc",
        "anthropic-organization-id",
        "cf-ray",
        "connection",
        "content-security-policy",
        "date",
        "openai-organization",
        "openai-project",
        "ratelimit",
        "request-id",
        "server",
        "set-cookie",
        "strict-transport-security",
        "transfer-encoding",
        "via",
        "x-goog-api-key",
        "x-powered-by",
        "x-request-id",
        "",
        *sorted(CREDENTIAL_HEADERS),
    ],
)
def test_what_stays_behind(dialect: str, name: str) -> None:
    """F25: cookies, keys, banners, CORS, organisations and hop-by-hop headers pass in no dialect."""
    assert not get(dialect).allows_response_header(name)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "name",
    ["cache-control", "content-encoding", "content-length", "content-type", "etag", "retry-after", "retry-after-ms",
     "x-ratelimit-limit-requests", "x-ratelimit-reset-tokens", "x-should-retry"],
)  # fmt: skip
def test_what_clients_need_passes(dialect: str, name: str) -> None:
    """What describes the body, the limits and the retries passes in every dialect."""
    assert get(dialect).allows_response_header(name)


@pytest.mark.parametrize(
    ("name", "dialects"),
    [
        ("openai-processing-ms", ["openai"]),
        ("openai-model", ["openai"]),
        ("anthropic-ratelimit-requests-remaining", ["anthropic"]),
        ("anthropic-priority-input-tokens-limit", ["anthropic"]),
    ],
)
def test_a_dialect_has_its_own(name: str, dialects: list[str]) -> None:
    """A provider's own headers pass in its dialect alone."""
    assert [dialect for dialect in DIALECTS if get(dialect).allows_response_header(name)] == dialects
