"""Utility of a release beyond emotion: its words, its sentence, its prosody.

A recogniser or a tracker that was made for unprotected speech is used as it is, on originals (`unprotected`) and on
releases (`ignorant`). Where it fails on originals, its figures on releases are invalid: they would measure it, and not
the release. How well a classifier separates the sentences is utility and a leak at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from moretta.shared.audit.crossval import out_of_fold
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.metrics.intervals import bootstrap_rows, bootstrap_values
from moretta.shared.audit.protocol import SetName
from moretta.shared.audit.result import Result
from moretta.shared.audit.runner import NO_ORIGINALS
from moretta.shared.core.array_types import Float32, Int64
from moretta.shared.core.errors import StudyError

MOST_CLIPS = 48
"""Clips that are recognised, evenly of all people: more make an interval over people hardly narrower."""
WORST_ANCHOR = 0.3
"""Word error rate on originals beyond which the recogniser is of no use for this corpus."""
NOTHING_TO_COMPARE = "it compares a release with its original, and none was given"
NO_SOUND = "codes were released: there is no sound in them"
_SCENARIOS: dict[str, SetName] = {"unprotected": "original", "ignorant": "released"}
Sets = Mapping[SetName, ClipSet]


@dataclass(frozen=True)
class MeterInput:
    """Input of a meter: both sets of the same clips, and the settings of intervals."""

    sets: Sets
    seed: int
    draws: int
    sentences: Mapping[str, str] = field(default_factory=dict)
    """Texts by code, where the study states them."""
    truth: ClipSet | None = None
    """The same clips as they should sound, where that is known: see `distortion`."""

    def result(self, attacker: str, target: str, metric: str, scenario: str, **more: object) -> Result:
        """A result without a figure."""
        released = self.sets["released"]
        about = {"attack": "utility", "attacker": attacker, "target": target, "kind": "pretrained"}
        counts = {"modality": released.modality, "speakers": len(released.speakers), "clips": len(released)}
        return Result.model_validate({**about, **counts, "metric": metric, "scenario": scenario, **more})


def sampled(clips: ClipSet) -> ClipSet:
    """At most `MOST_CLIPS` clips, as many of each person as there are, by turns: by pseudonym, so of any sentence."""
    rank = {row: place for speaker in clips.speakers for place, row in enumerate(_rows(clips, speaker))}
    return clips.subset(sorted(sorted(rank, key=lambda row: (rank[row], clips.clips[row].clip))[:MOST_CLIPS]))


def _rows(clips: ClipSet, speaker: str) -> list[int]:
    own = ((clip.clip, row) for row, clip in enumerate(clips.clips) if clip.speaker == speaker)
    return [row for _, row in sorted(own)]


def words(given: MeterInput) -> list[Result]:
    """Word error rate and sentence accuracy of a recogniser that knows which sentences there are."""
    from moretta.shared.audit.utility.kept_speech import guessed_errors, word_errors
    from moretta.shared.features.sentence_recognizer import SentenceRecognizer, known_texts

    name, metrics = "pocketsphinx, closed grammar", ("wer", "sentence_accuracy")
    released = given.sets["released"]
    scenarios = [s for s, of in _SCENARIOS.items() if of in given.sets]

    def absent(reason: str) -> list[Result]:
        return [given.result(name, "words", m, s, reason=reason, invalid=True) for s in scenarios for m in metrics]

    chosen = sampled(released)
    codes = {clip.sentence for clip in chosen.clips}
    if (reason := SentenceRecognizer.missing(codes, given.sentences)) is not None:
        return absent(reason)
    try:
        recognizer = SentenceRecognizer.load(known_texts(codes, given.sentences))
    except StudyError as error:
        return absent(error.found)
    truth = [recognizer.words_of(clip.sentence) for clip in chosen.clips]
    lengths = np.array([len(text) for text in truth])
    guess = guessed_errors(truth)
    found, why = list[Result](), "" if "original" in given.sets else NO_ORIGINALS
    for scenario in scenarios:
        clips = given.sets[_SCENARIOS[scenario]].among(chosen)
        if clips.holds_codes:
            found += [r for r in absent(NO_SOUND) if r.scenario == scenario]
            continue
        errors = np.array([word_errors(t, recognizer.recognize(clips.waveform(i))) for i, t in enumerate(truth)])

        def rate(rows: Int64, wrong: Int64 = errors) -> float:
            return float(wrong[rows].sum() / lengths[rows].sum())

        every, right = np.arange(len(errors)), (errors == 0).astype(np.float64)
        wer, accuracy = rate(every), float(right.mean())
        if scenario == "unprotected" and wer > WORST_ANCHOR:
            why = f"the recogniser gets {wer:.0%} of the words of originals wrong, at most {WORST_ANCHOR:.0%} is wanted"
        counts = {"clips": len(chosen), "reason": why, "invalid": bool(why) and why != NO_ORIGINALS}
        about = given.result(name, "words", "wer", scenario, chance=guess, **counts)
        found.append(about.with_value(wer, bootstrap_rows(rate, chosen.labels, resamples=given.draws, seed=given.seed)))
        among = len(set(recognizer.texts.values()))
        about = given.result(name, "words", "sentence_accuracy", scenario, chance=1 / among, **counts)
        found.append(
            about.with_value(accuracy, bootstrap_values(right, chosen.labels, resamples=given.draws, seed=given.seed))
        )
    return found


def prosody(given: MeterInput) -> list[Result]:
    """How far melody and pace of each original are kept in its release: needs both, and sound."""
    from moretta.shared.audit.utility.kept_speech import METRICS, compared

    name, scenario = "pitch tracker", "ignorant"
    original = given.sets.get("original")
    released = given.sets["released"]
    reason = NOTHING_TO_COMPARE if original is None else NO_SOUND if released.holds_codes else ""
    if original is None or reason:
        return [given.result(name, "prosody", metric, scenario, reason=reason, invalid=True) for metric in METRICS]
    chosen = sampled(released)
    same = original.among(chosen)
    table = np.array([compared(same.waveform(i), chosen.waveform(i)) for i in range(len(chosen))], np.float64)
    found = []
    for metric, values in zip(METRICS, table.T, strict=True):
        known = np.flatnonzero(np.isfinite(values))
        about = given.result(name, "prosody", metric, scenario, clips=len(known))
        if len(known) < len(values) / 2:
            why = f"fewer than half of {len(values)} clips have pitch in original and release"
            found.append(about.invalidated(why))
            continue
        interval = bootstrap_values(values[known], chosen.labels[known], resamples=given.draws, seed=given.seed)
        found.append(about.with_value(float(values[known].mean()), interval))
    return found


def sentence(given: MeterInput) -> list[Result]:
    """How well a classifier that was trained on other people separates the sentences, in originals and in releases."""
    from sklearn.model_selection import GroupKFold

    from moretta.shared.audit.utility.evaluators import FOLDS, ClassifierEvaluator, get_evaluator

    name, found = "voice-logistic", list[Result]()
    cls = get_evaluator(name)
    assert issubclass(cls, ClassifierEvaluator)
    classes = sorted({clip.sentence for clip in given.sets["released"].clips} - {""})
    for scenario, of in {"unprotected": "original", "semi-informed": "released"}.items():
        clips = given.sets.get(of)  # type: ignore[call-overload]
        if clips is None:
            continue
        said = Counter(clip.sentence for clip in clips.clips if clip.sentence)
        chance = max(said.values(), default=0) / max(1, sum(said.values()))
        about = given.result(name, "sentence", "sentence_accuracy", scenario, kind="trained", chance=chance)
        people = len(clips.speakers)
        if len(classes) < 2 or people < 2:
            found.append(
                about.invalidated(f"{len(classes)} sentences of {people} people, at least two of each are needed")
            )
            continue
        rows = [row for row, clip in enumerate(clips.clips) if clip.sentence]
        kept = clips.subset(rows)
        truth = np.array([classes.index(clip.sentence) for clip in kept.clips])
        vectors = cls(classes).vectors(kept)

        def scores(known: Int64, held_out: Int64, vectors: Float32 = vectors, truth: Int64 = truth) -> Float32:
            evaluator = cls(classes)
            evaluator.fit(vectors[known], truth[known], seed=given.seed)
            return evaluator.scores(vectors[held_out])

        labels = kept.labels
        folds = GroupKFold(min(FOLDS, people)).split(labels, groups=labels)
        predicted = out_of_fold(scores, folds).argmax(1)
        right = (predicted == truth).astype(np.float64)
        interval = bootstrap_values(right, labels, resamples=given.draws, seed=given.seed)
        found.append(about.with_value(float(right.mean()), interval, clips=len(kept)))
    return found


def distortion(given: MeterInput) -> list[Result]:
    """How far originals and releases sound from parallel speech: the same deliveries in the voice that is wanted."""
    from moretta.shared.audit.utility.kept_speech import mel_cepstral_distortion
    from moretta.shared.features.world_voice import missing_world

    rows = {s: given.result("WORLD", "distortion", "mcd", s) for s, of in _SCENARIOS.items() if of in given.sets}
    truth = given.truth.among(sampled(given.sets["released"])) if given.truth is not None else None
    unknown = "" if truth is not None and len(truth) else "no clip of the parallel speech is one that was released"
    found = []
    for scenario, about in rows.items():
        clips = given.sets[_SCENARIOS[scenario]]
        reason = unknown or (NO_SOUND if clips.holds_codes else missing_world() or "")
        if truth is None or reason:
            found.append(about.invalidated(reason))
            continue
        clips = clips.among(truth)
        pairs = ((truth.waveform(i), clips.waveform(i)) for i in range(len(clips)))
        values = np.array([mel_cepstral_distortion(*pair) for pair in pairs], np.float64)
        interval = bootstrap_values(values, clips.labels, resamples=given.draws, seed=given.seed)
        found.append(about.with_value(float(values.mean()), interval, clips=len(values)))
    return found


PARALLEL_METERS: dict[str, Callable[[MeterInput], list[Result]]] = {"distortion": distortion}
"""Meters of voice that need parallel speech; without it they have no row."""
METERS: dict[str, Callable[[MeterInput], list[Result]]] = {"words": words, "sentence": sentence, "prosody": prosody}
"""Meters of voice, by the content that they measure."""
