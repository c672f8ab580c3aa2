"""How far sound that `adversarial-embedding` makes is from the embedding wanted: `embedding_sound.py CORPUS [...]`.

As in `embedding_table.py`, half of the people are public and the others are released, in turn. Each released clip is
changed as its anonymized embedding says, and embedded again. The vocoder alone, which changes nothing, is the limit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from public_halves import both_halves, heading, recordings, show

from moretta.client.anonymizers.adversarial_embedding import ENCODERS, public_encoder
from moretta.shared.core.array_types import Array
from moretta.shared.core.workers import limit_threads
from moretta.shared.features.public_speech import Recording
from moretta.shared.features.world_voice import WorldVoice
from moretta.shared.models.train_embedding import SEED, EmbeddingTask, embedded, train_embedding
from moretta.shared.models.voice_driver import train_driver

COLUMNS = {
    "asked": "cosine of original and wanted",
    "output": "of output and wanted",
    "source": "of output and original",
    "vocoder": "of vocoder alone and original",
    "nearer": "share of clips nearer to what was wanted",
    "pitch": "pitch, mean factor",
    "formants": "formants",
    "bandwidth": "bandwidth",
}


def main() -> None:
    """Train, change, embed, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--encoder", choices=ENCODERS, default="ge2e")
    parser.add_argument("--public", nargs="*", default=[], help="speakers of the first half")
    parser.add_argument("--strengths", nargs="*", type=float, default=[0.0, 1.0, 2.0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--clips", type=int, default=6, help="of each released person")
    options = parser.parse_args()
    limit_threads(1)
    encoder = public_encoder(options.encoder)
    driver = train_driver(encoder, seed=SEED)
    print("explained in synthetic voices:", driver.stated(), flush=True)
    clips = list(recordings(options.corpus))
    rows = embedded(iter(clips), encoder)
    halves = both_halves(rows, options.public)
    heading("strength", COLUMNS)
    for strength in options.strengths:
        found = []
        for public, others in halves:
            made = train_embedding(public, EmbeddingTask(strength=strength, epochs=options.epochs), seed=SEED)
            chosen = some(clips, {*others.person}, options.clips)
            before = encoder.embed_many([clip.samples for clip in chosen]).astype(np.float64)
            after = made(before)
            taken = [WorldVoice.of(clip.samples) for clip in chosen]
            changes = [driver.change(*pair) for pair in zip(before, after, strict=True)]
            sounds = [change.applied(voice).sound() for change, voice in zip(changes, taken, strict=True)]
            output, vocoder = encoder.embed_many(sounds), encoder.embed_many([voice.sound() for voice in taken])
            near, far = cosines(output, after), cosines(output, before)
            means = dict(zip(("pitch", "formants", "bandwidth"), np.mean(changes, axis=0).tolist(), strict=True))
            found.append(
                {
                    "asked": float(cosines(before, after).mean()),
                    "output": float(near.mean()),
                    "source": float(far.mean()),
                    "vocoder": float(cosines(vocoder, before).mean()),
                    "nearer": float((near > far).mean()),
                    **means,
                }
            )
        show(f"{strength:g}", COLUMNS, found)


def some(clips: list[Recording], people: set[str], each: int) -> list[Recording]:
    """Evenly spread clips of each of these people."""
    chosen = []
    for person in sorted(people):
        own = [clip for clip in clips if clip.person == person]
        chosen += own[:: max(1, len(own) // each)][:each]
    return chosen


def cosines(left: Array, right: Array) -> Array:
    """Of rows, [n]."""
    return np.asarray((left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1))


if __name__ == "__main__":
    main()
