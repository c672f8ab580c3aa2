"""`make bench` and `make bench-quick`: every benchmark in a process of its own, one table, and a history.

A ratio that is more than 15 % worse than in the last run of the same kind on the same kind of machine is named. The
history is `tests/benchmarks/history.jsonl`, one run a line.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.figures import QUICK_VARIABLE, RESULTS_VARIABLE, Figure, line

FOLDER = Path(__file__).parent
HISTORY = FOLDER / "history.jsonl"
FALLEN = 0.15
PACKAGES = ("flwr", "ray", "torch", "torchaudio", "opacus", "scikit-learn", "numpy", "librosa")

RATIOS: dict[str, list[str]] = {
    "Start of commands, and the demonstration": ["start"],
    "Audit: attackers of voices": ["audit"],
    "A step of DP-SGD": ["dp_sgd"],
    "Voice: tokens, and sound from MFCC": ["voice"],
    "The face autoencoder": ["face"],
    "A corpus of CREMA-D's size: check and release": ["corpus"],
    "Federated rounds: a server and three sites on loopback": ["rounds"],
    "Simulated studies: against a plain loop, Flower's own simulation, and more sites": ["simulation"],
}
"""Title of each benchmark whose rows have targets; NAME of its `bench_NAME.py`, arguments. `--quick` runs these."""

RATES = {
    "Pretrained attackers: clips a second, one thread": ["encoders"],
    "Server: enrollment, relay, long bodies": ["server"],
    "Site: joining, renewal, memory": ["site"],
    "train-face: images a second, both presets": ["train_face"],
}
"""Benchmarks without a target."""


def main() -> int:
    """Run all or those named; returns how many failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("only", nargs="*", help="NAMEs of `bench_NAME.py`; all by default")
    parser.add_argument("--quick", action="store_true", help="smaller inputs, fewer repeats, only rows with targets")
    parser.add_argument("--no-history", action="store_true", help="neither compare with earlier runs nor remember this")
    options = parser.parse_args()
    benchmarks = RATIOS if options.quick else RATIOS | RATES
    figures: list[Figure] = []
    failed = 0
    for title, (script, *arguments) in benchmarks.items():
        if options.only and script not in options.only:
            continue
        print(f"\n## {title}\n", flush=True)
        start = time.perf_counter()
        ended_well, found = _run(script, arguments, quick=options.quick)
        failed += not ended_well
        figures += found
        print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    run = _described(figures, quick=options.quick)
    _print_table(run, figures)
    if not options.no_history:
        for sentence in fallen(figures, _last(run)):
            print(sentence)
        with HISTORY.open("a", encoding="utf-8") as file:
            file.write(json.dumps(run) + "\n")
    return failed


def _run(script: str, arguments: list[str], *, quick: bool) -> tuple[bool, list[Figure]]:
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "results.jsonl"
        environment = {**os.environ, RESULTS_VARIABLE: str(results), QUICK_VARIABLE: "1" if quick else "0"}
        environment["OMP_NUM_THREADS"] = "1"
        command = [sys.executable, "-m", f"tests.benchmarks.bench_{script}", *arguments]
        done = subprocess.run(command, check=False, env=environment, cwd=FOLDER.parents[1])
        rows = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        return done.returncode == 0, [Figure(**json.loads(row)) for row in rows]


def _described(figures: list[Figure], *, quick: bool) -> dict[str, Any]:
    """One run, as the history holds it."""
    installed = {d.name.lower() for d in importlib.metadata.distributions()}
    return {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "rev-parse", "--short", "HEAD"),
        "quick": quick,
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
            "load": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES if name in installed},
        "figures": {f.name: f.value for f in figures},
    }


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=FOLDER)
    return done.stdout.strip()


def _processor() -> str:
    """Name and vector instructions, which decide what is fast here."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    fields = {key.strip(): value.strip() for key, _, value in (text.partition(":") for text in lines)}
    flags = set(fields.get("flags", "").split())
    known = [
        flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if flag in flags
    ]
    return " ".join([fields.get("model name", platform.processor()), *known])


def _last(run: dict[str, Any]) -> dict[str, float]:
    """The last known value of each row, of runs of the same size on the same kind of machine."""
    found: dict[str, float] = {}
    if HISTORY.exists():
        for text in HISTORY.read_text(encoding="utf-8").splitlines():
            earlier = json.loads(text)
            same = all(earlier["machine"][key] == run["machine"][key] for key in ("processor", "cores"))
            if same and earlier["quick"] == run["quick"]:
                found |= earlier["figures"]
    return found


def fallen(figures: list[Figure], earlier: dict[str, float]) -> list[str]:
    """A sentence for each row that is more than 15 % worse than before."""
    found = []
    for figure in figures:
        before = earlier.get(figure.name)
        if before is not None and (share := figure.worse_than(before)) > FALLEN:
            found.append(f"WORSE by {share:.0%}: {figure.what}: {before:.3g} {figure.unit}, now {figure.value:.3g}")
    return found


def _print_table(run: dict[str, Any], figures: list[Figure]) -> None:
    print("\n## All rows with a target\n")
    print(
        f"{run['machine']['processor']}, {run['machine']['cores']} cores, {run['machine']['memory_gib']} GiB, "
        f"load {run['machine']['load']:.1f}, commit {run['commit']}"
    )
    print(", ".join(f"{name} {version}" for name, version in run["versions"].items()))
    print("\nmeasured | against | median (spread) | target | verdict\n--- | --- | --- | --- | ---")
    for figure in figures:
        print(line(figure))


if __name__ == "__main__":
    sys.exit(main())
