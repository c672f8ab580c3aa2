"""The model of a study is exported with its card, read back whole or not at all, and decides as the study did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moretta
from moretta.client.settings import simulated_site
from moretta.deploy.cli.main import run as command_line
from moretta.deploy.model.delivered_model import DeliveredModel, load_model, write_model
from moretta.deploy.model.export_model import calibrations, export_model, held_out_outputs, worst_rows
from moretta.deploy.model.model_card import as_markdown, content_digest
from moretta.deploy.model.predict import predict
from moretta.server.stages.run import Run
from moretta.server.stages.state import save_state
from moretta.server.study import CENTRAL_STAGES, SITE_STAGES, run_stages
from moretta.shared.audit.report.report_file import load_report
from moretta.shared.audit.report.report_schema import PrivacyRow
from moretta.shared.core.errors import CorpusError, ExitCode, ReleaseError, RunError, StudyError
from moretta.shared.data.reader import read_corpus
from moretta.shared.release import open_release
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.run_plan import DeploymentPlan, EnrolledSite
from moretta.shared.study.schema import parse_study
from tests.two_modalities import SILENT, UNSEEN, corpus_of_two_modalities, started

STUDY = parse_study(
    {
        "sites": 2,
        "voice": {"options": {"codebook_size": 16, "epsilon": 2.0}},
        "face": {"anonymizer": "none"},
        "train": {"rounds": 1},
        "split": {"folds": 2},
        "fusion": {"kind": "learned", "held_back": 0.4},
        "audit": {"enabled": False},
    }
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("delivered")
    run = started(corpus_of_two_modalities(folder / "corpus"), STUDY, folder / "run")
    run_stages(run, SITE_STAGES)
    save_state(run)
    run_stages(run, CENTRAL_STAGES[-1:])
    return run


@pytest.fixture(scope="module")
def model(finished: Run) -> Path:
    out = finished.context.folder.parent / "model"
    export_model(finished.context.folder, out)
    return out


def _media(run: Run, clip: str) -> list[Path]:
    return sorted(path for path in (run.context.folder.parent / "corpus").rglob(f"{clip}.*"))


def test_predictions_of_all_releases_are_the_studys_own_evaluation(finished: Run, model: Path) -> None:
    delivered, held_out = load_model(model), finished.releases.held_out(finished.context.plan)
    classes, counted = STUDY.classes, dict[str, Any]()
    for site, release in finished.releases.kept.items():
        people = {clip.clip: clip for clip in release.clips}
        for row in predict(delivered, [finished.context.folder / "server" / "releases" / site]).rows:
            clip = people[row.clip]
            if clip.speaker in held_out:
                table = counted.setdefault(row.output, np.zeros((6, 6), int))
                table[classes.index(clip.emotion), classes.index(row.label)] += 1
    emotion = load_report(finished.context.folder).emotion.by_modality()
    assert {output: table.tolist() for output, table in counted.items()} == {
        output: [list(row) for row in table.confusion] for output, table in emotion.items() if table is not None
    }
    assert counted.keys() == {"voice", "face", "fused", "learned"}


def test_a_recording_is_anonymized_as_at_its_site_and_predicted_as_its_release_was(finished: Run, model: Path) -> None:
    delivered, site = load_model(model), simulated_site(finished.context.folder, 0)
    releases = finished.context.folder / "server" / "releases"
    released = {(row.clip, row.output): row for row in predict(delivered, [releases / site.name]).rows}
    corpus = read_corpus(finished.context.plan.originals().corpus)  # type: ignore[union-attr]
    clips = [clip for clip in corpus.of(site.speakers) if clip.name not in (SILENT, UNSEEN)][:5]
    files = [path for clip in clips for path in clip.files]
    found = predict(delivered, files, settings=site)
    assert len(found.rows) == 5 * 4 and not found.problems
    for row in found.rows:
        same = released[site.names(STUDY).released(site.pseudonyms().clip(row.clip)), row.output]
        assert row.label == same.label
        assert row.probabilities == pytest.approx(same.probabilities, abs=1e-5)


def test_the_card_has_the_reports_figures_and_what_the_model_expects(finished: Run, model: Path) -> None:
    report, card = load_report(finished.context.folder), load_model(model).card
    table = report.emotion.learned
    assert table is not None
    assert (card.emotion["learned"].uar, card.emotion["learned"].people) == (table.uar, table.speakers)
    expected = [(e.modality, e.anonymizer, e.form, e.options.get("epsilon")) for e in card.expects]
    assert expected == [("voice", "mfcc-quantizer", "mfcc", 2.0), ("face", "none", "frames", None)]
    spent = max(row.epsilon or 0 for row in report.privacy if row.mechanism == "dp-sgd" and row.unit == "clip")
    assert [r.epsilon for r in card.privacy if (r.mechanism, r.unit) == ("dp-sgd", "clip")] == [spent]
    text = (model / "MODEL_CARD.md").read_text(encoding="utf-8")
    for part in (card.digest, "with DP-SGD", "mfcc-quantizer", f"{100 * table.uar:.1f} %", *card.limits):
        assert part in text
    assert "not attacked" in text and "AI Act" in text


def test_a_run_over_real_sites_is_exported_alike(finished: Run, model: Path, tmp_path: Path) -> None:
    """Its plan names no speaker: who is held out is what the sites announced."""
    copy, card = shutil.copytree(finished.context.folder, tmp_path / "run"), load_model(model).card
    sites = tuple(EnrolledSite(name=name, node=number) for number, name in enumerate(finished.releases.kept))
    plan = DeploymentPlan(
        corpus_name="c", synthetic=False, study=STUDY, command="c", sites=sites, server_home=tmp_path / "server"
    )
    plan.save(copy)
    found = export_model(copy, tmp_path / "model")
    assert (found.emotion, found.calibration, found.arrays) == (card.emotion, card.calibration, card.arrays)


def test_an_epsilon_without_a_bound_is_the_largest() -> None:
    rows = [PrivacyRow(site=s, mechanism="m", unit="clip", epsilon=e) for s, e in (("a", 2.0), ("b", None), ("c", 9.0))]
    (worst,) = worst_rows(tuple(rows))
    assert worst.epsilon is None and worst.site not in "abc"


def test_probabilities_are_calibrated_only_on_people_whom_no_model_and_no_temperature_has_seen(
    finished: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = load_model(model).card
    assert {c.temperature for c in card.calibration.values()} == {None}
    assert all(c.people == 2 and "fewer than 3 people" in c.note for c in card.calibration.values())
    monkeypatch.setattr("moretta.deploy.model.export_model.FEWEST_PEOPLE", 2)
    outputs, truth = held_out_outputs(finished, finished.models)
    trained_on = {site: finished.releases.kept[site].clips for site in finished.releases.kept}
    seen = {c.clip for clips in trained_on.values() for c in clips} - set(truth)
    assert seen and not seen & set(outputs["voice"])
    for output, found in calibrations(finished, finished.models).items():
        assert found.clips == len(outputs[output])
        assert (found.temperature is None) == bool(found.note)


def test_a_model_that_was_changed_is_not_used(finished: Run, model: Path, tmp_path: Path) -> None:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    def better(path: Path) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["emotion"]["voice"]["uar"] = 0.99
        path.write_text(json.dumps(content), encoding="utf-8")

    def not_a_number(path: Path) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["study"]["sites"] = float("nan")
        path.write_text(json.dumps(content), encoding="utf-8")

    cases: list[tuple[str, Callable[[Path], None], str]] = [
        ("model.safetensors", flip, "has other arrays"),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:100]), "cannot be read"),
        ("model.json", better, "has the digest"),
        ("model.json", lambda path: path.write_text("{", encoding="utf-8"), "not valid JSON"),
        ("model.json", not_a_number, "not valid JSON"),
        ("model.json", Path.unlink, "no model in"),
    ]
    for number, (name, change, why) in enumerate(cases):
        copy = shutil.copytree(model, tmp_path / str(number))
        change(copy / name)
        with pytest.raises(ReleaseError, match=why):
            load_model(copy)


def test_a_model_whose_card_has_fewer_keys_than_todays_is_read(model: Path, tmp_path: Path) -> None:
    """As an earlier version wrote it: the digest is of what stands in the file."""
    copy = shutil.copytree(model, tmp_path / "model")
    content = json.loads((copy / "model.json").read_text(encoding="utf-8"))
    for calibration in content["calibration"].values():
        del calibration["ece_calibrated"]
    content["digest"] = content_digest(content)
    (copy / "model.json").write_text(json.dumps(content), encoding="utf-8")
    assert load_model(copy).card.digest == content["digest"] != load_model(model).card.digest


def _sealed(model: Path, out: Path, **changes: Any) -> Path:
    delivered = load_model(model)
    arrays = {**{f"public/{n}": a for n, a in delivered.public.items()}}
    arrays |= {f"model/{kind}/{n}": a for kind, weights in delivered.models.items() for n, a in weights.items()}
    write_model(out, delivered.card.model_copy(update=changes).sealed(), arrays)
    return out


def test_an_anonymizer_that_is_not_installed_is_named(model: Path, tmp_path: Path) -> None:
    first, second = load_model(model).card.expects
    unknown = _sealed(model, tmp_path / "a", expects=(first.model_copy(update={"anonymizer": "veil"}), second))
    with pytest.raises(StudyError, match="voice anonymizer 'veil', which is not installed here"):
        load_model(unknown)
    other = _sealed(model, tmp_path / "b", expects=(first.model_copy(update={"version": "99"}), second))
    with pytest.raises(StudyError, match="version 99 of the voice anonymizer 'mfcc-quantizer', and here is 1"):
        load_model(other)


def test_classes_models_and_forms_are_those_of_the_study_inside(model: Path, tmp_path: Path) -> None:
    card = load_model(model).card
    voice, face = card.expects
    for number, (changes, why) in enumerate(
        (
            ({"classes": card.classes[:2]}, "classes ANG, DIS are not those"),
            ({"classes": card.classes[::-1]}, "classes SAD, .* are not those"),
            ({"models": card.models[:1]}, "models voice are not those"),
            ({"models": (*card.models, "voice")}, "models .* are not those"),
            ({"expects": ()}, "does not expect one form"),
            ({"expects": (face, voice)}, "does not expect one form"),
            ({"expects": (voice.model_copy(update={"model": "cnn"}), face)}, "is not what its study releases"),
            ({"expects": (voice.model_copy(update={"options": {"epsilon": 8.0}}), face)}, "is not what its study"),
        )
    ):
        with pytest.raises(ReleaseError, match=f"damaged or was changed: .*{why}"):
            load_model(_sealed(model, tmp_path / str(number), **changes))


def test_a_temperature_that_no_fit_gives_is_refused(model: Path, tmp_path: Path) -> None:
    calibration = load_model(model).card.calibration["voice"]
    for number, temperature in enumerate((1e-300, 0.04, 21.0, 1e300)):
        changed = {"voice": calibration.model_copy(update={"temperature": temperature})}
        with pytest.raises(ReleaseError, match=r"calibration\.voice\.temperature"):
            load_model(_sealed(model, tmp_path / str(number), calibration=changed))


def test_the_card_shows_text_from_elsewhere_as_text(model: Path) -> None:
    card = load_model(model).card
    hostile = "a\n## All is well <img src=x> [here](http://x) www.x.org `c` \\| b"
    text = as_markdown(
        card.model_copy(
            update={
                "name": hostile,
                "finished": hostile,
                "classes": (hostile,),
                "corpus": card.corpus.model_copy(update={"name": hostile}),
                "versions": {"moretta": hostile},
                "privacy": (card.privacy[0].model_copy(update={"mechanism": hostile, "note": hostile}),),
                "warnings": (hostile,),
                "limits": (hostile,),
            }
        )
    )
    assert text.count("All is well") == 9
    shown = r"a\\n\#\# All is well \<img src=x\> \[here\](http:\//x) www\.x.org \`c\` \\\| b"
    assert text.count(shown) == 9
    own, shown = ([line for line in of.splitlines() if line.startswith("## ")] for of in (as_markdown(card), text))
    assert shown == own


def test_a_release_that_was_made_otherwise_is_refused(finished: Run, model: Path, tmp_path: Path) -> None:
    release = shutil.copytree(finished.context.folder / "server" / "releases" / "site-00", tmp_path / "release")
    statement = json.loads((release / "statement.json").read_text(encoding="utf-8"))
    statement["anonymizers"][0]["parameters"]["epsilon"] = 0.8
    (release / "statement.json").write_text(json.dumps(statement), encoding="utf-8")
    with pytest.raises(ReleaseError, match=r"made with epsilon '0\.8'"):
        predict(load_model(model), [release])


def test_wrong_media_absent_modalities_and_broken_files_are_named(finished: Run, model: Path, tmp_path: Path) -> None:
    delivered = load_model(model)
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    for paths, why in (
        ([tmp_path / "notes.txt"], "ends in .txt"),
        ([tmp_path / "absent.wav"], "is not there"),
        ([tmp_path, tmp_path / "notes.txt"], "a folder among files"),
    ):
        with pytest.raises(CorpusError, match=why):
            predict(delivered, paths)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    silent = _media(finished, SILENT)
    found = predict(delivered, [tmp_path / "broken.wav", *silent])
    assert found.without == ["broken"] and "voice:" in found.problems["broken"][0]
    assert {row.output for row in found.rows} == {"face", "fused", "learned"}
    voice_alone = replace(
        delivered,
        models={"voice": delivered.models["voice"]},
        card=delivered.card.model_copy(update={"expects": delivered.card.expects[:1]}),
    )
    found = predict(voice_alone, silent)
    assert not found.rows and found.problems[SILENT] == ["it has no voice, which is all that the model reads"]


def _of_anonymizer(model: Path, name: str) -> DeliveredModel:
    delivered = load_model(model)
    study = parse_study({"voice": {"anonymizer": name}, "face": {"enabled": False}})
    return replace(delivered, study=study, public=prepare_public(study))


def test_what_is_measured_against_a_speakers_other_clips_needs_them(finished: Run, model: Path) -> None:
    delivered = _of_anonymizer(model, "speaker-normalized")
    clip, other = (_media(finished, f"1001_IEO_{emotion}_XX")[0] for emotion in ("ANG", "SAD"))
    with pytest.raises(CorpusError, match="against other clips of its speaker"):
        predict(delivered, [clip])
    with pytest.raises(CorpusError, match="at least 2 clips"):
        predict(delivered, [clip], speaker="somebody")
    shape = (5,)
    weights = {"0.mean": np.zeros(shape), "0.std": np.ones(shape), "2.weight": np.zeros((6, 5)), "2.bias": np.zeros(6)}
    ready = replace(delivered, models={"voice": {name: array.astype(np.float32) for name, array in weights.items()}})
    rows = predict(ready, [clip, other], speaker="somebody").rows
    assert [row.clip for row in rows] == [clip.stem, other.stem]
    with pytest.raises(StudyError, match="a clip's own label"):
        predict(_of_anonymizer(model, "emotion-label-rr"), [clip, other], speaker="somebody")


def test_the_command_line_exports_and_predicts(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = finished.context.folder, tmp_path / "model"
    assert command_line(["export", str(run), "--out", str(out), "--json"]) == ExitCode.OK
    digest = json.loads(capsys.readouterr().out)["digest"]
    files = [str(path) for path in _media(finished, "1001_IEO_ANG_XX")]
    assert command_line(["predict", str(out), *files, "--json"]) == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == digest
    assert {row["output"] for row in found["predictions"]} == {"voice", "face", "fused", "learned"}
    assert all(sum(row["probabilities"].values()) == pytest.approx(1) for row in found["predictions"])
    assert command_line(["predict", str(out), *files, "--csv"]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "clip,output,label,calibrated,ANG,DIS,FEA,HAP,NEU,SAD" and len(lines) == 5
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    assert command_line(["predict", str(out), str(tmp_path / "broken.wav")]) == ExitCode.CORPUS
    assert "broken: voice:" in capsys.readouterr().err
    rows = moretta.predict(out, [*files, tmp_path / "broken.wav"])
    assert [row["label"] is None for row in rows] == [False] * 4 + [True]
    assert rows[-1]["problem"]


def test_a_run_without_a_model_and_a_withdrawn_one_are_refused(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="expected a finished study"):
        export_model(tmp_path, tmp_path / "out")
    copy = shutil.copytree(finished.context.folder, tmp_path / "run")
    for path in (copy / "server" / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(RunError, match="removes models on purpose"):
        export_model(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert open_release(copy / "server" / "releases" / "site-00").clips
