"""Where the passphrase of the authority's key comes from: a file or a prompt, never the command line."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path

from moretta.shared.core.errors import HomeError

VARIABLE = "MORETTA_CA_PASSPHRASE_FILE"
_LEAST_CHARACTERS = 8


def read_passphrase_file(path: Path | None) -> bytes | None:
    """The passphrase in a file (its first line), or in the file that the environment names; None without either.

    Raises:
        HomeError: the file cannot be read or is empty.
    """
    named = path or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
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
    """Ask twice for a new passphrase where somebody can answer; None if nobody can, or if nothing is typed.

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


def ask_passphrase() -> bytes | None:
    """Ask for the passphrase where somebody can answer."""
    if not sys.stdin.isatty():
        return None
    return getpass.getpass("Passphrase of the certificate authority's key: ").encode() or None
