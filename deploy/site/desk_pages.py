"""The pages of the review desk, and the server behind them, on this machine alone.

They work without scripts: whatever is ticked is kept with every button, and Enter never decides.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from moretta.client.offers import Decision
from moretta.deploy.site.approvals import offer_lines
from moretta.deploy.site.desk import Desk
from moretta.deploy.site.desk_guard import Guard
from moretta.deploy.site.review import asset, templates
from moretta.deploy.site.review_choice import people_of
from moretta.deploy.site.review_cost import limit_text
from moretta.shared.core.errors import HomeError, MorettaError

_NUMBER_RULES = {"risk>": "risk above", "person-risk>": "risk of the person above", "age<": "age below"} | {
    "age>": "age above",
    "seconds<": "shorter than (s)",
    "seconds>": "longer than (s)",
}
_TEXT_RULES = {"emotion=": "emotion", "sex=": "sex", "speaker=": "speaker", "sentence=": "sentence"}


def serve(desk: Desk, *, port: int = 0, ready: Callable[[str], None]) -> Decision | None:
    """Serve a desk on loopback until the decision, or until the process is interrupted.

    Args:
        port: 0 takes any that is free.
        ready: gets the link. It must go to the steward alone, and into no log and no command line.

    Returns:
        The decision; None if there was none.

    Raises HomeError if the port cannot be opened.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            fix = "name another one with --port, or 0 for any that is free"
            raise HomeError(f"port {port} of 127.0.0.1 cannot be opened: {error.strerror}", fix=fix) from error
        guard = Guard(listening.getsockname()[1])
        guard.desk = pages(desk, guard)
        config = uvicorn.Config(
            guard,
            log_config=None,
            access_log=False,  # it would hold the link
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            limit_concurrency=64,
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)

        def stop() -> None:
            server.should_exit = True

        desk.at_end = stop
        listening.listen()
        ready(guard.link)
        server.run(sockets=[listening])
    return desk.decision


def pages(desk: Desk, guard: Guard) -> Starlette:
    """The pages, for a guard to stand before."""
    foreign = PlainTextResponse("This form is not the desk's, or the decision is made.", 403)

    async def show(request: Request) -> Response:
        return HTMLResponse(_page(desk, guard, "desk.html", request))

    async def confirm(request: Request) -> Response:
        return HTMLResponse(_page(desk, guard, "confirm.html", request))

    async def style(_: Request) -> Response:
        return Response(asset("review.css"), media_type="text/css")

    async def choose(request: Request) -> Response:
        fields = await guard.form(request)
        if fields is None or desk.decision is not None:
            return foreign
        desk.keep(fields)
        try:
            target = desk.act(fields.get("do", [""])[0], fields)
        except MorettaError as error:
            desk.note, target = error.message, "."
        return RedirectResponse(target, 303)

    async def decide(request: Request) -> Response:
        fields = await guard.form(request)
        if fields is None or desk.decision is not None:
            return foreign
        try:
            desk.decide(fields.get("decision", [""])[0], fields.get("chosen", [""])[0])
        except MorettaError as error:
            desk.note = error.message
        return RedirectResponse(".", 303)

    def media(request: Request) -> Response:
        number, side, kind = (request.path_params[name] for name in ("number", "side", "kind"))
        rows = desk.choice.rows
        found = desk.media.response(rows[number], side, kind) if number < len(rows) else None
        return found or PlainTextResponse("Not there.", 404)

    made = Starlette(
        routes=[
            Route("/", show),
            Route("/confirm", confirm),
            Route("/style.css", style),
            Route("/choose", choose, methods=["POST"]),
            Route("/decide", decide, methods=["POST"]),
            Route("/clip/{number:int}/{side}/{kind}", media),
        ]
    )
    made.router.redirect_slashes = False  # its redirects would leave the guard's place
    return made


def _page(desk: Desk, guard: Guard, template: str, request: Request) -> str:
    note, desk.note = desk.note, ""
    rows, excluded = desk.choice.rows, desk.choice.excluded
    people = [(speaker, own, sum(row.clip.name in excluded for row in own)) for speaker, own in people_of(rows).items()]
    return (
        templates()
        .from_string(asset(template))
        .render(
            desk=desk,
            token=guard.form_token,
            note=note,
            lines=offer_lines(desk.facts),
            statement=desk.review.release.statement,
            costs=desk.costs,
            people=people,
            clips=[(n, rows[n], rows[n].clip.name in excluded) for n in desk.shown],
            refusing=request.query_params.get("refuse") == "1",
            number_rules=_NUMBER_RULES,
            text_rules=_TEXT_RULES,
            limit_text=limit_text,
        )
    )
