"""Which roles may call which endpoints, and which models they may name there."""

from __future__ import annotations

import re
from collections.abc import Mapping  # noqa: TC003 - pydantic reads the annotations
from typing import TYPE_CHECKING, Annotated

from aiohttp import hdrs
from pydantic import AfterValidator, Field, WithJsonSchema

from gateway.contract import (
    ANONYMOUS,
    EXCHANGE,
    MAY_USE,
    MODEL,
    PRINCIPAL,
    Plugin,
    PluginConfig,
    Refusal,
    Requirement,
    Size,
    Verdict,
    json_body,
)
from gateway.dialects import Naming, naming
from gateway.dialects.forms import FormModel
from gateway.dialects.naming import named_in_json, named_in_query, unnamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aiohttp import web

    from gateway.contract import Handler, Principal, Question, Services

NOBODY = "anonymous"
"""The role of a caller who is known to be nobody."""

_READ_AHEAD = 64 * 1024
"""Bytes of a form within which its field ``model`` must stand."""

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_METHOD = rf"(?:\*|{'|'.join(_METHODS)})"
_SEGMENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()+,;=:@-]+"  # pchar, RFC 3986, 3.3, without * and %
_PATH = rf"/(?:(?:\*|{_SEGMENT})/)*(?:\*\*?|{_SEGMENT})?"
_PERMISSION = rf"^{_METHOD} {_PATH}$"
_JSON = re.compile(r'application/(?:[\w.+-]+\+)?json(?: *; *charset="?utf-8"?)?', re.ASCII | re.IGNORECASE)


def _permission(value: str) -> str:
    method, space, path = value.partition(" ")
    if not space or not path.startswith("/"):
        raise ValueError("write a method, or * for all, and a path: POST /v1/chat/completions")
    if not re.fullmatch(_METHOD, method):
        raise ValueError(f"a method is one of {', '.join(_METHODS)}, or * for all of them")
    if not re.fullmatch(_PATH, path):
        raise ValueError("a path has plain segments; * stands for a whole one, ** at the end for all that follows")
    return value


Permission = Annotated[str, AfterValidator(_permission), WithJsonSchema({"type": "string", "pattern": _PERMISSION})]
"""A method and a path: ``POST /v1/chat/completions``, ``GET /v1/files/*``, ``* /v1/batches/**``."""

Role = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
ModelPattern = Annotated[str, Field(min_length=1, max_length=256)]


class Rbac(Plugin):
    """Lets each role call what the matrix names for it, and refuses everything else.

    Decided on the path that is sent on, as it was received, in whole segments. A role without a line, and a caller who
    is nobody without one for ``anonymous``, may call nothing. Where the models of a role or of a key are limited, the
    request must name one of them where that can be seen, or it is refused; where they are not, no body is looked at.
    """

    class Config(PluginConfig):
        """The matrix."""

        allow: Mapping[Role, tuple[Permission, ...]] = Field(min_length=1)
        """What each role may call: a method, or ``*``, and a path, in which ``*`` stands for one segment and ``**``, at
        its end, for all that follows. GET allows HEAD."""
        models: Mapping[Role, tuple[ModelPattern, ...]] = {}
        """Which models a role may name, ``*`` for any characters: ``gpt-5*``. A role that is not listed may name all. A
        key's own list limits it further."""
        max_json: Size = 4 * 2**20
        """Largest JSON body of a caller whose models are limited: it is read whole, larger ones get 413. Each MiB holds
        all other requests for about 6 ms. Default 4MiB."""

    def __init__(self, config: Config, services: Services) -> None:  # noqa: ARG002 - the contract's signature
        for role in config.models:
            if role not in config.allow:
                raise ValueError(f"models limits the role {role}, for which allow has no line")
        self._endpoints = {role: _alternatives(map(_as_regex, lines)) for role, lines in config.allow.items()}
        self._models = {role: _alternatives(map(_as_glob, names)) for role, names in config.models.items()}
        self._max_json = config.max_json
        always = config.allow.keys() == config.models.keys() and all(
            _names_model(line) for lines in config.allow.values() for line in lines
        )
        self._provides = frozenset[Requirement]({MAY_USE, MODEL} if always else {MAY_USE})

    def needs(self) -> frozenset[Requirement]:
        """Who is calling, be it nobody."""
        return frozenset({PRINCIPAL | ANONYMOUS})

    def provides(self) -> frozenset[Requirement]:
        """What the caller may use; the model too where no request gets past without one that was looked at."""
        return self._provides

    def uncovered(self, endpoints: Sequence[str]) -> Sequence[str]:
        """Endpoints that no line of any role names whole."""
        return [
            endpoint
            for endpoint in endpoints
            if not any(allowed.fullmatch(endpoint) for allowed in self._endpoints.values())
        ]

    async def explain(self, question: Question) -> Verdict:
        """Whether the role and the key would let it pass."""
        principal = question.facts.get(PRINCIPAL)
        self._authorise(principal, question.method, question.path)
        may_use = self._limit(principal)
        question.facts[MAY_USE] = may_use or _all
        where = naming(question.method, question.path, question.prefix)
        role = f"the role {_role(principal)} may call it"
        if may_use is None or where is Naming.NOWHERE:
            return Verdict(role)
        if where is Naming.UNKNOWN:
            raise _unseen()
        if where is Naming.QUERY:
            names = named_in_query(question.target.partition("?")[2])
        else:
            names = (question.model,) if question.model else ()
        question.facts[MODEL] = _check(names, may_use)
        return Verdict(f"{role}, with this model")

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse, or go on."""
        exchange = request[EXCHANGE]
        principal = exchange.get(PRINCIPAL)
        self._authorise(principal, exchange.method, exchange.path)
        may_use = self._limit(principal)
        exchange[MAY_USE] = may_use or _all
        if may_use is not None:
            await self._check_model(request, may_use)
        return await handler(request)

    def _authorise(self, principal: Principal | None, method: str, path: str) -> None:
        allowed = self._endpoints.get(_role(principal))
        if allowed is None or not allowed.fullmatch(f"{method} {path}"):
            raise Refusal(403, "endpoint_not_allowed", "Your role may not call this endpoint.")

    def _limit(self, principal: Principal | None) -> Callable[[str], bool] | None:
        """Whether the caller may use a model; None where it may use all."""
        by_role = self._models.get(_role(principal))
        by_key = None if principal is None else principal.models
        if by_role is None and by_key is None:
            return None
        return lambda model: (
            (by_key is None or model in by_key) and (by_role is None or by_role.fullmatch(model) is not None)
        )

    async def _check_model(self, request: web.Request, may_use: Callable[[str], bool]) -> None:
        exchange = request[EXCHANGE]
        websocket = "websocket" in request.headers.get(hdrs.UPGRADE, "").lower()
        match naming(exchange.method, exchange.path, exchange.prefix, websocket=websocket):
            case Naming.NOWHERE:
                return
            case Naming.QUERY:
                names: Sequence[str] = named_in_query(exchange.target.partition("?")[2])
            case Naming.BODY:
                names = await self._named_in_body(request)
            case Naming.UNKNOWN if websocket:
                # 404 makes clients fall back to plain requests, whose models can be seen.
                raise Refusal(404, "unknown_url", "Keys with limited models get no WebSocket here.")
            case Naming.UNKNOWN:
                raise _unseen()
        model = _check(names, may_use)
        if exchange.get(MODEL) is None:
            exchange[MODEL] = model

    async def _named_in_body(self, request: web.Request) -> Sequence[str]:
        kind = request.headers.get(hdrs.CONTENT_TYPE, "")
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
            raise _unreadable()
        if kind.lower().startswith("multipart/"):
            form = FormModel(kind)
            await request[EXCHANGE].body.scan(form, _READ_AHEAD)
            if form.model is None:
                raise _late()
            return (form.model,)
        # Whoever reads something else than JSON out of the same bytes may find another model there.
        if not _JSON.fullmatch(kind.strip()):
            raise _unreadable()
        return named_in_json(await json_body(request, max_bytes=self._max_json))


def _role(principal: Principal | None) -> str:
    return NOBODY if principal is None else principal.role


def _check(names: Sequence[str], may_use: Callable[[str], bool]) -> str:
    """The model that the request names first. Raises the Refusal of one that names none, or one it may not use."""
    if not names:
        raise unnamed()
    if not all(map(may_use, names)):
        message = "The model does not exist or you do not have access to it."
        raise Refusal(403, "model_not_found", message, param="model")
    return names[0]


def _all(_: str) -> bool:
    return True


def _unseen() -> Refusal:
    message = "Your key may use only some models, and the models of this endpoint cannot be seen."
    return Refusal(403, "endpoint_not_allowed", message)


def _unreadable() -> Refusal:
    message = (
        "Your key may use only some models, and the model of this request cannot be read: send it as application/json "
        "in UTF-8 or as multipart/form-data, uncompressed."
    )
    return Refusal(400, "bad_request", message, param="model")


def _late() -> Refusal:
    message = (
        "Your key may use only some models, and this form does not name its model in time: send the field `model` "
        f"before any file, within the first {_READ_AHEAD // 1024} KiB."
    )
    return Refusal(400, "bad_request", message, param="model", close=True)


# ── The matrix as regular expressions, one for each role ─────────────────────────────────────────────────────────────


def _alternatives(expressions: Iterable[str]) -> re.Pattern[str]:
    """What matches any of them; of none, nothing."""
    return re.compile("|".join(f"(?:{expression})" for expression in expressions) or r"(?!)", re.DOTALL)


def _as_regex(permission: str) -> str:
    method, _, path = permission.partition(" ")
    methods = {"*": r"\S+", "GET": "(?:GET|HEAD)"}.get(method, method)
    segments = ({"*": "[^/]+", "**": ".*"}.get(segment) or re.escape(segment) for segment in path.split("/"))
    return f"{methods} {'/'.join(segments)}"


def _as_glob(pattern: str) -> str:
    return ".*".join(map(re.escape, pattern.split("*")))


def _names_model(permission: str) -> bool:
    """Whether every request that this line allows must name its model, on whichever route."""
    method, _, path = permission.partition(" ")
    return naming(method, path, "") is Naming.BODY
