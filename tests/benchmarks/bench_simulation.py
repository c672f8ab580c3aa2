"""A simulated study, voice: against one plain PyTorch loop, against Flower's stock simulation, and over more sites.

Every row is about rounds of the stage that trains the voice model; each value is of one round, the first left out. The
plain loop and the stock simulation do the same local training on the same clips, with the same noise, and end at the
same weights as the study. They keep no ledger, check nothing, and write nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from moretta.client.accounting.planning import plan_training
from moretta.client.settings import simulated_site
from moretta.client.training.data import training_set
from moretta.client.training.dp_sgd import SeededRandomness, TrainingExamples, private_steps
from moretta.client.training.rounds import RoundRequest
from moretta.deploy.runtime import processes
from moretta.deploy.runtime.planning import plan_simulation
from moretta.deploy.runtime.run_folder import prepare_folder
from moretta.deploy.runtime.simulation import SimulationProcess
from moretta.server.stages.state import STATE_FILE, load_state
from moretta.server.stages.train import _initial
from moretta.shared.core.workers import cpu_count
from moretta.shared.data.corpora.cremad import SENTENCES
from moretta.shared.data.reader import read_corpus
from moretta.shared.models.emotion import study_model
from moretta.shared.study.run_plan import SimulationPlan
from moretta.shared.study.schema import parse_study
from tests.benchmarks.figures import from_values, quick, record
from tests.conftest import write_tone_corpus

STUDY = """
sites = {sites}
[voice.options]
codebook_size = 16
[face]
enabled = false
[train]
rounds = {rounds}
[split]
folds = 2
[audit]
enabled = false
"""
ROOT = Path(__file__).parents[2]
Weights = dict[str, np.ndarray[Any, np.dtype[Any]]]


@dataclass
class Study:
    """A finished simulation."""

    folder: Path
    seconds: float
    """Wall of the whole command's part: from the order to the outcome."""
    rounds: list[float]
    """Wall of each."""
    server_bytes: int
    """Peak of the process of Flower's engine, shared pages by halves (PSS)."""


def simulated(corpus: Path, folder: Path, *, sites: int, rounds: int) -> Study:
    """Run a study through Moretta's simulation."""
    study = parse_study(tomllib.loads(STUDY.format(sites=sites, rounds=rounds)))
    plan = plan_simulation(read_corpus(corpus), study, "benchmark")
    prepare_folder(folder)
    peak, over = [0], threading.Event()
    with SimulationProcess() as process:
        watcher = threading.Thread(target=_watch, args=(process.mark, peak, over))
        watcher.start()
        outcome = process.run(plan, folder, lambda _: None)
        over.set()
        watcher.join()
    assert outcome.code == 0, outcome.cause
    state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    return Study(folder, outcome.seconds, [row["seconds"] for row in state["training"]["rounds"]], peak[0])


def _watch(mark: str, peak: list[int], over: threading.Event) -> None:
    """The engine is the one process of the run that has Flower's many threads."""
    while not over.wait(0.5):
        for found in processes.marked_processes(mark):
            try:
                if found.num_threads() > 3:
                    peak[0] = max(peak[0], found.memory_full_info().pss)
            except psutil.Error:
                continue


@dataclass
class LocalTraining:
    """Input of one site's training, without a federation."""

    model: Any
    examples: TrainingExamples
    shape: tuple[int, ...]
    plan: Any
    study: Any
    seeds: list[int]

    def train(self, weights: Weights, number: int) -> Weights:
        """One round."""
        network = self.model.build(self.shape)
        network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
        network.train()
        private_steps(
            network,
            self.examples,
            self.plan,
            SeededRandomness(self.seeds[number - 1]),
            max_grad_norm=self.study.privacy.max_grad_norm,
            learning_rate=self.study.train.learning_rate,
            after_step=lambda: None,
        )
        return {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}


def local_trainings(folder: Path) -> list[LocalTraining]:
    """Of every site of a finished study that has clips to train on."""
    plan = SimulationPlan.load(folder)
    study, found = plan.study, []
    for number in range(len(plan.sites)):
        settings = simulated_site(folder, number)
        data = training_set(settings, study, "voice")
        if not len(data):
            continue
        examples = TrainingExamples(
            torch.from_numpy(data.features), torch.from_numpy(data.labels), data.owners(study.privacy.unit)
        )
        seeds = [RoundRequest(study, "voice", n, {}).seed(settings) or 0 for n in range(1, study.train.rounds + 1)]
        steps = plan_training(study, data.cohort.clips_per_speaker, "voice")
        shape = data.features.shape[1:]
        found.append(LocalTraining(study_model(study, "voice"), examples, shape, steps, study, seeds))
    return found


def initial(folder: Path) -> Weights:
    """The study's first weights."""
    run = load_state(folder)
    return dict(_initial(run.context, run.releases, run.public, "voice", run.training))


def plain_loop(folder: Path) -> tuple[list[float], Weights]:
    """Seconds of each round in one loop, and the last weights."""
    sites, weights = local_trainings(folder), initial(folder)
    rounds = SimulationPlan.load(folder).study.train.rounds
    times = []
    for number in range(1, rounds + 1):
        start = time.perf_counter()
        updates = [(site.train(weights, number), len(site.examples.labels)) for site in sites]
        total = sum(count for _, count in updates)
        weights = {
            name: np.asarray(sum(update[name] * (count / total) for update, count in updates)) for name in weights
        }
        times.append(time.perf_counter() - start)
    return times, weights


@cache
def known_trainings(folder: str) -> list[LocalTraining]:
    """Read once in each process."""
    torch.set_num_threads(1)
    return local_trainings(Path(folder))


STOCK = """
import json, sys, time
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from pathlib import Path
from safetensors.torch import save_file
from tests.benchmarks.bench_simulation import initial, known_trainings

folder, rounds, processes, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
sites = len(known_trainings(folder))
client, server = ClientApp(), ServerApp()

@client.train()
def train(message: Message, context: Context) -> Message:
    site = known_trainings(folder)[int(context.node_config["partition-id"])]
    weights = {name: array.numpy() for name, array in message.content["arrays"].items()}
    update = site.train(weights, int(message.content["config"]["server-round"]))
    arrays = ArrayRecord({name: torch.from_numpy(array) for name, array in update.items()})
    metrics = MetricRecord({"num-examples": len(site.examples.labels)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

@server.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
    first = {name: torch.from_numpy(array) for name, array in initial(Path(folder)).items()}
    times = []
    result = strategy.start(
        grid=grid, initial_arrays=ArrayRecord(first), num_rounds=rounds,
        evaluate_fn=lambda number, arrays: times.append(time.perf_counter()),
    )
    save_file(result.arrays.to_torch_state_dict(), out)
    print(json.dumps([b - a for a, b in zip(times, times[1:])]), flush=True)

run_simulation(
    server, client, num_supernodes=sites,
    backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": processes}},
)
"""


def stock(folder: Path) -> tuple[list[float], Weights]:
    """Seconds of each round in Flower's own simulation, and the last weights."""
    from safetensors.numpy import load_file

    rounds, out = SimulationPlan.load(folder).study.train.rounds, folder / "stock.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", STOCK, str(folder), str(rounds), str(cpu_count()), str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    times: list[float] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))
    return times, dict(load_file(out))


def _same(weights: Weights, folder: Path, what: str) -> None:
    from safetensors.numpy import load_file

    ours = load_file(folder / "server" / "checkpoints" / "voice.safetensors")
    for name, array in ours.items():
        assert np.allclose(array, weights[name], rtol=1e-3, atol=1e-4), f"{what} ends at other weights: {name}"


def against_others(scratch: Path, *, sites: int, rounds: int) -> None:
    """Rows: the plain loop, and the stock simulation."""
    corpus = write_tone_corpus(scratch / "tones", speakers=4 * sites, sentences=tuple(SENTENCES))
    ours = simulated(corpus, scratch / "study", sites=sites, rounds=rounds)
    plain, weights = plain_loop(ours.folder)
    _same(weights, ours.folder, "the plain loop")
    other, weights = stock(ours.folder)
    _same(weights, ours.folder, "the stock simulation")
    least = statistics.median(plain) / min(cpu_count(), sites)  # a round's training, spread over all processors
    size = f"{sites} sites x {rounds} rounds, voice"
    seconds = {
        "round_s": statistics.median(ours.rounds[1:]),
        "plain_round_s": statistics.median(plain[1:]),
        "stock_round_s": statistics.median(other[1:]),
        "study_s": ours.seconds,
    }
    record(
        from_values(
            "simulation/plain",
            f"simulated study, {size}",
            "the same training in one plain loop",
            [a / b for a, b in zip(ours.rounds[1:], plain[1:], strict=True)],
            target=1.3,
            better="lower",
            detail=seconds,
        )
    )
    record(
        from_values(
            "simulation/orchestration",
            f"orchestration of a round, {size}",
            "Flower's stock simulation",
            [max(b - least, 0.0) / max(a - least, 1e-3) for a, b in zip(ours.rounds[1:], other[1:], strict=True)],
            target=10.0,
            better="higher",
            detail={"training_s": least},
        )
    )


def more_sites(scratch: Path, *, few: int, many: int, rounds: int) -> None:
    """Rows: memory of the server, and wall of a round, of many sites against few with the same clips."""
    corpus = write_tone_corpus(scratch / "many", speakers=2 * many)
    small = simulated(corpus, scratch / f"{few}-sites", sites=few, rounds=rounds)
    large = simulated(corpus, scratch / f"{many}-sites", sites=many, rounds=rounds)
    what, against = f"{many} simulated sites", f"{few} sites with the same clips"
    record(
        from_values(
            "simulation/memory",
            f"server memory, {what}",
            against,
            [large.server_bytes / small.server_bytes],
            target=1.1,
            better="lower",
            detail={"few_mb": small.server_bytes / 1e6, "many_mb": large.server_bytes / 1e6},
        )
    )
    record(
        from_values(
            "simulation/wall",
            f"wall of a round, {what}",
            against,
            [a / b for a, b in zip(large.rounds[1:], small.rounds[1:], strict=True)],
            target=1.2,
            better="lower",
            detail={"few_s": statistics.median(small.rounds[1:]), "many_s": statistics.median(large.rounds[1:])},
        )
    )


def main() -> None:
    """Print four rows."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if quick():
            against_others(folder, sites=6, rounds=5)
            more_sites(folder, few=2, many=12, rounds=4)
        else:
            against_others(folder, sites=24, rounds=20)
            more_sites(folder, few=4, many=91, rounds=6)


if __name__ == "__main__":
    main()
