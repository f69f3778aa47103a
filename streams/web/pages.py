"""What the worker's web server answers: metrics, probes, a first page."""

from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from streams.metrics import Metrics
from streams.web.health import Finding, Health

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}

INDEX = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Touchstream</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem }</style>
</head>
<body>
<h1>Touchstream</h1>
<p>Real-time marketing attribution. This worker shows:</p>
<ul>
<li><a href="/readyz">readiness</a>, with each check</li>
<li><a href="/livez">liveness</a></li>
<li><a href="/metrics">metrics</a> for Prometheus</li>
</ul>
</body>
</html>
"""


def build_pages(registry: CollectorRegistry, metrics: Metrics, health: Health) -> web.Application:
    """The pages over one worker's registry and checks. They hold no personal data."""

    async def index(_: web.Request) -> web.Response:
        return web.Response(text=INDEX, content_type="text/html", headers=HEADERS)

    async def exposition(request: web.Request) -> web.Response:
        metrics.checked({finding.name: finding.ok for finding in health.readiness()})
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={**HEADERS, "Content-Type": content_type})

    async def live(_: web.Request) -> web.Response:
        return _verdict(health.liveness())

    async def ready(_: web.Request) -> web.Response:
        return _verdict(health.readiness())

    pages = web.Application()
    pages.add_routes(
        [web.get("/", index), web.get("/metrics", exposition), web.get("/livez", live), web.get("/readyz", ready)]
    )
    return pages


def _verdict(findings: Iterable[Finding]) -> web.Response:
    """200 where all checks are fine, 503 otherwise, with each of them by name."""
    checks = {finding.name: {"ok": finding.ok, "detail": finding.detail} for finding in findings}
    fine = all(check["ok"] for check in checks.values())
    body = {"status": "ok" if fine else "failing", "checks": checks}
    return web.json_response(body, status=200 if fine else 503, headers=HEADERS)
