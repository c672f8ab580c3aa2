"""Utility and leaks of a code that sites train: `python tests/benchmarks/code_training_table.py CORPUS`.

Half of a corpus' people are the training speakers of sites with two people each; the code that their sites' rounds and
the server's stage make is the code in which the other half is released. Both halves take their turn, and a line is
their mean. Releases are evaluated and attacked as in speakers_table.py. Noise comes from the operating system.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import speakers_table
from flwr.app import Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from moretta.client.settings import SiteSettings
from moretta.client.training.rounds import RoundRequest, train_round
from moretta.server.grid.site_grid import SiteGrid
from moretta.server.stages.run import RunContext
from moretta.server.stages.train import federate_code
from moretta.shared.audit import measure
from moretta.shared.features.speaker_code import measured_public_speech, train_speaker_code
from moretta.shared.messages import wire
from moretta.shared.study.run_plan import PlannedSite, SimulationPlan
from moretta.shared.study.schema import Study

EACH = 2
"""People of a site."""
LINES: tuple[tuple[str, float | None], ...] = (
    ("speaker", None),
    ("speaker", 0.0),
    ("clip", 0.0),
    ("clip", 8.0),
    ("clip", 4.0),
    ("clip", 1.0),
    ("speaker", 8.0),
    ("speaker", 4.0),
    ("speaker", 1.0),
)
"""Unit and epsilon; None takes the code of public speech."""
HEAD = """| code trained on | unit | epsilon | change taken | emotion UAR | strongest top-1 | likeness | EER | \
top-1, 10 pooled | 20 pooled | chance |
|---|---|---|---|---|---|---|---|---|---|---|"""
_FIGURES = ("uar", "top1", "likeness", "eer", "pooled10", "pooled20", "chance")


def main() -> None:
    """Train, release, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    options = parser.parse_args()
    measure.POOLED = speakers_table.POOLED  # type: ignore[assignment]  # other numbers than the audit's
    name_sender()
    sound = speakers_table.sound_of(options.corpus)
    people = sorted({clip.speaker for clip in sound})
    half = len(people) // 2
    halves = [(people[:half], people[half:]), (people[half:], people[:half])]
    unchanged: dict[int, dict[str, Any]] = {}
    print(HEAD, flush=True)
    for unit, epsilon in LINES:
        found, taken = [], 0
        for number, (known, others) in enumerate(halves):
            code, changed = _code_of(options.corpus, known, unit, epsilon)
            taken += changed
            if changed or number not in unchanged:
                mine = {clip: samples for clip, samples in sound.items() if clip.speaker in others}
                figures = speakers_table.measured(speakers_table.release(speakers_table.Line(), code, mine, list(mine)))
            else:
                figures = unchanged[number]
            if not changed:
                unchanged[number] = figures
            found.append(figures)
        print(_row(unit, epsilon, taken, found), flush=True)


def name_sender() -> None:
    """Flower's messages need the numbers of a run, a node and a task."""
    for name in ("_run_id", "_node_id", "_task_id"):
        setattr(TaskIdentity, name, 1)


def _row(unit: str, epsilon: float | None, taken: int, found: list[dict[str, Any]]) -> str:
    means = [f"{np.mean([one[name] for one in found]):.3f}" for name in _FIGURES]
    if epsilon is None:
        return "| " + " | ".join(["synthetic speech", "-", "-", "-", *means]) + " |"
    figure = f"{epsilon:g}" if epsilon else "none, no noise"
    return "| " + " | ".join(["sites", unit, figure, f"{taken} of {len(found)}", *means]) + " |"


class Sites(SiteGrid):
    """A grid whose sites compute their responses on the spot."""

    def __init__(self, study: Study, settings: dict[str, SiteSettings]) -> None:
        nobody: Any = None
        super().__init__(nobody, 60.0, nodes=dict(enumerate(sorted(settings))))
        self._study, self._settings = study, settings

    def send_and_receive(self, messages: Iterable[Message], **_: Any) -> list[Message]:
        ordered = sorted(messages, key=lambda each: each.metadata.dst_node_id)
        return [Message(self._trained(message), reply_to=message) for message in ordered]

    def _trained(self, message: Message) -> RecordDict:
        name, content = self.nodes[message.metadata.dst_node_id], message.content
        number = int(wire.number_of(content, "server-round"))
        update = train_round(self._settings[name], RoundRequest(self._study, "code", number, wire.arrays_of(content)))
        return RecordDict(
            {
                wire.ARRAYS: wire.arrays_to_record(update.arrays),
                wire.METRICS: MetricRecord({**update.metrics}),
                wire.CONFIG: wire.json_config(site=name, round=number),
            }
        )


def _code_of(corpus: Path, known: list[str], unit: str, epsilon: float | None) -> tuple[speakers_table.Code, bool]:
    """The code of one line, see `trained`."""
    voice = {
        "anonymizer": "speaker-normalized",
        "options": {
            "code_training": "public" if epsilon is None else "federated",
            "code_unit": unit,
            "code_epsilon": epsilon or 0.0,
        },
    }
    study = Study().with_changes(face__enabled=False, voice=voice)
    public = train_speaker_code(
        measured_public_speech(None, in_windows=False), size=5, codebook_size=64, seed=1
    ).to_arrays()
    return (public, False) if epsilon is None else trained(corpus, known, study, public)


def trained(corpus: Path, known: list[str], study: Study, public: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The public arrays that sites of these people make, and whether they are others than before."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = {
            f"site-{start}": SiteSettings(
                name=f"site-{start}",
                home=Path(scratch) / f"site-{start}",
                corpus=corpus,
                speakers=tuple(known[start : start + EACH]),
                held_out=frozenset(),
                simulated_seed=None,
            )
            for start in range(0, len(known), EACH)
        }
        plan = SimulationPlan(
            corpus=corpus,
            corpus_name=corpus.name,
            synthetic=False,
            study=study,
            sites=tuple(PlannedSite(name=s.name, speakers=s.speakers) for s in settings.values()),
            folds=(),
            command="",
        )
        context = RunContext(Path(scratch), plan)
        arrays, _ = federate_code(context, Sites(study, settings), public)
    return arrays, not any("exceeds what" in warning for warning in context.progress.warnings)


if __name__ == "__main__":
    main()
