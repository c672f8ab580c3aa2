"""What a speaker code that sites train costs a clip and a speaker, by the study.

Every unit is in every step, so the noise depends on the study alone, and not on how many clips there are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.privacy.accounting import calibrated_noise, composed_epsilon
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.privacy.mechanism import Mechanism, Unbounded
from moretta.shared.study.voice import VoiceSection

_NO_NOISE = "the code was trained on the sites' clips without noise, which guarantees nothing"
_NOTES = {
    "speaker": "training of the code at the sites, {rounds} rounds, a speaker with all clips one example, beside the "
    "release; not covered: how many speakers there are, and who is held out of training",
    "clip": "training of the code at the sites, {rounds} rounds, clips told against public speech, each one example, "
    "beside the release; not covered: how many clips there are, and who is held out of training",
}


def is_federated(section: VoiceSection) -> bool:
    """Whether sites train the code."""
    return section.enabled and section.trains_code


def code_step(section: VoiceSection) -> SampledGaussian | None:
    """One round's step, for the unit whose gradient is cut; None where the study asks for no noise."""
    if not section.code_epsilon:
        return None
    noise = calibrated_noise(
        epsilon=section.code_epsilon, delta=section.budget_delta, rate=1.0, steps=section.code_rounds
    )
    return SampledGaussian(noise_multiplier=noise, rate=1.0, steps=1, unit=section.code_unit)


def code_losses(
    section: VoiceSection, most_clips: int, *, rounds: int | None = None
) -> dict[Literal["clip", "speaker"], Mechanism]:
    """Of a clip, and of the speaker who has most.

    Where speakers are the examples, a clip is told relative to the speaker's others, so without it the speaker's
    gradient does not vanish but moves, anywhere within its ball. Where clips are, told against public speech, a clip
    moves its own gradient alone, and a speaker is a group of clips.

    Args:
        section: the study's `[voice]`.
        most_clips: of a speaker.
        rounds: None means all.
    """
    step = code_step(section)
    if step is None:
        return {"clip": Unbounded(unit="clip", why=_NO_NOISE), "speaker": Unbounded(unit="speaker", why=_NO_NOISE)}
    steps = replace(step, steps=rounds or section.code_rounds)
    if section.code_unit == "speaker":
        return {"clip": replace(steps, moves=True, unit="clip"), "speaker": steps}
    return {"clip": steps, "speaker": steps.for_group(max(most_clips, 1))}


def code_statements(section: VoiceSection, sizes: dict[str, list[int]]) -> tuple[PrivacyStatement, ...]:
    """Rows of a statement, for a study whose code is federated; none for any other.

    Args:
        section: the study's `[voice]`.
        sizes: for each released speaker, an entry for each released clip.
    """
    if not is_federated(section) or not sizes:
        return ()
    noisy = section.code_epsilon > 0
    note = _NOTES[section.code_unit].format(rounds=section.code_rounds) if noisy else _NO_NOISE
    return tuple(
        PrivacyStatement(
            mechanism="DP-SGD for the federated code" if noisy else "training of the federated code",
            unit=unit,
            epsilon=composed_epsilon([loss], delta=section.budget_delta),
            delta=section.budget_delta if noisy else 0.0,
            nominal=section.code_epsilon if noisy and unit == section.code_unit else None,
            note=note,
        )
        for unit, loss in code_losses(section, max(map(len, sizes.values()))).items()
    )
