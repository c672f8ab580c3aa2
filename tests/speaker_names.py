"""Whether a text names a speaker: digits within a longer hexadecimal number, such as a pseudonym's, name nobody."""

from __future__ import annotations

import re


def names_speaker(text: str | bytes, speaker: str) -> bool:
    """True where `speaker` stands in `text` by itself, and not as a part of a hexadecimal number."""
    content = text.encode() if isinstance(text, str) else text
    return re.search(rb"(?<![0-9a-fA-F])" + re.escape(speaker.encode()) + rb"(?![0-9a-fA-F])", content) is not None
