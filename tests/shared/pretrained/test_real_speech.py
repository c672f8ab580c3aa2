"""The figures that the pretrained speaker encoders must reach on real speech. Runs where MORETTA_REAL_SPEECH names it.

The folder holds RAVDESS in CREMA-D layout: 528 short emotional clips of 12 speakers. Protocol: all pairs of clips.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from moretta.shared.audit.metrics.scores import Trials
from moretta.shared.audit.metrics.verification import eer
from moretta.shared.data.media import read_audio
from moretta.shared.data.reader import read_corpus
from moretta.shared.pretrained.encoder import PretrainedEncoder
from moretta.shared.pretrained.speaker_encoders import CamPlusPlusEncoder, Ge2eEncoder


@pytest.mark.parametrize(("cls", "at_most"), [(CamPlusPlusEncoder, 0.16), (Ge2eEncoder, 0.22)])
@pytest.mark.user_cache
def test_the_encoders_break_unprotected_speech(cls: type[PretrainedEncoder], at_most: float) -> None:
    folder = os.environ.get("MORETTA_REAL_SPEECH")
    if folder is None:
        pytest.skip("MORETTA_REAL_SPEECH names no folder of real speech")
    if (reason := cls.missing()) is not None:
        pytest.skip(reason)
    torch.set_num_threads(1)
    clips = [clip for clip in read_corpus(Path(folder)).clips if clip.audio is not None]
    found = cls.load().embed_many([read_audio(clip.audio) for clip in clips if clip.audio is not None])
    speakers = np.array([clip.speaker for clip in clips])
    i, j = np.triu_indices(len(clips), 1)
    scores = (found @ found.T)[i, j]
    assert eer(Trials(scores, speakers[i], speakers[j])) <= at_most
