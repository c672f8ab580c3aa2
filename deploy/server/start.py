"""From a folder to a running server: unlock, hold the folder, serve."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from moretta.deploy.server.passphrase import ask_passphrase, read_passphrase_file
from moretta.server.enrollment.authority_files import is_encrypted, load_authority
from moretta.server.home import ServerHome
from moretta.server.port.credentials import shut_out_tls_1_2
from moretta.server.running import only_server

if TYPE_CHECKING:
    from moretta.deploy.server.duties import Tell


def run(root: Path, *, passphrase_file: Path | None, tell: Tell) -> None:
    """Run the server of a folder until it is told to stop.

    Raises:
        HomeError: the folder cannot be used, the key does not open, another server holds it, or the port is taken.
    """
    shut_out_tls_1_2()
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # below it, a line for every handshake that junk fails in
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    home = ServerHome.open(root)
    with only_server(home):
        passphrase = read_passphrase_file(passphrase_file)
        if passphrase is None and is_encrypted(home.authority):
            passphrase = ask_passphrase()
        authority = load_authority(home.authority, passphrase=passphrase, clock=time.time)
        del passphrase
        from moretta.deploy.server.up import serve  # gRPC is loaded here

        asyncio.run(serve(home, authority, tell))
