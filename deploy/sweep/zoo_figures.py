"""A row of the zoo's table from the result of one study: the strongest attacker of every kind, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from moretta.deploy.sweep.jobs import PlannedCell
from moretta.deploy.sweep.sweep_results import Studied
from moretta.server.stages.train import CODE_STAGE
from moretta.shared.audit.inference.twelve_networks import CHOSEN
from moretta.shared.audit.report.zoo_rows import ZooFigure, ZooRow, columns_of
from moretta.shared.audit.result import Result, of_emotion, strongest

_SCENARIOS = {"ignorant": "ignorant", "lazy": "lazy-informed", "semi": "semi-informed"}
_STATED = {
    "speaker_able": ("speaker", "able"),
    "speaker_in_loop": ("speaker", "in_loop"),
    "sex_able": ("sex", "able"),
    "sex_in_loop": ("sex", "in_loop"),
    "sex_paper": ("sex", "of_originals"),
    "sex_fresh_linear": ("sex", "fresh_linear"),
    "sex_fresh_forest": ("sex", "fresh_forest"),
}
"""Column -> the attribute that is read, and the reader by its name in `AdversaryFigures`."""
_METERS = {
    "wer": {"target": "words", "metric": "wer", "scenario": "ignorant"},
    "sentence_right": {"target": "words", "metric": "sentence_accuracy", "scenario": "ignorant"},
    "sentence_read": {"target": "sentence", "metric": "sentence_accuracy", "scenario": "semi-informed"},
    "landmark_error": {"metric": "landmark_error"},
    "landmark_movement": {"metric": "landmark_movement"},
    "ssim": {"metric": "ssim"},
    "identity_cosine": {"metric": "identity_cosine", "attacker": "sface"},
    "expression_agreement": {"metric": "expression_agreement"},
}
"""Which utility result a column is. Cosines of two encoders cannot be compared, so one of them is shown."""
_UNBOUNDED = "no finite guarantee"
_LONGEST = 300


def zoo_row(cell: PlannedCell, half: str, found: Studied | None, why: str) -> ZooRow:
    """All figures of a cell; `why` says why it failed, where nothing was found."""
    system, _, setting = cell.cell.curve.partition(": ")
    (modality,) = cell.study.modalities
    names = columns_of(modality)
    if found is None:
        why = why or "there is no result"
        return ZooRow(
            system=system,
            setting=setting,
            half=half,
            figures={name: ZooFigure(why=why) for name in names},
            failed=why,
        )
    parts = (_utility, _meters, _identity, _inference, _stated, _costs)
    figures = {name: figure for part in parts for name, figure in part(found).items()}
    return ZooRow(
        system=system,
        setting=setting,
        half=half,
        speakers=len({clip.speaker for clip in cell.corpus.clips}),
        clips=found.clips,
        figures={name: figures[name] for name in names},
        faults=tuple(fault for about in ("speaker", "sex") for fault in _readers(found, about).get("faults", ())),
    )


def _utility(found: Studied) -> dict[str, ZooFigure]:
    def used(rows: Iterable[Result]) -> list[Result]:
        return [
            r for r in of_emotion(rows) if not r.is_anchor and (r.scenario == "semi-informed" or r.kind == "pretrained")
        ]

    nobody = "no utility evaluator could run"
    voted = ZooFigure(why=found.not_voted) if found.not_voted else _best(used(found.voted), nobody)
    return {"uar": _best(used(found.utility), nobody), "uar_vote": voted}


def _meters(found: Studied) -> dict[str, ZooFigure]:
    """Figures of content: words, sentence, landmarks, picture. Each has one meter, so none is chosen among several."""
    figures = {}
    for name, of in _METERS.items():
        mine = [r for r in found.utility if of.items() <= r.model_dump(include=set(of)).items()]
        figures[name] = _best(mine, "it was not measured")
    return figures


def _nothing_ran(found: Studied, otherwise: str) -> str:
    """The reason why nobody could be attacked at all, else the reason `otherwise`."""
    return next(iter(found.not_run.values()), otherwise)


def _identity(found: Studied) -> dict[str, ZooFigure]:
    rows = [r for r in found.rows if not r.is_anchor and r.subset == "all"]
    nobody = _nothing_ran(found, "no attacker works in this scenario")
    figures = {}
    for metric in ("top1", "eer"):
        for short, scenario in _SCENARIOS.items():
            mine = [r for r in rows if r.metric == metric and r.scenario == scenario and r.pooled == 1]
            figures[f"{metric}_{short}"] = _best(mine, nobody)
    for count in (3, 10, 30):
        mine = [r for r in rows if r.metric == "top1" and r.pooled == count]
        too_few = _nothing_ran(found, f"no speaker has {count} trial clips")
        figures[f"top1_{count}"] = _best(mine, too_few)
    return figures


def _inference(found: Studied) -> dict[str, ZooFigure]:
    rows = [r for r in found.inference if not r.is_anchor and r.subset == "all"]
    sex = [r for r in rows if r.attack == "attribute" and r.target == "sex"]
    nobody = _nothing_ran(found, "it was not tried")
    best = _best(sex, nobody)
    return {
        "sex": best,
        "sex_twelve": _best([r for r in sex if r.attacker == CHOSEN], best.why or nobody),
        # one metric: a rate at a small rate of false alarms lies farther above its chance by accident
        "membership": _best([r for r in rows if r.attack == "membership" and r.metric in ("auc", "none")], nobody),
        "inversion": _best([r for r in rows if r.attack == "inversion" and r.metric in ("eer", "none")], nobody),
    }


def _readers(found: Studied, about: str) -> dict[str, Any]:
    """Figures of readers of `about` in the statement, at its top or among `readers`; empty where it has none."""
    readers = found.parameters.get("readers")
    stated = {**found.parameters, **(readers if isinstance(readers, dict) else {})}.get(about)
    return stated if isinstance(stated, dict) else {}


def _stated(found: Studied) -> dict[str, ZooFigure]:
    figures = {}
    for name, (about, reader) in _STATED.items():
        stated = _readers(found, about)
        why = "its statement does not have this figure" if stated else f"it trains no adversary of {about}"
        value = stated.get(reader)
        figures[name] = ZooFigure(why=why) if value is None else ZooFigure(value=value, chance=1 / stated["classes"])
    return figures


def _costs(found: Studied) -> dict[str, ZooFigure]:
    def epsilon(value: float | None) -> ZooFigure:
        return ZooFigure(value=value, why=_UNBOUNDED if value is None else "")

    training = found.seconds.get("codebook", 0.0) + found.seconds.get(CODE_STAGE, 0.0)
    release = found.seconds.get("release", 0.0)
    speed = ZooFigure(why="the length of its clips could not be read")
    if release and found.clip_seconds:
        speed = ZooFigure(value=found.clip_seconds / release)
    return {
        "epsilon_clip": epsilon(found.releases.clip),
        "epsilon_speaker": epsilon(found.releases.speaker),
        "training_seconds": ZooFigure(value=training),
        "times_real_time": speed,
    }


def _best(rows: list[Result], nobody: str) -> ZooFigure:
    """The strongest of them; else the reasons of all, or `nobody` where there are none."""
    best = strongest(rows)
    if best is None:
        reasons = dict.fromkeys(r.reason for r in rows if r.reason)
        return ZooFigure(why=("; ".join(reasons) or nobody)[:_LONGEST])
    by = f"{best.attacker} ({best.scenario})" if best.attack == "identity" and best.pooled > 1 else best.attacker
    return ZooFigure(value=best.value, low=best.low, high=best.high, chance=best.chance, by=by)
