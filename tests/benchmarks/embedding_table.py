"""Utility and leaks of `adversarial-embedding`: `embedding_table.py CORPUS [--encoder E] [--public ACTORS] [...]`.

Half of a corpus' people are public: the autoencoder is trained on two thirds of them. The others are released. Both
halves take their turn, and a line is their mean. All figures but those in the loop are of the released people, who
chose nothing. Emotion and sex are balanced accuracies of readers trained on what the autoencoder makes of the public
people; speaker is read by forests and linear models that know every other released clip, and so is the control, one
public embedding for everybody.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from public_halves import both_halves, heading, readers, recordings, show, table_parser

from moretta.client.anonymizers.adversarial_embedding import ENCODERS, public_encoder
from moretta.shared.core.array_types import Float64
from moretta.shared.core.workers import limit_threads
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models.held_out_people import People
from moretta.shared.models.train_embedding import EmbeddingTask, distinctiveness_gain, embedded, train_embedding

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
        """Figures of fresh readers, on the values of public and of released people."""
        whole = np.ones(len(self.public.person), bool)
        known, others = People.of(self.public, whole), People.of(self.others, np.ones(len(released), bool))
        return readers(known, others, public, released) | {
            "cosine": float((released * others.values).sum(axis=1).mean()),
            "gain": distinctiveness_gain(known, others, released),
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
    parser = table_parser(__doc__, strengths=[0.0, 0.5, 1.0, 2.0], epochs=100)
    parser.add_argument("--encoder", choices=ENCODERS, default="ge2e")
    options = parser.parse_args()
    limit_threads(1)
    rows = embedded(recordings(options.corpus), public_encoder(options.encoder))
    halves = [Half(*parts) for parts in both_halves(rows, options.public)]
    print(f"{len(rows.values)} clips of {len({*rows.person})} people by {options.encoder}")
    heading("strength", COLUMNS)
    show("originals", COLUMNS, [half.line(half.public.values, half.others.values) for half in halves])
    show("one for all", COLUMNS, [half.constant() for half in halves])
    for strength in options.strengths:
        show(f"{strength:g}", COLUMNS, [half.anonymized(strength, options.epochs, options.seed) for half in halves])


if __name__ == "__main__":
    main()
