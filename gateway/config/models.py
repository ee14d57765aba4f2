"""What gateway.yaml may say. A field's docstring is its documentation, in editors through the JSON Schema too.

Owns the shape of the file and the meaning of single values. What several places must agree on (a route's listener, a
path given twice) is checked in ``loading.py``; that a chain's order makes sense is proved where chains are built.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping  # noqa: TC003 - pydantic reads the annotations
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    InstanceOf,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from gateway.contract import Duration, OnError, Plugin, PluginConfig, Secret, Size

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config.document import Document, Steps
    from gateway.errors import Fault

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
_HEADER = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$"  # a token, RFC 9110, 5.6.2
_HEADERS = r"^[A-Za-z0-9!#$%&'+.^_`|~-]{1,128}\*?$"
_BIND = r"^(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253})):([0-9]{1,5})$"
_SEGMENT = r"[A-Za-z0-9._~!$&'()+,;=:@-]+"  # pchar, RFC 3986, 3.3, without * and %
_PREFIX = f"^/(?:{_SEGMENT}(?:/{_SEGMENT})*/?)?$"
_BASE_URL = r"^(https?)://(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?" + f"((?:/{_SEGMENT})*)/?$"
_DOT_SEGMENT = r"/\.{1,2}(?:/|$)"
_SQLITE = r"^sqlite:///(?!:memory:|file:)[^?]+$"  # a file, and nothing that SQLite would read into its name
_MAX_PORT = 65535
_DEFAULT_PORTS = {"http": 80, "https": 443}


def _matching(pattern: str, problem: str) -> Callable[[str], str]:
    """A validator that repeats no value in its error."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(problem)
        return value

    return check


Name = Annotated[
    str,
    AfterValidator(_matching(_NAME, "a name has letters, digits, - and _, 64 at most")),
    WithJsonSchema({"type": "string", "pattern": _NAME}),
]
"""What an operator calls a listener, an upstream or a route. It becomes a label of metrics."""

HeaderName = Annotated[
    str,
    AfterValidator(_matching(_HEADER, "write the name of a header: x-api-key")),
    AfterValidator(str.lower),
    WithJsonSchema({"type": "string", "pattern": _HEADER}),
]

HeaderPattern = Annotated[
    str,
    AfterValidator(_matching(_HEADERS, "write the name of a header, or its beginning and a *: x-vendor-*")),
    AfterValidator(str.lower),
    WithJsonSchema({"type": "string", "pattern": _HEADERS}),
]

PositiveDuration = Annotated[Duration, Field(gt=0)]
PositiveSize = Annotated[Size, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener listens: ``[::1]:8080`` is host ``::1``, port 8080. Port 0 lets the system choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, value: object) -> Address:
        """Raises ValueError for anything else than host:port."""
        match = re.fullmatch(_BIND, value) if isinstance(value, str) else None
        if match is None or int(match[3]) > _MAX_PORT:
            raise ValueError("write host:port: 127.0.0.1:8080, 0.0.0.0:8080 for all of IPv4, or '[::1]:8080' in quotes")
        if match[1] is not None:
            _check_ipv6(match[1])
        return cls(match[1] or match[2], int(match[3]))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """How pydantic reads one."""
        return core_schema.no_info_plain_validator_function(cls.parse)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, object]:
        """How an editor checks one."""
        return {"type": "string", "pattern": _BIND}


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """Where a provider's API begins.

    ``origin`` is ``https://host`` or ``https://host:port``, in lower case and without a scheme's own port: a provider's
    key is bound to it. ``path`` is raw, ``""`` or ``/v1``, never with a slash at its end.
    """

    origin: str
    path: str

    @classmethod
    def parse(cls, value: object) -> BaseUrl:
        """Raises ValueError, without the value: a URL may hold a password."""
        if not isinstance(value, str):
            raise ValueError("write a URL: https://api.openai.com/v1")  # noqa: TRY004 - pydantic wants ValueError
        if re.match(r"[a-z]+://[^/?#]*@", value):
            raise ValueError("no user or password in a URL; keys belong into the vault")
        if "?" in value or "#" in value:
            raise ValueError("no query and no fragment: what the client sends is appended to this URL")
        match = re.fullmatch(_BASE_URL, value)
        if match is None:
            raise ValueError("write a URL: https://api.openai.com/v1")
        scheme, host, port, path = match.groups()
        if host.startswith("["):
            _check_ipv6(host.strip("[]"))
        if re.search(_DOT_SEGMENT, path):
            raise ValueError("no . and .. in the path of a URL")
        return cls(_origin(scheme, host.lower(), port), path)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """How pydantic reads one."""
        return core_schema.no_info_plain_validator_function(cls.parse)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, object]:
        """How an editor checks one."""
        return {"type": "string", "pattern": _BASE_URL}


def _origin(scheme: str, host: str, port: str | None) -> str:
    if port is None or int(port) == _DEFAULT_PORTS[scheme]:
        return f"{scheme}://{host}"
    if not 0 < int(port) <= _MAX_PORT:
        raise ValueError(f"a port is a number from 1 to {_MAX_PORT}")
    return f"{scheme}://{host}:{int(port)}"


def _check_ipv6(host: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError("between [ and ] stands an IPv6 address: [::1]") from None


def _parse_network(value: object) -> IpNetwork:
    try:
        if isinstance(value, str):
            return ipaddress.ip_network(value)
    except ValueError:
        pass
    raise ValueError("write an address or a network without host bits: 10.0.0.7, 10.0.0.0/8 or fd00::/8")


def _check_prefix(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("a path begins with /")
    if "*" in path:
        raise ValueError("a path is a prefix of whole segments already: write /v1/, not /v1/*")
    if re.search(_DOT_SEGMENT, path):
        raise ValueError("no . and .. in a path: clients that send them are refused")
    if not re.fullmatch(_PREFIX, path):
        raise ValueError("a path has plain characters and single slashes: /v1/ or /healthz")
    return path


PathPrefix = Annotated[
    str,
    AfterValidator(_check_prefix),
    WithJsonSchema({"type": "string", "pattern": _PREFIX, "not": {"pattern": _DOT_SEGMENT}}),
]
"""The beginning of a path, in whole segments: ``/v1`` and ``/v1/`` both take ``/v1/models`` and not ``/v12``."""


@dataclass(frozen=True, slots=True)
class LoadContext:
    """What the models must know of the file beside its values."""

    source: Path
    document: Document


def _directory(info: ValidationInfo) -> Path:
    """What relative paths are relative to: not the working directory, which a service manager chooses."""
    context = info.context
    return context.source.absolute().parent if isinstance(context, LoadContext) else Path()


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    return _directory(info) / path


FilePath = Annotated[Path, AfterValidator(_beside_the_file)]
"""A file, looked for beside gateway.yaml unless its path is absolute."""


class _Section(BaseModel):
    """A part of gateway.yaml: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ListenerTlsConfig(_Section):
    """What a listener serves HTTPS with. SIGHUP makes the gateway read the files again."""

    certificate: FilePath
    """A PEM file: the server's certificate, then those between it and its authority. Relative to gateway.yaml."""

    key: FilePath
    """A PEM file with the certificate's private key, without a password. Relative to gateway.yaml."""

    minimum: Literal["1.3", "1.2"] = "1.3"
    """The oldest version of TLS that clients may speak, in quotes. Default ``"1.3"``."""


class ListenerConfig(_Section):
    """A socket that the gateway listens on."""

    bind: Address
    """Address and port: ``127.0.0.1:8080``; ``0.0.0.0:8080`` for every network of this machine."""

    tls: ListenerTlsConfig | None = None
    """Serves HTTPS; without it plain HTTP."""

    @property
    def host(self) -> str:
        """The address or name, IPv6 without brackets."""
        return self.bind.host

    @property
    def port(self) -> int:
        """0 lets the system choose one."""
        return self.bind.port


class VaultConfig(_Section):
    """How the providers' keys are sealed in the store."""

    master_key: Secret
    """The password that opens the vault. Refer to it, do not write it here: ``"${GATEWAY_MASTER_KEY}"``."""

    cipher: Literal["aes-256-gcm", "fernet"] = "aes-256-gcm"
    """``fernet`` is AES-128, slower, and only for who must have it. Default aes-256-gcm."""

    @field_validator("master_key")
    @classmethod
    def _not_empty(cls, value: Secret) -> Secret:
        if not value.reveal():
            raise ValueError("the master key is empty")
        return value


class AuthCacheConfig(_Section):
    """What the gateway remembers of API keys, so that not every request asks the store."""

    ttl: PositiveDuration = 60.0
    """After this long a key is looked up again. Default 60s."""

    stale_while_down: Duration = 900.0
    """While the store is away, known keys work this long after their last look-up. Default 15m; 0s: not at all."""

    size: int = Field(default=131072, ge=1)
    """How many keys are remembered; beyond it the least recently used one is forgotten."""


class CredentialHeader(_Section):
    """A provider that wants its key in a header of its own."""

    header: HeaderName
    """The header's name: ``x-api-key``. The key is its whole value."""


class TimeoutsConfig(_Section):
    """Deadlines of one upstream."""

    connect: PositiveDuration = 5.0
    """For the connection, TLS included. Default 5s."""

    first_byte: PositiveDuration = 120.0
    """From the sent request to the first byte of the answer. Default 120s."""

    idle: PositiveDuration = 120.0
    """Between two pieces of the answer. Default 120s."""


class UpstreamTlsConfig(_Section):
    """How an upstream's certificate is verified. It always is."""

    ca: FilePath
    """A PEM file with the certificates to trust instead of the system's. Relative to gateway.yaml."""


class UpstreamConfig(_Section):
    """A provider that requests are forwarded to."""

    base_url: BaseUrl
    """Replaces the route's path: with ``https://api.openai.com/v1`` and a route ``/v1/``, paths stay as clients send
    them."""

    dialect: Literal["openai", "anthropic", "passthrough"]
    """Whose bytes it speaks: decides which answer headers pass and how the end of a stream is recognised."""

    credential: Literal["bearer", "none"] | CredentialHeader
    """How the provider's key is sent: ``bearer`` in Authorization, ``{header: x-api-key}``, or ``none``."""

    timeouts: TimeoutsConfig = TimeoutsConfig()
    """Deadlines."""

    response_headers: tuple[HeaderPattern, ...] = ()
    """Headers of its answers that clients get beside the dialect's own: names, or beginnings with a ``*``."""

    tls: UpstreamTlsConfig | None = None
    """For a certificate of a private authority."""

    max_connections: int = Field(default=1000, ge=1)
    """Connections at a time; a request that would need one more is refused with 503."""

    @property
    def origin(self) -> str:
        """``https://host[:port]``, canonical."""
        return self.base_url.origin

    @property
    def base_path(self) -> str:
        """The raw path, ``""`` or ``/v1``, never with a slash at its end."""
        return self.base_url.path

    @model_validator(mode="after")
    def _tls_needs_https(self) -> Self:
        if self.tls is not None and self.origin.startswith("http://"):
            raise ValueError("tls without https: a http:// upstream has no certificate to verify")
        return self


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One entry of a chain: which plugin, with which configuration."""

    use: str
    """The plugin as the operator named it."""

    plugin: type[Plugin]

    config: PluginConfig
    """An instance of ``plugin.Config``."""

    on_error: OnError | None
    """The operator's choice; None leaves the plugin's own."""

    document: Document = field(repr=False, compare=False)
    entry: Steps = field(repr=False, compare=False)
    inside: Steps = field(repr=False, compare=False)
    """Where the entry stands in the document, and where its configuration does."""

    def fault(self, problem: str, path_suffix: str = "") -> Fault:
        """``problem``, located at this entry, or at a key of its configuration: ``"burst"``, ``"origins[0]"``."""
        keys = re.findall(r"[^.\[\]]+", path_suffix)
        steps = tuple(int(key) if key.isdigit() else key for key in keys)
        return self.document.fault((*self.inside, *steps) if steps else self.entry, problem)


def _single_path(fields: dict[str, object]) -> tuple[str, ...]:
    path = fields.get("path")
    return (path,) if isinstance(path, str) else ()


class RouteConfig(_Section):
    """Which chain answers which requests. Of several routes of a listener the one with the longest path wins."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["path"]}, {"required": ["paths"]}]})

    name: Name
    """The route's name in logs and metrics."""

    listener: Name
    """The listener that it belongs to."""

    path: PathPrefix | None = None
    """The beginning of the paths that it takes, in whole segments: ``/v1/``."""

    paths: tuple[PathPrefix, ...] = Field(default_factory=_single_path, min_length=1)
    """Several such beginnings, instead of ``path``."""

    max_body: PositiveSize = 512 * 2**20
    """Largest request body; larger ones get 413. Default 512MiB."""

    encoded_slashes: bool = False
    """Whether paths may hold ``%2F``, for upstreams whose ids need it. Some read a separator there. Default no."""

    chain: tuple[
        Annotated[InstanceOf[LayerConfig], WithJsonSchema({"description": "Replaced by json_schema()."})], ...
    ] = Field(json_schema_extra={"minItems": 1})
    """The layers, in the order in which a request meets them."""

    @model_validator(mode="after")
    def _path_or_paths(self) -> Self:
        if len(self.model_fields_set & {"path", "paths"}) != 1:
            raise ValueError("write either path or paths")
        return self


class LimitsConfig(_Section):
    """What one process accepts at most, before any chain."""

    max_header_bytes: PositiveSize = 64 * 2**10
    """All headers of a request together; larger ones get 431. Default 64KiB."""

    max_in_flight: int = Field(default=10_000, ge=1)
    """Exchanges at a time; one more gets 503."""

    max_connections: int = Field(default=20_000, ge=1)
    """Client connections of one listener at a time, idle ones included; one more gets 503 and is closed."""

    header_timeout: PositiveDuration = 15.0
    """From a request's first byte, or a connection's first moment, to the end of the headers. Default 15s."""

    idle_timeout: PositiveDuration = 75.0
    """How long a connection without a request is kept. Default 75s."""

    body_timeout: PositiveDuration = 30.0
    """How long a client may keep us waiting for its body, all waiting together. Default 30s."""

    min_body_rate: PositiveSize = 1024
    """Bytes of body that earn a client one more second of waiting. Default 1KiB."""

    write_timeout: PositiveDuration = 60.0
    """How long a client may read nothing of what it was sent before it counts as gone. Default 60s."""


class GatewayConfig(_Section):
    """The gateway's configuration."""

    listeners: Mapping[Name, ListenerConfig] = Field(min_length=1)
    """The sockets to listen on, by name."""

    store: str = Field(
        default="sqlite:///data/gateway.db", validate_default=True, json_schema_extra={"pattern": _SQLITE}
    )
    """Where keys and usage are kept: ``sqlite:///FILE``, relative to gateway.yaml, or ``sqlite:////absolute/FILE``."""

    state: str = Field(default="memory://", json_schema_extra={"const": "memory://"})
    """Where the limits count: ``memory://``, in the process."""

    workers: int = Field(default=1, ge=1, json_schema_extra={"maximum": 1})
    """Processes on one port."""

    replicas: int = Field(default=1, ge=1)
    """How many gateways with this file share the load. Limits are divided by it where they are not counted together."""

    trusted_proxies: tuple[
        Annotated[IpNetwork, PlainValidator(_parse_network), WithJsonSchema({"type": "string"})], ...
    ] = ()
    """Networks whose ``X-Forwarded-For``, ``X-Forwarded-Proto`` and ``Forwarded`` are believed. Empty: nobody's."""

    vault: VaultConfig
    """The seal of the providers' keys."""

    auth_cache: AuthCacheConfig = AuthCacheConfig()
    """What is remembered of API keys."""

    upstreams: Mapping[Name, UpstreamConfig] = {}
    """The providers, by name. ``forward: {upstream: NAME}`` refers to one."""

    routes: tuple[RouteConfig, ...] = Field(min_length=1)
    """Which chain answers which requests."""

    limits: LimitsConfig = LimitsConfig()
    """What one process accepts at most."""

    drain_timeout: Duration = 600.0
    """How long running exchanges may take to finish when the gateway stops. Default 600s."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is logged."""

    _context: LoadContext

    def model_post_init(self, context: object, /) -> None:
        """Keep the file that the values came from. Raises TypeError unless ``load`` made them."""
        if not isinstance(context, LoadContext):
            raise TypeError("a GatewayConfig is made by gateway.config.load")
        self._context = context

    @property
    def source(self) -> Path:
        """The file, as the operator named it."""
        return self._context.source

    def fault(self, problem: str, *steps: str | int) -> Fault:
        """``problem``, located in the file: ``config.fault("the port is taken", "listeners", "public", "bind")``."""
        return self._context.document.fault(steps, problem)

    @field_validator("store")
    @classmethod
    def _supported_store(cls, value: str, info: ValidationInfo) -> str:
        if value.startswith("postgres"):
            raise ValueError("PostgreSQL is not supported yet; write sqlite:///data/gateway.db")
        if not re.fullmatch(_SQLITE, value):
            raise ValueError("write sqlite:///data/gateway.db")
        return f"sqlite:///{_directory(info) / value.removeprefix('sqlite:///')}"

    @field_validator("state")
    @classmethod
    def _supported_state(cls, value: str) -> str:
        if value.startswith("redis"):
            raise ValueError("Redis is not supported yet; write memory://")
        if value != "memory://":
            raise ValueError("write memory://")
        return value

    @field_validator("workers")
    @classmethod
    def _supported_workers(cls, value: int) -> int:
        if value > 1:
            raise ValueError("more than one worker is not supported yet; write 1")
        return value
