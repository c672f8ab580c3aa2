"""Write an anonymizer, release a corpus with it, and attack the release.

    python examples/write_an_anonymizer.py CREMA-D --out muffled

A class is all there is to it. In a package of your own, name its module as an entry point of the group
`moretta.anonymizers`, and every command and every site finds it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import butter, sosfilt

import moretta
from moretta.client.anonymizers.voice_baselines import NoiselessVoice

CUTOFF_HZ = 1_500


@moretta.anonymizer("muffled", modality="voice", version="1")
class Muffled(NoiselessVoice):
    """Takes the high frequencies away. It guarantees nothing, and says so in its statement."""

    mechanism = "low-pass filter"
    why = "what is left of a voice can still be compared"

    def transform(self, samples: Any) -> Any:
        """float32 [samples] at 16 kHz in [-1, 1] -> the same, as it is released."""
        return np.asarray(sosfilt(butter(4, CUTOFF_HZ, fs=16_000, output="sos"), samples), np.float32).clip(-1, 1)


def main(arguments: Sequence[str] | None = None) -> list[moretta.Record]:
    """Release the corpus, attack the release, and print the strongest attacker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path, default=Path("muffled"))
    parser.add_argument("--attackers", nargs="*", default=(), help="names; all by default")
    options = parser.parse_args(arguments)
    study = {"voice": {"anonymizer": "muffled", "form": "waveform"}, "face": {"enabled": False}}
    release = moretta.anonymize(options.corpus, options.out, study)
    rows = moretta.audit(
        release.folder,
        originals=options.corpus,
        out=options.out / "audit",
        attackers=options.attackers,
        everything=False,
    )
    guesses = [row for row in rows if row["metric"] == "top1" and row["subset"] == "all" and row["value"] is not None]
    best = max((row for row in guesses if row["scenario"] == "semi-informed"), key=lambda row: row["value"])
    print(f"{best['attacker']} knows {best['value']:.1%} of the clips' speakers, where chance is {best['chance']:.1%}")
    return rows


if __name__ == "__main__":
    main()
