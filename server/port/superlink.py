"""The SuperLink as the relay reaches it: HTTPS on loopback, its own certificate pinned."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import httpx

from moretta.server.port.refusals import Refusal

_PROTOBUF = "application/protobuf"
_HEADERS = {"content-type": _PROTOBUF, "accept": _PROTOBUF, "accept-encoding": "identity"}
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
_POOL = httpx.Limits(
    max_connections=256,
    max_keepalive_connections=64,
    keepalive_expiry=2.0,  # below the five seconds after which uvicorn hangs up, which could meet a call half-way
)
_PIECE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class SuperLinkAddress:
    """Port of Flower's SuperLink on 127.0.0.1, and the certificate that it is known by, PEM."""

    port: int
    ca_file: Path

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"https://127.0.0.1:{self.port}"

    def tls(self) -> ssl.SSLContext:
        """Trusts this SuperLink and nobody else."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context


class SuperLinkResponse(NamedTuple):
    """Response of the SuperLink."""

    status: int
    body: bytes


class SuperLinkClient:
    """Passes calls on. One for the life of a server; the SuperLink may come and go behind it."""

    def __init__(self, address: SuperLinkAddress, *, max_response_bytes: int) -> None:
        self._max_response_bytes = max_response_bytes
        self._client = httpx.AsyncClient(
            base_url=address.url, verify=address.tls(), timeout=_TIMEOUT, limits=_POOL, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()

    async def is_healthy(self) -> bool:
        """Whether it responds."""
        try:
            return (await self._client.get("/health", timeout=5.0)).is_success
        except httpx.HTTPError:
            return False

    async def post(
        self,
        path: str,
        body: bytes,
        *,
        headers: dict[str, str] | None = None,
        make_room: Callable[[int], Awaitable[None]] | None = None,
    ) -> SuperLinkResponse:
        """One call with protobuf bytes; `make_room` is called with the length of the response before it is read.

        Raises Refusal where it cannot be reached, does not respond in time, or sends too much.
        """
        all_headers = {**_HEADERS, "content-length": str(len(body)), **(headers or {})}
        try:
            async with self._client.stream("POST", path, content=_pieces(body), headers=all_headers) as reply:
                return SuperLinkResponse(reply.status_code, await self._read(reply, make_room))
        except httpx.HTTPError as error:
            text = f"Flower's SuperLink does not respond ({type(error).__name__}): try again"
            raise Refusal("UNAVAILABLE", "superlink-down", text) from error

    async def _read(self, reply: httpx.Response, make_room: Callable[[int], Awaitable[None]] | None) -> bytes:
        announced = int(reply.headers.get("content-length", 0))
        if announced > self._max_response_bytes:
            raise Refusal("RESOURCE_EXHAUSTED", "response-too-large", f"a response of {announced} bytes")
        if make_room is not None:
            await make_room(announced)
        body = bytearray()
        async for chunk in reply.aiter_raw():
            body += chunk
            if len(body) > self._max_response_bytes:
                raise Refusal("RESOURCE_EXHAUSTED", "response-too-large", "a response longer than may pass")
        return bytes(body)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    """The body in pieces. TLS would copy a whole body twice, and every other call would wait for its encryption."""
    for start in range(0, len(body), _PIECE_BYTES):
        yield body[start : start + _PIECE_BYTES]
