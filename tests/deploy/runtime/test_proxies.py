"""A proxy in the environment, in every spelling, is nothing to processes that speak over loopback."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from moretta.deploy.runtime.control import Control, ControlError
from moretta.deploy.runtime.processes import (
    child_environment,
    flower_environment,
    named_proxies,
    proxies_ignored,
    without_proxies,
)

NOBODY = "http://127.0.0.1:9"
NAMES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "grpc_proxy")
ENVIRONMENTS = (
    dict.fromkeys(NAMES, NOBODY),
    {"ALL_PROXY": "socks5://127.0.0.1:9"},
    {"http_proxy": "", "HTTPS_PROXY": NOBODY, "no_proxy": "hospital.example"},
    {"HTTP_PROXY": NOBODY, "NO_PROXY": ""},
)


@pytest.fixture(params=ENVIRONMENTS, ids=lambda e: "+".join(e)[:40])
def proxied(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)
    return dict(request.param)


@contextmanager
def _responding(code: int) -> Iterator[str]:
    """A server on loopback that responds to everything with one code; no proxy would."""

    class Refuse(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_control_api_is_called_without_a_proxy(proxied: dict[str, str]) -> None:
    with _responding(418) as address, pytest.raises(ControlError, match="refused"):
        Control(address).status(1)
    assert {name: os.environ.get(name) for name in proxied} == proxied


def test_a_run_that_the_superlink_does_not_know_has_failed() -> None:
    with _responding(404) as address:
        status = Control(address).status(1)
    assert (status.state, status.result) == ("finished", "failed")
    assert "does not know the run" in status.details


def test_children_inherit_no_proxy(proxied: dict[str, str], tmp_path: Path) -> None:
    for made in (
        child_environment("mark"),
        flower_environment("mark", tmp_path),
    ):
        assert named_proxies(made) == []
        assert made["NO_PROXY"] == made["no_proxy"] == "*"
        assert made["PATH"]


def test_clients_that_look_into_their_environment_find_no_proxy(proxied: dict[str, str]) -> None:
    with proxies_ignored():
        client = httpx.Client()  # a SOCKS proxy alone would be an error: support for it is not installed
    assert not any(client._mounts.values())


def test_values_of_proxies_are_not_named() -> None:
    assert named_proxies({"HTTPS_PROXY": "http://me:secret@proxy", "no_proxy": "x", "HOME": "/"}) == ["HTTPS_PROXY"]
    assert without_proxies({"Http_Proxy": NOBODY, "LANG": "C"}) == {"LANG": "C", "NO_PROXY": "*", "no_proxy": "*"}
