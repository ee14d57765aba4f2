"""What is counted can be scraped, and only what is declared can be counted."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import COUNTERS, PrometheusMetrics


def scraped(metrics: PrometheusMetrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """What Prometheus would read: name and values of its labels in the order of their names, and the value."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (s.name, tuple(v for _, v in sorted(s.labels.items()))): s.value for family in families for s in family.samples
    }


def test_counts_are_scraped() -> None:
    """What was counted twice is 2 under its labels, and other labels are apart."""
    metrics = PrometheusMetrics()
    for code in ("invalid_api_key", "invalid_api_key", "missing_api_key"):
        metrics.count("refusals", layer="api_key_auth", code=code)
    values = scraped(metrics)
    assert values["gateway_refusals_total", ("invalid_api_key", "api_key_auth")] == 2
    assert values["gateway_refusals_total", ("missing_api_key", "api_key_auth")] == 1


@pytest.mark.parametrize("name", COUNTERS)
def test_every_declared_counter_counts(name: str) -> None:
    """Each counter takes exactly its labels and appears under its name."""
    metrics = PrometheusMetrics()
    labels = COUNTERS[name][1]
    metrics.count(name, **dict.fromkeys(labels, "x"))
    assert scraped(metrics)[f"gateway_{name}_total", ("x",) * len(labels)] == 1


def test_an_undeclared_counter_is_an_error() -> None:
    """A misspelt counter is found when it is first used, not missing from a dashboard later."""
    with pytest.raises(KeyError):
        PrometheusMetrics().count("refusal", layer="x", code="y")


@pytest.mark.parametrize("labels", [{"layer": "x"}, {"layer": "x", "code": "y", "path": "/secret"}, {}])
def test_undeclared_labels_are_an_error(labels: dict[str, str]) -> None:
    """F83: no caller can add a label that the table does not have."""
    with pytest.raises(ValueError, match="label"):
        PrometheusMetrics().count("refusals", **labels)


def test_in_flight_is_asked_at_the_scrape() -> None:
    """The gauge shows what is in flight when it is read."""
    running = [3]
    metrics = PrometheusMetrics(lambda: running[0])
    assert scraped(metrics)["gateway_in_flight", ()] == 3
    running[0] = 0
    assert scraped(metrics)["gateway_in_flight", ()] == 0


def test_two_gateways_count_apart() -> None:
    """There is no global registry."""
    one, other = PrometheusMetrics(), PrometheusMetrics()
    one.count("layer_faults", layer="x")
    assert ("gateway_layer_faults_total", (("layer", "x"),)) not in scraped(other)
