"""Utility and leaks of `privacy-transformer`: `transformer_table.py CORPUS --speech FOLDER [--public ACTORS] [...]`.

Some of a corpus' people are public: together with a folder of other speech they train the small HuBERT. The others are
released. Without `--public` the first half is public, then the second. The Transformer is trained on synthetic voices.

Emotion and sex are balanced accuracies of readers trained on what is released of the public people; speaker is read by
forests and linear models that know every other released clip of the same people. `originals' model` was trained on
embeddings of the public people, and reads what is released.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from public_halves import heading, recordings, show
from safetensors.numpy import load_file, save_file

from moretta.client.anonymizers.privacy_transformer import SEED
from moretta.shared.core.array_types import Float64
from moretta.shared.core.labels import in_order
from moretta.shared.core.workers import limit_threads
from moretta.shared.data.media import read_audio
from moretta.shared.models.adversaries import Labelled, fresh_readers, linear_reader
from moretta.shared.models.mini_hubert import MiniHubert
from moretta.shared.models.privacy_transformer import TARGETS, PrivacyTransformer
from moretta.shared.models.replacement_autoencoder import SEXES, placed, scale_of
from moretta.shared.models.train_mini_hubert import MiniHubertTask, train_mini_hubert
from moretta.shared.models.train_transformer import TransformerTask, UtteranceEncoder, train_transformer
from moretta.shared.models.utterance_encoders import SEED as ENCODER_SEED
from moretta.shared.models.utterance_encoders import encoder_of

COLUMNS = ("speaker, linear", "speaker, forest", "sex, linear", "sex, forest", "emotion", "emotion, originals' model")
FIGURES = (
    "cosine",
    "source_cosine",
    "own_cosine",
    "variation",
    "speaker",
    "speaker_originals",
    "emotion",
    "emotion_originals",
)


class Clips(NamedTuple):
    """Recordings of a corpus."""

    sound: list[np.ndarray]
    person: np.ndarray
    sex: np.ndarray
    emotion: np.ndarray

    def some(self, mine: np.ndarray) -> Clips:
        """Of some people."""
        sound = [one for one, is_mine in zip(self.sound, mine, strict=True) if is_mine]
        return Clips(sound, *(part[mine] for part in self[1:]))

    def each(self, step: int) -> Clips:
        """Each so manieth of them."""
        return self.some(np.arange(len(self.sound)) % step == 0)

    @property
    def seconds(self) -> float:
        """Of sound."""
        return sum(map(len, self.sound)) / 16_000


def main() -> None:
    """Train, release, read, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--speech", type=Path, help="more speech that trains the small HuBERT")
    parser.add_argument("--public", nargs="*", default=[], help="public speakers; default: either half in turn")
    parser.add_argument("--released", type=Path, help="another corpus, all of which is released")
    parser.add_argument("--encoder", choices=("mini-hubert", "statistics"), default="mini-hubert")
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--encoder-seed", type=int, default=ENCODER_SEED)
    parser.add_argument("--seed", type=int, default=SEED, help="of the Transformer and the synthetic voices")
    parser.add_argument("--every", type=int, default=1, help="read only each so manieth clip; all train the encoder")
    parser.add_argument("--keep", type=Path, help="folder that trained networks are kept in, and read from")
    options = parser.parse_args()
    limit_threads(1)
    clips = clips_of(options.corpus)
    people = in_order({*clips.person})
    first = np.isin(clips.person, options.public or people[: len(people) // 2])
    halves = [first] if options.public or options.released else [first, ~first]
    found: dict[str, list[dict[str, float]]] = {}
    for number, public in enumerate(halves):
        released = clips_of(options.released) if options.released else clips.some(~public)
        for name, line in half(options, clips.some(public), released, number).items():
            found.setdefault(name, []).append(line)
    columns = dict(zip(COLUMNS, COLUMNS, strict=True))
    heading("released", columns)
    for name, lines in found.items():
        show(name, columns, lines)


def half(options: argparse.Namespace, public: Clips, released: Clips, number: int) -> dict[str, dict[str, float]]:
    """Lines of one half."""
    encoder = trained_encoder(options, public, number)
    public, released = public.each(options.every), released.each(options.every)
    start = time.process_time()
    arrays = kept(
        options, f"transformer-{number}", lambda: train_transformer(encoder, TransformerTask(), seed=SEED).arrays
    )
    known = encoder.embed(public.sound).astype(np.float64)
    network = PrivacyTransformer.from_arrays(arrays, width=encoder.width).on_scale_of(known)
    stated = network.figures.stated()
    print(f"Transformer: {time.process_time() - start:.0f} s of CPU; faults: {stated['faults']}")
    print("synthetic voices: " + ", ".join(f"{name} {stated[name]:.3f}" for name in FIGURES), flush=True)
    start = time.process_time()
    rows = encoder.embed(released.sound).astype(np.float64)
    targets = np.random.default_rng(1)
    made = network(rows, targets.integers(TARGETS, size=len(rows)))
    print(f"release: {released.seconds / (time.process_time() - start):.0f} x real time", flush=True)
    scale = scale_of(known)
    originals = placed(known, scale), placed(rows, scale)
    drawn = network(known, targets.integers(TARGETS, size=len(known))), made
    zeros = np.zeros(len(known), np.int64), np.zeros(len(rows), np.int64)
    single = network(known, zeros[0]), network(rows, zeros[1])
    return {
        "originals": line(public, released, originals, originals[0]),
        "a voice drawn for each clip": line(public, released, drawn, originals[0]),
        "one voice": line(public, released, single, originals[0]),
    }


def trained_encoder(options: argparse.Namespace, public: Clips, number: int) -> UtteranceEncoder:
    """The tier of the command line."""
    if options.encoder == "statistics":
        return encoder_of("statistics", {})
    more = [read_audio(path) for path in sorted(options.speech.rglob("*.wav"))] if options.speech else []

    def train() -> Mapping[str, Any]:
        start = time.process_time()
        made = train_mini_hubert(more + public.sound, MiniHubertTask(steps=options.steps, seed=options.encoder_seed))
        minutes, seconds = sum(map(len, more + public.sound)) / 960_000, time.process_time() - start
        loss = np.mean(made.loss[-100:])
        print(f"small HuBERT: {minutes:.0f} minutes of speech, {seconds:.0f} s of CPU, loss {loss:.2f}", flush=True)
        return made.encoder.arrays

    return MiniHubert.from_arrays(kept(options, f"encoder-{number}", train))


def kept(options: argparse.Namespace, name: str, train: Any) -> Any:
    """Arrays of a file, or trained and written there."""
    if options.keep is None:
        return train()
    path = options.keep / f"{options.encoder}-{name}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: np.ascontiguousarray(array) for key, array in train().items()}, path)
    return load_file(path)


def line(
    public: Clips, released: Clips, values: tuple[Float64 | np.ndarray, Float64 | np.ndarray], originals: Float64
) -> dict[str, float]:
    """Figures of fresh readers, on the values of public and of released people."""
    known, seen = values
    odd = np.arange(len(seen)) % 2 == 1
    person = np.unique(released.person, return_inverse=True)[1]
    speaker = fresh_readers(Labelled(seen[odd], person[odd]), Labelled(seen[~odd], person[~odd]), seed=1)
    sex = fresh_readers(Labelled(known, public.sex), Labelled(seen, released.sex), seed=1)
    emotion = linear_reader(Labelled(known, public.emotion), Labelled(seen, released.emotion))
    ignorant = linear_reader(Labelled(originals, public.emotion), Labelled(seen, released.emotion))
    return dict(zip(COLUMNS, (*speaker, *sex, emotion, ignorant), strict=True))


def clips_of(corpus: Path) -> Clips:
    """All clips of a corpus with sound."""
    found = [(one.samples, one.person, SEXES.index(one.sex or "male"), one.emotion) for one in recordings(corpus)]
    sound, *others = zip(*found, strict=True)
    return Clips(list(sound), *map(np.array, others))


if __name__ == "__main__":
    main()
