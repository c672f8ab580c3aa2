"""A response of an enrolled site comes of clips that are there now, or there is none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile
from enrolled import enrolled
from flwr.app import RecordDict
from requested import CHANGED, POLICY, RequestStage

from moretta.client.accounting.ledger import Ledger
from moretta.client.clips import release as releasing
from moretta.client.clips.provenance import PROVENANCE_FILE, find_changes
from moretta.client.settings import deployed_site
from moretta.shared.messages import wire

UNCLEAR = "the site cannot tell whether its clips have changed since its release"


@pytest.fixture
def site(tmp_path: Path, tiny_corpus: Path, simulated: Any) -> RequestStage:
    return RequestStage(
        enrolled(tmp_path / "site", tiny_corpus, policy=POLICY, held_out=("1001",)), tiny_corpus, simulated.public
    )


def test_a_person_who_was_deleted_is_in_no_release_of_the_same_study_run_again(site: RequestStage) -> None:
    assert site.count() == (48, 4)
    site.delete("1004")
    site.run = 2
    assert site.count() == (36, 3)
    ledger = Ledger(site.home.root / "ledger.jsonl")
    assert len(ledger.entries("release")) == 2  # what is drawn anew is paid again
    (removed,) = ledger.entries("removed")
    assert "12 clips are gone" in removed["why"]


def test_a_run_whose_release_changed_in_the_middle_gets_nothing_more_of_this_site(site: RequestStage) -> None:
    site.release()
    assert "failure" not in site.train(1)
    site.delete("1004")
    for answer in (site.train(2), site.fetch(), site.evaluate(), site.release(), site.train(2)):
        assert (answer["failure"], answer["code"]) == (CHANGED, 6)
    assert not list((site.home.root / "updates").rglob("*.safetensors"))
    assert not list((site.home.root / "release").rglob("*.safetensors"))
    site.run = 2
    assert site.count() == (36, 3)
    assert "failure" not in site.train(1)
    site.run = 1  # the old run is still there, and would mix the two
    assert site.train(2)["failure"] == CHANGED


def test_an_update_that_was_trained_while_a_person_left_does_not_leave(
    site: RequestStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.release()
    from moretta.client.training import local_training

    trained = local_training.train_locally

    def left_meanwhile(*arguments: Any, **options: Any) -> Any:
        site.delete("1004")
        return trained(*arguments, **options)

    monkeypatch.setattr(local_training, "train_locally", left_meanwhile)
    assert site.train(1)["failure"] == CHANGED
    assert not list((site.home.root / "updates").rglob("*.safetensors"))


def test_a_release_during_which_a_person_left_is_not_finished(
    site: RequestStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = releasing._write

    def left_meanwhile(*arguments: Any, **options: Any) -> Any:
        site.delete("1004")
        return account(*arguments, **options)

    monkeypatch.setattr(releasing, "_write", left_meanwhile)
    assert site.release()["failure"] == CHANGED
    assert not (site.folder / "statement.json").exists()
    monkeypatch.undo()
    assert site.count() == (36, 3)


def _other_sound(site: RequestStage) -> None:
    samples, rate = soundfile.read(site.clips("1004")[0])
    soundfile.write(site.clips("1004")[0], samples[::-1], rate)


def _older(site: RequestStage) -> None:
    table = site.corpus / "VideoDemographics.csv"
    table.write_text(table.read_text("utf-8").replace("1004,24,Female", "1004,64,Female"), "utf-8")


def _not_this_sites(site: RequestStage) -> None:
    site.home.write(site.home.read().model_copy(update={"speakers": ("1001", "1002", "1003")}))


def _one_clip_less(site: RequestStage) -> None:
    site.clips("1004")[0].unlink()


def _other_number(site: RequestStage) -> None:
    for path in site.clips("1004"):
        path.rename(path.with_name(path.name.replace("1004", "1005")))


CHANGES = {
    "a clip has another content": (_other_sound, (48, 4)),
    "a clip is gone": (_one_clip_less, (47, 4)),
    "a person is in another age group": (_older, (48, 4)),
    "a person is not this site's any more": (_not_this_sites, (36, 3)),
    "clips moved to another number": (_other_number, (48, 4)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_release_is_not_used_when(site: RequestStage, change: str) -> None:
    site.release()
    before = (site.folder / "voice-00000.safetensors").read_bytes()
    act, left = CHANGES[change]
    act(site)
    assert site.train(1)["failure"] == CHANGED
    site.run = 2
    assert site.count() == left
    assert (site.folder / "voice-00000.safetensors").read_bytes() != before


def _swap_in_place(path: Path) -> None:
    """Another content of the same size in the same inode under the same time, as some tools restore it."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-200:] = bytes(reversed(content[-200:]))
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_another_content_under_the_same_time_and_size_is_noticed(site: RequestStage) -> None:
    site.release()
    _swap_in_place(site.clips("1004")[0])
    assert site.train(1)["failure"] == CHANGED


def test_a_change_that_leaves_no_trace_in_any_time_is_found_at_the_next_release_request(
    site: RequestStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moretta.client.clips import provenance

    blind = provenance._stat
    monkeypatch.setattr(provenance, "_stat", lambda path: (found := blind(path)) and (found[0], 0, 0, 0))
    site.release()
    _swap_in_place(site.clips("1004")[0])
    assert "failure" not in site.train(1)
    assert site.release()["failure"] == CHANGED


def test_files_that_were_only_touched_or_copied_change_nothing_and_cost_one_reading(
    site: RequestStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.release()
    before = (site.folder / "clips.jsonl").read_bytes()
    for path in site.clips("100"):
        shutil.copy(path, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
    assert "failure" not in site.train(1)
    assert (site.folder / "clips.jsonl").read_bytes() == before
    assert len(Ledger(site.home.root / "ledger.jsonl").entries("release")) == 1
    monkeypatch.setattr(
        "moretta.client.clips.provenance.content_digest", lambda *_: pytest.fail("a clip was read again")
    )
    assert "failure" not in site.train(2)


def test_a_clip_that_came_later_is_no_part_of_the_release_and_the_log_says_so(
    site: RequestStage, caplog: pytest.LogCaptureFixture
) -> None:
    site.release()
    before = (site.folder / "clips.jsonl").read_bytes()
    shutil.copy(site.clips("1004")[0], site.corpus / "AudioWAV" / "1004_DFA_ANG_XX.wav")
    site.run = 2
    assert site.count() == (48, 4)
    assert (site.folder / "clips.jsonl").read_bytes() == before
    assert "1 clips came after the release" in caplog.text
    assert "failure" not in site.train(1)


def _unmounted(site: RequestStage) -> None:
    site.corpus.rename(site.corpus.with_name("elsewhere"))


def _empty(site: RequestStage) -> None:
    _unmounted(site)
    (site.corpus / "AudioWAV").mkdir(parents=True)


def _another_folder(site: RequestStage) -> None:
    _unmounted(site)
    (site.corpus / "AudioWAV").mkdir(parents=True)
    other = site.corpus.with_name("elsewhere") / "AudioWAV" / "1001_IEO_ANG_XX.wav"
    shutil.copy(other, site.corpus / "AudioWAV" / "1002_DFA_SAD_XX.wav")


def _row_only(site: RequestStage) -> None:
    table = site.corpus / "VideoDemographics.csv"
    table.write_text("\n".join(x for x in table.read_text("utf-8").splitlines() if not x.startswith("1004")), "utf-8")


def _no_table(site: RequestStage) -> None:
    (site.corpus / "VideoDemographics.csv").unlink()


def _sound_only(site: RequestStage) -> None:
    """The person's sound files are deleted, and their videos forgotten."""
    (site.corpus / "VideoFlash").mkdir()
    for path in site.clips("1004"):
        shutil.copy(path, site.corpus / "VideoFlash" / f"{path.stem}.flv")
        path.unlink()


@pytest.mark.parametrize("lose", [_sound_only, _unmounted, _empty, _another_folder, _row_only, _no_table])
def test_a_folder_that_is_not_there_or_a_person_deleted_by_half_is_no_withdrawal(site: RequestStage, lose: Any) -> None:
    """Every request is refused, nothing is removed, and once the folder is back the release holds as before."""
    site.release()
    whole = site.corpus.with_name("whole")
    shutil.copytree(site.corpus, whole)
    before = (site.folder / "clips.jsonl").read_bytes()
    lose(site)
    for run in (1, 2):
        site.run = run
        for answer in (site.release(), site.train(1), site.fetch()):
            assert answer["failure"] in ("CorpusError", UNCLEAR)
    assert (site.folder / "clips.jsonl").read_bytes() == before
    shutil.rmtree(site.corpus, ignore_errors=True)
    whole.rename(site.corpus)
    assert site.count() == (48, 4)
    assert (site.folder / "clips.jsonl").read_bytes() == before
    assert not Ledger(site.home.root / "ledger.jsonl").entries("removed")


def test_a_release_of_an_earlier_version_which_says_not_what_it_was_made_of_is_made_anew(site: RequestStage) -> None:
    site.release()
    (site.folder / PROVENANCE_FILE).unlink()
    assert site.train(1)["failure"] == CHANGED
    site.run = 2
    assert site.count() == (48, 4)


def test_the_record_of_what_was_released_is_closed_to_others_and_never_fetched(site: RequestStage) -> None:
    site.release()
    assert (site.folder / PROVENANCE_FILE).stat().st_mode & 0o777 == 0o600
    assert "no PartsWanted" in site.fetch(PROVENANCE_FILE)["failure"]


def test_a_broken_file_that_is_mended_later_has_no_part_in_the_release(site: RequestStage) -> None:
    path = site.clips("1004")[0]
    whole = path.read_bytes()
    path.write_bytes(b"no sound")
    assert site.count() == (47, 4)
    path.write_bytes(whole)
    assert "failure" not in site.train(1)


def test_the_look_before_a_response_reads_no_clip(site: RequestStage, monkeypatch: pytest.MonkeyPatch) -> None:
    from moretta.client.clips.provenance import Provenance

    site.release()
    provenance, settings = Provenance.load(site.folder), deployed_site(site.home.root)
    assert provenance is not None
    real = Path.open

    def of_the_site_alone(path: Path, *how: Any, **more: Any) -> Any:
        assert path.is_relative_to(site.home.root), "a clip was read"
        return real(path, *how, **more)

    monkeypatch.setattr(Path, "open", of_the_site_alone)
    changes = find_changes(provenance, settings)
    assert not changes
    assert changes.now is None


def test_nothing_leaves_of_which_the_disk_takes_half_a_record(
    site: RequestStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.release()
    (record,) = (site.home.root / "sent").glob("*.jsonl")
    before, real = record.read_bytes(), os.write

    def half(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[:10] if b'"what": "release"' in data else data)

    site.run = 2
    monkeypatch.setattr(os, "write", half)
    answer = site.release()
    monkeypatch.undo()
    assert answer["failure"] == "OSError" and "statement" not in answer
    assert record.read_bytes() == before


def test_no_step_of_secure_aggregation_goes_on_after_a_change(site: RequestStage) -> None:
    """Else the masks would be taken off a sum that has the person in it, with this site's help."""
    site.study = site.study.with_changes(
        sites=3, aggregation={"secure": True, "min_sites": 3}, audit={"updates": False}
    )
    site.release()

    def step(kind: str, **values: Any) -> dict[str, Any]:
        config = wire.study_config(site.study, session="0" * 32, modality="voice", **values)
        return site.call(kind, RecordDict({wire.CONFIG: config}))

    begun = step(wire.SECURE_KEYS, round=1)
    assert len(begun["keys"]) == 2, begun
    site.delete("1004")
    for kind, values in (
        (wire.SECURE_KEYS, {"round": 1}),
        (wire.SECURE_SHARES, {"keys": {"clinic-a": ["aa", "bb"]}}),
        (wire.SECURE_UNMASK, {"survivors": ["clinic-a"]}),
    ):
        assert step(kind, **values)["failure"] == CHANGED
    assert not (site.home.root / "secure" / site.study.digest()[:16] / "voice.json").exists()
