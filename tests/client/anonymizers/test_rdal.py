"""A clip as a code of RDAL: what a site releases and states, and public speech that is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moretta.client.anonymizers import rdal
from moretta.client.anonymizers.rdal import RdalVoice
from moretta.client.clips.release import make_release
from moretta.server.stages.statement_checks import check_statement, recomputed_statement
from moretta.shared.core.errors import StudyError
from moretta.shared.data.media import write_wav
from moretta.shared.features import public_speech
from moretta.shared.features.public_speech import synthetic_speakers
from moretta.shared.models.rdal import FIGURES, MASK, Rdal
from moretta.shared.models.rdal_of_speech import public_voice_mask
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.schema import Study, parse_study


def study_of(**options: Any) -> Study:
    voice = {"anonymizer": "rdal", "options": options}
    return parse_study({"sites": 2, "face": {"enabled": False}, "split": {"folds": 2}, "voice": voice})


@pytest.fixture(scope="module")
def quick() -> Any:
    """A study, and its arrays from little public speech."""
    with pytest.MonkeyPatch.context() as patch:
        few = lambda seed: synthetic_speakers(seed, voices=10, clips=6)  # noqa: E731
        patch.setattr(public_speech, "synthetic_speakers", few)
        patch.setattr(rdal, "public_voice_mask", partial(public_voice_mask, voices=2, utterances=3, epochs=1))
        study, lines = study_of(epochs=10, hides="sex"), list[str]()
        yield study, prepare_public(study, lines.append), lines


def test_a_site_releases_codes_and_states_what_readers_find(simulated: Any, quick: Any) -> None:
    study, public, lines = quick
    release = make_release(simulated.site(), study, public)
    assert release.statement.clips == 24 and not release.statement.dropped
    check_statement(study, release)
    stated = release.anonymizer("voice")
    assert stated is not None and stated.noise == "none" and stated.form == "code"
    assert recomputed_statement(study, public, release, "voice").privacy == stated.privacy
    assert all(row.epsilon is None for row in stated.privacy)
    assert {"kept", "verifier_loss", "stopped_after", "mask"} <= stated.parameters.keys()
    assert {"in_loop", "able", "fresh_linear", "faults"} <= stated.parameters["readers"]["sex"].keys()
    assert all(array.shape == (64,) for _, array in release.arrays("voice"))
    faults = Rdal.from_arrays(public, has_mask=True).figures.hidden.faults()
    assert [line for line in lines if line.startswith("rdal: ")] == [f"rdal: {fault}" for fault in faults]


def test_a_released_clip_is_what_both_networks_make_of_it(quick: Any) -> None:
    study, public, _ = quick
    made = RdalVoice.from_study(study, public)
    with_mask, without = (Rdal({n: a for n, a in public.items() if keep or MASK not in n}) for keep in (True, False))
    for one in synthetic_speakers(3, voices=1, clips=2):
        released = made.release_clip(one.samples, SeededNoise(1), "a")
        np.testing.assert_array_equal(released, with_mask(one.samples))
        assert not np.allclose(released, without(one.samples))


def test_a_mask_is_taken_only_where_a_study_has_one(quick: Any) -> None:
    study, public, _ = quick
    bare = study.with_changes(voice__options__mask=False)
    assert not [name for name in RdalVoice.public_rules(bare) if name.startswith(MASK)]
    with pytest.raises(StudyError, match="mask"):
        RdalVoice.from_study(study, {name: array for name, array in public.items() if not name.startswith(MASK)})
    assert FIGURES in RdalVoice.public_rules(study)


@pytest.mark.parametrize(
    ("table", "found"),
    [
        (None, "0 female and 0 male"),
        (["1001,30,Male", "1002,30,Male", "1003,30,Male"], "0 female and 3 male"),
        (["1001,30,Male", "1002,30,Female", "1003,30,Male"], "1 female and 2 male"),
    ],
    ids=["no sex", "one sex", "too few"],
)
def test_public_speech_that_cannot_train_it_is_refused(tmp_path: Path, table: list[str] | None, found: str) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 8_000).astype(np.float32)
    for speaker in (1001, 1002, 1003):
        for emotion in ("ANG", "FEA", "NEU", "SAD"):
            write_wav(tmp_path / "AudioWAV" / f"{speaker}_DFA_{emotion}_XX.wav", sound)
    if table is not None:
        (tmp_path / "VideoDemographics.csv").write_text("\n".join(["ActorID,Age,Sex", *table]), encoding="utf-8")
    with pytest.raises(StudyError, match=found) as caught:
        prepare_public(study_of(public_speech=tmp_path, mask=False))
    assert "VideoDemographics.csv" in caught.value.fix


def test_options_that_cannot_be_are_refused_where_a_study_is_read() -> None:
    for options, why in (
        ({"hides": "emotion"}, "hides"),
        ({"adversary_strength": -1}, "adversary_strength"),
        ({"replaced_every": -1}, "replaced_every"),
        ({"epochs": 0}, "epochs"),
    ):
        with pytest.raises(StudyError, match=why):
            study_of(**options)
    with pytest.raises(StudyError, match="form"):
        parse_study({"voice": {"anonymizer": "rdal", "form": "waveform"}})
