"""A study over two sites, of a corpus with labels of its own.

    python examples/two_sites.py clips --classes calm bored --out study

The folder holds `manifest.csv`: one row for each clip, with its file, its speaker, its label and its site.

    audio,speaker,label,site
    a/0001.wav,anna,calm,north
    b/0001.ogg,P-07,bored,south
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import moretta


def main(arguments: Sequence[str] | None = None) -> moretta.Report:
    """Anonymize at each site, train over both, attack what was released, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--classes", nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("study"))
    parser.add_argument("--study", type=Path, help="a study file with everything else; defaults are small")
    options = parser.parse_args(arguments)
    small = {"voice": {"codebook_size": 16}, "face": {"enabled": False}, "train": {"rounds": 2}}
    study = moretta.load_study(options.study or small).with_changes(classes=tuple(options.classes))
    for row in moretta.budget(study, clips=100, speakers=10):
        print(f"{row['what']} of a {row['unit']} (for the {row['audience']}): epsilon {row['epsilon']}")
    report = moretta.simulate(study, corpus=options.clips, out=options.out, notify=print)
    found = report.emotion.voice
    if found is not None:
        print(f"Labels recognised in voice: UAR {found.uar:.1%}, where guessing reaches {found.chance:.1%}")
    print(f"{len(moretta.records(report))} results of attackers; the page is {options.out / 'report.html'}")
    return report


if __name__ == "__main__":
    main()
