"""What an encoder that sites train together costs a clip and a speaker.

Every unit is in every step, so the noise depends on the study alone, and not on how many clips there are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.privacy.accounting import calibrated_noise, composed_epsilon
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.privacy.mechanism import Mechanism, Unbounded
from moretta.shared.study.options import SiteTrainingPlan

_NO_NOISE = "the code was trained on the sites' clips without noise, which guarantees nothing"
_NOTES = {
    "speaker": "training of the code at the sites, {rounds} rounds, a speaker with all clips one example, beside the "
    "release; not covered: how many speakers there are, and who is held out of training",
    "clip": "training of the code at the sites, {rounds} rounds, clips told against public speech, each one example, "
    "beside the release; not covered: how many clips there are, and who is held out of training",
}


def training_step(plan: SiteTrainingPlan) -> SampledGaussian | None:
    """One round's step, for the unit whose gradient is clipped; None where the study asks for no noise."""
    if not plan.epsilon:
        return None
    noise = calibrated_noise(epsilon=plan.epsilon, delta=plan.delta, rate=1.0, steps=plan.rounds)
    return SampledGaussian(noise_multiplier=noise, rate=1.0, steps=1, unit=plan.unit)


def training_losses(
    plan: SiteTrainingPlan, most_clips: int, *, rounds: int | None = None
) -> dict[Literal["clip", "speaker"], Mechanism]:
    """Losses of a clip, and of the speaker with most clips.

    Where speakers are the examples, a clip is normalized by the speaker's other clips. Without it the speaker's
    gradient does not vanish but moves, anywhere within its ball. Where clips are the examples, normalized by public
    speech, a clip moves its own gradient alone, and a speaker is a group of clips.

    Args:
        plan: of the study.
        most_clips: of a speaker.
        rounds: None means all.
    """
    step = training_step(plan)
    if step is None:
        return {"clip": Unbounded(unit="clip", why=_NO_NOISE), "speaker": Unbounded(unit="speaker", why=_NO_NOISE)}
    steps = replace(step, steps=rounds or plan.rounds)
    if plan.unit == "speaker":
        return {"clip": replace(steps, moves=True, unit="clip"), "speaker": steps}
    return {"clip": steps, "speaker": steps.for_group(max(most_clips, 1))}


def training_statements(plan: SiteTrainingPlan | None, sizes: dict[str, list[int]]) -> tuple[PrivacyStatement, ...]:
    """Rows of a release's statement: none where sites train nothing.

    Args:
        plan: of the study.
        sizes: for each released speaker, an entry for each released clip.
    """
    if plan is None or not sizes:
        return ()
    noisy = plan.epsilon > 0
    return tuple(
        PrivacyStatement(
            mechanism="DP-SGD for the federated code" if noisy else "training of the federated code",
            unit=unit,
            epsilon=composed_epsilon([loss], delta=plan.delta),
            delta=plan.delta if noisy else 0.0,
            nominal=plan.epsilon if noisy and unit == plan.unit else None,
            note=_NOTES[plan.unit].format(rounds=plan.rounds) if noisy else _NO_NOISE,
        )
        for unit, loss in training_losses(plan, max(map(len, sizes.values()))).items()
    )
