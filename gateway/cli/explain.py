"""``gateway explain``: the way that a request would go, without sending anything."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

import click

from gateway.cli.options import config_option, json_option
from gateway.cli.output import print_json, print_rows, printable
from gateway.cli.run import at_desk

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from gateway.chain import Layer
    from gateway.cli.desk import Desk
    from gateway.contract import Principal, Question, Refusal, Requirement
    from gateway.generation import Generation, Route

Does = Literal["passes on", "answers", "refuses", "cannot say", "is not reached"]

EDGE = "edge"
"""Whose refusals come before any layer: the guard's, and those of a path that nothing is routed at."""

NOT_ROUTED = "Nothing is routed at this path."


@dataclass(frozen=True, slots=True)
class Step:
    """One layer: what it builds on, and what it would do."""

    layer: str
    needs: list[str]
    provides: list[str]
    does: Does
    words: str


@dataclass(slots=True)
class Way:
    """How far a request would get. ``end`` is the layer that it ends in, ``refusal`` its answer where it refuses."""

    listener: str
    method: str
    target: str
    caller: str
    route: str | None = None
    steps: list[Step] = field(default_factory=list)
    end: str | None = None
    refusal: Refusal | None = None

    @property
    def answered(self) -> bool:
        """Whether it would get an answer that is no refusal of ours."""
        return self.end is not None and self.refusal is None


@click.command("explain", short_help="Say what would become of a request.")
@config_option
@json_option
@click.option("--model", metavar="NAME", help="The model that its body names.")
@click.option("--key", "key_id", metavar="ID", help="The API key that it carries, by its id.  [default: none]")
@click.option("--listener", metavar="NAME", help="Where it comes in.  [default: the first]")
@click.argument("method")
@click.argument("path")
@click.pass_context
def command(
    ctx: click.Context,
    *,
    config_path: Path,
    as_json: bool,
    model: str | None,
    key_id: str | None,
    listener: str | None,
    method: str,
    path: str,
) -> None:
    """Say which route a request METHOD PATH takes, and what each layer would do with it. Nothing is sent.

    The exit code is 0 where it would be answered or forwarded, and 1 where it would be refused.
    """
    way = at_desk(
        config_path,
        lambda desk: _explain(desk, listener=listener, method=method, target=path, model=model, key_id=key_id),
    )
    if as_json:
        print_json(_as_data(way))
    else:
        _tell(way)
    ctx.exit(0 if way.answered else 1)


async def _explain(
    desk: Desk, *, listener: str | None, method: str, target: str, model: str | None, key_id: str | None
) -> Way:
    from gateway.contract import Question, Refusal
    from gateway.generation import Generation
    from gateway.guard import origin_form
    from gateway.services import at_rest

    generation = Generation(desk.config, await at_rest(desk.config, desk.store, desk.vault))
    caller, said = await _caller(desk, key_id)
    way = Way(_listener(desk, listener), method, origin_form(target), said)
    try:
        path, route = _admit(generation, way)
    except Refusal as refusal:
        way.end, way.refusal = EDGE, refusal
        return way
    way.route = f"{route.name} at {route.prefix or '/'}"
    await _walk(
        way,
        route,
        Question(
            method=method,
            target=way.target,
            path=path,
            prefix=route.prefix,
            secure=desk.config.listeners[way.listener].tls is not None,
            model=model,
            has_key=key_id is not None,
            caller=caller,
            facts={},
        ),
    )
    return way


def _admit(generation: Generation, way: Way) -> tuple[str, Route]:
    """The path and its route, as the edge finds them. Raises the Refusal of a request that no layer would see."""
    from gateway.contract import Refusal
    from gateway.guard import check_method, check_slashes, check_target

    check_method(way.method)
    path = check_target(way.target)
    route = generation.route(way.listener, path)
    if route is None:
        raise Refusal(404, "unknown_url", NOT_ROUTED)
    if not route.encoded_slashes:
        check_slashes(path)
    return path, route


def _listener(desk: Desk, name: str | None) -> str:
    listeners = desk.config.listeners
    if name is None:
        return next(iter(listeners))
    if name not in listeners:
        raise click.BadParameter(f"there is no listener {name!r}; there is {', '.join(listeners)}")
    return name


async def _caller(desk: Desk, key_id: str | None) -> tuple[Principal | None, str]:
    """Whose key it is, if it works, and words for that."""
    if key_id is None:
        return None, "nobody: it carries no key"
    key = next((key for key in await desk.store.api_keys.list() if key.id == key_id), None)
    if key is None:
        raise click.ClickException(f"there is no key {key_id}; `gateway key list` shows all of them")
    grant = await desk.store.api_keys.by_id(key_id)
    if grant is not None:
        return grant.principal, f"{key.name}, of the role {grant.principal.role}"
    why = "revoked" if key.revoked is not None else "expired, or its owner is disabled"
    return None, f"{key.name}, whose key does not work: {why}"


async def _walk(way: Way, route: Route, question: Question) -> None:
    """Ask the layers one after the other, as far as the request gets."""
    from gateway.contract import Refusal

    gone_on = True
    for layer in route.layers:
        does, words = await _ask(way, layer, question) if gone_on else ("is not reached", "")
        gone_on = does == "passes on"
        way.steps.append(Step(layer.name, _names(layer.plugin.needs()), _names(layer.plugin.provides()), does, words))
    if gone_on:
        way.end, way.refusal = layer.name, Refusal(404, "unknown_url", NOT_ROUTED)


async def _ask(way: Way, layer: Layer, question: Question) -> tuple[Does, str]:
    from gateway.chain import describe
    from gateway.contract import Refusal

    try:
        verdict = await layer.plugin.explain(question)
    except Refusal as refusal:
        way.end, way.refusal = layer.name, refusal
        cause = f" ({describe(refusal.__cause__)})" if refusal.__cause__ is not None else ""
        return "refuses", f"{refusal.status} {refusal.code}: {refusal.message}{cause}"
    except Exception as error:  # noqa: BLE001 - a fault of somebody's layer, told in its line
        return "cannot say", f"its explain failed ({type(error).__name__})"
    if verdict.answers or layer.plugin.terminal:
        way.end = layer.name
        return "answers", verdict.words
    unsaid = [promised for promised in layer.plugin.provides() if not _is_known(promised, question)]
    if unsaid and layer.on_error == "closed":
        return "cannot say", f"promises {', '.join(_names(unsaid))} and does not say what that would be"
    return "passes on", verdict.words


def _is_known(requirement: Requirement, question: Question) -> bool:
    from gateway.contract import AnyOf

    facts = requirement.facts if isinstance(requirement, AnyOf) else {requirement}
    return not facts.isdisjoint(question.facts)


def _names(requirements: Iterable[object]) -> list[str]:
    return sorted(map(repr, requirements))


def _as_data(way: Way) -> dict[str, object]:
    refusal = way.refusal
    return {
        "listener": way.listener,
        "method": way.method,
        "target": way.target,
        "caller": way.caller,
        "route": way.route,
        "layers": [asdict(step) for step in way.steps],
        "outcome": "refused" if refusal is not None else "answered" if way.answered else "unknown",
        "by": way.end,
        "status": refusal.status if refusal is not None else None,
        "code": refusal.code if refusal is not None else None,
        "message": refusal.message if refusal is not None else None,
    }


def _tell(way: Way) -> None:
    click.echo(f"request   {printable(way.method)} {printable(way.target)} on {way.listener}")
    click.echo(f"caller    {printable(way.caller)}")
    click.echo(f"route     {way.route or 'none'}")
    if way.steps:
        click.echo()
        print_rows([asdict(step) for step in way.steps], as_json=False, nothing="")
        click.echo()
    if way.refusal is not None:
        click.echo(f"refused by {way.end}: {way.refusal.status} {way.refusal.code}: {way.refusal.message}")
    elif way.answered:
        click.echo(f"answered by {way.end}")
    else:
        click.echo("how it ends cannot be said")
