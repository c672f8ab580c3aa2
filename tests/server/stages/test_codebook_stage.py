from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from moretta.server.run import Run, SiteRecord, Stage, run_stages
from moretta.server.stages import SITE_STAGES
from moretta.server.stages.codebook import federate_codebook, wanted
from moretta.shared import wire
from moretta.shared.errors import RunError
from moretta.shared.plan import PlannedSite, SimulationPlan
from moretta.shared.privacy.codebook_budget import lloyd_noise
from moretta.shared.privacy.lloyd_sums import clip_sums, speaker_sums
from moretta.shared.study import Study, parse_study

K, D = 8, 3
TRUE = np.random.default_rng(5).normal(size=(K, D)).astype(np.float32)
"""Where the sites' frames lie."""


def study(**changes: Any) -> Study:
    voice = {"codebook": "federated", "codebook_epsilon": 1e5, "codebook_iterations": 4, "codebook_size": K}
    return parse_study({"face": {"enabled": False}, "voice": voice, **changes})


def honest(node: int, message: Any) -> RecordDict:
    """Twenty speakers who say frames near the true words, with next to no noise."""
    arrays = wire.arrays_of(message.content)
    words, radius = arrays["voice/codebook"], float(arrays["voice/codebook-radius"][0])
    generator = np.random.default_rng(node)
    people = []
    for _ in range(20):
        said = np.repeat(TRUE, 20, axis=0) + 0.01 * generator.normal(size=(20 * K, D)).astype(np.float32)
        people.append(speaker_sums(clip_sums(said, words, radius)[None]))
    return answered(np.sum(people, axis=0))


def answered(sums: Any) -> RecordDict:
    return RecordDict(
        {wire.ARRAYS: wire.arrays_to_record({"sums": np.asarray(sums, np.float32)}), wire.CONFIG: wire.json_config()}
    )


@pytest.fixture
def run_of(tmp_path: Path, fake_exchange: Any, hello: Any, greeted: Any) -> Callable[..., Run]:
    def make(answer: Callable[[int, Any], Any], asked: Study | None = None) -> Run:
        exchange = greeted(fake_exchange(lambda node, message: hello(node), nodes=2), 2)
        exchange.grid.answer = answer
        plan = SimulationPlan(
            corpus=tmp_path,
            corpus_name="c",
            synthetic=False,
            study=asked or study(),
            sites=(PlannedSite(name="site-1", speakers=(1,)), PlannedSite(name="site-2", speakers=(2,))),
            folds=((1,), (2,)),
            command="moretta simulate",
        )
        run = Run(folder=tmp_path / "run", plan=plan, connection=exchange)
        run.folder.mkdir(exist_ok=True)
        run.sites |= {name: SiteRecord() for name in exchange.sites}
        run.public["voice/codebook"] = TRUE + 0.2 * np.random.default_rng(6).normal(size=(K, D)).astype(np.float32)
        return run

    return make


def far(words: Any) -> float:
    """Mean distance of the true words to the nearest of these."""
    return float(np.linalg.norm(TRUE[:, None] - words[None], axis=2).min(axis=1).mean())


def test_words_come_nearer_to_what_the_sites_say_with_every_iteration(run_of: Any) -> None:
    run = run_of(honest)
    before = far(run.public["voice/codebook"])
    federate_codebook(run, {})
    assert far(run.public["voice/codebook"]) < 0.3 * before
    sent = [
        wire.from_config(m.content, "iteration")
        for m in run.exchange.grid.sent
        if m.metadata.message_type == wire.CODEBOOK
    ]
    assert sorted(sent) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_sites_are_asked_with_the_words_as_they_are_then_and_nothing_of_faces(run_of: Any) -> None:
    seen: list[dict[str, Any]] = []

    def answer(node: int, message: Any) -> RecordDict:
        seen.append(wire.arrays_of(message.content))
        return honest(node, message)

    run = run_of(answer)
    run.public["face/weights"] = np.zeros(3, np.float32)
    federate_codebook(run, {})
    assert all(set(arrays) == {"voice/codebook", "voice/codebook-radius"} for arrays in seen)
    assert not np.array_equal(seen[0]["voice/codebook"], seen[-1]["voice/codebook"])
    assert len({arrays["voice/codebook-radius"].tobytes() for arrays in seen}) == 1


@pytest.mark.parametrize(
    "bad",
    [
        np.full((K, D + 1), np.nan),
        np.full((K, D + 1), 1e9),
        np.zeros((K, D)),
        "it ran out of memory",
        RecordDict({wire.CONFIG: wire.json_config(site="site-2", failure="PolicyError")}),
        RecordDict({wire.CONFIG: wire.json_config(site="site-2")}),
    ],
    ids=["not finite", "too large", "another shape", "lost", "refused", "nothing"],
)
def test_a_site_that_sends_nothing_usable_is_named_and_the_others_go_on(run_of: Any, bad: Any) -> None:
    def answer(node: int, message: Any) -> Any:
        return honest(node, message) if node == 1 else answered(bad) if isinstance(bad, np.ndarray) else bad

    run = run_of(answer)
    before = far(run.public["voice/codebook"])
    federate_codebook(run, {})
    assert far(run.public["voice/codebook"]) < before
    assert any("had no part in iteration 1" in warning for warning in run.warnings)
    assert sum(bool(record.missed) for record in run.sites.values()) == 1


def test_too_few_sites_fail_the_run(run_of: Any) -> None:
    asked = study(stages={"codebook": {"min_sites": 2}})
    run = run_of(lambda node, message: honest(node, message) if node == 1 else "gone", asked)
    with pytest.raises(RunError, match="1 of 2 sites finished the stage 'codebook'"):
        federate_codebook(run, {})


def test_noise_that_drowns_the_sums_leaves_the_public_words_as_they_are(run_of: Any) -> None:
    noise = np.random.default_rng(1)
    voice = {"codebook": "federated", "codebook_epsilon": 0.5, "codebook_size": K}
    asked = study(voice=voice)
    std = lloyd_noise(asked.voice)
    run = run_of(lambda node, message: answered(std * noise.normal(size=(K, D + 1))), asked)
    before = run.public["voice/codebook"].copy()
    federate_codebook(run, {})
    assert np.linalg.norm(run.public["voice/codebook"] - before, axis=1).mean() < 0.1


def test_only_a_study_that_asks_for_it_has_the_stage(run_of: Any) -> None:
    public = study(voice={"codebook": "public", "codebook_size": K})
    run = run_of(honest, public)
    [stage] = [stage for stage in SITE_STAGES if stage.work is federate_codebook]
    assert not wanted(run)
    run_stages(run, [stage, Stage("after", lambda run, rates: None)])
    assert run.done == ["after"]
    assert [row.name for row in run.stages] == ["after"]
    assert wanted(run_of(honest))
