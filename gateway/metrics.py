"""What the gateway counts, declared in one place.

Own registry, no globals: two gateways in one process, as in the tests, count apart. Label values come from bounded sets
only, because every new one is a time series that is kept for ever (faults.md F83): names that the operator gave to
routes, layers and upstreams, our own error codes, status numbers. Never a path, a model, a key or anything else that a
client sends.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The format of :meth:`PrometheusMetrics.render`."""

COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "exchanges": ("Requests that ended, by how.", ("route", "status", "ended")),
        "refusals": ("Requests that the gateway itself refused.", ("layer", "code")),
        "layer_faults": ("Exceptions in layers.", ("layer",)),
        "taps_detached": ("Observers of answers that failed and were detached.", ("route",)),
        "keys_exposed": ("Credentials that came in clear or in a URL.", ("listener", "known")),
        "certificate_reloads": ("Certificates read again, by what became of it.", ("listener", "result")),
        "upstream_errors": ("Exchanges that an upstream failed.", ("upstream", "kind")),
    }
)
"""Name, help and labels of every counter. Scraped as ``gateway_<name>_total``."""


class _Followed(Collector):
    """A counter that lives elsewhere."""

    def __init__(self, name: str, text: str, read: Callable[[], int]) -> None:
        self._name = name
        self._text = text
        self._read = read

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, self._text, value=self._read())


class PrometheusMetrics:
    """Counters in Prometheus' text format. ``in_flight`` is asked at every scrape."""

    def __init__(self, in_flight: Callable[[], int] = lambda: 0) -> None:
        self._registry = CollectorRegistry()
        self._counters = {
            name: Counter(f"gateway_{name}", text, labels, registry=self._registry)
            for name, (text, labels) in COUNTERS.items()
        }
        self._children: dict[tuple[object, ...], Counter] = {}
        gauge = Gauge("gateway_in_flight", "Requests that have begun and not ended.", registry=self._registry)
        gauge.set_function(in_flight)

    def follow(self, name: str, text: str, read: Callable[[], int]) -> None:
        """Show as ``gateway_<name>_total`` what somebody else counts; ``read`` is asked at every scrape."""
        self._registry.register(_Followed(f"gateway_{name}", text, read))

    def count(self, name: str, **labels: str) -> None:
        """Add one. Raises KeyError for a counter, ValueError for labels, that :data:`COUNTERS` does not declare."""
        key = (name, *labels.items())
        child = self._children.get(key)
        if child is None:
            counter = self._counters[name]
            # Kept, because finding it by its labels costs prometheus_client several times what counting costs.
            child = self._children[key] = counter.labels(**labels) if labels else counter
        child.inc()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
