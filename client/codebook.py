"""A site's part in a federated codebook: bounded, noisy sums of its speakers, on the ledger before they leave.

Models are trained on what is told in these words, so whoever sees the models alone may learn from the sums, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moretta.client.account import AUDIENCES, Cohort, Loss
from moretta.client.anonymize.registry import Anonymizer, Speaker, get_anonymizer
from moretta.client.asked_once import Step
from moretta.client.release import site_corpus
from moretta.client.settings import SiteSettings
from moretta.client.updates import Array, Update
from moretta.shared.corpus.clips import Clip
from moretta.shared.errors import RefusedError, StudyError
from moretta.shared.privacy.codebook_budget import codebook_losses, lloyd_noise
from moretta.shared.privacy.lloyd_sums import Sums, clip_sums, noisy_sums, speaker_sums
from moretta.shared.privacy.noise import NoiseSource, SeededNoise, SystemNoise
from moretta.shared.study import Study

LEDGER_KIND = "codebook"
RADIUS = "voice/codebook-radius"
"""Shared array [1]: what ways are cut to."""
SUMS = "sums"


def codebook_sums(settings: SiteSettings, study: Study, shared: dict[str, Array], *, iteration: int) -> Update:
    """One iteration's answer, array `sums`, float32 [k, 1 + d].

    Asked again it is answered alike, and a site that died over it pays once, as for a round of training. Asked with
    other words it refuses: a study has one answer for each iteration.

    Args:
        shared: public arrays, among them the words as they are before this iteration, and the radius.
        iteration: from 1.

    Raises:
        RefusedError: the study has no such iteration, it was asked before with other words, or no clip can be used.
        PolicyError: the site's policy refuses it.
        BudgetError: all iterations together would lead beyond a limit; nothing is computed.
    """
    step = Step(LEDGER_KIND, "voice/codebook", "iteration", iteration)

    def make(asked: str) -> Update:
        _check_planned(study, iteration)
        return Update({SUMS: _sums(settings, study, shared, step, asked)}, {})

    return step.answer(settings, study, shared, make)


def _check_planned(study: Study, iteration: int) -> None:
    voice = study.voice
    if voice.codebook != "federated" or not 1 <= iteration <= voice.codebook_iterations:
        raise RefusedError(
            f"iteration {iteration} of a {voice.codebook} codebook",
            expected=f"1 to {voice.codebook_iterations} of a federated one, by the study",
        )


@dataclass(frozen=True)
class _Contribution:
    """What a site's speakers add, before noise, and who they are."""

    speakers: list[Sums]
    cohort: Cohort

    @property
    def fewest_clips(self) -> int:
        """Of a speaker."""
        return min(len(clips) for _, clips in self.cohort.speakers)


def _sums(settings: SiteSettings, study: Study, shared: dict[str, Array], step: Step, asked: str) -> Array:
    radius = float(shared[RADIUS][0]) if RADIUS in shared and shared[RADIUS].shape == (1,) else 0.0
    if not (np.isfinite(radius) and radius > 0):
        raise StudyError("a question for a codebook without a usable radius", expected=f"a positive {RADIUS!r}")
    found = _contribution(settings, study, shared, radius)
    losses = [codebook_losses(study.voice, found.fewest_clips, iterations=n) for n in (1, _left(study, step.number))]
    one, left = (Loss(found.cohort, AUDIENCES, (each["clip"],), (each["speaker"],)) for each in losses)
    _check_policy(settings, study, found)
    step.pay(settings, study, asked, one=one, left=left)
    return noisy_sums(found.speakers, lloyd_noise(study.voice), _noise(settings, step.number))


def _left(study: Study, iteration: int) -> int:
    return study.voice.codebook_iterations - iteration + 1


def _check_policy(settings: SiteSettings, study: Study, found: _Contribution) -> None:
    if settings.policy is None:
        return
    settings.policy.check_clips(found.cohort.clips, len(found.cohort.speakers))
    clip, delta = codebook_losses(study.voice, found.fewest_clips)["clip"], study.voice.budget_delta
    settings.policy.check_delta(delta)
    settings.policy.check_epsilon(clip.epsilon(delta))


def _contribution(settings: SiteSettings, study: Study, shared: dict[str, Array], radius: float) -> _Contribution:
    anonymizer = get_anonymizer("voice", study.voice.anonymizer).from_study(study, shared)
    if anonymizer.federated_words is None:
        raise StudyError(f"the voice anonymizer {anonymizer.name!r}", expected="one with a codebook")
    words = np.ascontiguousarray(shared[anonymizer.federated_words], np.float32)
    clips = site_corpus(settings, study)[1]
    anonymizer.fit(((str(clip.speaker), raw) for clip, raw in _sounds(clips)), _noise(settings, 0))
    pseudonyms = settings.pseudonyms()
    sums: dict[Speaker, list[Sums]] = defaultdict(list)
    pairs: list[tuple[str, str]] = []
    for clip, raw in _sounds(clips):
        points = _points(anonymizer, raw, str(clip.speaker))
        if points is not None:
            sums[str(clip.speaker)].append(clip_sums(points, words, radius))
            pairs.append((pseudonyms.speaker(clip.speaker), pseudonyms.clip(str(clip.name))))
    if not sums:
        raise RefusedError("no clip that a codebook could be made of", expected="at least one usable clip")
    return _Contribution([speaker_sums(np.stack(each)) for each in sums.values()], Cohort.of(pairs))


def _sounds(clips: Sequence[Clip]) -> Iterator[tuple[Clip, Array]]:
    from moretta.shared.corpus.media import read_audio

    for clip in clips:
        try:
            if clip.audio is not None:
                yield clip, read_audio(clip.audio)
        except Exception:  # noqa: S112 - counted when the clip is released
            continue


def _points(anonymizer: Anonymizer, raw: Array, speaker: Speaker) -> Array | None:
    try:
        points = anonymizer.points(raw, speaker)
    except Exception:  # fail closed: this clip has no part in the codebook
        return None
    return points if len(points) and np.isfinite(points).all() else None


def _noise(settings: SiteSettings, iteration: int) -> NoiseSource:
    if settings.simulated_seed is None:
        return SystemNoise()
    return SeededNoise(settings.simulated_seed, settings.name, "voice", f"codebook {iteration}")
