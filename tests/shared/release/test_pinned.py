"""Public arrays that come with the package: for which studies, checked when they are read, and what a rebuild gives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moretta.deploy.synth.build_public import differing, studies
from moretta.shared.core.errors import StudyError
from moretta.shared.release import pinned
from moretta.shared.release.anonymizer import anonymizer_of, pinned_public, prepare_public, public_rules
from moretta.shared.study.public_arrays import check_public
from moretta.shared.study.schema import Study, load_study, parse_study

DEMO = Path(__file__).parents[3] / "deploy" / "studies" / "demo.toml"


def no_faces(**options: Any) -> Study:
    return parse_study({"voice": {"options": options}, "face": {"enabled": False}})


def test_every_study_of_the_builder_has_arrays_that_sites_take() -> None:
    for modality, study in studies():
        arrays = pinned_public(study, modality)
        assert arrays is not None, study
        check_public(arrays, public_rules(study))
        anonymizer_of(study, modality).from_study(study, arrays)


def test_the_demonstration_and_the_default_study_compute_nothing_public() -> None:
    for study in (parse_study({}), load_study(DEMO)):
        assert all(pinned_public(study, modality) is not None for modality in study.modalities)


def test_only_options_that_the_arrays_depend_on_decide() -> None:
    first = prepare_public(no_faces())
    for other in (no_faces(epsilon=0.1), no_faces().model_copy(update={"seed": 7})):
        same = prepare_public(other)
        assert same.keys() == first.keys() and all(np.array_equal(same[name], first[name]) for name in first)
    assert pinned_public(no_faces(codebook_size=17), "voice") is None
    assert pinned_public(no_faces(public_speech="speech"), "voice") is None


@pytest.mark.parametrize("damage", ["changed", "absent"])
def test_a_file_that_is_not_the_pinned_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    folder = tmp_path / "public"
    shutil.copytree(pinned.FOLDER, folder)
    monkeypatch.setattr(pinned, "FOLDER", folder)
    for path in folder.glob("mfcc-quantizer-*.safetensors"):
        if damage == "absent":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StudyError, match="not what Moretta came with"):
        prepare_public(no_faces())


def test_a_rebuild_gives_the_pinned_arrays() -> None:
    assert differing(("mfcc-quantizer", "none")) == []
