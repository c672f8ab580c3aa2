"""RDAL as published: hide that there is speech, and keep the sound event. `rdal_table.py [--rows ...] [--seeds ...]`.

Twelve synthetic events, alone and with synthetic speech at -5 to 5 dB: 500 pairs train, 250 choose when a verifier and
training stop, and 500 are quoted, with other events and voices in each. `chosen on` is the fresh detector's accuracy on
the 250. Chance is 0.50 of speech, and 0.08 of the event.

`mask alone` has the mask and no reversal; the oracle mask knows the clean event. `fresh` detectors are trained on codes
that do not change any more: the network of the adversary, as the paper has it, a linear model and a forest.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from sound_events import mixtures

from moretta.shared.core.workers import limit_threads
from moretta.shared.models.adversaries import Labelled, fresh_readers, train_fresh
from moretta.shared.models.rdal import band_places, verifier
from moretta.shared.models.replacement_autoencoder import Scale, scale_of
from moretta.shared.models.spectral_mask import MaskNet, magnitudes, masked_mels, mel_decibels, train_mask
from moretta.shared.models.speech import drawn_voices
from moretta.shared.models.train_rdal import Examples, RdalTask, codes_of, fitted, in_loop

PAIRS = {"known": 500, "checked": 250, "quoted": 500}
MASK_EPOCHS = 10
PLAIN = RdalTask(strength=0.0, epochs=50)
ROWS: dict[str, tuple[str, RdalTask]] = {
    "baseline": ("none", PLAIN),
    "naive: gradient reversal": ("none", RdalTask(strength=1.0, epochs=50, replaced_every=0)),
    "RDAL": ("none", RdalTask(strength=1.0, epochs=50)),
    "mask alone": ("fixed", PLAIN),
    "RDAL-M": ("fixed", RdalTask(strength=1.0, epochs=50)),
    "oracle mask": ("oracle", PLAIN),
}
COLUMNS = ("chosen on: fresh", "event", "speech in loop", "fresh", "fresh linear", "fresh forest", "epochs", "s")


class Part(NamedTuple):
    """Magnitudes of mixtures, and of their events alone, [n, 257, 51]; and labels."""

    seen: torch.Tensor
    clean: torch.Tensor
    event: np.ndarray
    speech: np.ndarray

    @classmethod
    def of(cls, name: str) -> Part:
        seed = list(PAIRS).index(name) + 1
        made = mixtures(PAIRS[name], voices=drawn_voices(24, seed), seed=seed)
        seen, clean = (torch.stack([magnitudes(one) for one in sound]) for sound in (made.sound, made.clean))
        return cls(seen, clean, made.event, made.speech)

    def mels(self, mask: str, network: MaskNet) -> np.ndarray:
        if mask == "oracle":
            return mel_decibels(torch.minimum(self.seen, self.clean)).numpy()
        used = network if mask == "fixed" else None
        return torch.stack([masked_mels(one, used) for one in self.seen]).numpy()

    def examples(self, mels: np.ndarray, scale: Scale) -> Examples:
        return Examples(band_places(mels, scale), self.event, self.speech)


def main() -> None:
    """Mix, train a mask, train every row, read, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=ROWS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[1])
    options = parser.parse_args()
    limit_threads(1)
    parts, start = {name: Part.of(name) for name in PAIRS}, time.process_time()
    known, is_speech = parts["known"], parts["known"].speech == 1
    mask = train_mask(list(known.seen[is_speech]), list(known.clean[is_speech]), epochs=MASK_EPOCHS, seed=1)
    print(f"mask trained in {time.process_time() - start:.0f} s\n\n| | " + " | ".join(COLUMNS) + " |")
    print("|---|" + "---|" * len(COLUMNS), flush=True)
    for name in options.rows:
        found = [read(name, seed, parts, mask) for seed in options.seeds]
        values = [f"{value:.3f}" if value < 2 else f"{value:.0f}" for value in np.mean(found, axis=0)]
        print("| " + " | ".join([name, *values]) + " |", flush=True)


def read(name: str, seed: int, parts: dict[str, Part], mask: MaskNet) -> list[float]:
    """One row of one seed."""
    kind, task = ROWS[name]
    mels = {part: parts[part].mels(kind, mask) for part in parts}
    scale = scale_of(mels["known"].swapaxes(1, 2).reshape(-1, mels["known"].shape[1]))
    known, checked, asked = (parts[part].examples(mels[part], scale) for part in PAIRS)
    start = time.process_time()
    made = fitted(known, checked, task, seed=seed)
    seconds = time.process_time() - start
    codes = [Labelled(codes_of(made.network.encoder, one.places), one.hidden) for one in (known, checked, asked)]
    fresh = train_fresh(partial(verifier, 2), *codes[:2], seed=seed + 1_000)
    with torch.no_grad():
        chosen, quoted = (
            float((fresh.network(torch.from_numpy(one.representation)).argmax(dim=1).numpy() == one.label).mean())
            for one in codes[1:]
        )
    kept, hidden, _ = in_loop(made.network, asked)
    linear, forest = fresh_readers(codes[0], codes[2], seed=seed)
    return [chosen, kept, hidden, quoted, linear, forest, made.epoch, seconds]


if __name__ == "__main__":
    main()
