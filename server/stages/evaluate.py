"""Stage evaluate: sites test the global models on their held-out speakers and answer with counts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moretta.server.stages.run_context import Run
from moretta.server.stages.site_failures import noting_failure_of
from moretta.server.stages.statement_checks import check_counts, tested_clips
from moretta.shared.audit.report.emotion import ORIGINAL_CLASSES, table_from_counts
from moretta.shared.audit.report.report_schema import EmotionResult, Modality
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.seeds import derive
from moretta.shared.data.clip_names import EMOTIONS
from moretta.shared.messages import wire
from moretta.shared.messages.responses import Evaluated
from moretta.shared.models.reliability import check_reliability, expected_calibration_error

OUTPUTS: tuple[Modality, ...] = ("voice", "face", "fused", "learned")
_Tables = dict[str, npt.NDArray[np.int64]]


def evaluate(run: Run, rates: dict[str, float]) -> None:
    """Gather confusion counts by pseudonymous speaker and score voice, face, the vote and the learned fusion.

    Raises:
        RunError: fewer sites than the study asks for answered.
    """
    from flwr.app import RecordDict

    content = wire.models_to_records(run.weights)
    responses = run.ask(
        "evaluate",
        wire.EVALUATE,
        lambda _: RecordDict({**content, wire.CONFIG: wire.study_config(run.study)}),
        sites=sorted(run.releases),
    )
    tables: dict[str, _Tables] = {}
    failures: dict[str, str] = {}
    for response in responses:
        with noting_failure_of(response.site, failures):
            evaluated = response.of(Evaluated)
            counted = _counts(evaluated)
            bins = _reliability(evaluated, counted)
            left_out = _held_against_release(run, response.site, counted)
            for output, clips in left_out.items():
                run.warn(f"{response.site} left {clips} of its held-out clips out of the test of {output}")
            for output, found in counted.items():
                tables.setdefault(output, {}).update(found)
            for output, table in bins.items():
                run.reliability[output] = run.reliability.get(output, 0) + table
    for site, why in failures.items():
        run.warn(f"{site} did not evaluate: {why}")
        run.miss(site, "evaluate", why)
    run.require_sites(
        [a.site for a in responses if a.site not in failures], "evaluate", "; ".join(sorted(failures.values())[:3])
    )
    run.counts = tables
    for output in OUTPUTS:
        if output in run.absent or (output == "learned" and not run.study.learns_fusion):
            continue
        if tables.get(output):
            run.emotion[output] = _result(run, output, tables)
        else:
            run.absent[output] = "no held-out speaker has a clip of it"
    rates["clips"] = sum(int(t.sum()) for o in OUTPUTS for t in tables.get(o, {}).values())


def _held_against_release(run: Run, site: str, counted: dict[str, _Tables]) -> dict[str, int]:
    """Check that counts are of released clips of held-out speakers; gives how many of these were left out, by output.

    Raises:
        ReleaseError: they are of others, or of more.
    """
    left_out = {}
    tested = [m for m in run.study.modalities if m in run.weights]
    whole = {*tested, *(("fused",) if len(tested) > 1 else ())}
    for output in sorted(whole | counted.keys()):
        left = check_counts(tested_clips(run, site, output), output, counted.get(output, {}))
        if left and output in whole:
            left_out[output] = left
    return left_out


def _counts(evaluated: Evaluated) -> dict[str, _Tables]:
    """Square tables of the size that the output has."""
    sizes = {o: len(EMOTIONS) for o in OUTPUTS} | {f"{o}/3": len(ORIGINAL_CLASSES) for o in OUTPUTS}
    checked: dict[str, _Tables] = {}
    for output, by_speaker in evaluated.counts.items():
        size = sizes[output]
        for speaker, rows in by_speaker.items():
            if {len(rows), *map(len, rows)} != {size}:
                raise ReleaseError(f"a table of {len(rows)} rows for {output!r}", expected=f"{size} x {size}")
            checked.setdefault(output, {})[speaker] = np.array(rows, np.int64)
    return checked


def _reliability(evaluated: Evaluated, counted: dict[str, _Tables]) -> _Tables:
    """How sure the models were on one site's clips, by output, as far as that agrees with its confusion counts.

    Raises:
        ReleaseError: it does not.
    """
    checked: _Tables = {}
    for output, rows in evaluated.reliability.items():
        tables = list(counted.get(output, {}).values())
        clips, right = (sum(int(each) for each in (f(t) for t in tables)) for f in (np.sum, np.trace))
        checked[output] = check_reliability(np.array(rows, np.int64), clips=clips, right=right)
    return checked


def _result(run: Run, output: str, tables: dict[str, _Tables]) -> EmotionResult:
    seed = derive(run.study.seed, "emotion intervals")
    model = _model(run, output)
    whole = table_from_counts(_stack(tables[output]), EMOTIONS, seed=seed, model=model)
    three = tables.get(f"{output}/3")
    original = table_from_counts(_stack(three), ORIGINAL_CLASSES, seed=seed, model=model) if three else None
    bins = run.reliability.get(output)
    ece = None if bins is None else expected_calibration_error(bins)
    return EmotionResult(**whole.model_dump(), three_class=original, ece=ece)


def _stack(tables: _Tables) -> npt.NDArray[np.int64]:
    return np.stack([tables[speaker] for speaker in sorted(tables)])


def _model(run: Run, output: str) -> str:
    study, share = run.study, run.study.voice.weight
    return {
        "voice": study.voice.model,
        "face": study.face.model,
        "fused": f"{share:.0%} voice, {1 - share:.0%} face",
        "learned": f"{study.model_of('fusion')}, trained on releases",
    }[output]
