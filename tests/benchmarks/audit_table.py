"""Utility and leaks of each anonymizer: `python tests/benchmarks/audit_table.py CORPUS OUT [--faces] [--only NAMES]`.

Anonymizes a corpus in every way of the table below, audits each by all attackers, and prints one line for each. Results
in OUT are not made again, so an interrupted run goes on. Takes about two minutes a line for 500 clips on two
cores; needs the weights of `moretta attackers fetch` for the pretrained attackers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

MORETTA = [sys.executable, "-m", "moretta.deploy.cli.main"]
SIZES = (16, 64, 256)
FORMS = ("tokens", "mfcc", "waveform")


def voice_studies() -> dict[str, str]:
    """Study files by the name of their line."""
    lines = {
        "unprotected": '[voice]\nanonymizer = "none"\nform = "waveform"\n',
        "constant": '[voice]\nanonymizer = "constant"\nform = "mfcc"\n',
        "mcadams": '[voice]\nanonymizer = "mcadams"\nform = "waveform"\n',
    }
    for preset in ("original", "bounded"):
        for size in SIZES:
            for form in FORMS:
                lines[f"{preset} k={size} {form}"] = (
                    f'[voice]\nform = "{form}"\n[voice.options]\npreset = "{preset}"\ncodebook_size = {size}\n'
                )
    for noise in (0.0, 0.5):
        lines[f"speaker-normalized noise={noise:g}"] = (
            f'[voice]\nanonymizer = "speaker-normalized"\n[voice.options]\ncode_noise = {noise}\n'
        )
    for epsilon in (2, 3.5, 5, 20):
        lines[f"emotion-label-rr epsilon={epsilon:g}"] = (
            f'[voice]\nanonymizer = "emotion-label-rr"\n[voice.options]\nlabel_epsilon = {epsilon}\n'
        )
    return {name: text + "[face]\nenabled = false\n" for name, text in lines.items()}


def face_studies() -> dict[str, str]:
    """The same for faces."""
    names = ("none", "constant", "blur", "pixelate", "autoencoder", "expression-track")
    lines = {name: f'[face]\nanonymizer = "{name}"\n[voice]\nenabled = false\n' for name in names}
    for shift, distance in (("supervised", 0.8), ("unsupervised", 0.8), ("supervised", 1.0), ("supervised", 0.5)):
        lines[f"shifted-encoder {shift} {distance:g}"] = (
            '[voice]\nenabled = false\n[face]\nanonymizer = "shifted-encoder"\n'
            f'[face.options]\nshift = "{shift}"\ndistance = {distance}\n'
        )
    return {"unprotected" if name == "none" else name: text for name, text in lines.items()}


def audited(name: str, study: str, corpus: Path, out: Path, workers: int | None = None) -> dict[str, Any]:
    """The content of `audit.json` of one line, made if it is not there."""
    folder = out / name.replace(" ", "-").replace("=", "")
    report = folder / "audit" / "audit.json"
    if not report.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "study.toml").write_text(study, encoding="utf-8")
        if not (folder / "made" / "release").exists():
            _run("anonymize", "--corpus", corpus, "--study", folder / "study.toml", "--out", folder / "made")
        count = () if workers is None else ("--workers", str(workers))
        _run("audit", folder / "made", "--corpus", corpus, "--out", folder / "audit", "--no-inference", *count)
    content: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return content


def line(name: str, content: dict[str, Any]) -> str:
    """One row of the table."""
    rows = [r for r in content["audit"] if not r["invalid"] and r["value"] is not None and r["subset"] == "all"]
    cells = [name, _emotion(content, "semi-informed"), _emotion(content, "ignorant")]
    for scenario in ("ignorant", "semi-informed"):
        cells += [_strongest(rows, scenario, "top1", 1), _strongest(rows, scenario, "eer", 1)]
    cells.append(_strongest(rows, "semi-informed", "top1", 10))
    encoder = "sface" if rows and rows[0]["modality"] == "face" else "campplus"
    cells += [_one(rows, encoder, scenario, "eer") for scenario in ("ignorant", "lazy-informed")]
    return "| " + " | ".join(cells) + " |"


HEAD = """| released | emotion UAR, evaluator trained on releases | ... on originals | ignorant: strongest top-1 | EER \
| semi-informed: strongest top-1 | EER | top-1, 10 clips pooled | encoder as published: EER ignorant | lazy-informed |
|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Make, audit, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--faces", action="store_true", help="face anonymizers instead of voice ones")
    parser.add_argument("--only", nargs="*", default=[], help="lines whose name begins so")
    parser.add_argument("--workers", type=int, help="processes; default one for each CPU")
    options = parser.parse_args()
    print(HEAD, flush=True)
    for name, study in (face_studies() if options.faces else voice_studies()).items():
        if not options.only or name.startswith(tuple(options.only)):
            print(line(name, audited(name, study, options.corpus, options.out, options.workers)), flush=True)


def _run(*arguments: str | Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*MORETTA, *map(str, arguments)], env=environment, stdout=subprocess.DEVNULL, check=True)


def _emotion(content: dict[str, Any], scenario: str) -> str:
    """The best evaluator that was trained on releases (`semi-informed`), or on originals (`ignorant`)."""
    rows = [r for r in content["utility"] if (r["target"], r["metric"], r["kind"]) == ("emotion", "uar", "trained")]
    found = [r for r in rows if r["scenario"] == scenario and r["value"] is not None and not r["invalid"]]
    if not found:
        return "-"
    best = max(found, key=lambda row: float(row["value"]))
    return f"{best['value']:.2f} [{best['low']:.2f}, {best['high']:.2f}] {best['attacker']}"


def _strongest(rows: list[dict[str, Any]], scenario: str, metric: str, pooled: int) -> str:
    found = [r for r in rows if (r["scenario"], r["metric"], r["pooled"]) == (scenario, metric, pooled)]
    if not found:
        return "invalid"
    best = (min if metric == "eer" else max)(found, key=lambda r: r["value"])
    span = f" [{best['low']:.2f}, {best['high']:.2f}]" if best["low"] is not None else ""
    return f"{best['value']:.2f}{span} {best['attacker']}"


def _one(rows: list[dict[str, Any]], attacker: str, scenario: str, metric: str) -> str:
    wanted = (attacker, scenario, metric, 1)
    found = [r for r in rows if (r["attacker"], r["scenario"], r["metric"], r["pooled"]) == wanted]
    return f"{found[0]['value']:.2f}" if found else "-"


if __name__ == "__main__":
    main()
