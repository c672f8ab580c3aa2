"""Utility and leaks of `rdal`: `rdal_speech_table.py CORPUS [--public ACTORS] [--hides sex] [--strengths ...]`.

Half of a corpus' people are public: the mask is trained on synthetic speech, the code on two thirds of them. The others
are released. Both halves take their turn, and a line is their mean. `chosen on` is the best fresh reader of speakers,
or of sex, on held-out public people; the columns after `able at 0` but the loop are of the released people.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from public_halves import both_halves, heading, readers, recordings, show, table_parser

from moretta.shared.core.workers import limit_threads
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models.held_out_people import ATTRIBUTES, People
from moretta.shared.models.rdal_of_speech import BATCH, SEED, mel_rows, public_voice_mask, train_speech_code
from moretta.shared.models.train_rdal import RdalTask

COLUMNS = {
    "chosen": "chosen on",
    "able": "able at 0",
    "in_loop": "in loop",
    "emotion": "emotion",
    "speaker": "speaker, fresh linear",
    "speaker_forest": "speaker, fresh forest",
    "sex": "sex, fresh linear",
    "sex_forest": "sex, fresh forest",
    "variation": "variation",
    "epoch": "epochs",
    "seconds": "s",
}


def main() -> None:
    """Train a mask, measure, train codes, release, read, print."""
    parser = table_parser(__doc__, strengths=[0.0, 1.0, 2.0], epochs=50)
    parser.add_argument("--hides", choices=ATTRIBUTES, default="speaker")
    parser.add_argument("--masks", nargs="*", choices=("none", "fixed"), default=["none", "fixed"])
    parser.add_argument("--replaced-every", type=int, default=5)
    options = parser.parse_args()
    limit_threads(1)
    start = time.process_time()
    masks = {"none": None, "fixed": public_voice_mask(SEED) if "fixed" in options.masks else None}
    print(f"{time.process_time() - start:.0f} s for the mask")
    task = RdalTask(strength=0.0, epochs=options.epochs, replaced_every=options.replaced_every, batch=BATCH)
    heading("mask, strength", COLUMNS)
    for name in options.masks:
        halves = both_halves(mel_rows(recordings(options.corpus), masks[name]), options.public)

        def line(public: PublicRows, others: PublicRows, strength: float, name: str = name) -> dict[str, float]:
            begun, every = time.process_time(), (np.ones(len(one.person), bool) for one in (public, others))
            one = replace(task, strength=strength)
            made = train_speech_code(public, masks[name], options.hides, one, seed=options.seed)
            found, seconds = made.figures, time.process_time() - begun
            known, asked = (People.of(rows, mine) for rows, mine in zip((public, others), every, strict=True))
            return readers(known, asked, made.codes(public.values), made.codes(others.values)) | {
                "chosen": max(found.hidden.fresh_linear, found.hidden.fresh_forest),
                "able": found.hidden.able,
                "in_loop": found.hidden.in_loop,
                "variation": found.hidden.variation,
                "epoch": found.epoch,
                "seconds": seconds,
            }

        for strength in options.strengths:
            show(f"{name}, {strength:g}", COLUMNS, [line(*half, strength) for half in halves])


if __name__ == "__main__":
    main()
