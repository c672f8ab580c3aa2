"""The folder of a new server (`moretta server init`), and from a folder to a running server.

The passphrase of the authority's key comes from a file or a prompt, never from the command line.
"""

from __future__ import annotations

import asyncio
import getpass
import ipaddress
import os
import resource
import shutil
import sys
import time
from pathlib import Path

from moretta.deploy.runtime.processes import OnEvent
from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.authority import CertificateAuthority, create_authority, is_encrypted, load_authority
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.home import SETTINGS_FILE, ServerHome, only_server, settings_toml
from moretta.server.port import shut_out_tls_1_2
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import EnrollmentError, HomeError, MorettaError
from moretta.shared.enrollment import split_address

_FILE_VARIABLE = "MORETTA_CA_PASSPHRASE_FILE"
_LEAST_CHARACTERS = 8
_MOST_FILES = 1 << 16


def create_home(
    root: Path, *, names: tuple[str, ...], listen: str, port: int, passphrase: bytes | None
) -> tuple[ServerHome, CertificateAuthority]:
    """Make the folder, the authority and the registry; or, if anything fails, nothing.

    Args:
        names: what the server's certificate is for; sites dial the first.
        listen: address that the port is opened on.
        passphrase: encrypts the authority's key; None leaves it to the file's mode.
    """
    for name in names:
        _check_name(name)
    existed = root.exists()
    if existed and (not root.is_dir() or any(root.iterdir())):
        raise HomeError(f"{root} is not an empty folder", expected="a new or empty folder", fix="choose another")
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)
        write_atomic(root / SETTINGS_FILE, settings_toml(host=names[0], listen=listen, port=port, names=names))
        home = ServerHome.open(root)
        for folder in (home.superlink, home.studies):
            folder.mkdir(mode=0o700)
        authority = create_authority(home.authority, passphrase=passphrase, clock=time.time)
        SiteRegistry.create(home.registry).close()
        AuditLog(home.audit_log, time.time).add("initialised", ca=authority.fingerprint, names=list(names))
    except (OSError, MorettaError) as error:
        _undo(root, existed=existed)
        if isinstance(error, OSError):
            raise HomeError(f"{root} cannot be made: {error}") from error
        raise
    return home, authority


def _check_name(name: str) -> None:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        try:
            split_address(f"{name}:1")
        except EnrollmentError as error:
            raise EnrollmentError(f"{name!r} as a name of the server", expected="a DNS name or IP address") from error


def _undo(root: Path, *, existed: bool) -> None:
    for path in root.iterdir() if root.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not existed and root.is_dir():
        os.rmdir(root)  # noqa: PTH106 - only if it is empty by now


def run(root: Path, *, passphrase_file: Path | None, on_event: OnEvent) -> None:
    """Run the server of a folder until SIGTERM or SIGINT.

    Raises HomeError: it cannot be used, the key does not open, another server holds it, or the port is taken.
    """
    shut_out_tls_1_2()
    # Open as many files as the system lets this account: strangers' connections, which last 10 s, are files, too
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
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
    """The first line of a file, or of the file that the environment names; None without either."""
    path = path or (Path(os.environ[_FILE_VARIABLE]) if os.environ.get(_FILE_VARIABLE) else None)
    if path is None:
        return None
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise HomeError(f"the passphrase file {path} cannot be read: {error.strerror}") from error
    if not lines or not lines[0]:
        raise HomeError(f"the passphrase file {path} is empty", expected="a passphrase in its first line")
    return lines[0]


def ask_new_passphrase() -> bytes | None:
    """Prompt twice for a new passphrase on a terminal; None without a terminal, or if nothing is typed."""
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
