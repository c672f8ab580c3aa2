"""A choice with made-up figures, for the tests of its page."""

from __future__ import annotations

from typing import Any

from moretta.deploy.sweep.choice_page import render_choice
from moretta.deploy.sweep.choosing import CAUTION, Candidate, choose


def candidate(name: str, **figures: Any) -> Candidate:
    known = {"uar_chance": 1 / 6, "top1_chance": 0.083, "top1_by": "voice-svm (semi-informed)", "attackers": 9}
    return Candidate(**{"name": name, "modality": "voice", "section": {}, **known, **figures})


FIELD = (
    candidate("labels", uar=0.58, uar_low=0.5, uar_high=0.66, top1=0.1, top1_upper=0.16, eer=0.47, pooled=10),
    candidate("codes <b>", uar=0.5, uar_low=0.45, uar_high=0.55, top1=0.3, top1_upper=0.41, top1_pooled=0.8, pooled=10),
    candidate("constant", uar=0.17, top1=0.09, top1_upper=0.12),
    candidate("broken", excluded="its audit failed", top1_chance=None, uar_chance=None),
)


def page(cap: float = 0.2, **changes: Any) -> str:
    about: dict[str, Any] = {"corpus": "tones", "synthetic": True, "caution": CAUTION, "warnings": ("one",), "seed": 1}
    about |= {"command": "moretta choose --corpus tones --max-top1 0.2", "finished": "2026-11-30T00:00:00+00:00"}
    return render_choice(choose(FIELD, cap), **about | changes)
