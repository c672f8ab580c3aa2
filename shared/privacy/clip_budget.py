"""How the budget that a study gives a clip, or a speaker, is spread over what is released of it."""

from __future__ import annotations

import math

from moretta.shared.privacy.gaussian import Gaussian, calibrated_sigma
from moretta.shared.privacy.randomized_response import RandomizedResponse, most_informative_choices
from moretta.shared.study.voice import VoiceSection


def voice_response(section: VoiceSection) -> RandomizedResponse:
    """The randomized response of one clip: the budget over the tokens of a clip, and over a speaker's released clips
    where the budget is a speaker's. Among as many words as an answer tells most with, `codebook_size` at most."""
    tokens = section.segments * (section.clip_limit or 1)
    epsilon = section.budget_epsilon / tokens
    choices = most_informative_choices(epsilon, section.codebook_size)
    return RandomizedResponse(choices=choices, token_epsilon=epsilon, tokens=section.segments)


def voice_gaussian(section: VoiceSection, *, radius: float) -> Gaussian:
    """The Gaussian of one clip, whose statistics lie in a ball: any two clips are its diameter apart at most, and any
    two speakers with n released clips root n as far."""
    reach = 2 * radius * math.sqrt(section.clip_limit or 1)
    sigma = calibrated_sigma(epsilon=section.budget_epsilon, delta=section.budget_delta, sensitivity=reach)
    return Gaussian(sigma=sigma, distance=2 * radius)
