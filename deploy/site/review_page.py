"""The steward's page: one HTML file that loads nothing, with a few clips as they are and as they would be released."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from moretta.shared.core.errors import ClipError
from moretta.shared.core.printable import shown
from moretta.shared.data.clips import Clip
from moretta.shared.data.media import SAMPLE_RATE
from moretta.shared.data.recordings import read_pictures, read_sound
from moretta.shared.release import ReleasedClip

if TYPE_CHECKING:
    from moretta.deploy.site.review import Review

_PICTURES = 4
_PICTURE_HEIGHT = 128


@dataclass(frozen=True, slots=True)
class Shown:
    """One clip before and after. Media are `data:` addresses."""

    released: ReleasedClip
    original_sound: str
    released_sound: str
    original_pictures: list[str]
    released_pictures: list[str]


def render(review: Review, media: Path, *, shown: int) -> str:
    """The whole page; every text is escaped, and the content security policy allows data of the page alone."""
    style = _asset("review.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    statement = review.release.statement
    files = {p.name: p.stat().st_size for p in sorted(review.release.folder.iterdir())}
    return (
        _environment()
        .from_string(_asset("review.html"))
        .render(
            style=Markup(style),  # noqa: S704 - our own file
            security=f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{digest}'",
            study=review.study,
            digest=review.study.digest(),
            statement=statement,
            files=files,
            total=sum(files.values()),
            absent=review.absent,
            held_out=len(review.held_out),
            emotions=Counter(str(clip.emotion) for clip in review.release.clips),
            line=json.dumps(review.release.clips[0].model_dump(mode="json"), indent=1) if review.release.clips else "",
            policy=review.policy.model_dump(),
            clips=[_shown(review, clip, media) for clip in _chosen(review.release.clips, shown)],
        )
    )


def _chosen(clips: tuple[ReleasedClip, ...], count: int) -> list[ReleasedClip]:
    """Clips of as many speakers and emotions as there are, in an order that nothing but their pseudonyms gives."""
    seen: Counter[str] = Counter()
    left = list(clips)
    chosen: list[ReleasedClip] = []
    while left and len(chosen) < count:
        clip = min(left, key=lambda c: (seen[c.speaker], seen[str(c.emotion)], c.clip))
        left.remove(clip)
        chosen.append(clip)
        seen.update((clip.speaker, str(clip.emotion)))
    return chosen


def _shown(review: Review, clip: ReleasedClip, media: Path) -> Shown:
    original: Clip = review.originals[clip.clip]
    released = next((a for c, a in review.release.arrays("face") if c.clip == clip.clip), None)
    sound = media / f"{clip.clip}.wav"
    return Shown(
        released=clip,
        original_sound=_original_sound(original),
        released_sound=_data("audio/wav", sound.read_bytes()) if sound.exists() else "",
        original_pictures=_original_pictures(original, review.study.face.fps),
        released_pictures=_pictures([] if released is None else list(released)),
    )


def _original_sound(clip: Clip) -> str:
    import soundfile

    try:
        samples = read_sound(clip)
    except ClipError:
        return ""
    if samples is None:
        return ""
    target = io.BytesIO()
    soundfile.write(target, samples, SAMPLE_RATE, subtype="PCM_16", format="WAV")
    return _data("audio/wav", target.getvalue())


def _original_pictures(clip: Clip, fps: float) -> list[str]:
    try:
        frames = read_pictures(clip, fps=fps)
    except ClipError:
        return []
    return [] if frames is None else _pictures(list(frames))


def _pictures(frames: list[npt.NDArray[Any]]) -> list[str]:
    import cv2

    if not frames:
        return []
    places = np.linspace(0, len(frames) - 1, min(_PICTURES, len(frames))).round().astype(int)
    pictures = []
    for place in places:
        picture = frames[place][:, :, ::-1]  # cv2 has blue first
        height, width = picture.shape[:2]
        size = (max(1, round(width * _PICTURE_HEIGHT / height)), _PICTURE_HEIGHT)
        scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if height > size[1] else cv2.INTER_NEAREST)
        pictures.append(_data("image/png", cv2.imencode(".png", scaled)[1].tobytes()))
    return pictures


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True, finalize=shown, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = lambda value: "no finite guarantee" if value is None else f"{value:,.4g}"
    return environment


def _asset(name: str) -> str:
    return resources.files("moretta.deploy.site").joinpath(name).read_text(encoding="utf-8")
