"""`moretta server init`: the folder of a new server."""

from __future__ import annotations

import ipaddress
import os
import shutil
import time
from pathlib import Path

from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.authority import CertificateAuthority, create_authority
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.home import SETTINGS_FILE, ServerHome, settings_toml
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import EnrollmentError, HomeError, MorettaError
from moretta.shared.enrollment.identifiers import split_address


def create_home(
    root: Path, *, names: tuple[str, ...], listen: str, port: int, passphrase: bytes | None
) -> tuple[ServerHome, CertificateAuthority]:
    """Make the folder, the authority and the registry; or, if anything fails, nothing.

    Args:
        root: a new or empty folder.
        names: what the server's certificate is for; sites dial the first.
        listen: address that the port is opened on.
        port: the port.
        passphrase: encrypts the authority's key; None leaves it to the file's mode.

    Raises:
        HomeError: the folder is not empty, or cannot be made.
        EnrollmentError: a name is not valid.
    """
    for name in names:
        _check_name(name)
    existed = root.exists()
    if existed and (not root.is_dir() or any(root.iterdir())):
        raise HomeError(f"{root} is not an empty folder", expected="a new or empty folder", fix="choose another")
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)
        text = settings_toml(host=names[0], listen=listen, port=port, names=names)
        write_atomic(root / SETTINGS_FILE, text, mode=0o600)
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
