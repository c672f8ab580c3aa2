"""Identity that a classifier looking for likeness alone does not find, and attackers that do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from speakers import KEY, SENTENCES, codes, faces, run_audit, voices

from moretta.shared.audit.attackers.base import Identifier, PoolIdentifier, get_attacker
from moretta.shared.audit.crossval import sentence_folds
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.protocol import make_plan
from moretta.shared.audit.result import Result
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.data.corpora.cremad import Level
from moretta.shared.release import ReleasedClip

ORDINARY = ("logistic", "svm", "forest", "knn")
SPEAKERS = 12
CHANCE = 1 / SPEAKERS
CLIPS = 24


def described() -> list[ReleasedClip]:
    """Every person in every emotion and every sentence."""
    return [
        ReleasedClip(
            clip=KEY.clip(f"{speaker} {number}"),
            speaker=KEY.speaker(speaker),
            emotion=EMOTIONS[number % 6],
            sentence=SENTENCES[number // 6 % 4],
            level=Level.XX,
        )
        for speaker in range(SPEAKERS)
        for number in range(CLIPS)
    ]


def centred(*, seed: int = 0) -> np.ndarray:
    """[speakers, clips, 40]: noise, and no speaker's clips have a mean: one half gives away the mean of the other."""
    noise = np.random.default_rng(seed).normal(size=(SPEAKERS, CLIPS, 40))
    return noise - noise.mean(axis=1, keepdims=True)


def exchanged(*, seed: int = 0) -> np.ndarray:
    """[speakers, clips, 40]: six people speak alike in six ways; whose anger sounds like whose joy is what differs."""
    rng = np.random.default_rng(seed)
    ways = 2 * rng.normal(size=(2, 6, 40))
    person, clip = np.arange(SPEAKERS)[:, None], np.arange(CLIPS)
    return ways[person % 2, (person // 2 + clip) % 6] + rng.normal(size=(SPEAKERS, CLIPS, 40))


def balanced(*, seed: int = 0) -> np.ndarray:
    """[speakers, clips, 40]: a person's clips of one emotion are alike; normalizing pushed all the person's apart.

    Whitened within each person, whose clips are fewer than the values: as alike as they were, and the other way round.
    """
    rng = np.random.default_rng(seed)
    own = np.repeat(rng.normal(size=(SPEAKERS, 1, 6, 40)), CLIPS // 6, axis=1).reshape(SPEAKERS, CLIPS, 40)
    values = own + rng.normal(size=own.shape)
    values -= values.mean(axis=1, keepdims=True)
    covariance = np.einsum("sci,scj->sij", values, values) / CLIPS + np.eye(40)
    return np.stack([v @ np.linalg.inv(np.linalg.cholesky(c)).T for v, c in zip(values, covariance, strict=True)])


def shifted(*, own: float, seed: int = 0) -> np.ndarray:
    """[speakers, clips, 40]: enrolled and tried clips are moved by secrets of their own, far more than people differ.

    All people have the same six ways of speaking, `own` standard deviations apart. Which emotion has which is a
    person's own, on both sides.
    """
    rng = np.random.default_rng(seed)
    six = own * rng.normal(size=(6, 40))
    ways = np.stack([six[rng.permutation(6)] for _ in range(SPEAKERS)])
    clips, trial = described(), set(make_plan(described(), seed=1).trial)
    secrets = 3 * rng.normal(size=(SPEAKERS, 2, 40))
    sides = np.array([clip.clip in trial for clip in clips], int).reshape(SPEAKERS, CLIPS)
    moved = np.take_along_axis(secrets, sides[:, :, None], axis=1)
    return moved + ways[:, np.arange(CLIPS) % 6] + rng.normal(size=(SPEAKERS, CLIPS, 40))


def uneven(*, own: bool, seed: int = 0) -> np.ndarray:
    """[speakers, clips, 40]: all have the same mean in every emotion; `own`: four values of each person vary more."""
    rng = np.random.default_rng(seed)
    scale = np.ones((SPEAKERS, 1, 40))
    for person in range(SPEAKERS if own else 0):
        scale[person, 0, rng.permutation(40)[:4]] = 4.0
    return scale * rng.normal(size=(SPEAKERS, CLIPS, 40))


def released(values: np.ndarray, form: str) -> ClipSet:
    """The vectors as codes, as sequences around them, or as pictures of 8 x 5 spots."""
    flat = values.reshape(-1, 40)
    if form == "frames":
        spots = np.kron(flat.reshape(-1, 8, 5), np.ones((1, 6, 10)))[:, None, :, :, None]  # [clips, 1, 48, 50, 1]
        pictures = np.clip(128 + 20 * np.broadcast_to(spots, (len(flat), 3, 48, 50, 3)), 0, 255).astype(np.uint8)
        return ClipSet.from_arrays(described(), list(pictures), modality="face", form="frames")
    if form == "code":
        return ClipSet.from_arrays(described(), list(flat.astype(np.float32)), modality="voice", form="code")
    around = flat[:, None] + 0.3 * np.random.default_rng(1).normal(size=(len(flat), 9, 40))
    kind = "mfcc" if form == "mfcc" else "code-sequence"
    return ClipSet.from_arrays(described(), list(around.astype(np.float32)), modality="voice", form=kind)


def top1(rows: list[Result], attacker: str, pooled: int = 1) -> float:
    wanted = (attacker, "semi-informed", "top1", "all", pooled)
    (row,) = (r for r in rows if (r.attacker, r.scenario, r.metric, r.subset, r.pooled) == wanted)
    assert not row.invalid and row.value is not None, row
    return row.value


def attacked(clips: ClipSet, special: str) -> tuple[float, float, list[Result]]:
    """The strongest ordinary attacker's top-1 and the special one's."""
    names = [f"{clips.modality}-{name}" for name in (*ORDINARY, special)]
    rows = run_audit(None, clips, attackers=names, seed=1, bootstrap=0, workers=1)
    return max(top1(rows, name) for name in names[:-1]), top1(rows, names[-1]), rows


@pytest.mark.parametrize("form", ["code", "frames"])
def test_the_least_likely_person_is_the_one_where_clips_were_centred_together(form: str) -> None:
    ordinary, inverted, rows = attacked(released(centred(), form), "inverted")
    assert ordinary < 1.5 * CHANCE
    assert inverted > 1.6 * CHANCE
    assert top1(rows, f"{rows[0].modality}-inverted", pooled=10) > 0.5


def test_of_two_clips_that_lie_opposite_each_other_one_names_the_other() -> None:
    """One clip of each person is all there is to learn from: nothing can be held out to find that inverting helps."""
    first = np.random.default_rng(1).normal(size=(SPEAKERS, 1, 40))
    pairs = np.concatenate([first, -first], axis=1) + 0.3 * np.random.default_rng(2).normal(size=(SPEAKERS, 2, 40))
    mine = [clip for number, clip in enumerate(described()) if number % CLIPS in {0, CLIPS - 1}]  # two sentences
    clips = ClipSet.from_arrays(mine, list(pairs.reshape(-1, 40).astype(np.float32)), modality="voice", form="code")
    ordinary, inverted, _ = attacked(clips, "inverted")
    assert ordinary < 2 * CHANCE
    assert inverted > 0.8


def test_a_speaker_with_one_clip_keeps_nobody_elses_from_being_held_out() -> None:
    everything = released(centred(), "code")
    first = everything.labels[0]
    only = everything.subset([0, *np.flatnonzero(everything.labels != first)])
    folds = sentence_folds(only.labels, only)
    assert folds is not None
    held_out = np.concatenate([test for _, test in folds])
    assert sorted(held_out) == list(range(1, len(only)))
    assert all(0 in train and not set(train) & set(test) for train, test in folds)


@pytest.mark.parametrize("form", ["code-sequence", "frames"])
def test_identity_in_how_an_emotion_sounds_is_found_given_the_emotion(form: str) -> None:
    ordinary, given, _ = attacked(released(exchanged(), form), "given-emotion")
    assert ordinary < 0.25  # the group of six is easy to find, and that alone gives a sixth
    assert given > 0.5


@pytest.mark.parametrize("form", ["code", "mfcc"])
def test_likeness_within_an_emotion_is_found_where_unlikeness_across_them_hides_it(form: str) -> None:
    ordinary, likeness, rows = attacked(released(balanced(), form), "likeness")
    assert ordinary < 1.5 * CHANCE
    assert likeness > 1.8 * CHANCE
    assert top1(rows, f"{rows[0].modality}-likeness", pooled=10) > 0.4


@pytest.mark.parametrize("form", ["code", "mfcc", "frames"])
def test_how_people_show_emotion_is_found_where_a_secret_of_each_side_moves_them(form: str) -> None:
    """Whoever knows ten clips to be of one person can take away what they share."""
    clips = released(shifted(own=1.0), form)
    means = [f"{clips.modality}-{name}" for name in ("logistic", "knn", "given-emotion")]
    name = f"{clips.modality}-variation"
    rows = run_audit(None, clips, attackers=[*means, name], seed=1, bootstrap=0, workers=1)
    assert max(top1(rows, other, pooled=10) for other in means) < 0.4
    assert top1(rows, name, pooled=10) > 0.6  # 0.76 was seen
    assert top1(rows, name, pooled=3) > 2 * CHANCE


def test_people_who_differ_in_how_much_they_vary_are_found_by_no_attacker_of_means() -> None:
    means = ["voice-logistic", "voice-given-emotion", "voice-wccn"]
    rows = run_audit(
        None, released(uneven(own=True), "code"), attackers=[*means, "voice-variation"], seed=1, bootstrap=0, workers=1
    )
    assert max(top1(rows, name, pooled=10) for name in means) < 0.35  # 0.24 was seen
    assert top1(rows, "voice-variation", pooled=10) > 0.5


@pytest.mark.parametrize("values", [shifted(own=0.0), uneven(own=False)], ids=["shifted", "uneven"])
def test_people_who_vary_alike_are_not_found_by_how_they_vary(values: np.ndarray) -> None:
    rows = run_audit(None, released(values, "code"), attackers=["voice-variation"], seed=1, bootstrap=0, workers=1)
    for pooled in (3, 10):
        assert top1(rows, "voice-variation", pooled=pooled) < 2.5 * CHANCE


@pytest.mark.parametrize("form", ["code", "mfcc", "frames"])
def test_a_pool_is_scored_by_its_own_clips_alone_and_without_what_they_share(form: str) -> None:
    """The mean is never that of the person's other clips, and no name has a say."""
    values, pools = shifted(own=1.0), np.array([[0, 3, 7], [30, 26, 41]])
    clips = released(values, form)
    attacker = get_attacker(f"{clips.modality}-variation")()
    assert isinstance(attacker, PoolIdentifier)
    attacker.fit(clips, seed=1)
    found = attacker.pool_scores(clips, pools)
    elsewhere = np.random.default_rng(5).normal(size=values.shape).reshape(-1, 40)
    elsewhere[pools.ravel()] = values.reshape(-1, 40)[pools.ravel()]
    others = released(elsewhere.reshape(values.shape), form)
    named = tuple(c.model_copy(update={"speaker": KEY.speaker(99 + i)}) for i, c in enumerate(others.clips))
    np.testing.assert_array_equal(attacker.pool_scores(replace(others, clips=named), pools), found)
    if form == "code":  # only there a value is what is released
        everybody = released(values + np.random.default_rng(6).normal(size=(SPEAKERS, 1, 40)), form)
        np.testing.assert_allclose(attacker.pool_scores(everybody, pools), found, atol=1e-3)
        attacker.fit(everybody, seed=1)
        np.testing.assert_allclose(attacker.pool_scores(clips, pools), found, atol=1e-3)


def test_a_value_that_varied_by_rounding_alone_has_no_say() -> None:
    values, pools = shifted(own=1.0), np.array([[0, 3, 7], [30, 26, 41]])
    values[..., 0] = 1000 + 1e-4 * np.random.default_rng(7).normal(size=values.shape[:2])
    attacker = get_attacker("voice-variation")()
    assert isinstance(attacker, PoolIdentifier)
    attacker.fit(released(values, "code"), seed=1)
    found = attacker.pool_scores(released(values, "code"), pools)
    values[..., 0] += np.random.default_rng(8).normal(size=values.shape[:2])
    np.testing.assert_allclose(attacker.pool_scores(released(values, "code"), pools), found, atol=1e-3)


@pytest.mark.parametrize("special", ["inverted", "given-emotion", "likeness"])
def test_plain_identity_is_found_by_each_and_none_where_there_is_none(special: str) -> None:
    for there, gone in ((voices(), codes(apart=0.0)), (faces(), faces(apart=0.0))):
        name = f"{there.modality}-{special}"
        assert top1(run_audit(None, there, attackers=[name], seed=1, bootstrap=0, workers=1), name) > 0.8
        assert top1(run_audit(None, gone, attackers=[name], seed=1, bootstrap=0, workers=1), name) < 0.35


def test_a_network_learns_what_it_is_shown_even_where_nothing_of_it_is_a_person() -> None:
    """Only so is its failure a finding: one that did not learn would be invalid."""
    found = run_audit(None, faces(apart=0.0, speakers=8), attackers=["face-cnn"], seed=1, bootstrap=0, workers=1)
    assert top1(found, "face-cnn") < 0.35


def test_whether_to_invert_is_decided_without_the_trial_clips() -> None:
    """Trial clips that are like the enrolment clips do not turn an attacker back that has learned to invert."""
    plain = released(centred(), "code")
    enrol = plain.subset(i for i, clip in enumerate(plain.clips) if clip.sentence in SENTENCES[:2])
    attacker = get_attacker("voice-inverted")()
    assert isinstance(attacker, Identifier)
    attacker.fit(enrol, seed=1)
    itself = attacker.scores(enrol).argmax(axis=1)
    assert (itself == enrol.labels).mean() < CHANCE
