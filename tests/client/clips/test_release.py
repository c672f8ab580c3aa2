from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from speaker_names import names_speaker

from moretta.client.accounting.account import COHORT
from moretta.client.accounting.ledger import Ledger
from moretta.client.anonymizers.speaker_references import clip_digest
from moretta.client.clips import release as releasing
from moretta.client.clips.release import make_release
from moretta.shared.core.errors import ClipError, CorpusError, RefusedError
from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.data.media import read_audio, write_video
from moretta.shared.features.public_speech import synthetic_speakers
from moretta.shared.features.speaker_code import public_rows, train_speaker_code
from moretta.shared.release import Release, ReleaseWriter, open_release
from moretta.shared.release.anonymizer import Anonymizer, anonymizer, get_anonymizer
from moretta.shared.study.options import ANONYMIZERS
from moretta.shared.study.schema import Study, parse_study

Change = Callable[[int, Any], Any]
"""Number and samples of a clip -> its release, or an error."""


def _good(samples: Any) -> Any:
    return np.full((len(samples) // 160, 13), np.abs(samples).max(), np.float32)


@pytest.fixture
def faulty() -> Iterator[Callable[[Change], None]]:
    """Registers a voice anonymizer called `faulty` that does what the test says."""
    ANONYMIZERS.load()  # all are loaded, and stay
    before = dict(ANONYMIZERS._items)

    def register(change: Change) -> None:
        @anonymizer("faulty", modality="voice", version="1")
        class _Faulty(Anonymizer):
            form, forms, uses_noise = "mfcc", ("mfcc",), False

            def __init__(self) -> None:
                self.seen = 0

            @classmethod
            def from_study(cls, study: Study, public: Any) -> Anonymizer:
                return cls()

            def release(self, clips: Any, noise: Any, speakers: Any) -> Any:
                out = []
                for clip in clips:
                    self.seen += 1
                    out.append(change(self.seen, clip))
                return out

            def privacy(self, sizes: Any) -> tuple[PrivacyStatement, ...]:
                return ()

    yield register
    ANONYMIZERS._items.clear()
    ANONYMIZERS._items.update(before)


def _faulty_study(study: Study) -> Study:
    return study.with_changes(voice__anonymizer="faulty")


def _clips(release: Release) -> int:
    return len(list(release.arrays("voice")))


def _all_bytes(folder: Path) -> bytes:
    return b"".join(f"{p.name}\n".encode() + p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


def _nan(samples: Any) -> Any:
    array = _good(samples)
    array[0, 0] = np.nan
    return array


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda s: RuntimeError("no"), "voice-anonymizer-failed"),
        (lambda s: ClipError("too-strange", "no"), "voice-too-strange"),
        (_nan, "voice-check-failed"),
        (lambda s: _good(s).astype(np.float64), "voice-check-failed"),
        (lambda s: _good(s)[:0], "voice-check-failed"),
        (lambda s: None, "voice-anonymizer-failed"),
        (lambda s: s, "voice-check-failed"),
    ],
    ids=["returns an error", "returns a clip error", "NaN", "float64", "nothing", "None", "the raw samples"],
)
def test_a_clip_whose_anonymization_fails_stays_at_the_site_and_is_counted(
    simulated: Any, study: Study, faulty: Any, broken: Callable[[Any], Any], reason: str
) -> None:
    site = simulated.site()
    names = [clip.name for clip in releasing.site_corpus(site, study)[1]]
    faulty(lambda number, samples: broken(samples) if number == 3 else _good(samples))
    release = make_release(site, _faulty_study(study), {})
    assert _clips(release) == release.statement.clips == 23
    assert release.statement.dropped == {reason: 1, "clip-without-release": 1}
    assert site.pseudonyms().clip(names[2]).encode() not in _all_bytes(release.folder)


def test_what_is_remembered_of_speakers_stays_at_the_site_and_readable_by_its_owner_only(
    simulated: Any, study: Study
) -> None:
    people = list(synthetic_speakers(1, voices=3, clips=12))
    code = train_speaker_code(public_rows(people, in_windows=False), size=5, codebook_size=16, seed=1)
    wanted = study.with_changes(voice__anonymizer="speaker-normalized", voice__form="code")
    site = simulated.site()
    release = make_release(site, wanted, code.to_arrays())
    assert _clips(release) == 24
    (kept,) = site.remembered.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600 and site.remembered.stat().st_mode & 0o777 == 0o700
    assert not release.folder.is_relative_to(site.remembered) and not site.remembered.is_relative_to(release.folder)
    again = make_release(site, wanted.with_changes(name="later"), code.to_arrays())
    for (_, first), (_, second) in zip(release.arrays("voice"), again.arrays("voice"), strict=True):
        assert np.abs(first - second).max() < 1e-5  # seeded noise, and the same memory


def test_a_clip_that_was_deleted_has_no_part_in_later_releases_and_is_not_charged_for_them(
    simulated: Any, study: Study
) -> None:
    people = list(synthetic_speakers(1, voices=3, clips=12))
    code = train_speaker_code(public_rows(people, in_windows=False), size=5, codebook_size=16, seed=1).to_arrays()
    wanted = study.with_changes(voice__anonymizer="speaker-normalized", voice__form="code")
    site = simulated.site()
    clips = releasing.site_corpus(site, study)[1]
    make_release(site, wanted, code)
    deleted = clips[0]
    assert deleted.audio is not None
    sample, pseudonym = clip_digest(read_audio(deleted.audio)), site.pseudonyms().clip(str(deleted.name))
    (kept,) = site.remembered.iterdir()
    assert sample in kept.read_bytes()
    deleted.audio.unlink()
    make_release(site, wanted.with_changes(name="later"), code)
    assert sample not in kept.read_bytes()
    cohorts = [entry["speakers"] for entry in Ledger(site.ledger).all_entries() if entry["kind"] == COHORT]
    charged = [{clip for _, theirs in speakers for clip in theirs} for speakers in cohorts]
    assert [len(one) for one in charged] == [24, 23]
    assert pseudonym in charged[0] and charged[1] == charged[0] - {pseudonym}


def test_a_clip_is_decoded_once_although_it_is_read_to_fit_and_to_be_released(
    simulated: Any, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moretta.shared.data import recordings

    decoded: list[str] = []
    read = recordings.read_sound
    monkeypatch.setattr(recordings, "read_sound", lambda clip: decoded.append(clip.name) or read(clip))
    people = list(synthetic_speakers(1, voices=3, clips=12))
    code = train_speaker_code(public_rows(people, in_windows=False), size=5, codebook_size=16, seed=1)
    wanted = study.with_changes(voice__anonymizer="speaker-normalized", voice__form="code")
    release = make_release(simulated.site(), wanted, code.to_arrays())
    assert len(release.clips) == len(decoded) == len(set(decoded)) == 24


def test_an_anonymizer_that_raises_costs_its_batch_and_no_more(simulated: Any, study: Study, faulty: Any) -> None:
    def change(number: int, samples: Any) -> Any:
        if number == 3:
            raise RuntimeError("no")
        return _good(samples)

    faulty(change)
    release = make_release(simulated.site(), _faulty_study(study), {})
    lost = releasing.BATCH_CLIPS
    assert _clips(release) == 24 - lost
    assert release.statement.dropped == {"voice-anonymizer-failed": lost, "clip-without-release": lost}


def test_an_anonymizer_that_loses_a_clip_of_a_batch_releases_none_of_it(
    simulated: Any, study: Study, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(lambda number, samples: _good(samples))
    cls: Any = get_anonymizer("voice", "faulty")
    whole = cls.release
    monkeypatch.setattr(cls, "release", lambda self, *batch: whole(self, *batch)[1:])
    release = make_release(simulated.site(), _faulty_study(study), {})
    assert _clips(release) == 0  # which array belongs to which clip is unknown
    assert release.statement.dropped["voice-anonymizer-failed"] == 24


def test_a_decoder_that_breaks_on_one_file_costs_that_clip_alone(
    simulated: Any, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = releasing._read_voice

    def breaking(clip: Any) -> Any:
        if clip.name.startswith("1002_IEO_SAD"):
            raise MemoryError
        return read(clip)

    monkeypatch.setattr(releasing, "_read_voice", breaking)
    release = make_release(simulated.site(), study, simulated.public)
    assert release.statement.dropped == {"voice-unreadable": 1, "clip-without-release": 1}
    assert _clips(release) == 23


def test_no_name_path_or_number_of_a_speaker_is_anywhere_in_the_release(simulated: Any, study: Study) -> None:
    site = simulated.site()
    release = make_release(site, study, simulated.public)
    content = _all_bytes(release.folder)
    for clip in releasing.site_corpus(site, study)[1]:
        assert clip.name.encode() not in content
    assert str(site.corpus).encode() not in content
    assert b".wav" not in content
    texts = b"".join(p.read_bytes() for p in release.folder.iterdir() if p.suffix in (".json", ".jsonl"))
    assert not any(names_speaker(texts, f"100{n}") for n in (1, 2, 3, 4))
    speakers = {c.speaker for c in release.clips}
    assert len(speakers) == 2
    assert not any(names_speaker(s, f"100{n}") for n in (1, 2, 3, 4) for s in speakers)


def test_nothing_raw_is_in_a_release(simulated: Any, study: Study) -> None:
    """Every released frame is a codeword: the raw MFCC, which are none, stay here."""
    release = make_release(simulated.site(), study, simulated.public)
    frames = np.concatenate([array for _, array in release.arrays("voice")])
    assert len(np.unique(frames, axis=0)) <= 16


def test_sites_of_one_study_release_their_own_speakers_only(simulated: Any, study: Study) -> None:
    one, two = (make_release(simulated.site(i), study, simulated.public) for i in (0, 1))
    assert {c.speaker for c in one.clips}.isdisjoint(c.speaker for c in two.clips)
    assert _clips(one) == _clips(two) == 24


def test_a_release_is_made_once_and_used_again(simulated: Any, study: Study) -> None:
    site = replace(simulated.site(), simulated_seed=None)  # system noise: made again, it would differ
    first = _all_bytes(make_release(site, study, simulated.public).folder)
    entries = len(Ledger(site.ledger).entries("release"))
    assert _all_bytes(make_release(site, study, simulated.public).folder) == first
    assert len(Ledger(site.ledger).entries("release")) == entries == 1


def test_another_study_gets_another_release(simulated: Any, study: Study) -> None:
    site = simulated.site()
    first = make_release(site, study, simulated.public)
    second = make_release(site, study.with_changes(voice__options__epsilon=0.1), simulated.public)
    assert first.folder != second.folder
    assert len(Ledger(site.ledger).entries("release")) == 2


def test_a_seeded_release_repeats_and_a_deployed_one_does_not(simulated: Any, study: Study, tmp_path: Path) -> None:
    def content(home: str, seed: int | None) -> bytes:
        site = replace(simulated.site(), home=tmp_path / home, simulated_seed=seed)
        return b"".join(a.tobytes() for _, a in make_release(site, study, simulated.public).arrays("voice"))

    assert content("a", 1) == content("b", 1)
    assert content("c", None) != content("d", None)


def test_a_half_written_release_is_thrown_away(simulated: Any, study: Study) -> None:
    site = simulated.site()
    folder = site.releases / study.digest()[:16]
    ReleaseWriter(folder, forms={"voice": "mfcc"})
    (folder / "voice-00007.safetensors").write_bytes(b"half")
    release = make_release(site, study, simulated.public)
    assert release.folder == folder
    assert not (folder / "voice-00007.safetensors").exists()
    assert _clips(release) == 24


def test_the_ledger_has_the_loss_before_the_release_can_be_opened(
    simulated: Any, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    site = simulated.site()
    with monkeypatch.context() as patched:
        patched.setattr(ReleaseWriter, "finish", crash)
        with pytest.raises(KeyboardInterrupt):
            make_release(site, study, simulated.public)
    entries = Ledger(site.ledger).entries("release", study=study.digest())
    assert [e["anonymizer"] for e in entries] == ["mfcc-quantizer"]
    assert {p["unit"] for p in entries[0]["privacy"]} == {"value", "frame", "clip", "speaker"}
    assert not (site.releases / study.digest()[:16] / "statement.json").exists()
    make_release(site, study, simulated.public)
    assert len(Ledger(site.ledger).entries("release")) == 2  # a crash over-counts


def test_a_ledger_that_cannot_be_written_releases_nothing(
    simulated: Any, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Ledger, "spend", full)
    with pytest.raises(OSError, match="no space"):
        make_release(simulated.site(), study, simulated.public)
    assert not (simulated.site().releases / study.digest()[:16] / "statement.json").exists()


def test_a_broken_ledger_releases_nothing(simulated: Any, study: Study) -> None:
    site = simulated.site()
    make_release(site, study, simulated.public)
    *before, last = site.ledger.read_text().splitlines(keepends=True)
    record = json.loads(last)
    record["entry"]["anonymizer"] = "none"
    site.ledger.write_text("".join(before) + json.dumps(record) + "\n")
    other = study.with_changes(name="again")
    with pytest.raises(RefusedError, match="broken"):
        make_release(site, other, simulated.public)
    assert not (site.releases / other.digest()[:16] / "statement.json").exists()


def test_bad_files_of_every_kind_are_counted_by_reason(simulated: Any, study: Study, tiny_corpus: Path) -> None:
    audio = tiny_corpus / "AudioWAV"
    (audio / "1001_IEO_ANG_XX.wav").write_bytes(b"not a sound")
    (audio / "1001_IEO_DIS_XX.wav").write_bytes(b"")
    (audio / "1001_IEO_ang_xx.WAV").write_bytes(b"another file of one name")
    (audio / "1003_IEO_ANG_XX.wav").write_bytes(b"of another site")
    release = make_release(simulated.site(), study, simulated.public)
    assert release.statement.dropped == {
        "duplicate": 1, "voice-unreadable": 1, "voice-empty": 1, "clip-without-release": 2,
    }  # fmt: skip


def test_a_clip_with_one_modality_is_released_with_that_one(simulated: Any, tiny_corpus: Path) -> None:
    frames = [np.full((48, 64, 3), value, np.uint8) for value in (60, 120, 180)]
    write_video(tiny_corpus / "VideoFlash" / "1001_IEO_ANG_XX.flv", frames, 10.0, None)
    (tiny_corpus / "AudioWAV" / "1001_IEO_DIS_XX.wav").unlink()
    write_video(tiny_corpus / "VideoFlash" / "1001_IEO_DIS_XX.flv", frames, 10.0, None)
    (tiny_corpus / "VideoFlash" / "1001_IEO_FEA_XX.flv").write_bytes(b"not a video")
    study = parse_study({"voice": {"codebook_size": 16}, "face": {"anonymizer": "pixelate"}})
    release = make_release(simulated.site(), study, simulated.public)
    have = {(c.voice is not None, c.face is not None) for c in release.clips}
    assert have == {(True, True), (True, False), (False, True)}
    assert release.statement.dropped == {"voice-missing": 1, "face-missing": 21, "face-unreadable": 1}
    face = release.anonymizer("face")
    assert face is not None
    assert face.counts["clips_without_face"] == 2


def test_attributes_are_stated_only_if_the_study_audits_them(simulated: Any, study: Study) -> None:
    reported = make_release(simulated.site(), study, simulated.public)
    untold = make_release(simulated.site(), study.with_changes(audit__attributes=False), simulated.public)
    assert {c.sex for c in reported.clips} == {"female", "male"}
    assert {(c.sex, c.age_group) for c in untold.clips} == {(None, None)}


def test_a_site_without_clips_says_so(simulated: Any, study: Study) -> None:
    with pytest.raises(CorpusError, match="no clip of this site's speakers"):
        make_release(replace(simulated.site(), speakers=("1099",)), study, simulated.public)


def test_progress_is_reported_to_the_end(simulated: Any, study: Study) -> None:
    reported: list[tuple[int, int]] = []
    make_release(simulated.site(), study, simulated.public, progress=lambda done, total: reported.append((done, total)))
    assert reported == [(8, 24), (16, 24), (24, 24)]
    assert open_release(simulated.site().releases / study.digest()[:16]).statement.clips == 24
