"""Attackers that learn from public people first: whose clips these are, and what is gained."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from speakers import describe
from torchaudio.functional import create_dct

from moretta.deploy.runtime.planning import plan_simulation
from moretta.server.stages.audit import _public
from moretta.shared.audit import margin_training, pretraining, runner
from moretta.shared.audit.attackers import get_attacker
from moretta.shared.audit.attackers.base import Identifier
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.public_people import public_sets
from moretta.shared.core.errors import CorpusError, MorettaError, StudyError
from moretta.shared.data.reader import read_corpus
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.schema import Study, parse_study
from tests.conftest import write_tone_corpus

VALUES = 13  # as many as there are MFCC
SHOWN = np.random.default_rng(7).normal(size=(2, 8, VALUES)) / 3
"""How identity, and what changes from clip to clip, are mixed into the values of a code: for everybody alike."""


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MORETTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pretraining, "SCHEDULE", replace(pretraining.SCHEDULE, min_steps=120, batch=32))


def people(first: int, last: int, clips: int) -> ClipSet:
    """Sequences of codes in which two clips of a person differ by more than two people do."""
    meta, arrays = [], []
    for person in range(first, last):
        rng = np.random.default_rng(person)
        who = rng.normal(size=8)
        for number in range(clips):
            where = who @ SHOWN[0] + 2.0 * rng.normal(size=8) @ SHOWN[1]
            arrays.append((where + 0.3 * rng.normal(size=(16, VALUES))).astype(np.float32))
            meta.append(describe(person, number))
    return ClipSet.from_arrays(meta, arrays, modality="voice", form="code-sequence")


def right(public: ClipSet | None, seed: int = 1) -> float:
    attacked = people(0, 8, 8)
    known = np.arange(len(attacked)) % 8 < 3
    attacker = get_attacker("voice-ecapa")()
    assert isinstance(attacker, Identifier)
    attacker.public = public
    attacker.fit(attacked.subset(np.flatnonzero(known)), seed=seed)
    tried = attacked.subset(np.flatnonzero(~known))
    return float((attacker.scores(tried).argmax(1) == tried.labels).mean())


def test_who_learned_from_public_people_first_recognizes_more() -> None:
    untrained, pretrained = right(None), right(people(100, 160, 8))
    assert pretrained > untrained + 0.1


def test_the_network_of_public_people_is_trained_once_and_follows_from_them_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained: list[int] = []
    train = margin_training.train_with_margin

    def counted(*given: Any, **options: Any) -> Any:
        trained.append(options["seed"])
        return train(*given, **options)

    monkeypatch.setattr(pretraining, "train_with_margin", counted)
    monkeypatch.setattr(pretraining, "SCHEDULE", replace(pretraining.SCHEDULE, min_steps=3))
    public = people(100, 110, 4)

    def network() -> dict[str, np.ndarray]:
        from moretta.shared.audit.attack_networks import ecapa

        return dict(pretraining.trained_on_public("voice-ecapa", lambda: ecapa(VALUES, 128), 128, public))

    first = network()
    assert first.keys() == network().keys()
    assert len(trained) == 1
    monkeypatch.setenv("MORETTA_CACHE", str(tmp_path / "another"))
    again = network()
    assert len(trained) == 2
    assert all(np.array_equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(("factor", "band"), [(1.1, 22), (0.9, 18)])
def test_another_vocal_tract_moves_the_bands_of_a_voice_by_its_factor(factor: float, band: int) -> None:
    of_bands = create_dct(40, 40, "ortho").double().numpy()  # [bands, coefficients]
    voice = of_bands.T @ np.exp(-((np.arange(40) - 20.0) ** 2) / 8)
    assert (of_bands @ pretraining.of_other_tract(40, factor) @ voice).argmax() == band


def study_of(public: Path | None, **voice: Any) -> Study:
    return parse_study({"sites": 2, "face": {"enabled": False}, "voice": voice, "audit": {"public": public}})


def test_public_people_go_through_the_anonymizer_of_the_study(tmp_path: Path) -> None:
    folder = write_tone_corpus(tmp_path / "public", speakers=8)
    study = study_of(folder, anonymizer="mfcc-quantizer", form="tokens", options={"codebook_size": 16})
    arrays = prepare_public(study)
    found, again = public_sets(study, arrays), public_sets(study, arrays)
    original, released = found["original"], found["released"]
    assert [c.clip for c in original.clips] == [c.clip for c in released.clips]
    assert len(released) == 8 * 12
    assert released.form == "tokens"
    assert len(np.unique(np.concatenate([released.mfcc(i) for i in range(96)]), axis=0)) <= 16
    assert not np.allclose(released.mfcc(0), original.mfcc(0)), "noise and codewords were left out"
    assert all(np.array_equal(released.mfcc(i), again["released"].mfcc(i)) for i in range(96))


def test_long_recordings_of_public_people_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As found: the whole releases of 3000 clips were in memory at once, up to two minutes each."""
    folder = write_tone_corpus(tmp_path / "public", speakers=8, seconds=2.0, sentences=("IEO",))
    monkeypatch.setattr("moretta.shared.audit.public_people.MAX_PUBLIC_SECONDS", 1)
    released = public_sets(study_of(folder, anonymizer="none", form="waveform"), {})["released"]
    assert {len(released.waveform(i)) for i in range(len(released))} == {16_000}


def test_only_what_has_the_form_of_the_attacked_clips_reaches_an_attacker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tone_corpus(tmp_path / "public", speakers=8)
    study = study_of(folder, anonymizer="none", form="mfcc")
    public = public_sets(study, prepare_public(study))
    reached: list[dict[str, ClipSet]] = []

    def watched(inputs: Any, _: object) -> list[Any]:
        reached.append(dict(inputs.public))
        return []

    monkeypatch.setattr(runner, "run_unit", watched)
    for attacked in (people(0, 4, 6), public["released"]):
        runner.audit(None, attacked, attackers=["voice-ecapa"], workers=1, bootstrap=0, public=public)
    assert reached[0] == {}
    assert list(reached[-1]) == ["released"]


def test_people_who_are_attacked_are_never_public(tmp_path: Path) -> None:
    folder = write_tone_corpus(tmp_path / "public", speakers=9)
    study, corpus = study_of(folder), read_corpus(write_tone_corpus(tmp_path / "study", speakers=4))
    with pytest.raises(StudyError, match=r"4 people in both .*: 1001, 1002, 1003, 1004"):
        plan_simulation(corpus, study, "")
    with pytest.raises(StudyError, match="1 people in both"):
        public_sets(study, {}, replace(corpus, clips=(replace(corpus.clips[0], speaker="1009"),)))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder / "AudioWAV")


def _few(folder: Path) -> None:
    for path in (folder / "AudioWAV").glob("100[2-9]*"):
        path.unlink()


def _absent(folder: Path) -> None:
    shutil.rmtree(folder)


def _damaged(folder: Path) -> None:
    for path in (folder / "AudioWAV").iterdir():
        path.write_bytes(b"RIFF, and nothing of sound")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_absent, "no folder"),
        (_empty, "no corpus that Moretta knows|no usable clip"),
        (_few, "1 public people with sound"),
        (_damaged, "none releases 0 of 96 public clips"),
    ],
)
def test_a_broken_public_folder_is_one_clear_error(tmp_path: Path, spoil: Any, said: str) -> None:
    folder = write_tone_corpus(tmp_path / "public", speakers=8)
    spoil(folder)
    study = study_of(folder, anonymizer="none", form="mfcc")
    with pytest.raises(MorettaError, match=said) as error:
        public_sets(study, {})
    assert isinstance(error.value, (StudyError, CorpusError))


def test_a_study_goes_on_without_public_people_that_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warned: list[str] = []
    plan = SimpleNamespace(originals=lambda: None)
    context: Any = SimpleNamespace(plan=plan, study=study_of(tmp_path / "absent"), warn=warned.append)
    assert not _public(context, {})
    assert len(warned) == 1
    assert str(tmp_path) not in warned[0]  # warnings go into the report, which is shared
    assert "no folder" in caplog.text
