"""From a folder to a running server: unlock, hold the folder, serve."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from moretta.deploy.server.passphrase import ask_passphrase, read_passphrase_file
from moretta.server.enrollment.authority import is_encrypted, load_authority
from moretta.server.home import ServerHome, only_server
from moretta.server.port.credentials import shut_out_tls_1_2

if TYPE_CHECKING:
    from moretta.deploy.server.maintenance import Notify


_MOST_FILES = 1 << 16


def _allow_connections() -> None:
    """Open as many files as the system lets this account: strangers' connections, which last 10 s, are files, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run(root: Path, *, passphrase_file: Path | None, notify: Notify) -> None:
    """Run the server of a folder until it is told to stop.

    Raises:
        HomeError: the folder cannot be used, the key does not open, another server holds it, or the port is taken.
    """
    shut_out_tls_1_2()
    _allow_connections()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else a line for every handshake that fails, and every odd message
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    home = ServerHome.open(root)
    with only_server(home):
        passphrase = read_passphrase_file(passphrase_file)
        if passphrase is None and is_encrypted(home.authority):
            passphrase = ask_passphrase()
        authority = load_authority(home.authority, passphrase=passphrase, clock=time.time)
        del passphrase
        from moretta.deploy.server.up import serve  # gRPC is loaded here

        asyncio.run(serve(home, authority, notify))
