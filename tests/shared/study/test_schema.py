from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from flwr.app import RecordDict
from pydantic import BaseModel

from moretta.shared.core.errors import StudyError
from moretta.shared.core.terms import MODALITIES
from moretta.shared.messages import wire
from moretta.shared.release.anonymizer import anonymizer_names, get_anonymizer
from moretta.shared.study.schema import Study, load_study, parse_study

PAGE = Path(__file__).parents[3] / "docs" / "study.md"


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_is_a_study(tmp_path: Path) -> None:
    assert load_study(_written(tmp_path / "s.toml", "")) == Study() == load_study(None)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sitez = 3", "sitez"),
        ("[voice]\nepsilom = 0.8", "voice.epsilom"),
        ("[extra]\na = 1", "extra"),
    ],
)
def test_an_unknown_key_is_named_with_its_section(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(StudyError, match=re.escape(f"{named}: no such key")):
        load_study(_written(tmp_path / "s.toml", text))


@pytest.mark.parametrize(
    "content",
    [
        {"sites": 0},
        {"seed": -1},
        {"name": "../../etc"},
        {"labels": "guessed"},
        {"voice": {"options": {"epsilon": 0}}},
        {"voice": {"options": {"epsilon": float("inf")}}},
        {"voice": {"options": {"epsilon": float("nan")}}},
        {"voice": {"weight": 1.1}},
        {"voice": {"form": "raw"}},
        {"voice": {"options": {"codebook_size": 1}}},
        {"voice": {"enabled": False}, "face": {"enabled": False}},
        {"train": {"rounds": 0}},
        {"train": {"deadline_seconds": 0}},
        {"stages": {"on_lost_site": "panic"}},
        {"stages": {"train": {"min_sites": 0}}},
        {"stages": {"release": {"deadline": 5}}},
        {"privacy": {"delta": 0.5}},
        {"privacy": {"epsilon": -1}},
        {"split": {"folds": 1}},
        {"split": {"folds": 3, "test_fold": 3}},
        {"gate": {"max_top1": 2}},
    ],
)
def test_an_impossible_value_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="to fix it"):
        parse_study(content)


def test_all_problems_stand_in_one_message_with_what_was_found() -> None:
    with pytest.raises(StudyError) as caught:
        parse_study({"sites": 0, "voice": {"epsilon": -2, "colour": "red"}, "train": {"rounds": "many"}})
    for part in (
        "sites",
        "voice.options.epsilon",
        "(got -2)",
        "voice.colour",
        "train.rounds",
        "(got 'many')",
        "docs/study.md",
    ):
        assert part in caught.value.message


@pytest.mark.parametrize("data", [b"sites = ", b'name = "\xff"', b"[voice"])
def test_a_file_that_is_not_toml_in_utf8_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "s.toml"
    path.write_bytes(data)
    with pytest.raises(StudyError, match="TOML file in UTF-8"):
        load_study(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(StudyError, match="cannot be read"):
            load_study(path)


def test_paths_are_relative_to_the_study_file(tmp_path: Path) -> None:
    text = '[voice.options]\npublic_speech = "speech"\n[face.options]\nweights = "../face.safetensors"\n'
    study = load_study(_written(tmp_path / "s.toml", text))
    assert study.voice.options.public_speech == (tmp_path / "speech").resolve()
    assert study.face.options.weights == (tmp_path.parent / "face.safetensors").resolve()


def test_the_digest_does_not_depend_on_the_order_in_which_keys_are_written_or_carried() -> None:
    options = {"server_momentum": 0.9, "server_learning_rate": 0.5}
    sentences = {"DOG": "dogs are sitting", "CAT": "cats are standing"}
    study = Study().with_changes(
        train={"strategy": "FedAvgM", "strategy_options": options}, audit={"sentences": sentences}
    )
    content = RecordDict({wire.CONFIG: wire.study_config(study)})
    assert wire.study_of(content).digest() == study.digest()
    turned = {"strategy": "FedAvgM", "strategy_options": dict(reversed(options.items()))}
    assert study.with_changes(train=turned).digest() == study.digest()


def test_the_digest_changes_with_every_key_and_survives_a_round_trip() -> None:
    study = Study()
    assert parse_study(study.model_dump(mode="json")).digest() == study.digest()
    changed = [
        study.with_changes(seed=2),
        study.with_changes(voice__options__epsilon=0.9),
        study.with_changes(train__rounds=9),
    ]
    assert len({s.digest() for s in (study, *changed)}) == 4


def test_where_the_coordinator_computes_is_no_part_of_what_sites_get() -> None:
    study = Study().with_changes(run__device="cuda")
    assert study.run.device == "cuda"
    assert study.digest() == Study().digest()
    assert study.for_sites() == Study().for_sites()
    assert "run" not in study.for_sites()


def test_changes_are_checked_and_none_changes_nothing() -> None:
    study = Study()
    assert study.with_changes(sites=None, train__rounds=None) == study
    assert study.with_changes(train__rounds=3).train.rounds == 3
    assert study.train.rounds == 10
    with pytest.raises(StudyError, match="sites"):
        study.with_changes(sites=0)


def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    return {key: field.get_default(call_default_factory=True) for key, field in model.model_fields.items()}


def _schema() -> dict[str, dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = {"": {}}
    for key, value in _defaults(Study).items():
        if isinstance(value, BaseModel):
            sections[key] = _defaults(type(value))
        else:
            sections[""][key] = value
    for modality in MODALITIES:
        for name in anonymizer_names(modality):
            sections[f"{modality} {name}"] = _defaults(get_anonymizer(modality, name).Options)
    return sections


def _page() -> dict[str, dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = {}
    section = ""
    for block in re.split(r"\n##+ ", PAGE.read_text(encoding="utf-8"))[1:]:
        head = block.splitlines()[0]
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", block, flags=re.MULTILINE)
        values = {k: None if d == "none" else tomllib.loads(f"x = {d.strip('`')}")["x"] for k, d in rows}
        if head.startswith("Options of"):
            sections |= {f"{section} {name}": values for name in re.findall(r"`([\w-]+)`", head)}
        elif title := re.fullmatch(r"`\[(\w+)\]`", head):
            section = title[1]
            sections[section] = values
        elif head == "Top level":
            sections[""] = values
    return sections


def test_the_page_lists_every_key_with_its_default_and_no_other() -> None:
    plain = {section: {key: _plain(value) for key, value in keys.items()} for section, keys in _schema().items()}
    assert _page() == plain


def _plain(value: Any) -> Any:
    """A default as TOML would give it back."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_none=True)
    return list(value) if isinstance(value, tuple) else value


def test_a_stage_has_the_limits_of_training_unless_it_has_its_own() -> None:
    study = parse_study({"train": {"min_sites": 2, "deadline_seconds": 60.0}, "stages": {"release": {"min_sites": 3}}})
    assert [study.min_sites(stage) for stage in ("release", "train", "evaluate")] == [3, 2, 2]
    study = study.with_changes(stages__evaluate={"deadline_seconds": 5.0})
    assert [study.deadline_seconds(stage) for stage in ("release", "train", "evaluate")] == [60.0, 60.0, 5.0]


def test_the_example_on_the_page_is_a_study() -> None:
    example = re.search(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert example is not None
    assert parse_study(tomllib.loads(example[1])).gate.max_top1 == 0.2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"train": {"strategy": "Krum"}, "aggregation": {"dp": "central"}}, "Krum compares single updates"),
        ({"train": {"strategy": "FedMedian"}, "aggregation": {"dp": "distributed"}}, "FedMedian compares single"),
        ({"aggregation": {"dp": "distributed", "min_sites": 3, "curious_sites": 2}}, "at least two must be left"),
        ({"aggregation": {"dp": "central", "min_sites": 1}}, "greater than or equal to 2"),
        ({"audit": {"updates": False}, "aggregation": {"secure": True, "dp": "central"}}, "would have to clip"),
        ({"audit": {"updates": False}, "aggregation": {"secure": True, "min_sites": 2}}, "let it be at least 3"),
        ({"aggregation": {"secure": True}}, r"audit.updates attacks; set updates = false in \[audit\]"),
        (
            {"train": {"fraction_train": 0.5}, "audit": {"updates": False}, "aggregation": {"secure": True}},
            "train.fraction_train below 1",
        ),
        (
            {"train": {"strategy": "Bulyan"}, "audit": {"updates": False}, "aggregation": {"secure": True}},
            "Bulyan compares single updates",
        ),
        (
            {
                "stages": {"on_lost_site": "retry"},
                "audit": {"updates": False},
                "aggregation": {"secure": True},
            },
            "would wait for it in each of the four steps",
        ),
        (
            {"aggregation": {"dp": "central", "clipping_norm": 0}},
            "clipping_norm: Input should be greater than or equal to",
        ),
    ],
)
def test_an_aggregation_that_cannot_be_had_is_refused_with_the_reason(content: dict[str, Any], why: str) -> None:
    with pytest.raises(StudyError, match=why):
        parse_study(content)


@pytest.mark.parametrize("audit", [{"updates": False}, {"inference": False}, {"enabled": False}])
@pytest.mark.parametrize("dp", ["none", "distributed"])
def test_secure_aggregation_can_be_had_where_no_single_update_is_requested(dp: str, audit: dict[str, Any]) -> None:
    study = parse_study({"audit": audit, "aggregation": {"secure": True, "dp": dp}})
    assert study.aggregation.bounds_sites
    assert study.min_sites("train") == 3


def test_the_floor_of_site_level_noise_is_that_of_training_and_of_no_other_stage() -> None:
    study = parse_study({"train": {"min_sites": 2}, "aggregation": {"dp": "central", "min_sites": 5}})
    assert (study.min_sites("train"), study.min_sites("release"), study.min_sites("evaluate")) == (5, 2, 2)
    assert study.with_changes(aggregation__dp="none").min_sites("train") == 2
    assert study.with_changes(train__min_sites=7).min_sites("train") == 7
