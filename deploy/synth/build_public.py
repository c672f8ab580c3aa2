"""Build the public arrays that come with the package, or check them.

    python -m moretta.deploy.synth.build_public --out shared/release/public
    python -m moretta.deploy.synth.build_public --check [NAME ...]

Building takes about five minutes of one core. Results of another machine differ in the last digits. The face
autoencoder differs in every weight, so a check compares its output for drawn faces.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from moretta.shared.core.array_types import Array
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.reproducibility import versions
from moretta.shared.core.terms import Modality
from moretta.shared.core.workers import limit_threads
from moretta.shared.release.anonymizer import anonymizer_names, anonymizer_of, get_anonymizer, pinned_public
from moretta.shared.release.pinned import MANIFEST, SCALE
from moretta.shared.study.schema import Study, parse_study

VERSION = "1"
TOLERANCE = 1e-3
"""Tolerance of a check, as a share of the largest value of an array, or of a network's output."""
_LARGE = 4_096
"""Arrays of more values are stored in 8 bits, where the network has as many weights as an autoencoder."""
_NETWORK_VALUES = 100_000

_PRESETS = tuple({"options": {"preset": preset}} for preset in ("dp-clip", "dp-speaker"))
_CHOICES: dict[str, tuple[dict[str, Any], ...]] = {
    "mfcc-quantizer": ({}, {"options": {"codebook_size": 16}}),
    "clip-quantizer": _PRESETS,
    "clip-statistics": _PRESETS,
    "speaker-normalized": tuple(
        {"form": form, "options": options}
        for form in ("code", "code-tokens")
        for options in ({}, {"codebook_size": 16}, {"code_encoder": "network"})
    ),
}
"""Beside the defaults, which every other anonymizer has alone: presets, encoders, and the small codebook of tests."""

Arrays = Mapping[str, Array]


def studies() -> Iterator[tuple[Modality, Study]]:
    """One study for each set of arrays."""
    for name in anonymizer_names("voice"):
        anonymizer = get_anonymizer("voice", name)
        if anonymizer.public_options and not anonymizer.needs_network:
            for chosen in _CHOICES.get(name, ({},)):
                yield "voice", parse_study({"voice": {"anonymizer": name, **chosen}, "face": {"enabled": False}})
    yield "face", parse_study({"voice": {"enabled": False}, "face": {"anonymizer": "autoencoder"}})


def build(out: Path) -> None:
    """Write every file and the manifest."""
    out.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    for modality, study in studies():
        anonymizer = anonymizer_of(study, modality)
        data = save(_stored(anonymizer.prepare_public(study, print)))
        digest = hashlib.sha256(data).hexdigest()
        known: str | None = next((entry["file"] for entry in entries if entry["sha256"] == digest), None)
        name = known or f"{anonymizer.name}-{digest[:8]}.safetensors"
        write_atomic(out / name, data, mode=0o644)
        entries.append({"choices": anonymizer.public_choices(study), "file": name, "sha256": digest})
    content = {"builder": {"version": VERSION, **versions()}, "arrays": entries}
    write_atomic(out / MANIFEST, json.dumps(content, indent=1).encode() + b"\n", mode=0o644)


def differing(names: tuple[str, ...] = ()) -> list[str]:
    """Build again, and list what differs by more than `TOLERANCE`. `names`: of anonymizers; none means all."""
    found = []
    for modality, study in studies():
        anonymizer = anonymizer_of(study, modality)
        if names and anonymizer.name not in names:
            continue
        pinned, made = pinned_public(study, modality), anonymizer.prepare_public(study, print)
        if pinned is None:
            found.append(f"{anonymizer.public_choices(study)}: not pinned")
            continue
        compared: tuple[Mapping[str, Any], Mapping[str, Any]] = (pinned, made)
        if not anonymizer.is_reproducible:
            compared = (anonymizer.public_strength(study, pinned), anonymizer.public_strength(study, made))
        found += [f"{anonymizer.public_choices(study)}: {name}" for name in _unlike(*compared)]
    return found


def _unlike(pinned: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name in sorted({*pinned, *made})
        if name not in pinned
        or name not in made
        or np.shape(pinned[name]) != np.shape(made[name])
        or float(np.abs(np.subtract(pinned[name], made[name], dtype=np.float64)).max())
        > TOLERANCE * float(np.abs(made[name]).max(initial=0.0))
    ]


def _stored(arrays: Arrays) -> dict[str, Array]:
    """Large arrays of a large network in 8 bits with a factor for each row, which nobody sees in what it draws."""
    stored: dict[str, Array] = {}
    is_network = sum(array.size for array in arrays.values()) > _NETWORK_VALUES
    for name, array in arrays.items():
        if not is_network or array.size < _LARGE:
            stored[name] = np.ascontiguousarray(array)
            continue
        scale = np.abs(array.reshape(len(array), -1)).max(axis=1).astype(np.float32) / np.float32(127)
        steps = array / np.maximum(scale, np.float32(1e-30)).reshape(-1, *[1] * (array.ndim - 1))
        stored |= {name: np.round(steps).astype(np.int8), name + SCALE: scale}
    return stored


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", nargs="*", metavar="NAME")
    options = parser.parse_args()
    limit_threads(1)
    if options.out is not None:
        build(options.out)
    if options.check is not None:
        wrong = differing(tuple(options.check))
        sys.exit("\n".join(wrong) or 0)
