"""The face anonymizer of the original project: crop, corrupt with noise, reconstruct through an autoencoder.

It offers no differential privacy: the network passes on what it needs to draw the face, and reconstructions of this
kind can be attacked (Todt et al., "Fantomas", PoPETs 2024, arXiv 2210.10651). The audit measures what is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field

from moretta.client.anonymizers.face_baselines import FaceAnonymizer, FaceOptions, Pictures
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import StudyError
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.workers import Pace, in_lines
from moretta.shared.features.faces import FaceCropper
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import Arrays, Notify, anonymizer
from moretta.shared.study.public_arrays import PUBLIC_SEED, Rules
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import Fraction, StudyPath

if TYPE_CHECKING:
    from moretta.shared.models.autoencoder import Autoencoder, AutoencoderSpec

PREFIX = "face/"
"""Prefix of the names of the autoencoder's arrays."""
_BATCH = 8
"""Pictures of a step. With few synthetic faces many small steps gain most (21.9 dB after 8 epochs, 20.5 with 32)."""
_TESTED_FACES, _TEST_SEED = 2, 20_240_607


class AutoencoderOptions(FaceOptions):
    """Options that a study may set."""

    noise: Fraction = 0.1
    """Standard deviation of the Gaussian corruption of frames in [0, 1]."""
    weights: StudyPath | None = None
    """A file that `moretta train-face` wrote; None trains an autoencoder on synthetic faces before the run."""
    epochs: int = Field(default=12, ge=1, le=1000)
    """Epochs of that training."""
    training_faces: int = Field(default=600, ge=20, le=1_000_000)
    """Synthetic faces drawn for that training."""

    def spec(self) -> AutoencoderSpec:
        """The network's size."""
        from moretta.shared.models.autoencoder import AutoencoderSpec

        return AutoencoderSpec.preset(self.preset)


@anonymizer("autoencoder", modality="face", version="1")
class AutoencoderFaceAnonymizer(FaceAnonymizer):
    """Releases reconstructions of noisy crops.

    Args:
        cropper: its side is the network's.
        noise: standard deviation of the Gaussian corruption, for values in [0, 1].
    """

    Options = AutoencoderOptions
    public_options = frozenset({"preset", "weights", "noise", "epochs", "training_faces"})
    is_reproducible = False  # minutes of training come out differently on another machine
    note = (
        "no formal guarantee: the noise is in the network's input, the reconstruction is not differentially private, "
        "and only the audit shows what it hides"
    )

    def __init__(self, cropper: FaceCropper, model: Autoencoder, *, noise: float) -> None:
        from moretta.shared.models.autoencoder import Reconstructor

        if cropper.side != model.spec.side:
            found = f"an autoencoder for faces of side {model.spec.side} with crops of {cropper.side}"
            raise StudyError(found, expected="one size")
        super().__init__(cropper)
        self._noise, self.uses_noise = noise, noise > 0
        self._reconstruct = Reconstructor(model)

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """The network, from the study's file or trained on synthetic faces."""
        from moretta.shared.models.autoencoder import autoencoder_arrays, load_autoencoder

        options = AutoencoderOptions.of(study.face.options)
        model = load_autoencoder(options.weights or trained_on_drawn_faces(options, notify))
        return {f"{PREFIX}{name}": array for name, array in autoencoder_arrays(model).items()}

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """The network's weights, of the preset's size."""
        from moretta.shared.models.autoencoder import autoencoder_rules

        return autoencoder_rules(AutoencoderOptions.of(study.face.options).spec(), PREFIX)

    @classmethod
    def public_strength(cls, study: Study, arrays: Mapping[str, Array]) -> dict[str, float]:
        """Difference of public drawn faces and their reconstructions: a network that returns its input hides nobody."""
        from moretta.shared.models.autoencoder import Reconstructor
        from moretta.shared.models.face_images import render_face_images

        model = trained_autoencoder(study, arrays)
        drawn = render_face_images(_TESTED_FACES, model.spec.side, seed=_TEST_SEED, workers=1)
        values = np.asarray(drawn.pictures).astype(np.float32) / np.float32(255)
        return {"face_error": difference(values, Reconstructor(model)(values).astype(np.float64) / 255)}

    @classmethod
    def size_note(cls, study: Study) -> str:
        """Size of the autoencoder."""
        options = AutoencoderOptions.of(study.face.options)
        spec = options.spec()
        return f"{options.preset} ({spec.side} x {spec.side} pixels, latent size {spec.latent})"

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> Self:
        """Weights from the coordinator's arrays. Errors: see `trained_autoencoder`."""
        model = trained_autoencoder(study, public)
        return cls(FaceCropper(model.spec.side), model, noise=AutoencoderOptions.of(study.face.options).noise)

    def hide(self, pictures: Pictures, noise: NoiseSource) -> Pictures:
        """Reconstructions of the crops, corrupted first."""
        values = pictures.astype(np.float32) / np.float32(255)
        if self._noise:
            # One frame at a time: a whole clip in 64-bit noise would be the largest thing in memory.
            for picture in values:
                np.add(picture, noise.normal(self._noise, picture.shape), out=picture, casting="same_kind")
            np.clip(values, 0, 1, out=values)
        return self._reconstruct(values)

    def parameters(self) -> dict[str, Any]:
        """Sizes, corruption and arithmetic."""
        latent, precision = self._reconstruct.spec.latent, self._reconstruct.precision
        return {**super().parameters(), "latent": latent, "noise": self._noise, "precision": precision}


def trained_autoencoder(study: Study, public: Mapping[str, Array]) -> Autoencoder:
    """The study's autoencoder from the coordinator's arrays: no site reads a file that the study names.

    Raises:
        StudyError: there are no weights, or they are of another size than the study's preset.
        ReleaseError: the coordinator's arrays are not an autoencoder.
    """
    from moretta.shared.models.autoencoder import autoencoder_from_arrays

    ours = {name.removeprefix(PREFIX): array for name, array in public.items() if name.startswith(PREFIX)}
    if not ours:
        found, expected = "no trained autoencoder for faces", "weights from the coordinator"
        raise StudyError(found, expected=expected, fix="train one with `moretta train-face`")
    model, options = autoencoder_from_arrays(ours), AutoencoderOptions.of(study.face.options)
    if model.spec != options.spec():
        raise StudyError(
            f"an autoencoder of {model.spec}",
            expected=f"{options.spec()}, the preset {options.preset!r}",
            fix="train one with `moretta train-face --preset`, or change preset in [face.options]",
        )
    return model


def difference(faces: Array, made: Array) -> float:
    """Root mean square difference of pictures [pictures, height, width, 3] in [0, 1].

    Other colours, contrast or a negative hide nobody: what is made of the faces is first brought as near to them as a
    linear map of colours can.
    """
    shown, wanted = np.ones((made.size // 3, 4)), faces.reshape(-1, 3).astype(np.float64)
    shown[:, :3] = made.reshape(-1, 3)
    mapped = shown @ np.linalg.lstsq(shown, wanted, rcond=None)[0]
    return min(float(np.sqrt(np.mean(np.square(wanted - colours)))) for colours in (shown[:, :3], mapped))


def trained_on_drawn_faces(options: AutoencoderOptions, notify: Notify) -> Path:
    """Train on synthetic faces, once for each choice of options: the result is kept in the user's cache."""
    from moretta.shared.models.autoencoder import save_autoencoder
    from moretta.shared.models.face_images import PICTURES_PER_PERSON, render_face_images
    from moretta.shared.models.train_autoencoder import train_autoencoder, training_steps
    from moretta.shared.models.training_state import TrainOptions
    from moretta.shared.pretrained.cache import trained_file

    seed = derive(PUBLIC_SEED, "public faces")
    train = TrainOptions(spec=options.spec(), epochs=options.epochs, batch=_BATCH, noise=options.noise, seed=seed)

    def trained(path: Path) -> None:
        people = -(-options.training_faces // PICTURES_PER_PERSON)
        notify(f"rendering {people} synthetic faces, once, to train the face autoencoder on")
        images = render_face_images(people, train.spec.side, seed=seed)
        pace = Pace(in_lines(notify), "training the face autoencoder", training_steps(train, len(images.pictures)))
        save_autoencoder(train_autoencoder(images.pictures, train, step=pace.step).model, path)

    return trained_file("autoencoders", options.preset, f"{train} {options.training_faces}", trained)
