"""Whose request it is, behind any number of proxies that are trusted or not."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.forwarded import MAX_HOPS, Caller, caller, parse_forwarded

PROXIES = [ip_network("10.0.0.0/8"), ip_network("::1/128")]
XFF, XFP, STANDARD = "X-Forwarded-For", "X-Forwarded-Proto", "Forwarded"


def called(peer: str, *headers: tuple[str, str], secure: bool = False, trusted: object = PROXIES) -> Caller:
    """The caller of a request with these headers."""
    return caller(peer, secure=secure, headers=CIMultiDict(headers), trusted=trusted)  # type: ignore[arg-type]


def x_for(*values: str) -> list[tuple[str, str]]:
    """Lines of X-Forwarded-For."""
    return [(XFF, value) for value in values]


# ── X-Forwarded-For ──


@pytest.mark.parametrize(
    ("peer", "values", "client"),
    [
        ("1.1.1.1", ["9.9.9.9"], "1.1.1.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", ["6.6.6.6, 9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", ["6.6.6.6", "9.9.9.9, 10.0.0.2"], "9.9.9.9"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["9.9.9.9, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["9.9.9.9, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["9.9.9.9,"], "10.0.0.1"),
        ("10.0.0.1", ["9.9.9.9:55123"], "9.9.9.9"),
        ("10.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1"),
        ("10.0.0.1", ["2001:DB8:0::1"], "2001:db8::1"),
        ("10.0.0.1", ["fe80::1%eth0"], "10.0.0.1"),
        ("10.0.0.1", ["010.9.9.9"], "10.0.0.1"),
        ("10.0.0.1", ["::ffff:9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", ["9.9.9.9, ::ffff:10.0.0.2"], "9.9.9.9"),
        ("::ffff:10.0.0.1", ["9.9.9.9"], "9.9.9.9"),
        ("::ffff:1.1.1.1", ["9.9.9.9"], "1.1.1.1"),
        ("::1", ["2001:db8::1"], "2001:db8::1"),
        ("fe80::1%eth0", ["9.9.9.9"], "fe80::1%eth0"),
        ("", ["9.9.9.9"], ""),
    ],
)
def test_the_right_most_stranger(peer: str, values: list[str], client: str) -> None:
    """F81: the peer, unless it is trusted; then the right-most address that is no trusted proxy's, in one spelling."""
    assert called(peer, *x_for(*values)).client == client


def test_nobody_is_trusted_by_default() -> None:
    """F81: without ``trusted_proxies`` no header is believed."""
    claims = [(XFF, "9.9.9.9"), (XFP, "https"), (STANDARD, "for=9.9.9.9;proto=https")]
    assert called("10.0.0.1", *claims, trusted=[]) == Caller("10.0.0.1", secure=False)
    assert called("::ffff:10.0.0.1", trusted=[]).client == "10.0.0.1"


def test_a_thousand_entries_are_not_read() -> None:
    """F81: what is looked at is bounded, from the right; the bound never reaches a stranger's claim."""
    assert called("10.0.0.1", *x_for(", ".join(["6.6.6.6"] * 1000))).client == "6.6.6.6"
    proxies = ", ".join(["9.9.9.9"] + [f"10.0.1.{n}" for n in range(MAX_HOPS)])
    assert called("10.0.0.1", *x_for(proxies)).client == "10.0.1.0"


# ── X-Forwarded-Proto ──


@pytest.mark.parametrize(
    ("values", "secure"),
    [
        (["https"], True),
        (["HTTPS"], True),
        (["wss"], True),
        (["http"], False),
        (["https, http"], False),
        (["http", "https"], False),
        (["https,https"], True),
        (["https;"], False),
        ([""], False),
    ],
)
def test_the_protocol_is_a_trusted_proxys_to_say(values: list[str], secure: bool) -> None:
    """A trusted proxy's word is taken, both ways; a stranger's never."""
    lines = [(XFP, value) for value in values]
    assert called("10.0.0.1", *lines).secure is secure
    assert called("10.0.0.1", *lines, secure=True).secure is secure
    assert called("1.1.1.1", *lines).secure is False
    assert called("1.1.1.1", *lines, secure=True).secure is True


@pytest.mark.parametrize("secure", [True, False])
def test_the_socket_speaks_where_no_proxy_does(secure: bool) -> None:
    """A proxy that says nothing of the protocol leaves it to the connection that it made to us."""
    assert called("10.0.0.1", *x_for("9.9.9.9"), secure=secure) == Caller("9.9.9.9", secure)
    assert called("10.0.0.1", (STANDARD, "for=9.9.9.9"), secure=secure) == Caller("9.9.9.9", secure)


# ── Forwarded ──


@pytest.mark.parametrize(
    ("values", "client", "secure"),
    [
        (["for=9.9.9.9"], "9.9.9.9", False),
        (["For=9.9.9.9;Proto=HTTPS;by=10.0.0.1"], "9.9.9.9", True),
        (['for="9.9.9.9:4711";proto=http'], "9.9.9.9", False),
        (['for="[2001:DB8:cafe::17]:4711"'], "2001:db8:cafe::17", False),
        (['for="[2001:db8::1]:_port"'], "2001:db8::1", False),
        (['for="\\9.9.9.9"'], "9.9.9.9", False),
        (['for=6.6.6.6;host="a,b;c", for=9.9.9.9'], "9.9.9.9", False),
        (["for=6.6.6.6", "for=9.9.9.9, for=10.0.0.2"], "9.9.9.9", False),
        (["for=9.9.9.9;proto=https, for=10.0.0.2;proto=http"], "9.9.9.9", True),
        (["for=9.9.9.9;proto=http, for=10.0.0.2;proto=https"], "9.9.9.9", False),
        (["for=6.6.6.6, for=unknown"], "10.0.0.1", False),
        (["for=6.6.6.6, for=_hidden;proto=https"], "10.0.0.1", True),
        (["for=6.6.6.6, for=_hidden, for=10.0.0.2"], "10.0.0.2", False),
        (["for=6.6.6.6, proto=https"], "10.0.0.1", True),
        (["for=6.6.6.6, "], "10.0.0.1", False),
        (["for=6.6.6.6;for=9.9.9.9"], "10.0.0.1", False),
        (["for=9.9.9.9 proto=https"], "10.0.0.1", False),
        (['for=6.6.6.6;by=", for=9.9.9.9'], "10.0.0.1", False),
        (['for=6.6.6.6;by="', "for=9.9.9.9"], "9.9.9.9", False),
        (['for=6.6.6.6;by="', "for=10.0.0.2"], "10.0.0.2", False),
        (["for=6.6.6.6", 'for="9.9.9.9'], "10.0.0.1", False),
        ([""], "10.0.0.1", False),
        (["for=6.6.6.6" + ", for=10.0.0.2" * 1000], "10.0.0.1", False),
    ],
)
def test_forwarded(values: list[str], client: str, secure: bool) -> None:
    """F81, RFC 7239: the same reading from the right; what is malformed, hidden or too long is believed to nobody."""
    assert called("10.0.0.1", *[(STANDARD, value) for value in values]) == Caller(client, secure)


def test_the_grammar_of_forwarded() -> None:
    """RFC 7239, 4: lists of elements, elements of pairs, values as tokens or quoted strings, each name once."""
    assert parse_forwarded('for=a; Proto="x\\"y",,for=b;') == [{"for": "a", "proto": 'x"y'}, {}, {"for": "b"}]
    for malformed in ("for", "for=", "=a", "for=a=b", 'for="a', 'for="a"b', "for=[::1]", "for=a for=b", "for=a\0"):
        assert parse_forwarded(malformed) is None


# ── Both ──


def test_two_families_that_agree() -> None:
    """Proxies that write both families are believed, whichever says more."""
    both = [(XFF, "6.6.6.6, 9.9.9.9"), (STANDARD, "for=9.9.9.9;proto=https")]
    assert called("10.0.0.1", *both) == Caller("9.9.9.9", secure=True)
    assert called("10.0.0.1", *both, (XFP, "https")) == Caller("9.9.9.9", secure=True)


def test_two_families_that_contradict_each_other() -> None:
    """F81: a proxy passes the family that it does not write; where they differ neither is the proxy's for sure."""
    assert called("10.0.0.1", (XFF, "9.9.9.9"), (STANDARD, "for=6.6.6.6")).client == "10.0.0.1"
    claims = [(XFF, "9.9.9.9"), (XFP, "http"), (STANDARD, "for=9.9.9.9;proto=https")]
    assert called("10.0.0.1", *claims, secure=True) == Caller("9.9.9.9", secure=False)


# ── Properties ──

strangers = st.ip_addresses().filter(lambda a: not any(a in network for network in PROXIES)).map(str)
proxies = st.integers(2, 2**16).map(lambda number: str(ip_address("10.0.0.0") + number))
printable = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60)
hostile = st.one_of(
    printable,
    st.lists(
        st.sampled_from(["for=", "proto=https", "6.6.6.6", '"', "\\", ",", ";", " ", "host=", "[::1]", "_x", "unknown"])
    ).map("".join),
)


def normal(address: str) -> str:
    """An address as the gateway writes it."""
    parsed = ip_address(address)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def element(address: str, host: str) -> str:
    """What an honest proxy appends to Forwarded: the node quoted where it must be, the Host that it was sent quoted."""
    node = f'"[{address}]"' if ":" in address else address
    quoted = host.replace("\\", "\\\\").replace('"', '\\"')
    return f'for={node};host="{quoted}";proto=https'


@given(claimed=st.lists(hostile, max_size=3), real=strangers, way=st.lists(proxies, max_size=4))
def test_no_claim_moves_x_forwarded_for(claimed: list[str], real: str, way: list[str]) -> None:
    """F81: whatever a client sends, in as many lines as it likes, it is found at the address it called from."""
    appended = ", ".join([real, *way])
    for headers in (x_for(*claimed, appended), x_for(*claimed[:-1], ", ".join([*claimed[-1:], appended]))):
        assert called("10.0.0.1", *headers).client == normal(real)


@given(claimed=hostile, host=hostile, real=strangers, way=st.lists(proxies, max_size=3))
@example(claimed='for=6.6.6.6;by="', host=',for=6.6.6.6;by="', real="9.9.9.9", way=[])
@example(claimed='for=6.6.6.6;by="', host="", real="2001:db8::1", way=["10.0.0.9"])
def test_no_claim_moves_forwarded(claimed: str, host: str, real: str, way: list[str]) -> None:
    """F81: a client that also chooses the Host which proxies quote reaches at most that nothing at all is believed."""
    assume(real != "6.6.6.6")
    honest = ", ".join(element(hop, host) for hop in [real, *way])
    found = called("10.0.0.1", (STANDARD, f"{claimed}, {honest}")).client
    assert found in {normal(real), "10.0.0.1"}
    if parse_forwarded(claimed) is not None:
        assert found == normal(real)
    assert called("10.0.0.1", (STANDARD, claimed), (STANDARD, honest)).client == normal(real)


@given(
    claimed=st.lists(st.tuples(st.sampled_from([XFF, XFP, STANDARD]), hostile), max_size=4),
    real=strangers,
    written=st.sampled_from([XFF, STANDARD]),
)
def test_no_claim_in_the_other_family_is_believed(claimed: list[tuple[str, str]], real: str, written: str) -> None:
    """F81: in front of a proxy that writes one family, claims in any family name at most the proxy itself."""
    honest = real if written == XFF else element(real, "gateway.example")
    assert called("10.0.0.1", *claimed, (written, honest)).client in {normal(real), "10.0.0.1"}


@given(
    headers=st.lists(st.tuples(st.sampled_from([XFF, XFP, STANDARD]), printable)), peer=st.one_of(strangers, printable)
)
def test_strangers_are_who_their_socket_says(headers: list[tuple[str, str]], peer: str) -> None:
    """F81: nothing that an untrusted peer sends changes anything."""
    assume(not peer.startswith(("10.", "::1", "::ffff:")))
    assume(called(peer).client == peer)
    assert called(peer, *headers) == Caller(peer, secure=False)
