"""Code of all tables of published systems: halves of the people, public and released in turn, and lines."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from moretta.shared.core.array_types import Array, Bool
from moretta.shared.core.labels import EMOTIONS, in_order
from moretta.shared.data.media import read_audio
from moretta.shared.data.reader import read_corpus
from moretta.shared.features.public_speech import Recording
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models.adversaries import Labelled, fresh_readers, linear_reader
from moretta.shared.models.held_out_people import People


def table_parser(about: str | None, *, strengths: Sequence[float], epochs: int) -> argparse.ArgumentParser:
    """The options that all of these tables have."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--public", nargs="*", default=[], help="speakers of the first half")
    parser.add_argument("--strengths", nargs="*", type=float, default=strengths)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seed", type=int, default=1)
    return parser


def recordings(corpus: Path) -> Iterator[Recording]:
    """All clips of a corpus that have sound."""
    read = read_corpus(corpus)
    for clip in read.clips:
        if clip.audio is not None:
            sex = read.speakers[clip.speaker].sex or ""
            yield Recording(read_audio(clip.audio), clip.speaker, EMOTIONS.index(clip.label), sex)


def of_people(rows: PublicRows, chosen: Bool) -> PublicRows:
    """The chosen rows."""
    return rows._replace(**{name: part[chosen] for name, part in rows._asdict().items()})


def both_halves(rows: PublicRows, public: Sequence[str]) -> list[tuple[PublicRows, PublicRows]]:
    """Public people and released ones, in turn; the first half is public first, unless people are named."""
    people = in_order({*rows.person})
    first = np.isin(rows.person, public or people[: len(people) // 2])
    parts = [of_people(rows, mine) for mine in (first, ~first)]
    return [(parts[0], parts[1]), (parts[1], parts[0])]


def readers(known: People, others: People, public: Array, released: Array) -> dict[str, float]:
    """Balanced accuracies of fresh readers in what became of public people and of released ones.

    Emotion and sex are learned of the public people, speakers of every other released clip.
    """
    odd = others.order() % 2 == 1
    read, asked = Labelled(released[odd], others.person[odd]), Labelled(released[~odd], others.person[~odd])
    speaker = fresh_readers(read, asked, seed=1)
    sex = fresh_readers(Labelled(public, known.sex), Labelled(released, others.sex), seed=1)
    return {
        "speaker": speaker[0],
        "speaker_forest": speaker[1],
        "sex": sex[0],
        "sex_forest": sex[1],
        "emotion": linear_reader(Labelled(public, known.emotion), Labelled(released, others.emotion)),
    }


def heading(first: str, columns: Mapping[str, str]) -> None:
    """The first two lines of a table; `first` has a bar between two columns."""
    print(f"| {first} | " + " | ".join(columns.values()) + " |")
    print("|" + "---|" * (first.count("|") + 1 + len(columns)), flush=True)


def show(name: str, columns: Mapping[str, str], found: Sequence[Mapping[str, float]]) -> None:
    """A line: means over both halves."""
    cells = [f"{np.mean([one[key] for one in found]):.2f}" if key in found[0] else "-" for key in columns]
    print("| " + " | ".join([name, *cells]) + " |", flush=True)
