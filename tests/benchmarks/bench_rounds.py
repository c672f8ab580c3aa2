"""Seconds of a federated round over a real server and three sites on loopback, voice model.

    python -m tests.benchmarks.bench_rounds --before CHECKOUT

`--before` names another checkout with its `.venv`: the same study runs there in the same run, the two in turn, and the
row is the ratio of their rounds. Without it, the row is seconds of a round, against the two that are the aim.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SITES = ("site-00", "site-01", "site-02")
STUDY = """
seed = 4
sites = 3
[voice.options]
codebook_size = 16
[face]
enabled = false
[split]
folds = 2
[train]
rounds = {rounds}
[audit]
enabled = false
"""
AIM_SECONDS, AIM_RATIO = 2.0, 6.0


def rounds_of(root: Path, rounds: int, folder: Path) -> dict[str, Any]:
    """One study over new processes of a checkout, driven by its own tests' helpers in its own interpreter."""
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests/e2e/deployment'}"}
    command = [str(root / ".venv/bin/python"), str(Path(__file__)), "--measure", str(rounds), str(folder), str(root)]
    done = subprocess.run(command, env=environment, cwd=root, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(rounds: int, folder: Path, root: Path) -> dict[str, Any]:
    """Runs in the checkout's interpreter: seconds of each round of a study, the first left out, and its figures."""
    from network import Network  # type: ignore[import-not-found]

    from moretta.shared.study.schema import parse_study

    parse_study(tomllib.loads(STUDY.format(rounds=rounds)))  # before the stewards' threads do, all at once
    spec = importlib.util.spec_from_file_location("tests_conftest", root / "tests/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    corpus = module.write_tone_corpus(folder / "tones", speakers=6)
    network = Network(folder / "network")
    network.root.mkdir()
    try:
        network.init()
        network.start_server()
        for number, name in enumerate(SITES):
            speakers = (1001 + 2 * number, 1002 + 2 * number)
            site = network.join(name, corpus, speakers=speakers, held_out=speakers[1:])
            site.seed(4)
            site.start()
        for site in network.sites:
            site.wait_online()
        run = network.study("rounds", STUDY.format(rounds=rounds)).wait()
        report = run.report()
    finally:
        network.stop()
    times = [row["seconds"] for row in report["run"]["rounds"] if row["stage"] == "train voice"]
    stages = {row["name"]: row["seconds"] for row in report["run"]["stages"]}
    return {"rounds": times[1:], "stages": stages, "uar": report["emotion"]["voice"]["uar"]}


def main() -> None:
    """Print one row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="another checkout with a .venv, to compare with")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        rounds, folder, root = options.measure
        print(json.dumps(measure(int(rounds), Path(folder), Path(root))))
        return
    from tests.benchmarks.figures import from_values, quick, record  # which the other checkout need not have

    rounds = 4 if quick() else 8
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "now").mkdir()
        now = rounds_of(ROOT, rounds, Path(scratch) / "now")
        if options.before is None:
            record(
                from_values(
                    "rounds/seconds",
                    "federated round, server and 3 sites on loopback",
                    "the aim",
                    now["rounds"],
                    target=AIM_SECONDS,
                    better="lower",
                    unit="s",
                )
            )
            return
        (Path(scratch) / "before").mkdir()
        before = rounds_of(options.before.resolve(), rounds, Path(scratch) / "before")
    assert before["uar"] == now["uar"], "both learn the same"
    ratios = [b / a for a, b in zip(now["rounds"], before["rounds"], strict=True)]
    seconds = {"now_s": statistics.median(now["rounds"]), "before_s": statistics.median(before["rounds"])}
    record(
        from_values(
            "rounds/faster",
            "federated round, server and 3 sites on loopback",
            "the same in --before",
            ratios,
            target=AIM_RATIO,
            better="higher",
            detail=seconds,
        )
    )


if __name__ == "__main__":
    main()
