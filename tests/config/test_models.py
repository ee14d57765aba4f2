"""Single values of gateway.yaml: what they are read as."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.config.models import Address, BaseUrl, GatewayConfig

if TYPE_CHECKING:
    from tests.config.conftest import Load, Refused


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("[::1]:0", "::1", 0),
        ("[::ffff:1.2.3.4]:65535", "::ffff:1.2.3.4", 65535),
        ("gateway.internal:80", "gateway.internal", 80),
    ],
)
def test_an_address_is_host_and_port(written: str, host: str, port: int) -> None:
    """IPv6 loses its brackets; port 0 is the system's choice."""
    assert Address.parse(written) == Address(host, port)


@pytest.mark.parametrize(
    "written", [8080, ":8080", "8080", "127.0.0.1", "1.2.3.4:65536", "[::1", "::1:80", "[1:2]:3", "a b:1"]
)
def test_what_is_no_address_is_refused(written: object) -> None:
    """A listener on every network must be asked for."""
    with pytest.raises(ValueError, match=r"host:port|IPv6"):
        Address.parse(written)


@pytest.mark.parametrize(
    ("written", "origin", "path"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com", "/v1"),
        ("https://API.OpenAI.com:443/v1/", "https://api.openai.com", "/v1"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000", ""),
        ("http://models:80/", "http://models", ""),
        ("https://[::1]:8443/a/b", "https://[::1]:8443", "/a/b"),
        ("https://x/openai/deployments/GPT-5@eu", "https://x", "/openai/deployments/GPT-5@eu"),
    ],
)
def test_a_base_url_is_a_canonical_origin_and_a_raw_path(written: str, origin: str, path: str) -> None:
    """Provider keys are bound to the origin, so two spellings of one must be equal; the path keeps its bytes."""
    assert BaseUrl.parse(written) == BaseUrl(origin, path)


@pytest.mark.parametrize(
    "written",
    [
        "https://me:canary@host/v1",
        "https://host/v1?canary",
        "https://host/v1#canary",
        "https://host/canary/../v1",
        "https://host/canary//v1",
        "https://host:0/canary",
        "https://canary host/",
        "https://host\\canary/",
        "https:///canary",
        "https://host/canary\n",
        "HTTPS://host/canary",
        "https://cänary/",
        "file:///canary",
        5,
    ],
)
def test_what_is_no_base_url_is_refused_unseen(written: object) -> None:
    """F73: a URL may hold a password, so the error does not repeat it."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        BaseUrl.parse(written)
    assert "canary" not in str(caught.value)


def test_an_upstream_has_what_it_was_given(loaded: Load, working: str, tmp_path: Path) -> None:
    """Units are gone, names of headers are in lower case, paths begin beside the file."""
    config = loaded(
        working.replace(
            "credential: bearer}",
            "credential: {header: X-Api-Key}, timeouts: {connect: 500ms, idle: 2m}, "
            "tls: {ca: certificates/ca.pem}, response_headers: [X-Served-By, X-Vendor-*], max_connections: 3}",
        )
    )
    upstream = config.upstreams["house"]
    assert upstream.credential.header == "x-api-key"  # type: ignore[union-attr]
    assert (upstream.timeouts.connect, upstream.timeouts.first_byte, upstream.timeouts.idle) == (0.5, 120.0, 120.0)
    assert upstream.tls is not None
    assert upstream.tls.ca == tmp_path / "certificates" / "ca.pem"
    assert upstream.response_headers == ("x-served-by", "x-vendor-*")
    assert upstream.max_connections == 3


def test_an_absolute_certificate_stays_where_it_is(loaded: Load, working: str) -> None:
    """It is not looked for below the file's folder."""
    tls = loaded(working.replace("bearer}", "bearer, tls: {ca: /etc/ca.pem}}")).upstreams["house"].tls
    assert tls is not None
    assert tls.ca == Path("/etc/ca.pem")


def test_a_listeners_certificate_lies_beside_the_file(loaded: Load, working: str, tmp_path: Path) -> None:
    """F69: so does its key; which versions of TLS it speaks is text."""
    tls = "8080, tls: {certificate: tls/chain.pem, key: /etc/key.pem, minimum: '1.2'}}"
    listener = loaded(working.replace("8080}", tls)).listeners["public"].tls
    assert listener is not None
    assert (listener.certificate, listener.key) == (tmp_path / "tls" / "chain.pem", Path("/etc/key.pem"))
    assert listener.minimum == "1.2"


def test_proxies_are_networks(loaded: Load, working: str) -> None:
    """F81: an address is a network of one; nobody is trusted unless named."""
    assert loaded(working).trusted_proxies == ()
    trusted = loaded(f"{working}trusted_proxies: [10.0.0.0/8, 192.0.2.7, 'fd00::/8']\n").trusted_proxies
    assert trusted == tuple(map(ip_network, ("10.0.0.0/8", "192.0.2.7/32", "fd00::/8")))


def test_a_route_has_several_paths_or_one(loaded: Load, working: str) -> None:
    """Whoever reads the configuration need not know which form was used."""
    assert loaded(working).routes[0].paths == ("/v1/",)
    assert loaded(working.replace("path: /v1/", "paths: [/a, /b/c]")).routes[0].paths == ("/a", "/b/c")
    assert loaded(working.replace("path: /v1/", "path: /")).routes[0].paths == ("/",)


@pytest.mark.parametrize(
    "store", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x", "sqlite:///x?y", "x"]
)
def test_a_store_is_a_file(store: str, refused: Refused, working: str) -> None:
    """F49: a store that lives in memory, or elsewhere than its name says, would lose every key."""
    assert refused(f"{working}store: '{store}'\n") == ["12 store: write sqlite:///data/gateway.db"]


@pytest.mark.parametrize("duration", ["1s\n", "٣s", "1 s ", "1e3s", "999999999999999s", "inf"])
def test_quantities_are_plain_and_finite(duration: str, refused: Refused, working: str) -> None:
    """No quantity overflows, and none is read from digits that only look like some."""
    (fault,) = refused(f"{working}drain_timeout: '${{TIME}}'\n", {"TIME": duration})
    assert fault.startswith("12 drain_timeout: write a duration")


def test_a_configuration_comes_from_a_file() -> None:
    """Whoever holds one can locate a fault in it."""
    route = {"name": "a", "listener": "a", "path": "/", "chain": ()}
    values = {"listeners": {"a": {"bind": "x:1"}}, "vault": {"master_key": "x"}, "routes": [route]}
    with pytest.raises(TypeError, match=r"gateway\.config\.load"):
        GatewayConfig.model_validate(values)


def test_a_configuration_does_not_change(loaded: Load, working: str) -> None:
    """One generation, one configuration."""
    config = loaded(working)
    with pytest.raises(ValueError, match="frozen"):
        config.log_level = "debug"  # type: ignore[misc]
