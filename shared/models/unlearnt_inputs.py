"""Input of the branches of `unlearnt_gender`: log-mel bands of a voice, few small pictures of a face.

Each value is of one clip alone. Public people come from a folder of clips, or are synthesized and drawn: a person is
then one voice and one face.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from moretta.shared.core.array_types import Float32, UInt8
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.core.terms import Modality
from moretta.shared.features.faces import cropper_of
from moretta.shared.features.mfcc import MELS, Audio, check_samples, mfcc_batch
from moretta.shared.features.public_speech import MAX_FILES, Recording, Whose, public_speakers
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models.unlearnt_gender import PICTURES, SIDE, STEPS

FRAMES_PER_SECOND = 5.0
"""Frames per second of public videos, from which the pictures are chosen."""
_BATCH = 32
_NO_CONTRAST = 1e-3


class PublicClips(NamedTuple):
    """Clips of public people. Row i of each modality is from the same clip."""

    inputs: dict[Modality, Float32]
    """[n, values] of each modality."""
    people: PublicRows
    """Person, sex and emotion of each row; without values."""


def voice_input(clips: Sequence[Audio]) -> Float32:
    """Log-mel bands of the middle 2.56 s of clips, [n, steps x bands]; no number where a clip is shorter."""
    from scipy.fft import idct

    rows = np.full((len(clips), STEPS, MELS), np.nan, np.float32)
    for row, frames in zip(rows, mfcc_batch(list(clips), MELS), strict=True):
        bands = idct(frames, axis=1, norm="ortho")  # all coefficients hold all that the bands hold
        steps = bands[: len(bands) // 2 * 2].reshape(-1, 2, MELS).mean(axis=1)
        steps = steps[max(0, len(steps) - STEPS) // 2 :][:STEPS]
        row[: len(steps)] = steps
    return rows.reshape(len(clips), -1)


def face_input(pictures: UInt8) -> Float32:
    """Crops of a clip [frames, side, side, 3] to few grey ones, [values]: minus the clip's mean, over its deviation.

    Complexion and light are in the mean, so neither is left.
    """
    chosen = pictures[np.linspace(0, len(pictures) - 1, PICTURES).round().astype(int)]
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in chosen]
    small = np.stack([cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for picture in grey])
    exact = small.astype(np.float32) / np.float32(255)
    return np.asarray((exact - exact.mean()) / max(float(exact.std()), _NO_CONTRAST), np.float32).ravel()


def public_clips(modalities: Sequence[Modality], folder: Path | None, *, seed: int) -> PublicClips:
    """Public people with all of these modalities.

    Args:
        folder: clips under CREMA-D's names, with its table of speakers; None for synthetic people.
        seed: of the synthetic people, or of the choice of clips.

    Raises:
        StudyError: no clip has all of it, or fewer than two emotions are shown.
    """
    faces, voices = "face" in modalities, "voice" in modalities
    if folder is not None and faces:
        made = _of_videos(folder, voices=voices, seed=seed)
    else:
        made = _of_recordings(public_speakers(folder, seed), faces=faces, voices=voices)
    shown = np.unique(made.people.emotion)
    if len(shown) < 2:
        raise StudyError(
            f"public people who show {len(shown)} emotion",
            expected="clips in at least two emotions, by names as CREMA-D has them: 1001_IEO_ANG_HI",
            fix="add clips with other labels to the public folder, or leave it out to use synthetic people",
        )
    return made


def _of_recordings(recordings: Iterable[Recording], *, faces: bool, voices: bool) -> PublicClips:
    parts: dict[Modality, list[Any]] = {m: [] for m, wanted in (("voice", voices), ("face", faces)) if wanted}  # type: ignore[misc]
    whose: list[Whose] = []
    clips = iter(recordings)
    while batch := list(islice(clips, _BATCH)):
        if voices:
            parts["voice"].append(voice_input([one.samples for one in batch]))
        if faces:
            parts["face"] += [[_drawn(one.person, one.sex, one.emotion, len(whose) + k)] for k, one in enumerate(batch)]
        whose += [one.whose for one in batch]
    return _gathered({m: np.concatenate(rows) for m, rows in parts.items()}, whose)


def _gathered(inputs: dict[Modality, Float32], whose: Sequence[Whose]) -> PublicClips:
    return PublicClips(inputs, PublicRows.of(np.zeros((len(whose), 0)), whose))


def _drawn(person: str, sex: str, emotion: int, number: int) -> Float32:
    """The face of a synthetic person in some clip."""
    from moretta.shared.models.head import render_clip

    loudness = np.random.default_rng([number, 0xFACE]).uniform(0, 1, PICTURES)
    frames = np.stack(list(render_clip(_identity(person, sex), EMOTIONS[emotion], loudness, fps=2, seed=number)))
    return face_input(cropper_of(SIDE).crop_clip(frames).pictures)


@lru_cache(maxsize=2)
def _identity(person: str, sex: str) -> Any:
    from moretta.shared.models.face_images import FIRST_PUBLIC_IDENTITY
    from moretta.shared.models.head import make_identity

    return make_identity(FIRST_PUBLIC_IDENTITY + int(person), sex=sex)


def _of_videos(folder: Path, *, voices: bool, seed: int) -> PublicClips:
    """Clips with a face that is found, and with sound where that is wanted; at most `MAX_FILES`, chosen by seed."""
    from moretta.shared.data.reader import read_corpus

    corpus = read_corpus(folder, classes=EMOTIONS)
    filmed = [clip for clip in corpus.clips if clip.video is not None]
    order = np.random.default_rng([seed, 0xF11]).permutation(len(filmed))[:MAX_FILES]
    faces: list[Float32] = []
    sounds: list[Audio] = []
    whose: list[tuple[str, int, str]] = []
    for clip, face, sound in _readable([filmed[i] for i in np.sort(order)], voices=voices):
        faces.append(face)
        sounds += [sound] if voices else []
        whose.append((str(clip.speaker), EMOTIONS.index(clip.label), corpus.speakers[clip.speaker].sex or ""))
    if not whose:
        what = "a face and sound" if voices else "a face"
        raise StudyError(
            f"no clip with {what} among {len(corpus.clips)} clips, {len(filmed)} of them with video, in {folder}",
            expected="videos of public people, in CREMA-D's layout: VideoFlash/1001_IEO_ANG_HI.flv",
            fix="name another public folder, or leave it out to use synthetic people",
        )
    inputs: dict[Modality, Float32] = {}
    if voices:
        inputs["voice"] = np.concatenate([voice_input(sounds[i : i + _BATCH]) for i in range(0, len(sounds), _BATCH)])
    inputs["face"] = np.stack(faces)
    return _gathered(inputs, whose)


def _readable(clips: Sequence[Any], *, voices: bool) -> Iterator[tuple[Any, Float32, Any]]:
    from moretta.shared.data.recordings import read_pictures, read_sound

    for clip in clips:
        try:
            frames, sound = read_pictures(clip, fps=FRAMES_PER_SECOND), read_sound(clip) if voices else None
            found = None if frames is None else cropper_of(SIDE).crop_clip(frames)
            if found is not None and not found.centred and (sound is not None or not voices):
                yield clip, face_input(found.pictures), None if sound is None else check_samples(sound)
        except ClipError:
            continue
