"""Metrics of this process for Prometheus: the only module that knows prometheus_client.

Code that handles an event calls a function of this module, which takes about a microsecond. `core.jobs.ledger_metrics`
adds gauges from the ledger. `exposition` renders all of them as text.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_RESPONSE_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_RERUN_BUCKETS_S = (0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10)
_NO_ANSWER = "no answer"

_registry = CollectorRegistry()
ProcessCollector(registry=_registry)  # CPU seconds, memory, open files; named process_*
_requests = Counter(
    "fabula_provider_requests", "Requests to providers, by HTTP status", ["provider", "status"], registry=_registry
)
_response_seconds = Histogram(
    "fabula_provider_response_seconds",
    "Time until a provider answered (streams: until it began to)",
    ["provider"],
    buckets=_RESPONSE_BUCKETS_S,
    registry=_registry,
)
_rows = Counter("fabula_rows_written", "Rows of runs, by their new state", ["state"], registry=_registry)
_tokens = Counter("fabula_tokens", "Tokens of rows and stories", ["kind"], registry=_registry)
_reruns = Histogram(
    "fabula_page_rerun_seconds", "Runs of a page's script", ["page"], buckets=_RERUN_BUCKETS_S, registry=_registry
)
_alerts = Counter("fabula_alerts", "Alerts, by result", ["result"], registry=_registry)


def provider_answered(provider: str, status: int, seconds: float) -> None:
    """A provider answered a request after `seconds`."""
    _requests.labels(provider, str(status)).inc()
    _response_seconds.labels(provider).observe(seconds)


def provider_failed(provider: str) -> None:
    """A request got no answer: no connection, a timeout, or a broken one."""
    _requests.labels(provider, _NO_ANSWER).inc()


def row_written(state: str, prompt_tokens: int | None, completion_tokens: int | None) -> None:
    """A row of a run was written."""
    _rows.labels(state).inc()
    tokens_used(prompt_tokens, completion_tokens)


def tokens_used(prompt_tokens: int | None, completion_tokens: int | None) -> None:
    """A text was generated."""
    _tokens.labels("prompt").inc(prompt_tokens or 0)
    _tokens.labels("completion").inc(completion_tokens or 0)


@contextmanager
def timed_page(page: str) -> Iterator[None]:
    """Measure one run of a page's script until it ends or Streamlit interrupts it."""
    started = time.monotonic()
    try:
        yield
    finally:
        _reruns.labels(page).observe(time.monotonic() - started)


def alert_ended(result: str) -> None:
    """An alert was `sent` or `failed`."""
    _alerts.labels(result).inc()


Gauges = Mapping[str, tuple[str, str, Mapping[str, float]]]
"""By name: description, name of the label ("" for none), and the number for each of its values."""
Source = Callable[[], Gauges]


class _GaugeCollector(Collector):
    """Gauges that are computed for each scrape."""

    def __init__(self, read: Source) -> None:
        self._read = read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for name, (description, label, values) in self._read().items():
            family = GaugeMetricFamily(name, description, labels=[label] if label else [])
            for value, number in values.items():
                family.add_metric([value] if label else [], number)
            yield family


def exposition(*sources: Source) -> bytes:
    """All metrics in Prometheus' text format, with the gauges of `sources`."""
    extra = CollectorRegistry(auto_describe=False)
    for source in sources:
        extra.register(_GaugeCollector(source))
    return generate_latest(_registry) + generate_latest(extra)


def names() -> set[str]:
    """The names of the counters and histograms, as rendered."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    return {family.name + suffix for family in _registry.collect() for suffix in suffixes.get(family.type, ("",))}


def is_allowed(authorization: str, token: str | None) -> bool:
    """Whether the `Authorization` header of a request carries the token; never if there is no token."""
    return token is not None and secrets.compare_digest(authorization.encode(), f"Bearer {token}".encode())
