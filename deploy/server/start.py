"""From a folder to a running server: get the passphrase, unlock the authority, hold the folder, serve.

The passphrase comes from a file or a prompt, never from the command line.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import resource
import sys
import time
from pathlib import Path

from moretta.deploy.runtime.processes import OnEvent
from moretta.server.enrollment.authority import is_encrypted, load_authority
from moretta.server.home import ServerHome, only_server
from moretta.server.port.credentials import shut_out_tls_1_2
from moretta.shared.core.errors import HomeError

_FILE_VARIABLE = "MORETTA_CA_PASSPHRASE_FILE"
_LEAST_CHARACTERS = 8
_MOST_FILES = 1 << 16


def run(root: Path, *, passphrase_file: Path | None, on_event: OnEvent) -> None:
    """Run the server of a folder until SIGTERM or SIGINT.

    Raises:
        HomeError: the folder cannot be used, the key does not open, another server holds it, or the port is taken.
    """
    shut_out_tls_1_2()
    _allow_connections()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else a line for every handshake that fails, and every odd message
    home = ServerHome.open(root)
    with only_server(home):
        passphrase = read_passphrase_file(passphrase_file)
        if passphrase is None and is_encrypted(home.authority) and sys.stdin.isatty():
            passphrase = getpass.getpass("Passphrase of the certificate authority's key: ").encode() or None
        authority = load_authority(home.authority, passphrase=passphrase, clock=time.time)
        del passphrase
        from moretta.deploy.server.serve import serve  # gRPC is loaded here

        asyncio.run(serve(home, authority, on_event))


def read_passphrase_file(path: Path | None) -> bytes | None:
    """The first line of a file, or of the file that the environment names; None without either.

    Raises:
        HomeError: the file cannot be read or is empty.
    """
    named = path or (Path(os.environ[_FILE_VARIABLE]) if os.environ.get(_FILE_VARIABLE) else None)
    if named is None:
        return None
    try:
        line = named.read_bytes().splitlines()[:1]
    except OSError as error:
        raise HomeError(f"the passphrase file {named} cannot be read: {error.strerror}") from error
    if not line or not line[0]:
        raise HomeError(f"the passphrase file {named} is empty", expected="a passphrase in its first line")
    return line[0]


def ask_new_passphrase() -> bytes | None:
    """Ask twice for a new passphrase on a terminal; None without a terminal, or if nothing is typed.

    Raises:
        HomeError: the two differ, or it is short.
    """
    if not sys.stdin.isatty():
        return None
    first = getpass.getpass("Passphrase for the certificate authority's key (empty: not encrypted): ")
    if not first:
        return None
    if len(first) < _LEAST_CHARACTERS:
        raise HomeError(f"a passphrase of {len(first)} characters", expected=f"at least {_LEAST_CHARACTERS}")
    if getpass.getpass("Again: ") != first:
        raise HomeError("the two passphrases differ", fix="run the command again")
    return first.encode()


def _allow_connections() -> None:
    """Open as many files as the system lets this account: strangers' connections, which last 10 s, are files, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
