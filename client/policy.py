"""Rules of a site, `policy.toml`: checked before anything is computed or leaves. A refusal names its rule."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moretta.client.accounting.budget import BudgetLimits
from moretta.client.site_home import OwnRecord
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import HomeError, RefusedError
from moretta.shared.core.printable import from_toml
from moretta.shared.core.terms import MODALITIES, Modality
from moretta.shared.privacy.mechanism import Unbounded
from moretta.shared.release.anonymizer import Anonymizer, anonymizer_names, anonymizer_of, get_anonymizer
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.former_names import current_policy
from moretta.shared.study.schema import Study, parse_study

Limit = Annotated[float, Field(ge=0, allow_inf_nan=True)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_OPEN = "none"
"""The anonymizer of either modality that anonymizes nothing."""


class PolicyError(RefusedError):
    """A rule of the policy refuses. The server learns the name of the rule and nothing else."""

    def __init__(self, rule: str, found: str, *, expected: str = "") -> None:
        self.rule = rule
        super().__init__(
            f"the rule {rule} of the policy refuses {found}",
            expected=expected,
            fix="agree with the coordinator on another study, or change policy.toml",
        )

    @property
    def public_message(self) -> str:
        """The text that the server gets."""
        return f"refused by the rule {self.rule} of the site's policy"


class Mechanisms(BaseModel):
    """Numbers beyond which an anonymizer hides nothing. Each anonymizer states its own (`Anonymizer.strength`); a rule
    is `max_` or `min_` and the name of such a number, of any registered anonymizer."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Limit] = Field(init=False)

    max_value_epsilon: Limit = 20.0
    max_label_epsilon: Limit = 5.0
    max_codebook_size: Limit = 256.0
    max_code_size: Limit = 16.0
    min_code_noise: Limit = 0.3
    min_word_noise: Limit = 0.3
    min_face_noise: Limit = 0.3
    min_face_error: Limit = 0.04

    @model_validator(mode="after")
    def _of_registered(self) -> Self:
        """A misspelt rule would refuse nothing."""
        if self.__pydantic_extra__:
            numbers: set[str] = set()
            for modality in MODALITIES:
                for name in anonymizer_names(modality):
                    study = parse_study({modality: {"anonymizer": name}})
                    numbers |= get_anonymizer(modality, name).strength(study).keys()
            rules = {f"{bound}_{number}" for bound in ("max", "min") for number in numbers}
            if unknown := self.__pydantic_extra__.keys() - rules:
                raise ValueError(f"no registered anonymizer states what {', '.join(sorted(unknown))} limits")
        return self

    def check(self, name: str, strength: Mapping[str, float]) -> None:
        """Refuse an anonymizer with too little to hide behind; the PolicyError names the number's rule."""
        for number, value in strength.items():
            most, least = getattr(self, f"max_{number}", math.inf), getattr(self, f"min_{number}", -math.inf)
            if not least <= value <= most * (1 + 1e-9):
                found = f"{name!r} with {number.replace('_', ' ')} {value:g}: it would hide next to nothing"
                if value > most:
                    raise PolicyError(f"max_{number}", found, expected=f"at most {most:g}")
                raise PolicyError(f"min_{number}", found, expected=f"at least {least:g}")


class Policy(OwnRecord):
    """The rules of one site. A rule that the file does not give has the value shown here; an unknown one is an error.

    The limits on epsilon are for one study; `budget` limits what all studies together cost the same clips and people.
    """

    server_fingerprint: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    studies: tuple[Digest, ...] = ()
    auto_approve: bool = False
    public_arrays: tuple[Digest, ...] = ()
    max_pending: int = Field(default=8, ge=0)
    modalities: tuple[Modality, ...] = ("voice", "face")
    anonymizers: tuple[str, ...] = ()
    without_guarantee: tuple[str, ...] = ()
    max_release_epsilon: Limit = 10.0
    max_training_epsilon: Limit = 10.0
    max_delta: Limit = 0.01
    min_clips: int = Field(default=10, ge=1)
    min_speakers: int = Field(default=1, ge=1)
    allow_attributes: bool = True
    allow_linkage: bool = False
    allow_attacks: bool = False
    min_attacked_speakers: int = Field(default=10, ge=2)
    max_attack_scores: int = Field(default=3200, ge=0)
    allow_seeded_noise: bool = False
    budget: BudgetLimits = BudgetLimits()
    mechanisms: Mechanisms = Mechanisms()
    bundle_digest: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    code_digest: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `policy.toml`. A site without one does nothing: no policy is not the same as a lenient one."""
        try:
            return cls.model_validate(current_policy(from_toml(path.read_text(encoding="utf-8")), source=str(path)))
        except FileNotFoundError as error:
            raise HomeError(
                f"no policy at {path}",
                expected="a file that says what this site refuses",
                fix="an empty file stands for the rules that docs/policy.md lists",
            ) from error
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise HomeError(f"{path} cannot be used: {problems}", expected="rules of docs/policy.md") from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise HomeError(f"{path} cannot be read: {error}", expected="a TOML file in UTF-8") from error

    def check_pinned(self, rule: Literal["server_fingerprint", "code_digest", "bundle_digest"], digest: str) -> None:
        """One of these rules: no other server, code or bundle than the policy names, if it names one."""
        if getattr(self, rule) not in ("", digest):
            raise PolicyError(rule, f"the {rule.partition('_')[0]} {digest}", expected=getattr(self, rule))

    def check_noise(self, *, seeded: bool) -> None:
        """Rule `allow_seeded_noise`: no noise that can be replayed."""
        if seeded and not self.allow_seeded_noise:
            raise PolicyError("allow_seeded_noise", "noise from a seed", expected="the operating system's generator")

    def check_study(self, study: Study) -> None:
        """Refuse a study by what it says. Raises PolicyError: rule `modalities`, `anonymizers`, `max_release_epsilon`,
        one of `[mechanisms]`, `allow_attributes`, `allow_linkage`, `max_delta` or `max_training_epsilon`."""
        for modality in study.modalities:
            if modality not in self.modalities:
                raise PolicyError("modalities", f"a study of {modality}", expected=", ".join(self.modalities) or "none")
            self._check_anonymizer(study.section(modality).anonymizer)
        if study.audit.attributes and not self.allow_attributes:
            raise PolicyError("allow_attributes", "a study that requests sex and age group")
        if study.linkage == "site" and not self.allow_linkage:
            raise PolicyError("allow_linkage", "a study that requests the same pseudonyms as other studies")
        if study.privacy.dp_sgd:
            self._check_delta(study.privacy.delta)
        self.check_training(study.privacy.epsilon if study.privacy.dp_sgd else math.inf)
        if (training := study.site_training) is not None:
            self._check_delta(training.delta)
            self.check_training(training.epsilon or math.inf)
        for modality in study.modalities:
            self._check_mechanism(study, anonymizer_of(study, modality))

    def check_pending(self, pending: int) -> None:
        """Rule `max_pending`: a limit on studies that wait for the steward."""
        if pending >= self.max_pending:
            found = f"a study besides {pending} that wait for the steward"
            raise PolicyError("max_pending", found, expected=f"at most {self.max_pending}")

    def check_training(self, epsilon: float) -> None:
        """Rule `max_training_epsilon`: on the loss by training, per clip, over all rounds and models of one study."""
        self._check_epsilon("max_training_epsilon", "training", epsilon)

    def check_clips(self, clips: int, speakers: int) -> None:
        """Rules `min_clips` and `min_speakers`: the fewer there are, the easier one is found among them."""
        for what, number in (("clips", clips), ("speakers", speakers)):
            if number < (least := getattr(self, f"min_{what}")):
                raise PolicyError(f"min_{what}", f"a release of {number} {what}", expected=f"at least {least}")

    def check_release(self, statements: Sequence[AnonymizerStatement]) -> None:
        """Refuse a release by what its anonymizers guarantee for one clip, all modalities together.

        Those of `without_guarantee` do not count: what they hide was measured and not proven.

        Raises:
            PolicyError: rule `anonymizers`, `allow_seeded_noise`, `max_delta` or `max_release_epsilon`.
        """
        total = 0.0
        for statement in statements:
            self._check_anonymizer(statement.name)
            self.check_noise(seeded=statement.noise == "seeded")
            self._check_delta(max((p.delta for p in statement.privacy), default=0.0))
            if statement.name not in self.without_guarantee:
                # Without a finite guarantee for a clip there is none at all
                per_clip = [math.inf if p.epsilon is None else p.epsilon for p in statement.privacy if p.unit == "clip"]
                total += math.fsum(per_clip) if per_clip else math.inf
        self._check_release_epsilon(total)

    def check_attack(self, study: Study, *, speakers: int | None = None, scores: int = 0) -> None:
        """Rules `allow_attacks`, `min_attacked_speakers` and `max_attack_scores`: on attacks that need originals.

        Args:
            speakers: whose originals are compared; None where that is not known yet.
            scores: of all studies that have left and would leave, together: a renamed study is another one.
        """
        if not self.allow_attacks:
            raise PolicyError("allow_attacks", f"attacks on originals for {study.name!r}")
        if speakers is not None and speakers < self.min_attacked_speakers:
            found = f"an attack on the originals of {speakers} people"
            raise PolicyError("min_attacked_speakers", found, expected=f"at least {self.min_attacked_speakers}")
        if scores > self.max_attack_scores:
            found = f"{scores} scores of originals in all studies together"
            raise PolicyError("max_attack_scores", found, expected=f"at most {self.max_attack_scores}")

    def check_codebook(self, study: Study, clips: int) -> None:
        """Rule `max_codebook_size`: a codebook fitted on the site's own clips has no more codewords than there are."""
        for modality in study.modalities:
            if (fewest := anonymizer_of(study, modality).fewest_clips(study)) > clips:
                found = f"a codebook of {fewest} codewords from {clips} clips"
                raise PolicyError("max_codebook_size", found, expected="no more")

    def check_public(self, study: Study, arrays: Mapping[str, Array]) -> None:
        """Refuse public arrays that leave an anonymizer with too little to hide behind. Raises PolicyError: one of
        `[mechanisms]`. StudyError: the arrays are not those of this study."""
        for modality in study.modalities:
            anonymizer = anonymizer_of(study, modality)
            self.mechanisms.check(anonymizer.name, anonymizer.public_strength(study, arrays))

    def _check_epsilon(self, rule: str, what: str, epsilon: float, otherwise: str = "") -> None:
        most: float = getattr(self, rule)
        if not epsilon <= most * (1 + 1e-9):  # true for NaN
            found = f"{what} with epsilon {epsilon:.3f} per clip"
            raise PolicyError(rule, found, expected=f"at most {most}{otherwise}")

    def _check_release_epsilon(self, epsilon: float) -> None:
        otherwise = ", or an anonymizer in without_guarantee"
        self._check_epsilon("max_release_epsilon", "a release", epsilon, otherwise)

    def _check_delta(self, delta: float) -> None:
        if delta > self.max_delta:
            raise PolicyError("max_delta", f"delta {delta}", expected=f"at most {self.max_delta}")

    def _check_mechanism(self, study: Study, anonymizer: type[Anonymizer]) -> None:
        self.mechanisms.check(anonymizer.name, anonymizer.strength(study))
        undeclared = anonymizer.planned_losses.__func__ is Anonymizer.planned_losses.__func__  # type: ignore[attr-defined]
        if anonymizer.name in self.without_guarantee or undeclared:  # then the statement of its release decides
            return
        if any(isinstance(loss, Unbounded) for loss in anonymizer.planned_losses(study, {"one": [1]})["clip"]):
            self._check_release_epsilon(math.inf)

    def _check_anonymizer(self, name: str) -> None:
        if name not in self.anonymizers and (self.anonymizers or name == _OPEN):
            expected = ", ".join(self.anonymizers) or "one that hides something"
            raise PolicyError("anonymizers", f"the anonymizer {name!r}", expected=expected)


def default_policy(server_fingerprint: str) -> str:
    """The text of a new `policy.toml`: every rule with its default and what it means, and this server pinned."""
    text = resources.files("moretta.client").joinpath("policy_default.toml").read_text(encoding="utf-8")
    return text.replace('server_fingerprint = ""', f'server_fingerprint = "{server_fingerprint}"')
