"""Helpers for tests of voice anonymizers with a budget: clips, quickly made public arrays, ways to draw noise."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from moretta.client.anonymizers.clip_budget import BudgetedVoice, ClipBudgetOptions
from moretta.shared.features.mfcc import mfcc
from moretta.shared.features.public_codes import PublicCodes, pooled
from moretta.shared.features.public_speech import PublicVoice
from moretta.shared.release.anonymizer import get_anonymizer
from moretta.shared.study.schema import Study, parse_study

ANONYMIZERS = ("clip-quantizer", "clip-statistics")
PRESETS = ("dp-clip", "dp-speaker")


def clip(seed: int, samples: int = 6_400) -> np.ndarray:
    generator = np.random.default_rng(seed)
    envelope = np.repeat(generator.uniform(0.01, 0.3, samples // 800 + 1), 800)[:samples]
    sound = np.cumsum(generator.standard_normal(samples)) if seed % 2 else generator.standard_normal(samples)
    return np.asarray(envelope * sound / np.abs(sound).max(), np.float32)


def study_of(*, anonymizer: str = "", form: str = "", **options: Any) -> Study:
    budgeted = str(options.get("preset", "")).startswith("dp-")
    name = anonymizer or ("clip-quantizer" if budgeted else "mfcc-quantizer")
    few = {"codebook_size": 16} if "codebook_size" in get_anonymizer("voice", name).Options.model_fields else {}
    voice = {"anonymizer": name, "form": form, "options": {**few, **options}}
    return parse_study({"face": {"enabled": False}, "voice": voice})


def public_of(study: Study) -> dict[str, Any]:
    """From other clips of the same kind, so that clips lie all over the words."""
    generator, d = np.random.default_rng(9), 5
    voice = PublicVoice(np.zeros(13, np.float32), np.full(13, 20, np.float32))
    generator.normal(size=(16, 13))  # the draws below stay what they were
    others = np.concatenate([pooled(frames, voice, 1) for frames in _others()])
    center, spread = others.mean(axis=0), others.std(axis=0)
    projection = generator.normal(size=(26, d)).astype(np.float32)
    codes = ((others - center) / spread) @ projection
    codewords = codes[: ClipBudgetOptions.of(study.voice.options).response().choices]
    return {**voice.to_arrays(), **PublicCodes(center, spread, projection, codewords).to_arrays()}


@lru_cache
def _others() -> tuple[np.ndarray, ...]:
    return tuple(mfcc(clip(seed)) for seed in range(100, 120))


def made(**voice: Any) -> BudgetedVoice:
    study = study_of(**voice)
    found = get_anonymizer("voice", study.voice.anonymizer).from_study(study, public_of(study))
    assert isinstance(found, BudgetedVoice)
    return found


def computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip's pooled vectors are computed once: audits release the same few clips many times."""
    whole = BudgetedVoice._vectors
    kept: dict[Any, Any] = {}

    def vectors(self: BudgetedVoice, samples: Any) -> Any:
        key = (self._codes.center.tobytes(), self._options.segments, samples.tobytes())
        if key not in kept:
            kept[key] = whole(self, samples)
        return kept[key]

    monkeypatch.setattr(BudgetedVoice, "_vectors", vectors)


@lru_cache
def clips(number: int) -> tuple[np.ndarray, ...]:
    return tuple(clip(seed) for seed in range(number))
