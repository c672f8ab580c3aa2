"""The grid from a file and the command line, before anything is computed."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from moretta.deploy.cli.sweep import _grid as command_grid
from moretta.deploy.sweep.grid import Grid, GridFile, load_grid, make_grid, parse_axis, parse_setting
from moretta.shared.core.errors import StudyError
from moretta.shared.release.anonymizer import anonymizer_names
from moretta.shared.study.schema import parse_study

PAGES = Path(__file__).parents[3] / "docs" / "systems"


def grid(text: str) -> Grid:
    return make_grid(GridFile.model_validate(tomllib.loads(text)))


def test_axes_make_every_combination_line_by_line_and_the_first_runs_along_the_line() -> None:
    made = grid('[axes]\nprivacy.epsilon = [1, 8]\nprivacy.unit = ["clip", "speaker"]\n')
    assert [(c.curve, dict(c.settings)["privacy.epsilon"]) for c in made.cells] == [
        ("unit clip", 1), ("unit clip", 8), ("unit speaker", 1), ("unit speaker", 8),
    ]  # fmt: skip
    assert [(c.study.privacy.epsilon, c.study.privacy.unit) for c in made.cells] == [
        (1, "clip"), (8, "clip"), (1, "speaker"), (8, "speaker"),
    ]  # fmt: skip


def test_dotted_keys_mean_the_same_with_and_without_quotes() -> None:
    quoted = grid('[axes]\n"voice.options.codebook_size" = [16, 64]\n')
    assert quoted.cells == grid("[axes]\nvoice.options.codebook_size = [16, 64]\n").cells
    assert [cell.study.voice.options.codebook_size for cell in quoted.cells] == [16, 64]


@pytest.mark.parametrize("written", ["inf", '"inf"', "+inf"])
def test_an_infinite_epsilon_is_training_without_dp_sgd(written: str) -> None:
    made = grid(f"[axes]\nprivacy.epsilon = [4, {written}]\n")
    assert [cell.study.privacy.dp_sgd for cell in made.cells] == [True, False]
    assert dict(made.cells[1].settings) == {"privacy.epsilon": "inf"}


def test_a_curve_has_its_own_keys_and_every_seed() -> None:
    made = grid(
        'seeds = [3, 4]\n[base]\nsites = 2\n[[curve]]\nname = "a"\n'
        'set = { voice.anonymizer = "none", voice.form = "waveform" }\n'
        '[[curve]]\nname = "b"\naxes = { voice.options.preset = ["original", "bounded"] }\n'
    )
    assert [(c.curve, c.study.seed, c.study.voice.anonymizer) for c in made.cells] == [
        ("a", 3, "none"), ("a", 4, "none"),
        ("b", 3, "mfcc-quantizer"), ("b", 3, "mfcc-quantizer"), ("b", 4, "mfcc-quantizer"), ("b", 4, "mfcc-quantizer"),
    ]  # fmt: skip
    assert all(cell.study.sites == 2 for cell in made.cells)


def test_anonymizers_bring_their_own_form_and_options_in_either_direction() -> None:
    axes = '[axes]\nvoice.anonymizer = ["mfcc-quantizer", "clip-quantizer"]\n'
    there, back = grid(axes), grid(f'[base.voice]\nanonymizer = "clip-quantizer"\n{axes}')
    for made in (there, back):
        assert [(c.study.voice.anonymizer, c.study.voice.form) for c in made.cells] == [
            ("mfcc-quantizer", "mfcc"), ("clip-quantizer", "code"),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("[axes]\nprivacy.epsilom = [1]\n", "privacy.epsilom"),
        ("[axes]\nprivacy.epsilon = [-1]\n", "privacy.epsilon"),
        ("[axes]\nprivacy.epsilon = []\n", "a list of numbers"),
        ("[axes]\naudit.attackers = [[1]]\n", "a list of numbers"),
        ("[axes]\nseed.deep = [1]\n", "seed.deep"),
        ("[axes]\nseed = [1, 2]\n", "`seeds`"),
        ("[axes]\nsplit.test_fold = [0, 1]\n", "`folds`"),
        ("[axes]\nsites = [1]\n[[curve]]\n", "one of them"),
        ('study = "x.toml"\n[base]\nsites = 2\n', "one of them"),
    ],
)
def test_what_no_study_can_have_is_refused_and_named(text: str, reported: str) -> None:
    with pytest.raises(StudyError, match=reported.replace(".", r"\.").replace("[", r"\[")):
        grid(text)


def test_a_grid_file_of_unknown_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text("axis = 1\n", encoding="utf-8")
    with pytest.raises(StudyError, match="axis"):
        load_grid(tmp_path / "g.toml")
    with pytest.raises(StudyError, match="cannot be used"):
        load_grid(tmp_path / "absent.toml")


def test_paths_are_relative_to_the_grid_file(tmp_path: Path) -> None:
    (tmp_path / "speech").mkdir()
    (tmp_path / "g.toml").write_text('[base.voice]\npublic_speech = "speech"\n', encoding="utf-8")
    assert make_grid(load_grid(tmp_path / "g.toml")).cells[0].study.voice.options.public_speech == tmp_path / "speech"
    (tmp_path / "s.toml").write_text("sites = 3\n", encoding="utf-8")
    (tmp_path / "h.toml").write_text('study = "s.toml"\n', encoding="utf-8")
    assert make_grid(load_grid(tmp_path / "h.toml")).cells[0].study.sites == 3


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a.b=1,2", ("a.b", [1, 2])),
        ("a=x, y", ("a", ["x", "y"])),
        ("a=0.5,inf", ("a", [0.5, float("inf")])),
        ("a=true", ("a", [True])),
    ],
)
def test_axes_of_the_command_line_are_toml_or_text(text: str, read: tuple[str, Any]) -> None:
    assert parse_axis(text) == read


def test_a_setting_of_the_command_line_may_be_a_list() -> None:
    assert parse_setting('audit.attackers=["voice-svm"]') == ("audit.attackers", ["voice-svm"])
    with pytest.raises(StudyError, match="KEY=VALUE"):
        parse_setting("audit.attackers")


def test_the_grid_that_is_shipped_is_one() -> None:
    made = make_grid(load_grid(Path(str(resources.files("moretta.deploy.sweep") / "privacy-utility.toml"))))
    curves = {
        curve: [c for c in made.cells if c.curve == curve] for curve in dict.fromkeys(c.curve for c in made.cells)
    }
    assert [len(cells) for cells in curves.values()] == [5, 5, 2, 4, 4, 1]
    presets = {getattr(cell.study.voice.options, "preset", None) for cell in made.cells}
    assert presets == {"original", "bounded", "dp-clip", "dp-speaker", None}
    assert made.folds == "all"
    assert all(parse_study(cell.study.model_dump()) == cell.study for cell in made.cells)


@pytest.mark.parametrize(("name", "cells"), [("speakers-as-sites", 13), ("fedmultimodal", 2)])
def test_grids_of_training_alone_can_be_run_with_any_number_of_sites(name: str, cells: int) -> None:
    file = Path(str(resources.files("moretta.deploy.sweep") / f"{name}.toml"))
    made = make_grid(command_grid(file, study=None, axes=[], fixed=["sites=7"], seeds="", folds=None))
    assert len(made.cells) == cells and made.folds == "all"
    for cell in made.cells:
        assert (cell.study.sites, cell.study.audit.enabled, cell.study.voice.anonymizer) == (7, False, "none")
        by_server = cell.curve.startswith("noise of the server")
        open_training = name == "fedmultimodal" or dict(cell.settings).get("privacy.epsilon") == "inf"
        assert cell.study.privacy.dp_sgd is not (by_server or open_training)
        assert (cell.study.aggregation.dp == "central") is by_server


def test_the_grid_of_faces_has_every_published_system_of_faces() -> None:
    made = make_grid(load_grid(Path(str(resources.files("moretta.deploy.sweep") / "zoo-face.toml"))))
    systems = {cell.curve.partition(": ")[0] for cell in made.cells}
    assert {page.stem for page in PAGES.glob("*.md")} & set(anonymizer_names("face")) <= systems
    assert {"none", "constant", "autoencoder", "expression-track"} < systems
    for cell in made.cells:
        assert cell.study.face.anonymizer == cell.curve.partition(": ")[0] and not cell.study.voice.enabled


def test_a_label_says_every_setting_once() -> None:
    made = grid(
        '[[curve]]\nname = "a"\nset = { voice.anonymizer = "speaker-normalized" }\n'
        "axes = { voice.options.code_size = [3, 5], voice.options.code_noise = [0.5, 1.0] }\n"
    )
    assert made.cells[0].label == "a, code_noise 0.5: voice.options.code_size = 3"
    assert len({cell.label for cell in made.cells}) == 4


def test_an_infinite_epsilon_of_the_command_line_is_in_the_report_as_text() -> None:
    made = make_grid(GridFile(axes=dict([parse_axis("privacy.epsilon=2,inf")])))
    assert made.content["axes"] == {"privacy.epsilon": [2, "inf"]}


def test_paths_of_a_grid_stay_relative_to_its_file_where_the_command_line_changes_it(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text("folds = 'all'\n", encoding="utf-8")
    changed = command_grid(tmp_path / "grid.toml", study=None, axes=["seed=1"], fixed=[], seeds="2,3", folds="one")
    assert (changed.folder, changed.folds, changed.seeds) == (tmp_path.resolve(), "one", (2, 3))
