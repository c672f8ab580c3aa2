"""Access to the steward's review desk: by its link, which works once, and from the browser that opened it.

The desk listens on loopback. Every account of the machine can reach it, and every page in the steward's browser can
send requests to it. So the link alone gives access, and every request must come from the desk's own pages.
"""

from __future__ import annotations

import secrets
from hmac import compare_digest
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "moretta-desk"
MAX_FORM_BYTES, MAX_FIELDS = 256 * 2**10, 1_000
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    # With `no-referrer` a browser would hide the origin of the desk's own forms
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Lets requests of one session through to the desk, and refuses all others before they reach it. `port`: on
    127.0.0.1, where the desk listens."""

    desk: ASGIApp
    """Gets requests below `/place/`, with the path that follows."""

    def __init__(self, port: int) -> None:
        self.host = f"127.0.0.1:{port}"
        self.origin = f"http://{self.host}"
        self.place = secrets.token_urlsafe(16)
        """First part of every path. Cookies know no ports: with this one no other server on the machine gets it."""
        self._link, self._cookie = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self.form_token = secrets.token_urlsafe(32)
        """Token in every form of the desk."""
        self.is_used = False

    def __repr__(self) -> str:
        return f"Guard({self.origin}, <secrets>)"

    @property
    def link(self) -> str:
        """The address that grants the desk, once."""
        return f"{self.origin}/enter/{self._link}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        if scope["type"] != "http":
            return

        async def closed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        response = self._checked(scope)
        if response is not None:
            await response(scope, receive, closed)
            return
        inside = scope["path"].removeprefix(f"/{self.place}")
        await self.desk({**scope, "path": inside, "raw_path": inside.encode()}, receive, closed)

    def _checked(self, scope: Scope) -> Response | None:
        """A refusal, the way in, or None for a request that the desk may have."""
        headers, path = Headers(scope=scope), scope["path"]
        if (refusal := self._foreign(headers, scope["method"])) is not None:
            return refusal
        if path == "/favicon.ico":  # browsers request it by themselves
            return Response(status_code=204)
        if scope["method"] == "GET" and compare_digest(path.encode(), f"/enter/{self._link}".encode()):
            return self._enter()
        if not self._is_known(headers) or not path.startswith(f"/{self.place}/"):
            return _refused("The link that `moretta site review` printed opens the desk, once.")
        return None

    def _foreign(self, headers: Headers, method: str) -> Response | None:
        """A refusal of what does not come of the desk's own address and pages."""
        if headers.getlist("host") != [self.host]:  # a name that somebody else makes point here
            return PlainTextResponse("This is not the address of the desk.", 421)
        if method not in ("GET", "POST"):
            return PlainTextResponse("The desk takes GET and POST.", 405)
        site = headers.get("sec-fetch-site", "none" if method == "GET" else "same-origin")
        if site not in ("same-origin", "none") or headers.get("origin", self.origin) != self.origin:
            return _refused("Another page sent this request. Paste the link into the address bar.")
        if method == "POST" and (site != "same-origin" or headers.get("origin") != self.origin):
            return _refused("This form is not the desk's.")
        return None

    def _enter(self) -> Response:
        if self.is_used:
            return _refused("This link was used before. If that was not you, end `moretta site review` and ask who.")
        self.is_used = True
        response = RedirectResponse(f"/{self.place}/", 303)
        response.set_cookie(COOKIE, self._cookie, path=f"/{self.place}/", httponly=True, samesite="strict")
        return response

    def _is_known(self, headers: Headers) -> bool:
        # Other servers on the machine set cookies for the whole of it: odd ones, and ones of this name
        cookies = (each.strip() for header in headers.getlist("cookie") for each in header.split(";"))
        own = f"{COOKIE}={self._cookie}".encode()
        return any(compare_digest(cookie.encode(), own) for cookie in cookies)

    async def form(self, request: Request) -> dict[str, list[str]] | None:
        """The fields of a form of the desk; None if it is another's, or too large."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_FORM_BYTES:
                return None
        try:
            fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
        except ValueError:
            return None
        (token,) = fields.pop("token", [""])[:1]
        return fields if compare_digest(token.encode(), self.form_token.encode()) else None


def _refused(why: str) -> Response:
    return PlainTextResponse(why, 403)
