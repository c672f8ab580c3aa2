"""What `adversarial-embedding` keeps and leaks: `embedding_table.py CORPUS [--encoder E] [--public ACTORS] [...]`.

Half of a corpus' people are public: the autoencoder is trained on two thirds of them. The others are released. Both
halves take their turn, and a line is their mean. All figures but those in the loop are of the released people, who
chose nothing. Emotion and sex are balanced accuracies of readers trained on what the autoencoder makes of the public
people; speaker is read by forests and linear models that know every other released clip, and so is the control, one
public embedding for everybody.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moretta.client.anonymizers.adversarial_embedding import ENCODERS, public_encoder
from moretta.shared.core.array_types import Float64
from moretta.shared.core.labels import EMOTIONS, in_order
from moretta.shared.core.workers import limit_threads
from moretta.shared.data.media import read_audio
from moretta.shared.data.reader import read_corpus
from moretta.shared.features.public_speech import Recording
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models.adversaries import Labelled, fresh_readers, linear_reader
from moretta.shared.models.train_embedding import EmbeddingTask, People, distinctiveness_gain, embedded, train_embedding

COLUMNS = {
    "able": "speaker head at 0",
    "in_loop": "speaker head",
    "sex_able": "sex head at 0",
    "sex_in_loop": "sex head",
    "loss": "speaker loss / log K",
    "worst": "its worst",
    "cosine": "cosine",
    "gain": "G_VD, dB",
    "speaker": "speaker, fresh linear",
    "speaker_forest": "speaker, fresh forest",
    "sex": "sex, fresh linear",
    "sex_forest": "sex, fresh forest",
    "emotion": "emotion",
    "seconds": "s",
}


@dataclass
class Half:
    """Public people, and those who are released."""

    public: PublicRows
    others: PublicRows

    def line(self, public: Float64, released: Float64) -> dict[str, float]:
        """What fresh readers find in what became of both."""
        whole = np.ones(len(self.public.person), bool)
        known, others = People.of(self.public, whole), People.of(self.others, np.ones(len(released), bool))
        odd = others.order() % 2 == 1
        read, asked = Labelled(released[odd], others.person[odd]), Labelled(released[~odd], others.person[~odd])
        speaker = fresh_readers(read, asked, seed=1)
        sex = fresh_readers(Labelled(public, known.sex), Labelled(released, others.sex), seed=1)
        emotion = linear_reader(Labelled(public, self.public.emotion), Labelled(released, self.others.emotion))
        return {
            "cosine": float((released * others.embeddings).sum(axis=1).mean()),
            "gain": distinctiveness_gain(known, others, released),
            "speaker": speaker[0],
            "speaker_forest": speaker[1],
            "sex": sex[0],
            "sex_forest": sex[1],
            "emotion": emotion,
        }

    def anonymized(self, strength: float, epochs: int, seed: int) -> dict[str, float]:
        """The line of one strength."""
        start = time.process_time()
        made = train_embedding(self.public, EmbeddingTask(strength=strength, epochs=epochs), seed=seed)
        seconds, found = time.process_time() - start, made.figures
        return self.line(made(self.public.values), made(self.others.values)) | {
            "able": found.person.able,
            "in_loop": found.person.in_loop,
            "sex_able": found.sex.able,
            "sex_in_loop": found.sex.in_loop,
            "loss": found.person.loss / float(np.log(found.person.classes)),
            "worst": found.worst_speaker_loss,
            "seconds": seconds,
        }

    def constant(self) -> dict[str, float]:
        """The line of one public embedding for everybody."""
        one = self.public.values[:1]
        return self.line(np.repeat(one, len(self.public.person), 0), np.repeat(one, len(self.others.person), 0))


def main() -> None:
    """Embed, train, release, read, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--encoder", choices=ENCODERS, default="ge2e")
    parser.add_argument("--public", nargs="*", default=[], help="speakers of the first half")
    parser.add_argument("--strengths", nargs="*", type=float, default=[0.0, 0.5, 1.0, 2.0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    limit_threads(1)
    rows = rows_of(options.corpus, options.encoder)
    people = in_order({*rows.person})
    first = np.isin(rows.person, options.public or people[: len(people) // 2])
    parts = [PublicRows(*(part[mine] for part in rows)) for mine in (first, ~first)]
    halves = [Half(*parts), Half(*parts[::-1])]
    print(f"{len(rows.values)} clips of {len(people)} people by {options.encoder}")
    print("| strength | " + " | ".join(COLUMNS.values()) + " |")
    print("|---|" + "---|" * len(COLUMNS), flush=True)
    show("originals", [half.line(half.public.values, half.others.values) for half in halves])
    show("one for all", [half.constant() for half in halves])
    for strength in options.strengths:
        show(f"{strength:g}", [half.anonymized(strength, options.epochs, options.seed) for half in halves])


def rows_of(corpus: Path, encoder: str) -> PublicRows:
    """All clips of a corpus, embedded."""
    read = read_corpus(corpus)
    recordings = (
        Recording(read_audio(c.audio), c.speaker, EMOTIONS.index(c.label), read.speakers[c.speaker].sex or "")
        for c in read.clips
        if c.audio is not None
    )
    return embedded(recordings, public_encoder(encoder))


def show(name: str, found: list[dict[str, float]]) -> None:
    """Means over both halves."""
    cells = [f"{np.mean([one[key] for one in found]):.2f}" if key in found[0] else "-" for key in COLUMNS]
    print("| " + " | ".join([name, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
