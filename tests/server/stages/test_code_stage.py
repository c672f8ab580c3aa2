from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import MetricRecord, RecordDict
from staging import do, warnings_of

from moretta.client.anonymizers.emotion_labeler import EmotionLabeler
from moretta.server.stages.run import Run, RunContext
from moretta.server.stages.train import CODE_STAGE
from moretta.server.study import SITE_STAGES, Stage, run_stages
from moretta.shared.core.errors import RunError
from moretta.shared.features import emotion_encoder, speaker_code
from moretta.shared.features.emotion_encoder import CODE, TRAINED, EmotionEncoder, EmotionTraining
from moretta.shared.features.federated_encoder import is_clear
from moretta.shared.features.public_speech import synthetic_speakers
from moretta.shared.features.speaker_code import PublicRows, SpeakerCode, public_rows, train_speaker_code
from moretta.shared.messages import wire
from moretta.shared.privacy.accounting import training_step
from moretta.shared.study.run_plan import PlannedSite, SimulationPlan
from moretta.shared.study.schema import Study, parse_study

TRUE = np.random.default_rng(5).normal(size=(5, 95)).astype(np.float32)
"""The code that the sites' clips lead to, [5, 95]."""
Answer = Callable[[int, Any], Any]


def study(**changes: Any) -> Study:
    options = {"code_epsilon": 0.0, "code_rounds": 3, **changes.pop("voice", {})}
    name = str(options.pop("anonymizer", "speaker-normalized"))
    if name == "speaker-normalized":
        options = {"code_training": "federated", "codebook_size": 16, **options}
    voice = {"anonymizer": name, "options": options}
    return parse_study({"face": {"enabled": False}, "voice": voice, **changes})


@cache
def public() -> PublicRows:
    return public_rows(synthetic_speakers(1, voices=4, clips=12), in_windows=False)


def first_code() -> SpeakerCode:
    return train_speaker_code(public(), size=5, codebook_size=16, seed=1)


def responded(arrays: dict[str, Any], units: float = 20) -> RecordDict:
    return RecordDict(
        {
            wire.ARRAYS: wire.arrays_to_record(arrays),
            wire.METRICS: MetricRecord({"num-examples": units}),
            wire.CONFIG: wire.json_config(site="x"),
        }
    )


def honest(node: int, message: Any) -> RecordDict:
    """Half the way to where the sites' clips would have the code."""
    del node
    arrays = wire.arrays_of(message.content)
    return responded({**arrays, CODE: (arrays[CODE] + TRUE) / 2})


def noise_alone(deviation: float) -> Answer:
    """Response of a site whose clips have no signal: noise on a sum over 20 units."""

    def response(node: int, message: Any) -> RecordDict:
        arrays = wire.arrays_of(message.content)
        number = int(message.content[wire.CONFIG]["server-round"])
        noise = np.random.default_rng([node, number])
        for name in TRAINED:
            arrays[name] = arrays[name] + np.float32(
                EmotionTraining.learning_rate * deviation / 20 * noise.normal(size=arrays[name].shape)
            )
        return responded(arrays)

    return response


@pytest.fixture
def run_of(
    tmp_path: Path, fake_site_grid: Any, hello: Any, hellos: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Run]:
    monkeypatch.setattr(speaker_code, "_measured_public_speech", lambda *_: public())

    def make(response: Answer, requested: Study | None = None) -> Run:
        site_grid = hellos(fake_site_grid(lambda node, message: hello(node), nodes=2), 2)
        site_grid.grid.response = response
        plan = SimulationPlan(
            corpus=tmp_path,
            corpus_name="c",
            synthetic=False,
            study=requested or study(),
            sites=(PlannedSite(name="site-1", speakers=(1,)), PlannedSite(name="site-2", speakers=(2,))),
            folds=((1,), (2,)),
            command="moretta simulate",
        )
        run = Run(RunContext(tmp_path / "run", plan), site_grid=site_grid)
        run.context.folder.mkdir(exist_ok=True)
        run.public |= first_code().to_arrays()
        return run

    return make


def likeness(one: Any, other: Any) -> float:
    """Of the spaces that two codes look at: mean squared cosine of their principal angles."""
    a, b = (np.linalg.qr(np.asarray(matrix, np.float64))[0] for matrix in (one, other))
    return float(np.square(np.linalg.svd(a.T @ b, compute_uv=False)).mean())


def rounds_sent(run: Run) -> list[int]:
    sent = [m for m in run.grid.grid.sent if m.metadata.message_type == wire.CODE]
    return sorted(int(m.content[wire.CONFIG]["server-round"]) for m in sent)


def test_the_code_comes_to_be_what_the_sites_train_and_public_speech_scales_it(run_of: Any) -> None:
    run = run_of(honest)
    before = SpeakerCode.from_arrays(run.public)
    do(run, CODE_STAGE)
    code = SpeakerCode.from_arrays(run.public)
    assert likeness(before.projection, TRUE.T) < 0.5
    assert likeness(code.projection, TRUE.T) > 0.95
    assert code.rounds == 3
    np.testing.assert_array_equal(code.spread, before.spread)
    assert not np.array_equal(code.codewords, before.codewords)
    places = public().places()
    reported = np.mean([np.cov((places[r] @ code.projection).T, ddof=0) for r in public().groups()], axis=0)
    np.testing.assert_allclose(reported, np.eye(5), atol=0.01)
    assert rounds_sent(run) == [1, 1, 2, 2, 3, 3]


def test_sites_weigh_by_how_many_they_trained_on(run_of: Any) -> None:
    def response(node: int, message: Any) -> RecordDict:
        arrays = wire.arrays_of(message.content)
        other = np.random.default_rng(6).normal(size=TRUE.shape).astype(np.float32)
        return responded({**arrays, CODE: TRUE if node == 1 else other}, units=390 if node == 1 else 100)

    run = run_of(response, study(voice={"code_rounds": 1}))
    do(run, CODE_STAGE)
    assert likeness(SpeakerCode.from_arrays(run.public).projection, TRUE.T) > 0.9


def test_a_site_weighs_at_most_four_times_the_middle_one_whatever_it_states(run_of: Any) -> None:
    """As found: nothing was released yet, so a site could state ten million clips and have the code to itself."""
    other = np.random.default_rng(6).normal(size=TRUE.shape).astype(np.float32)

    def code_of(units: float) -> Any:
        def response(node: int, message: Any) -> RecordDict:
            arrays = {**wire.arrays_of(message.content), CODE: TRUE if node == 1 else other}
            return responded(arrays, units=100 if node == 1 else units)

        run = run_of(response, study(voice={"code_rounds": 1}))
        run.public |= first_code().to_arrays()
        do(run, CODE_STAGE)
        assert run.code_units == {"site-1": 100, "site-2": units}  # which the release is held against
        return SpeakerCode.from_arrays(run.public).projection

    most = code_of(400)
    np.testing.assert_allclose(code_of(10_000_000), most, rtol=1e-5)
    assert likeness(code_of(200), TRUE.T) > likeness(most, TRUE.T) + 0.05


def test_sites_get_the_code_as_it_is_then_and_nothing_of_faces(run_of: Any) -> None:
    seen: list[dict[str, Any]] = []

    def response(node: int, message: Any) -> RecordDict:
        seen.append(wire.arrays_of(message.content))
        return honest(node, message)

    run = run_of(response)
    run.public["face/weights"] = np.zeros(3, np.float32)
    do(run, CODE_STAGE)
    assert all(set(arrays) == {*TRAINED, "public.spread", "public.center", "public.deviation"} for arrays in seen)
    assert not np.array_equal(seen[0][CODE], seen[-1][CODE])


@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_noise_that_exceeds_what_clips_contribute_leaves_the_public_code_and_says_so(
    run_of: Any, epsilon: float
) -> None:
    requested = study(voice={"code_epsilon": epsilon})
    step = training_step(requested.site_training)
    assert step is not None
    run = run_of(noise_alone(step.noise_multiplier), requested)
    before = SpeakerCode.from_arrays(run.public)
    do(run, CODE_STAGE)
    code = SpeakerCode.from_arrays(run.public)
    assert likeness(code.projection, before.projection) == pytest.approx(1.0, abs=1e-4)
    assert code.rounds == 3  # the budget is spent all the same
    assert any("the noise of 3 rounds exceeds" in warning for warning in warnings_of(run))


@pytest.mark.parametrize(
    ("signal", "by_length", "by_share"), [(0.0, False, False), (0.3, True, False), (2.0, True, True)]
)
def test_of_many_values_a_change_can_exceed_noise_and_be_little_else(
    signal: float, by_length: bool, by_share: bool
) -> None:
    """As found: an encoder of 25 thousand weights was taken that noise had wrecked. `signal` is in units of noise."""
    generator = np.random.default_rng(1)
    before, noise, moved = np.zeros(4000), generator.normal(size=4000), generator.normal(size=4000)
    after = noise * np.sqrt(4000 / np.square(noise).sum()) + moved * np.sqrt(signal)
    assert is_clear(before, after, noise=1.0) == by_length
    assert is_clear(before, after, noise=1.0, least_signal=0.5) == by_share


def test_what_is_clear_above_the_noise_is_taken(run_of: Any) -> None:
    run = run_of(honest, study(voice={"code_epsilon": 8.0}))
    do(run, CODE_STAGE)
    assert likeness(SpeakerCode.from_arrays(run.public).projection, TRUE.T) > 0.9
    assert not warnings_of(run)


@pytest.mark.parametrize(
    "bad",
    [
        np.full((5, 95), np.nan, np.float32),
        np.full((5, 95), 1e9, np.float32),
        np.zeros((4, 95), np.float32),
        "it ran out of memory",
        RecordDict({wire.CONFIG: wire.json_config(site="site-2", failure="PolicyError")}),
    ],
    ids=["not finite", "too large", "another shape", "lost", "refused"],
)
def test_a_site_that_sends_nothing_usable_is_named_once_and_the_other_goes_on(run_of: Any, bad: Any) -> None:
    def response(node: int, message: Any) -> Any:
        if node == 1:
            return honest(node, message)
        return responded({**wire.arrays_of(message.content), CODE: bad}) if isinstance(bad, np.ndarray) else bad

    run = run_of(response)
    do(run, CODE_STAGE)
    assert likeness(SpeakerCode.from_arrays(run.public).projection, TRUE.T) > 0.9
    assert len([w for w in warnings_of(run) if "had no part in training the code, from round 1 on" in w]) == 1
    assert run.context.progress.missed_as_text("site-2") == ("rounds 1-3 of federated code",)


@pytest.mark.parametrize("name", ["public.deviation", "public.center", CODE])
def test_no_site_makes_the_others_refuse_the_next_round(
    run_of: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every site checks what it gets: as found, one site's zeros in a deviation, or weights beyond what arrays of a
    round may have, ended the training of all."""
    monkeypatch.setattr(emotion_encoder, "_MOST", 1e4)  # below what the norm of an update allows, as of networks
    seen: list[dict[str, Any]] = []

    def response(node: int, message: Any) -> RecordDict:
        arrays = wire.arrays_of(message.content)
        seen.append(arrays)
        if node == 1:
            return honest(node, message)
        value = 3e4 if name == CODE else 0.0
        return responded({**arrays, name: np.full_like(arrays[name], value)})

    run = run_of(response)
    do(run, CODE_STAGE)
    assert len(seen) == 6
    for arrays in seen:
        EmotionEncoder.from_arrays(arrays, size=5)
        assert all((array == seen[0][each]).all() for each, array in arrays.items() if each.startswith("public."))
    assert run.context.progress.missed_as_text("site-2") == ("rounds 1-3 of federated code",)
    assert likeness(SpeakerCode.from_arrays(run.public).projection, TRUE.T) > 0.9


def test_too_few_sites_fail_the_run(run_of: Any) -> None:
    requested = study(stages={"train": {"min_sites": 2}})
    run = run_of(lambda node, message: honest(node, message) if node == 1 else "gone", requested)
    with pytest.raises(RunError, match="1 usable updates in round 1"):
        do(run, CODE_STAGE)


def test_only_a_study_with_it_has_the_stage(run_of: Any) -> None:
    requested = study(voice={"code_training": "public"})
    run = run_of(honest, requested)
    [found] = [one for one in SITE_STAGES if one.name == CODE_STAGE]
    assert not found.wanted(run)
    run_stages(run, [found, Stage("after", lambda run: None)])
    assert run.context.progress.done == ["after"]
    assert found.wanted(run_of(honest))


def test_emotion_labels_come_out_of_the_same_rounds(run_of: Callable[..., Run]) -> None:
    """All sites' layers together, with their places; where noise exceeds them, the public words stay."""
    codewords = {"anonymizer": "emotion-label-rr", "labels_from": "federated"}
    run = run_of(honest, study(voice=codewords))
    assert next(one for one in SITE_STAGES if one.name == CODE_STAGE).wanted(run)
    run.public |= EmotionLabeler.of_public(public()).to_arrays()
    before = EmotionLabeler.from_arrays(run.public)
    do(run, CODE_STAGE)
    after = EmotionLabeler.from_arrays(run.public)
    assert np.linalg.matrix_rank(after.weights) <= 5
    assert np.abs(after.weights - before.weights).max() > 0.1
    reached = np.linalg.lstsq(TRUE.T, after.weights, rcond=None)[0]
    assert np.linalg.norm(TRUE.T @ reached) > 0.95 * np.linalg.norm(after.weights)  # the sites' space
    np.testing.assert_array_equal(after.spread, before.spread)

    noisy = study(voice={**codewords, "code_epsilon": 1.0})
    step = training_step(noisy.site_training)
    assert step is not None
    noise_exceeds_update = run_of(noise_alone(step.noise_multiplier), noisy)
    noise_exceeds_update.public |= EmotionLabeler.of_public(public()).to_arrays()
    do(noise_exceeds_update, CODE_STAGE)
    np.testing.assert_array_equal(EmotionLabeler.from_arrays(noise_exceeds_update.public).weights, before.weights)
