"""Figures of `expression-track` on photographs of real people: `python tests/benchmarks/real_faces_table.py FOLDER`.

FOLDER holds photographs named PERSON_neutral.jpg and PERSON_smiling.jpg, such as the Face Research Lab London Set
(DeBruine and Jones, 2017). With --sheet PICTURE it also writes originals and outputs of a dozen people side by side, to
look at. Needs the weights of `moretta attackers fetch`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from face_meters_table import clip_set, crops_of
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from moretta.shared.audit.metrics.intervals import bootstrap_values
from moretta.shared.audit.pretrained.face_encoders import FACE_ENCODERS
from moretta.shared.audit.pretrained.face_network import ExpressionEvaluator
from moretta.shared.audit.utility.content import MeterInput
from moretta.shared.audit.utility.face_content import landmarks
from moretta.shared.core.array_types import Float32, Float64, Int64, UInt8
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import anonymizer_of
from moretta.shared.study.schema import Study

NOISES: dict[str, dict[str, float]] = {"as released": {}, "without noise": {"clip_noise": 0.0, "frame_noise": 0.0}}
SMALL = 24


def released(photographs: dict[str, UInt8], options: dict[str, float], seed: int) -> dict[str, UInt8]:
    """The pictures that a site would release, by name; a photograph in which no face is found is left out."""
    study = Study.model_validate({"face": {"anonymizer": "expression-track", "options": options}})
    made = anonymizer_of(study, "face").from_study(study, {})
    people = [name.partition("_")[0] for name in photographs]
    made.fit(zip(people, photographs.values(), strict=True), SeededNoise(seed, "fit"))
    noise = [SeededNoise(seed, name) for name in photographs]
    found = made.release(list(photographs.values()), noise, people)
    return {name: out for name, out in zip(photographs, found, strict=True) if isinstance(out, np.ndarray)}


def shown(values: Float64, people: Int64) -> str:
    """Mean and 95 % interval over people."""
    interval = bootstrap_values(values, people, resamples=500, seed=1)
    return f"{values.mean():.3f}" + ("" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]")


def top1(enrolled: Float32, tried: Float32) -> Float64:
    """Of each person, whether the nearest enrolled picture by cosine is theirs."""
    return np.asarray((tried @ enrolled.T).argmax(axis=1) == np.arange(len(tried)), np.float64)


def smile_read(pictures: list[UInt8], smiling: Int64, people: Int64) -> Float64:
    """Whether logistic regression on small grey pictures, trained on other people, is right about each."""
    small = [cv2.resize(cv2.cvtColor(p[0], cv2.COLOR_RGB2GRAY), (SMALL, SMALL)) for p in pictures]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    vectors = np.stack(small).reshape(len(small), -1).astype(np.float64)
    predicted = cross_val_predict(model, vectors, smiling, groups=people, cv=GroupKFold(10))
    return np.asarray(predicted == smiling, np.float64)


def report(label: str, originals: dict[str, UInt8], outputs: dict[str, UInt8]) -> None:
    """Print all figures of one kind of output; only people with both photographs count."""
    whole = sorted(n[:-8] for n in outputs if n.endswith("_neutral") and f"{n[:-8]}_smiling" in outputs)
    names = [f"{person}_{face}" for person in whole for face in ("neutral", "smiling")]
    people, smiling = np.repeat(np.arange(len(whole)), 2), np.tile([0, 1], len(whole))
    sides = {"originals": [originals[n] for n in names], "outputs": [outputs[n] for n in names]}
    print(f"\n{label}: {len(whole)} people, chance of top-1 {1 / len(whole):.3f}")
    for cls in FACE_ENCODERS:
        network = cls.load()
        before, after = (network.embed_many(pictures) for pictures in sides.values())
        others = np.roll(before, 2, axis=0)
        print(f"  {cls.name}: cosine of output and original {shown((before * after).sum(1).astype(float), people)}")
        print(f"    of two originals of two people {shown((before * others).sum(1).astype(float), people)}")
        print(f"    of two originals of one person {(before[::2] * before[1::2]).sum(1).mean():.3f}")
        for what, one, two in (
            ("original, original", before[::2], before[1::2]),
            ("output, output", after[::2], after[1::2]),
            ("original, output", before[::2], after[1::2]),
        ):
            print(f"    top-1, enrolled neutral, tried smiling ({what}) {shown(top1(one, two), people[::2])}")
    reader = ExpressionEvaluator.load()
    for side, pictures in sides.items():
        happy = reader.probabilities(pictures).argmax(axis=1) == EMOTIONS.index("HAP")
        print(f"  smile or not, {side}: face-api {shown((happy == smiling).astype(float), people)}", end=", ")
        print(f"trained on other people's {side} {shown(smile_read(pictures, smiling, people), people)}")
    original, output = (clip_set(names, pictures) for pictures in sides.values())
    row = landmarks(MeterInput({"original": original, "released": output}, seed=0, draws=200))[0]
    print(f"  landmark error {row.value} [{row.low}, {row.high}], of {row.clips} clips; by chance {row.chance}")


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    read = ((path.stem, cv2.imread(str(path))) for path in sorted(given.folder.rglob("*.jpg")))
    photographs = {name: np.ascontiguousarray(bgr[None, :, :, ::-1], np.uint8) for name, bgr in read if bgr is not None}
    originals = crops_of(given.folder, 128, 1.0)
    for label, options in NOISES.items():
        outputs = released(photographs, options, given.seed)
        print(f"{label}: {len(outputs)} of {len(photographs)} photographs released", flush=True)
        report(label, originals, outputs)
        if given.sheet and not options:
            chosen = sorted(outputs)[:: len(outputs) // 12][:12]
            rows = [np.hstack([side[n][0] for n in chosen]) for side in (originals, outputs)]
            cv2.imwrite(str(given.sheet), np.vstack(rows)[:, :, ::-1])


if __name__ == "__main__":
    main()
