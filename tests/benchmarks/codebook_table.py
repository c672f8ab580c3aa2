"""How well codebooks fit speech they were not told of: `python tests/benchmarks/codebook_table.py CORPUS`.

Prints a Markdown table: mean squared distance of frames to the nearest word, in public deviations, for the public
codebook, one of each site's own (on noisy values, as `codebook = "local"` makes it), and federated ones. Half of each
speaker's clips make the codebooks, the other half judge them. Without CORPUS: of 150 synthetic voices.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from moretta.shared.corpus.media import read_audio
from moretta.shared.corpus.reader import read_corpus
from moretta.shared.features.codebook import fit_codebook, nearest
from moretta.shared.features.mfcc import check_samples, mfcc
from moretta.shared.features.public_voice import labelled_speech, make_public_voice
from moretta.shared.privacy.dp_lloyd import calibrated_lloyd_noise
from moretta.shared.privacy.lloyd_sums import clip_sums, moved_words, noisy_sums, public_radius, speaker_sums
from moretta.shared.privacy.noise import SystemNoise
from moretta.shared.threads import limit_threads

BOUND, SCALE, DELTA, ITERATIONS, SITES = 3.0, 0.625, 1e-5, 3, 6
EPSILONS = (1.0, 4.0, 8.0, math.inf)
People = dict[int, list[np.ndarray]]
"""Speaker -> bounded frames of each clip, in public units."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, nargs="?")
    options = parser.parse_args()
    limit_threads(1)
    print(f"| k | public | local, {SITES} sites | " + " | ".join(f"epsilon {e:g}" for e in EPSILONS) + " |")
    print("|---|---|---|" + "---|" * len(EPSILONS))
    raw = _raw(options.corpus)
    for size in (4, 16, 64):
        voice = make_public_voice(13, size, 1)
        people = {s: [np.clip(voice.standardise(f), -BOUND, BOUND) for f in each] for s, each in raw.items()}
        learn, judge = ({s: each[half::2] for s, each in people.items()} for half in (0, 1))
        cells = [_inertia(judge, voice.codebook), _local(learn, judge, size)]
        cells += [_inertia(judge, _federated(learn, voice.codebook, epsilon)) for epsilon in EPSILONS]
        print(f"| {size} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |", flush=True)
    print(f"\n{len(raw)} speakers, {sum(map(len, raw.values()))} clips, {ITERATIONS} iterations, delta {DELTA:g}")


def _raw(corpus: Path | None) -> People:
    people: People = defaultdict(list)
    if corpus is None:
        for said, speaker, _ in labelled_speech(150, 77):
            people[speaker].append(mfcc(said, 13))
        return people
    for clip in read_corpus(corpus).clips:
        if clip.audio is not None:
            people[clip.speaker].append(mfcc(check_samples(read_audio(clip.audio)), 13))
    return people


def _federated(people: People, words: np.ndarray, epsilon: float) -> np.ndarray:
    radius, each_site = public_radius(words), [sorted(people)[n::SITES] for n in range(SITES)]
    noise = 1e-9
    if math.isfinite(epsilon):
        noise = calibrated_lloyd_noise(epsilon=epsilon, delta=DELTA, iterations=ITERATIONS)
    for _ in range(ITERATIONS):
        sums = [
            noisy_sums(
                [speaker_sums(np.stack([clip_sums(c, words, radius) for c in people[s]])) for s in site],
                noise,
                SystemNoise(),
            )
            for site in each_site
        ]
        total = np.sum(sums, axis=0, dtype=np.float64)
        words = moved_words(words, total, noise_std=noise * math.sqrt(SITES), radius=radius)
    return words


def _local(learn: People, judge: People, size: int) -> float:
    """Each site judged by its own people."""
    found = []
    for number in range(SITES):
        site = sorted(learn)[number::SITES]
        frames = np.concatenate([c for s in site for c in learn[s]])
        noisy = np.clip(frames + SystemNoise().laplace(SCALE, frames.shape), -BOUND, BOUND)
        found.append(_inertia({s: judge[s] for s in site}, fit_codebook(noisy, size, seed=1)))
    return float(np.mean(found))


def _inertia(people: People, words: np.ndarray) -> float:
    frames = np.concatenate([c for each in people.values() for c in each])
    return float(np.square(frames - words[nearest(frames, words)]).sum(axis=1).mean())


if __name__ == "__main__":
    main()
