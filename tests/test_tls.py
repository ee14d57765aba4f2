"""TLS on both sides, on real sockets, with certificates that the test has made."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.errors import ConfigError
from gateway.testing import running_gateway
from tests.worlds.certificates import Authority
from tests.worlds.programs import running
from tests.worlds.raw_upstream import RawUpstream, Script, answering, silence
from tests.worlds.wire import Wire, dial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from gateway.testing import Live
    from tests.worlds.certificates import Pair

YAML = """
listeners:
  public: {{bind: "127.0.0.1:0", tls: {{certificate: gateway.pem, key: gateway.key{minimum}}}}}
  plain: {{bind: "127.0.0.1:0"}}
store: ${{STORE}}
vault: {{master_key: "${{GATEWAY_MASTER_KEY}}"}}
upstreams:
  u: {{base_url: "{origin}", dialect: openai, credential: bearer{upstream}}}
limits: {{{limits}}}
routes:
  - name: api
    listener: public
    path: /v1/
    chain: [security_headers, api_key_auth, vault, {{forward: {{upstream: u}}}}]
  - name: plain
    listener: plain
    path: /
    chain: [security_headers, {{tls_redirect: {{to: "https://gateway.example.com"}}}}]
"""

GATEWAY = [sys.executable, "-c", "from gateway.cli import main; main()"]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who issues what this test needs, into its folder."""
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    """The gateway's certificate, as its file says."""
    return authority.issue("gateway")


@asynccontextmanager
async def serving(
    folder: Path, script: Script = silence, *, minimum: str = "", limits: str = ""
) -> AsyncIterator[tuple[Live, RawUpstream]]:
    """A gateway over TLS in front of a scripted upstream."""
    minimum = f', minimum: "{minimum}"' if minimum else ""
    async with RawUpstream(script) as raw:
        yaml = YAML.format(origin=raw.origin, minimum=minimum, upstream="", limits=limits)
        async with running_gateway(yaml, folder) as live:
            yield live, raw


def request(live: Live, *lines: str, method: str = "GET", path: str = "/v1/x", body: bytes = b"") -> bytes:
    """A request as it goes into the encryption."""
    head = [f"{method} {path} HTTP/1.1", "Host: gateway", f"Authorization: Bearer {live.key}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


def session(wire: Wire) -> ssl.SSLObject:
    """What was negotiated."""
    negotiated = wire.transport.get_extra_info("ssl_object")
    assert isinstance(negotiated, ssl.SSLObject)
    return negotiated


def serial(wire: Wire) -> int:
    """The certificate that the server showed."""
    shown = session(wire).getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


async def refuses(live: Live, client: ssl.SSLContext) -> bool:
    """Whether there is no handshake with such a client."""
    try:
        async with dial(live.url(""), tls=client):
            return False
    except (ssl.SSLError, ConnectionError):
        return True


# ── What is negotiated ──


async def test_tls_1_3_alone_by_default(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """A client of TLS 1.2 gets no connection; one of 1.3 gets its answer, and is told to come back over TLS only."""
    async with serving(tmp_path, answering(OK)) as (live, _):
        assert await refuses(live, authority.client(ssl.TLSVersion.TLSv1_2))
        async with dial(live.url(""), tls=authority.client()) as client:
            assert session(client).version() == "TLSv1.3"
            await client.send(request(live))
            answer = await client.message()
    assert answer.status == 200
    assert answer.values(b"strict-transport-security") == [b"max-age=31536000"]


async def test_tls_1_2_where_it_is_configured(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """RFC 9325, 4.2: with forward secrecy and authenticated encryption, and with nothing else."""
    async with serving(tmp_path, answering(OK), minimum="1.2") as (live, _):
        client = authority.client(ssl.TLSVersion.TLSv1_2)
        async with dial(live.url(""), tls=client) as wire:
            cipher = session(wire).cipher()
            assert cipher is not None
            assert cipher[0].startswith("ECDHE-ECDSA-")
            await wire.send(request(live))
            assert (await wire.message()).status == 200
        async with dial(live.url(""), tls=authority.client()) as wire:
            assert session(wire).version() == "TLSv1.3"
        client.set_ciphers(
            "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA:AES128-GCM-SHA256:DHE-RSA-AES128-GCM-SHA256"
        )
        assert await refuses(live, client)


async def test_http_1_1_is_agreed_on(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """RFC 7301: a client that also speaks h2 is told which; one that speaks h2 alone is not lied to."""
    async with serving(tmp_path) as (live, _):
        for offered, agreed in ((["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)):
            context = authority.client()
            if offered:
                context.set_alpn_protocols(offered)
            async with dial(live.url(""), tls=context) as client:
                assert session(client).selected_alpn_protocol() == agreed


SCANS = (
    *(
        "--certinfo",
        "--sslv2",
        "--sslv3",
        "--tlsv1",
        "--tlsv1_1",
        "--tlsv1_2",
        "--tlsv1_3",
        "--elliptic_curves",
        "--ems",
    ),
    *("--compression", "--early_data", "--fallback", "--heartbleed", "--openssl_ccs", "--reneg", "--resum", "--robot"),
)


async def sslyze(live: Live, authority: Authority, profile: str) -> tuple[dict[str, Any], set[str]]:
    """What a scanner that nobody here wrote finds, and in what the listener differs from Mozilla's profile."""
    found = authority.file.with_name("found.json")
    host, port = live.address
    options = ("--certinfo_ca_file", authority.file, "--json_out", found, "--mozilla_config", profile)
    scanner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sslyze", *SCANS, *options, f"localhost:{port}{{{host}}}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    said, _ = await scanner.communicate()
    differences = said.decode().partition(f'Mozilla\'s "{profile}" configuration')[2]
    assert differences, said.decode()
    (server,) = json.loads(found.read_bytes())["server_scan_results"]
    scans = {name: scan["result"] for name, scan in server["scan_result"].items() if scan["status"] == "COMPLETED"}
    return scans, set(re.findall(r"\* (\w+): ", differences))


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(
    ("minimum", "profile", "spoken"), [("1.3", "modern", {"1_3"}), ("1.2", "intermediate", {"1_2", "1_3"})]
)
async def test_a_scanner_finds_nothing_weak(
    tmp_path: Path, authority: Authority, minimum: str, profile: str, spoken: set[str]
) -> None:
    """sslyze: 1.3 alone by default, forward secrecy and authenticated encryption, and none of the known attacks.

    Of Mozilla's profiles one thing is not kept: OpenSSL also offers X448 and P-521, and Python cannot say otherwise
    before 3.15. Neither is weak.
    """
    async with serving(tmp_path, minimum=minimum) as (live, _):
        found, differences = await sslyze(live, authority, profile)
    assert differences <= {"tls_curves"}
    suites = {name: scan["accepted_cipher_suites"] for name, scan in found.items() if name.endswith("_cipher_suites")}
    assert {name[4:7] for name, accepted in suites.items() if accepted} == spoken
    assert len(suites) == 6
    for suite in [suite for accepted in suites.values() for suite in accepted]:
        assert re.search("GCM|CHACHA20", suite["cipher_suite"]["name"])
        assert suite["ephemeral_key"]["type_name"] == "ECDH"
    assert found["tls_compression"] == {"supports_compression": False}
    assert found["tls_1_3_early_data"] == {"supports_early_data": False}
    assert found["heartbleed"] == {"is_vulnerable_to_heartbleed": False}
    assert found["openssl_ccs_injection"] == {"is_vulnerable_to_ccs_injection": False}
    assert found["robot"] == {"robot_result": "NOT_VULNERABLE_RSA_NOT_SUPPORTED"}
    assert found["session_renegotiation"]["client_renegotiations_success_count"] == 0
    assert not found["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]
    assert found["session_resumption"]["tls_ticket_successful_resumptions_count"] == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_there_are_no_tickets(tmp_path: Path, authority: Authority, pair: Pair, version: ssl.TLSVersion) -> None:
    """A client that comes back sees the certificate again, and no ticket key can be stolen."""
    serves_both = serving(tmp_path, answering(OK), minimum="1.2")
    async with serves_both as (live, _), dial(live.url(""), tls=authority.client(version)) as client:
        await client.send(request(live))
        await client.message()  # under 1.3 tickets would come with the first data
        kept = session(client).session
    assert kept is None or not kept.has_ticket


async def test_a_silent_handshake_is_ended(tmp_path: Path, pair: Pair) -> None:
    """F31: who connects and does not speak TLS, or any, is given the time of a request's head and no more."""
    impatient = serving(tmp_path, limits="header_timeout: 100ms")
    async with impatient as (live, _), dial(live.url("").replace("https", "http")) as client:
        assert await client.ended()
        assert not client.received


async def test_answers_from_before_the_chain(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """What the guard, the router and the parser refuse carries HSTS over TLS, and never over plain HTTP."""
    bad = [b"GET /v1/../x HTTP/1.1\r\nHost: g\r\n\r\n", b"GET /none HTTP/1.1\r\nHost: g\r\n\r\n", b"GARBAGE\r\n\r\n"]
    async with serving(tmp_path) as (live, _):
        for head in bad:
            async with dial(live.url(""), tls=authority.client()) as client:
                await client.send(head)
                assert (await client.message()).value(b"strict-transport-security") == b"max-age=31536000"
            async with dial(live.url("", "plain")) as client:
                await client.send(head)
                assert (await client.message()).value(b"strict-transport-security") is None


# ── Certificates, at the start ──


def encrypted(authority: Authority, folder: Path) -> None:
    """A key with a password."""
    authority.issue("gateway", password=b"hunter2")


def swapped(authority: Authority, folder: Path) -> None:
    """Another certificate's key."""
    authority.issue("gateway")
    authority.issue("other").key.rename(folder / "gateway.key")


def weak(authority: Authority, folder: Path) -> None:
    """RSA with 1024 bits."""
    authority.issue("gateway", key=rsa.generate_private_key(65537, 1024))  # noqa: S505 - that is the point


def holding(name: str, data: bytes) -> Callable[[Authority, Path], None]:
    """Something else in one of the files."""

    def write(authority: Authority, folder: Path) -> None:
        authority.issue("gateway")
        (folder / name).write_bytes(data)

    return write


def without(name: str) -> Callable[[Authority, Path], None]:
    """One file missing."""

    def remove(authority: Authority, folder: Path) -> None:
        authority.issue("gateway")
        (folder / name).unlink()

    return remove


BROKEN: dict[str, tuple[Callable[[Authority, Path], None], str, str]] = {
    "no certificate": (without("gateway.pem"), "certificate", "gateway.pem cannot be read: No such file"),
    "no key": (without("gateway.key"), "key", "gateway.key cannot be read: No such file"),
    "certificate is empty": (holding("gateway.pem", b""), "certificate", "gateway.pem holds no certificate in PEM"),
    "certificate is damaged": (
        holding("gateway.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        "certificate",
        "gateway.pem holds no certificate in PEM",
    ),
    "certificate is endless": (holding("gateway.pem", bytes(2**20 + 1)), "certificate", "larger than 1 MiB"),
    "key is empty": (holding("gateway.key", b""), "key", "gateway.key holds no private key in PEM"),
    "key is damaged": (
        holding("gateway.key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        "key",
        "gateway.key holds no private key in PEM",
    ),
    "key has a password": (encrypted, "key", "keys with a password are not supported"),
    "key is another's": (swapped, "key", "gateway.key is not the key of the certificate"),
    "key is weak": (weak, "certificate", "gateway.pem has a key that is too weak"),
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_unusable_files_are_errors_of_the_file(tmp_path: Path, authority: Authority, fault: str) -> None:
    """F69: a gateway that could not speak TLS does not start, and says in which line of gateway.yaml and why."""
    break_it, field, problem = BROKEN[fault]
    break_it(authority, tmp_path)
    with pytest.raises(ConfigError) as refused:
        async with serving(tmp_path):
            pass
    (found,) = refused.value.faults
    assert found.where == f"{tmp_path}/gateway.yaml:3"
    assert found.path == f"listeners.public.tls.{field}"
    assert problem in found.problem
    assert "hunter2" not in str(refused.value)


async def test_an_expired_certificate_is_served_with_a_warning(
    tmp_path: Path, authority: Authority, capfd: pytest.CaptureFixture[str]
) -> None:
    """A gateway that does not start helps nobody; clients refuse it by themselves, and the operator is told why."""
    authority.issue("gateway", end=timedelta(hours=-1))
    async with serving(tmp_path) as (live, _):
        assert await refuses(live, authority.client())
    (line,) = lines(capfd, "the certificate is not valid now")
    assert (line["level"], line["listener"], line["file"]) == ("warning", "public", f"{tmp_path}/gateway.pem")


def lines(capfd: pytest.CaptureFixture[str], event: str) -> list[dict[str, str]]:
    """The log lines of that event."""
    found = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == event]


# ── Certificates, renewed ──


async def test_a_renewed_certificate_is_served_while_a_stream_goes_on(
    tmp_path: Path, authority: Authority, pair: Pair, capfd: pytest.CaptureFixture[str]
) -> None:
    """F69: new connections get it from the reload on; those that are open are not touched."""
    renewed = asyncio.Event()

    async def stream(wire: Wire) -> None:
        await wire.message()
        await wire.send(EVENTS)
        await renewed.wait()
        await wire.send(DONE)

    async with serving(tmp_path, stream) as (live, _):
        async with dial(live.url(""), tls=authority.client()) as old:
            await old.send(request(live))
            assert (await old.head()).startswith(b"HTTP/1.1 200")
            issued = authority.issue("gateway")
            async with dial(live.url(""), tls=authority.client()) as before:
                assert serial(before) == pair.serial
            await live.gateway.reload_certificates()
            async with dial(live.url(""), tls=authority.client()) as after:
                assert serial(after) == issued.serial != pair.serial
            renewed.set()
            answer = await old.message()
            assert (answer.complete, answer.body) == (True, b"data: [DONE]\n\n")
        metrics = live.gateway.running.services.metrics.render()
    assert b'gateway_certificate_reloads_total{listener="public",result="loaded"} 1.0' in metrics
    (line,) = lines(capfd, "certificate reloaded")
    assert line["file"] == f"{tmp_path}/gateway.pem"


def expired(authority: Authority, folder: Path) -> None:
    """A certificate of last year."""
    authority.issue("gateway", end=timedelta(days=-1))


def early(authority: Authority, folder: Path) -> None:
    """A certificate of next week."""
    authority.issue("gateway", start=timedelta(days=7))


UNUSABLE = {
    **{name: (break_it, problem) for name, (break_it, _, problem) in BROKEN.items()},
    "certificate has expired": (expired, "is valid from"),
    "certificate is not valid yet": (early, "is valid from"),
}


@pytest.mark.parametrize("fault", UNUSABLE)
async def test_a_broken_renewal_changes_nothing(
    tmp_path: Path, authority: Authority, pair: Pair, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """F69: the pair that was loaded goes on being served; the operator is told which file is wrong, and mends it."""
    break_it, problem = UNUSABLE[fault]
    async with serving(tmp_path) as (live, _):
        break_it(authority, tmp_path)
        await live.gateway.reload_certificates()
        async with dial(live.url(""), tls=authority.client()) as client:
            assert serial(client) == pair.serial
        metrics = live.gateway.running.services.metrics.render()
        mended = authority.issue("gateway")
        await live.gateway.reload_certificates()
        async with dial(live.url(""), tls=authority.client()) as client:
            assert serial(client) == mended.serial
    assert b'gateway_certificate_reloads_total{listener="public",result="refused"} 1.0' in metrics
    (line,) = lines(capfd, "certificate not reloaded, the one before stays")
    assert line["level"] == "error"
    assert problem in line["problem"]
    assert str(tmp_path) in line["problem"]


@pytest.mark.asyncio(loop_factories=["asyncio"])  # the loop that matters is the program's own
async def test_sighup_reloads(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """F69: the command, on the event loop that it brings: told to, it serves the new certificate, and lives on."""
    await asyncio.to_thread(subprocess.run, [*GATEWAY, "init"], cwd=tmp_path, check=True, capture_output=True)
    file = tmp_path / "gateway.yaml"
    tls = '"127.0.0.1:0", tls: {certificate: gateway.pem, key: gateway.key}}'
    file.write_text(file.read_text().replace("127.0.0.1:8080}", tls).replace("127.0.0.1:8081}", '"127.0.0.1:0"}'))
    serve = running([*GATEWAY, "serve"], ready=r"public listens on (\S+)", output=tmp_path / "out", cwd=tmp_path)
    with serve as program:
        origin = f"https://{program.said()}"
        async with dial(origin, tls=authority.client()) as client:
            assert serial(client) == pair.serial
        renewed = authority.issue("gateway")
        program.process.send_signal(signal.SIGHUP)
        shown = pair.serial
        async with asyncio.timeout(10):
            while shown == pair.serial:
                async with dial(origin, tls=authority.client()) as client:
                    shown = serial(client)
        assert shown == renewed.serial
        program.process.terminate()
        assert await asyncio.to_thread(program.process.wait, 30) == 0
    assert "Traceback" not in program.text()


# ── An exchange over TLS ──


async def test_bytes_pass_both_ways(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """Five megabytes up and down, through records of sixteen kilobytes, arrive as they were sent."""
    data = bytes(range(256)) * 20_000

    async def mirror(wire: Wire) -> None:
        body = (await wire.message()).body
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with serving(tmp_path, mirror) as (live, _), dial(live.url(""), tls=authority.client()) as client:
        await client.send(request(live, f"Content-Length: {len(data)}", method="POST", body=data))
        answer = await client.message()
    assert answer.complete
    assert answer.body == data


async def test_continue_comes_when_the_body_is_wanted(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """F38: 100 Continue goes through the encryption like everything else, and never to who has no key."""
    wanted = ["Expect: 100-continue", "Content-Length: 2"]
    async with serving(tmp_path, answering(OK)) as (live, _):
        async with dial(live.url(""), tls=authority.client()) as client:
            await client.send(request(live, *wanted, method="POST"))
            assert (await client.message()).status == 100
            await client.send(b"{}")
            assert (await client.message()).status == 200
        async with dial(live.url(""), tls=authority.client()) as client:
            await client.send(request(live, *wanted, method="POST").replace(live.key.encode(), b"gw_wrong"))
            assert (await client.message()).status == 401


async def test_events_are_not_held_back(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """Each event is there before the next is sent."""
    seen = asyncio.Queue[None]()

    async def stream(wire: Wire) -> None:
        await wire.message()
        await wire.send(EVENTS)
        for number in range(20):
            await wire.send(b"9\r\ndata: %02d\n\r\n" % number)
            await seen.get()
        await wire.send(DONE)

    async with serving(tmp_path, stream) as (live, _), dial(live.url(""), tls=authority.client()) as client:
        await client.send(request(live))
        for number in range(20):
            await client.holds(b"data: %02d" % number)
            seen.put_nowait(None)
        assert (await client.message()).complete


@pytest.mark.parametrize("window", ["before the head", "in mid-stream"])
@pytest.mark.parametrize("leave", [Wire.close, Wire.reset], ids=["close_notify", "reset"])
async def test_a_client_that_leaves_ends_its_upstream_connection(
    tmp_path: Path, authority: Authority, pair: Pair, window: str, leave: Callable[[Wire], None]
) -> None:
    """F28, F29: over TLS the end of the client's direction is its end, orderly or not, and the upstream hears of it."""

    async def script(wire: Wire) -> None:
        await wire.head()
        if window == "in mid-stream":
            await wire.send(EVENTS + b"9\r\ndata: 00\n\r\n")

    async with serving(tmp_path, script) as (live, raw), dial(live.url(""), tls=authority.client()) as client:
        await client.send(request(live))
        upstream = await raw.connection()
        await upstream.head()
        if window == "in mid-stream":
            await client.holds(b"data: 00")
        leave(client)
        assert await upstream.ended()


async def test_a_client_that_does_not_read(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """F30: what waits in the encryption counts as unread too; the client is given up, and the upstream with it."""

    async def flood(wire: Wire) -> None:
        await wire.message()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % 2**28)
        wire.transport.write(bytes(2**26))

    impatient = serving(tmp_path, flood, limits="write_timeout: 300ms")
    async with impatient as (live, raw), dial(live.url(""), tls=authority.client()) as client:
        client.reading(False)
        await client.send(request(live))
        assert await (await raw.connection()).ended()


async def test_a_broken_stream_never_looks_complete(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """F07: the error event arrives, the last chunk does not."""

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(EVENTS + b"9\r\ndata: 00\n\r\n")
        wire.reset()

    async with serving(tmp_path, script) as (live, _), dial(live.url(""), tls=authority.client()) as client:
        await client.send(request(live))
        answer = await client.message()
    assert b'data: {"error"' in answer.body
    assert not answer.complete


async def test_a_key_over_plain_http(tmp_path: Path, pair: Pair, capfd: pytest.CaptureFixture[str]) -> None:
    """The whole way: refused, the upstream not asked, the key's id in the log and the key nowhere."""
    async with serving(tmp_path) as (live, raw), dial(live.url("", "plain")) as client:
        await client.send(request(live, "Content-Length: 2", method="POST", body=b"{}"))
        answer = await client.message()
        assert not raw.connections
    assert answer.status == 403
    assert answer.value(b"x-should-retry") == b"false"
    assert answer.value(b"strict-transport-security") is None
    captured = capfd.readouterr().err
    (line,) = [json.loads(line) for line in captured.splitlines() if "key exposed" in line]
    assert line["level"] == "warning"
    assert (line["known"], len(line["key"])) == ("yes", 26)
    assert live.key not in captured + answer.body.decode()


# ── Upstreams ──


@asynccontextmanager
async def before_tls(
    folder: Path, authority: Authority, server: Pair, script: Script, *, trusted: bool = True
) -> AsyncIterator[tuple[Live, RawUpstream]]:
    """A gateway in front of an upstream that shows this certificate."""
    authority.issue("gateway")
    upstream = f", tls: {{ca: {authority.file.name}}}" if trusted else ""
    async with RawUpstream(script, tls=server.server()) as raw:
        yaml = YAML.format(origin=raw.origin, minimum="", upstream=upstream, limits="")
        async with running_gateway(yaml, folder) as live:
            yield live, raw


async def ask(live: Live, authority: Authority) -> tuple[int, bytes]:
    """One request with a body."""
    async with dial(live.url(""), tls=authority.client()) as client:
        await client.send(request(live, "Content-Length: 6", method="POST", body=b"secret"))
        answer = await client.message()
        return answer.status, answer.body


async def test_a_private_authority_by_configuration(tmp_path: Path, authority: Authority) -> None:
    """An upstream whose certificate the configured authority issued for its name gets the request, with our key."""
    async with before_tls(tmp_path, authority, authority.issue("upstream"), answering(OK)) as (live, raw):
        assert await ask(live, authority) == (200, b"{}")
        arrived = (await raw.connection()).received
        assert arrived.endswith(b"secret")
        assert live.provider_keys["u"].encode() in arrived


@pytest.mark.parametrize("fault", ["wrong host", "expired", "not valid yet", "unknown authority", "another authority"])
async def test_an_upstream_that_cannot_prove_itself(tmp_path: Path, authority: Authority, fault: str) -> None:
    """F04: 502, and nothing of the request or of any key has left: there is no way to configure that away."""
    (tmp_path / "other").mkdir()
    server = {
        "wrong host": lambda: authority.issue("upstream", "elsewhere.example"),
        "expired": lambda: authority.issue("upstream", end=timedelta(hours=-1)),
        "not valid yet": lambda: authority.issue("upstream", start=timedelta(days=1)),
        "unknown authority": lambda: authority.issue("upstream"),
        "another authority": lambda: Authority(tmp_path / "other").issue("upstream"),
    }[fault]()
    trusted = fault != "unknown authority"
    async with before_tls(tmp_path, authority, server, answering(OK), trusted=trusted) as (live, raw):
        status, body = await ask(live, authority)
        assert (status, json.loads(body)["error"]["code"]) == (502, "upstream_unreachable")
        assert not any(wire.received for wire in raw.connections)
