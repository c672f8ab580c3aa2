"""Sex and age group off unprotected recordings: `python tests/benchmarks/attribute_table.py FOLDER [CLIPS]`.

FOLDER is a corpus with sound, of which so many clips are drawn (528), evenly over speakers; or a folder of photographs
with `people.csv` (face_id, face_age, face_gender) and `images/FACE-ID_*.jpg`, as the Face Research Lab London Set has
them. Prints every attacker's figure and what it cost. Weights come from the cache of `moretta attackers fetch`.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.inference.attack_all import prepare_pair, thinned, without_figures
from moretta.shared.audit.inference.attributes import TARGETS, infer_from_clips, read_off_faces
from moretta.shared.audit.result import Result
from moretta.shared.core.labels import Emotion
from moretta.shared.core.workers import Workers, limit_threads
from moretta.shared.data.reader import read_corpus
from moretta.shared.release import PseudonymKey, ReleasedClip
from moretta.shared.release.release_format import age_group

KEY = PseudonymKey.seeded(0, "benchmark")


def photographs(folder: Path) -> ClipSet:
    """Clips of one frame, 512 x 512 as they are."""
    meta, frames = [], []
    with (folder / "people.csv").open(newline="") as table:
        for row in csv.DictReader(table):
            age, sex = row["face_age"], row["face_gender"]
            for path in sorted((folder / "images").glob(f"{row['face_id']}_*.jpg")):
                described: dict[str, Any] = {
                    "clip": KEY.clip(path.stem),
                    "speaker": KEY.speaker(row["face_id"]),
                    "emotion": Emotion.HAP if "smil" in path.stem else Emotion.NEU,
                    "sex": sex if sex in ("female", "male") else None,
                    "age_group": age_group(round(float(age))) if age.replace(".", "").isdigit() else None,
                }
                meta.append(ReleasedClip(sentence="", level="", **described))
                picture = cv2.imread(str(path))
                assert picture is not None, path
                frames.append(np.ascontiguousarray(picture[None, :, :, ::-1]))
    return ClipSet.from_arrays(meta, frames, modality="face", form="frames")


def measured(clips: ClipSet, *, public: bool) -> Iterator[tuple[Result, float]]:
    """Every figure, and the seconds of processor time of its attack; `public`: of the public network."""
    for target in ("both",) if public else TARGETS:
        about = without_figures("attribute", clips.modality, target, "unprotected")
        start, attack = time.process_time(), read_off_faces if public else infer_from_clips
        found = attack(clips, about, seed=0, bootstrap=200)
        seconds = time.process_time() - start
        yield from ((result, seconds) for result in found)


def show(clips: ClipSet, what: str, *, public: bool) -> None:
    """Print the table of one set of clips."""
    print(f"\n{len(clips)} clips of {len(clips.speakers)} people {what}\n")
    print("| target | attacker | balanced accuracy | chance | people | seconds of its attack |")
    print("|---|---|---|---|---|---|")
    for r, seconds in measured(clips, public=public):
        figure = f"invalid: {r.reason}" if r.value is None else f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]"
        chance = "" if r.chance is None else f"{r.chance:.2f}"
        print(f"| {r.target} | {r.attacker} | {figure} | {chance} | {r.speakers} | {seconds:.1f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("clips", type=int, nargs="?", default=528)
    chosen = parser.parse_args()
    limit_threads(1)
    cv2.setNumThreads(1)
    if (chosen.folder / "images").is_dir():
        clips = photographs(chosen.folder)
    else:
        clips = thinned(ClipSet.from_corpus(read_corpus(chosen.folder), "voice", KEY), chosen.clips, seed=0)
    with tempfile.TemporaryDirectory() as scratch, Workers(1) as here:
        pair = prepare_pair(None, clips, Path(scratch), here, seed=0)
        show(pair.released, pair.note, public=False)
        if clips.modality == "face":
            show(pair.released, pair.note, public=True)
            show(clips, "at their full size", public=True)


if __name__ == "__main__":
    main()
