"""What a site refuses: `policy.toml`, checked before anything is computed or leaves. A refusal names its rule."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moretta.client.accounting.budget import BudgetLimits
from moretta.shared.core.errors import HomeError, RefusedError
from moretta.shared.core.terms import Modality
from moretta.shared.release.anonymizer import Anonymizer, Array, anonymizer_of
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.former_names import current_policy
from moretta.shared.study.schema import Study

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
        """What the server learns."""
        return f"refused by the rule {self.rule} of the site's policy"


class Mechanisms(BaseModel):
    """Numbers beyond which an anonymizer hides nothing. Each anonymizer states its own (`Anonymizer.strength`); a rule
    is `max_` or `min_` and the name of such a number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_value_epsilon: Limit = 20.0
    max_label_epsilon: Limit = 5.0
    max_codebook_size: Limit = 256.0
    max_code_size: Limit = 16.0
    min_code_noise: Limit = 0.3
    min_face_noise: Limit = 0.3
    min_face_error: Limit = 0.04

    def check(self, name: str, strength: Mapping[str, float]) -> None:
        """Refuse an anonymizer with too little to hide behind; the PolicyError names the number's rule."""
        for number, value in strength.items():
            most, least = getattr(self, f"max_{number}", math.inf), getattr(self, f"min_{number}", -math.inf)
            if not least <= value <= most * (1 + 1e-9):
                above = value > most
                rule, limit = (
                    (f"max_{number}", f"at most {most:g}") if above else (f"min_{number}", f"at least {least:g}")
                )
                raise PolicyError(
                    rule,
                    f"{name!r} with {number.replace('_', ' ')} {value:g}: it would hide next to nothing",
                    expected=limit,
                )


class Policy(BaseModel):
    """The rules of one site. A rule that the file does not give has the value shown here; an unknown one is an error.

    The limits on epsilon are for one study; `budget` limits what all studies together cost the same clips and people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    allow_seeded_noise: bool = False
    budget: BudgetLimits = BudgetLimits()
    mechanisms: Mechanisms = Mechanisms()
    bundle_digest: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    code_digest: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `policy.toml`. A site without one does nothing: no policy is not the same as a lenient one.

        Raises:
            HomeError: it is missing, not TOML, or has an unknown rule or an impossible value.
        """
        try:
            return cls.model_validate(current_policy(tomllib.loads(path.read_text(encoding="utf-8")), source=str(path)))
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

    def check_server(self, fingerprint: str) -> None:
        """Rule `server_fingerprint`: no other server than the one that the policy names."""
        self._check_pinned("server_fingerprint", "server", fingerprint)

    def check_code(self, digest: str) -> None:
        """Rule `code_digest`: no other code than the policy names."""
        self._check_pinned("code_digest", "installed code", digest)

    def check_bundle(self, digest: str) -> None:
        """Rule `bundle_digest`: no other bundle than the policy names."""
        self._check_pinned("bundle_digest", "installed bundle", digest)

    def check_noise(self, *, seeded: bool) -> None:
        """Rule `allow_seeded_noise`: no noise that can be replayed."""
        if seeded and not self.allow_seeded_noise:
            raise PolicyError("allow_seeded_noise", "noise from a seed", expected="the operating system's generator")

    def check_study(self, study: Study) -> None:
        """Refuse a study by what it says.

        Raises:
            PolicyError: rule `modalities`, `anonymizers`, `max_release_epsilon`, one of `[mechanisms]`,
                `allow_attributes`, `allow_linkage`, `max_delta` or `max_training_epsilon`.
        """
        for modality in study.modalities:
            if modality not in self.modalities:
                raise PolicyError("modalities", f"a study of {modality}", expected=", ".join(self.modalities) or "none")
            self._check_anonymizer(study.section(modality).anonymizer)
        if study.audit.attributes and not self.allow_attributes:
            raise PolicyError("allow_attributes", "a study that asks for sex and age group")
        if study.linkage == "site" and not self.allow_linkage:
            raise PolicyError("allow_linkage", "a study that asks for the same pseudonyms as other studies")
        if study.privacy.dp_sgd:
            self._check_delta(study.privacy.delta)
        self.check_training(study.privacy.epsilon if study.privacy.dp_sgd else math.inf)
        if (training := study.site_training) is not None:
            self._check_delta(training.delta)
            self.check_training(training.epsilon or math.inf)
        for modality in study.modalities:
            self._check_mechanism(study, modality)

    def check_pending(self, pending: int) -> None:
        """Rule `max_pending`: a limit on studies that wait for the steward."""
        if pending >= self.max_pending:
            found = f"a study besides {pending} that wait for the steward"
            raise PolicyError("max_pending", found, expected=f"at most {self.max_pending}")

    def check_training(self, epsilon: float) -> None:
        """Rule `max_training_epsilon`: on the loss by training, per clip, over all rounds and models of one study."""
        self._check_most("max_training_epsilon", f"training with epsilon {epsilon:.3f} per clip", epsilon)

    def check_clips(self, clips: int, speakers: int) -> None:
        """Rules `min_clips` and `min_speakers`: the fewer there are, the easier one is found among them."""
        if clips < self.min_clips:
            raise PolicyError("min_clips", f"a release of {clips} clips", expected=f"at least {self.min_clips}")
        if speakers < self.min_speakers:
            raise PolicyError("min_speakers", f"one of {speakers} speakers", expected=f"at least {self.min_speakers}")

    def check_release(self, statements: Sequence[AnonymizerStatement]) -> None:
        """Refuse a release by what its anonymizers guarantee for one clip, all modalities together.

        Those of `without_guarantee` do not count: what they hide was measured and not proven.

        Raises:
            PolicyError: rule `anonymizers`, `allow_seeded_noise`, `max_delta` or `max_release_epsilon`.
        """
        for statement in statements:
            self._check_anonymizer(statement.name)
            self.check_noise(seeded=statement.noise == "seeded")
            self._check_delta(max((p.delta for p in statement.privacy), default=0.0))
        guaranteed = (_epsilon_per_clip(s) for s in statements if s.name not in self.without_guarantee)
        self._check_epsilon(math.fsum(guaranteed))

    def check_codebook(self, study: Study, clips: int) -> None:
        """Rule `max_codebook_size`: a codebook fitted on the site's own clips has no more codewords than there are."""
        for modality in study.modalities:
            if (fewest := anonymizer_of(study, modality).fewest_clips(study)) > clips:
                found = f"a codebook of {fewest} codewords from {clips} clips"
                raise PolicyError("max_codebook_size", found, expected="no more")

    def check_public(self, study: Study, arrays: Mapping[str, Array]) -> None:
        """Refuse public arrays that leave an anonymizer with too little to hide behind.

        Raises:
            PolicyError: one of `[mechanisms]`.
            StudyError: the arrays are not those of this study.
        """
        for modality in study.modalities:
            anonymizer = anonymizer_of(study, modality)
            self.mechanisms.check(anonymizer.name, anonymizer.public_strength(study, arrays))

    def _check_pinned(self, rule: str, what: str, digest: str) -> None:
        pinned: str = getattr(self, rule)
        if pinned not in ("", digest):
            raise PolicyError(rule, f"the {what} {digest}", expected=pinned)

    def _check_most(self, rule: str, found: str, value: float, *, otherwise: str = "") -> None:
        most: float = getattr(self, rule)
        if not value <= most * (1 + 1e-9):  # true for NaN
            raise PolicyError(rule, found, expected=f"at most {most}{otherwise}")

    def _check_delta(self, delta: float) -> None:
        if delta > self.max_delta:
            raise PolicyError("max_delta", f"delta {delta}", expected=f"at most {self.max_delta}")

    def _check_epsilon(self, epsilon: float) -> None:
        found, otherwise = f"a release with epsilon {epsilon:.3f} per clip", ", or an anonymizer in without_guarantee"
        self._check_most("max_release_epsilon", found, epsilon, otherwise=otherwise)

    def _check_mechanism(self, study: Study, modality: Modality) -> None:
        from moretta.shared.privacy.mechanism import Unbounded

        anonymizer = anonymizer_of(study, modality)
        self.mechanisms.check(anonymizer.name, anonymizer.strength(study))
        undeclared = anonymizer.planned_losses.__func__ is Anonymizer.planned_losses.__func__  # type: ignore[attr-defined]
        if anonymizer.name in self.without_guarantee or undeclared:  # then the statement of its release decides
            return
        if any(isinstance(loss, Unbounded) for loss in anonymizer.planned_losses(study, {"one": [1]})["clip"]):
            self._check_epsilon(math.inf)

    def _check_anonymizer(self, name: str) -> None:
        if name not in self.anonymizers and (self.anonymizers or name == _OPEN):
            named = ", ".join(self.anonymizers) or "one that hides something"
            raise PolicyError("anonymizers", f"the anonymizer {name!r}", expected=named)


def default_policy(server_fingerprint: str) -> str:
    """The text of a new `policy.toml`: every rule with its default and what it means, and this server pinned."""
    text = resources.files("moretta.client").joinpath("policy_default.toml").read_text(encoding="utf-8")
    return text.replace('server_fingerprint = ""', f'server_fingerprint = "{server_fingerprint}"')


def _epsilon_per_clip(statement: AnonymizerStatement) -> float:
    """What one modality guarantees for a clip; infinite where it guarantees nothing finite."""
    found = [p.epsilon for p in statement.privacy if p.unit == "clip"]
    return math.fsum(math.inf if epsilon is None else epsilon for epsilon in found) if found else math.inf
