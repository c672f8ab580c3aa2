"""The face anonymizer of the original project: crop, corrupt with noise, reconstruct through an autoencoder.

It offers no differential privacy: the network passes on what it needs to draw the face, and reconstructions of this
kind can be attacked (Todt et al., "Fantomas", PoPETs 2024, arXiv 2210.10651). The audit measures what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from moretta.client.anonymizers.anonymizer_registry import Array, anonymizer
from moretta.client.anonymizers.face_base import FaceAnonymizer, Pictures
from moretta.shared.core.errors import StudyError
from moretta.shared.features.faces import FaceCropper
from moretta.shared.features.public_arrays import Rules
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.study.schema import Study

if TYPE_CHECKING:
    from moretta.shared.models.autoencoder import Autoencoder

SHARED_PREFIX = "face/"
"""Before the names of the autoencoder's arrays among those that the coordinator sends."""


@anonymizer("autoencoder", modality="face", version="1")
class AutoencoderFaceAnonymizer(FaceAnonymizer):
    """Releases reconstructions of noisy crops.

    Args:
        cropper: its side is the network's.
        model: a trained autoencoder.
        noise: standard deviation of the Gaussian corruption, for values in [0, 1].
    """

    note = (
        "no formal guarantee: the noise is in the network's input, the reconstruction is not differentially private, "
        "and only the audit tells what it hides"
    )

    def __init__(self, cropper: FaceCropper, model: Autoencoder, *, noise: float) -> None:
        from moretta.shared.models.reconstruct import Reconstructor

        if cropper.side != model.spec.side:
            raise StudyError(
                f"an autoencoder for faces of side {model.spec.side} with crops of {cropper.side}", expected="one size"
            )
        super().__init__(cropper)
        self._noise = noise
        self._reconstruct = Reconstructor(model)

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """The network's weights, of the preset's size."""
        from moretta.shared.models.autoencoder import AutoencoderSpec
        from moretta.shared.models.autoencoder_file import autoencoder_rules

        return autoencoder_rules(AutoencoderSpec.preset(study.face.preset), SHARED_PREFIX)

    @classmethod
    def from_study(cls, study: Study, shared: dict[str, Array]) -> Self:
        """Weights from the coordinator's arrays.

        Raises:
            StudyError: there are no weights, or they are of another size than the study's preset.
            ReleaseError: the coordinator's arrays are not an autoencoder.
        """
        model = trained_autoencoder(study, shared)
        return cls(FaceCropper(model.spec.side), model, noise=study.face.noise)

    def hide(self, pictures: Pictures, noise: NoiseSource) -> Pictures:
        """Reconstructions of the crops, corrupted first."""
        values = pictures.astype(np.float32) / np.float32(255)
        if self._noise:
            # One frame at a time: a whole clip in 64-bit noise would be the largest thing in memory.
            for picture in values:
                np.add(picture, noise.normal(self._noise, picture.shape), out=picture, casting="same_kind")
            np.clip(values, 0, 1, out=values)
        return self._reconstruct(values)

    @property
    def uses_noise(self) -> bool:
        """Whether the corruption is on."""
        return self._noise > 0

    def parameters(self) -> dict[str, Any]:
        """Sizes, corruption and arithmetic."""
        latent, precision = self._reconstruct.spec.latent, self._reconstruct.precision
        return {"latent": latent, "noise": self._noise, "precision": precision}


def trained_autoencoder(study: Study, shared: dict[str, Array]) -> Autoencoder:
    """The study's autoencoder, by its arrays: a file that the study names is read by who has the file, and by no site.

    Raises:
        StudyError: there are no weights, or they are of another size than the study's preset.
        ReleaseError: the coordinator's arrays are not an autoencoder.
    """
    from moretta.shared.models.autoencoder import AutoencoderSpec

    model = _weights(shared)
    wanted = AutoencoderSpec.preset(study.face.preset)
    if model.spec != wanted:
        raise StudyError(
            f"an autoencoder of {model.spec}",
            expected=f"{wanted}, the preset {study.face.preset!r}",
            fix="train one with `moretta train-face --preset`, or change face.preset",
        )
    return model


def _weights(shared: dict[str, Array]) -> Autoencoder:
    from moretta.shared.models.autoencoder_file import autoencoder_from_arrays

    ours = {name.removeprefix(SHARED_PREFIX): array for name, array in shared.items() if name.startswith(SHARED_PREFIX)}
    if ours:
        return autoencoder_from_arrays(ours)
    raise StudyError(
        "no trained autoencoder for faces",
        expected="weights from the coordinator",
        fix="train one with `moretta train-face`",
    )
