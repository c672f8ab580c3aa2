"""The autoencoder with an encoder that was tuned to draw another face: Nousi et al., 2020.

`moretta.shared.models.shifted_encoder` has the paper and the training. Pictures are released. They have no
differential privacy: an attacker that is trained on them reads what the decoder still draws of the person.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field

from moretta.client.anonymizers.autoencoder import (
    PREFIX,
    AutoencoderFaceAnonymizer,
    AutoencoderOptions,
    trained_on_drawn_faces,
)
from moretta.shared.core.array_types import Array
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.workers import Pace, in_lines
from moretta.shared.models.autoencoder import autoencoder_arrays, load_autoencoder, save_autoencoder
from moretta.shared.models.face_images import PICTURES_PER_PERSON, render_face_images
from moretta.shared.models.shifted_encoder import Shift, ShiftTask, tune_encoder, tuning_steps
from moretta.shared.release.anonymizer import Arrays, Notify, anonymizer
from moretta.shared.study.public_arrays import PUBLIC_SEED
from moretta.shared.study.schema import Study

NAME = "shifted-encoder"


class ShiftedEncoderOptions(AutoencoderOptions):
    """Options that a study may set. `weights` are those of the plain autoencoder, whose encoder is tuned here."""

    shift: Shift = "supervised"
    """`supervised`: codes go to the mean of the nearest codes of other people with the same emotion; `unsupervised`: to
    the nearest of `centroids`."""
    distance: float = Field(default=0.8, gt=0, le=1)
    """Share of the way from a code to its target by which it is moved."""
    neighbours: int = Field(default=8, ge=1, le=1000)
    """Number of other people's codes that are averaged."""
    centroids: int = Field(default=16, ge=2, le=1000)
    """Centroids of k-means."""
    tuning_epochs: int = Field(default=10, ge=1, le=1000)
    """Epochs of the encoder's tuning, on as many other synthetic faces as `training_faces`."""

    def task(self) -> ShiftTask:
        """The options as a task of the tuning."""
        return ShiftTask(
            shift=self.shift,
            distance=self.distance,
            neighbours=self.neighbours,
            centroids=self.centroids,
            epochs=self.tuning_epochs,
            noise=self.noise,
            seed=derive(PUBLIC_SEED, "shifted faces"),
        )


@anonymizer(NAME, modality="face", version="1")
class ShiftedEncoder(AutoencoderFaceAnonymizer):
    """Releases what the frozen decoder draws of codes that lead away from the person."""

    Options = ShiftedEncoderOptions
    public_options = AutoencoderFaceAnonymizer.public_options | {
        *("shift", "distance", "neighbours", "centroids", "tuning_epochs")
    }
    note = (
        "no formal guarantee: codes are moved towards those of other people, yet where they end depends on the person; "
        "an attacker that is trained on releases may read it; see the audit"
    )
    _options: ShiftedEncoderOptions

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """The plain autoencoder, from the study's file or trained, with its tuned encoder."""
        options = ShiftedEncoderOptions.of(study.face.options)
        base = options.weights or trained_on_drawn_faces(options, notify)
        load_autoencoder(base)  # whatever is wrong with the file is said before minutes of tuning
        model = load_autoencoder(_tuned(options, base, notify))
        return {f"{PREFIX}{name}": array for name, array in autoencoder_arrays(model).items()}

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> Self:
        """See `autoencoder`."""
        made = super().from_study(study, public)
        made._options = ShiftedEncoderOptions.of(study.face.options)
        return made

    def parameters(self) -> dict[str, Any]:
        """Parameters of the autoencoder, and of the shift of codes."""
        chosen = self._options.model_dump(include={"shift", "distance", "tuning_epochs"})
        amount = "neighbours" if self._options.shift == "supervised" else "centroids"
        return {**super().parameters(), **chosen, amount: getattr(self._options, amount)}


def _tuned(options: ShiftedEncoderOptions, base: Path, notify: Notify) -> Path:
    """Tuned on synthetic faces, once for each choice of options: the result is kept in the user's cache."""
    from moretta.shared.pretrained.cache import trained_file

    task, people = options.task(), -(-options.training_faces // PICTURES_PER_PERSON)
    with base.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()

    def trained(path: Path) -> None:
        notify(f"rendering {people} other synthetic faces, once, to tune the encoder on")
        model = load_autoencoder(base)
        drawn = render_face_images(people, model.spec.side, seed=task.seed)
        whose = np.repeat(np.arange(people), PICTURES_PER_PERSON)
        shown = np.unique(drawn.emotions, return_inverse=True)[1]
        pace = Pace(in_lines(notify), "tuning the encoder", tuning_steps(task, people, PICTURES_PER_PERSON))
        tuned = tune_encoder(model, drawn.pictures, whose, shown, task, step=pace.step)
        notify(f"codes of held-out people: {tuned.before:.3g} from their targets before, {tuned.after:.3g} after")
        save_autoencoder(tuned.model, path)

    return trained_file("autoencoders", f"{options.preset}-{options.shift}", f"{task} {people} {digest}", trained)
