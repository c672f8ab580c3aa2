"""RDAL on speech: the code of a clip keeps emotion, and hides who speaks or the speaker's sex.

The mask is trained on parallel synthetic speech: what it lets pass of a voice is to be what one public voice would have
said. The encoder is trained on public people, two thirds of them; the figures are of the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.core.reproducibility import derive
from moretta.shared.features.public_speech import Recording
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models.adversaries import variation
from moretta.shared.models.held_out_people import Attribute, People, Split, read_afresh
from moretta.shared.models.rdal import FIGURES, Rdal, RdalFigures, band_places
from moretta.shared.models.replacement_autoencoder import Scale, scale_of
from moretta.shared.models.spectral_mask import FRAMES, MELS, MaskNet, clip_mels, magnitudes, train_mask
from moretta.shared.models.speech import drawn_voices, parallel_corpus
from moretta.shared.models.train_rdal import Examples, Fitted, RdalTask, codes_of, fitted, in_loop
from moretta.shared.study.public_arrays import PUBLIC_SEED

SEED = derive(PUBLIC_SEED, "rdal")
"""Seed of weights, order, synthetic voices and the choice of held-out people. Not secret."""
MASK_VOICES, MASK_UTTERANCES, MASK_EPOCHS = 12, 48, 10
_MASK_FRAMES = 64
BATCH = 16
_FEWEST_EMOTIONS = 2


def public_voice_mask(
    seed: int, *, voices: int = MASK_VOICES, utterances: int = MASK_UTTERANCES, epochs: int = MASK_EPOCHS
) -> MaskNet:
    """A mask to turn magnitudes of any voice into those of one public voice, trained on parallel synthetic speech."""
    drawn, mixtures, targets = np.random.default_rng([seed, 0x3A5]), [], []
    for _, said in parallel_corpus(drawn_voices(1 + voices, seed), utterances, seed):
        public, *others = (magnitudes(one) for one in said)
        if public.shape[1] >= _MASK_FRAMES:
            for one in others:
                start = int(drawn.integers(public.shape[1] - _MASK_FRAMES + 1))
                mixtures.append(one[:, start : start + _MASK_FRAMES])
                targets.append(public[:, start : start + _MASK_FRAMES])
    return train_mask(mixtures, targets, epochs=epochs, seed=seed)


def mel_rows(recordings: Iterable[Recording], mask: MaskNet | None) -> PublicRows:
    """Mel bands of public speech behind the mask, float32 [n, 64, 160].

    The mask does not change any more, so they are computed once.
    """
    found = [(clip_mels(one.samples, mask), one.whose) for one in recordings]
    mels = np.array([mel for mel, _ in found], np.float32).reshape(-1, MELS, FRAMES)
    return PublicRows.of(mels, [whose for _, whose in found])


def train_speech_code(rows: PublicRows, mask: MaskNet | None, hides: Attribute, task: RdalTask, *, seed: int) -> Rdal:
    """Train on two thirds of the public people, and measure on the others.

    Args:
        rows: as `mel_rows` gives them, behind the same mask.
        hides: what the adversary reads; emotion is kept.

    Raises:
        StudyError: fewer than three people of each sex, or clips in one emotion alone.
    """
    split = Split.of(rows, seed=seed)
    if len(emotions := np.unique(split.known.emotion)) < _FEWEST_EMOTIONS:
        raise StudyError(
            f"public speech in one emotion alone: {EMOTIONS[int(emotions[0])]}",
            expected="at least two emotions among the people that are trained on: there is nothing to keep otherwise",
            fix="add clips in other emotions to `public_speech`, under CREMA-D's file names, which state the emotion",
        )
    bands = split.known.values.swapaxes(1, 2).reshape(-1, MELS)
    scale = scale_of(bands)
    known, unseen = (_examples(part, hides, scale) for part in (split.known, split.unseen))
    found, twin = (fitted(known, unseen, one, seed=seed) for one in (task, replace(task, strength=0.0)))
    made, plain = (_bare(one, mask, known, scale) for one in (found, twin))
    output, original = ((one.codes(split.known.values), one.codes(split.others.values)) for one in (made, plain))
    held_out = _examples(split.others, hides, scale)
    hidden = read_afresh(
        split,
        hides,
        original,
        output,
        in_loop=in_loop(found.network, unseen)[1],
        able=in_loop(twin.network, unseen)[1],
        loss=in_loop(found.network, known)[2],
        variation=variation(*(codes_of(one.network.encoder, held_out.places) for one in (found, twin))),
        seed=seed,
    )
    loss = next((check.loss for check in found.checks if check.epoch == found.epoch), 0.0)
    kept, _, _ = in_loop(found.network, held_out)
    figures = RdalFigures(hidden, kept, loss / float(np.log(hidden.classes)), found.epoch)
    return Rdal({**made.arrays, FIGURES: figures.to_array()})


def _examples(people: People, hides: Attribute, scale: Scale) -> Examples:
    return Examples(band_places(people.values, scale), people.emotion, people.attribute(hides))


def _bare(found: Fitted, mask: MaskNet | None, known: Examples, scale: Scale) -> Rdal:
    codes = codes_of(found.network.encoder, known.places)
    return Rdal.of(found.network.encoder, mask, scale, scale_of(codes.astype(np.float64)))
