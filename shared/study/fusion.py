"""`[fusion]` of the study file: how voice and face are put together, and whose clips that is learnt on."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import Field

from moretta.shared.study.sections import Section

ModelKind = Literal["voice", "face", "fusion"]
"""What a study may train: a model of one modality, or the gate that weighs both of them."""
FUSION_MODEL = "gate"


class FusionSection(Section):
    """`[fusion]`: the vote is always there; a learned fusion stands beside it where it is asked for."""

    kind: Literal["vote", "learned"] = "vote"
    """`learned` trains a third model, on the clips that `held_back` names, and costs what that says."""
    held_back: Annotated[float, Field(ge=0, le=0.8)] = 0.15
    """Share of the training clips that the voice and face models do not see and the fusion learns on. On clips that
    they were trained on both are surer than on any other. 0 trains all three on all clips, at the price of three."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the clips with both modalities of which, in each round, one is hidden."""


def is_held_back(section: FusionSection, seed: int, name: str) -> bool:
    """Whether a clip, or a speaker, is kept for the fusion to learn on.

    It hangs on its own pseudonym and on nothing else: with one clip more or less no other clip changes sides, so that
    what a clip loses is what one side loses, never both.

    Args:
        section: of the study.
        seed: of the study.
        name: the pseudonym of what DP-SGD protects, a clip or a speaker.
    """
    digest = hashlib.sha256(f"held back {seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < section.held_back
