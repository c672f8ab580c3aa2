"""Anonymizers whose losses follow from options and the sizes of clips, before any clip is there."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Generic, TypeVar, cast

from moretta.shared.core.terms import PrivacyStatement, PrivacyUnit
from moretta.shared.release.anonymizer import Anonymizer, Losses, Sizes
from moretta.shared.study.options import Options
from moretta.shared.study.schema import Study

OptionsT = TypeVar("OptionsT", bound=Options)


class PlannedAnonymizer(Anonymizer, Generic[OptionsT]):
    """An anonymizer whose losses follow from its options and the sizes of clips alone."""

    mechanism: ClassVar[str]
    delta: float = 0.0
    strengths: ClassVar[tuple[str, ...]] = ()
    """Options that decide how much a study hides."""

    def __init__(self, options: OptionsT, form: str) -> None:
        self._options, self.form = options, form

    @classmethod
    def options_of(cls, study: Study) -> OptionsT:
        """The study's options of this anonymizer."""
        return cast(OptionsT, cls.Options.of(study.section(cls.modality).options))

    @classmethod
    def strength(cls, study: Study) -> dict[str, float]:
        """See `Anonymizer.strength`: the numbers of `strengths`."""
        options = cls.options_of(study)
        return {name: float(getattr(options, name)) for name in cls.strengths}

    @classmethod
    @abstractmethod
    def losses_of(cls, options: OptionsT, sizes: Sizes) -> Losses:
        """Mechanisms of the clip and the speaker with the largest loss."""

    def losses(self, sizes: Sizes) -> Losses:
        """See `losses_of`: public arrays change nothing."""
        return self.losses_of(self._options, sizes)

    @classmethod
    def planned_losses(cls, study: Study, sizes: Sizes) -> Losses:
        """See `losses_of`."""
        return cls.losses_of(cls.options_of(study), sizes)

    def stated(self, sizes: Sizes, unit: PrivacyUnit, note: str, nominal: float | None = None) -> PrivacyStatement:
        """The row of one unit; what hides a clip hides its frames and values."""
        epsilons = [loss.epsilon(self.delta) for loss in self.losses(sizes)["speaker" if unit == "speaker" else "clip"]]
        epsilon = None if None in epsilons else sum(each for each in epsilons if each is not None)
        delta = 0.0 if epsilon is None else self.delta
        return PrivacyStatement(
            mechanism=self.mechanism, unit=unit, epsilon=epsilon, delta=delta, nominal=nominal, note=note
        )
