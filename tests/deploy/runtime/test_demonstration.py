"""Both studies of the demonstration differ in nothing but their anonymizers."""

from __future__ import annotations

from moretta.deploy.runtime.demonstration import PAIRS
from moretta.deploy.runtime.planning import check_names


def test_the_studies_differ_in_their_anonymizers_alone() -> None:
    first, second = (pair.study() for pair in PAIRS)
    check_names(first)
    check_names(second)
    assert [s.section(m).anonymizer for s in (first, second) for m in ("voice", "face")] == [
        *("mfcc-quantizer", "autoencoder"),
        *("speaker-normalized", "expression-track"),
    ]
    ours = {"anonymizer", "options", "form"}
    contents = [study.model_dump(mode="json") for study in (first, second)]
    for content in contents:
        for modality in ("voice", "face"):
            content[modality] = {key: value for key, value in content[modality].items() if key not in ours}
    assert contents[0] == contents[1]
