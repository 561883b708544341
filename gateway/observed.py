"""Shell: around the application: counts and times its requests, by route."""

from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hotpool.messages import Family
from hotpool.metrics import Counter, Histograms, gauge

NO_ROUTE = "none"  # what was asked for may be anything, and each would be a series for ever


class HttpMetrics:
    """What the gateway has done."""

    def __init__(self) -> None:
        self.requests = Counter(
            "hotpool_http_requests_total", "Requests by what was answered.", "method", "route", "status"
        )
        self.seconds = Histograms(
            "hotpool_http_request_seconds", "From a request's header to the end of its answer.", "route"
        )
        self.refused = Counter("hotpool_http_refused_total", "Requests and connections turned away.", "reason")
        self.in_progress = 0

    def families(self) -> list[Family]:
        return [
            self.requests.family(),
            self.seconds.family(),
            self.refused.family(),
            gauge("hotpool_http_requests_in_progress", "Requests under way.", [((), self.in_progress)]),
        ]


class Observed:
    """The application, and its requests counted. status: `gone` when the client hung up before the answer began."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        metrics, status, begin = self._metrics, "gone", perf_counter()

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        metrics.in_progress += 1
        try:
            await self._app(scope, receive, note)
        finally:
            metrics.in_progress -= 1
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            metrics.requests[scope["method"], route, status] += 1
            metrics.seconds[route,].observe(perf_counter() - begin)
        return None
