from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.labels import Emotion
from moretta.shared.data.corpora.cremad import Level
from moretta.shared.release import AnonymizerStatement, Release, ReleasedClip, ReleaseWriter, open_release
from moretta.shared.release import write_release as writing

CODEBOOK = np.arange(12, dtype=np.float32).reshape(4, 3)


def clip(number: int) -> ReleasedClip:
    return ReleasedClip(
        clip=f"{number:016x}", speaker=f"{number % 2:016x}", emotion=Emotion.SAD, sentence="IEO", level=Level.XX
    )


def write(folder: Path, numbers: list[int], *, finish: bool = True) -> ReleaseWriter:
    writer = ReleaseWriter(folder, forms={"voice": "tokens", "face": "frames"}, codebook=CODEBOOK)
    for number in numbers:
        arrays: dict[Any, Any] = {"voice": np.array([number % 4, 1], np.int32)}
        if number % 2:
            arrays["face"] = np.full((2, 4, 4, 3), number, np.uint8)
        writer.add(clip(number), arrays)
    if finish:
        statements = tuple(
            AnonymizerStatement(modality=m, name="n", version="1", form=f, parameters={}, noise="none")  # type: ignore[arg-type]
            for m, f in (("voice", "tokens"), ("face", "frames"))
        )
        writer.dropped["voice-silent"] = 2
        writer.finish(site="site-00", study="digest", anonymizers=statements)
    return writer


def voices(release: Release) -> dict[str, list[int]]:
    return {c.clip: a.tolist() for c, a in release.arrays("voice")}


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path, [3, 1, 2])
    release = open_release(tmp_path)
    assert voices(release) == {f"{n:016x}": [n % 4, 1] for n in (1, 2, 3)}
    assert {c.clip: int(a.max()) for c, a in release.arrays("face")} == {f"{n:016x}": n for n in (1, 3)}
    assert np.array_equal(release.codebook, CODEBOOK)  # type: ignore[arg-type]
    assert (release.statement.clips, release.statement.speakers) == (3, 2)
    assert release.statement.dropped == {"voice-silent": 2}
    assert not release.damaged


def test_clips_come_in_order_of_pseudonyms_whatever_order_they_were_added_in(tmp_path: Path) -> None:
    write(tmp_path / "a", [3, 1, 2])
    write(tmp_path / "b", [1, 2, 3])
    assert (tmp_path / "a" / "clips.jsonl").read_bytes() == (tmp_path / "b" / "clips.jsonl").read_bytes()


def test_arrays_go_over_many_shards_and_all_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SHARD_BYTES", 20)
    write(tmp_path, list(range(9)))
    assert len(list(tmp_path.glob("voice-*.safetensors"))) == 5
    assert len(voices(open_release(tmp_path))) == 9


def test_a_release_that_was_not_finished_cannot_be_opened(tmp_path: Path) -> None:
    write(tmp_path, [1, 2], finish=False)
    with pytest.raises(ReleaseError, match=r"no statement\.json"):
        open_release(tmp_path)


def test_a_second_release_is_not_written_over_the_first(tmp_path: Path) -> None:
    write(tmp_path, [1])
    with pytest.raises(ReleaseError, match="choose another folder"):
        write(tmp_path, [2])


def test_an_array_that_breaks_the_format_is_not_written_nor_is_its_clip(tmp_path: Path) -> None:
    writer = write(tmp_path, [1], finish=False)
    with pytest.raises(ReleaseError):
        writer.add(clip(2), {"voice": np.array([1], np.int32), "face": np.zeros((1, 4, 4, 3), np.float32)})
    writer.finish(site="s", study="", anonymizers=())
    assert [c.clip for c in open_release(tmp_path).clips] == [clip(1).clip]
    assert clip(2).clip.encode() not in b"".join(p.read_bytes() for p in tmp_path.iterdir())


@pytest.mark.parametrize("cut", [0, 7, 40, -1])
def test_a_truncated_shard_is_counted_and_the_rest_is_read(tmp_path: Path, cut: int) -> None:
    write(tmp_path, [1, 2])
    shard = tmp_path / "voice-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:cut])
    release = open_release(tmp_path)
    assert voices(release) == {}
    assert list(release.arrays("voice")) == []
    assert release.damaged == {"voice-damaged": 2}  # a second look counts nothing twice
    assert len(list(release.arrays("face"))) == 1


@pytest.mark.parametrize(
    "array",
    [np.array([9, 1], np.int32), np.array([-1], np.int32), np.array([1, 1], np.int64), np.zeros((2, 2), np.int32)],
    ids=["beyond the codebook", "negative", "wrong dtype", "wrong shape"],
)
def test_a_forged_array_is_counted_and_left_out(tmp_path: Path, array: Any) -> None:
    write(tmp_path, [1, 2])
    save_file({clip(1).clip: array, clip(2).clip: np.array([2, 1], np.int32)}, tmp_path / "voice-00000.safetensors")
    release = open_release(tmp_path)
    assert voices(release) == {clip(2).clip: [2, 1]}
    assert release.damaged == {"voice-damaged": 1}


def test_a_missing_shard_is_counted(tmp_path: Path) -> None:
    write(tmp_path, [1])
    (tmp_path / "voice-00000.safetensors").unlink()
    release = open_release(tmp_path)
    assert voices(release) == {}
    assert release.damaged == {"voice-damaged": 1}


@pytest.mark.parametrize(
    "codebook",
    [None, np.full((4, 3), np.nan, np.float32), np.zeros((4, 3)), np.zeros(4, np.float32)],
    ids=["absent", "not finite", "wrong dtype", "wrong shape"],
)
def test_tokens_without_a_sound_codebook_are_refused_when_the_release_is_opened(tmp_path: Path, codebook: Any) -> None:
    write(tmp_path, [1])
    path = tmp_path / "codebook.safetensors"
    path.unlink()
    if codebook is not None:
        save_file({"codebook": codebook}, path)
    with pytest.raises(ReleaseError, match="codebook"):
        open_release(tmp_path)


def test_two_clips_of_one_pseudonym_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [1])
    path = tmp_path / "clips.jsonl"
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(ReleaseError, match="two clips of one pseudonym"):
        open_release(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(speaker_names=["1001"]),
        lambda s: s.update(format=2),
        lambda s: s.update(clips=-1),
        lambda s: s.pop("site"),
        lambda s: s["anonymizers"][0].update(secret=1),
        lambda s: s["anonymizers"][0].update(privacy=[{"mechanism": "m", "unit": "clip", "epsilon": -1.0}]),
    ],
    ids=["unknown key", "other format", "negative count", "no site", "unknown key within", "negative epsilon"],
)
def test_a_statement_outside_the_schema_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    write(tmp_path, [1])
    edit(tmp_path / "statement.json", change)
    with pytest.raises(ReleaseError, match="breaks the format"):
        open_release(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("speaker", "1001"), ("clip", "../../../etc/pwd"), ("name", "1001_IEO_ANG_HI"), ("voice", -1), ("emotion", "<b>")],
)
def test_a_clip_line_outside_the_schema_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    write(tmp_path, [1])
    edit(tmp_path / "clips.jsonl", lambda c: c.update({key: value}))
    with pytest.raises(ReleaseError, match="breaks the format"):
        open_release(tmp_path)


def test_a_missing_clip_list_and_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [1])
    (tmp_path / "clips.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ReleaseError):
        open_release(tmp_path)
    (tmp_path / "clips.jsonl").unlink()
    with pytest.raises(ReleaseError):
        open_release(tmp_path)
