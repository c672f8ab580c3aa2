"""One file adds an anonymizer with options, public arrays and a loss: a study, a site and a server use it at once."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moretta.client.anonymizers.prosody_statistics import CENTER, RADIUS, RELEASED, SPREAD, ProsodyStatistics
from moretta.client.clips.release import make_release
from moretta.server.stages.statement_checks import check_statement, recomputed_statement
from moretta.shared.core.errors import StudyError
from moretta.shared.features.public_speech import synthetic_speakers
from moretta.shared.privacy.gaussian import gaussian_epsilon
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.schema import Study, parse_study

NAME = "prosody-statistics"
ROOT = Path(__file__).parents[3]
PUBLIC = {CENTER: np.zeros(6, np.float32), SPREAD: np.ones(6, np.float32)}


def study_of(**options: Any) -> Study:
    voice = {"anonymizer": NAME, "options": options}
    return parse_study({"sites": 2, "face": {"enabled": False}, "split": {"folds": 2}, "voice": voice})


def test_no_other_file_of_the_product_knows_its_name() -> None:
    pattern = f"{NAME}|{NAME.replace('-', '_')}|ProsodyStatistics"
    tracked = ["client", "server", "shared", "deploy", "src"]
    command = ["git", "grep", "-lE", pattern, "--", *tracked]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode > 1:
        pytest.skip("no git")
    known = {"client/anonymizers/prosody_statistics.py", "shared/release/public/manifest.json"}
    assert set(found.stdout.split()) <= known


def test_its_options_are_checked_where_a_study_is_read() -> None:
    with pytest.raises(StudyError, match=re.escape("voice.options.clip_epsilon")):
        study_of(clip_epsilon=0)
    with pytest.raises(StudyError, match="no such key"):
        study_of(epsilon=1.0)
    assert study_of().voice.form == "code"


def test_a_site_releases_by_public_arrays_and_the_server_computes_the_same_loss(simulated: Any) -> None:
    study = study_of(clip_epsilon=4.0)
    public = prepare_public(study)
    assert set(public) == {CENTER, SPREAD} and public[SPREAD].min() > 0
    release = make_release(simulated.site(), study, public)
    assert release.statement.clips == 24 and not release.statement.dropped
    check_statement(study, release)
    stated = release.anonymizer("voice")
    assert stated is not None
    again = recomputed_statement(study, public, release, "voice")
    assert again.privacy == stated.privacy
    (clip,) = (row for row in stated.privacy if row.unit == "clip")
    assert clip.epsilon == pytest.approx(4.0, rel=0.05)


def test_the_noise_is_as_large_as_the_budget_requires_and_the_loss_says_so() -> None:
    study = study_of(clip_epsilon=2.0, clip_delta=1e-6)
    made = ProsodyStatistics.from_study(study, PUBLIC)
    sigma = made.parameters()["sigma"]
    assert gaussian_epsilon(1e-6, 2 * RADIUS / sigma) == pytest.approx(2.0, rel=1e-3)
    sizes = {"a": [1] * 3, "b": [1]}
    assert made.losses(sizes) == ProsodyStatistics.planned_losses(study, sizes)
    (clip,), (speaker,) = made.losses(sizes)["clip"], made.losses(sizes)["speaker"]
    assert speaker == clip.for_group(3)
    assert made.losses({}) == {"clip": (), "speaker": ()}


def test_any_two_clips_are_the_diameter_of_the_ball_apart_before_the_noise() -> None:
    made = ProsodyStatistics.from_study(study_of(), PUBLIC)
    clips = [one.samples for one in synthetic_speakers(1, voices=2, clips=3)]
    clips += [np.zeros(4_000, np.float32), np.full(4_000, 3e38, np.float32)]
    out = np.stack([made.release_clip(clip, SeededNoise(1), "a") for clip in clips])
    assert out.shape == (8, len(RELEASED)) and np.isfinite(out).all()
    assert max(np.linalg.norm(one - other) for one in out for other in out) <= 2 * RADIUS * (1 + 1e-3)


def test_public_arrays_that_cannot_be_are_refused() -> None:
    for change in ({SPREAD: np.zeros(6, np.float32)}, {CENTER: np.full(6, np.nan, np.float32)}):
        with pytest.raises(StudyError, match="values that cannot be"):
            ProsodyStatistics.from_study(study_of(), {**PUBLIC, **change})
