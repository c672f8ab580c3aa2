"""Media of the review desk: made when the browser requests them, one clip at a time."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
from starlette.responses import FileResponse, Response

from moretta.deploy.site import review_media
from moretta.deploy.site.review import Review
from moretta.deploy.site.review_choice import SiteClip
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.core.array_types import Array
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.terms import MODALITIES, Modality

SIDES = ("before", "after")


class ClipMedia:
    """The sound, the spectrogram and the pictures of clips, as they are and as they would be released. `scratch`:
    sounds are kept there, so that a player can request parts of them."""

    def __init__(self, review: Review, scratch: Path) -> None:
        self._review, self._scratch = review, scratch

    def has(self, row: SiteClip, side: str, kind: str) -> bool:
        """Whether a page may show this of a clip, as far as can be seen without reading it."""
        modality: Modality = "face" if kind in ("pictures.png", "face-code.png") else "voice"
        if side == "before":
            is_there = row.clip.video if modality == "face" else row.clip.audio or row.clip.video
            return is_there is not None and not kind.endswith("code.png")
        found = self._released.get(modality)
        if found is None or row.pseudonym not in self._places[modality]:
            return False
        return found.holds_codes == kind.endswith("code.png")

    def response(self, row: SiteClip, side: str, kind: str) -> Response | None:
        """One of `sound.wav`, `spectrogram.png`, `pictures.png`, `voice-code.png`, `face-code.png`; None if there is
        no such thing."""
        if side not in SIDES or not self.has(row, side, kind):
            return None
        if kind == "sound.wav":
            return self._sound(row, side)
        picture = self._picture(row, side, kind)
        return None if picture is None else Response(review_media.png(picture), media_type="image/png")

    def _sound(self, row: SiteClip, side: str) -> Response | None:
        name = hashlib.sha256(row.clip.name.encode()).hexdigest()  # a clip's own name may be no file's
        path = self._scratch / f"{name}-{side}.wav"
        if not path.exists():
            if (samples := self._samples(row, side)) is None:
                return None
            write_atomic(path, review_media.wav(samples), mode=0o600)
        return FileResponse(path, media_type="audio/wav")

    def _picture(self, row: SiteClip, side: str, kind: str) -> Array | None:
        if kind == "spectrogram.png":
            samples = self._samples(row, side)
            return None if samples is None else review_media.spectrogram(samples)
        if kind == "pictures.png":
            frames = self._frames(row, side)
            return None if frames is None else np.concatenate(review_media.pictures(frames), axis=1)
        if kind.endswith("-code.png") and side == "after":
            modality: Modality = "face" if kind == "face-code.png" else "voice"
            return review_media.values(self._released[modality].mfcc(self._places[modality][row.pseudonym]))
        return None

    def _samples(self, row: SiteClip, side: str) -> Array | None:
        if side == "before":
            return review_media.original_sound(row.clip)
        return self._after("voice", row)

    def _frames(self, row: SiteClip, side: str) -> Array | None:
        if side == "before":
            return review_media.original_pictures(row.clip, fps=self._review.study.face.fps)
        return self._after("face", row)

    def _after(self, modality: Modality, row: SiteClip) -> Array | None:
        try:
            return self._released[modality].decode(self._places[modality][row.pseudonym])
        except ReleaseError:
            return None

    @cached_property
    def _released(self) -> dict[Modality, ClipSet]:
        sets = {m: ClipSet.from_releases([self._review.release], m) for m in MODALITIES}
        return {modality: clips for modality, clips in sets.items() if len(clips)}

    @cached_property
    def _places(self) -> dict[Modality, dict[str, int]]:
        """Where each clip is in its set, by pseudonym."""
        found = {m: {c.clip: n for n, c in enumerate(clips.clips)} for m, clips in self._released.items()}
        return {modality: found.get(modality, {}) for modality in MODALITIES}
