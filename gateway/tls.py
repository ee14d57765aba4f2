"""TLS, both sides: the contexts that listeners serve with, and those that upstreams are dialled with.

Owns what is negotiated and which files it is done with; the standard library (OpenSSL) does it.

*Listeners* speak TLS 1.3 (RFC 8446), and 1.2 only where ``minimum`` says so, then with ECDHE and AEAD suites alone (RFC
9325, 4.2). ALPN offers HTTP/1.1. There is no renegotiation, no compression, no early data, and there are no session
tickets: with one a client comes back without seeing a renewed certificate, and under TLS 1.2 a stolen ticket key opens
every recorded session. Clients of a gateway keep their connections, so what resumption would save is little. (Under 1.2
OpenSSL also resumes by session id, from a bounded cache in memory: Python cannot turn that off.)

*A renewed certificate* is loaded into a context of its own. Where all of it is right, new handshakes are moved there by
the server_name callback (RFC 6066, 3), which OpenSSL calls in every handshake, before it chooses a certificate. To load
it into the context that listens would not do: that takes two files one after the other, and a failure between them
leaves a listener that nobody can connect to.

*Upstreams* are always verified, against the system's authorities or against the configured ones alone.
"""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NoReturn

from cryptography import x509

from gateway.errors import CertificateError, ConfigError, Fault

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.config import GatewayConfig, ListenerTlsConfig
    from gateway.contract import Services

MAX_FILE_BYTES = 2**20

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

# For TLS 1.2; those of 1.3 are all of this kind. Level 2 refuses keys under 112 bits of strength, and SHA-1.
_CIPHERS = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20"

# What OpenSSL has against a certificate that could be read, in its words and in the operator's.
_WEAK = {
    "EE_KEY_TOO_SMALL": "has a key that is too weak: use EC P-256, RSA 2048 or better",
    "CA_KEY_TOO_SMALL": "holds an authority's certificate whose key is too weak",
    "CA_MD_TOO_WEAK": "is signed with a digest that is too weak: have it issued anew",
}


class _Encrypted(Exception):
    """A key wants a password."""


class ServerCertificate:
    """A listener's certificate and key. ``context`` is what its socket is opened with, once and for all.

    ``valid_from`` and ``valid_until`` are those of the certificate that new connections get.
    """

    def __init__(self, config: ListenerTlsConfig) -> None:
        """Raises CertificateError."""
        self._config = config
        self._served, self.valid_from, self.valid_until = _load(config)
        self.context = self._served
        self.context.sni_callback = self._serve_current

    @property
    def file(self) -> Path:
        """The certificate's file."""
        return self._config.certificate

    def is_valid(self, now: float) -> bool:
        """Whether ``now``, in seconds since the epoch, is between the certificate's dates."""
        return _is_between(self.valid_from, now, self.valid_until)

    def reload(self, now: float) -> None:
        """Give new connections what the files hold now. Raises CertificateError, and then nothing has changed.

        A certificate that nobody would accept now does not replace one that is served.
        """
        served, valid_from, valid_until = _load(self._config)
        if not _is_between(valid_from, now, valid_until):
            dates = f"is valid from {valid_from:%Y-%m-%d %H:%M} to {valid_until:%Y-%m-%d %H:%M} UTC, which now is not"
            raise CertificateError("certificate", f"{self.file} {dates}")
        self._served, self.valid_from, self.valid_until = served, valid_from, valid_until

    def _serve_current(self, connection: ssl.SSLSocket | ssl.SSLObject, *_: object) -> None:
        connection.context = self._served


class Certificates:
    """The certificates of all listeners that have one, by the listener's name."""

    def __init__(self, config: GatewayConfig) -> None:
        """Read them. Raises ConfigError with every fault."""
        self._by_listener: dict[str, ServerCertificate] = {}
        faults: list[Fault] = []
        for name, listener in config.listeners.items():
            try:
                if listener.tls is not None:
                    self._by_listener[name] = ServerCertificate(listener.tls)
            except CertificateError as error:
                faults.append(config.fault(str(error), "listeners", name, "tls", error.field))
        if faults:
            raise ConfigError(faults)

    def context(self, listener: str) -> ssl.SSLContext | None:
        """What to open the listener's socket with; None for plain HTTP."""
        certificate = self._by_listener.get(listener)
        return None if certificate is None else certificate.context

    def warn(self, services: Services) -> None:
        """Tell the operator of those that no client will accept today."""
        for name, certificate in self._by_listener.items():
            if not certificate.is_valid(services.clock.time()):
                services.log.warning("the certificate is not valid now", listener=name, **_described(certificate))

    async def reload(self, services: Services) -> None:
        """Serve what the files hold now. What cannot be served changes nothing; it is logged as an error.

        Counted either way.
        """
        for name, certificate in self._by_listener.items():
            try:
                await asyncio.to_thread(certificate.reload, services.clock.time())
            except CertificateError as error:
                result = "refused"
                services.log.error("certificate not reloaded, the one before stays", listener=name, problem=str(error))
            else:
                result = "loaded"
                services.log.info("certificate reloaded", listener=name, **_described(certificate))
            services.metrics.count("certificate_reloads", listener=name, result=result)


def client_context(ca: Path | None) -> ssl.SSLContext:
    """Verify the peer, its name included, against the authorities in ``ca`` alone, or against the system's.

    Raises CertificateError.
    """
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError("ca", "there are no certificates to be read in this file") from error


def _load(config: ListenerTlsConfig) -> tuple[ssl.SSLContext, datetime, datetime]:
    """A context that serves the pair, and the dates of the certificate."""
    leaf = _leaf(config.certificate)
    _read("key", config.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.minimum]
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET  # OpenSSL 1.1.1 would let clients renegotiate
    context.num_tickets = 0  # the same for TLS 1.3, where that option only changes the tickets' form
    try:
        context.load_cert_chain(config.certificate, config.key, password=_no_password)
    except _Encrypted:
        problem = (
            "is encrypted; keys with a password are not supported: keep it without one, for the gateway's eyes only"
        )
        raise CertificateError("key", f"{config.key} {problem}") from None
    except (OSError, ssl.SSLError) as error:
        raise _refused(config, error) from error
    return context, leaf.not_valid_before_utc, leaf.not_valid_after_utc


def _refused(config: ListenerTlsConfig, error: OSError) -> CertificateError:
    """What OpenSSL says, for the operator. The certificate has been read before: the rest is about the key."""
    reason = getattr(error, "reason", None) or ""
    if reason in _WEAK:
        return CertificateError("certificate", f"{config.certificate} {_WEAK[reason]}")
    if reason == "KEY_VALUES_MISMATCH":
        return CertificateError("key", f"{config.key} is not the key of the certificate")
    return CertificateError("key", f"{config.key} holds no private key in PEM")


def _no_password() -> NoReturn:
    """Without it OpenSSL would ask for the password on the terminal, and wait."""
    raise _Encrypted


def _leaf(path: Path) -> x509.Certificate:
    """The first certificate of the file: the server's own."""
    try:
        return x509.load_pem_x509_certificates(_read("certificate", path))[0]
    except ValueError as error:
        raise CertificateError("certificate", f"{path} holds no certificate in PEM") from error


def _read(field: Literal["certificate", "key"], path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CertificateError(field, f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise CertificateError(field, f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB")
    return data


def _is_between(start: datetime, now: float, end: datetime) -> bool:
    return start <= datetime.fromtimestamp(now, UTC) <= end


def _described(certificate: ServerCertificate) -> dict[str, str]:
    dates = {"valid_from": certificate.valid_from, "valid_until": certificate.valid_until}
    return {"file": str(certificate.file), **{name: date.isoformat() for name, date in dates.items()}}
