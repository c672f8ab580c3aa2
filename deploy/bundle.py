"""The Flower bundle that belongs to this installation: the server submits it, and sites run no other."""

from __future__ import annotations

from pathlib import Path

from moretta.shared.messages.relay import Bundle, read_folder

FOLDER = Path(__file__).parent / "fab"


def installed_bundle() -> Bundle:
    """Its name, version and digest.

    Raises:
        RefusedError: the installation is damaged.
    """
    return read_folder(FOLDER)
