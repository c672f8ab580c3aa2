"""Files appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved there if the block ends well and removed if it does not.

    The temporary name is hidden, so a reader of the folder does not take it for a clip, and keeps the ending, which
    writers of media go by.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)  # noqa: PTH105 - the one call that POSIX and Windows promise to be atomic
    finally:
        temporary.unlink(missing_ok=True)
