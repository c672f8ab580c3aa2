"""Base class of anonymizers: options, public arrays, privacy losses, release, and the statement of it.

The base class stands in shared, so that the server can prepare public arrays and compute losses again. The anonymizers
themselves are plug-ins of `client/anonymizers/` and of other packages, found by name at run time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from moretta.shared.core.array_types import Array, Float32
from moretta.shared.core.terms import Modality, PrivacyStatement, PrivacyUnit
from moretta.shared.features.voice_forms import frame_count
from moretta.shared.privacy.mechanism import Mechanism, Pure, Unbounded
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.pinned import pinned_arrays
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.options import ANONYMIZERS, Options
from moretta.shared.study.public_arrays import Rules
from moretta.shared.study.schema import Study

if TYPE_CHECKING:
    from moretta.shared.features.federated_encoder import SiteTraining

Arrays = dict[str, Array]
Notify = Callable[[str], None]
Speaker = str
"""A key that is the same for all clips of one person. The site knows it, and nothing of it may be released."""
Sizes = dict[str, list[int]]
"""For each released speaker (any key), the number of released frames of each of its clips."""
Losses = dict[PrivacyUnit, tuple[Mechanism, ...]]
LEDGER_UNITS: tuple[PrivacyUnit, ...] = ("clip", "speaker")
UNITS: tuple[PrivacyUnit, ...] = ("value", "frame", *LEDGER_UNITS)


class Anonymizer(ABC):
    """Turns clips of one modality into their released form.

    A voice anonymizer takes float32 [samples] at 16 kHz in [-1, 1]; a face anonymizer takes uint8 [frames, height,
    width, 3] RGB, whole pictures at the study's frame rate. Clips were decoded and checked (`check_samples`,
    `check_frames`) before; those that failed are dropped and counted, whatever the public arrays are.

    With a finite guarantee it releases an array for every clip: to leave one out for its content would reveal something
    that the guarantee does not cover. Without a guarantee it may raise `ClipError`: the clip is dropped and counted.
    """

    modality: ClassVar[Modality]
    name: ClassVar[str]
    version: ClassVar[str]
    Options: ClassVar[type[Options]] = Options
    forms: ClassVar[tuple[str, ...]]
    """Released forms that it offers, of those in the release format. The first is the default."""
    is_reproducible: ClassVar[bool] = True
    """Whether a site that calls `prepare_public` itself gets the coordinator's arrays."""
    public_options: ClassVar[frozenset[str]] = frozenset()
    """Options that `prepare_public` depends on."""
    needs_network: ClassVar[bool] = False
    """Whether `prepare_public` needs a public network, fetched or trained; then no arrays come with the package."""
    not_from_options: ClassVar[frozenset[str]] = frozenset()
    """Parameters of the statement that an option of the same name does not decide."""

    form: str = ""
    """The released form."""
    uses_noise: bool = True
    """Whether anything random is in the release."""

    @classmethod
    def missing(cls, study: Study) -> str | None:  # noqa: ARG003
        """The reason why it cannot run on this machine, with the command that helps; None if it can, the default."""
        return None

    # Public arrays: made by the coordinator, checked and used by the sites.

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:  # noqa: ARG003
        """Arrays that the coordinator makes of public data alone, by name. They cost no privacy. Default: none.

        `notify` is called with a line about what takes long.
        """
        return {}

    @classmethod
    def public_choices(cls, study: Study) -> dict[str, Any]:
        """All that the arrays of `prepare_public` depend on, as JSON: for equal choices pinned arrays can stand in."""
        options = cls.Options.of(study.section(cls.modality).options)
        chosen = options.model_dump(mode="json", include=set(cls.public_options))
        return {"anonymizer": cls.name, "modality": cls.modality, "version": cls.version, **chosen}

    @classmethod
    def public_rules(cls, study: Study) -> Rules:  # noqa: ARG003
        """Rules for the public arrays, by name: type, shape and bounds. Default: no array is accepted.

        A request with any other array, or with values beyond these, is refused before a clip is read.
        """
        return {}

    @classmethod
    def public_strength(cls, study: Study, arrays: Mapping[str, Array]) -> dict[str, float]:  # noqa: ARG003
        """Like `strength`, of what the public arrays decide."""
        return {}

    @classmethod
    def site_training(cls, study: Study) -> SiteTraining | None:  # noqa: ARG003
        """The encoder that sites train together before they release; None, the default, if there is none."""
        return None

    @classmethod
    @abstractmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> Anonymizer:
        """Build from the study and the public arrays."""

    # The release.

    @property
    def codebook(self) -> Float32 | None:
        """float32 [k, d] that released tokens are read with. Default: none."""
        return None

    def frames(self, released: Array) -> int:
        """Frames, steps of a sequence, or one code in a released array: the size that privacy is composed over."""
        return frame_count(self.form, released)

    def keep_in(self, folder: Path) -> None:  # noqa: B027 - most keep nothing
        """Take the folder at the site for what the next release must know; called before `fit`. Default: keep nothing.

        Nothing there leaves the site; files in it must be readable by their owner only.
        """

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:  # noqa: B027 - most fit nothing
        """Fit on the site's clips, each with its speaker. Default: nothing, which costs nothing."""

    @property
    def trains_on_emotions(self) -> bool:
        """Whether `train_on_emotions` must be called between `fit` and `release`. Default: no."""
        return False

    def train_on_emotions(self, clips: Iterable[tuple[Speaker, Array, int]]) -> None:
        """Train on the site's clips, each with its speaker and the class index of its emotion label.

        Raises:
            StudyError: too few of them.
        """
        del clips
        raise NotImplementedError(f"{self.name} trains on no emotions")

    def release(
        self, clips: Sequence[Array], noise: Sequence[NoiseSource], speakers: Sequence[Speaker]
    ) -> list[Array | Exception]:
        """Released arrays of a batch, with a source of noise and a key of `fit` for each clip; or a clip's error."""
        out: list[Array | Exception] = []
        for clip, source, speaker in zip(clips, noise, speakers, strict=True):
            try:
                out.append(self.release_clip(clip, source, speaker))
            except Exception as error:  # fail closed: whatever went wrong, this clip has no release
                out.append(error)
        return out

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:
        """The released array of one clip. An error that it raises stands in the clip's place."""
        raise NotImplementedError(f"{self.name} has neither `release_clip` nor `release`")

    # Guarantees of the release, and its privacy loss.

    @classmethod
    def is_fitted(cls, study: Study) -> bool:  # noqa: ARG003
        """Whether `fit` looks at the site's clips, so that a clip changes what is released of others. Default: no."""
        return False

    @classmethod
    def strength(cls, study: Study) -> dict[str, float]:  # noqa: ARG003
        """The numbers that decide how much this study hides, by name. Default: none.

        A site's policy bounds them (`max_NAME` or `min_NAME` in `[mechanisms]`): with noise of size zero the strongest
        mechanism hides nothing.
        """
        return {}

    @classmethod
    def fewest_clips(cls, study: Study) -> int:  # noqa: ARG003
        """Fewest clips of a site: fewer would stand in the release almost as they are. Default: 1."""
        return 1

    @classmethod
    def size_note(cls, study: Study) -> str | None:  # noqa: ARG003
        """The size of its network for the report. Default: none."""
        return None

    @abstractmethod
    def privacy(self, sizes: Sizes) -> tuple[PrivacyStatement, ...]:
        """Guarantees at every unit."""

    def parameters(self) -> dict[str, Any]:
        """Parameters of the release for its statement, by name."""
        return {}

    def counts(self) -> dict[str, int]:
        """Facts of this release for the report."""
        return {}

    def statement(self, sizes: Sizes, noise: Literal["system", "seeded"]) -> AnonymizerStatement:
        """Parameters, privacy at every unit, counts."""
        return AnonymizerStatement(
            modality=self.modality,
            name=self.name,
            version=self.version,
            form=self.form,
            parameters=self.parameters(),
            privacy=self.privacy(sizes),
            noise=noise if self.uses_noise else "none",
            counts=self.counts(),
        )

    def losses(self, sizes: Sizes) -> Losses:
        """Mechanisms that a ledger composes: what the clip and the speaker with the largest loss lose.

        Default: what `privacy` guarantees. An epsilon that has a delta cannot be composed by itself and counts as no
        guarantee: an anonymizer that states one overrides this.
        """
        stated = self.privacy(sizes)
        return {unit: _stated([p for p in stated if p.unit == unit], unit) for unit in LEDGER_UNITS}

    @classmethod
    def planned_losses(cls, study: Study, sizes: Sizes) -> Losses:
        """`losses` before any public array or clip is there. Default: that nothing is guaranteed."""
        del study, sizes
        return no_bound()


def no_bound(why: str = "the anonymizer guarantees nothing") -> Losses:
    """Losses without a bound, of the clip and of the speaker."""
    return {unit: (Unbounded(unit=unit, why=why),) for unit in LEDGER_UNITS}


def _stated(statements: list[PrivacyStatement], unit: PrivacyUnit) -> tuple[Mechanism, ...]:
    if not statements or any(p.epsilon is None or p.delta for p in statements):
        return (Unbounded(unit=unit, why="the anonymizer states no pure guarantee"),)
    return tuple(Pure(unit=unit, total=p.epsilon) for p in statements if p.epsilon)


A = TypeVar("A", bound=type[Anonymizer])


def anonymizer(name: str, *, modality: Modality, version: str) -> Callable[[A], A]:
    """Register a class under a name. A second one of the same name raises ValueError."""

    def register(cls: A) -> A:
        cls.name, cls.modality, cls.version = name, modality, version
        ANONYMIZERS.add(name, cls, scope=modality)
        return cls

    return register


def get_anonymizer(modality: Modality, name: str) -> type[Anonymizer]:
    """Find an anonymizer by name.

    Raises:
        StudyError: unknown name; the message lists the known names.
    """
    found = ANONYMIZERS.get(name, scope=modality)
    if not issubclass(found, Anonymizer):
        raise TypeError(f"the {modality} anonymizer {name!r} is no {Anonymizer.__qualname__}")
    return found


def anonymizer_of(study: Study, modality: Modality) -> type[Anonymizer]:
    """The anonymizer that a study names for a modality."""
    return get_anonymizer(modality, study.section(modality).anonymizer)


def anonymizer_names(modality: Modality) -> list[str]:
    """Names of all anonymizers of one modality, sorted."""
    return ANONYMIZERS.names(modality)


def prepare_public(study: Study, notify: Notify = lambda text: None) -> Arrays:  # noqa: ARG005
    """All public arrays of a study: those that come with the package, and others as its anonymizers prepare them."""
    arrays: Arrays = {}
    for modality in study.modalities:
        pinned = pinned_public(study, modality)
        arrays |= anonymizer_of(study, modality).prepare_public(study, notify) if pinned is None else pinned
    return arrays


def pinned_public(study: Study, modality: Modality) -> Arrays | None:
    """The public arrays of a study that come with the package, see `moretta.shared.release.pinned`."""
    made_by = anonymizer_of(study, modality)
    return pinned_arrays(made_by.public_choices(study)) if made_by.public_options else None


def site_training_of(study: Study) -> SiteTraining | None:
    """The encoder that the sites of a study train together before they release; None if there is none."""
    trainings = (anonymizer_of(study, modality).site_training(study) for modality in study.modalities)
    return next((training for training in trainings if training is not None), None)


def public_rules(study: Study) -> Rules:
    """Rules for the public arrays of a study, by name. Arrays with other names are refused."""
    return {name: rule for m in study.modalities for name, rule in anonymizer_of(study, m).public_rules(study).items()}
