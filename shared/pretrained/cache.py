"""Where weights are kept: those of others, handed out after their sha256 matched, and those trained here, once each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from moretta.shared.core.array_types import Array
from moretta.shared.core.atomic import locked, write_atomic
from moretta.shared.core.errors import AttackersError, StudyError
from moretta.shared.core.reproducibility import code_digest
from moretta.shared.pretrained.manifest import WEIGHTS, PretrainedFile, fetch_command, get_file

CACHE_VARIABLE = "MORETTA_CACHE"
"""Environment variable that moves the cache."""

FileState = Literal["present", "absent", "damaged"]

_FOLDER_MODE = 0o700  # whoever can swap weights can blind the audit
_verified: set[tuple[Path, str, int, int]] = set()


def cache_folder() -> Path:
    """The user's cache folder for Moretta. It need not exist yet."""
    moved = os.environ.get(CACHE_VARIABLE)
    if moved:
        return Path(moved).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("moretta", appauthor=False))


def cached(name: str, table: Mapping[str, PretrainedFile] = WEIGHTS) -> Path | None:
    """The weights called `name`, or None if they are absent or not what was pinned.

    The hash is computed once per process, and again if the file changes.

    Raises:
        AttackersError: an unknown name.
    """
    file = get_file(name, table)
    return path_of(file) if state_of(file) == "present" else None


def state_of(file: PretrainedFile) -> FileState:
    """Whether the cache holds `file`, and holds it unchanged."""
    path = path_of(file)
    try:
        status = path.stat()
        if not path.is_file() or status.st_size != file.size:
            return "damaged"
        key = (path, file.sha256, status.st_size, status.st_mtime_ns)
        if key not in _verified:
            with path.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != file.sha256:
                    return "damaged"
            _verified.add(key)
    except OSError:
        return "absent"
    return "present"


def path_of(file: PretrainedFile) -> Path:
    """Where the cache keeps `file`. Part of the hash is in the path, so versions never mix."""
    return cache_folder() / "weights" / file.name / file.sha256[:12] / file.file_name


def keep(file: PretrainedFile, data: bytes) -> Path:
    """Write `data` to the cache, after its sha256 matched. Raises AttackersError: other bytes than pinned, or a folder
    that cannot be written. Nothing is kept then."""
    digest = hashlib.sha256(data).hexdigest()
    if digest != file.sha256:
        raise AttackersError(
            f"{file.file_name} for {file.name} has {len(data)} bytes and sha256 {digest}",
            expected=f"{file.size} bytes and {file.sha256}, as in {file.package_label}",
            fix="do not use this file: it is not what was pinned. Get the named version again",
        )
    path = path_of(file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (cache_folder() / "weights").chmod(_FOLDER_MODE)
        write_atomic(path, data, mode=0o600)
    except OSError as error:
        raise AttackersError(
            f"the cache folder {path.parent} cannot be written ({error.strerror})",
            expected="a folder of yours",
            fix=f"set {CACHE_VARIABLE} to one, then `{fetch_command(file.name)}`",
        ) from error
    return path


def trained_file(kind: str, name: str, choices: str, train: Callable[[Path], object]) -> Path:
    """The file of a public network that is trained here, once for equal choices and equal code.

    Another process that needs it meanwhile waits for it.

    Args:
        kind: folder of its kind.
        name: begins the file's name.
        choices: all that the network depends on, beside the code.
        train: writes the file, whole or not at all.
    """
    key = hashlib.sha256(f"{choices} {code_digest()}".encode()).hexdigest()[:16]
    path = cache_folder() / kind / f"{name}-{key}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if not path.exists():
                train(path)
    return path


def trained_arrays(kind: str, name: str, choices: str, train: Callable[[], Mapping[str, Array]]) -> dict[str, Array]:
    """See `trained_file`, for a network that is plain arrays. Raises StudyError: the file was damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save

    path = trained_file(kind, name, choices, lambda path: write_atomic(path, save(dict(train()))))
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StudyError(
            f"{path} cannot be read: {error}", expected="what was trained here", fix="delete it: it is trained again"
        ) from error
