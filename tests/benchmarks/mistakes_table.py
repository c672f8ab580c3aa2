"""The leak of pooled labels of `emotion-label-rr`: `mistakes_table.py CORPUS [--speakers FIRST LAST] [--draws N]`.

The labels of one site are released twice: as predicted, which is version 1, and as they are released now, with
misclassifications hidden and a ceiling on how often a person's labels are right. Each is randomized by several draws
and attacked, semi-informed, by attackers that learn from labels and pool many of one person. Figures are means over
draws of the strongest attacker of each draw; brackets hold the lowest and the highest draw. `sex` is from all clips of
a person, by the audit's attackers; `sex, labels known` is from released and true labels together. `right` is how often
the released label is the true one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from speakers_table import Sound, clip_set, described_as, sound_of

from moretta.client.anonymizers.emotion_label_rr import EmotionLabelVoice
from moretta.shared.audit import measure
from moretta.shared.audit.inference.attack_all import without_figures
from moretta.shared.audit.inference.classes import infer_attribute
from moretta.shared.audit.runner import audit
from moretta.shared.audit.utility.evaluators import evaluate_utility
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.data.clips import Clip
from moretta.shared.data.reader import read_corpus
from moretta.shared.privacy.local_mechanisms import RandomizedResponse
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import get_anonymizer, prepare_public
from moretta.shared.study.schema import Study

ATTACKERS = (
    "voice-logistic",
    "voice-knn",
    "voice-given-emotion",
    "voice-likeness",
    "voice-inverted",
    "voice-variation",
)
POOLED = (10, 20, 30)
Labels = dict[Clip, np.ndarray]
"""One-hot, float32 [6] each."""
COLUMNS = ("right", "uar", "top1", "eer", "top1 of 10", "top1 of 20", "top1 of 30", "eer of 30", "sex", "sex given")
HEAD = """| epsilon of a label | labels | right | emotion UAR | top-1 | EER | top-1, 10 pooled | 20 | 30 \
| EER, 30 pooled | sex | sex, labels known |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Release, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--speakers", nargs=2, type=int, default=(0, 10_000), help="the first and the last")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--epsilons", nargs="*", type=float, default=[3.5])
    options = parser.parse_args()
    measure.POOLED = POOLED
    sound = sound_of(options.corpus, *options.speakers)
    sex = {number: person.sex for number, person in read_corpus(options.corpus).speakers.items()}
    print(HEAD, flush=True)
    for epsilon in options.epsilons:
        made = labeler_of(epsilon, sound)
        for name, release in (("as predicted", as_predicted), ("as released", as_released)):
            start = time.perf_counter()
            found = [figures(release(made, epsilon, sound, draw), sex) for draw in range(options.draws)]
            print(f"| {epsilon:g} | {name} | " + " | ".join(cells(found)) + " |", flush=True)
            print(f"<!-- {time.perf_counter() - start:.0f} s -->", flush=True)


def labeler_of(epsilon: float, sound: Sound) -> EmotionLabelVoice:
    """The labeler of a site that has all these clips."""
    study = Study().with_changes(
        voice={"anonymizer": "emotion-label-rr", "options": {"label_epsilon": epsilon}}, face={"enabled": False}
    )
    made = get_anonymizer("voice", "emotion-label-rr").from_study(study, prepare_public(study))
    assert isinstance(made, EmotionLabelVoice)
    made.fit([(str(clip.speaker), samples) for clip, samples in sound.items()], SeededNoise(0, "fit"))
    made.train_on_emotions((str(clip.speaker), samples, EMOTIONS.index(clip.label)) for clip, samples in sound.items())
    return made


def as_released(made: EmotionLabelVoice, epsilon: float, sound: Sound, draw: int) -> Labels:
    """By the anonymizer itself."""
    del epsilon
    noise = [SeededNoise(draw, clip.name) for clip in sound]
    out = made.release(list(sound.values()), noise, [str(clip.speaker) for clip in sound])
    return {clip: label for clip, label in zip(sound, out, strict=True) if isinstance(label, np.ndarray)}


def as_predicted(made: EmotionLabelVoice, epsilon: float, sound: Sound, draw: int) -> Labels:
    """The prediction of the site's model, by randomized response."""
    response = RandomizedResponse(choices=len(EMOTIONS), token_epsilon=epsilon, unit="clip")

    def label_of(clip: Clip) -> np.ndarray:
        speaker = str(clip.speaker)
        predicted = made._labeler_of(speaker)(made._places(speaker, sound[clip]))
        responded = response.randomize(predicted, SeededNoise(draw, clip.name))
        return np.eye(len(EMOTIONS), dtype=np.float32)[responded[0]]

    return {clip: label_of(clip) for clip in as_released(made, epsilon, sound, draw)}


def figures(labels: Labels, sex: dict[str, Any]) -> dict[str, float]:
    """Of one draw."""
    clips = clip_set([described_as(clip) for clip in labels], list(labels.values()), "code")
    rows = audit(None, clips, attackers=ATTACKERS, seed=0, bootstrap=0, workers=1).results
    whole = [r for r in rows if r.scenario == "semi-informed" and r.subset == "all" and not r.invalid]

    def best(metric: str, pooled: int) -> float:
        found = [float(r.value or 0) for r in whole if (r.metric, r.pooled) == (metric, pooled)]
        return (min if metric == "eer" else max)(found, default=float("nan"))

    with tempfile.TemporaryDirectory() as scratch:
        utility = evaluate_utility(None, clips, seed=0, draws=0, workers=1, scratch=Path(scratch))
    label = np.array([EMOTIONS.index(clip.label) for clip in labels])
    released = np.stack(list(labels.values()))
    right = np.mean([np.mean(released[label == e].argmax(axis=1) == e) for e in np.unique(label)])
    return {
        "right": float(right),
        "uar": max((r.value for r in utility if r.metric == "uar" and r.value is not None), default=float("nan")),
        "top1": best("top1", 1),
        "eer": best("eer", 1),
        **{f"top1 of {many}": best("top1", many) for many in POOLED},
        "eer of 30": best("eer", 30),
        "sex": max(sex_from(released, labels, sex)),
        "sex given": max(sex_from(with_label(released, label), labels, sex)),
    }


def with_label(released: np.ndarray, label: np.ndarray) -> np.ndarray:
    """[clips, 36]: the released label at the place of its clip's true label."""
    own = label[:, None] == np.arange(len(EMOTIONS))
    return (own[:, :, None] * released[:, None]).reshape(len(released), -1)


def sex_from(features: np.ndarray, labels: Labels, sex: dict[str, Any]) -> Iterator[float]:
    """Balanced accuracy of each attacker, from all clips of a person."""
    speaker = np.array([clip.speaker for clip in labels])
    known = np.array([str(sex[one]) for one in speaker])
    about = without_figures("attribute", "voice", "sex", "semi-informed")
    for leak in infer_attribute(features, known, speaker, about=about, resamples=0):
        if leak.value is not None and leak.attacker.endswith("all clips"):
            yield leak.value


def cells(found: list[dict[str, float]]) -> Iterator[str]:
    """Mean, lowest and highest draw of each figure."""
    for name in COLUMNS:
        values = [one[name] for one in found]
        yield "-" if np.isnan(values).all() else f"{np.mean(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


if __name__ == "__main__":
    main()
