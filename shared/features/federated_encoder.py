"""An encoder that sites train together before they release: what the one path of training must know of each kind.

A kind has a network, what it is trained towards, and what of it is public. Gradients, clipping, noise and the ledger
are the same for all: `moretta.client.training.code_training` at a site, `moretta.server.stages.train` at the server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from moretta.shared.core.array_types import Array, Float32, Int64
from moretta.shared.core.terms import Modality
from moretta.shared.data.clips import Clip
from moretta.shared.data.recordings import read_sound
from moretta.shared.features.mfcc import check_samples
from moretta.shared.features.public_speech import PublicSpeechOptions
from moretta.shared.features.speaker_code import PublicRows, measured_clip, measured_public_speech
from moretta.shared.study.options import Options, SiteTrainingPlan
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import Delta

if TYPE_CHECKING:
    import torch

PUBLIC = "public."
"""Prefix of the names of arrays that no site changes."""
CLIPPING_NORM = 1.0
"""L2 norm that the gradient of one unit is cut to."""
_CLEAR = 2.0
"""Standard deviations of the squared norm of noise by which a change must be longer than noise alone."""

Arrays = dict[str, Array]
Measure = Callable[[Clip], Array | None]
"""A clip -> its training rows [rows, n]; None for a clip that lacks them. Equal measures give equal rows."""
Unit = Literal["clip", "speaker"]


@dataclass(frozen=True, slots=True, eq=False)
class FederatedEncoder(ABC):
    """The encoder before one round of its training."""

    arrays: Arrays
    """Arrays that the coordinator sent, checked."""

    @abstractmethod
    def normalized(self, values: Array, *, unit: Unit) -> Float32:
        """Measurements [rows, n] of all clips of a speaker, as the encoder is trained on them.

        Of the unit `clip`, a row must not depend on the speaker's other rows.
        """

    @abstractmethod
    def network(self) -> torch.nn.Module:
        """The network from normalized measurements [rows, n] to the input of `losses`."""

    def is_usable(self, sex: str | None) -> bool:  # noqa: ARG002
        """Whether clips of a speaker of this sex, None where it is not known, have a part. Default: all have."""
        return True

    def targets(
        self,
        normalized: Float32,  # noqa: ARG002
        labels: Int64,
        sexes: Sequence[str | None],  # noqa: ARG002
    ) -> torch.Tensor:
        """Training target of each row, [rows, ...], from that row and public data alone. Default: its label.

        Args:
            normalized: [rows, n].
            labels: class indices of the study, [rows].
            sexes: of the rows' speakers.
        """
        import torch

        return torch.from_numpy(labels)

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """One loss for each row, [rows], which depends on the row alone. Default: cross-entropy."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, targets, reduction="none")

    def after(self, network: torch.nn.Module) -> Arrays:
        """The arrays, with those of the trained network."""
        return {**self.arrays, **{name: np.asarray(array) for name, array in network.state_dict().items()}}


def is_clear(before: Array, after: Array, *, noise: float, least_signal: float = 0.0) -> bool:
    """Whether a change is larger than noise alone would be.

    The squared norm of n values of noise of deviation s is n s^2, give or take s^2 times the root of 2 n. A change that
    is not longer than that would, on average, do the code more harm than good. `noise` is the deviation, 0 for none.

    Of many values a change can be longer than that and still be noise almost as a whole: `least_signal` is the share of
    the squared norm that must be beyond what noise makes on average.
    """
    change = float(np.square(np.asarray(after, np.float64) - before).sum())
    expected = noise**2 * before.size
    exceeded = expected + noise**2 * _CLEAR * float(np.sqrt(2 * before.size))
    return change > exceeded and change * (1 - least_signal) >= expected


class SiteTrainedOptions(Options):
    """Options of an anonymizer whose encoder sites may train together."""

    code_unit: Literal["clip", "speaker"] = "speaker"
    """Training at the sites: whom the guarantee is for, as `unit` in `[privacy]` says."""
    code_epsilon: Annotated[float, Field(ge=0, le=1000)] = 4.0
    """Epsilon for one unit over all rounds, at `budget_delta`; 0 trains without noise or guarantee."""
    code_rounds: int = Field(default=20, ge=1, le=1000)
    """Rounds of training at the sites, one step each."""
    budget_delta: Delta = 1e-5
    """The delta of `code_epsilon`."""

    federated_by: ClassVar[str]
    """The option whose value `federated` has the encoder trained at the sites."""

    def site_training(self) -> SiteTrainingPlan | None:
        """The plan of training at the sites; None where these options train on public data alone."""
        if getattr(self, self.federated_by) != "federated":
            return None
        rounds, unit, epsilon = self.code_rounds, self.code_unit, self.code_epsilon
        return SiteTrainingPlan(
            rounds=rounds, unit=unit, epsilon=epsilon, delta=self.budget_delta, epsilon_key="code_epsilon"
        )


@dataclass(frozen=True, slots=True)
class Delivery:
    """Measurements of the sound of a clip, see `speaker_code.measured_clip`."""

    in_windows: bool
    """Whether it is measured second by second, and not as a whole."""

    def __call__(self, clip: Clip) -> Array | None:
        """float32 [rows, 95]. Errors: see `read_sound`."""
        sound = read_sound(clip)
        return None if sound is None else measured_clip(check_samples(sound), in_windows=self.in_windows)


class SiteTraining(ABC):
    """The training of an encoder at the sites: how it starts, and what it makes of the public arrays."""

    trained: frozenset[str]
    """Names of the public arrays that it changes."""
    rounds_arrays: frozenset[str] = frozenset()
    """Names of the public arrays that hold the number of rounds."""
    monitored: str
    """The encoder's array whose change decides whether the training came to more than its noise."""
    least_signal: ClassVar[float] = 0.0
    """See `is_clear`."""
    learning_rate: ClassVar[float]
    """Learning rate of one step, for the mean of clipped gradients."""
    modalities: tuple[Modality, ...] = ("voice",)
    """Modalities whose files are read."""

    def __init__(self, study: Study, plan: SiteTrainingPlan, *, in_windows: bool = False) -> None:
        self.study, self.plan, self.in_windows = study, plan, in_windows

    @classmethod
    def of(cls, study: Study, *, modality: Modality = "voice", in_windows: bool = False) -> Self | None:
        """The training that a study plans for a modality, if any. In windows, a clip is measured second by second."""
        plan = study.section(modality).site_training()
        return None if plan is None else cls(study, plan, in_windows=in_windows)

    @property
    def measure(self) -> Measure:
        """The measure of a clip that this encoder is trained on. Default: measurements of its sound. Raises StudyError,
        before a clip is read: this machine cannot measure clips so."""
        return Delivery(self.in_windows)

    @abstractmethod
    def first_arrays(self, public: Mapping[str, Array]) -> Arrays:
        """The encoder's arrays before the first round, all of them public."""

    @abstractmethod
    def encoder(self, arrays: Mapping[str, Array], number: int) -> FederatedEncoder:
        """Check arrays that the coordinator sent for a round. Errors: see `public_arrays.check_public`."""

    @abstractmethod
    def public_after(self, public: Mapping[str, Array], weights: Arrays | None) -> Arrays:
        """The public arrays that change, with the encoder's arrays after the last round; None where noise exceeds the
        sum of the updates."""

    def public_rows(self) -> PublicRows:
        """Measurements of the study's public speech."""
        folder = PublicSpeechOptions.of(self.study.voice.options).public_speech
        return measured_public_speech(folder, in_windows=self.in_windows)

    def may_become(self, name: str, approved: Array | None, array: Array) -> bool:
        """Whether this training can have made an array of the one that was approved, None if there was none."""
        if name in self.rounds_arrays:  # public speech alone takes none
            return array.dtype == np.int64 and np.array_equal(array, [self.plan.rounds])
        if approved is None or (approved.dtype, approved.shape) != (array.dtype, array.shape):
            return False
        return bool(np.isfinite(array).all()) and (name in self.trained or np.array_equal(array, approved))
