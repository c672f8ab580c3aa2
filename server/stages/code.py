"""Stage federated code: what voices are told in relative to their speaker, from where public speech leaves it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from moretta.server.aggregation.guarded import WEIGHT, GuardedStrategy, RoundOutcome
from moretta.server.aggregation.strategies import make_strategy
from moretta.server.stages.run_context import Run
from moretta.shared.features.emotion_labeler import EmotionLabeler
from moretta.shared.features.federated_encoder import (
    BIAS,
    CLIPPING_NORM,
    CODE,
    HEAD,
    LEARNING_RATE,
    Arrays,
    first_arrays,
    is_clear,
)
from moretta.shared.features.speaker_code import PublicRows, SpeakerCode, train_speaker_code
from moretta.shared.messages import wire
from moretta.shared.models.public_arrays import initial_encoder_arrays, measured_speakers
from moretta.shared.privacy.code_budget import code_step, is_federated
from moretta.shared.study.voice import EMOTION_LABEL_RR

STAGE = "federated code"


def code_wanted(run: Run) -> bool:
    """Whether the study has such a code."""
    return is_federated(run.study.voice)


def federate_code(run: Run, rates: dict[str, float]) -> None:
    """Make all rounds, and a code of the last one: scaled by public speech, with words for public speech.

    Everything after the sites' noise is made of nothing else, so it costs nothing more. Where the noise exceeds what
    the sites' clips say, the public code stays as it is. A server that died over it asks all rounds again, and the
    sites answer as before.

    Raises:
        RunError: fewer sites than the study asks for have answered.
    """
    del rates
    study, rows = run.study, measured_speakers(run.study)
    public = _public_code(run, rows)
    first, noise = first_arrays(rows, public), _Noise()
    strategy = GuardedStrategy(
        inner=make_strategy("FedAvg", {}),
        site_grid=run.site_grid,
        sites=sorted(run.site_grid.sites),
        call=wire.CODE,
        study=study,
        min_sites=study.min_sites("train"),
        on_round=lambda outcome: _record(run, noise, outcome),
        deadline_seconds=study.deadline_seconds("train"),
        max_norm=study.train.max_update_norm,
    )
    weights = first
    for number in range(1, study.voice.code_rounds + 1):
        weights = strategy.round(number, weights)
    step = code_step(study.voice)
    deviation = 0.0 if step is None else step.noise_multiplier * noise.deviation
    clear = is_clear(first[CODE], weights[CODE], noise=deviation)
    if not clear:
        run.warn(
            f"the noise of {study.voice.code_rounds} rounds exceeds what the sites' clips taught the code: it stays "
            "what public speech has made it, and the budget is spent"
        )
    if study.voice.anonymizer == EMOTION_LABEL_RR:
        run.public |= _labeler(weights, rows).to_arrays() if clear else {}
    else:
        encoder = weights[CODE].T.astype(np.float64) if clear else public.projection
        run.public |= initial_encoder_arrays(study, rows, encoder)


def _public_code(run: Run, rows: PublicRows) -> SpeakerCode:
    """What training starts from: what was sent already, where releases will be told in a code."""
    if run.study.voice.anonymizer == EMOTION_LABEL_RR:
        return train_speaker_code(rows, size=run.study.voice.code_size, codebook_size=2, seed=run.study.seed)
    return SpeakerCode.from_arrays(run.public)


def _labeler(weights: Arrays, rows: PublicRows) -> EmotionLabeler:
    """What the trained layers say together of places, without the code between them."""
    return EmotionLabeler(rows.spread(), np.ascontiguousarray((weights[HEAD] @ weights[CODE]).T), weights[BIAS])


@dataclass
class _Noise:
    """What the sites' noise adds up to in each value of the code, for a noise multiplier of 1; and who had no part."""

    variance: float = 0.0
    reported: set[tuple[str, str]] = field(default_factory=set)

    def add(self, units: list[float]) -> None:
        """One round's: every site adds noise of one clipping norm to the sum over all units."""
        self.variance += len(units) * (LEARNING_RATE * CLIPPING_NORM / sum(units)) ** 2

    @property
    def deviation(self) -> float:
        """Of all rounds."""
        return float(np.sqrt(self.variance))


def _record(run: Run, noise: _Noise, outcome: RoundOutcome) -> None:
    noise.add([metrics[WEIGHT] for metrics in outcome.used.values()])
    for site, metrics in outcome.used.items():
        run.sites[site].code_weight = max(run.sites[site].code_weight, int(metrics[WEIGHT]))
    for site, how in outcome.outlying.items():
        far = f"{site}'s updates of the code lie far outside those of the others"
        if not any(warning.startswith(far) for warning in run.warnings):
            run.warn(f"{far}, first in round {outcome.round}: one {how}")
    for failures, lost in ((outcome.refused, False), (outcome.lost, True)):
        for site, why in failures.items():
            run.miss(site, STAGE, why, round_number=outcome.round, lost=lost)
            if (site, why) not in noise.reported:
                noise.reported.add((site, why))
                run.warn(f"{site} had no part in training the code, from round {outcome.round} on: {why}")
    run.notify(stage=STAGE, state="step", done=outcome.round, total=run.study.voice.code_rounds)
