"""What the coordinator makes from public data alone, and every site then uses: it costs no privacy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from moretta.shared.core.pace import Pace, in_lines
from moretta.shared.core.reproducibility import code_digest, derive
from moretta.shared.study.schema import Study
from moretta.shared.study.voice import EMOTION_LABEL_RR, SPEAKER_NORMALIZED

if TYPE_CHECKING:
    from moretta.shared.features.public_speakers import Recording
    from moretta.shared.features.public_voice import PublicVoice
    from moretta.shared.features.speaker_code import PublicRows

Array = npt.NDArray[Any]
_BATCH = 8
"""Small: with few synthetic faces more steps gain more than smoother ones (21.9 dB after 8 epochs, 20.5 with 32)."""
Notify = Callable[[str], None]
AUTOENCODER = "autoencoder"
"""The face anonymizer that needs a trained network."""


def public_arrays(study: Study, notify: Notify = lambda text: None) -> dict[str, Array]:  # noqa: ARG005
    """Voice statistics and codebook from public speech; the face autoencoder from a file or from synthetic faces.

    Args:
        study: says what is needed.
        tell: hears of what takes long.

    Returns:
        Arrays by name, as the anonymizers ask for them.
    """
    arrays = public_voice_arrays(study, notify)
    if study.face.enabled and study.face.anonymizer == AUTOENCODER:
        arrays |= _autoencoder(study, notify)
    return arrays


def public_voice_arrays(study: Study, notify: Notify = lambda text: None) -> dict[str, Array]:  # noqa: ARG005
    """Those of voice alone: they follow from the study, so that a site can make them again."""
    arrays: dict[str, Array] = {}
    if study.voice.enabled:
        from moretta.shared.features.public_voice import make_public_voice

        notify("measuring public speech")
        voice = make_public_voice(
            study.voice.coefficients,
            study.voice.codebook_size,
            derive(study.seed, "public voice"),
            study.voice.public_speech,
        )
        arrays |= voice.to_arrays()
        if study.voice.budgeted:
            arrays |= _codes(study, voice)
        if study.voice.anonymizer == SPEAKER_NORMALIZED:
            arrays |= _speaker_code(study)
        if study.voice.anonymizer == EMOTION_LABEL_RR:
            from moretta.shared.features.emotion_labeler import EmotionLabeler

            arrays |= EmotionLabeler.of_public(measured_speakers(study)).to_arrays()
    return arrays


def _codes(study: Study, voice: PublicVoice) -> dict[str, Array]:
    from moretta.shared.features.public_codes import make_public_codes
    from moretta.shared.privacy.clip_budget import voice_response

    return make_public_codes(
        voice,
        size=voice_response(study.voice).choices,
        segments=study.voice.segments,
        per_speaker=study.voice.clip_limit is not None,
        seed=derive(study.seed, "public codes"),
    ).to_arrays()


def _public_speakers(folder: Path | None, seed: int) -> Iterator[Recording]:
    from moretta.shared.features.public_speakers import recorded_speakers, synthetic_speakers

    return synthetic_speakers(seed) if folder is None else recorded_speakers(folder, seed)


def _speaker_code(study: Study) -> dict[str, Array]:
    from moretta.shared.features.encoder_options import EncoderOptions
    from moretta.shared.features.speaker_code import train_speaker_code

    voice, rows, seed = study.voice, measured_speakers(study), derive(study.seed, "speaker code")
    network = EncoderOptions.of(voice)
    code = train_speaker_code(rows, size=voice.code_size, codebook_size=voice.codebook_size, seed=seed, network=network)
    return code.to_arrays()


def measured_speakers(study: Study) -> PublicRows:
    """Measurements of the public speech that teaches what is told relative to its speaker."""
    return _measured_speakers(derive(study.seed, "speaker code"), study.voice.public_speech, study.voice.uses_windows)


@lru_cache(maxsize=1)  # a federated code asks for what the public one was made of
def _measured_speakers(seed: int, folder: Path | None, in_windows: bool) -> PublicRows:
    from moretta.shared.features.speaker_code import public_rows

    return public_rows(_public_speakers(folder, seed), in_windows=in_windows)


def initial_encoder_arrays(study: Study, rows: PublicRows, directions: npt.NDArray[Any]) -> dict[str, Array]:
    """The code along directions [n, d] that the study's sites have found, as `public_arrays` has the public one."""
    from moretta.shared.features.speaker_code import code_along

    voice, seed = study.voice, derive(study.seed, "speaker code")
    code = code_along(rows, directions, codebook_size=voice.codebook_size, seed=seed, rounds=voice.code_rounds)
    return code.to_arrays()


def _autoencoder(study: Study, notify: Notify) -> dict[str, Array]:
    from moretta.shared.models.autoencoder_file import autoencoder_arrays, load_autoencoder

    weights = study.face.weights
    model = load_autoencoder(weights if weights is not None else _trained(study, notify))
    return {f"face/{name}": array for name, array in autoencoder_arrays(model).items()}


def _trained(study: Study, notify: Notify) -> Path:
    """Train on synthetic faces, once for each choice of options: the result is kept in the user's cache."""
    from moretta.shared.models.autoencoder import AutoencoderSpec
    from moretta.shared.models.autoencoder_file import save_autoencoder
    from moretta.shared.models.face_images import PICTURES_PER_PERSON, render_face_images
    from moretta.shared.models.train_autoencoder import TrainOptions, train_autoencoder, training_steps
    from moretta.shared.pretrained.cache import cache_folder

    face = study.face
    seed = derive(study.seed, "public faces")
    options = TrainOptions(
        spec=AutoencoderSpec.preset(face.preset), epochs=face.epochs, batch=_BATCH, noise=face.noise, seed=seed
    )
    key = hashlib.sha256(f"{options} {face.training_faces} {code_digest()}".encode()).hexdigest()[:16]
    path = cache_folder() / "autoencoders" / f"{face.preset}-{key}.safetensors"
    if not path.exists():
        speakers = -(-face.training_faces // PICTURES_PER_PERSON)
        notify(f"rendering {speakers} synthetic faces, once, to train the face autoencoder on")
        images = render_face_images(speakers, options.spec.side, seed=seed)
        steps = training_steps(options, len(images.pictures))
        pace = Pace(in_lines(notify), "training the face autoencoder", steps)
        save_autoencoder(train_autoencoder(images.pictures, options, step=pace.step).model, path)
    return path
