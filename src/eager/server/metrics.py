"""What is counted of a server, in Prometheus's form."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from eager.chat import Operation, Savings, Spent
from eager.server.chat_response import OnEnd
from eager.server.host import Host

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of requests, and gauges over the engine and the budget.

    Without a `host` there are none of the engine: inside a server that counts its own, in its `registry`.
    """

    def __init__(self, host: Host | None, savings: Savings | None, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._requests = Counter(
            "eager_requests", "Answers, by status", ("operation", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "eager_request_seconds",
            "From a request to the end of its answer",
            ("operation",),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._sequences = self._counter("sequences", "Sequences of answers")
        self._extra = self._counter("extra_sequences", "Those of them that other requests had left")
        self._branches = self._counter("branches", "Branches of answers")
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts")
        self._tokens = self._counter("completion_tokens", "Tokens of answers, a shared prefix counted once")
        self.n_open = 0
        self._in_flight = self._gauge("requests_in_flight", "Requests that are not answered yet")
        if host is not None:
            self._gauge("sequences_open", "Sequences that are decoded or wait", lambda: host.progress.sequences_open)
            self._gauge("up", "Whether the engine is well", lambda: host.trouble is None)
        if savings is not None:
            self._gauge("budget_balance", "Sequences that requests left to others", lambda: savings.balance)

    def begin(self, operation: Operation) -> OnEnd:
        """A request has come; what is to be called when it is answered."""
        started = time.monotonic()
        self.n_open += 1
        self._in_flight.inc()

        def on_end(status: int, spent: Spent | None) -> None:
            self.n_open -= 1
            self._in_flight.dec()
            self._requests.labels(operation, str(status)).inc()
            self._seconds.labels(operation).observe(time.monotonic() - started)
            self._count(spent)

        return on_end

    def _count(self, spent: Spent | None) -> None:
        if spent is not None:
            self._sequences.inc(spent.n_sequences)
            self._extra.inc(spent.n_extra)
            self._branches.inc(spent.n_branches)
            self._prompt_tokens.inc(spent.n_prompt)
            self._tokens.inc(spent.n_tokens)

    def shown(self) -> bytes:
        """All of it, as Prometheus reads it."""
        shown: bytes = generate_latest(self.registry)
        return shown

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(f"eager_{name}", what, registry=self.registry)

    def _gauge(self, name: str, what: str, value: Callable[[], float] | None = None) -> Gauge:
        gauge = Gauge(f"eager_{name}", what, registry=self.registry)
        if value is not None:
            gauge.set_function(value)
        return gauge
