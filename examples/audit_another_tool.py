"""Audit what another tool made of a corpus: how well are people still re-identified?

    python examples/audit_another_tool.py CREMA-D anonymized --out audit

ORIGINALS is a corpus: CREMA-D, RAVDESS names, or a folder with a manifest. RELEASED holds the other tool's files, named
as the originals are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import moretta


def main(arguments: Sequence[str] | None = None) -> list[moretta.Record]:
    """Attack the released files, and print how often each attacker's first guess is the right person."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("originals", type=Path)
    parser.add_argument("released", type=Path)
    parser.add_argument("--out", type=Path, default=Path("audit"))
    parser.add_argument("--attackers", nargs="*", default=(), help="names; all by default")
    options = parser.parse_args(arguments)
    rows = moretta.audit(
        options.released, originals=options.originals, out=options.out, attackers=options.attackers, everything=False
    )
    # The rows are ready for pandas: pandas.DataFrame(rows).
    guesses = [row for row in rows if row["metric"] == "top1" and row["subset"] == "all" and row["value"] is not None]
    for row in sorted(guesses, key=lambda row: -row["value"]):
        print(f"{row['attacker']:>20}  {row['scenario']:<16} {row['value']:6.1%}  (chance {row['chance']:.1%})")
    print(f"The whole audit: {options.out / 'audit.html'}")
    return rows


if __name__ == "__main__":
    main()
