"""What the gateway counts, in Prometheus' text format. One registry per app, so that tests do not share counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30)
_FRACTIONS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """Labels are arms, routes, reasons and codes: few, and none of them is chosen by a sender."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "maskserve_requests", "HTTP requests by route and status.", ["route", "status"], registry=registry
        )
        self.exposures = Counter(
            "maskserve_exposures", "Predictions answered, by arm and why it was this arm.", ["arm", "reason"],
            registry=registry,
        )  # fmt: skip
        self.latency = Histogram(
            "maskserve_call_seconds", "Wall time of answered calls to TorchServe, comparisons' left out.", ["arm"],
            registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self.coverage = Histogram(
            "maskserve_coverage_ratio", "Masked fraction of the photos, comparisons' left out.", ["arm"],
            registry=registry, buckets=_FRACTIONS,
        )  # fmt: skip
        self.in_flight = Gauge("maskserve_in_flight", "Requests at TorchServe right now.", ["arm"], registry=registry)
        self.expected = Gauge(
            "maskserve_expected_seconds", "How long a request that came now would take; 0 until that is known.",
            ["arm"], registry=registry,
        )  # fmt: skip
        self.failures = Counter(
            "maskserve_failures", "Calls to TorchServe that failed, by code.", ["arm", "code"], registry=registry
        )
        self.fallbacks = Counter(
            "maskserve_fallbacks", "Requests that another arm answered.", ["from_arm", "to_arm", "code"],
            registry=registry,
        )  # fmt: skip
        self.shed = Counter(
            "maskserve_shed", "Requests refused: the arm had too much to do.", ["arm"], registry=registry
        )

    def text(self) -> bytes:
        return generate_latest(self._registry)
