"""What is kept of every exchange when it ends: a log line, a count, a row of usage.

Each function here makes an observer: an ``on_done`` callback that neither blocks nor awaits. The line names the path
and never the query, whose values may be anybody's secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.contract import PRINCIPAL

if TYPE_CHECKING:
    from gateway.contract import Exchange, Log, Metrics, Outcome
    from gateway.contract.exchange import DoneCallback
    from gateway.store.usage import UsageWriter


def log_line(log: Log) -> DoneCallback:
    """One line an exchange."""

    def write(exchange: Exchange, outcome: Outcome) -> None:
        principal = exchange.get(PRINCIPAL)
        log.info(
            "exchange",
            request=exchange.id,
            listener=exchange.listener,
            route=exchange.route,
            method=exchange.method,
            path=exchange.path,
            client=exchange.client,
            principal=None if principal is None else principal.id,
            status=outcome.status,
            ended=outcome.ended.value,
            code=outcome.code,
            layer=outcome.layer,
            upstream=exchange.upstream,
            bytes_in=outcome.bytes_in,
            bytes_out=outcome.bytes_out,
            ms=round(outcome.duration_s * 1000, 2),
        )

    return write


def count(metrics: Metrics) -> DoneCallback:
    """One count an exchange. Labels come from the configuration and from small sets, never from the client."""

    def add(exchange: Exchange, outcome: Outcome) -> None:
        metrics.count(
            "exchanges",
            route=exchange.route or "none",
            status=f"{outcome.status // 100}xx",
            ended=outcome.ended.value,
        )

    return add


def usage(writer: UsageWriter) -> DoneCallback:
    """One row an exchange that somebody is accountable for; strangers do not fill the store."""

    def record(exchange: Exchange, outcome: Outcome) -> None:
        if exchange.get(PRINCIPAL) is not None:
            writer.record(exchange, outcome)

    return record
