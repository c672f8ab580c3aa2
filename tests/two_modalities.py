"""A small study with both modalities over virtual sites in this process, for tests of what comes of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from moretta.deploy.runtime.planning import plan_simulation
from moretta.deploy.runtime.simulation import connect_locally
from moretta.server.stages.run import Progress, Run, RunContext
from moretta.shared.data.media import write_video
from moretta.shared.data.reader import read_corpus
from moretta.shared.features.public_speech import PublicVoice
from moretta.shared.study.schema import Study
from tests.conftest import write_tone_corpus

EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
SILENT, UNSEEN = "1004_TIE_SAD_XX", "1004_TIE_ANG_XX"


def corpus_of_two_modalities(root: Path) -> Path:
    """The tones, and films of stripes: brightness by speaker, direction by emotion. One clip lacks either."""
    folder = write_tone_corpus(root) / "VideoFlash"
    folder.mkdir()
    rng = np.random.default_rng(4)
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    for path in sorted((root / "AudioWAV").iterdir()):
        speaker, _, emotion, _ = path.stem.split("_")
        angle = np.pi * EMOTIONS.index(emotion) / 6
        stripes = 75 + 20 * (int(speaker) - 1000) + 70 * np.sin((np.cos(angle) * x + np.sin(angle) * y) / 3)
        picture = np.clip(stripes[..., None] + rng.normal(0, 40, (64, 64, 3)), 0, 255).astype(np.uint8)
        write_video(folder / f"{path.stem}.mp4", [picture] * 2, 5.0, None)
    (root / "AudioWAV" / f"{SILENT}.wav").unlink()
    (folder / f"{UNSEEN}.mp4").unlink()
    return root


def started(corpus: Path, study: Study, folder: Path) -> Run:
    shutil.rmtree(folder, ignore_errors=True)
    plan = plan_simulation(read_corpus(corpus), study, "moretta simulate")
    plan.save(folder)
    run = Run(RunContext(folder, plan, Progress(done=["codebook"])))
    run.public |= public_arrays()
    connect_locally(run, len(plan.sites))
    return run


def public_arrays() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    words = rng.standard_normal((16, 13)).astype(np.float32)
    return PublicVoice(np.zeros(13, np.float32), np.full(13, 20, np.float32), words).to_arrays()
