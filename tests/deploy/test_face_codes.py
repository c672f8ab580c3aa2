"""A whole small study whose faces are released as codes, beside voices: models, the vote, the audit, and no media."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from moretta.client.anonymizers.face_baselines import FaceAnonymizer
from moretta.deploy.runtime.anonymize_folder import anonymize_corpus
from moretta.deploy.runtime.audit_folder import audit_folder
from moretta.server.stages.audit import audit
from moretta.server.stages.run import AuditLimits
from moretta.server.study import SITE_STAGES, run_stages
from moretta.shared.audit.inference import classes, inversion, trained_models
from moretta.shared.audit.inference.twelve_networks import CHOSEN
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import Array, anonymizer
from moretta.shared.study.options import ANONYMIZERS
from moretta.shared.study.schema import Study, parse_study
from tests.two_modalities import corpus_of_two_modalities, started


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "ATTACKERS", {})
    monkeypatch.setattr(inversion, "ENCODERS", {"voice": (), "face": ()})
    monkeypatch.setattr(trained_models, "MODELS", 4)


@pytest.fixture(autouse=True)
def _toy() -> Iterator[None]:
    """The face anonymizer `toy`: tiny grey pictures as codes."""
    ANONYMIZERS.load()
    before = dict(ANONYMIZERS._items)

    @anonymizer("toy", modality="face", version="1")
    class _Toy(FaceAnonymizer):
        forms = ("code", "code-sequence")
        note = "nothing is hidden"

        @classmethod
        def from_study(cls, study: Study, public: Any) -> Any:
            made = super().from_study(study, public)
            made.form = study.face.form
            return made

        def hide(self, pictures: Array, noise: NoiseSource) -> Array:
            small = [cv2.resize(picture.mean(axis=2), (6, 6), interpolation=cv2.INTER_AREA) for picture in pictures]
            codes = np.stack(small).reshape(len(pictures), -1).astype(np.float32) / 255
            return codes.mean(axis=0) if self.form == "code" else codes

    yield
    ANONYMIZERS._items.clear()
    ANONYMIZERS._items.update(before)


def study_of(form: str, **changes: Any) -> Study:
    content: dict[str, Any] = {
        "sites": 2,
        "voice": {"options": {"codebook_size": 16, "epsilon": 50.0}},
        "face": {"anonymizer": "toy", "form": form},
        "train": {"rounds": 3},
        "split": {"folds": 2},
        "privacy": {"dp_sgd": False},
        "audit": {"attackers": ["face-logistic", "face-wccn"], "bootstrap": 20},
    }
    return parse_study(content).with_changes(**changes)


def test_faces_as_codes_go_through_training_the_vote_and_the_audit(tmp_path: Path) -> None:
    corpus = corpus_of_two_modalities(tmp_path / "corpus")
    run = started(corpus, study_of("code"), tmp_path / "run")
    run_stages(run, SITE_STAGES)
    emotion = run.evaluation.emotion
    assert {"voice", "face", "fused"} <= emotion.keys()
    assert emotion["face"].uar > 0.4  # chance is a sixth: stripes turn with the emotion
    assert [release.anonymizer("face").form for release in run.releases.kept.values()] == ["code"] * 2  # type: ignore[union-attr]
    for release in run.releases.kept.values():  # voices were released too, and would be attacked
        release.clips = tuple(clip.model_copy(update={"voice": None}) for clip in release.clips)
    attacks = audit(run.context, run.releases, run.public, ["face"], limits=AuditLimits(workers=1))
    seen = {r.attacker for r in attacks.identity if r.scenario == "semi-informed" and not r.invalid}
    assert seen == {"face-logistic", "face-wccn"}
    assert {"attribute", "inversion", "membership", "updates"} <= {r.attack for r in attacks.inference}
    twelve = [r for r in attacks.inference if r.attack == "membership" and r.attacker == CHOSEN]
    assert twelve and not twelve[0].invalid, twelve
    utility = {r.attacker: r.value for r in attacks.utility if r.scenario == "semi-informed"}
    assert (utility["face-logistic"] or 0) > 0.4


def test_sequences_of_codes_of_faces_are_audited_against_videos_and_not_written_as_media(tmp_path: Path) -> None:
    corpus, out = corpus_of_two_modalities(tmp_path / "corpus"), tmp_path / "out"
    anonymize_corpus(corpus, out, study_of("code-sequence", voice__enabled=False), media=True)
    assert not (out / "release" / "media").exists()
    how: dict[str, Any] = {"attackers": ["face-forest"], "bootstrap": 20, "workers": 1, "utility": False}
    found = audit_folder(out / "release", corpus=corpus, key=None, out=tmp_path / "audit", **how)
    row = next(r for r in found.rows if (r.metric, r.scenario, r.subset) == ("top1", "semi-informed", "all"))
    assert not row.invalid and row.modality == "face", row.reason
    assert any(r.attack == "inversion" and r.metric == "explained_variance" for r in found.findings)
