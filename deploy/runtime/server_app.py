"""The ServerApp together with the sites' anonymizers: the server recomputes what a site states of its voice release."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from moretta.client.anonymizers.anonymizer_registry import get_anonymizer
from moretta.server.app import app
from moretta.server.stages.statement_checks import recompute_statements_with
from moretta.shared.release import AnonymizerStatement, Release
from moretta.shared.study.schema import Study

__all__ = ["app", "recomputed_voice_statement"]


def recomputed_voice_statement(
    study: Study, public: Mapping[str, npt.NDArray[Any]], release: Release
) -> AnonymizerStatement:
    """The statement that the study's voice anonymizer makes of a release of these sizes."""
    anonymizer = get_anonymizer("voice", study.voice.anonymizer).from_study(study, dict(public))
    sizes: dict[str, list[int]] = defaultdict(list)
    for clip, array in release.arrays("voice"):
        sizes[clip.speaker].append(anonymizer.frames(array))
    return anonymizer.statement(dict(sizes), "system")


recompute_statements_with(recomputed_voice_statement)
