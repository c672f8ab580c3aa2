"""Keyed pseudonyms: HMAC-SHA256 under a key that stays at the site (RFC 2104), cut to 64 bits."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.labels import SpeakerId

KEY_BYTES = 32


class PseudonymKey:
    """Turns speaker ids and clip names into pseudonyms that only this site can link: 16 hexadecimal digits each.

    A new key makes a new set of pseudonyms: releases under different keys cannot be joined by them. With the digest of
    a `study` the names are those of that study, else the site's own.
    """

    __slots__ = ("_key", "_study")

    def __init__(self, key: bytes, *, study: str = "") -> None:
        if len(key) != KEY_BYTES:
            raise ReleaseError(f"a pseudonym key of {len(key)} bytes", expected=f"{KEY_BYTES} bytes")
        self._key, self._study = key, study

    def __repr__(self) -> str:
        return "PseudonymKey(<secret>)"

    @classmethod
    def load_or_create(cls, path: Path) -> PseudonymKey:
        """Read the site's key, or make one from the operating system's generator, readable by its owner only."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
        return cls(path.read_bytes())

    @classmethod
    def seeded(cls, seed: int, site: str) -> PseudonymKey:
        """A key for simulation and tests: knowledge of the seed undoes every pseudonym."""
        return cls(hashlib.sha256(f"moretta simulated pseudonyms {seed} {site}".encode()).digest())

    def in_study(self, study: str) -> PseudonymKey:
        """A key whose names of speakers and clips are those of one study, by its digest."""
        return PseudonymKey(self._key, study=study)

    def speaker(self, speaker: SpeakerId) -> str:
        """Pseudonym of a speaker."""
        return self._name(f"speaker {speaker}")

    def clip(self, name: str) -> str:
        """Pseudonym of a clip."""
        return self._name(f"clip {name}")

    def renamed(self, pseudonym: str, study: str) -> str:
        """The name that one study has for what the site's own key calls `pseudonym`."""
        return self._digest(f"in {study} {pseudonym}").hex()[:16]

    def rank(self, purpose: str) -> int:
        """A number of 256 bits that orders things in a way only this site knows."""
        return int.from_bytes(self._digest(f"rank {purpose}"), "big")

    def digest(self, text: str) -> str:
        """64 hexadecimal digits, for records that stay at this site: they reveal nothing without the key."""
        return self._digest(f"record {text}").hex()

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that distinguish keys and reveal nothing of them."""
        return self._digest("fingerprint").hex()[:16]

    def _name(self, text: str) -> str:
        own = self._digest(text).hex()[:16]
        return self.renamed(own, self._study) if self._study else own

    def _digest(self, text: str) -> bytes:
        return hmac.new(self._key, text.encode(), hashlib.sha256).digest()
