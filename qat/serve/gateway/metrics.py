"""What the gateway counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from qat.serve.gateway.limits import Slots
from qat.serve.gateway.usage import Usage

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counters of one gateway, in a registry of their own."""

    def __init__(self, slots: Slots) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "qat_gateway_requests", "Chat requests; 499: the client left", ["status"], registry=self._registry
        )
        self._tokens = Counter("qat_gateway_tokens", "Tokens, as in usage", ["kind"], registry=self._registry)
        self._request = self._histogram("request", "From the request to the end of its answer")
        self._queue = self._histogram("queue", "That requests waited in the gateway")
        self._prompt = self._histogram("prompt", "From the engine's start to the first piece of a stream")
        running = Gauge("qat_gateway_running", "Requests at the engine", registry=self._registry)
        running.set_function(lambda: slots.running)
        waiting = Gauge("qat_gateway_waiting", "Requests that wait for it", registry=self._registry)
        waiting.set_function(lambda: slots.waiting)

    def answered(self, status: int, seconds: float, usage: Usage) -> None:
        """A chat request has ended."""
        self._requests.labels(str(status)).inc()
        self._request.observe(seconds)
        if usage.started:
            self._queue.observe(usage.queue_time)
            self._tokens.labels("prompt").inc(usage.prompt_tokens)
            self._tokens.labels("completion").inc(usage.completion_tokens)
        if usage.first is not None:
            self._prompt.observe(usage.first - usage.started)

    def response(self) -> Response:
        """All of them as text."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"qat_gateway_{name}_seconds", text, buckets=_SECONDS, registry=self._registry)
