"""A site tests the global models on its held-out speakers, and tells counts by pseudonymous speaker only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from moretta.client.data import held_out_mask, released_features
from moretta.client.settings import SiteSettings
from moretta.shared.corpus.names import EMOTIONS, Emotion
from moretta.shared.models.emotion import emotion_model
from moretta.shared.release.format import Modality
from moretta.shared.study import Study

if TYPE_CHECKING:
    import torch

Output = Literal["voice", "face", "fused"]
THREE = tuple(e.class_index for e in (Emotion.ANG, Emotion.HAP, Emotion.SAD))
Counts = dict[str, npt.NDArray[np.int64]]
"""Pseudonymous speaker -> confusion counts [true, predicted]."""


def evaluate_site(
    settings: SiteSettings, study: Study, weights: dict[Modality, dict[str, torch.Tensor]]
) -> dict[str, Counts]:
    """Confusion counts on held-out clips by output (`voice`, `face`, `fused`) and, suffixed `/3`, on ANG, HAP, SAD.

    Fusion is a weighted mean of probabilities; a clip with one modality alone is decided by that one.
    """
    probabilities: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    truth: dict[str, tuple[str, int]] = {}
    for modality, state in weights.items():
        name = study.section(modality).model
        data = released_features(settings, study, modality)
        keep = held_out_mask(settings, study, data.speakers)
        if not keep.any():
            continue
        scores = _predict(modality, name, state, data.features[keep])
        rows = np.flatnonzero(keep)
        probabilities[modality] = {data.clips[i]: row for i, row in zip(rows, scores, strict=True)}
        truth.update({data.clips[i]: (data.speakers[i], int(data.labels[i])) for i in rows})
    if len(weights) == 2:
        share = study.voice.weight
        both = {"voice": share, "face": 1.0 - share}
        probabilities["fused"] = {
            clip: np.sum([both[m] * p[clip] for m, p in probabilities.items() if clip in p], axis=0) for clip in truth
        }
    counts: dict[str, Counts] = {}
    for output, by_clip in probabilities.items():
        counts[output] = _count(by_clip, truth, tuple(range(len(EMOTIONS))))
        counts[f"{output}/3"] = _count(by_clip, truth, THREE)
    return counts


def _predict(
    modality: Modality, name: str, state: dict[str, torch.Tensor], features: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    import torch

    network = emotion_model(modality, name).build(features.shape[1:])
    network.load_state_dict(state)
    network.eval()
    with torch.inference_mode():
        return np.asarray(torch.softmax(network(torch.from_numpy(features)), dim=1), np.float64)


def _count(
    scores: dict[str, npt.NDArray[np.float64]], truth: dict[str, tuple[str, int]], classes: tuple[int, ...]
) -> Counts:
    """Confusion counts over the clips whose class is in `classes`, deciding among these alone."""
    counts: Counts = {}
    for clip, row in sorted(scores.items()):
        speaker, label = truth[clip]
        if label in classes:
            table = counts.setdefault(speaker, np.zeros((len(classes), len(classes)), np.int64))
            table[classes.index(label), int(row[list(classes)].argmax())] += 1
    return counts
