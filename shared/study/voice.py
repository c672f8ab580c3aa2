"""`[voice]` of the study file, and what its presets stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from moretta.shared.core.terms import VoiceForm
from moretta.shared.study.sections import Computable, Delta, Epsilon, Fraction, Section

VoicePreset = Literal["bounded", "original", "dp-clip", "dp-speaker"]
BY_VALUE = "mfcc-quantizer"
"""The anonymizer of the presets `bounded` and `original`, whose budget is a value's."""
BUDGETED: tuple[str, ...] = ("clip-quantizer", "clip-statistics")
"""Those of `dp-clip` and `dp-speaker`; the first is meant where none is named."""
SPEAKER_NORMALIZED = "speaker-normalized"
EMOTION_LABEL_RR = "emotion-label-rr"
CODEWORD_FORMS: tuple[VoiceForm, ...] = ("code", "code-tokens")
"""Of a clip that is told in words."""
_DP_PRESETS = ("dp-clip", "dp-speaker")
CLIP_EPSILON = 2.0
"""Of one clip where a speaker's budget is shared by several. On synthetic speech models learnt most from so many clips
that each had about as much: fewer are told better than more are, down to this."""


class VoiceSection(Section):
    """`[voice]`: how voice is anonymized and modelled."""

    enabled: bool = True
    anonymizer: str = BY_VALUE
    preset: VoicePreset = "bounded"
    """Of what the guarantee is: `bounded`, a value; `dp-clip`, a clip; `dp-speaker`, a speaker; `original`: nothing."""
    form: VoiceForm = "mfcc"
    """Under the `dp-` presets `code`, where nothing else is said."""
    epsilon: Epsilon = 0.8
    """Nominal, per MFCC value."""
    sensitivity: Computable = 0.5
    """Nominal, per MFCC value: the Laplace scale is sensitivity / epsilon."""
    bound: Computable = 3.0
    """Preset `bounded`: coefficients are clipped to +- this many public standard deviations."""
    budget_epsilon: Epsilon = 8.0
    """Of the `dp-` presets: for all that is released of one clip, or of one speaker."""
    budget_delta: Delta = 1e-5
    """The delta of that, where the noise is Gaussian."""
    segments: int = Field(default=1, ge=1, le=16)
    """Parts of a clip, each of which gives one token."""
    released_clips: int | None = Field(default=None, ge=1, le=1000)
    """Preset `dp-speaker`: clips released of a speaker at most; None takes one for every 2 of the budget's epsilon."""
    codebook: Literal["public", "local"] = "public"
    codebook_size: int = Field(default=64, ge=2, le=4096)
    coefficients: int = Field(default=13, ge=2, le=40)
    code_size: int = Field(default=5, ge=2, le=64)
    """Values in a code of `speaker-normalized`."""
    code_noise: Annotated[float, Field(ge=0, le=100)] = 0.5
    """Standard deviation of the noise on these values, which vary by 1 within a speaker."""
    code_encoder: Literal["directions", "network"] = "directions"
    """What makes that code of measurements: directions in closed form, or a network trained on public speech."""
    code_training: Literal["public", "federated"] = "public"
    """What teaches the code of `speaker-normalized`: public speech, or, from there on, the sites' own."""
    code_unit: Literal["clip", "speaker"] = "speaker"
    """Of a federated code: whom the guarantee is for, as `unit` in `[privacy]` says."""
    code_epsilon: Annotated[float, Field(ge=0, le=1000)] = 4.0
    """Of a federated code, for one unit, over all rounds, at `budget_delta`; 0 trains without noise or guarantee."""
    code_rounds: int = Field(default=20, ge=1, le=1000)
    """Of a federated code: one step each."""
    labels_from: Literal["site", "public", "federated"] = "site"
    """Who teaches the words of `emotion-label-rr`: the site's other people, public speech, or all sites together."""
    label_epsilon: Epsilon = 3.5
    """Of one word of `emotion-label-rr`, which a clip is told in."""
    public_speech: Path | None = None
    """A folder of wav files that anybody may have; None means synthetic speech."""
    model: str = "statistics"
    weight: Fraction = 0.6
    """Weight of voice in the late fusion; the rest is the face's."""

    @property
    def budgeted(self) -> bool:
        """Whether a clip or a speaker has one budget for all that is released of it."""
        return self.preset in _DP_PRESETS

    @property
    def trains_code(self) -> bool:
        """Whether sites train a code together before they release."""
        return self.code_training == "federated" or (
            self.anonymizer == EMOTION_LABEL_RR and self.labels_from == "federated"
        )

    @property
    def uses_windows(self) -> bool:
        """Whether a clip is told step by step relative to its speaker, and not as a whole."""
        return self.anonymizer == SPEAKER_NORMALIZED and self.form != "code"

    @property
    def clip_limit(self) -> int | None:
        """How many clips of a speaker are released at most; None where there is no limit."""
        if self.preset != "dp-speaker":
            return None
        return self.released_clips or max(1, round(self.budget_epsilon / CLIP_EPSILON))

    @model_validator(mode="before")
    @classmethod
    def _presets_name_their_anonymizer(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        content, named = dict(content), content.get("anonymizer", BY_VALUE)
        if named in BUDGETED:
            content.setdefault("preset", "dp-clip")
        if content.get("preset") in _DP_PRESETS:
            content["anonymizer"] = BUDGETED[0] if named == BY_VALUE else named
        coded = content.get("preset") in _DP_PRESETS or named in (SPEAKER_NORMALIZED, EMOTION_LABEL_RR)
        if coded and content.get("form", "mfcc") == "mfcc":
            content["form"] = "code"
        return content

    @model_validator(mode="after")
    def _preset_fits(self) -> Self:
        if self.budgeted != (self.anonymizer in BUDGETED):
            raise ValueError(
                f"the anonymizer {self.anonymizer} has no preset {self.preset}: dp-clip and dp-speaker are for "
                f"{' and '.join(BUDGETED)}, and those for nothing else"
            )
        if self.code_training == "federated" and self.anonymizer != SPEAKER_NORMALIZED:
            raise ValueError(f"{self.anonymizer} has no code that sites could train; {SPEAKER_NORMALIZED} has")
        if self.code_training == "federated" and self.code_encoder != "directions":
            raise ValueError("sites train directions: set code_training to public, or code_encoder to directions")
        if self.released_clips is not None and self.preset != "dp-speaker":
            raise ValueError(f"released_clips limits what the preset dp-speaker releases; the preset is {self.preset}")
        if self.anonymizer == EMOTION_LABEL_RR and self.form not in CODEWORD_FORMS:
            raise ValueError(f"{EMOTION_LABEL_RR} releases the form {' or '.join(CODEWORD_FORMS)}, not {self.form}")
        if not self.budgeted:
            return self
        forms = ("code",) if self.anonymizer == "clip-statistics" else CODEWORD_FORMS
        if self.form not in forms:
            raise ValueError(f"{self.anonymizer} releases the form {' or '.join(forms)}, not {self.form}")
        if self.codebook == "local":
            raise ValueError(f"a local codebook looks at clips beside the budget of the preset {self.preset}")
        return self
