"""Gain of published systems by training at sites: `federated_table.py CREMA-D --system S --public ACTORS [...]`.

Public people train the encoder, as a study does. The others are dealt to folds: those of one fold are released, and the
rest are at sites with two people each that train the encoder further. Nobody is released by an encoder that was trained
on that person. Readers of emotion and of sex are trained on what becomes of public people, those of speakers on every
other released clip. A line is the mean over folds; noise comes from the operating system.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from code_training_table import name_sender, trained
from public_halves import heading, readers, recordings, show

from moretta.client.anonymizers.adversarial_embedding import public_encoder
from moretta.shared.core.array_types import Array
from moretta.shared.core.labels import in_order
from moretta.shared.core.workers import limit_threads
from moretta.shared.data.reader import link_or_copy, read_corpus
from moretta.shared.features.mfcc import check_samples
from moretta.shared.features.public_speech import Recording
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models.held_out_people import People
from moretta.shared.models.unlearnt_inputs import voice_input
from moretta.shared.release.anonymizer import anonymizer_of, prepare_public, site_training_of
from moretta.shared.study.schema import Study

LINES: tuple[tuple[str, float | None], ...] = (("clip", None), ("clip", 0.0), ("clip", 8.0), ("speaker", 8.0))
"""Unit and epsilon; None takes what public people have trained."""
COLUMNS = {
    "taken": "change taken",
    "in_loop": "sex head",
    "speaker_in_loop": "speaker head",
    "emotion": "emotion, retrained",
    "sex": "sex, fresh linear",
    "sex_forest": "sex, fresh forest",
    "speaker": "speaker, fresh linear",
    "speaker_forest": "speaker, fresh forest",
    "seconds": "s",
}
Clips = list[tuple[Recording, Array]]
"""Recording, with its person, and the encoder's input from it."""


def main() -> None:
    """Train, release, read, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--system", choices=("unlearnt-gender", "adversarial-embedding"), required=True)
    parser.add_argument("--public", nargs="+", required=True, help="public people")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rates", type=float, nargs="*", help="of a step, in place of the system's own")
    parser.add_argument("--clips", type=int, default=30, help="of each person, evenly over their sorted names")
    parser.add_argument("--lines", type=int, nargs="*", default=[*range(len(LINES))])
    options = parser.parse_args()
    limit_threads(1)
    name_sender()
    people = in_order({clip.speaker for clip in read_corpus(options.corpus).clips})
    others = [person for person in people if person not in options.public]
    with tempfile.TemporaryDirectory() as scratch:
        folders = [
            linked(options.corpus, Path(scratch) / name, some, options.clips)
            for name, some in (("public", options.public), ("sites", others))
        ]
        chosen = {"public_speech": str(folders[0]), "code_rounds": options.rounds}
        study = Study().with_changes(face__enabled=False, voice={"anonymizer": options.system, "options": chosen})
        start = time.process_time()
        public = prepare_public(study, lambda text: print(f"  {text}", flush=True))
        rows = [one for folder in folders for one in measured(folder, options.system)]
        print(f"{len(rows)} clips, {time.process_time() - start:.0f} s of measuring and of public training\n")
        heading("trained by", COLUMNS)
        for number, rate in ((n, rate) for n in options.lines for rate in options.rates or [None]):
            unit, epsilon = LINES[number]
            mode = {"code_training": "public" if epsilon is None else "federated", "code_unit": unit}
            line = study.with_changes(
                voice={"anonymizer": options.system, "options": chosen | mode | {"code_epsilon": epsilon or 0.0}}
            )
            training, start = site_training_of(line), time.process_time()
            if training is not None and rate is not None:
                type(training).learning_rate = rate
            found = []
            for fold in range(options.folds):
                released = others[fold :: options.folds]
                arrays, taken = public, False
                if epsilon is not None:
                    arrays, taken = trained(folders[1], [p for p in others if p not in released], line, public)
                found.append(figures(line, arrays, rows, options.public, released) | {"taken": float(taken)})
            seconds = (time.process_time() - start) / options.folds
            by = "sites, no noise" if epsilon == 0 else "public people"
            by = f"sites, {unit}, {epsilon:g}" if epsilon else by
            show(by if rate is None else f"{by}, rate {rate:g}", COLUMNS, [one | {"seconds": seconds} for one in found])


def linked(corpus: Path, folder: Path, people: list[str], count: int) -> Path:
    """A folder with some clips of some people, and the table of speakers."""
    known = read_corpus(corpus).clips
    for person in people:
        paths = sorted(clip.audio for clip in known if clip.speaker == person and clip.audio is not None)
        for path in dict.fromkeys(paths[n] for n in np.linspace(0, len(paths) - 1, count).round().astype(int)):
            link_or_copy(path, folder / "AudioWAV" / path.name)
    link_or_copy(corpus / "VideoDemographics.csv", folder / "VideoDemographics.csv")
    return folder


def figures(study: Study, arrays: Any, rows: Clips, public: list[str], released: list[str]) -> dict[str, float]:
    """Of one encoder."""
    made = anonymizer_of(study, "voice").from_study(study, arrays)
    known, others = (of_people(made, rows, people) for people in (public, released))
    found = readers(People.of(known, whole(known)), People.of(others, whole(others)), known.values, others.values)
    stated = made.parameters()["readers"]
    heads = {"in_loop": stated["sex"]["in_loop"]}
    heads |= {"speaker_in_loop": stated["speaker"]["in_loop"]} if "speaker" in stated else {}
    return found | heads


def of_people(made: Any, rows: Clips, people: list[str]) -> PublicRows:
    """Released values of these people."""
    mine = [(one, taken) for one, taken in rows if one.person in people]
    values = made._network(np.concatenate([taken for _, taken in mine]))
    return PublicRows.of(values, [one.whose for one, _ in mine])


def measured(corpus: Path, system: str) -> Clips:
    """All clips, measured once for all encoders."""

    def taken(samples: Array) -> Array:
        if system == "unlearnt-gender":
            return voice_input([check_samples(samples)])
        return public_encoder("ge2e").embed_many([check_samples(samples)])

    return [(one, taken(one.samples)) for one in recordings(corpus)]


def whole(rows: PublicRows) -> Array:
    """All of them."""
    return np.ones(len(rows.person), bool)


if __name__ == "__main__":
    main()
