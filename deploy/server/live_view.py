"""A study while it runs: as a page on loopback, and as metrics for Prometheus.

Page and metrics have what `moretta study status` has, and change nothing. They stand on loopback only: access
from elsewhere needs a proxy that checks who may see them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from moretta.deploy.server.study_status import SiteStatus, study_status
from moretta.shared.core.errors import HomeError

LOOPBACK = "127.0.0.1"
REFRESH_SECONDS = 5
_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_SITE_FIGURES: tuple[tuple[str, str, Callable[[SiteStatus], float | None]], ...] = (
    ("clips", "Clips that a site released.", lambda site: site.clips),
    ("rounds", "Rounds that a site took part in.", lambda site: site.rounds),
    ("epsilon", "Epsilon that a site's training has spent, for one unit of the study.", lambda site: site.epsilon),
    ("reply_seconds", "Seconds from each message to a site until its reply.", lambda site: site.seconds),
    ("sent_bytes", "Bytes of messages to a site.", lambda site: site.bytes_sent),
    ("received_bytes", "Bytes of replies from a site.", lambda site: site.bytes_received),
    ("last_call_timestamp_seconds", "When an enrolled site last called the server.", lambda site: site.last_call),
    ("missed", "Stages of which a site missed a part.", lambda site: len(site.missed)),
)


class StudyMetrics(Collector):
    """A run's state as Prometheus reads it, made anew at each request."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Gauges of the study and of each site; raises what `study_status` raises."""
        found = study_status(self._folder)
        state = GaugeMetricFamily("moretta_study_state", "1 for the state that the study is in.", labels=["state"])
        state.add_metric([found.state], 1)
        yield state
        whole = (
            ("round", "Last whole round of the model in training.", found.round),
            ("rounds", "Rounds of each model.", found.rounds),
            ("seconds", "Since the study was begun.", found.seconds),
            ("epsilon_budget", "Of training, for one unit of the study.", found.epsilon_budget),
            ("exit_code", "Of a study that is over; see docs/exit-codes.md.", found.exit_code),
        )
        for name, what, value in whole:
            if value is not None:
                yield GaugeMetricFamily(f"moretta_study_{name}", what, value=value)
        for name, what, read in _SITE_FIGURES:
            family = GaugeMetricFamily(f"moretta_site_{name}", what, labels=["site"])
            for site in found.sites:
                figure = read(site)
                if figure is not None:
                    family.add_metric([site.name], figure)
            yield family


def metrics_text(folder: Path) -> str:
    """The metrics in Prometheus' text format, as its node exporter reads them from a file."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StudyMetrics(folder))
    return generate_latest(registry).decode()


def page_text(folder: Path) -> str:
    """The coordinator's page, which loads itself anew until the study is over."""
    from moretta.shared.audit.report.page import render_page  # takes seconds

    found = study_status(folder)
    now = time.time()
    ago = {site.name: now - site.last_call for site in found.sites if site.last_call is not None}
    refresh = 0 if found.over else REFRESH_SECONDS
    return render_page(
        "live.html", kind="study, live", name=found.name, synthetic=found.synthetic, s=found, ago=ago, refresh=refresh
    )


def application(folder: Path) -> Starlette:
    """Page at `/`, metrics at `/metrics`, JSON at `/status.json`. Other names of this machine are refused."""

    def page(_: Request) -> Response:
        return HTMLResponse(page_text(folder), headers=_NO_STORE)

    def metrics(_: Request) -> Response:
        return Response(metrics_text(folder), media_type=CONTENT_TYPE_LATEST, headers=_NO_STORE)

    def status(_: Request) -> Response:
        text = json.dumps(study_status(folder).to_json(), allow_nan=False)
        return Response(text, media_type="application/json", headers=_NO_STORE)

    # A page of elsewhere whose name was rebound to this address would send that name
    named = Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"], www_redirect=False)
    routes = [Route("/", page), Route("/metrics", metrics), Route("/status.json", status)]
    return Starlette(routes=routes, middleware=[named])


def serve_live(folder: Path, port: int, *, on_address: Callable[[str], None]) -> None:
    """Serve page and metrics on loopback until SIGTERM or Ctrl-C; `on_address` gets the address once it is open.

    Raises HomeError if the port cannot be opened, and what `study_status` raises where no run is.
    """
    import socket

    import uvicorn

    study_status(folder)
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((LOOPBACK, port))
        except OSError as error:
            fix = "name another port with --listen, or 0 for any that is free"
            raise HomeError(f"port {port} of {LOOPBACK} cannot be opened: {error.strerror}", fix=fix) from error
        opened.listen()  # whoever gets the address may call at once
        on_address(f"http://{LOOPBACK}:{opened.getsockname()[1]}/")
        config = uvicorn.Config(application(folder), log_level="error", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[opened])
