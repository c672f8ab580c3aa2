"""The picture of the public people in the documents: `python tests/benchmarks/public_people.py PICTURE`.

A column for each person, a row for each expression: at rest, glad, angry, afraid.
"""

from __future__ import annotations

import sys
from typing import get_args

import cv2
import numpy as np

from moretta.shared.models.head.expression import CHANNELS
from moretta.shared.models.head.portrait import Portrait, PublicPerson

SIDE = 128
SHOWN: tuple[dict[str, float], ...] = (
    {},
    {"lip corners up": 0.9, "jaw open": 0.4, "lower lids tightened": 0.3},
    {"brows lowered": 0.9, "nose wrinkled": 0.7, "jaw open": 0.2},
    {"inner brows raised": 0.9, "outer brows raised": 0.7, "lids raised": 0.8, "jaw open": 0.6},
)


def main() -> None:
    """Write the picture."""
    tracks = [np.array([values.get(name, 0.0) for name in CHANNELS]) for values in SHOWN]
    portraits = [Portrait(SIDE, person) for person in get_args(PublicPerson)]
    picture = np.vstack([np.hstack([portrait(track) for portrait in portraits]) for track in tracks])
    if not cv2.imwrite(sys.argv[1], cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise SystemExit(f"cannot write {sys.argv[1]}")


if __name__ == "__main__":
    main()
