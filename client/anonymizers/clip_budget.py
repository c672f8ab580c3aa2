"""Voice anonymizers with one privacy budget for a whole clip, or for all released clips of a speaker.

`clip-quantizer` releases the nearest public codewords by randomized response, `clip-statistics` a few numbers with
Gaussian noise.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from moretta.client.anonymizers.planned_losses import PlannedAnonymizer
from moretta.client.anonymizers.voice_baselines import NOTHING, usable
from moretta.shared.core.array_types import Array, Float64
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.features.mfcc import Audio, check_samples, mfcc
from moretta.shared.features.public_codes import Matrix, PublicCodes, SpeakerUnits, make_public_codes, pooled
from moretta.shared.features.public_speech import MfccOptions, PublicVoice
from moretta.shared.privacy.gaussian import Gaussian, calibrated_sigma
from moretta.shared.privacy.local_mechanisms import RandomizedResponse, most_informative_choices
from moretta.shared.privacy.mechanism import Mechanism
from moretta.shared.privacy.noise import NoiseSource, in_ball, on_grid
from moretta.shared.release.anonymizer import UNITS, Arrays, Losses, Notify, Sizes, Speaker, anonymizer
from moretta.shared.study.public_arrays import PUBLIC_SEED, Rules
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import Delta, Epsilon

CLIP_EPSILON = 2.0
"""Epsilon of one clip where several share a speaker's budget. On synthetic speech models learned most when each clip
had about as much: fewer clips are better, down to this epsilon."""
VALUES = 2
"""Values of each part of a clip that `clip-statistics` releases."""
RADIUS = 1.0
"""Radius of the ball, in public deviations. With more values, or a larger ball, noise exceeds the signal: both were
chosen on synthetic speech, where two values in a small ball kept most at epsilon 8."""
_OPEN = (
    "not covered: that there are so many usable clips and speakers, and the labels and sentences of those released; "
    "the number of frames is not released"
)
_CLIP_NOTE = f"between any two usable clips, whatever was said; {_OPEN}"
_SPEAKER_NOTE = f"between any two people with as many usable clips, whatever they said; {_OPEN}"


class ClipBudgetOptions(MfccOptions):
    """Options that a study may set."""

    preset: Literal["dp-clip", "dp-speaker"] = "dp-clip"
    """The owner of the budget: a clip, or a speaker with all clips."""
    budget_epsilon: Epsilon = 8.0
    """Epsilon of all that is released of one clip, or of one speaker."""
    budget_delta: Delta = 1e-5
    """Delta of all that is released of one clip, or of one speaker, where the noise is Gaussian."""
    segments: int = Field(default=1, ge=1, le=16)
    """Parts of a clip; each gives one token."""
    released_clips: int | None = Field(default=None, ge=1, le=1000)
    """Preset `dp-speaker`: released clips of a speaker at most; None takes one for every 2 of the budget's epsilon."""
    codebook_size: int = Field(default=64, ge=2, le=4096)
    """Most codewords."""

    @model_validator(mode="after")
    def _only_a_speaker_has_several_clips(self) -> Self:
        if self.released_clips is not None and self.preset != "dp-speaker":
            raise ValueError(f"released_clips limits what the preset dp-speaker releases; the preset is {self.preset}")
        return self

    @property
    def clip_limit(self) -> int | None:
        """Released clips of a speaker at most; None without a limit."""
        if self.preset != "dp-speaker":
            return None
        return self.released_clips or max(1, round(self.budget_epsilon / CLIP_EPSILON))

    def response(self) -> RandomizedResponse:
        """Randomized response of a clip: the budget over its tokens, and over a speaker's clips if it is a speaker's.
        It has as many codewords as are most informative, `codebook_size` at most."""
        epsilon = self.budget_epsilon / (self.segments * (self.clip_limit or 1))
        choices = most_informative_choices(epsilon, self.codebook_size)
        return RandomizedResponse(choices=choices, token_epsilon=epsilon, tokens=self.segments)

    def gaussian(self) -> Gaussian:
        """Noise on one clip, whose statistics lie in a ball: any two clips are its diameter apart at most, and any two
        speakers with n released clips root n times as far."""
        reach = 2 * RADIUS * math.sqrt(self.clip_limit or 1)
        sigma = calibrated_sigma(epsilon=self.budget_epsilon, delta=self.budget_delta, sensitivity=reach)
        return Gaussian(sigma=sigma, distance=2 * RADIUS)


class ClipSelection:
    """A few clips of each speaker, chosen by chance; every other is over the budget.

    A clip's turn depends on a secret key, its content and how often that content came before: so a recording that is
    there twice has two turns, and how many clips are chosen depends on their number alone.

    Args:
        clips: all samples and pooled vectors, which every speaker's own units are fitted on.
    """

    def __init__(self, limit: int, key: bytes, clips: Iterable[tuple[Speaker, Audio, Matrix]]) -> None:
        self._key, self.left_out = key, 0
        vectors: dict[Speaker, list[Matrix]] = defaultdict(list)
        turns: dict[Speaker, list[bytes]] = defaultdict(list)
        self._seen: Counter[tuple[Speaker, bytes]] = Counter()
        for speaker, samples, pooled_clip in clips:
            vectors[speaker].append(pooled_clip)
            turns[speaker].append(self._turn(speaker, samples))
        self._seen.clear()
        self._scales = {speaker: SpeakerUnits.of(np.concatenate(found)) for speaker, found in vectors.items()}
        self._chosen = {speaker: frozenset(sorted(found)[:limit]) for speaker, found in turns.items()}

    def in_speaker_units(self, speaker: Speaker, vectors: Matrix) -> Matrix:
        """A clip's vectors in its speaker's own units; a ClipError `not-fitted` for a speaker without any."""
        if speaker not in self._scales:
            raise ClipError("not-fitted", "a speaker who was not there when the budget was shared out")
        return self._scales[speaker].apply(vectors)

    def take(self, speaker: Speaker, samples: Audio) -> None:
        """Let a clip pass, once, if it was chosen; else a ClipError `over-budget`."""
        if self._turn(speaker, samples) not in self._chosen.get(speaker, frozenset()):
            self.left_out += 1
            raise ClipError("over-budget", "a clip beyond those that its speaker's budget is for")

    def _turn(self, speaker: Speaker, samples: Audio) -> bytes:
        content = hashlib.sha256(samples.tobytes()).digest()
        self._seen[speaker, content] += 1
        return hmac.digest(self._key, content + self._seen[speaker, content].to_bytes(4, "big"), "sha256")


class BudgetedVoice(PlannedAnonymizer[ClipBudgetOptions]):
    """MFCC -> pooled over parts of the clip -> public code -> noise.

    Preset `dp-clip`: each clip has `budget_epsilon` for all that is released of it. Preset `dp-speaker`: all that is
    released of a speaker together has it. Then only `clip_limit` clips of a speaker are released, chosen at random. The
    budget covers all clips of the speaker anyway, so each is normalized by the others: that removes the voice and
    leaves how it changes.
    """

    Options = ClipBudgetOptions
    not_from_options = frozenset({"released_clips", "budget_delta"})
    public_options = frozenset(
        {"preset", "budget_epsilon", "segments", "released_clips", "codebook_size", "coefficients", "public_speech"}
    )

    def __init__(self, options: ClipBudgetOptions, form: str, public: PublicVoice, codes: PublicCodes) -> None:
        super().__init__(options, form)
        self._public, self._codes = public, codes
        self._selection: ClipSelection | None = None

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """Statistics of public speech, and codes of its pooled MFCC."""
        notify("measuring public speech")
        options, seed = cls.options_of(study), derive(PUBLIC_SEED, "public codes")
        voice, per_speaker = options.public_voice(), options.clip_limit is not None
        size = options.response().choices
        codes = make_public_codes(voice, size=size, segments=options.segments, per_speaker=per_speaker, seed=seed)
        return {**voice.to_arrays(), **codes.to_arrays()}

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """See `Anonymizer.public_rules`."""
        coefficients = cls.options_of(study).coefficients
        return {**PublicVoice.rules(coefficients), **PublicCodes.rules(coefficients)}

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> Self:
        """Build from the study and the public arrays. Errors: StudyError if they do not fit each other."""
        voice, codes = PublicVoice.from_arrays(public), PublicCodes.from_arrays(public)
        return cls(cls.options_of(study), study.voice.form, voice, codes)

    @classmethod
    @abstractmethod
    def loss_of_clip(cls, options: ClipBudgetOptions) -> Mechanism:
        """The mechanism that states the privacy loss of one released clip."""

    @abstractmethod
    def randomize(self, codes: Float64, noise: NoiseSource) -> Array:
        """The release in place of the codes of a clip, [segments, d], whatever they are."""

    def frames(self, released: Array) -> int:  # noqa: ARG002 - every clip has as many
        """Parts of a clip."""
        return self._options.segments

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:
        """Preset `dp-speaker`: fit every speaker's own units, and choose the clips that are released."""
        if (limit := self._options.clip_limit) is not None:
            pooled_clips = ((speaker, samples, self._vectors(samples)) for speaker, samples in usable(clips))
            self._selection = ClipSelection(limit, noise.uniform((4,)).tobytes(), pooled_clips)

    @classmethod
    def is_fitted(cls, study: Study) -> bool:
        """Whether the preset is `dp-speaker`."""
        return cls.options_of(study).clip_limit is not None

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:
        """The noisy response of a clip."""
        samples = check_samples(clip)
        codes = self.codes_of(samples, speaker)
        if self._selection is not None:
            self._selection.take(speaker, samples)
        return self.randomize(codes, noise)

    def codes_of(self, samples: Audio, speaker: Speaker) -> Float64:
        """float64 [segments, d] of a clip, without noise: nothing of it may leave."""
        vectors = self._vectors(samples)
        if self._options.clip_limit is not None:
            if self._selection is None:
                raise ClipError("not-fitted", "a speaker's budget that was not shared out", fix="call `fit` first")
            vectors = self._selection.in_speaker_units(speaker, vectors)
        return self._codes.codes(vectors)

    def counts(self) -> dict[str, int]:
        """Clips that were not chosen."""
        return {} if self._selection is None else {"clips_over_budget": self._selection.left_out}

    @classmethod
    def losses_of(cls, options: ClipBudgetOptions, sizes: Sizes) -> Losses:
        """One run of the mechanism for a clip, and one for each released clip of a speaker.

        Under `dp-speaker` a clip loses as much as its speaker: it moves the speaker's own units, and with them
        whatever is released of the others.
        """
        if not any(sizes.values()):
            return NOTHING
        limit, most, loss = options.clip_limit, max(map(len, sizes.values())), cls.loss_of_clip(options)
        if limit is None:
            return {"clip": (loss,), "speaker": (loss.for_group(most),)}
        group = min(most, limit)
        return {"clip": (loss.for_group(group, "clip"),), "speaker": (loss.for_group(group),)}

    def privacy(self, sizes: Sizes) -> tuple[PrivacyStatement, ...]:
        """The budget at every unit: of a clip, and what all released clips of a speaker come to."""
        whole = "clip" if self._options.clip_limit is None else "speaker"
        rows = []
        for unit in UNITS:
            note = _SPEAKER_NOTE if "speaker" in (whole, unit) else _CLIP_NOTE
            nominal: float | None = self._options.budget_epsilon
            if unit in ("value", "frame"):
                note, nominal = f"as a part of its {whole}, {note}", None
            elif unit == "speaker" and whole == "clip":
                nominal = self._options.budget_epsilon * max(map(len, sizes.values()), default=0)
            rows.append(self.stated(sizes, unit, note, nominal))
        return tuple(rows)

    def parameters(self) -> dict[str, Any]:
        """The budget, and how the noise was made."""
        options = self._options
        return {
            "preset": options.preset,
            "budget_epsilon": options.budget_epsilon,
            "budget_delta": self.delta,
            "segments": options.segments,
            "released_clips": options.clip_limit,
            "coefficients": options.coefficients,
            "codebook": "public",
        }

    def _vectors(self, samples: Audio) -> Matrix:
        """[segments, 2 n] of one clip, in public units; zeros where that fails, so that no clip is left out for it."""
        try:
            frames = mfcc(samples, self._options.coefficients)
            return self._codes.vectors(pooled(frames, self._public, self._options.segments))
        except Exception:
            return np.zeros((self._options.segments, len(self._codes.center)), np.float32)


@anonymizer("clip-quantizer", modality="voice", version="1")
class ClipQuantizer(BudgetedVoice):
    """Code -> nearest codeword -> k-ary randomized response.

    The codewords are public, so the responses are all that is released of a clip, at delta 0. One part, and as many
    codewords as are most informative at that epsilon, keep most: with more parts each response is so random that
    nothing comes through.
    """

    forms = ("code", "code-tokens")
    mechanism = "randomized response among public codewords"

    def __init__(self, options: ClipBudgetOptions, form: str, public: PublicVoice, codes: PublicCodes) -> None:
        super().__init__(options, form, public, codes)
        self._response = options.response()
        found, expected = len(codes.codewords), self._response.choices
        if found != expected:
            raise StudyError(f"{found} public codewords", expected=f"{expected}, as the study's budget requires")

    @classmethod
    def loss_of_clip(cls, options: ClipBudgetOptions) -> RandomizedResponse:
        """All tokens of the clip."""
        return options.response()

    @property
    def codebook(self) -> Matrix | None:
        """float32 [k, d], where tokens are released."""
        return self._codes.codewords if self.form == "code-tokens" else None

    def randomize(self, codes: Float64, noise: NoiseSource) -> Array:
        """int32 [segments], or the codewords that the responses name, float32 [segments * d]."""
        tokens = self._response.randomize(self._codes.tokens(codes), noise)
        return tokens if self.form == "code-tokens" else self._codes.codewords[tokens].ravel()

    def parameters(self) -> dict[str, Any]:
        """The budget and the numbers of the response."""
        own = self._response
        numbers = {"choices": own.choices, "token_epsilon": own.token_epsilon, "kept": own.keep}
        return {**super().parameters(), **numbers}


@anonymizer("clip-statistics", modality="voice", version="1")
class ClipStatistics(BudgetedVoice):
    """The first values of the code -> clipped to a ball -> Gaussian noise.

    Any two clips differ by the diameter of the ball at most, whatever was said; the noise is calibrated to
    `budget_epsilon` at `budget_delta` by Balle and Wang's exact formula.
    """

    forms = ("code",)
    mechanism = "Gaussian on bounded statistics of a clip"

    def __init__(self, options: ClipBudgetOptions, form: str, public: PublicVoice, codes: PublicCodes) -> None:
        super().__init__(options, form, public, codes)
        self.delta, self._gaussian = options.budget_delta, options.gaussian()

    @classmethod
    def loss_of_clip(cls, options: ClipBudgetOptions) -> Gaussian:
        """One Gaussian over all values of the clip."""
        return options.gaussian()

    def randomize(self, codes: Float64, noise: NoiseSource) -> Array:
        """float32 [segments * 2]: all of a clip's values lie in one ball before the noise."""
        sigma = self._gaussian.sigma
        inside = in_ball(codes[:, :VALUES].ravel(), RADIUS)
        return on_grid(inside + noise.private_normal(sigma, inside.shape), sigma)

    def parameters(self) -> dict[str, Any]:
        """The budget, the ball and the noise."""
        own = {"values": VALUES * self._options.segments, "radius": RADIUS, "sigma": self._gaussian.sigma}
        return {**super().parameters(), **own}
