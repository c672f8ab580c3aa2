"""Costs of a study over the network: `python tests/benchmarks/network_table.py CORPUS OUT [--rounds 10]`.

A server and three sites on loopback, each with its own processes, folder, certificate and a third of the speakers; the
same study in simulation afterwards. Prints seconds, bytes of each site, and the peak memory of each kind of process.
Takes about ten minutes for 500 clips on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e" / "deployment"))

import psutil
from network import MORETTA, Network, Site

from moretta.shared.data.reader import link_or_copy

NAME = "three-sites"
STUDY = """
seed = 1
sites = 3
[face]
enabled = false
[train]
rounds = {rounds}
[audit]
attackers = ["voice-logistic", "voice-forest", "voice-ecapa", "voice-wccn", "campplus", "ge2e"]
bootstrap = 100
inference = false
utility = false
"""
KINDS = ("flower-superlink", "flwr-serverapp", "flwr-clientapp", "flower-supernode", "server up", "site run")
SITES = ("clinic-a", "clinic-b", "clinic-c")


class UserNetwork(Network):
    """The environment that a user has."""

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def share(corpus: Path, folder: Path, number: int) -> Path:
    """A folder of every third speaker's clips."""
    wavs = sorted((corpus / "AudioWAV").iterdir())
    speakers = sorted({path.name[:4] for path in wavs})[number :: len(SITES)]
    for path in wavs:
        if path.name[:4] in speakers:
            link_or_copy(path, folder / "AudioWAV" / path.name)
    header, *rows = (corpus / "VideoDemographics.csv").read_text(encoding="utf-8").splitlines()
    own = [row for row in rows if row.split(",")[0] in speakers]
    (folder / "VideoDemographics.csv").write_text("\n".join([header, *own, ""]), encoding="utf-8")
    return folder


@contextmanager
def watched(peaks: dict[str, int]) -> Iterator[None]:
    """Notes the largest proportional set size of each kind of process below this one, in bytes."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.7):
            for process in psutil.Process().children(recursive=True):
                try:
                    line = " ".join(process.cmdline())
                    kind = next((k for k in KINDS if k in line), None)
                    if kind is not None:
                        peaks[kind] = max(peaks[kind], process.memory_full_info().pss)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def timed(what: str, start: float) -> None:
    print(f"{what:<44}{time.monotonic() - start:8.2f} s", flush=True)


def enroll(network: Network, corpus: Path, number: int) -> None:
    """Token, join and start of one site, by the commands that people use."""
    name = SITES[number]
    string, home = network.root / f"{name}.join", network.root / name
    clips = share(corpus, network.root / f"clips-{name}", number)
    start = time.monotonic()
    string.write_text(network.moretta("server", "token", "--server", str(network.home), "--site", name).strip())
    timed(f"{name}: moretta server token", start)
    start = time.monotonic()
    network.moretta("site", "join", f"@{string}", "--home", str(home), "--corpus", str(clips))
    timed(f"{name}: moretta site join", start)
    site = Site(name, home, clips, dict(network.environment), network.root / "none")
    network.sites.append(site)
    start = time.monotonic()
    site.start()
    site.wait_online()
    timed(f"{name}: moretta site run until online", start)


def reported(name: str, out: Path) -> None:
    """Stages and rounds of a run, from its report."""
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    rounds = [row["seconds"] for row in report["run"]["rounds"]]
    print(f"{name}: {statistics.median(rounds):.2f} s a round (median of {len(rounds)}, worst {max(rounds):.2f})")
    print(f"{name}: stages", {stage["name"]: round(stage["seconds"], 1) for stage in report["run"]["stages"]})
    voice = report["emotion"]["voice"]
    print(f"{name}: emotion UAR {voice['uar']:.3f} [{voice['uar_low']:.3f}, {voice['uar_high']:.3f}]", flush=True)
    for figure in report["headline"][0]["figures"]:
        print(f"{name}: {figure['scenario']} {figure['metric']} {figure['value']:.3f} ({figure['attacker']})")


def deployed(network: Network, corpus: Path, study: str) -> None:
    """The study over the network."""
    start = time.monotonic()
    network.init()
    timed("moretta server init", start)
    start = time.monotonic()
    network.start_server()
    timed("moretta server up until healthy", start)
    for number in range(len(SITES)):
        enroll(network, corpus, number)
    start = time.monotonic()
    run = network.study(NAME, study)
    run.wait()
    timed("moretta study run", start)
    for site in json.loads(network.moretta("server", "sites", "--server", str(network.home), "--json")):
        print(
            f"{site['name']}: {site['calls']} calls, {site['bytes_from']} bytes to the server, {site['bytes_to']} back"
        )
    reported("network", run.out)


def main() -> None:
    """Both ways, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    network, peaks = UserNetwork(arguments.out.resolve()), defaultdict[str, int](int)
    try:
        with watched(peaks):
            deployed(network, arguments.corpus, STUDY.format(rounds=arguments.rounds))
    finally:
        network.stop()
    for kind, peak in sorted(peaks.items()):
        print(f"peak memory of {kind:<24}{peak / 2**20:8.0f} MiB")
    start = time.monotonic()
    words = ["--study", arguments.out / f"{NAME}.toml", "--out", arguments.out / "simulated"]
    command = [MORETTA, "simulate", "--corpus", arguments.corpus, *words]
    subprocess.run(command, env=network.environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    timed("moretta simulate", start)
    reported("simulation", arguments.out / "simulated")


if __name__ == "__main__":
    main()
