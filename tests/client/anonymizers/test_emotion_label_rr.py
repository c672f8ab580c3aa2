from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moretta.client.anonymizers.emotion_label_rr import EmotionLabelVoice
from moretta.client.anonymizers.emotion_labeler import LABELS, EmotionLabeler, ceilings, uniform_errors
from moretta.client.clips.release import make_release
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.public_speech import synthetic_speakers
from moretta.shared.features.speaker_code import public_rows
from moretta.shared.models.speech import make_voice, synthesize
from moretta.shared.privacy.local_mechanisms import RandomizedResponse
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import get_anonymizer
from moretta.shared.release.release_format import check_array
from moretta.shared.study.schema import Study

NEARLY_ALWAYS = 20.0
"""Of such an epsilon no answer among hundreds is another."""
Clips = list[tuple[str, np.ndarray, int]]


@pytest.fixture(scope="module")
def shared() -> dict[str, Any]:
    return EmotionLabeler.of_public(
        public_rows(synthetic_speakers(1, voices=4, clips=12), in_windows=False)
    ).to_arrays()


@pytest.fixture(scope="module")
def spoken() -> Clips:
    """Twelve clips of each of four speakers, two in each emotion."""
    return [
        (
            str(number),
            synthesize(make_voice(50 + number), EMOTIONS[clip % 6], "DFA", seed=100 * number + clip),
            clip % 6,
        )
        for number in range(4)
        for clip in range(12)
    ]


def study_of(*, form: str = "", **options: Any) -> Study:
    section = {"anonymizer": "emotion-label-rr", "options": {"label_epsilon": NEARLY_ALWAYS, **options}, "form": form}
    return Study().with_changes(voice=section)


def build(shared: dict[str, Any], **voice: Any) -> EmotionLabelVoice:
    made = get_anonymizer("voice", "emotion-label-rr").from_study(study_of(**voice), shared)
    assert isinstance(made, EmotionLabelVoice)
    return made


def fitted(shared: dict[str, Any], clips: Clips, folder: Path | None = None, **voice: Any) -> EmotionLabelVoice:
    made = build(shared, **voice)
    if folder is not None:
        made.keep_in(folder)
    made.fit([(speaker, clip) for speaker, clip, _ in clips], SeededNoise(1, "fit"))
    made.train_on_emotions(clips)
    return made


def released(made: EmotionLabelVoice, clips: Clips, seed: int = 1) -> list[Any]:
    noise = [SeededNoise(seed, index) for index in range(len(clips))]
    return made.release([clip for _, clip, _ in clips], noise, [speaker for speaker, _, _ in clips])


def words(made: EmotionLabelVoice, clips: Clips, seed: int = 1) -> list[int]:
    return [int(array[0] if made.form == "code-tokens" else array.argmax()) for array in released(made, clips, seed)]


def sounds_like(made: EmotionLabelVoice, clips: Clips) -> list[int]:
    """Labels by the site's model, before the randomized response."""
    return [int(made._labeler_of(speaker)(made._places(speaker, clip))[0]) for speaker, clip, _ in clips]


@pytest.mark.parametrize("form", ["code", "code-tokens"])
@pytest.mark.parametrize("source", ["site", "public"])
def test_every_form_keeps_the_format_and_is_one_word(shared: Any, spoken: Clips, form: str, source: str) -> None:
    made = fitted(shared, spoken, form=form, labels_from=source)
    for array in released(made, spoken):
        check_array("voice", form, array, codebook_size=LABELS)
        assert made.frames(array) == 1
        assert array.shape == ((1,) if form == "code-tokens" else (LABELS,))
    assert (made.codebook is None) == (form != "code-tokens")


def test_a_model_of_the_sites_other_people_recognizes_emotions(shared: Any, spoken: Clips) -> None:
    reported = words(fitted(shared, spoken), spoken)
    assert np.mean([word == label for word, (_, _, label) in zip(reported, spoken, strict=True)]) > 0.6


def test_nobody_trains_the_model_of_their_own_labels(shared: Any, spoken: Clips) -> None:
    """One's own labels, however wrong, change nothing of what one's clips sound like; others' labels do."""
    mine = [clip for clip in spoken if clip[0] == "0"]
    others = [clip for clip in spoken if clip[0] != "0"]
    wrong = [(speaker, clip, (label + 1) % 6) for speaker, clip, label in mine]
    truth = sounds_like(fitted(shared, spoken), mine)
    assert sounds_like(fitted(shared, [*wrong, *others]), mine) == truth
    lied = [(speaker, clip, (label + 1) % 6) for speaker, clip, label in others]
    assert np.mean(np.array(sounds_like(fitted(shared, [*mine, *lied]), mine)) == (np.array(truth) + 1) % 6) > 0.8


def test_a_released_label_reveals_whether_the_prediction_was_right_and_nothing_else() -> None:
    """The same draws make the same words of clips that sound like any emotion but their label."""
    labels = np.arange(LABELS).repeat(LABELS)
    heard = np.tile(np.arange(LABELS, dtype=np.int32), LABELS)
    for seed in range(50):
        uniform = np.random.default_rng(seed).random(LABELS).repeat(LABELS)  # the same for clips of one label
        reported = uniform_errors(heard, labels, uniform)
        np.testing.assert_array_equal(reported == labels, heard == labels)
        for label in range(LABELS):
            assert len(set(reported[(labels == label) & (heard != label)])) == 1


@pytest.mark.parametrize("source", ["site", "public"])
def test_a_released_label_is_right_only_where_the_prediction_was(shared: Any, spoken: Clips, source: str) -> None:
    """So hiding mistakes makes nobody's emotion better known than it was."""
    made = fitted(shared, spoken, labels_from=source)
    heard = sounds_like(made, spoken)
    for seed in range(3):
        for word, sound, (_, _, label) in zip(words(made, spoken, seed), heard, spoken, strict=True):
            assert word != label or sound == label
            assert source == "site" or (word == label) == (sound == label)


def test_people_recognized_more_easily_than_others_are_released_as_often_right_as_they() -> None:
    """Of five people one is always right, in one emotion; the others in half of their clips."""
    rng = np.random.default_rng(1)
    labels = np.arange(120) % 2
    said = {}
    for person in range(5):
        shown = [label if person == 0 or clip // 2 % 2 else 1 - label for clip, label in enumerate(labels)]
        said[str(person)] = (np.eye(95)[shown] + 0.01 * rng.normal(size=(120, 95)), labels)
    stays = ceilings(said, dict.fromkeys(said, EmotionLabeler(*two_emotions())))
    assert stays["0", 0] == pytest.approx(0.5, abs=0.01) == stays["0", 1]
    assert all(stays[str(person), emotion] == 1.0 for person in range(1, 5) for emotion in (0, 1))


def two_emotions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words by which of the first two places is larger."""
    bias = np.array([0, 0, -9, -9, -9, -9], np.float32)
    return np.ones(95, np.float32), np.eye(95, LABELS, dtype=np.float32), bias


def test_a_ceiling_makes_right_labels_wrong_as_often_as_it_says(shared: Any, spoken: Clips) -> None:
    made = fitted(shared, spoken)
    right = [clip for clip, sound in zip(spoken, sounds_like(made, spoken), strict=True) if clip[2] == sound]
    reported = np.mean([[w == c[2] for w, c in zip(words(made, right, s), right, strict=True)] for s in range(12)])
    assert reported == pytest.approx(
        np.mean([made._stays.get((speaker, label), 1.0) for speaker, _, label in right]), abs=0.08
    )


def test_misclassified_clips_get_each_of_the_other_labels_as_often() -> None:
    wrong = np.zeros(60_000, np.int32)
    reported = uniform_errors(wrong, np.full(len(wrong), 2), np.random.default_rng(1).random(len(wrong)))
    share = np.bincount(reported, minlength=LABELS) / len(wrong)
    np.testing.assert_allclose(share, [0.2, 0.2, 0, 0.2, 0.2, 0.2], atol=0.01)
    edges = uniform_errors(np.zeros(2, np.int32), np.full(2, 2), np.array([0.0, np.nextafter(1, 0)]))
    assert edges.tolist() == [3, 1]


def test_two_people_who_are_misclassified_differently_but_as_often_are_released_alike() -> None:
    """One's fear is taken for sadness, the other's for anger: an attacker who pools all clips saw that before."""
    labels = np.arange(6_000) % LABELS
    right = np.random.default_rng(1).random(len(labels)) < 0.6
    uniform = np.random.default_rng(2).random(len(labels))
    one, other = (
        uniform_errors(np.where(right, labels, (labels + taken_for) % LABELS).astype(np.int32), labels, uniform)
        for taken_for in (1, 4)
    )
    np.testing.assert_array_equal(one, other)


def test_what_is_the_same_in_all_of_a_speakers_clips_changes_no_label(shared: Any, spoken: Clips) -> None:
    mine = [clip for clip in spoken if clip[0] == "0"]
    louder = [("0", np.clip(3 * clip, -1, 1), label) for _, clip, label in mine]
    for source in ("site", "public"):
        here, there = (
            sounds_like(fitted(shared, [*own, *spoken[12:]], labels_from=source), own) for own in (mine, louder)
        )
        assert np.mean(np.array(here) == np.array(there)) > 0.9


def test_responses_are_kept_as_often_as_the_study_says(shared: Any, spoken: Clips) -> None:
    sure, made = fitted(shared, spoken), fitted(shared, spoken, label_epsilon=2.0)
    kept = np.mean([np.array(words(made, spoken, s)) == np.array(words(sure, spoken, s)) for s in range(20)])
    assert abs(kept - RandomizedResponse(choices=LABELS, token_epsilon=2.0).keep) < 0.04


def test_a_label_costs_its_speaker_as_often_as_it_may_change_others(shared: Any, spoken: Clips) -> None:
    sizes = {"a": [1] * 12, "b": [1] * 30}
    one = RandomizedResponse(choices=LABELS, token_epsilon=3.0)
    for source, tokens in (("public", 30), ("site", 42), ("federated", 30)):
        made = build(shared, labels_from=source, label_epsilon=3.0)
        for unit in ("clip", "speaker"):
            (loss,) = made.losses(sizes)[unit]
            assert loss == one.for_group(tokens, unit)
            assert (loss,) == made.planned_losses(study_of(labels_from=source, label_epsilon=3.0), sizes)[unit]
        statement = made.statement(sizes, "system")
        assert {p.unit for p in statement.privacy} == {"value", "frame", "clip", "speaker"}
        words = [p for p in statement.privacy if "randomized response" in p.mechanism]
        assert all(p.epsilon == pytest.approx(one.for_group(tokens).epsilon(1e-5)) for p in words)
        assert (len(words) < len(statement.privacy)) == (source == "federated")  # which has its training beside it
    assert build(shared).losses({}) == {"clip": (), "speaker": ()}


def test_a_model_cannot_be_trained_without_enough_other_people(shared: Any, spoken: Clips) -> None:
    with pytest.raises(StudyError, match=r"2 people at this site.*at least 3.*labels_from"):
        fitted(shared, spoken[:24])
    assert len(words(fitted(shared, spoken[:12], labels_from="public"), spoken[:12])) == 12
    with pytest.raises(StudyError, match="1 emotions"):
        fitted(shared, [(speaker, clip, 0) for speaker, clip, _ in spoken])


def test_the_only_clip_of_a_speaker_is_released_like_anybodys(shared: Any, spoken: Clips) -> None:
    only = [("only", clip, label) for _, clip, label in (spoken[0], spoken[20])]
    reported = [sounds_like(fitted(shared, [one, *spoken[24:]], labels_from="public"), [one])[0] for one in only]
    assert reported[0] == reported[1]


def test_two_emotions_are_recognized_and_no_other(shared: Any, spoken: Clips) -> None:
    some = [clip for clip in spoken if clip[2] in (1, 4)]
    assert set(sounds_like(fitted(shared, some), some)) == {1, 4}


def test_clips_that_cannot_be_used_are_no_bodys_teachers_and_fail_when_released(shared: Any, spoken: Clips) -> None:
    broken = ("0", np.full(16_000, np.nan, np.float32), 2)
    made = fitted(shared, [broken, *spoken])
    out = released(made, [broken, spoken[0], ("unknown", spoken[0][1], 0)])
    assert isinstance(out[0], ClipError) and isinstance(out[1], np.ndarray) and isinstance(out[2], ClipError)
    assert words(made, spoken) == words(fitted(shared, spoken), spoken)


def test_clips_are_normalized_by_those_that_are_there_and_nothing_of_them_is_kept(
    shared: Any, spoken: Clips, tmp_path: Path
) -> None:
    kept = [clip for clip in spoken if clip[0] != "0" or clip[2] != 3]
    fitted(shared, spoken, tmp_path)
    later, alone = fitted(shared, kept, tmp_path), fitted(shared, kept)
    assert not list(tmp_path.iterdir())
    for speaker, clip, _ in kept:
        np.testing.assert_array_equal(later._places(speaker, clip), alone._places(speaker, clip))


def test_before_it_was_trained_nothing_is_released(shared: Any, spoken: Clips) -> None:
    for source in ("site", "public"):
        made = build(shared, labels_from=source)
        made.fit([(speaker, clip) for speaker, clip, _ in spoken], SeededNoise(1, "fit"))
        (error,) = released(made, spoken[:1])
        assert isinstance(error, ClipError) and error.reason == "not-trained"


@pytest.mark.parametrize("broken", ["missing", "narrow", "nan", "no spread"])
def test_damaged_codewords_are_refused(shared: Any, broken: str) -> None:
    arrays = {name: array.copy() for name, array in shared.items()}
    if broken == "missing":
        del arrays["voice/emotion-labels/bias"]
    elif broken == "narrow":
        arrays["voice/emotion-labels/weights"] = arrays["voice/emotion-labels/weights"][:, :5]
    elif broken == "nan":
        arrays["voice/emotion-labels/weights"][0, 0] = np.nan
    else:
        arrays["voice/emotion-labels/spread"][0] = 0
    with pytest.raises(StudyError):
        EmotionLabeler.from_arrays(arrays)


def test_the_study_refuses_forms_that_are_no_labels() -> None:
    assert Study().with_changes(voice={"anonymizer": "emotion-label-rr"}).voice.form == "code"
    with pytest.raises(StudyError, match="code or code-tokens"):
        Study().with_changes(voice={"anonymizer": "emotion-label-rr", "form": "waveform"})


def test_a_site_releases_labels_and_pays_for_them(simulated: Any, study: Study, shared: Any) -> None:
    wanted = study.with_changes(voice__anonymizer="emotion-label-rr", voice__form="code-tokens")
    wanted = wanted.with_changes(voice__options__labels_from="public")
    site = simulated.site()
    release = make_release(site, wanted, shared)
    tokens = [array for _, array in release.arrays("voice")]
    assert len(tokens) == 24 and all(token.shape == (1,) for token in tokens)
    (entry,) = site.site_budget().ledger.entries("release")
    assert entry["anonymizer"] == "emotion-label-rr"
    with pytest.raises(StudyError, match="people at this site"):
        make_release(site, wanted.with_changes(voice__options__labels_from="site"), shared)
    assert len(site.site_budget().ledger.entries("release")) == 1


def test_a_whole_release_has_labels_of_a_model_trained_on_the_sites_own_people(
    simulated: Any, study: Study, shared: Any
) -> None:
    wanted = study.with_changes(
        voice__anonymizer="emotion-label-rr", voice__form="code-tokens", voice__options__label_epsilon=20.0
    )
    site = replace(simulated.site(), speakers=("1001", "1002", "1003", "1004"))
    release = make_release(site, wanted, shared)
    told = [int(array[0]) for _, array in release.arrays("voice")]
    assert len(told) == 48
    public = make_release(site, wanted.with_changes(name="by the public", voice__options__labels_from="public"), shared)
    assert told != [int(array[0]) for _, array in public.arrays("voice")]


def test_a_study_of_other_classes_is_refused_before_anything_is_made(study: Study) -> None:
    wanted = study.with_changes(voice__anonymizer="emotion-label-rr", voice__form="code", classes=("calm", "bored"))
    with pytest.raises(StudyError, match="with the classes calm, bored"):
        EmotionLabelVoice.prepare_public(wanted, print)
