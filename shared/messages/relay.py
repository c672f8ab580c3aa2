"""Agreed by both ends of the relay: the calls that it passes on, and the Flower bundle of code, by its content.

Two machines may zip the same files to different bytes, so bundles are compared by content. The bundle is thin: it names
Moretta's apps to Flower and holds no code of them. One that holds anything else is not Moretta's.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from moretta.shared.core.errors import RefusedError

FLEET_METHODS = frozenset(
    {
        *(f"{verb}-node" for verb in ("activate", "deactivate", "register", "unregister")),
        *(f"{verb}-{what}" for verb in ("pull", "push") for what in ("messages", "object")),
        *("confirm-message-received", "get-fab", "get-run", "send-node-heartbeat"),
    }
)
"""The twelve calls of Flower 1.41's Fleet API, under `/v1/fleet/`."""

BODY_BYTES_KEY = "moretta-body-bytes"
"""Metadata of `Relay.Call`: how long the body is, in decimal. The server makes room for so much before it reads it; a
call that does not say is taken for the longest one, and one that says too little is refused."""

SMALL_BODY_BYTES = 64 << 10
"""A body up to this long needs no room made for it: heartbeats do not wait behind updates."""

CONFIG_FILE = "pyproject.toml"
_MANIFEST = ".info/CONTENT"
_MAX_BYTES = 2**20
_MAX_FILES = 100


class Bundle(NamedTuple):
    """Name and content of a bundle."""

    app: str
    """Flower's name of the app, `publisher/project`."""
    version: str
    digest: str
    """SHA-256 over names and contents of all files, hexadecimal. The configuration counts by its values: Flower writes
    it anew when it bundles."""


def read_bundle(archive: bytes) -> Bundle:
    """Read a bundle as Flower carries it; nothing is unpacked.

    Raises RefusedError where it is no bundle, or holds what would be installed and not be counted.
    """
    try:
        with zipfile.ZipFile(BytesIO(archive)) as opened:
            names, size = opened.namelist(), sum(info.file_size for info in opened.infolist())
            if len(names) > _MAX_FILES or size > _MAX_BYTES:
                _refuse(f"{len(names)} files, {size} bytes")
            if len(set(names)) != len(names):
                _refuse("one file name twice")
            files = {name: opened.read(name) for name in names}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        _refuse(f"bytes that are no archive ({type(error).__name__})")
    listed = files.pop(_MANIFEST, b"").decode(errors="replace").splitlines()
    if {line.split(",")[0] for line in listed} != set(files):
        _refuse("a list of files that does not fit its files")
    return _described(files)


def read_folder(folder: Path) -> Bundle:
    """Describe a folder as the bundle that Flower would make of it."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return _described({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})


def _described(files: dict[str, bytes]) -> Bundle:
    try:
        config: dict[str, Any] = tomllib.loads(files[CONFIG_FILE].decode())
        app = f"{config['tool']['flwr']['app']['publisher']}/{config['project']['name']}"
        version = str(config["project"]["version"])
        canonical = json.dumps(config, sort_keys=True).encode()
    except (KeyError, TypeError, ValueError) as error:
        _refuse(f"no usable {CONFIG_FILE} ({type(error).__name__})")
    digest = hashlib.sha256()
    for name, content in sorted({**files, CONFIG_FILE: canonical}.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return Bundle(app, version, digest.hexdigest())


def _refuse(found: str) -> NoReturn:
    raise RefusedError(f"a bundle with {found}", expected="Moretta's own, as Flower bundles it")
