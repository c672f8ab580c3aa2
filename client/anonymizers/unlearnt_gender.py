"""Embeddings of a voice and of a face that were trained to keep emotion and to unlearn gender.

Jaiswal and Provost, AAAI 2020: what leaves is the frozen embedding, and emotion is recognized from it. The network is
that of `moretta.shared.models.unlearnt_gender`. Where a study has voice and face by this name, both branches are
trained together on clips that have both; each is released, and may be read, by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
from pydantic import Field

from moretta.client.anonymizers.face_baselines import FaceAnonymizer
from moretta.client.anonymizers.voice_baselines import UnboundedVoice
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.terms import Modality, PrivacyStatement
from moretta.shared.data.clips import Clip
from moretta.shared.data.recordings import read_pictures, read_sound
from moretta.shared.features.faces import CroppedClip, FaceCropper, cropper_of
from moretta.shared.features.federated_encoder import Measure, SiteTrainedOptions, SiteTraining
from moretta.shared.features.mfcc import check_samples
from moretta.shared.features.public_speech import PublicSpeechOptions
from moretta.shared.models.federated_unlearnt import UnlearntTraining
from moretta.shared.models.train_unlearnt import SEED, UnlearntTask, train_unlearnt
from moretta.shared.models.unlearnt_gender import SIDE, UnlearntEmbedding
from moretta.shared.models.unlearnt_inputs import PublicClips, face_input, public_clips, voice_input
from moretta.shared.privacy.accounting import training_statements
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import Anonymizer, Arrays, Notify, Sizes, Speaker, anonymizer
from moretta.shared.study.options import SiteTrainingPlan
from moretta.shared.study.public_arrays import Rules
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import StudyPath

NAME = "unlearnt-gender"
_WHY = (
    "no noise is added: what hides sex is a network trained on public people, which guarantees nothing; a reader that "
    "is trained on the release may find it; see the audit"
)
Strength = Annotated[float, Field(ge=0, le=100)]
Epochs = Annotated[int, Field(ge=1, le=5_000)]


class UnlearntVoiceOptions(SiteTrainedOptions, PublicSpeechOptions):
    """Options that a study may set for voice."""

    adversary_strength: Strength = 1.0
    """Factor of the reversed gradient of the classifier of sex, at the end of training; 0 unlearns nothing."""
    epochs: Epochs = 60
    """Epochs of training on public people."""
    code_training: Literal["public", "federated"] = "public"
    """The branch is trained on public people, or, from there on, on the clips of all sites."""
    federated_by = "code_training"


class UnlearntFaceOptions(SiteTrainedOptions):
    """Options that a study may set for faces."""

    adversary_strength: Strength = 1.0
    """The same as for voice. A study with voice and face by this anonymizer needs equal numbers."""
    epochs: Epochs = 60
    """Epochs of training on public people; equal for voice and face."""
    public_faces: StudyPath | None = None
    """A folder of videos of public people, in CREMA-D's layout; None means drawn people."""
    code_training: Literal["public", "federated"] = "public"
    """See the option of voice."""
    federated_by = "code_training"


def _options(study: Study, modality: Modality) -> Any:
    wanted = UnlearntVoiceOptions if modality == "voice" else UnlearntFaceOptions
    return wanted.of(study.section(modality).options)


def _together(study: Study) -> tuple[Modality, ...]:
    """The modalities that one network is trained for."""
    return tuple(m for m in study.modalities if study.section(m).anonymizer == NAME)


def _embedding(study: Study, modality: Modality, notify: Notify) -> UnlearntEmbedding:
    """Trained as the study says, once for all of its modalities. Raises StudyError: the options of both modalities
    differ; otherwise see `public_clips` and `train_unlearnt`."""
    modalities, folder, task = _agreed(study)
    notify(f"training {NAME} of {' and '.join(modalities)} on public people")
    made = _trained(modalities, folder, task)[modality]
    for fault in made.figures.sex.faults():
        notify(f"{NAME}, {modality}: {fault}")
    return made


def _agreed(study: Study) -> tuple[tuple[Modality, ...], Path | None, UnlearntTask]:
    """Modalities, folder of public clips and task of the one network. Raises StudyError: their options differ."""
    modalities = _together(study)
    chosen = [_options(study, name) for name in modalities]
    folders = [*dict.fromkeys(next(iter(options.paths().values()), None) for options in chosen)]
    tasks = {UnlearntTask(strength=options.adversary_strength, epochs=options.epochs) for options in chosen}
    at_sites = {options.code_training for options in chosen}
    if len(folders) > 1 or len(tasks) > 1 or len(at_sites) > 1:
        raise StudyError(
            f"{NAME} of voice and face with different public folders, strengths, epochs or code_training",
            expected="one network for both, trained on clips that have both",
            fix="give public_speech in [voice.options] and public_faces in [face.options] the same folder, or leave "
            "both out; set adversary_strength, epochs and code_training alike",
        )
    return modalities, folders[0], tasks.pop()


@lru_cache(maxsize=1)
def _public_clips(modalities: tuple[Modality, ...], folder: Path | None) -> PublicClips:
    return public_clips(modalities, folder, seed=SEED)


@lru_cache(maxsize=1)  # the second modality of a study needs the same network
def _trained(
    modalities: tuple[Modality, ...], folder: Path | None, task: UnlearntTask
) -> dict[Modality, UnlearntEmbedding]:
    return train_unlearnt(_public_clips(modalities, folder), task, seed=SEED)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Input of the branches, from a clip that has all of their modalities."""

    modalities: tuple[Modality, ...]
    fps: float
    """Pictures per second."""

    def __call__(self, clip: Clip) -> Array | None:
        """float32 [1, values], voice before face; None without sound, pictures or a face. Errors: see `read_sound`."""
        parts = [_voice_of(clip) if name == "voice" else _face_of(clip, self.fps) for name in self.modalities]
        found = [part for part in parts if part is not None]
        return np.hstack(found) if len(found) == len(parts) else None


def _voice_of(clip: Clip) -> Array | None:
    sound = read_sound(clip)
    return None if sound is None else voice_input([check_samples(sound)])


def _face_of(clip: Clip, fps: float) -> Array | None:
    frames = read_pictures(clip, fps=fps)
    found = None if frames is None else cropper_of(SIDE).crop_clip(frames)
    return None if found is None or found.centred else face_input(found.pictures)[None]


class BranchTraining(UnlearntTraining):
    """Trains the branches of all modalities that one network is for."""

    @property
    def strength(self) -> float:
        """Strength of the reversal, by the options."""
        return _agreed(self.study)[2].strength

    @property
    def measure(self) -> Measure:
        """The input that the branches also have when clips are released."""
        return Inputs(self.modalities, self.study.face.fps)

    def public_clips(self) -> PublicClips:
        """Public clips that the branches were trained on before."""
        modalities, folder, _ = _agreed(self.study)
        return _public_clips(modalities, folder)


class UnlearntBranch(Anonymizer):
    """Base of both modalities: each has its branch of one network for all of them."""

    forms: ClassVar[tuple[str, ...]] = ("code",)
    is_reproducible = False  # thousands of steps of training come out differently on another machine
    not_from_options = frozenset({"code_rounds"})
    _options: Any
    _network: UnlearntEmbedding

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """The branch. Errors: see `_embedding`."""
        return dict(_embedding(study, cls.modality, notify).arrays)

    @classmethod
    def public_choices(cls, study: Study) -> dict[str, Any]:
        """The choices of the anonymizer, and all modalities that the network was trained for."""
        return {**super().public_choices(study), "together": list(_together(study))}

    @classmethod
    def public_rules(cls, study: Study) -> Rules:  # noqa: ARG003
        """See `Anonymizer.public_rules`."""
        return UnlearntEmbedding.rules(cls.modality)

    @classmethod
    def site_training(cls, study: Study) -> SiteTraining | None:
        """The training of the branch at the sites, with the other one if the study has both; else None."""
        return BranchTraining.of(study, modality=cls.modality)

    @classmethod
    def strength(cls, study: Study) -> dict[str, float]:
        """How strongly gender was unlearnt."""
        return {"adversary_strength": _options(study, cls.modality).adversary_strength}

    def parameters(self) -> dict[str, Any]:
        """How the network was made, and what readers of sex found on public people who were held out."""
        chosen = {"adversary_strength": self._options.adversary_strength, "epochs": self._options.epochs}
        found = {"code_rounds": self._network.rounds, "readers": self._network.figures.stated()}
        return {**super().parameters(), **chosen, **found}


@anonymizer(NAME, modality="voice", version="1")
class UnlearntVoice(UnlearntBranch, UnboundedVoice[UnlearntVoiceOptions]):
    """Log-mel bands -> convolutions, two recurrent layers, mean -> embedding of 32 values."""

    Options = UnlearntVoiceOptions
    public_options = frozenset({"adversary_strength", "epochs", "public_speech"})
    mechanism = "embedding with gradient reversal"
    why = _WHY
    uses_noise = False

    def __init__(self, options: UnlearntVoiceOptions, network: UnlearntEmbedding) -> None:
        super().__init__(options, "code")
        self._network = network

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> UnlearntVoice:
        """Build from the study and the branch. Errors: see `public_arrays.named`."""
        return cls(cls.options_of(study), UnlearntEmbedding.from_arrays("voice", public))

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:  # noqa: ARG002
        """float32 [32]."""
        return cast(Array, self._network(voice_input([check_samples(clip)]))[0])


@anonymizer(NAME, modality="face", version="1")
class UnlearntFace(UnlearntBranch, FaceAnonymizer):
    """Six grey pictures of 48 x 48 pixels -> convolutions, mean -> embedding of 32 values."""

    Options = UnlearntFaceOptions
    form = "code"
    public_options = frozenset({"adversary_strength", "epochs", "public_faces"})
    note = _WHY

    def __init__(
        self,
        cropper: FaceCropper,
        options: UnlearntFaceOptions,
        network: UnlearntEmbedding,
        training: SiteTrainingPlan | None = None,
    ) -> None:
        super().__init__(cropper)
        self._options, self._network, self._training = options, network, training

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> UnlearntFace:
        """Build from the study and the branch. Errors: see `public_arrays.named`."""
        options, network = UnlearntFaceOptions.of(study.face.options), UnlearntEmbedding.from_arrays("face", public)
        # Trained with voice, the training is in the statement of voice, once
        training = study.site_training if study.trained_modalities == ("face",) else None
        return cls(FaceCropper(SIDE), options, network, training)

    def hidden(self, frames: Array, noise: NoiseSource, speaker: Speaker) -> tuple[Array, CroppedClip]:  # noqa: ARG002
        """float32 [32]. A clip without a face has none."""
        found = self._cropper.crop_clip(frames)
        if found.centred:
            self._counts.update(clips_without_face=1)
            raise ClipError(
                "no-face", f"a clip of {len(frames)} frames without a face", expected="a face in some frame"
            )
        return cast(Array, self._network(np.asarray(face_input(found.pictures))[None])[0]), found

    def privacy(self, sizes: Sizes) -> tuple[PrivacyStatement, ...]:
        """Guarantees, the same as those of voice."""
        return (*super().privacy(sizes), *training_statements(self._training, sizes))
