"""Speech that can be understood and is nobody's: the recognised sentence, by one public voice in the clip's manner.

The words come from a closed grammar. The manner is the noisy code of `speaker-normalized`: it chooses among the public
person's recordings of the sentence, and moves pitch, range, level, tilt and pace. So a release has nothing that is not
in the sentence and in that code; with `prosody = "words"`, also each word's own duration, pitch and level, normalized
within the speaker and with noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from moretta.client.anonymizers.normalized_codes import NormalizedCodes
from moretta.client.anonymizers.voice_baselines import UnboundedVoice, usable
from moretta.client.anonymizers.word_prosody import WordProsody
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.reproducibility import derive
from moretta.shared.features.mfcc import check_samples
from moretta.shared.features.public_speech import MfccOptions, PublicVoice
from moretta.shared.features.sentence_recognizer import SentenceRecognizer
from moretta.shared.features.speaker_code import SpeakerCode, measured_public_speech, train_speaker_code
from moretta.shared.features.world_voice import missing_world
from moretta.shared.models.speech.make_voice_bank import make_voice_bank
from moretta.shared.models.speech.voice_bank import VoiceBank
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import Arrays, Notify, Speaker, anonymizer
from moretta.shared.study.public_arrays import PUBLIC_SEED, Rules
from moretta.shared.study.schema import Study

_WHY = (
    "the recognised sentence is released as it is, and a clip without one is left out; what hides people is another's "
    "voice and the normalization, which guarantee nothing; see the audit"
)
_CODEWORDS = 16  # of the code's own codebook, which is not used here
_MILLISECONDS = 10
Noise = Annotated[float, Field(ge=0, le=100)]


class PublicVoiceOptions(MfccOptions):
    """Options that a study may set."""

    code_size: int = Field(default=5, ge=2, le=64)
    """Values in the code of a clip's manner."""
    code_noise: Noise = 0.5
    """Standard deviation of the noise on them, which vary by 1 within a speaker."""
    prosody: Literal["clip", "words"] = "clip"
    """`clip` releases the manner of the whole clip alone; `words` also that of each word."""
    word_noise: Noise = 1.0
    """Standard deviation of the noise on duration, pitch and level of each word, which vary by about 1."""
    duration_grid_ms: int = Field(default=60, ge=10, le=1000)
    """Durations of words are rounded to it, and down to tens."""


@anonymizer("public-voice", modality="voice", version="1")
class SpokenByPublicVoice(UnboundedVoice[PublicVoiceOptions]):
    """Sound -> sentence and manner -> the same sentence by a public person."""

    Options = PublicVoiceOptions
    forms = ("waveform",)
    is_reproducible = False  # recogniser and vocoder round differently on another machine
    needs_network = True  # the recogniser's model, of an extra
    public_options = frozenset({"code_size", "coefficients", "public_speech"})
    mechanism = "speech by a public voice"
    why = _WHY
    strengths = ("code_size", "code_noise")

    def __init__(self, options: PublicVoiceOptions, code: SpeakerCode, bank: VoiceBank) -> None:
        super().__init__(options, "waveform")
        self._code, self._bank = code, bank
        self._codes = NormalizedCodes(code, in_windows=False)
        grid = options.duration_grid_ms // _MILLISECONDS
        self._words = WordProsody(bank, sigma=options.word_noise, grid_frames=grid)
        self._unrecognised = 0

    @classmethod
    def missing(cls, study: Study) -> str | None:  # noqa: ARG003
        """The recogniser, or the vocoder, and the command that installs it."""
        return SentenceRecognizer.missing() or missing_world()

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """The code, the recordings of the public voice, and statistics of public speech. Raises StudyError: an extra is
        not installed; or see `make_voice_bank`."""
        _check_installed()
        options = cls.options_of(study)
        notify("measuring public speech")
        rows = measured_public_speech(options.public_speech, in_windows=False)
        seed = derive(PUBLIC_SEED, "speaker code")
        code = train_speaker_code(rows, size=options.code_size, codebook_size=_CODEWORDS, seed=seed)
        notify("recognising and taking apart the public voice")
        bank = make_voice_bank(rows, code, options.public_speech, seed)
        return {**code.to_arrays(), **bank.to_arrays(), **options.public_voice().to_arrays()}

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """See `Anonymizer.public_rules`."""
        options = cls.options_of(study)
        code = SpeakerCode.rules(options.code_size, is_network=False)
        scale = PublicVoice.rules(options.coefficients, optional=True)
        return {**code, **VoiceBank.rules(options.code_size), **scale}

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> SpokenByPublicVoice:
        """Build from the study and what is public.

        Raises:
            StudyError: arrays that do not fit each other or the study.
        """
        options, code, bank = cls.options_of(study), SpeakerCode.from_arrays(public), VoiceBank.from_arrays(public)
        if not code.size == bank.manners.shape[1] == options.code_size:
            found = f"a public code of {code.size} values, and a public voice of {bank.manners.shape[1]}"
            raise StudyError(found, expected=f"{options.code_size}, as the study says")
        return cls(options, code, bank)

    def keep_in(self, folder: Path) -> None:
        """Keep secret weights and shifts there, so that a clip counts as much in a later release as in this one."""
        self._codes.keep_in(folder / f"{self.name}.safetensors")
        self._words.keep_in(folder / f"{self.name}-words.safetensors")

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:
        """Take the clips that each speaker's clips are normalized by. Raises StudyError: an extra is not installed at
        this site."""
        _check_installed()
        self._unrecognised = 0
        known = list(usable(clips))
        self._codes.learn(known, noise)
        if self._options.prosody == "words":
            self._words.learn(known, noise)

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:
        """float32 [samples], as long as the public voice takes. Raises ClipError: reason `no-sentence`,
        `unknown-sentence` or `unknown-speaker`."""
        samples = check_samples(clip)
        said = self._words.spoken(samples)
        if said is None:
            self._unrecognised += 1
            raise ClipError(
                "no-sentence",
                f"a clip of {len(samples)} samples in which no known sentence is recognised",
                expected="one of CREMA-D's sentences, in English",
            )
        sigma = self._options.code_noise
        manner = np.asarray(self._codes.noisy(samples, noise, speaker, sigma=sigma)[0], np.float64) / (1 + sigma**2)
        words = self._words.noisy(samples, said, noise, speaker) if self._options.prosody == "words" else None
        return self._bank.say(said.sentence, manner, words)

    def counts(self) -> dict[str, int]:
        """Clips without a sentence."""
        return {"clips_without_sentence": self._unrecognised} if self._unrecognised else {}

    @classmethod
    def is_fitted(cls, study: Study) -> bool:  # noqa: ARG003
        """Always: the speaker's other clips are normalized by a clip."""
        return True

    @classmethod
    def strength(cls, study: Study) -> dict[str, float]:
        """How many values decide the manner, with what noise; and the noise on words, where they have a manner."""
        options = cls.options_of(study)
        return super().strength(study) | ({"word_noise": options.word_noise} if options.prosody == "words" else {})

    def parameters(self) -> dict[str, Any]:
        """The study's options, and the number of recordings of the public voice."""
        options = self._options.model_dump(mode="json", exclude={"public_speech"})
        return {**options, "recordings": len(self._bank.recordings)}


def _check_installed() -> None:
    if (why := SentenceRecognizer.missing() or missing_world()) is not None:
        raise StudyError(f"the anonymizer public-voice cannot run here: {why}")
